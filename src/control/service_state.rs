//! One service as the control plane sees it: its entry, its members, what the guard keeps. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::accepts::Accepts;
use super::bounds::{Bounds, Origin};
use super::candidate::{Candidate, Candidates, Resolution};
use super::claims::ServiceClaims;
use super::consul::Instance;
use super::drains::Drains;
use super::event::Effect;
use super::guard::{Alarm, Guard, Terms};
use super::member::{Change, Member};
use super::mistake::{Mistake, UNAVAILABLE};
use super::model::memory::Memory;
use crate::config::{
    ActiveCheck, ConsulService, Guard as GuardPolicy, ServerSource, ServiceEntry, Tags,
};
use crate::routing::{PassiveFault, ServiceName, Unfit, UpstreamKey};

mod doubt;

/// What a service's state follows from besides itself.
pub struct World<'a> {
    pub answers: &'a BTreeMap<ConsulService, Arc<[Instance]>>,
    pub names: &'a BTreeMap<String, Resolution>,
    pub memory: &'a Memory,
    pub bounds: &'a Bounds,
    pub drains: &'a Drains,
    pub accepts: &'a Accepts,
    pub guard: &'a GuardPolicy,
    pub tags: &'a Tags,
    pub alarm: Alarm,
    pub effects: &'a mut Vec<Effect>,
    pub now: SystemTime,
}

impl World<'_> {
    fn terms(&self) -> Terms<'_> {
        Terms {
            policy: self.guard,
            alarm: self.alarm,
            now: self.now,
        }
    }
}

#[derive(Debug)]
pub struct ServiceState {
    entry: Arc<ServiceEntry>,
    origin: &'static str,
    guard: Guard<SocketAddr, Candidate>,
    members: BTreeMap<SocketAddr, Member>,
    names: BTreeSet<String>,
    /// Consul named an instance of it at least once.
    was_named: bool,
    mistakes: Vec<Mistake>,
    claims: Arc<ServiceClaims>,
    revision: u64,
    tls_revision: u64,
}

impl ServiceState {
    pub fn new(entry: ServiceEntry, origin: &'static str) -> ServiceState {
        ServiceState {
            entry: Arc::new(entry),
            origin,
            guard: Guard::default(),
            members: BTreeMap::new(),
            names: BTreeSet::new(),
            was_named: false,
            mistakes: Vec::new(),
            claims: Arc::default(),
            revision: 0,
            tls_revision: 0,
        }
    }

