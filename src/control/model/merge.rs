//! What is in force of the file and of KV's documents together: who wins, and who is named as having lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::Model;
use crate::config::{Config, DomainName, RouteEntry, ServiceEntry};
use crate::control::acme::{KvNames, can_prove};
use crate::control::claims::TOLD_PER_SERVICE;
use crate::control::documents::{Documents, Domain};
use crate::control::mistake::{IGNORED, Mistake, UNAVAILABLE};
use crate::control::service_state::ServiceState;
use crate::routing::ServiceName;

/// Where an entry stands, as mistakes name it. Written out only where there is one: most entries have none.
#[derive(Clone, Copy)]
enum Key<'a> {
    FileRoute(&'a str),
    /// Of a service in Consul.
    Tags(&'a str),
    Kv {
        prefix: &'a str,
        kind: &'static str,
        name: &'a str,
    },
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::FileRoute(name) => write!(f, "file:route {name}"),
            Key::Tags(service) => write!(f, "consul:{service}"),
            Key::Kv { prefix, kind, name } => write!(f, "kv:{prefix}/config/{kind}/{name}"),
        }
    }
}

impl Model {
    /// Makes what is in force out of the file and the documents.
    pub(super) fn merge(&mut self, now: SystemTime) {
        self.documents.rebase(&self.file.tuning);
        let tuning = self.documents.tuning_in_force();
        if tuning != self.tuning {
            for service in self.services.values_mut() {
                self.revision += 1;
                service.mark_changed(self.revision);
            }
            self.tuning = tuning;
        }
        self.merge_services(now);
        self.merge_places();
    }

    /// Makes which hosts lead where, and who may have certificates: services are as they were.
    pub(super) fn merge_places(&mut self) {
        self.merge_routes();
        self.merge_names();
    }

