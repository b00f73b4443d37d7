//! A running rota, from a checked configuration to the end of its drain. The main thread is the control thread.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::signals::{Signal, Signals};
use super::sockets::{Taken, open_group};
use crate::admin::{self, AdminListener, CertificateRow, orders::Carried};
use crate::certs::{self, CertStore};
use crate::config::{self, AccessLog, AdminAddress, Config};
use crate::control;
use crate::drain::{self, Drain, Gate, Phase};
use crate::proxy::{self, WorkerOrder};
use crate::routing::operator::Order;
use crate::routing::swap::{self, Publisher, Reader};
use crate::routing::{ListenerPolicy, PassiveReport, Scheme, Snapshot, WorkerId};
use crate::telemetry::access_log::{self, Target, Written};
use crate::telemetry::{Vitals, log};

/// Orders that wait for a worker.
const ORDERS: usize = 64;
/// Ejections that wait for the control plane; a worker that finds it full leaves the server in.
const PASSIVE_REPORTS: usize = 4096;
/// How long the end waits for the access log to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// What is to be run.
pub struct Launch {
    pub config: Config,
    /// Read again on HUP; None: the demo, which has none.
    pub file: Option<PathBuf>,
    pub certificates: CertStore,
    /// Printed once everything listens, before anything else.
    pub opening: Option<String>,
}

