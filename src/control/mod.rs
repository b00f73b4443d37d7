//! The control plane: what Consul, the file, probes and operators say becomes one snapshot after another.
//!
//! [`model`] decides and does no I/O; [`task`] feeds it, carries out what it asks for, and publishes what [`assembly`] builds.

pub mod accepts;
pub mod acme;
pub mod assembly;
pub mod bounds;
pub mod canary;
pub mod candidate;
pub mod claims;
pub mod consul;
pub mod documents;
pub mod drains;
mod durable;
pub mod event;
pub mod fleet;
pub mod guard;
pub mod journal;
pub mod kept;
pub mod member;
pub mod mistake;
pub mod model;
pub mod order;
pub mod passive;
pub mod probe;
pub mod resolve;
pub mod rota;
pub mod service_state;
pub mod shift;
pub mod staged;
pub mod store;
pub mod target;
pub mod task;
pub mod word;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::certs::{CertStore, TicketKeys};
use crate::config::{Config, Tags};
use crate::drain::Gate;
use crate::routing::operator::{CertificateOrder, Order, OrderError, ShiftOrder};
use crate::routing::staged::{Staging, StagingAnswer, StagingError};
use crate::routing::swap::Publisher;
use crate::routing::{PassiveReport, Snapshot};
use crate::seal::Keyring;
use crate::telemetry::Vitals;

use self::bounds::Bounds;
use self::canary::{Attendant, Register, Trials};
use self::consul::{Client, Watcher};
use self::fleet::{Fleet, Knowledge, StatusTask, TicketTask};
use self::kept::keeping::Keeping;
use self::kept::table::Table;
use self::kept::{Keeper, Owner};
use self::model::Terms;
use self::staged::{Desk, Heard, Ledger, Recorder};
use self::store::Store;
use self::task::{Link, Outlets, Request, Task};

/// Requests of operators that wait for their turn; more make the asker wait.
const REQUESTS: usize = 64;

/// What the control plane is made of.
pub struct Inputs {
    /// Already checked.
    pub config: Arc<Config>,
    pub publisher: Publisher<Snapshot>,
    /// Ejections by workers, whose bit is already set.
    pub passive: mpsc::Receiver<PassiveReport>,
    pub vitals: Arc<Vitals>,
    /// What the key file holds; None: there is none, and nothing that is secret is shared.
    pub keyring: Option<Arc<Keyring>>,
    /// Of session tickets: the fleet's, once Consul has said them.
    pub ticket_keys: Publisher<TicketKeys>,
    /// Those of the file; they and what is ordered are published together.
    pub own_certificates: CertStore,
    pub certificates: Publisher<CertStore>,
    pub overview: Publisher<acme::Overview>,
    /// How it stands with the pod's load balancers.
    pub fleet: Publisher<Fleet>,
    pub gate: Gate,
    /// Names whose certificates clients wait for.
    pub hurried: mpsc::Receiver<Arc<str>>,
    /// Listeners and admin: never an upstream, whatever `allow_upstreams` says. An unspecified address stands for each local one.
    pub own_addresses: Vec<SocketAddr>,
}

