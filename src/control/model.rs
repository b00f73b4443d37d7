//! The control plane's decisions: events and time go in, what is on the rota comes out. Pure: no I/O, no clock, so that a history
//! of events can be replayed to the same end.
//!
//! The file wins over KV; among documents the lower CreateIndex. Consul's word on a server's health is believed at once, its
//! silence about a server only as far as the guard goes. What is to be done outside comes out as [`Effect`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use self::arriving::Arriving;
use self::memory::Memory;
use self::tagged::TaggedServices;
use self::trial::Trial;
use super::accepts::Accepts;
use super::acme::{KvNames, Loaded};
use super::bounds::Bounds;
use super::candidate::Resolution;
use super::consul::{Blame, Instance, Observation};
use super::documents::Documents;
use super::drains::Drains;
use super::event::{Effect, Event};
use super::guard::Alarm;
use super::member::Change;
use super::mistake::Mistake;
use super::service_state::{ServiceState, World};
use super::word::Word;
use crate::config::{Config, ConsulService, RouteEntry, Tags, Tuning};
use crate::routing::operator::Order;
use crate::routing::{Discovery, ServiceName, Unfit, UpstreamKey};

mod alarm;
mod arriving;
pub mod memory;
mod merge;
mod mistakes;
mod readiness;
mod rehearsal;
mod tagged;
mod trial;
mod trouble;

pub use arriving::{DANGLING_AT_MOST, MARKED_AT_MOST};
pub use rehearsal::Rehearsal;
pub use trial::FOLLOWED_AT_MOST;

/// What never changes while the process runs.
#[derive(Clone, Debug)]
pub struct Terms {
    pub bounds: Bounds,
    /// The prefix of `[consul]`; None: there is no Consul.
    pub consul_prefix: Option<String>,
    /// Whether those that were ordered before are served: an LB that joins has every certificate before it is ready.
    pub certificates: Loaded,
    /// Which tags make routes, and of which hosts.
    pub tags: Tags,
}

pub struct Model {
    terms: Terms,
    file: Arc<Config>,
    documents: Documents,
    arriving: Arriving,
    trial: Trial,
    drains: Drains,
    accepts: Accepts,
    alarm: Alarm,
    tuning: Tuning,
    answers: BTreeMap<ConsulService, Arc<[Instance]>>,
    names: BTreeMap<String, Resolution>,
    services: BTreeMap<ServiceName, ServiceState>,
    routes: Vec<Arc<RouteEntry>>,
    routes_revision: u64,
    /// What is wrong between the services of file, documents and tags, and between their routes.
    claims: Vec<Mistake>,
    route_claims: Vec<Mistake>,
    tagged: TaggedServices,
    kv_names: Arc<KvNames>,
    /// When to look at a service again; None: at the drains, and at tags that were heard of. Entries that time overtook are harmless.
    timers: BTreeSet<(SystemTime, Option<ServiceName>)>,
    /// Watches that fail: whose fault it is, and what.
    failing: BTreeMap<String, (Blame, String)>,
    discovery: Arc<Discovery>,
    effects: Vec<Effect>,
    memory: Memory,
    /// What is wrong with files that are kept.
    troubles: Vec<Mistake>,
    revision: u64,
    was_ready: bool,
}

impl Model {
    pub fn new(terms: Terms, file: Arc<Config>, now: SystemTime) -> Model {
        let prefix = terms.consul_prefix.clone().unwrap_or_default();
        let mut model = Model {
            documents: Documents::new(&prefix),
            arriving: Arriving::default(),
            trial: Trial::default(),
            terms,
            drains: Drains::default(),
            accepts: Accepts::default(),
            alarm: Alarm::None,
            tuning: file.tuning.clone(),
            file,
            answers: BTreeMap::new(),
            names: BTreeMap::new(),
            services: BTreeMap::new(),
            routes: Vec::new(),
            routes_revision: 0,
            claims: Vec::new(),
            route_claims: Vec::new(),
            tagged: TaggedServices::default(),
            kv_names: Arc::default(),
            timers: BTreeSet::new(),
            failing: BTreeMap::new(),
            discovery: Arc::default(),
            effects: Vec::new(),
            memory: Memory::default(),
            troubles: Vec::new(),
            revision: 1,
            was_ready: false,
        };
        model.takes_listeners_as_own();
        model.merge(now);
        model
    }

