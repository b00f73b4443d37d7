//! What is known from before the start, until Consul's own word replaces it; and what of the present is worth knowing at the next
//! one. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Model;
use crate::config::ConsulService;
use crate::control::candidate::{Candidate, Resolution};
use crate::control::consul::Instance;
use crate::control::kept::table::Table;
use crate::control::service_state::ServiceState;

/// Readiness waits so long for Consul's own word where another one is remembered: with Consul up, an LB is ready by what it says now.
pub const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct Memory {
    /// When Consul was last heard, of what is remembered; None: nothing is.
    heard: Option<SystemTime>,
    /// Readiness waits until then.
    patience: Option<SystemTime>,
    /// Of these nobody has spoken since the start.
    unconfirmed: BTreeSet<ConsulService>,
    /// What vanished from answers: the guard may have it back.
    vanished: BTreeMap<ConsulService, Vec<(SystemTime, Instance)>>,
}

impl Memory {
    /// Since when what is known of a service is nothing but remembered; None: Consul has said it.
    pub fn since(&self, watch: &ConsulService) -> Option<SystemTime> {
        self.heard.filter(|_| self.unconfirmed.contains(watch))
    }

    /// Whether what is remembered is as good as heard.
    pub(super) fn is_believed(&self) -> bool {
        self.heard.is_some() && self.patience.is_none()
    }

    /// Whether patience ended just now.
    pub(super) fn loses_patience(&mut self, now: SystemTime) -> bool {
        self.patience.take_if(|until| *until <= now).is_some()
    }

    /// Consul speaks of a service; `window` is the guard's.
    pub(super) fn hear(
        &mut self,
        watch: &ConsulService,
        (before, answer): (&[Instance], &[Instance]),
        doubted: &[Instance],
        window: Duration,
        now: SystemTime,
    ) {
        self.unconfirmed.remove(watch);
        let is_among =
            |some: &[Instance], gone: &Instance| some.iter().any(|one| is_same_place(one, gone));
        let vanished = self.vanished.entry(watch.clone()).or_default();
        let is_recent = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < window);
        vanished.retain(|(at, gone)| {
            !is_among(answer, gone) && (is_recent(*at) || is_among(doubted, gone))
        });
        let fresh = before.iter().filter(|one| !is_among(answer, one));
        vanished.extend(fresh.map(|gone| (now, gone.clone())));
        if vanished.is_empty() {
            self.vanished.remove(watch);
        }
    }

    /// Nobody asks for the others.
    pub(super) fn forget_unwanted(&mut self, watches: &BTreeSet<ConsulService>) {
        self.unconfirmed.retain(|watch| watches.contains(watch));
        self.vanished.retain(|watch, _| watches.contains(watch));
    }
}

impl Model {
    /// Takes what was kept as what Consul said before it was silent.
    pub(super) fn remember(&mut self, table: Table, now: SystemTime) {
        let until = now + PATIENCE;
        self.memory.heard = Some(table.heard);
        self.memory.patience = Some(until);
        self.timers.insert((until, None));
        for (watch, instances) in table.services {
            self.memory.unconfirmed.insert(watch.clone());
            self.answers.insert(watch, instances);
        }
        for (subtree, documents) in table.documents {
            self.documents
                .remember(subtree, documents, &mut self.drains);
        }
        self.tagged.remember(table.tagged);
        for (name, addresses) in table.names {
            let known = Resolution {
                addresses,
                error: None,
            };
            self.names.entry(name).or_insert(known);
        }
        self.revision += 1;
        self.merge(now);
        self.settle_those(now, |service| service.watch().is_some());
        self.settle_drains(now);
    }

    /// What is to be remembered, of the moment when Consul was last heard; None: less is known than may be remembered already.
    pub fn kept(&self, heard: SystemTime) -> Option<Table> {
        let is_all_heard = || self.documents.missing().is_empty() && !self.misses_tags();
        if self.memory.heard.is_none() && !is_all_heard() {
            return None;
        }
        let services = self.answers.iter().map(|(watch, answer)| {
            let doubted = self.doubted_of(watch);
            (watch.clone(), with(answer, doubted))
        });
        let names = self.names.iter();
        let resolved = names.filter(|(_, known)| !known.addresses.is_empty());
        Some(Table {
            heard,
            services: services.collect(),
            documents: self.documents.kept(),
            tagged: self.tagged.kept(),
            names: resolved
                .map(|(name, known)| (name.clone(), known.addresses.clone()))
                .collect(),
        })
    }

    /// Instances that vanished and are in force all the same.
    pub(super) fn doubted_of(&self, watch: &ConsulService) -> Vec<Instance> {
        let Some(vanished) = self.memory.vanished.get(watch) else {
            return Vec::new();
        };
        let of_it = |service: &&ServiceState| service.watch() == Some(watch);
        let members = self.services.values().filter(of_it);
        let members = members.flat_map(|service| service.members().values());
        let doubted: Vec<&Candidate> = members
            .filter(|member| member.is_doubted())
            .map(|member| &member.facts)
            .collect();
        let is_doubted = |gone: &Instance| doubted.iter().any(|facts| is_at(gone, facts));
        let vanished = vanished.iter().map(|(_, gone)| gone);
        vanished.filter(|gone| is_doubted(gone)).cloned().collect()
    }
}

fn with(answer: &Arc<[Instance]>, more: Vec<Instance>) -> Arc<[Instance]> {
    match more.is_empty() {
        true => answer.clone(),
        false => answer.iter().cloned().chain(more).collect(),
    }
}

fn is_same_place(one: &Instance, other: &Instance) -> bool {
    (&one.address, one.port) == (&other.address, other.port)
}

/// Whether an instance is what a server was made of.
fn is_at(instance: &Instance, facts: &Candidate) -> bool {
    let text = instance.address.trim();
    let is_named = facts.host_name.as_deref() == Some(text);
    let number = text.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_numbered = number.is_ok_and(|ip| ip.to_canonical() == facts.address.ip());
    instance.port == facts.address.port() && (is_named || is_numbered)
}
