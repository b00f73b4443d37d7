//! What stands for all that a load balancer knows of routes, services and servers. Pure.
//!
//! It is of what others told: the file, documents, Consul, the pod's operators. What each load balancer finds out by itself (probes,
//! ejections, doubts) and what flaps by its nature (checks) is left out: who knows the same has the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::status::Fingerprint;
use crate::control::candidate::{Candidate, MAINTENANCE};
use crate::control::model::Model;
use crate::control::service_state::ServiceState;
use crate::routing::ServiceName;

/// What did not change is not looked at again.
#[derive(Debug, Default)]
pub struct TableHash {
    services: BTreeMap<ServiceName, (u64, Fingerprint)>,
    routes: (u64, Fingerprint),
}

impl TableHash {
    pub fn of(&mut self, model: &Model) -> Fingerprint {
        let services = model.services();
        self.services.retain(|name, _| services.contains_key(name));
        for (name, state) in services {
            let known = self.services.get(name).map(|(revision, _)| *revision);
            if known != Some(state.revision()) {
                let fingerprint = Fingerprint::of(lines_of(state).as_bytes());
                let entry = (state.revision(), fingerprint);
                self.services.insert(name.clone(), entry);
            }
        }
        if self.routes.0 != model.routes_revision() {
            self.routes = (model.routes_revision(), routes_of(model));
        }
        let services = self.services.values().map(|(_, fingerprint)| *fingerprint);
        let drains = model.drains().of_pod().map(|(target, until)| {
            Fingerprint::of(format!("drain {target:?} {until:?}").as_bytes())
        });
        services
            .chain(drains)
            .fold(self.routes.1, Fingerprint::with)
    }
}

fn routes_of(model: &Model) -> Fingerprint {
    let mut line = String::new();
    let mut all = Fingerprint::default();
    for route in model.routes() {
        line.clear();
        let _ = write!(line, "route {}{} {}", route.host, route.path, route.service);
        all = all.with(Fingerprint::of(line.as_bytes()));
    }
    all
}

/// Files on this machine (CAs, certificates) are left out, since they may lie elsewhere on another; so is what a host name resolves to.
fn lines_of(state: &ServiceState) -> String {
    let entry = state.entry();
    let mut lines = format!(
        "service {} {:?} {:?} {:?} {:?} {} {:?} {:?}\n",
        entry.name,
        entry.source,
        entry.active,
        entry.retry,
        entry.protocol,
        entry.pool,
        entry.in_flight,
        entry.groups,
    );
    let members = state.members().values();
    let named = members.filter(|member| !member.is_doubted());
    let servers: BTreeSet<String> = named.map(|member| line_of(&member.facts)).collect();
    lines.extend(servers);
    lines
}

fn line_of(server: &Candidate) -> String {
    let place = match &server.host_name {
        Some(name) => format!("{name}:{}", server.address.port()),
        None => server.address.to_string(),
    };
    format!(
        "server {place} {} {} {:?} {}\n",
        server.weight,
        server.weight_warning,
        server.group,
        server.word.reason == MAINTENANCE,
    )
}