/// Begins on the current tokio runtime: publishes what the file gives at once, then everything that is learnt. It goes on as long as
/// there is a [`Handle`].
///
/// # Errors
/// What is wrong with the settings for Consul (address, TLS files), with the setting's or file's name.
pub fn start(inputs: Inputs) -> Result<Handle, String> {
    let config = &inputs.config;
    let mut terms = Terms {
        bounds: Bounds {
            allow: Vec::new(),
            own: inputs.own_addresses,
            is_local,
        },
        consul_prefix: None,
        certificates: acme::Loaded::Done,
        tags: Tags::default(),
    };
    let mut link = None;
    let mut store = None;
    let mut memory = acme::Memory::default();
    let mut desk = None;
    let (documents, heard) = watch::channel(Heard::default());
    let served = inputs.certificates.reader();
    let (newest, revision) = watch::channel(0);
    let (canaries, attended) = watch::channel(None);
    let (keyring, keyrings) = watch::channel(inputs.keyring.clone());
    if let Some(settings) = &config.consul {
        terms.bounds.allow = settings.allow_upstreams.clone();
        terms.consul_prefix = Some(settings.prefix.clone());
        terms.tags = settings.tags.clone();
        let client = Client::new(settings)?;
        let keeper = keeper_of(config, &settings.prefix, &keyrings, &inputs.vitals);
        let keeping = keeper
            .clone()
            .map(|keeper| Keeping::begin(keeper, inputs.vitals.clone()));
        let recalled = keeping.as_ref().and_then(|one| one.recalled.as_ref());
        memory.pod_id = recalled.and_then(Table::pod_id);
        let tickets = TicketTask::new(
            client.clone(),
            &settings.prefix,
            keyrings,
            inputs.ticket_keys,
            keeper.clone(),
        );
        memory.keeper = keeper;
        tokio::spawn(tickets.run());
        let (watcher, observations) =
            Watcher::start(client.clone(), settings, inputs.vitals.clone());
        let client = client.reporting_with(&watcher);
        let shared = Store::in_consul(
            client.clone(),
            &settings.prefix,
            &config.node.name,
            inputs.keyring.clone(),
        );
        let ledger = Ledger::new(client.clone(), &settings.prefix);
        let register = || Register::new(ledger.clone(), shared.clone(), inputs.vitals.clone());
        desk = Some(Desk::new(
            client.clone(),
            ledger.clone(),
            shared.clone(),
            Trials::new(register()),
            inputs.certificates.reader(),
            inputs.vitals.clone(),
        ));
        let attendant = Attendant {
            register: register(),
            node: config.node.name.clone(),
            table: inputs.publisher.reader(),
            vitals: inputs.vitals.clone(),
            gate: inputs.gate.clone(),
            canaries: attended,
            heard: heard.clone(),
        };
        tokio::spawn(attendant.run());
        tokio::spawn(Recorder::new(ledger, shared.clone(), heard, newest).run());
        store = Some(shared);
        link = Some(Link {
            client,
            watcher,
            observations,
            keeping,
        });
    }
    let (leave, leaving) = mpsc::channel(1);
    let (knowledge, known) = watch::channel(Knowledge::default());
    let (kv_names, names) = watch::channel(Arc::default());
    let (loading, loaded) = watch::channel(acme::Loaded::default());
    let certificates = acme::task::Task::new(acme::Inputs {
        config: inputs.config.clone(),
        keyring: inputs.keyring,
        own: inputs.own_certificates,
        kv_names: names,
        hurried: inputs.hurried,
        publisher: inputs.certificates,
        overview: inputs.overview,
        loaded: loading,
        vitals: inputs.vitals.clone(),
        store: store.clone(),
        memory,
    })?;
    if let Some(store) = store {
        let status = StatusTask::new(fleet::Inputs {
            node: config.node.name.clone(),
            store,
            knowledge: known,
            in_force: certificates.in_force(),
            revision,
            table: inputs.publisher.reader(),
            certificates: served,
            gate: inputs.gate,
            vitals: inputs.vitals.clone(),
            publisher: inputs.fleet,
            leaving,
        });
        tokio::spawn(status.run());
    }
    let (sender, requests) = mpsc::channel(REQUESTS);
    let workers = inputs.vitals.workers.len();
    let outlets = Outlets {
        table: inputs.publisher,
        kv_names,
        documents,
        knowledge,
        canaries,
    };
    terms.certificates = loaded.borrow().clone();
    let task = Task::new(terms, inputs.config, outlets, workers, link, &inputs.vitals);
    tokio::spawn(task.run(requests, inputs.passive, loaded));
    let (of_certificates, asked) = mpsc::channel(REQUESTS);
    tokio::spawn(certificates.run(asked));
    Ok(Handle {
        requests: sender,
        certificates: of_certificates,
        keyring,
        desk,
        leave,
    })
}

/// Without Consul nothing is learnt that is not in the file, or that the store does not keep by itself.
fn keeper_of(
    config: &Config,
    prefix: &str,
    keyrings: &watch::Receiver<Option<Arc<Keyring>>>,
    vitals: &Arc<Vitals>,
) -> Option<Keeper> {
    let state_dir = config.node.state_dir.as_deref()?;
    let owner = Owner {
        node: config.node.name.clone(),
        prefix: prefix.to_owned(),
    };
    Some(Keeper::start(
        state_dir,
        owner,
        keyrings.clone(),
        vitals.clone(),
    ))
}

/// Asks the control plane for something, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    certificates: mpsc::Sender<acme::Request>,
    keyring: watch::Sender<Option<Arc<Keyring>>>,
    /// None: there is no Consul, so there are no documents.
    desk: Option<Arc<Desk>>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
}