    fn merge_services(&mut self, now: SystemTime) {
        self.claims.clear();
        let mut wanted: BTreeMap<ServiceName, (ServiceEntry, &'static str)> = BTreeMap::new();
        for entry in &self.file.services {
            wanted.insert(entry.name.clone(), (entry.clone(), "file"));
        }
        for (name, entry) in self.documents.services.in_force() {
            if wanted.contains_key(&entry.name) {
                let key = kv(&self.documents, "services", name);
                let message = "the file has a service of this name, and wins";
                self.claims
                    .push(Mistake::new(key.to_string(), message, IGNORED));
                continue;
            }
            wanted.insert(entry.name.clone(), (entry.clone(), "kv"));
        }
        self.add_tagged_services(&mut wanted);
        let before = self.services.len();
        self.services.retain(|name, _| wanted.contains_key(name));
        if self.services.len() != before {
            self.revision += 1;
        }
        let mut changed = BTreeSet::new();
        for (name, (entry, origin)) in wanted {
            match self.services.get_mut(&name) {
                Some(known) => {
                    if known.replace(&entry, origin) {
                        changed.insert(name);
                    }
                }
                None => {
                    self.services
                        .insert(name.clone(), ServiceState::new(entry, origin));
                    changed.insert(name);
                }
            }
        }
        for name in &changed {
            self.revision += 1;
            if let Some(service) = self.services.get_mut(name) {
                service.mark_changed(self.revision);
            }
        }
        self.settle_those(now, |service| changed.contains(&service.entry().name));
    }

    /// The file's first, those of its domains among them; then routes in KV; then domains in KV; then what tags ask for, which gives way
    /// to any other.
    fn merge_routes(&mut self) {
        self.route_claims.clear();
        let of_tags = shared(self.routes_by_tags());
        let of_file = shared(self.file.routes.clone());
        let documents = &self.documents;
        let of_routes = documents.routes.in_force();
        let claims = &mut self.route_claims;
        let of_domains = domains_in_force(&self.file, documents, claims).into_iter();
        let ordered: Vec<(Key<'_>, &Arc<RouteEntry>)> = of_file
            .iter()
            .map(|entry| (Key::FileRoute(&entry.name), entry))
            .chain(of_routes.map(|(name, entry)| (kv(documents, "routes", name), entry)))
            .chain(of_domains.filter_map(|(key, domain)| Some((key, domain.route.as_ref()?))))
            .chain(
                of_tags
                    .iter()
                    .map(|entry| (Key::Tags(entry.service.as_str()), entry)),
            )
            .collect();
        let services: HashSet<&ServiceName> = self.services.keys().collect();
        let mut taken = HashMap::with_capacity(ordered.len());
        let mut routes = Vec::with_capacity(ordered.len());
        let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, entry) in &ordered {
            if let Some(winner) = taken.get(&(&entry.host, &entry.path)) {
                if let Key::Tags(service) = key {
                    let count = lost.entry(service).or_default();
                    *count += 1;
                    if *count > TOLD_PER_SERVICE {
                        continue;
                    }
                }
                let message = format!("{}{} is taken by {winner}", entry.host, entry.path);
                claims.push(Mistake::new(key.to_string(), message, IGNORED));
                continue;
            }
            taken.insert((&entry.host, &entry.path), key);
            if !services.contains(&entry.service) {
                let message = format!("there is no service {}: answered with 503", entry.service);
                claims.push(Mistake::new(key.to_string(), message, UNAVAILABLE));
            }
            routes.push((*entry).clone());
        }
        for (service, count) in lost {
            if let Some(more @ 1..) = count.checked_sub(TOLD_PER_SERVICE) {
                let message = format!("{more} more of the routes in its tags are taken by others");
                let entry = format!("consul:{service} tags");
                claims.push(Mistake::new(entry, message, IGNORED));
            }
        }
        if routes != self.routes {
            self.routes = routes;
            self.revision += 1;
            self.routes_revision = self.revision;
        }
    }

    /// The same value as before where it says the same, so that who follows it sees at a glance that there is no news.
    fn merge_names(&mut self) {
        let names = match (&self.file.acme, &self.terms.consul_prefix) {
            (Some(acme), Some(_)) => KvNames::of(&self.documents, acme),
            // Nobody asks, or nobody answers.
            (None, _) | (_, None) => KvNames::default(),
        };
        if names != *self.kv_names {
            self.kv_names = Arc::new(names);
        }
    }
}

fn shared(entries: Vec<RouteEntry>) -> Vec<Arc<RouteEntry>> {
    entries.into_iter().map(Arc::new).collect()
}

fn kv<'a>(documents: &'a Documents, kind: &'static str, name: &'a str) -> Key<'a> {
    let prefix = documents.prefix();
    Key::Kv { prefix, kind, name }
}

/// Domains in KV that neither the file nor an older document has.
fn domains_in_force<'a>(
    file: &Config,
    documents: &'a Documents,
    claims: &mut Vec<Mistake>,
) -> Vec<(Key<'a>, &'a Domain)> {
    let of_file: HashSet<&DomainName> = file.domains.iter().map(|domain| &domain.name).collect();
    let found: Vec<_> = documents.domains.in_force().collect();
    if !found.is_empty() && file.acme.is_none() {
        let root = format!("kv:{}/config/domains", documents.prefix());
        let message = "the file has no [acme] table: nobody would order certificates for them";
        claims.push(Mistake::new(root, message, IGNORED));
    }
    let mut taken: HashMap<&DomainName, Key<'a>> = HashMap::with_capacity(found.len());
    let mut winners = Vec::with_capacity(found.len());
    for (name, domain) in found {
        let key = kv(documents, "domains", name);
        if file
            .acme
            .as_ref()
            .is_some_and(|acme| !can_prove(acme, &domain.name))
        {
            let message = "a wildcard is proven by dns-01: the file needs acme.dns_hook, a program that sets the record";
            claims.push(Mistake::new(key.to_string(), message, IGNORED));
            continue;
        }
        let winner = match of_file.contains(&domain.name) {
            true => Some("the file has this domain, and wins".to_owned()),
            false => taken
                .get(&domain.name)
                .map(|winner| format!("{} is taken by {winner}", domain.name)),
        };
        match winner {
            Some(message) => claims.push(Mistake::new(key.to_string(), message, IGNORED)),
            None => {
                taken.insert(&domain.name, key);
                winners.push((key, domain));
            }
        }
    }
    winners
}