/// Runs until a signal ends it. An error at the start is one line on stderr and exit code 1, with nothing started.
pub fn run(launch: Launch) -> ExitCode {
    match Process::start(launch) {
        Ok((process, runtime)) => runtime.block_on(process.serve()),
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
    /// Listeners that are open.
    doors: BTreeMap<Arc<str>, Arc<ListenerPolicy>>,
    workers: Vec<JoinHandle<()>>,
    orders: Vec<mpsc::Sender<WorkerOrder>>,
    log: Option<access_log::AccessLog>,
    written: Option<Written>,
}

type Group = (Arc<ListenerPolicy>, Vec<std::net::TcpListener>);

impl Process {
    /// Everything that can fail, in the order in which a user would want to hear of it.
    fn start(launch: Launch) -> Result<(Process, tokio::runtime::Runtime), String> {
        raise_descriptor_limit();
        let config = Arc::new(launch.config);
        let workers = config.node.workers.get();
        let groups = open_all(&config, workers)?;
        let admin_address = admin_address(&config.admin.address);
        let admin = admin::bind(&admin_address)
            .map_err(|error| format!("admin {admin_address}: {error}"))?;
        let vitals = Arc::new(Vitals::new(workers));
        let (log, written) = open_log(config.access_log.as_ref(), &vitals)?;
        let (publisher, table) = swap::channel(first_snapshot(&config));
        let (certificates, certificate_reader) = swap::channel(launch.certificates);
        let (drain, gate) = drain::channel();
        let (passive_sender, passive) = mpsc::channel(PASSIVE_REPORTS);
        if let Some(opening) = launch.opening {
            // One write, so that nothing comes between; nobody to tell if stdout is closed.
            let _ = std::io::stdout().write_all(opening.as_bytes());
        }
        log::start();
        certificate_reader
            .load()
            .warnings()
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("the control plane's runtime: {error}"))?;
        let mut process = Process {
            config,
            file: launch.file,
            drain,
            gate,
            vitals,
            table,
            publisher: Some(publisher),
            passive: Some(passive),
            certificates,
            certificate_reader,
            admin: Some(admin),
            doors: BTreeMap::new(),
            workers: Vec::new(),
            orders: Vec::new(),
            log,
            written,
        };
        process.start_workers(workers, &passive_sender)?;
        for group in groups {
            process.open_door(group)?;
        }
        Ok((process, runtime))
    }

    fn start_workers(
        &mut self,
        workers: usize,
        passive: &mpsc::Sender<PassiveReport>,
    ) -> Result<(), String> {
        let open = Arc::new(AtomicUsize::new(0));
        for id in 0..workers {
            let (sender, orders) = mpsc::channel(ORDERS);
            let start = proxy::Start {
                id: WorkerId(id),
                workers,
                table: self.table.clone(),
                certificates: self.certificate_reader.clone(),
                vitals: self.vitals.clone(),
                gate: self.gate.clone(),
                passive: passive.clone(),
                log: self.log.as_ref().map(access_log::AccessLog::line_buffer),
                orders,
                open: open.clone(),
            };
            self.workers
                .push(proxy::start(start).map_err(|error| format!("worker {id}: {error}"))?);
            self.orders.push(sender);
        }
        Ok(())
    }

    /// Gives each worker its socket of a group.
    fn open_door(&mut self, (policy, sockets): Group) -> Result<(), String> {
        let name = policy.name.clone();
        let tls = match policy.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(certs::server_config(
                self.certificate_reader.clone(),
                name.clone(),
            )?),
        };
        for (worker, socket) in self.orders.iter().zip(sockets) {
            let order = WorkerOrder::Listen {
                policy: policy.clone(),
                socket,
                tls: tls.clone(),
            };
            worker
                .try_send(order)
                .map_err(|_| format!("listener {name}: a worker takes no orders"))?;
        }
        self.doors.insert(name, policy);
        Ok(())
    }

    async fn serve(mut self) -> ExitCode {
        let handle = match self.start_planes() {
            Ok(handle) => handle,
            Err(error) => {
                eprintln!("rota: {error}");
                self.drain.advance(Phase::Stopped);
                return ExitCode::FAILURE;
            }
        };
        let mut signals = match Signals::watch() {
            Ok(signals) => signals,
            Err(error) => {
                eprintln!("rota: signals can't be watched: {error}");
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

    /// Starts control plane and admin on this thread's runtime.
    fn start_planes(&mut self) -> Result<control::Handle, String> {
        let taken = "taken once, at the start";
        let mut own_addresses: Vec<SocketAddr> =
            self.doors.values().map(|door| door.address).collect();
        if let AdminAddress::Tcp(address) = self.config.admin.address {
            own_addresses.push(address);
        }
        let handle = control::start(control::Inputs {
            config: self.config.clone(),
            publisher: self.publisher.take().expect(taken),
            passive: self.passive.take().expect(taken),
            vitals: self.vitals.clone(),
            own_addresses,
        })?;
        let certificates = self.certificate_reader.clone();
        let state = admin::State {
            node: self.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            table: self.table.clone(),
            certificates: Arc::new(move || certificate_rows(&certificates.load())),
            vitals: self.vitals.clone(),
            gate: self.gate.clone(),
            control: Arc::new(Ordering(handle.clone())),
            token: self
                .config
                .admin
                .token_file
                .clone()
                .map(admin::Token::in_file),
        };
        let listener = self.admin.take().expect(taken);
        admin::start(Arc::new(state), listener).map_err(|error| format!("admin: {error}"))?;
        Ok(handle)
    }

    /// HUP: all of the file but `[node]`, `[admin]` and `[consul]`. A bad file changes nothing.
    async fn reload(&mut self, handle: &control::Handle) {
        match self.try_reload(handle).await {
            Ok(()) => {
                self.vitals.reloads.fetch_add(1, Relaxed);
                tracing::info!("the file was read again and is in force");
            }
            Err(error) => {
                self.vitals.reloads_failed.fetch_add(1, Relaxed);
                tracing::error!("the file was read again and refused, nothing changed: {error}");
            }
        }
    }

    async fn try_reload(&mut self, handle: &control::Handle) -> Result<(), String> {
        let Some(file) = self.file.clone() else {
            return Err("there is no file".to_owned());
        };
        let workers = self.orders.len();
        let owned: Vec<SocketAddr> = self.doors.values().map(|door| door.address).collect();
        let known: BTreeMap<Arc<str>, (SocketAddr, Scheme)> = self
            .doors
            .iter()
            .map(|(name, door)| (name.clone(), (door.address, door.scheme)))
            .collect();
        let read =
            tokio::task::spawn_blocking(move || read_again(&file, &known, &owned, workers)).await;
        let (config, store, groups) = read.map_err(|error| error.to_string())??;
        let log_changed = config.access_log != self.config.access_log;
        let new_log = if log_changed {
            Some(open_log(config.access_log.as_ref(), &self.vitals)?)
        } else {
            None
        };
        store
            .warnings()
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        self.certificates.publish(store);
        let config = Arc::new(config);
        handle.reload(config.clone()).await?;
        self.close_doors(&config, &groups).await;
        for group in groups {
            self.open_door(group)?;
        }
        if let Some((log, written)) = new_log {
            for worker in &self.orders {
                let line_buffer = log.as_ref().map(access_log::AccessLog::line_buffer);
                let _ = worker.send(WorkerOrder::Log(line_buffer)).await;
            }
            (self.log, self.written) = (log, written);
        }
        self.config = config;
        Ok(())
    }

    /// Closes what the new file has no more, or has elsewhere.
    async fn close_doors(&mut self, config: &Config, opened: &[Group]) {
        let gone: Vec<Arc<str>> = self
            .doors
            .keys()
            .filter(|name| {
                let stays = config
                    .listeners
                    .iter()
                    .any(|listener| listener.policy.name == **name);
                !stays || opened.iter().any(|(policy, _)| policy.name == **name)
            })
            .cloned()
            .collect();
        for name in gone {
            self.doors.remove(&name);
            for worker in &self.orders {
                let _ = worker
                    .send(WorkerOrder::Unlisten { name: name.clone() })
                    .await;
            }
        }
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

/// What HUP reads and opens before anything changes.
fn read_again(
    file: &std::path::Path,
    known: &BTreeMap<Arc<str>, (SocketAddr, Scheme)>,
    owned: &[SocketAddr],
    workers: usize,
) -> Result<(Config, CertStore, Vec<Group>), String> {
    let config = config::load(file).map_err(|mistakes| mistakes.to_string())?;
    let store = certs::load(&config.listeners).map_err(|mistakes| one_line(&mistakes))?;
    let mut groups = Vec::new();
    for listener in &config.listeners {
        let policy = &listener.policy;
        if known.get(&policy.name) == Some(&(policy.address, policy.scheme)) {
            continue;
        }
        let taken = if owned.contains(&policy.address) {
            Taken::Ours
        } else {
            Taken::Refuse
        };
        let group = open_group(policy.address, workers, taken);
        groups.push((
            policy.clone(),
            group.map_err(|error| format!("listener {}: {error}", policy.name))?,
        ));
    }
    Ok((config, store, groups))
}

/// Several mistakes in one message.
pub fn one_line<T: std::fmt::Display>(mistakes: &[T]) -> String {
    mistakes
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn open_all(config: &Config, workers: usize) -> Result<Vec<Group>, String> {
    let open = |listener: &config::Listener| {
        let policy = listener.policy.clone();
        let sockets = open_group(policy.address, workers, Taken::Refuse)
            .map_err(|error| format!("listener {}: {error}", policy.name))?;
        Ok((policy, sockets))
    };
    config.listeners.iter().map(open).collect()
}

/// What workers read until the control plane has published its first table.
fn first_snapshot(config: &Config) -> Snapshot {
    Snapshot {
        listeners: config
            .listeners
            .iter()
            .map(|listener| listener.policy.clone())
            .collect(),
        limits: config.tuning.limits.clone(),
        timeouts: config.tuning.timeouts.clone(),
        missing: vec!["the first table".to_owned()],
        ..Snapshot::default()
    }
}

type OpenLog = (Option<access_log::AccessLog>, Option<Written>);

fn open_log(log: Option<&AccessLog>, vitals: &Arc<Vitals>) -> Result<OpenLog, String> {
    let target = match log {
        None => return Ok((None, None)),
        Some(AccessLog::Stdout) => Target::Stdout,
        Some(AccessLog::File(path)) => Target::File(path.clone()),
    };
    let opened = access_log::AccessLog::start(target, vitals.clone());
    let (log, written) = opened.map_err(|error| format!("access log: {error}"))?;
    Ok((Some(log), Some(written)))
}

fn admin_address(address: &AdminAddress) -> admin::Address {
    match address {
        AdminAddress::Tcp(address) => admin::Address::Tcp(*address),
        AdminAddress::Unix(path) => admin::Address::Unix(path.clone()),
    }
}

fn certificate_rows(store: &CertStore) -> Vec<CertificateRow> {
    let rows = store.list().flat_map(|(listener, certificate)| {
        certificate.names().map(|domain| CertificateRow {
            domain,
            listener: listener.to_string(),
            source: certificate.source().display().to_string(),
            not_after: i64::try_from(certificate.not_after_seconds()).unwrap_or(i64::MAX),
        })
    });
    rows.collect()
}

/// Hands an operator's orders from the admin listener to the control plane.
struct Ordering(control::Handle);

impl admin::Control for Ordering {
    fn order(&self, order: Order) -> Carried {
        let handle = self.0.clone();
        Box::pin(async move { handle.order(order).await })
    }
}

/// As many descriptors as the system allows: each connection takes one, and so does each server's.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Left as it is where that is not permitted; accept then pauses when they run out.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
