//! What one load balancer makes of the reports of its pod: who is there, and what is wrong between them. Pure: `now` is an argument.
//!
//! Each load balancer looks for itself, and compares others with what it has or had itself: so nobody has to be asked, and who is cut off
//! still says how the pod was then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::namesake::Namesake;
use super::spread::Spread;
use super::status::{Fingerprint, NodeReport, NodeStatus, RECORD_BYTES};
use crate::telemetry::fleet::FleetFault;

mod compare;

/// Load balancers that are looked at; a finding says that there are more.
pub const MOST_NODES: usize = 64;
/// A change has reached everybody, and everybody has reported it, after so long.
pub const SPREAD: Duration = Duration::from_secs(20);
/// A watch that is not answered for so long is told.
pub const STUCK_AFTER: Duration = Duration::from_secs(20);
/// Who vanishes has perhaps lost its session alone, and is back at once.
pub const GONE_AFTER: Duration = Duration::from_secs(10);
/// Who has gone is shown for so long.
pub const GONE_KEPT: Duration = Duration::from_secs(3600);
/// Reports come each half a minute at least.
pub const SILENT_AFTER: Duration = Duration::from_secs(75);
/// This one's own reports come back as often.
pub const DEAF_AFTER: Duration = Duration::from_secs(75);

/// How it stands with a pod's load balancers.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// This one's name; empty: there is no Consul, so there is no pod.
    pub node: String,
    /// By name.
    pub nodes: Vec<Node>,
    /// By kind, then by name.
    pub findings: Vec<Finding>,
    /// When KV last said anything; None: it has not yet.
    pub heard: Option<Instant>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub version: String,
    pub presence: Presence,
    /// When its last report came.
    pub said: Instant,
    /// None: its version says nothing of this.
    pub status: Option<NodeStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// This load balancer.
    Here,
    Live,
    /// Its session has ended.
    Gone(Instant),
    /// The same, after a drain.
    Left(Instant),
}

impl Presence {
    pub fn is_live(self) -> bool {
        matches!(self, Presence::Here | Presence::Live)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub fault: FleetFault,
    /// Whom it is about; empty: the pod.
    pub node: String,
    pub since: Instant,
    /// For people, in one line.
    pub message: String,
}

/// Takes reports, and says what is to be made of them.
#[derive(Debug)]
pub struct Observer {
    node: String,
    version: String,
    begun: Instant,
    heard: Option<Instant>,
    /// This one's own report was last seen in KV.
    echoed: Option<Instant>,
    own: NodeStatus,
    others: BTreeMap<String, Other>,
    /// Whose present reports cannot be read.
    unread: BTreeSet<String>,
    left_out: usize,
    tables: Spread<Fingerprint>,
    documents: Spread<Fingerprint>,
    certificates: Spread<Fingerprint>,
    namesake: Namesake,
    standing: BTreeMap<(FleetFault, String), Instant>,
}

#[derive(Debug)]
struct Other {
    /// The last one that could be read.
    report: NodeReport,
    said: Instant,
    /// Since when there is none any more.
    missing: Option<Instant>,
}

impl Other {
    fn status(&self) -> Option<&NodeStatus> {
        self.report.fleet.as_ref()
    }

    fn presence(&self, now: Instant) -> Presence {
        match self.missing {
            Some(since) if self.status().is_some_and(|status| status.is_draining) => {
                Presence::Left(since)
            }
            Some(since) if now - since >= GONE_AFTER => Presence::Gone(since),
            Some(_) | None => Presence::Live,
        }
    }
}

impl Observer {
    /// `process` is what this process's reports carry.
    pub fn new(node: &str, version: &str, process: &str, now: Instant) -> Observer {
        Observer {
            node: node.to_owned(),
            version: version.to_owned(),
            begun: now,
            heard: None,
            echoed: None,
            own: NodeStatus::default(),
            others: BTreeMap::new(),
            unread: BTreeSet::new(),
            left_out: 0,
            tables: Spread::default(),
            documents: Spread::default(),
            certificates: Spread::default(),
            namesake: Namesake::new(process),
            standing: BTreeMap::new(),
        }
    }

    /// The table that this load balancer has from now on, unless it tries another one.
    pub fn know_table(&mut self, table: Fingerprint, now: Instant) {
        self.tables.take(table, now);
    }