    /// Takes one event. What has to be published afterwards follows from [`Model::revision`].
    pub fn apply(&mut self, event: Event, now: SystemTime) {
        // Not at each probe's: all services are looked at for it.
        let bears_on_alarm = matches!(
            event,
            Event::Consul(_) | Event::Ordered(_) | Event::File(_) | Event::Tick
        );
        match event {
            Event::File(file) => self.take_file(file, now),
            Event::Consul(observation) => self.observe(observation, now),
            Event::Resolved { name, answer } => self.resolved(name, answer, now),
            Event::Probed { key, result } => {
                self.with_service(&key.service, now, |service, world| {
                    service.probed(key.address, &result, world)
                })
            }
            Event::Ejected {
                key,
                unfit,
                fault,
                failures,
            } => self.with_service(&key.service, now, |service, world| {
                service.ejected(key.address, unfit, fault, failures, world)
            }),
            Event::Tried { key, result } => {
                self.with_service(&key.service, now, |service, world| {
                    service.tried(key.address, &result, world)
                })
            }
            Event::Ordered(order) => self.ordered(order, now),
            Event::Certificates(loaded) => {
                self.terms.certificates = loaded;
                self.revision += u64::from(!self.was_ready);
            }
            Event::Remembered(table) => self.remember(*table, now),
            Event::Troubles(troubles) => {
                self.troubles = troubles;
                self.revision += 1;
            }
            Event::Tick => {}
        }
        self.wake(now);
        self.follow_tags(now);
        self.take_arrived(now);
        self.look_at_trial(now);
        // By the services and the tuning that are in force now.
        if bears_on_alarm || self.alarm != Alarm::None {
            self.look_at_alarm(now);
            self.look_at_consul(now);
        }
        self.revision += u64::from(self.memory.loses_patience(now));
        if !self.was_ready && self.missing().is_empty() {
            self.was_ready = true;
            self.revision += 1;
        }
    }

