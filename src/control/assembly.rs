//! From the model's decisions to a [`Snapshot`]: parts that did not change are the same `Arc` as before, and an upstream keeps its
//! identity, with all that was measured of it, as long as any table holds it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use self::routes::Routes;
use super::member::Member;
use super::mistake::{IGNORED, LAST_GOOD, Ledger, Mistake, News};
use super::model::Model;
use super::service_state::ServiceState;
use crate::config::{RouteEntry, ServiceEntry, ServiceProtocol};
use crate::dial;
use crate::routing::service;
use crate::routing::{
    Groups, Protocol, RouteTable, Service, ServiceMeasured, ServiceName, Snapshot, TlsToServer,
    Unfit, Upstream, UpstreamKey,
};

mod routes;

/// Everything that outlives a snapshot.
pub struct Assembly {
    files: Files,
    workers: usize,
    node: String,
    generation: u64,
    next_upstream: u64,
    services: BTreeMap<ServiceName, Built>,
    /// Services that routes name and nobody knows: without members, so that they answer 503.
    unknown: HashMap<ServiceName, Arc<Service>>,
    routes: Routes,
    /// Services that are not what they were in the last table.
    changed: HashSet<ServiceName>,
    measured: HashMap<ServiceName, Arc<ServiceMeasured>>,
    tls: HashMap<TlsKey, Trust>,
    /// What was read anew for the table that is being built: once, however many services look again.
    tls_read: HashSet<TlsKey>,
    ledger: Ledger,
    /// Servers that the last table does not have any more.
    gone: Vec<Arc<Upstream>>,
}

/// Whether files that services name are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    Read,
    /// What is built is looked at, never served.
    Ignored,
}

struct Built {
    revision: u64,
    tls_revision: u64,
    entry: Arc<ServiceEntry>,
    upstreams: HashMap<SocketAddr, Arc<Upstream>>,
    protocol: Option<Protocol>,
    mistake: Option<Mistake>,
    service: Arc<Service>,
}

/// What a CA's file held (none: the system's store), and the settings made of it.
struct Trust {
    text: Option<Vec<u8>>,
    config: Arc<rustls::ClientConfig>,
}

/// The CA's file (none: the system's store), and what is spoken.
type TlsKey = (Option<PathBuf>, Alpn);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Alpn {
    Http1,
    H2,
}

impl Alpn {
    fn words(self) -> &'static [&'static [u8]] {
        match self {
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::H2 => &[b"h2"],
        }
    }
}

impl Assembly {
    /// `node` is the LB's own name: it begins each turn order at a place of its own.
    pub fn new(node: &str, workers: usize) -> Assembly {
        Assembly {
            files: Files::Read,
            workers,
            node: node.to_owned(),
            generation: 0,
            next_upstream: 1,
            services: BTreeMap::new(),
            unknown: HashMap::new(),
            routes: Routes::default(),
            changed: HashSet::new(),
            measured: HashMap::new(),
            tls: HashMap::new(),
            tls_read: HashSet::new(),
            ledger: Ledger::default(),
            gone: Vec::new(),
        }
    }

    /// For tables of another machine, whose files are not here.
    pub fn on_paper(node: &str) -> Assembly {
        Assembly {
            files: Files::Ignored,
            ..Assembly::new(node, 1)
        }
    }