    /// The documents that it knows from now on.
    pub fn know_documents(&mut self, documents: Fingerprint, now: Instant) {
        self.documents.take(documents, now);
    }

    /// What it serves from now on.
    pub fn serve(&mut self, certificates: Fingerprint, now: Instant) {
        self.certificates.take(certificates, now);
    }

    /// How it is, reported or not.
    pub fn be(&mut self, own: NodeStatus) {
        self.own = own;
    }

    pub fn has_namesake(&self, now: Instant) -> bool {
        self.namesake.is_there(now)
    }

    /// All reports that stand in KV, by name; None: one that nobody can read.
    pub fn hear(&mut self, reports: BTreeMap<String, Option<NodeReport>>, now: Instant) {
        self.heard = Some(now);
        for (name, other) in &mut self.others {
            if !reports.contains_key(name) {
                other.missing.get_or_insert(now);
            }
        }
        self.left_out = 0;
        let unread = reports.iter().filter(|(_, report)| report.is_none());
        self.unread = unread.map(|(name, _)| name.clone()).collect();
        for (name, report) in reports {
            if name != self.node {
                self.hear_other(name, report, now);
            } else if let Some(report) = report {
                self.hear_own(&report, now);
            }
        }
    }

    fn hear_own(&mut self, report: &NodeReport, now: Instant) {
        let (process, number) = match &report.fleet {
            Some(status) => (status.process.as_str(), status.number),
            None => ("", 0),
        };
        if self.namesake.see(process, number, now) {
            self.echoed = Some(now);
        }
    }

    fn hear_other(&mut self, name: String, report: Option<NodeReport>, now: Instant) {
        if !self.others.contains_key(&name) && self.others.len() >= MOST_NODES {
            self.left_out += 1;
            return;
        }
        let other = self.others.entry(name).or_insert_with(|| Other {
            report: NodeReport::default(),
            said: now,
            missing: None,
        });
        let news = report.filter(|report| *report != other.report);
        if other.missing.take().is_some() || news.is_some() {
            other.said = now;
        }
        if let Some(news) = news {
            other.report = news;
        }
    }

    /// Those that are there and whose reports can be read.
    fn present(&self) -> impl Iterator<Item = (&String, &Other)> {
        let others = self.others.iter();
        others.filter(|(name, other)| other.missing.is_none() && !self.unread.contains(*name))
    }

    /// How it stands now.
    pub fn look(&mut self, now: Instant) -> Fleet {
        self.forget_those_long_gone(now);
        let mut found = Found::default();
        self.find_of_this_one(&mut found, now);
        if !self.is_deaf(now) {
            self.find_absences(&mut found, now);
            self.compare(&mut found, now);
        }
        self.find_namesakes_and_versions(&mut found);
        self.find_stuck_watches(&mut found, now);
        Fleet {
            node: self.node.clone(),
            nodes: self.nodes(now),
            findings: self.dated(found, now),
            heard: self.heard,
        }
    }

    fn is_deaf(&self, now: Instant) -> bool {
        now - self.heard.unwrap_or(self.begun) >= DEAF_AFTER
    }

    fn forget_those_long_gone(&mut self, now: Instant) {
        let is_over = |other: &Other| other.missing.is_some_and(|at| now - at >= GONE_KEPT);
        let over = self.others.iter().filter(|(_, other)| is_over(other));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            self.others.remove(&name);
            self.tables.forget(&name);
            self.documents.forget(&name);
            self.certificates.forget(&name);
        }
    }

    fn find_of_this_one(&self, found: &mut Found, now: Instant) {
        if self.is_deaf(now) {
            found.add(
                FleetFault::Deaf,
                &self.node,
                "it has not heard of the pod since: what it says of others is of then",
            );
        }
        let last = self.echoed.unwrap_or(self.begun);
        let is_read = !self.unread.contains(&self.node);
        if !self.is_deaf(now) && is_read && now - last >= SILENT_AFTER {
            found.add(
                FleetFault::Untold,
                &self.node,
                "its own reports do not arrive in KV: may its token write sessions and nodes/?",
            );
        }
        for name in &self.unread {
            let message = format!(
                "what it reports cannot be read: it is longer than {} KiB, or nothing that rota wrote",
                RECORD_BYTES / 1024
            );
            found.add(FleetFault::Unreadable, name, message);
        }
        if self.left_out > 0 {
            let message = format!(
                "{} more load balancers report than the {MOST_NODES} that are looked at",
                self.left_out
            );
            found.add(FleetFault::TooMany, "", message);
        }
    }

