//! A running rota, from a checked configuration to the end of its drain. The main thread is the control thread.

mod fleet;
mod launch;
mod planes;
mod reading;
mod reload;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

pub use self::reading::Origin;
use self::reading::Reading;
use super::signals::{Signal, Signals};
use super::sockets::{Group, Opened};
use crate::admin::AdminListener;
use crate::certs::{CertStore, Terms, TicketKeys};
use crate::config::Config;
use crate::control::fleet::Fleet;
use crate::control::{self, acme::Overview};
use crate::drain::{Drain, Gate, Phase};
use crate::proxy::WorkerOrder;
use crate::routing::swap::{Publisher, Reader};
use crate::routing::{ListenerPolicy, PassiveReport, Snapshot};
use crate::seal::Keyring;
use crate::telemetry::Vitals;
use crate::telemetry::access_log::{self, Written};

/// How long the end waits for the access log to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits until the pod knows, whatever Consul does.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits for what blocking threads have under way: a certificate that is being kept is, a file system that hangs never ends.
const BLOCKING_PATIENCE: Duration = Duration::from_secs(2);

/// What is to be run.
pub struct Launch {
    pub signals: Signals,
    pub config: Config,
    /// Read again on HUP; None: the demo, which has no file.
    pub origin: Option<Origin>,
    pub certificates: CertStore,
    /// None: there is no key file.
    pub keyring: Option<Arc<Keyring>>,
    pub opened: Opened,
    /// Printed once signals are taken, before anything else.
    pub opening: Option<String>,
}

/// Runs until a signal ends it. An error at the start is one line on stderr and exit code 1, with nothing started.
pub fn run(launch: Launch) -> ExitCode {
    match Process::start(launch) {
        Ok((process, signals, runtime)) => serve(process, signals, runtime),
        Err(error) => {
            eprintln!("rota: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(process: Process, signals: Signals, runtime: Runtime) -> ExitCode {
    let code = runtime.block_on(process.serve(signals));
    runtime.shutdown_timeout(BLOCKING_PATIENCE);
    code
}

struct Process {
    config: Arc<Config>,
    reading: Reading,
    drain: Drain,
    gate: Gate,
    vitals: Arc<Vitals>,
    table: Reader<Snapshot>,
    publisher: Option<Publisher<Snapshot>>,
    passive: Option<mpsc::Receiver<PassiveReport>>,
    own_certificates: Option<CertStore>,
    certificates: Option<Publisher<CertStore>>,
    overview: Reader<Overview>,
    overview_publisher: Option<Publisher<Overview>>,
    fleet: Reader<Fleet>,
    fleet_publisher: Option<Publisher<Fleet>>,
    certificate_reader: Reader<CertStore>,
    /// Names that clients of workers wait for; there are none before there are workers.
    hurried: Option<mpsc::Receiver<Arc<str>>>,
    keyring: Option<Arc<Keyring>>,
    /// Of session tickets; the control plane publishes them.
    ticket_keys: Reader<TicketKeys>,
    ticket_publisher: Option<Publisher<TicketKeys>>,
    admin: Option<AdminListener>,
    /// Listeners that were opened and that no worker has yet: their connections queue.
    queued: Vec<Group>,
    /// Listeners that workers accept from.
    doors: BTreeMap<Arc<str>, Door>,
    workers: Vec<JoinHandle<()>>,
    orders: Vec<mpsc::Sender<WorkerOrder>>,
    log: Option<access_log::AccessLog>,
    written: Option<Written>,
}

/// A listener that workers accept from.
struct Door {
    policy: Arc<ListenerPolicy>,
    /// None: it speaks plain HTTP.
    tls: Option<DoorTls>,
}

/// Its TLS settings, and the terms they were made by.
struct DoorTls {
    terms: Terms,
    settings: Publisher<rustls::ServerConfig>,
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
        let are_well = loop {
            // Signals are heard while a file is read, however long that takes.
            let signal = tokio::select! {
                signal = signals.next() => signal,
                read = self.reading.end() => {
                    self.reload(read, &handle).await;
                    continue;
                }
            };
            match signal {
                // The demo has no file: its terminal was closed.
                Signal::Reload if self.reading.has_no_file() => break self.cut().await,
                Signal::Reload => self.read_again(),
                Signal::ReopenLogs => self.log.iter().for_each(access_log::AccessLog::reopen),
                Signal::Upgrade => {
                    tracing::warn!("USR2: upgrading in place is not in this version")
                }
                Signal::Drain => break self.drain(&mut signals).await,
                Signal::Stop => break self.cut().await,
            }
        };
        self.stop(handle).await;
        if are_well {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Readiness first, then no more connections, then what is in flight; a second signal cuts it short. False: a worker
    /// panicked.
    async fn drain(&mut self, signals: &mut Signals) -> bool {
        let timeouts = self.table.load().timeouts.clone();
        tracing::info!(delay = ?timeouts.drain_delay, at_most = ?timeouts.drain, "draining");
        self.drain.advance(Phase::Announced);
        if signals.is_stopped_within(timeouts.drain_delay).await {
            return self.cut().await;
        }
        self.drain.advance(Phase::Draining);
        let mut ended = self.workers_end();
        tokio::select! {
            all_well = &mut ended => {
                tracing::info!("drained");
                return all_well.unwrap_or(false);
            }
            stopped = signals.is_stopped_within(timeouts.drain) => {
                let why = if stopped { "by a second signal" } else { "at its time limit" };
                tracing::warn!("the drain was cut short {why}");
            }
        }
        self.drain.advance(Phase::Stopped);
        // The workers end at once now; this waits for their last words.
        ended.await.unwrap_or(false)
    }

    /// Waits for all workers; false: one of them panicked.
    fn workers_end(&mut self) -> tokio::task::JoinHandle<bool> {
        let workers = std::mem::take(&mut self.workers);
        tokio::task::spawn_blocking(move || {
            let ends: Vec<_> = workers.into_iter().map(JoinHandle::join).collect();
            ends.iter().all(Result::is_ok)
        })
    }

    /// Cuts what is in flight. False: a worker panicked.
    async fn cut(&mut self) -> bool {
        self.drain.advance(Phase::Stopped);
        self.workers_end().await.unwrap_or(false)
    }

    async fn stop(mut self, handle: control::Handle) {
        self.drain.advance(Phase::Stopped);
        let _ = tokio::time::timeout(FAREWELL_PATIENCE, handle.leave()).await;
        drop(handle);
        drop(self.log.take());
        if let Some(written) = self.written.take()
            && !written.wait(LOG_PATIENCE)
        {
            tracing::warn!("the access log was not written to its end");
        }
        tracing::info!("stopped");
    }
}
