//! The start: everything that can fail is opened first, then the workers get their sockets.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::reading::Reading;
use super::{Door, DoorTls, Launch, Process};
use crate::app::checked;
use crate::app::secrets::unusable_tokens;
use crate::app::signals::Signals;
use crate::app::sockets::Group;
use crate::certs::{self, CertStore, Terms, TicketKeys, wants};
use crate::config::{AccessLog, Config};
use crate::control::acme::Overview;
use crate::control::fleet::Fleet;
use crate::drain;
use crate::proxy::{self, WorkerOrder};
use crate::routing::swap;
use crate::routing::{PassiveReport, Scheme, Snapshot, WorkerId};
use crate::telemetry::access_log::{self, Target, Written};
use crate::telemetry::{Vitals, log};

/// Orders that wait for a worker.
const ORDERS: usize = 64;
/// Ejections that wait for the control plane; a worker that finds it full leaves the server in.
const PASSIVE_REPORTS: usize = 4096;

impl Process {
    /// Everything that can fail, in the order in which a user would want to hear of it.
    pub(super) fn start(launch: Launch) -> Result<(Process, Signals, Runtime), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("the control plane's runtime: {error}"))?;
        let signals = launch.signals;
        raise_descriptor_limit();
        let config = Arc::new(launch.config);
        let workers = config.node.workers.get();
        let vitals = Arc::new(Vitals::new(workers));
        let (log, written) = open_log(config.access_log.as_ref(), &vitals)?;
        let (publisher, table) = swap::channel(first_snapshot(&config));
        let (certificates, certificate_reader) = swap::channel(CertStore::default());
        let (overview_publisher, overview) = swap::channel(Overview::default());
        let (fleet_publisher, fleet) = swap::channel(Fleet::default());
        let (ticket_publisher, ticket_keys) = swap::channel(TicketKeys::default());
        let (drain, gate) = drain::channel();
        let (passive_sender, passive) = mpsc::channel(PASSIVE_REPORTS);
        if let Some(opening) = launch.opening {
            // One write, so that nothing comes between; nobody to tell if stdout is closed.
            let _ = std::io::stdout().write_all(opening.as_bytes());
        }
        log::start();
        unusable_tokens(&config)
            .iter()
            .for_each(|mistake| tracing::warn!("{mistake}"));
        checked::warnings(&config, &launch.certificates)
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        let mut process = Process {
            config,
            reading: Reading::new(launch.origin),
            drain,
            gate,
            vitals,
            table,
            publisher: Some(publisher),
            passive: Some(passive),
            own_certificates: Some(launch.certificates),
            certificates: Some(certificates),
            certificate_reader,
            overview,
            overview_publisher: Some(overview_publisher),
            fleet,
            fleet_publisher: Some(fleet_publisher),
            hurried: None,
            keyring: launch.keyring,
            ticket_keys,
            ticket_publisher: Some(ticket_publisher),
            admin: Some(launch.opened.admin),
            queued: launch.opened.groups,
            doors: BTreeMap::new(),
            workers: Vec::new(),
            orders: Vec::new(),
            log,
            written,
        };
        process.start_workers(workers, &passive_sender)?;
        Ok((process, signals, runtime))
    }

    fn start_workers(
        &mut self,
        workers: usize,
        passive: &mpsc::Sender<PassiveReport>,
    ) -> Result<(), String> {
        let open = Arc::new(AtomicUsize::new(0));
        let (wants, hurried) = wants::channel();
        self.hurried = Some(hurried);
        let clients = Arc::new(proxy::Clients::default());
        let descriptors = proxy::Descriptors::of_process();
        let (wanted, fitting) = (
            self.config.tuning.limits.connections,
            descriptors.for_clients(),
        );
        if wanted > fitting {
            tracing::warn!(
                "limits.connections = {wanted}: the limit of open files leaves room for {fitting} beside servers' connections; accepting pauses there"
            );
        }
        for id in 0..workers {
            let (sender, orders) = mpsc::channel(ORDERS);
            let start = proxy::Start {
                id: WorkerId(id),
                workers,
                table: self.table.clone(),
                certificates: self.certificate_reader.clone(),
                wants: wants.clone(),
                vitals: self.vitals.clone(),
                gate: self.gate.clone(),
                passive: passive.clone(),
                log: self.log.as_ref().map(access_log::AccessLog::line_buffer),
                orders,
                open: open.clone(),
                clients: clients.clone(),
                descriptors,
            };
            self.workers
                .push(proxy::start(start).map_err(|error| format!("worker {id}: {error}"))?);
            self.orders.push(sender);
        }
        Ok(())
    }

    /// Gives each worker its socket of a group.
    pub(super) async fn open_door(&mut self, (policy, sockets): Group) -> Result<(), String> {
        let name = policy.name.clone();
        let (tls, reader) = match policy.scheme {
            Scheme::Http => (None, None),
            Scheme::Https => {
                let (terms, settings) = self.tls_settings(&name)?;
                let (settings, reader) = swap::channel(settings);
                (Some(DoorTls { terms, settings }), Some(reader))
            }
        };
        for (worker, socket) in self.orders.iter().zip(sockets) {
            let order = WorkerOrder::Listen {
                policy: policy.clone(),
                socket,
                tls: reader.clone(),
            };
            worker
                .send(order)
                .await
                .map_err(|_| format!("listener {name}: a worker takes no orders"))?;
        }
        self.doors.insert(name, Door { policy, tls });
        Ok(())
    }

    /// By the terms that are published now.
    pub(super) fn tls_settings(
        &self,
        listener: &Arc<str>,
    ) -> Result<(Terms, rustls::ServerConfig), String> {
        let (store, keys) = (self.certificate_reader.clone(), self.ticket_keys.clone());
        let terms = store.load().terms(listener).cloned().unwrap_or_default();
        Ok((terms, certs::server_config(store, keys, listener.clone())?))
    }
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

pub(super) type OpenLog = (Option<access_log::AccessLog>, Option<Written>);

pub(super) fn open_log(log: Option<&AccessLog>, vitals: &Arc<Vitals>) -> Result<OpenLog, String> {
    let target = match log {
        None => return Ok((None, None)),
        Some(AccessLog::Stdout) => Target::Stdout,
        Some(AccessLog::File(path)) => Target::File(path.clone()),
    };
    let opened = access_log::AccessLog::start(target, vitals.clone());
    let (log, written) = opened.map_err(|error| format!("access log: {error}"))?;
    Ok((Some(log), Some(written)))
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
