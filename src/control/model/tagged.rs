//! Services whose tags ask for routes: which they are, and what of it is in force beside the file and the documents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::Model;
use crate::config::tags::is_service_name;
use crate::config::{
    ConsulService, RouteEntry, ServerSource, ServiceEntry, ServiceProtocol, ServiceTls, TagGrammar,
};
use crate::control::mistake::{IGNORED, Mistake};
use crate::control::service_state::ServiceState;
use crate::routing::ServiceName;

/// Idle connections to one server of such a service, as where nothing is said.
const POOL: usize = 128;
/// All is merged at once where one tag changes, so a thousand services that change together are merged so often at most.
const MERGE_EACH: Duration = Duration::from_millis(100);
/// A merge brings services, and those claims, which are merged: more rounds than this none can need.
const ROUNDS: usize = 4;

/// What is known of services by their tags.
#[derive(Clone, Debug, Default)]
pub(super) struct TaggedServices {
    /// Of the newest catalogue; None: there was none yet.
    listed: Option<BTreeSet<ServiceName>>,
    /// In the place of a catalogue that was not read yet.
    remembered: BTreeSet<ServiceName>,
    /// Those that are in force.
    services: BTreeSet<ServiceName>,
    mistakes: Vec<Mistake>,
    /// Something was heard since they were last merged.
    pub(super) is_stale: bool,
    merged_at: Option<SystemTime>,
}

impl TaggedServices {
    pub(super) fn is_answered(&self) -> bool {
        self.listed.is_some()
    }

    /// The same for another model, which merges it at once.
    pub(super) fn to_be_merged(&self) -> TaggedServices {
        TaggedServices {
            is_stale: true,
            merged_at: None,
            ..self.clone()
        }
    }

    /// The names of the catalogue's services with tags that ask for routes; `beyond` of them were left out.
    pub(super) fn observe(&mut self, names: Vec<String>, beyond: usize) {
        self.mistakes.clear();
        if beyond > 0 {
            let message =
                format!("{beyond} services more than are looked at have tags that ask for routes");
            self.mistakes
                .push(Mistake::new("consul:tags", message, IGNORED));
        }
        let (fine, strange): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| is_service_name(name));
        for name in strange {
            let message = "its tags ask for routes, but no service of rota's can have this name";
            let entry = format!("consul:{}", name.escape_debug());
            self.mistakes.push(Mistake::new(entry, message, IGNORED));
        }
        let parsed = fine.iter().filter_map(|name| ServiceName::parse(name));
        self.listed = Some(parsed.collect());
        self.remembered.clear();
        self.is_stale = true;
    }

    /// Takes those that were in force before the start.
    pub(super) fn remember(&mut self, names: Vec<String>) {
        let parsed = names.iter().filter_map(|name| ServiceName::parse(name));
        self.remembered = parsed.collect();
        self.is_stale = true;
    }

    /// Those in force.
    pub(super) fn kept(&self) -> Vec<String> {
        self.services.iter().map(ToString::to_string).collect()
    }
}

impl Model {
    /// Brings routes and services in line with what tags ask for now.
    pub(super) fn follow_tags(&mut self, now: SystemTime) {
        if !self.tagged.is_stale {
            return;
        }
        let next = self
            .tagged
            .merged_at
            .and_then(|at| at.checked_add(MERGE_EACH));
        if let Some(next) = next.filter(|&next| next > now) {
            self.timers.insert((next, None));
            return;
        }
        self.tagged.merged_at = Some(now);
        for _ in 0..ROUNDS {
            if !std::mem::take(&mut self.tagged.is_stale) {
                return;
            }
            self.tagged.services = self.services_with_tags();
            self.merge(now);
            self.revision += 1;
        }
    }

    /// Those of the catalogue, and those of before with a server that still carries the tags: whether it is gone is the guard's to say.
    fn services_with_tags(&self) -> BTreeSet<ServiceName> {
        let listed = self.tagged.listed.iter().flatten();
        let listed = listed.chain(&self.tagged.remembered).cloned();
        let is_claimed = |name: &&ServiceName| {
            let state = self.services.get(*name);
            state.is_some_and(|state| !state.claims().is_empty())
        };
        let kept = self.tagged.services.iter().filter(is_claimed).cloned();
        listed.chain(kept).collect()
    }

    /// Adds what tags alone ask for. A service that the file or a document has from the same instances keeps its settings, and gets the
    /// routes; one with other servers wins.
    pub(super) fn add_tagged_services(
        &mut self,
        wanted: &mut BTreeMap<ServiceName, (ServiceEntry, &'static str)>,
    ) {
        self.claims.extend_from_slice(&self.tagged.mistakes);
        for name in &self.tagged.services {
            let state = self.services.get(name);
            let complaints = state.iter().flat_map(|state| &state.claims().complaints);
            let complaint =
                |message: &String| Mistake::new(format!("consul:{name}"), message.clone(), IGNORED);
            self.claims.extend(complaints.map(complaint));
            match wanted.get(name) {
                Some((entry, _)) if is_of_consul(entry) => {}
                Some((_, origin)) => {
                    let whose = if *origin == "file" {
                        "the file"
                    } else {
                        "a document"
                    };
                    let message = format!(
                        "its tags ask for routes, but {whose} has a service of this name with other servers, and wins"
                    );
                    self.claims
                        .push(Mistake::new(format!("consul:{name}"), message, IGNORED));
                }
                None => {
                    let protocol = state.and_then(|state| state.claims().protocol);
                    wanted.insert(name.clone(), (entry(name, protocol), "consul"));
                }
            }
        }
    }

    /// Whose claim is the oldest comes first, then by the service's name.
    pub(super) fn routes_by_tags(&self) -> Vec<RouteEntry> {
        let states = self
            .tagged
            .services
            .iter()
            .filter_map(|name| self.services.get(name));
        let mut found: Vec<(u64, RouteEntry)> = states.flat_map(routes_of).collect();
        found.sort_by(|(a, one), (b, other)| (a, &one.service).cmp(&(b, &other.service)));
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Whether the catalogue was to be read and was not yet, or something that was read is not in force yet.
    pub(super) fn misses_tags(&self) -> bool {
        let is_on = self.terms.tags.grammar != TagGrammar::Off;
        is_on && (!self.tagged.is_answered() || self.tagged.is_stale)
    }
}

fn routes_of(state: &ServiceState) -> impl Iterator<Item = (u64, RouteEntry)> {
    let service = &state.entry().name;
    let routes = state.claims().routes.iter();
    routes.map(move |((host, path), created)| {
        let entry = RouteEntry {
            // Apart from the names that the file and documents give, so that no two routes have one.
            name: format!("tag:{host}{path}"),
            host: host.clone(),
            path: path.clone(),
            service: service.clone(),
        };
        (*created, entry)
    })
}

/// Whether its servers are the instances of the service of its own name in Consul.
fn is_of_consul(entry: &ServiceEntry) -> bool {
    match &entry.source {
        ServerSource::Consul(watch) => watch.service == entry.name.as_str(),
        ServerSource::Servers(_) => false,
    }
}

/// A service as tags alone make it.
fn entry(name: &ServiceName, protocol: Option<ServiceProtocol>) -> ServiceEntry {
    ServiceEntry {
        name: name.clone(),
        source: ServerSource::Consul(ConsulService {
            service: name.to_string(),
            tag: None,
            datacenter: None,
        }),
        active: None,
        retry: None,
        protocol: protocol.unwrap_or(ServiceProtocol::Http),
        tls: ServiceTls::default(),
        pool: POOL,
        groups: None,
        in_flight: None,
    }
}