    fn find_absences(&self, found: &mut Found, now: Instant) {
        for (name, other) in &self.others {
            match other.presence(now) {
                Presence::Gone(_) => found.add(
                    FleetFault::Gone,
                    name,
                    "its session in Consul ended, and it was not draining",
                ),
                Presence::Live
                    if now - other.said >= SILENT_AFTER
                        && other.missing.is_none()
                        && !self.unread.contains(name) =>
                {
                    found.add(
                        FleetFault::Silent,
                        name,
                        "its session lives, and it reports nothing",
                    );
                }
                Presence::Here | Presence::Live | Presence::Left(_) => {}
            }
        }
    }

    fn find_namesakes_and_versions(&self, found: &mut Found) {
        let mut versions: BTreeMap<&str, Vec<&str>> =
            BTreeMap::from([(self.version.as_str(), vec![self.node.as_str()])]);
        let own = self.own.has_namesake.then_some(&self.node);
        let mut named_twice: Vec<&String> = own.into_iter().collect();
        for (name, other) in self.present() {
            let version = other.report.certificates.version.as_str();
            versions.entry(version).or_default().push(name);
            if other.status().is_some_and(|status| status.has_namesake) {
                named_twice.push(name);
            }
        }
        for name in named_twice {
            let message =
                "two processes have this node.name: each writes over what the other reports";
            found.add(FleetFault::SameName, name, message);
        }
        if versions.len() > 1 {
            let each = versions.iter().map(|(version, names)| {
                let version = if version.is_empty() {
                    "unknown"
                } else {
                    version
                };
                format!("{version} ({})", names.join(", "))
            });
            let each: Vec<String> = each.collect();
            let message = format!(
                "{}; tables of different versions are not compared",
                each.join(", ")
            );
            found.add(FleetFault::VersionSkew, "", message);
        }
    }

    fn find_stuck_watches(&self, found: &mut Found, now: Instant) {
        let of_others = self
            .present()
            .filter_map(|(name, other)| Some((name, other.status()?, now - other.said)));
        let own = (&self.node, &self.own, Duration::ZERO);
        for (name, status, since) in of_others.chain([own]) {
            let age = status
                .discovery_s
                .map(|age| Duration::from_secs(age) + since);
            if status.failing == 0 || age.is_some_and(|age| age < STUCK_AFTER) {
                continue;
            }
            let watches = match status.failing_watches.as_slice() {
                [] => format!("{} watches", status.failing),
                named => named.join(", "),
            };
            let message = format!("Consul does not answer its watch of {watches}");
            found.add(FleetFault::StuckWatch, name, message);
        }
    }

    fn nodes(&self, now: Instant) -> Vec<Node> {
        let own = Node {
            name: self.node.clone(),
            version: self.version.clone(),
            presence: Presence::Here,
            said: now,
            status: Some(self.own.clone()),
        };
        let of_other = |(name, other): (&String, &Other)| Node {
            name: name.clone(),
            version: other.report.certificates.version.clone(),
            presence: other.presence(now),
            said: other.said,
            status: other.report.fleet.clone(),
        };
        let mut nodes: Vec<Node> = self.others.iter().map(of_other).chain([own]).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// What was found before keeps its moment.
    fn dated(&mut self, found: Found, now: Instant) -> Vec<Finding> {
        let known = std::mem::take(&mut self.standing);
        let dated = found
            .0
            .into_iter()
            .map(|((fault, node), (since, message))| {
                let known = known.get(&(fault, node.clone())).copied();
                let since = since.or(known).unwrap_or(now);
                self.standing.insert((fault, node.clone()), since);
                Finding {
                    fault,
                    node,
                    since,
                    message,
                }
            });
        dated.collect()
    }
}

/// Findings of one look: each with its moment, where that is known, and its words.
#[derive(Default)]
struct Found(BTreeMap<(FleetFault, String), (Option<Instant>, String)>);

impl Found {
    fn add(&mut self, fault: FleetFault, node: &str, message: impl Into<String>) {
        self.0
            .insert((fault, node.to_owned()), (None, message.into()));
    }

    fn add_since(&mut self, fault: FleetFault, node: &str, since: Instant, message: String) {
        self.0
            .insert((fault, node.to_owned()), (Some(since), message));
    }
}

#[cfg(test)]
mod tests;