    /// The upstream that the newest table has under a key.
    pub fn upstream(&self, key: &UpstreamKey) -> Option<&Arc<Upstream>> {
        self.services.get(&key.service)?.upstreams.get(&key.address)
    }

    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.services
            .values()
            .flat_map(|built| built.upstreams.values())
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name).map(|built| &built.service)
    }

    /// Tells who left the table that was built last. To be called once it is published: before, requests that still go by the one before
    /// it would find nobody.
    pub fn mark_gone(&mut self) {
        for upstream in self.gone.drain(..) {
            upstream.set(Unfit::Gone);
        }
    }

    /// Builds what changed, takes over the rest; says which mistakes are new and which are gone.
    pub fn build(&mut self, model: &Model, now: SystemTime) -> (Snapshot, News) {
        self.mark_gone();
        self.generation += 1;
        self.tls_read.clear();
        self.build_services(model);
        let routes = self.build_routes(model.routes());
        let mut found = model.mistakes();
        found.extend(
            self.services
                .values()
                .filter_map(|built| built.mistake.clone()),
        );
        let (mistakes, news) = self.ledger.date(found, now);
        let file = model.file();
        let tuning = model.tuning();
        let snapshot = Snapshot {
            generation: self.generation,
            discovery: model.discovery().clone(),
            routes,
            services: self
                .services
                .iter()
                .map(|(name, built)| (name.clone(), built.service.clone()))
                .collect(),
            listeners: file
                .listeners
                .iter()
                .map(|listener| listener.policy.clone())
                .collect(),
            limits: tuning.limits.clone(),
            timeouts: tuning.timeouts.clone(),
            mistakes,
            node_drained: model.is_node_drained(now),
            canary: model.canary().cloned(),
            is_trying: model.is_trying(),
            missing: model.missing(),
        };
        (snapshot, news)
    }

    fn build_services(&mut self, model: &Model) {
        let gone: Vec<ServiceName> = self
            .services
            .keys()
            .filter(|name| !model.services().contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(built) = self.services.remove(&name) {
                self.gone.extend(built.upstreams.into_values());
            }
            self.measured.remove(&name);
            self.changed.insert(name);
        }
        for (name, state) in model.services() {
            let is_current = self.services.get(name).is_some_and(|built| {
                built.revision == state.revision()
                    && (built.tls_revision == state.tls_revision() || built.speaks_plainly())
            });
            if !is_current {
                self.changed.insert(name.clone());
                self.build_service(name, state, model);
            }
        }
    }

    fn build_service(&mut self, name: &ServiceName, state: &ServiceState, model: &Model) {
        let before = self.services.remove(name);
        let entry = state.entry();
        let (protocol, mistake) = self.protocol(state, before.as_ref());
        let mut old = before.map(|built| built.upstreams).unwrap_or_default();
        let mut upstreams = HashMap::with_capacity(state.members().len());
        let mut members = Vec::with_capacity(state.members().len());
        for (address, member) in state.members() {
            // A label is part of what others know an upstream by.
            let is_current = |known: &Arc<Upstream>| *known.label() == member.facts.label;
            let upstream = if old.get(address).is_some_and(is_current) {
                old.remove(address)
            } else {
                None
            }
            .unwrap_or_else(|| self.upstream_for(name, member));
            for (unfit, holds) in member.reasons() {
                let _ = if holds {
                    upstream.set(unfit)
                } else {
                    upstream.clear(unfit)
                };
            }
            upstreams.insert(*address, upstream.clone());
            members.push(service::Member {
                upstream,
                host_name: member.facts.host_name.clone(),
                weight: state.weight_of(member),
                standing: member.standing.clone(),
            });
        }
        self.gone.extend(old.into_values());
        if protocol.is_none() {
            // Nothing can be spoken to them without TLS settings.
            members.clear();
        }
        let retry = entry.retry.clone().unwrap_or(model.tuning().retry.clone());
        let mut service = self.service_of(name, entry.pool, retry, members, entry.groups.clone());
        if let Some(protocol) = &protocol {
            service.protocol = protocol.clone();
        }
        service.in_flight = entry.in_flight;
        let built = Built {
            revision: state.revision(),
            tls_revision: state.tls_revision(),
            entry: entry.clone(),
            upstreams,
            protocol,
            mistake,
            service: Arc::new(service),
        };
        self.services.insert(name.clone(), built);
    }

    fn service_of(
        &mut self,
        name: &ServiceName,
        pool: usize,
        retry: crate::routing::RetryPolicy,
        members: Vec<service::Member>,
        groups: Option<Groups>,
    ) -> Service {
        let (turn, reserve) = Service::turns(&members, groups.as_ref());
        let workers = self.workers;
        let measured = self
            .measured
            .entry(name.clone())
            .or_insert_with(|| Arc::new(ServiceMeasured::new(workers)));
        let mut hasher = DefaultHasher::new();
        (&self.node, name.as_str()).hash(&mut hasher);
        Service {
            name: name.clone(),
            members: members.into(),
            turn,
            reserve,
            protocol: Protocol::Http,
            retry,
            pool,
            in_flight: None,
            measured: measured.clone(),
            phase: hasher.finish(),
            groups,
        }
    }

    fn upstream_for(&mut self, service: &ServiceName, member: &Member) -> Arc<Upstream> {
        let key = UpstreamKey {
            service: service.clone(),
            address: member.facts.address,
        };
        let number = self.next_upstream;
        self.next_upstream += 1;
        let label = member.facts.label.clone();
        let upstream = Upstream::new(key, number, label, self.workers);
        for unfit in [Unfit::Refused, Unfit::Failing] {
            if member.is_ejected_for(unfit) {
                upstream.set(unfit);
            }
        }
        Arc::new(upstream)
    }

    /// What is spoken to a service's servers. Settings that cannot be had leave those before them in force, or none.
    fn protocol(
        &mut self,
        state: &ServiceState,
        before: Option<&Built>,
    ) -> (Option<Protocol>, Option<Mistake>) {
        let entry = state.entry();
        let made = match entry.protocol {
            ServiceProtocol::Http => Ok(Protocol::Http),
            ServiceProtocol::H2c => Ok(Protocol::H2c),
            ServiceProtocol::Https | ServiceProtocol::H2 => {
                let is_same = before.filter(|built| {
                    built.tls_revision == state.tls_revision()
                        && built.entry.tls == entry.tls
                        && built.entry.protocol == entry.protocol
                        && built.mistake.is_none()
                });
                match is_same.and_then(|built| built.protocol.clone()) {
                    Some(protocol) => return (Some(protocol), None),
                    None => self.tls_protocol(state, before),
                }
            }
        };
        match made {
            Ok(protocol) => (Some(protocol), None),
            Err(message) => {
                let old = before.and_then(|built| built.protocol.clone());
                let in_force = if old.is_some() { LAST_GOOD } else { IGNORED };
                let key = format!("{}:service {}", state.origin(), entry.name);
                (
                    old,
                    Some(Mistake::new(key, format!("tls: {message}"), in_force)),
                )
            }
        }
    }

    fn tls_protocol(
        &mut self,
        state: &ServiceState,
        before: Option<&Built>,
    ) -> Result<Protocol, String> {
        let entry = state.entry();
        let alpn = match entry.protocol {
            ServiceProtocol::H2 => Alpn::H2,
            ServiceProtocol::Http | ServiceProtocol::Https | ServiceProtocol::H2c => Alpn::Http1,
        };
        let ca = match self.files {
            Files::Read => entry.tls.ca.clone(),
            Files::Ignored => None,
        };
        let key = (ca, alpn);
        let looks_again = before.is_some_and(|built| built.tls_revision != state.tls_revision());
        let is_read = !looks_again || !self.tls_read.insert(key.clone());
        let config = match self.tls.get(&key) {
            Some(trust) if is_read => trust.config.clone(),
            Some(_) | None => self.trust(key)?,
        };
        let server_name = match &entry.tls.server_name {
            Some(name) => Some(dial::tls::server_name(name)?),
            None => None,
        };
        let tls = TlsToServer {
            config,
            server_name,
        };
        Ok(match alpn {
            Alpn::Http1 => Protocol::Https(tls),
            Alpn::H2 => Protocol::H2(tls),
        })
    }

    /// Reads a CA's file. The same text leaves the settings that there are, and with them the sessions that can be resumed.
    fn trust(&mut self, key: TlsKey) -> Result<Arc<rustls::ClientConfig>, String> {
        let before = self.tls.remove(&key);
        let (ca, alpn) = (&key.0, key.1.words());
        let text = ca.as_deref().map(dial::tls::read).transpose()?;
        let known = before.filter(|before| before.text == text);
        let config = match (known, ca, &text) {
            (Some(known), _, _) => known.config,
            (None, Some(path), Some(text)) => dial::tls::trusting(text, &path.display(), alpn)?,
            (None, _, _) => dial::tls::client_config(None, None, alpn)?,
        };
        let trust = Trust {
            text,
            config: config.clone(),
        };
        self.tls.insert(key, trust);
        Ok(config)
    }

    fn build_routes(&mut self, entries: &[Arc<RouteEntry>]) -> RouteTable {
        let mut routes = std::mem::take(&mut self.routes);
        let changed = std::mem::take(&mut self.changed);
        let found = routes.follow(entries, &changed, |name| self.service_for(name));
        self.routes = routes;
        RouteTable::build(found).0
    }

    fn service_for(&mut self, name: &ServiceName) -> Arc<Service> {
        if let Some(built) = self.services.get(name) {
            return built.service.clone();
        }
        if let Some(known) = self.unknown.get(name) {
            return known.clone();
        }
        let retry = crate::routing::RetryPolicy::default();
        let service = Arc::new(self.service_of(name, 0, retry, Vec::new(), None));
        self.unknown.insert(name.clone(), service.clone());
        service
    }
}

impl Built {
    fn speaks_plainly(&self) -> bool {
        match self.entry.protocol {
            ServiceProtocol::Http | ServiceProtocol::H2c => true,
            ServiceProtocol::Https | ServiceProtocol::H2 => false,
        }
    }
}
