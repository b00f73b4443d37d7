//! Who of a pod has something else than most, for longer than a change needs to spread. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Found, Observer, SPREAD};
use crate::control::fleet::status::{Fingerprint, NodeStatus};
use crate::telemetry::fleet::FleetFault;

/// One load balancer that has had another value for longer than a change needs.
struct Odd {
    name: String,
    since: Instant,
    status: NodeStatus,
}

impl Observer {
    /// Who is there, is ready, and can be compared with this one.
    fn comparable(&self) -> Vec<(String, NodeStatus)> {
        let is_comparable = |status: &NodeStatus| status.is_ready && !status.is_draining;
        if !is_comparable(&self.own) {
            return Vec::new();
        }
        let present = self.present();
        let statuses = present.filter_map(|(name, other)| Some((name, other.status()?)));
        statuses
            .filter(|(_, status)| is_comparable(status))
            .map(|(name, status)| (name.clone(), status.clone()))
            .collect()
    }

    pub(super) fn compare(&mut self, found: &mut Found, now: Instant) {
        let others = self.comparable();
        let is_late = |since: &Instant| now - *since >= SPREAD;
        let mut behind = Vec::new();
        let mut with_other_tables = Vec::new();
        let mut with_other_certificates = Vec::new();
        for (name, status) in &others {
            let odd = |since| Odd {
                name: name.clone(),
                since,
                status: status.clone(),
            };
            // Not by their index: who missed a change and its undoing has all that there is.
            let since = |of| self.documents.differs_since(name, of, now);
            let documents = status.documents.and_then(since);
            behind.extend(documents.filter(is_late).map(odd));
            let certificates = self
                .certificates
                .differs_since(name, status.certificates, now);
            with_other_certificates.extend(certificates.filter(is_late).map(odd));
            let is_same_version = self.others[name].report.certificates.version == self.version;
            if self.own.trying.is_some() || status.trying.is_some() {
                self.tables.forget(name);
                continue;
            }
            let table = self.tables.differs_since(name, status.table, now);
            with_other_tables.extend(table.filter(is_late).filter(|_| is_same_version).map(odd));
        }
        self.find_those_behind(found, &behind);
        let all = others.len() + 1;
        let what = "the table differs from that of";
        self.find_odd(
            found,
            FleetFault::Diverging,
            what,
            with_other_tables,
            all,
            |one| one.table,
        );
        let what = "the certificates served differ from those of";
        self.find_odd(
            found,
            FleetFault::Certificates,
            what,
            with_other_certificates,
            all,
            |one| one.certificates,
        );
    }

    /// Of those that have other documents: who knows of fewer revisions is behind; of equally many, whose newest document is older.
    fn find_those_behind(&self, found: &mut Found, odd: &[Odd]) {
        let rank = |status: &NodeStatus| (status.revision, status.index);
        let ranked = odd
            .iter()
            .filter(|odd| rank(&odd.status) != rank(&self.own));
        let shown = |status: &NodeStatus| match status.revision {
            0 => format!("index {}", status.index),
            n => format!("revision {n}, index {}", status.index),
        };
        let (ahead, behind): (Vec<&Odd>, Vec<&Odd>) =
            ranked.partition(|odd| rank(&odd.status) > rank(&self.own));
        for odd in behind {
            let message = format!(
                "its documents are older ({}) than those of {} ({})",
                shown(&odd.status),
                self.node,
                shown(&self.own)
            );
            found.add_since(FleetFault::Behind, &odd.name, odd.since, message);
        }
        let newest = ahead.iter().max_by_key(|odd| rank(&odd.status));
        if let (Some(newest), Some(since)) = (newest, ahead.iter().map(|odd| odd.since).min()) {
            let message = format!(
                "its documents are older ({}) than those of {} ({})",
                shown(&self.own),
                newest.name,
                shown(&newest.status)
            );
            found.add_since(FleetFault::Behind, &self.node, since, message);
        }
    }

    /// Who is alone with what it has is told: this one, if more than half of all agree on something else.
    fn find_odd(
        &self,
        found: &mut Found,
        fault: FleetFault,
        what: &str,
        odd: Vec<Odd>,
        all: usize,
        value: fn(&NodeStatus) -> Fingerprint,
    ) {
        let mut groups: BTreeMap<Fingerprint, Vec<&Odd>> = BTreeMap::new();
        for one in &odd {
            groups.entry(value(&one.status)).or_default().push(one);
        }
        let most = groups.values().find(|group| group.len() * 2 > all);
        if let Some(most) = most {
            let names: Vec<&str> = most.iter().map(|odd| odd.name.as_str()).collect();
            let since = most.iter().map(|odd| odd.since).min();
            let message = format!(
                "{what} {} of {all} load balancers: {}",
                most.len(),
                names.join(", ")
            );
            if let Some(since) = since {
                found.add_since(fault, &self.node, since, message);
            }
        }
        let agreed = most
            .and_then(|most| most.first())
            .map(|odd| value(&odd.status));
        for one in odd.iter().filter(|one| Some(value(&one.status)) != agreed) {
            let message = format!("{what} {}", self.node);
            found.add_since(fault, &one.name, one.since, message);
        }
    }
}