    pub fn entry(&self) -> &Arc<ServiceEntry> {
        &self.entry
    }
    /// `file` or `kv`: where the entry stands.
    pub fn origin(&self) -> &'static str {
        self.origin
    }
    pub fn members(&self) -> &BTreeMap<SocketAddr, Member> {
        &self.members
    }
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
    /// What its instances' tags ask for; the same `Arc` for as long as it is the same.
    pub fn claims(&self) -> &Arc<ServiceClaims> {
        &self.claims
    }
    /// What is watched in Consul if its servers are Consul's to name.
    pub fn watch(&self) -> Option<&ConsulService> {
        match &self.entry.source {
            ServerSource::Consul(watch) => Some(watch),
            ServerSource::Servers(_) => None,
        }
    }
    /// Moves on with each change that a table shows.
    pub fn revision(&self) -> u64 {
        self.revision
    }
    pub fn mark_changed(&mut self, revision: u64) {
        self.revision = revision;
    }
    /// Moves on when files that the TLS settings come from have to be read again.
    pub fn tls_revision(&self) -> u64 {
        self.tls_revision
    }
    pub fn look_again_at_tls(&mut self) {
        self.tls_revision += 1;
    }

    /// Another version of its entry; false if it is the same. Servers of another source are not missed from the old one.
    pub fn replace(&mut self, entry: &ServiceEntry, origin: &'static str) -> bool {
        if *self.entry == *entry && self.origin == origin {
            return false;
        }
        if self.entry.source != entry.source {
            self.guard = Guard::default();
            self.was_named = false;
        }
        self.entry = Arc::new(entry.clone());
        self.origin = origin;
        true
    }

    /// A member's weight as its checks stand; none without a share for its group.
    pub fn weight_of(&self, member: &Member) -> u32 {
        match &self.entry.groups {
            Some(groups) if groups.weight_of(member.facts.group.as_ref()) == 0 => 0,
            Some(_) | None => member.weight(),
        }
    }

    /// How a server is probed: as configured; with nothing configured, by connecting as long as Consul's silence about it is doubted.
    pub fn check_for(&self, member: &Member) -> Option<ActiveCheck> {
        match &self.entry.active {
            Some(check) => Some(check.clone()),
            None if member.is_doubted() => Some(doubt_check()),
            None => None,
        }
    }

    /// Brings members in line with what the sources say now.
    pub fn settle(&mut self, world: &mut World<'_>) -> Change {
        let Some(mut wanted) = self.wanted(world) else {
            return Change::None;
        };
        wanted.mistakes.extend(self.never_named(world));
        let mut change = Change::None;
        if self.mistakes != wanted.mistakes || self.names != wanted.names {
            self.mistakes = wanted.mistakes;
            self.names = wanted.names;
            change = Change::Seen;
        }
        self.follow(wanted.by_address, world).or(change)
    }

    /// None: Consul was not heard of the service yet, what is there stays.
    fn wanted(&self, world: &World<'_>) -> Option<Candidates> {
        match &self.entry.source {
            ServerSource::Servers(servers) => {
                let entry = format!("{}:service {}", self.origin, self.entry.name);
                let (names, bounds) = (world.names, world.bounds);
                let origin = if self.origin == "file" {
                    Origin::File
                } else {
                    Origin::Consul
                };
                Some(Candidates::listed(servers, names, bounds, origin, &entry))
            }
            ServerSource::Consul(watch) => {
                let instances = world.answers.get(watch)?;
                let (names, bounds) = (world.names, world.bounds);
                Some(Candidates::in_consul(
                    &watch.service,
                    instances,
                    names,
                    bounds,
                    world.tags,
                ))
            }
        }
    }

    /// An empty answer is an honest one to Consul, whose likeliest cause is a wrong name or a token that may not read the service.
    /// One after others is the guard's to judge.
    fn never_named(&mut self, world: &World<'_>) -> Option<Mistake> {
        let watch = self.watch()?;
        let is_named = !world.answers.get(watch)?.is_empty();
        if self.was_named || is_named {
            self.was_named = true;
            return None;
        }
        let tag = match &watch.tag {
            Some(tag) => format!(" with tag {tag}"),
            None => String::new(),
        };
        let message = format!(
            "consul names no instance{tag}: is the name right, and may the token read the service?"
        );
        let entry = format!("consul:{}", watch.service);
        Some(Mistake::new(entry, message, UNAVAILABLE))
    }

    fn follow(&mut self, wanted: BTreeMap<SocketAddr, Candidate>, world: &mut World<'_>) -> Change {
        if self.watch().is_none() {
            return self.place(&wanted, &BTreeMap::new(), world);
        }
        let Self { guard, members, .. } = self;
        let was_asked_to_leave = |address: &SocketAddr, _: &_| {
            members.get(address).is_some_and(Member::is_asked_to_leave)
        };
        guard.observe(wanted, was_asked_to_leave, world.terms());
        self.settle_guard(world)
    }

    fn place(
        &mut self,
        present: &BTreeMap<SocketAddr, Candidate>,
        doubted: &BTreeMap<SocketAddr, Candidate>,
        world: &mut World<'_>,
    ) -> Change {
        let source = if self.watch().is_some() {
            "consul"
        } else {
            self.origin
        };
        let before = self.members.len();
        self.members
            .retain(|address, _| present.contains_key(address) || doubted.contains_key(address));
        let mut change = if self.members.len() == before {
            Change::None
        } else {
            Change::Seen
        };
        let is_probed = self.entry.active.is_some();
        let remembered = self.watch().and_then(|watch| world.memory.since(watch));
        for (candidates, is_doubted) in [(present, false), (doubted, true)] {
            for (address, candidate) in candidates {
                let place = self.members.entry(*address);
                let member = place.or_insert_with(|| {
                    change = Change::Seen;
                    Member::new(candidate.clone(), source, world.now)
                });
                if !is_doubted {
                    change = member.takes(candidate.clone(), world.now).or(change);
                }
                let cause = self.guard.cause().filter(|_| is_doubted);
                change = member.doubt(cause, world.now).or(change);
                change = member.remembered(remembered, world.now).or(change);
                if !is_probed && !is_doubted {
                    change = member.forget_probes(world.now).or(change);
                }
            }
        }
        let claims = ServiceClaims::of(self.members.values().map(|member| &member.facts));
        if claims != *self.claims {
            self.claims = Arc::new(claims);
        }
        let name = self.entry.name.clone();
        self.settle_drains(&name, world.drains, world.now)
            .or(change)
    }

    /// Brings the operator's signals in line with the drains of this moment.
    pub fn settle_drains(
        &mut self,
        name: &ServiceName,
        drains: &Drains,
        now: SystemTime,
    ) -> Change {
        let is_idle = drains.is_empty();
        self.members
            .values_mut()
            .fold(Change::None, |change, member| {
                let facts = &member.facts;
                let word = if is_idle {
                    None
                } else {
                    drains.of(name, facts.address, &facts.label, now)
                };
                member.drained(word, now).or(change)
            })
    }

    /// Whether a probe's result says something new about a server.
    pub fn learns_from(&self, address: SocketAddr, result: &Result<(), String>) -> bool {
        let Some(member) = self.members.get(&address) else {
            return false;
        };
        let check = self.check_for(member);
        check.is_some_and(|check| member.learns_from(&check, result))
    }

    /// One probe of one server ended.
    pub fn probed(
        &mut self,
        address: SocketAddr,
        result: &Result<(), String>,
        world: &mut World<'_>,
    ) -> Change {
        let Some(member) = self.members.get(&address) else {
            return Change::None;
        };
        let Some(check) = self.check_for(member) else {
            return Change::None;
        };
        let Some(member) = self.members.get_mut(&address) else {
            return Change::None;
        };
        let mut change = member.probed(&check, result, world.now);
        if self.entry.active.is_some() && member.is_probed_back(&check) {
            for unfit in [Unfit::Refused, Unfit::Failing] {
                let is_back = self.give_back(address, unfit, "our own probes pass", world);
                change = is_back.or(change);
            }
        }
        let is_settled = self
            .members
            .get(&address)
            .is_some_and(|member| member.is_doubted() && member.is_probed_sick());
        if is_settled {
            change = self.settle_guard(world).or(change);
        }
        change
    }

    /// A worker took a server off.
    pub fn ejected(
        &mut self,
        address: SocketAddr,
        unfit: Unfit,
        fault: PassiveFault,
        failures: u32,
        world: &mut World<'_>,
    ) -> Change {
        match self.members.get_mut(&address) {
            // The turn order has to change even if the signal says what it said before.
            Some(member) => member
                .ejected(unfit, fault, failures, world.now)
                .or(Change::Seen),
            None => Change::None,
        }
    }

    /// What came of our own connection to a server whose back-off was over.
    pub fn tried(
        &mut self,
        address: SocketAddr,
        result: &Result<(), String>,
        world: &mut World<'_>,
    ) -> Change {
        match (result, self.members.get_mut(&address)) {
            (Ok(()), _) => self.give_back(address, Unfit::Refused, "it takes connections", world),
            (Err(_), Some(member)) => {
                member.still_refused(world.now);
                Change::None
            }
            (Err(_), None) => Change::None,
        }
    }

    /// Looks at back-offs and at the guard: something's time may be over.
    pub fn wake(&mut self, world: &mut World<'_>) -> Change {
        let mut change = Change::None;
        let addresses: Vec<SocketAddr> = self.members.keys().copied().collect();
        for address in addresses {
            let Some(member) = self.members.get_mut(&address) else {
                continue;
            };
            let (refused, failing) = member.due(world.now);
            if refused {
                let key = self.key(address);
                world.effects.push(Effect::TryConnect { key });
            }
            if failing {
                let is_back =
                    self.give_back(address, Unfit::Failing, "its back-off is over", world);
                change = is_back.or(change);
            }
        }
        self.guard.expire(world.guard, world.now);
        self.settle_guard(world).or(change)
    }

    /// When [`ServiceState::wake`] has something to do next.
    pub fn next_look(&self, guard: &GuardPolicy) -> Option<SystemTime> {
        self.members
            .values()
            .filter_map(Member::next_due)
            .chain(self.guard.next_expiry(guard))
            .min()
    }

    fn give_back(
        &mut self,
        address: SocketAddr,
        unfit: Unfit,
        evidence: &str,
        world: &mut World<'_>,
    ) -> Change {
        let key = self.key(address);
        let Some(member) = self.members.get_mut(&address) else {
            return Change::None;
        };
        if !member.give_back(unfit, evidence, world.now) {
            return Change::None;
        }
        world.effects.push(Effect::GiveBack { key, unfit });
        Change::Seen
    }

    fn key(&self, address: SocketAddr) -> UpstreamKey {
        UpstreamKey {
            service: self.entry.name.clone(),
            address,
        }
    }
}

/// The probe that decides about a server that vanished: a connect each second, two failures in a row.
fn doubt_check() -> ActiveCheck {
    ActiveCheck {
        path: None,
        host: None,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        fall: 2,
        rise: 1,
        status: Vec::new(),
        headers: Vec::new(),
    }
}