impl Handle {
    /// Applies a checked file with what its key and certificate files hold: all of it but `[node]`, `[admin]` and `[consul]`. Ends
    /// once its certificates and its table are published.
    ///
    /// # Errors
    /// The control plane has stopped.
    pub async fn reload(
        &self,
        config: Arc<Config>,
        keyring: Option<Arc<Keyring>>,
        own_certificates: CertStore,
    ) -> Result<(), String> {
        let (done, published) = oneshot::channel();
        let file = acme::Order {
            config: config.clone(),
            keyring: keyring.clone(),
            own: own_certificates,
            done,
        };
        self.keyring.send_replace(keyring);
        let (answer, answered) = oneshot::channel();
        let stopped = || "the control plane has stopped".to_owned();
        let file = acme::Request::File(Box::new(file));
        self.certificates.send(file).await.map_err(|_| stopped())?;
        published.await.map_err(|_| stopped())?;
        self.requests
            .send(Request::Reload(config, answer))
            .await
            .map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())
    }

    /// Carries out an operator's order; gives what was done, in words. For this LB it is in force when this ends; for the pod it is
    /// written, and each LB follows as it hears of it.
    ///
    /// # Errors
    /// An unknown target, with the nearest known name; no Consul for what reaches for the pod.
    pub async fn order(&self, order: Order) -> Result<String, OrderError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(Request::Order(order, answer))
            .await
            .map_err(|_| OrderError::Stopped)?;
        answered.await.unwrap_or(Err(OrderError::Stopped))
    }
}

impl Handle {
    /// Changes the shares of a service's groups in its document; gives what was written, in words. Each LB follows as it hears of it.
    ///
    /// # Errors
    /// A service or group that nobody knows; one without a document, or whose text cannot be changed; no Consul.
    pub async fn shift(&self, order: ShiftOrder) -> Result<String, OrderError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.send(Request::Shift(order, answer)).await;
        sent.map_err(|_| OrderError::Stopped)?;
        let shift = answered.await.unwrap_or(Err(OrderError::Stopped))?;
        let no_consul = || OrderError::NoConsul("there is no [consul]".into());
        let desk = self.desk.clone().ok_or_else(no_consul)?;
        // Who asked may go: what was begun is written to its end.
        let writing = tokio::spawn(async move { desk.shift(&shift).await });
        writing.await.unwrap_or(Err(OrderError::Stopped))
    }

    /// Carries out an operator's order about certificates; gives what was done or begun, in words.
    ///
    /// # Errors
    /// A name that no certificate is ordered for; what the store or the CA says against it.
    pub async fn order_certificate(&self, order: CertificateOrder) -> Result<String, OrderError> {
        let (answer, answered) = oneshot::channel();
        let request = acme::Request::Operator(order, answer);
        let sent = self.certificates.send(request).await;
        sent.map_err(|_| OrderError::Stopped)?;
        answered.await.unwrap_or(Err(OrderError::Stopped))
    }
}

impl Handle {
    /// Tells the pod that this load balancer ends on purpose, and gives back what goes with it. Ends at once where there is no pod; else
    /// when Consul has answered.
    pub async fn leave(&self) {
        let (done, told) = oneshot::channel();
        if self.leave.send(done).await.is_ok() {
            let _ = told.await;
        }
    }
}

impl Handle {
    /// Carries out what an operator asks about staged documents.
    ///
    /// # Errors
    /// Mistakes in them; what somebody else wrote meanwhile; no Consul.
    pub async fn stage(&self, staging: Staging) -> Result<StagingAnswer, StagingError> {
        let Some(desk) = self.desk.clone() else {
            return Err(StagingError::NoConsul(
                "there is no [consul], so there are no documents".into(),
            ));
        };
        let task = self.requests.clone();
        // Who asked may go: what was begun is written to its end.
        let answering = tokio::spawn(async move { desk.answer(staging, &task).await });
        answering.await.unwrap_or(Err(StagingError::Stopped))
    }
}

/// Whether a socket of this process, bound to `own`, is what answers at `address`.
pub fn is_at(own: SocketAddr, address: SocketAddr) -> bool {
    bounds::covers(own, address, is_local)
}

/// Whether an address is this machine's: only then is it what the kernel would speak to it from. Not asked by binding to it, which
/// `net.ipv4.ip_nonlocal_bind` lets succeed with any address.
fn is_local(ip: IpAddr) -> bool {
    let own_end = || -> std::io::Result<IpAddr> {
        let any: IpAddr = match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 1))?; // nothing is sent
        Ok(socket.local_addr()?.ip())
    };
    ip.is_loopback() || own_end().is_ok_and(|own| own == ip)
}

#[cfg(test)]
mod local {
    use super::is_local;

    #[test]
    fn an_address_is_the_machines_if_it_speaks_to_it_from_there() {
        for (ip, expected) in [("127.0.0.1", true), ("::1", true), ("192.0.2.1", false)] {
            assert_eq!(is_local(ip.parse().unwrap()), expected, "{ip}");
        }
        // What this machine speaks from, wherever it is: no other test sees an address that is not loopback.
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        if socket.connect(("192.0.2.1", 1)).is_ok() {
            assert!(is_local(socket.local_addr().unwrap().ip()));
        }
    }
}