    /// What has to be done outside since this was last asked.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Moves on whenever a table made now would differ from the last one.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_tick(&self) -> Option<SystemTime> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn file(&self) -> &Arc<Config> {
        &self.file
    }
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }
    pub fn services(&self) -> &BTreeMap<ServiceName, ServiceState> {
        &self.services
    }
    /// Each host and path once.
    pub fn routes(&self) -> &[Arc<RouteEntry>] {
        &self.routes
    }
    /// Moves on whenever the routes are others.
    pub fn routes_revision(&self) -> u64 {
        self.routes_revision
    }
    pub fn documents(&self) -> &Documents {
        &self.documents
    }
    /// Watches that fail, by name.
    pub fn failing(&self) -> impl Iterator<Item = &String> {
        self.failing.keys()
    }
    /// The names that KV adds to those that may have certificates; the same `Arc` for as long as they are the same.
    pub fn kv_names(&self) -> &Arc<KvNames> {
        &self.kv_names
    }
    pub fn is_node_drained(&self, now: SystemTime) -> bool {
        self.drains.is_node_drained(now)
    }
    pub fn drains(&self) -> &Drains {
        &self.drains
    }
    pub fn prefix(&self) -> Option<&str> {
        self.terms.consul_prefix.as_deref()
    }

    /// Consul services whose instances are wanted.
    pub fn watches(&self) -> BTreeSet<ConsulService> {
        self.services
            .values()
            .filter_map(|service| service.watch().cloned())
            .collect()
    }

    /// Host names whose addresses are wanted.
    pub fn names(&self) -> BTreeSet<String> {
        self.services
            .values()
            .flat_map(|service| service.names().iter().cloned())
            .collect()
    }

    /// Drops what is known of watches and names that nobody wants. To be called once those who watch were told: what they said
    /// before is not said again.
    pub fn forget_unwanted(&mut self) {
        let watches = self.watches();
        self.answers.retain(|watch, _| watches.contains(watch));
        self.memory.forget_unwanted(&watches);
        let names = self.names();
        self.names.retain(|name, _| names.contains(name));
    }

    fn take_file(&mut self, file: Arc<Config>, now: SystemTime) {
        self.file = file;
        self.revision += 1;
        if self.takes_listeners_as_own() {
            self.settle_those(now, |_| true);
        }
        for service in self.services.values_mut() {
            service.look_again_at_tls();
        }
        self.merge(now);
    }

    /// Addresses that a new file listens on are rota's own too; true if there was a new one.
    fn takes_listeners_as_own(&mut self) -> bool {
        let own = &mut self.terms.bounds.own;
        let before = own.len();
        for listener in &self.file.listeners {
            let address = listener.policy.address;
            if address.port() != 0 && !own.contains(&address) {
                own.push(address);
            }
        }
        own.len() != before
    }

    fn observe(&mut self, observation: Observation, now: SystemTime) {
        match observation {
            Observation::Instances { watch, instances } => {
                let doubted = self.doubted_of(&watch);
                let before = self.answers.insert(watch.clone(), instances.into());
                let both = (
                    before.as_deref().unwrap_or_default(),
                    &*self.answers[&watch],
                );
                let window = self.tuning.guard.window;
                self.memory.hear(&watch, both, &doubted, window, now);
                self.settle_those(now, |service| service.watch() == Some(&watch));
            }
            Observation::Reread {
                watch,
                instances,
                finding,
            } => self.reread(&watch, instances, finding, now),
            Observation::Documents { subtree, documents } => {
                self.observe_documents(subtree, documents, now);
            }
            Observation::Tagged { services, beyond } => self.tagged.observe(services, beyond),
            Observation::Strays(strays) => {
                self.documents.observe_strays(strays);
                self.revision += 1;
            }
            Observation::Failing {
                watch,
                error,
                blame,
            } => {
                let before = self.failing.insert(watch, (blame, error));
                self.shows_failing([Some(blame), before.map(|(blame, _)| blame)]);
            }
            Observation::Recovered { watch } => {
                let before = self.failing.remove(&watch);
                self.shows_failing([None, before.map(|(blame, _)| blame)]);
            }
        }
    }

    fn resolved(
        &mut self,
        name: String,
        answer: Result<Vec<std::net::IpAddr>, String>,
        now: SystemTime,
    ) {
        let known = self.names.entry(name.clone()).or_default();
        let before = known.clone();
        match answer {
            Ok(mut addresses) => {
                addresses.sort();
                addresses.dedup();
                *known = Resolution {
                    addresses,
                    error: None,
                };
            }
            Err(error) => known.error = Some(error),
        }
        if *known == before {
            return;
        }
        self.revision += 1;
        self.settle_those(now, |service| service.names().contains(&name));
    }

    fn ordered(&mut self, order: Order, now: SystemTime) {
        match order {
            Order::Drain {
                target,
                by,
                lasting,
                ..
            } => self
                .drains
                .drain_here(target, Word::begun(by, now, lasting)),
            Order::Undrain { target, .. } => self.drains.undrain_here(&target),
            Order::Accept {
                matter,
                by,
                lasting,
                ..
            } => {
                let word = Word::begun(by, now, Some(lasting));
                self.accepts.accept_here(matter, word, now);
                return self.settle_accepts(now);
            }
        }
        self.settle_drains(now);
    }

    /// Drains changed, or one of them ended.
    fn settle_drains(&mut self, now: SystemTime) {
        self.revision += 1;
        self.drains.forget_over(now);
        if let Some(end) = self.drains.next_end(now) {
            self.timers.insert((end, None));
        }
        let Model {
            services,
            drains,
            revision,
            ..
        } = self;
        for (name, service) in services {
            if service.settle_drains(name, drains, now) == Change::Seen {
                *revision += 1;
                service.mark_changed(*revision);
            }
        }
    }

    /// Runs one change on a service, and notes what came of it.
    fn with_service(
        &mut self,
        name: &ServiceName,
        now: SystemTime,
        change: impl FnOnce(&mut ServiceState, &mut World<'_>) -> Change,
    ) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        let mut world = World {
            answers: &self.answers,
            names: &self.names,
            memory: &self.memory,
            bounds: &self.terms.bounds,
            drains: &self.drains,
            accepts: &self.accepts,
            guard: &self.tuning.guard,
            tags: &self.terms.tags,
            alarm: self.alarm,
            effects: &mut self.effects,
            now,
        };
        let claims = service.claims().clone();
        let changed = change(service, &mut world);
        self.tagged.is_stale |= !Arc::ptr_eq(&claims, service.claims());
        if changed == Change::Seen {
            self.revision += 1;
            service.mark_changed(self.revision);
        }
        if let Some(at) = service.next_look(&self.tuning.guard) {
            self.timers.insert((at, Some(name.clone())));
        }
    }

    fn settle_those(&mut self, now: SystemTime, which: impl Fn(&ServiceState) -> bool) {
        let names: Vec<ServiceName> = self
            .services
            .iter()
            .filter(|(_, service)| which(service))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.with_service(&name, now, ServiceState::settle);
        }
    }

    /// Looks at everything whose time has come.
    fn wake(&mut self, now: SystemTime) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            match self.timers.pop_first() {
                Some((_, Some(name))) => self.with_service(&name, now, ServiceState::wake),
                Some((_, None)) => self.settle_drains(now),
                None => return,
            }
        }
    }

    /// Whether an event may change anything but what time changes: most probes say what is known.
    pub fn learns_from(&self, event: &Event) -> bool {
        match event {
            Event::Tick => false,
            Event::Probed { key, result } => {
                let service = self.services.get(&key.service);
                service.is_some_and(|service| service.learns_from(key.address, result))
            }
            Event::Ejected { key, .. } | Event::Tried { key, .. } => {
                let service = self.services.get(&key.service);
                service.is_some_and(|service| service.members().contains_key(&key.address))
            }
            Event::File(_)
            | Event::Consul(_)
            | Event::Resolved { .. }
            | Event::Ordered(_)
            | Event::Certificates(_)
            | Event::Remembered(_)
            | Event::Troubles(_) => true,
        }
    }

    /// Whether a worker's ejection is known; one that got lost on its way has to be told again.
    pub fn knows_ejection(&self, key: &UpstreamKey, unfit: Unfit) -> bool {
        self.services
            .get(&key.service)
            .and_then(|service| service.members().get(&key.address))
            .is_some_and(|member| member.is_ejected_for(unfit))
    }
}
