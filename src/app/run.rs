//! A running rota, from a checked configuration to the end of its drain. The main thread is the control thread.

mod launch;
mod planes;
mod reload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::signals::{Signal, Signals};
use super::sockets::{Group, Opened};
use crate::admin::AdminListener;
use crate::certs::CertStore;
use crate::config::Config;
use crate::control;
use crate::drain::{Drain, Gate, Phase};
use crate::proxy::WorkerOrder;
use crate::routing::swap::{Publisher, Reader};
use crate::routing::{ListenerPolicy, PassiveReport, Snapshot};
use crate::telemetry::Vitals;
use crate::telemetry::access_log::{self, Written};

/// How long the end waits for the access log to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// What is to be run.
pub struct Launch {
    pub config: Config,
    /// Read again on HUP; None: the demo, which has none.
    pub file: Option<PathBuf>,
    pub certificates: CertStore,
    pub opened: Opened,
    /// Printed once signals are taken, before anything else.
    pub opening: Option<String>,
}

/// Runs until a signal ends it. An error at the start is one line on stderr and exit code 1, with nothing started.
pub fn run(launch: Launch) -> ExitCode {
    match Process::start(launch) {
        Ok((process, signals, runtime)) => runtime.block_on(process.serve(signals)),
        Err(error) => {
            eprintln!("rota: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Process {
    config: Arc<Config>,
    file: Option<PathBuf>,
    drain: Drain,
    gate: Gate,
    vitals: Arc<Vitals>,
    table: Reader<Snapshot>,
    publisher: Option<Publisher<Snapshot>>,
    passive: Option<mpsc::Receiver<PassiveReport>>,
    certificates: Publisher<CertStore>,
    certificate_reader: Reader<CertStore>,
    admin: Option<AdminListener>,
    /// Listeners that were opened and that no worker has yet: their connections queue.
    queued: Vec<Group>,
    /// Listeners that workers accept from.
    doors: BTreeMap<Arc<str>, Arc<ListenerPolicy>>,
    workers: Vec<JoinHandle<()>>,
    orders: Vec<mpsc::Sender<WorkerOrder>>,
    log: Option<access_log::AccessLog>,
    written: Option<Written>,
}

impl Process {
    async fn serve(mut self, mut signals: Signals) -> ExitCode {
        let handle = match self.start_planes().await {
            Ok(handle) => handle,
            Err(error) => {
                eprintln!("rota: {error}");
                self.drain.advance(Phase::Stopped);
                return ExitCode::FAILURE;
            }
        };
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %self.config.node.name, "serving");
        loop {
            match signals.next().await {
                Signal::Reload => self.reload(&handle).await,
                Signal::ReopenLogs => self.log.iter().for_each(access_log::AccessLog::reopen),
                Signal::Upgrade => {
                    tracing::warn!("USR2: upgrading in place is not in this version")
                }
                Signal::Drain => {
                    self.drain(&mut signals).await;
                    break;
                }
                Signal::Stop => break,
            }
        }
        self.stop(handle).await
    }

    /// Readiness first, then no more connections, then what is in flight; a second signal cuts it short.
    async fn drain(&mut self, signals: &mut Signals) {
        let timeouts = self.table.load().timeouts.clone();
        tracing::info!(delay = ?timeouts.drain_delay, at_most = ?timeouts.drain, "draining");
        self.drain.advance(Phase::Announced);
        if signals.is_stopped_within(timeouts.drain_delay).await {
            return;
        }
        self.drain.advance(Phase::Draining);
        let workers = std::mem::take(&mut self.workers);
        let (sender, finished) = oneshot::channel();
        let joiner = std::thread::spawn(move || {
            let unfinished: Vec<_> = workers
                .into_iter()
                .map(JoinHandle::join)
                .filter(Result::is_err)
                .collect();
            let _ = sender.send(unfinished.len());
        });
        tokio::select! {
            _ = finished => tracing::info!("drained"),
            stopped = signals.is_stopped_within(timeouts.drain) => {
                let why = if stopped { "by a second signal" } else { "at its time limit" };
                tracing::warn!("the drain was cut short {why}");
            }
        }
        self.drain.advance(Phase::Stopped);
        // The workers end at once now; this waits for their last words.
        let _ = tokio::task::spawn_blocking(move || joiner.join()).await;
    }

    async fn stop(mut self, handle: control::Handle) -> ExitCode {
        self.drain.advance(Phase::Stopped);
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            workers.into_iter().all(|worker| worker.join().is_ok())
        })
        .await;
        drop(handle);
        drop(self.log.take());
        if let Some(written) = self.written.take()
            && !written.wait(LOG_PATIENCE)
        {
            tracing::warn!("the access log was not written to its end");
        }
        tracing::info!("stopped");
        if joined.unwrap_or(false) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
