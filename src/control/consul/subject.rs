//! One thing that is watched: what was last said of it, and what of an answer is news.
//!
//! Long because what is known and what was said of it change under one lock.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;

use super::error::{Blame, ConsulError};
use super::observation::{Document, Finding, Instance, Observation, Subtree};
use super::parse::Instances;
use super::reply::Reply;
use crate::config::ConsulService;
use crate::telemetry::Vitals;

/// An answer older than the last one is a laggard's, unless Consul says nothing newer for so long: then it went back.
const WENT_BACK_AFTER: Duration = Duration::from_secs(1);

/// The name of the watch that asks the leader.
pub const LEADER_WATCH: &str = "the leader";

/// What a watch is about; its text names the watch in observations.
#[derive(Clone, Debug)]
pub(super) enum Topic {
    Service(ConsulService),
    Subtree(Subtree),
    /// Of a datacenter; None: the agent's own.
    Checks(&'static str, Option<String>),
    AllServices(Option<String>),
    Tags(Option<String>),
    /// All keys that begin so, whole.
    Prefix(String),
    /// Whether it answers.
    Leader,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, datacenter) = match self {
            Topic::Service(service) => {
                write!(f, "service {}", service.service)?;
                if let Some(tag) = &service.tag {
                    write!(f, " tagged {tag}")?;
                }
                ("", &service.datacenter)
            }
            Topic::Subtree(subtree) => (subtree.key().trim_end_matches('/'), &None),
            Topic::Checks(state, datacenter) => {
                write!(f, "checks of all services, {state}")?;
                ("", datacenter)
            }
            Topic::AllServices(datacenter) => ("names of all services", datacenter),
            Topic::Tags(datacenter) => ("tags of all services", datacenter),
            Topic::Prefix(prefix) => (prefix.trim_end_matches('/'), &None),
            Topic::Leader => (LEADER_WATCH, &None),
        };
        f.write_str(name)?;
        match datacenter {
            Some(datacenter) => write!(f, " in {datacenter}"),
            None => Ok(()),
        }
    }
}

/// Where watches report to; cheap to clone.
#[derive(Clone)]
pub(super) struct Outlet {
    pub observations: mpsc::Sender<Observation>,
    pub vitals: Arc<Vitals>,
}

impl Outlet {
    /// Consul answered with what it knows. It counts only while no watch fails: the age told is that of the worst-informed one.
    pub(super) fn contact(&self) {
        if self.vitals.discovery_failing.load(Relaxed) > 0 {
            return;
        }
        let since = self.vitals.now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_millis() as i64);
        self.vitals.set_discovery_contact(now);
    }

    /// From where nobody can wait, behind all that was said before.
    fn say_without_waiting(&self, observation: Observation) {
        let Err(TrySendError::Full(observation)) = self.observations.try_send(observation) else {
            return;
        };
        let observations = self.observations.clone();
        if let Ok(runtime) = Handle::try_current() {
            // Who listened may have gone.
            runtime.spawn(async move { drop(observations.send(observation).await) });
        }
    }
}

/// Whether an answer told something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Some,
    None,
    /// It is older than what is known: not taken, to be asked for again.
    Older,
}

/// Outlives the task that watches it, so that another way of watching says nothing twice.
pub(super) struct Subject {
    topic: Topic,
    outlet: Outlet,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    instances: Option<Vec<Instance>>,
    documents: Option<Arc<[Document]>>,
    /// A node that the last instance was on which there was.
    last_node: Option<String>,
    /// Of the last answer that was taken.
    index: u64,
    /// Since when nothing but older answers came.
    older_since: Option<Instant>,
    skipped: Vec<String>,
    /// Whose fault it is that there is no answer.
    failing: Option<Blame>,
    /// Nobody asks about it any more, though an answer may be on its way.
    is_over: bool,
}

impl Record {
    fn keep(&mut self, instances: &[Instance]) {
        if let Some(first) = instances.first() {
            self.last_node = Some(first.node.clone());
        }
        self.instances = Some(instances.to_vec());
    }

    /// Two servers answer two questions, in either order: what was known before must not replace what is known now.
    fn is_overtaken(&mut self, index: u64, instances: &[Instance], now: Instant) -> bool {
        let is_news = self
            .instances
            .as_deref()
            .is_some_and(|known| known != instances);
        if index >= self.index || !is_news {
            self.older_since = None;
            return false;
        }
        let since = *self.older_since.get_or_insert(now);
        let is_overtaken = now - since < WENT_BACK_AFTER;
        if !is_overtaken {
            self.older_since = None;
        }
        is_overtaken
    }
}

impl Subject {
    pub(super) fn new(topic: Topic, outlet: Outlet) -> Subject {
        Subject {
            topic,
            outlet,
            record: Mutex::default(),
        }
    }

    pub(super) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Whether an answer's content may replace what is known. Without a leader nothing can have changed, but a server that has
    /// just started answers with what little it has read so far, one far behind with what was, and who may not read with nothing;
    /// so only who knows nothing yet takes such an answer.
    pub(super) fn believes<T>(&self, reply: &Reply<T>) -> bool {
        let record = self.record.lock().expect("no panic while held");
        reply.flaw.is_none() || (record.instances.is_none() && record.documents.is_none())
    }

    /// The index of the last answer that was taken.
    pub(super) fn index(&self) -> u64 {
        self.record.lock().expect("no panic while held").index
    }

    /// A node that one of the last instances was on.
    pub(super) fn some_node(&self) -> Option<String> {
        let record = self.record.lock().expect("no panic while held");
        record.last_node.clone()
    }

    /// The instances of the last answer that was taken.
    pub(super) fn known_instances(&self) -> Vec<Instance> {
        let record = self.record.lock().expect("no panic while held");
        record.instances.clone().unwrap_or_default()
    }

    /// Whether it was said that the token may not read all of it.
    pub(super) fn is_denied(&self) -> bool {
        let record = self.record.lock().expect("no panic while held");
        record.failing == Some(Blame::Token)
    }

    /// The documents of the last answer that was taken, in their order.
    pub(super) fn known_documents(&self) -> Arc<[Document]> {
        let record = self.record.lock().expect("no panic while held");
        record.documents.clone().unwrap_or_default()
    }

    /// Whether an instance was last seen on this node.
    pub(super) fn has_instance_on(&self, node: &str) -> bool {
        let record = self.record.lock().expect("no panic while held");
        let instances = record.instances.as_deref().unwrap_or_default();
        instances.iter().any(|instance| instance.node == node)
    }

    /// An answer about a service.
    pub(super) async fn learned_instances(
        &self,
        service: &ConsulService,
        reply: Reply<Instances>,
    ) -> News {
        let index = reply.index;
        let Instances { instances, skipped } = reply.content;
        let mut is_older = false;
        let news = self.report(reply.hidden.as_ref(), |record| {
            is_older = record.is_overtaken(index, &instances, Instant::now());
            if is_older {
                return None;
            }
            record.index = index;
            if record.skipped != skipped {
                if !skipped.is_empty() {
                    let first: Vec<&str> = skipped.iter().take(8).map(String::as_str).collect();
                    tracing::warn!(watch = %self.topic, entries = skipped.len(), first = first.join("; "), "consul: entries skipped");
                }
                record.skipped = skipped;
            }
            (record.instances.as_ref() != Some(&instances)).then(|| {
                record.keep(&instances);
                Observation::Instances { watch: service.clone(), instances }
            })
        });
        let news = news.await;
        if is_older { News::Older } else { news }
    }

    /// What a consistent re-read found. False: an answer that is newer came meanwhile, so it is to be read again.
    pub(super) async fn learned_again(
        &self,
        service: &ConsulService,
        reply: Reply<Instances>,
        since: u64,
        finding: Finding,
    ) -> bool {
        let Ok(permit) = self.outlet.observations.reserve().await else {
            return true;
        };
        let mut record = self.record.lock().expect("no panic while held");
        if record.index != since && reply.index < record.index {
            return false;
        }
        let instances = reply.content.instances;
        if finding != Finding::Hidden {
            (record.index, record.older_since) = (reply.index, None);
            record.keep(&instances);
        }
        permit.send(Observation::Reread {
            watch: service.clone(),
            instances,
            finding,
        });
        true
    }

    /// An answer about a subtree.
    pub(super) async fn learned_documents(
        &self,
        subtree: Subtree,
        reply: Reply<Vec<Document>>,
    ) -> News {
        let read = reply.content;
        self.report(reply.hidden.as_ref(), |record| {
            let known = record.documents.as_deref();
            if known.is_some_and(|known| have_same_content(known, &read)) {
                return None;
            }
            let documents: Arc<[Document]> = read.into();
            record.documents = Some(documents.clone());
            Some(Observation::Documents { subtree, documents })
        })
        .await
    }

    /// An answer whose content is used elsewhere.
    pub(super) async fn answered(&self) {
        self.answered_without(None).await;
    }

    /// The same; what is hidden of it is told as a failure.
    pub(super) async fn answered_without(&self, hidden: Option<&ConsulError>) {
        self.report(hidden, |_| None).await;
    }

    /// No answer. Said once, until there is one again or it is another's fault.
    pub(super) async fn failed(&self, error: &ConsulError) {
        let Ok(permit) = self.outlet.observations.reserve().await else {
            return;
        };
        let mut record = self.record.lock().expect("no panic while held");
        if record.is_over {
            return;
        }
        if let Some(failing) = self.begins_to_fail(&mut record, error) {
            permit.send(failing);
        }
    }

    fn begins_to_fail(&self, record: &mut Record, error: &ConsulError) -> Option<Observation> {
        match record.failing.replace(error.blame()) {
            Some(before) if before == error.blame() => return None,
            Some(_) => {}
            None => drop(self.outlet.vitals.discovery_failing.fetch_add(1, Relaxed)),
        }
        Some(Observation::Failing {
            watch: self.topic.to_string(),
            error: error.to_string(),
            blame: error.blame(),
        })
    }

    /// Nobody asks about it any more: it says nothing further, and that it failed is nobody's trouble from now on.
    pub(super) fn end(&self) {
        let mut record = self.record.lock().expect("no panic while held");
        record.is_over = true;
        if record.failing.take().is_some() {
            self.outlet.vitals.discovery_failing.fetch_sub(1, Relaxed);
            let watch = self.topic.to_string();
            self.outlet
                .say_without_waiting(Observation::Recovered { watch });
        }
    }

    /// The room is taken before the record changes: a task that is aborted while it waits has then said and noted nothing.
    async fn report(
        &self,
        hidden: Option<&ConsulError>,
        note: impl FnOnce(&mut Record) -> Option<Observation>,
    ) -> News {
        let Ok(mut permits) = self.outlet.observations.reserve_many(2).await else {
            return News::None;
        };
        let mut send = |observation| {
            let permit = permits.next().expect("there are as many as observations");
            permit.send(observation);
        };
        let mut record = self.record.lock().expect("no panic while held");
        if record.is_over {
            return News::None;
        }
        if let Some(hidden) = hidden {
            if let Some(failing) = self.begins_to_fail(&mut record, hidden) {
                send(failing);
            }
        } else if record.failing.take().is_some() {
            self.outlet.vitals.discovery_failing.fetch_sub(1, Relaxed);
            send(Observation::Recovered {
                watch: self.topic.to_string(),
            });
        }
        match note(&mut record) {
            Some(observation) => {
                send(observation);
                News::Some
            }
            None => News::None,
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.end();
    }
}

/// The modify index moves with every write, of the same value too; the create index decides which of two documents wins.
fn have_same_content(one: &[Document], other: &[Document]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(a, b)| {
            a.name == b.name && a.value == b.value && a.create_index == b.create_index
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(topic: Topic) -> (Subject, mpsc::Receiver<Observation>) {
        let (observations, said) = mpsc::channel(8);
        let vitals = Arc::new(Vitals::new(1));
        let outlet = Outlet {
            observations,
            vitals,
        };
        (Subject::new(topic, outlet), said)
    }

    fn app() -> ConsulService {
        ConsulService {
            service: "app".into(),
            tag: None,
            datacenter: None,
        }
    }

    /// An answer of an index that names instances by their ids.
    fn reply(index: u64, ids: &[&str]) -> Reply<Instances> {
        let instance = |id: &&str| Instance {
            node: "n".into(),
            id: (*id).into(),
            address: "127.0.0.1".into(),
            port: 80,
            tags: Vec::new(),
            group: None,
            weight_passing: 1,
            weight_warning: 1,
            checks: Vec::new(),
            create_index: 1,
        };
        Reply {
            content: Instances {
                instances: ids.iter().map(instance).collect(),
                skipped: Vec::new(),
            },
            index,
            is_filtered: false,
            flaw: None,
            hidden: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_replaces_a_newer_one_only_once_consul_says_nothing_else() {
        let (subject, mut said) = subject(Topic::Service(app()));
        let learned =
            async |index, ids: &[&str]| subject.learned_instances(&app(), reply(index, ids)).await;
        assert_eq!(learned(101, &["a"]).await, News::Some);
        assert_eq!(learned(100, &["a", "b"]).await, News::Older);
        assert_eq!(learned(100, &["a", "b"]).await, News::Older);
        assert_eq!(
            learned(102, &["c"]).await,
            News::Some,
            "the laggard caught up"
        );
        tokio::time::sleep(WENT_BACK_AFTER).await;
        assert_eq!(learned(5, &["a"]).await, News::Older);
        tokio::time::sleep(WENT_BACK_AFTER).await;
        assert_eq!(learned(5, &["a"]).await, News::Some, "consul went back");
        assert_eq!(learned(6, &[]).await, News::Some);
        let mut counts = Vec::new();
        while let Ok(Observation::Instances { instances, .. }) = said.try_recv() {
            counts.push(instances.len());
        }
        assert_eq!(counts, [1, 1, 1, 0]);
    }

    #[tokio::test]
    async fn a_watch_that_ends_while_it_fails_is_in_trouble_no_more() {
        let (subject, mut said) = subject(Topic::Service(app()));
        let outlet = subject.outlet.clone();
        subject.failed(&ConsulError::TimedOut).await;
        // Nobody listens for a while.
        while outlet
            .observations
            .try_send(Observation::Strays(Vec::new()))
            .is_ok()
        {}
        subject.end();
        assert_eq!(outlet.vitals.discovery_failing.load(Relaxed), 0);
        let is_recovered = |one: &Observation| matches!(one, Observation::Recovered { watch } if watch == "service app");
        let mut last = said.recv().await;
        while last.as_ref().is_some_and(|last| !is_recovered(last)) {
            last = said.recv().await;
        }
        // A reader that was asking still.
        subject.failed(&ConsulError::TimedOut).await;
        let late = subject.learned_instances(&app(), reply(1, &["a"])).await;
        assert_eq!(late, News::None);
        drop(subject);
        assert!(said.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_failure_is_said_once_and_again_when_it_is_anothers_fault() {
        let (observations, mut said) = mpsc::channel(8);
        let vitals = Arc::new(Vitals::new(1));
        let outlet = Outlet {
            observations,
            vitals: vitals.clone(),
        };
        let subject = Subject::new(Topic::Subtree(Subtree::Pod), outlet);
        let refused = ConsulError::Unreachable("refused".into());
        let denied = ConsulError::Denied("no such token".into());
        for error in [&refused, &ConsulError::TimedOut, &denied, &denied] {
            subject.failed(error).await;
            assert_eq!(vitals.discovery_failing.load(Relaxed), 1);
        }
        for error in [refused, denied] {
            let expected = error.to_string();
            match said.try_recv().unwrap() {
                Observation::Failing { error, .. } => assert_eq!(error, expected),
                other => panic!("{other:?}"),
            }
        }
        assert!(said.try_recv().is_err());
        subject.answered().await;
        assert_eq!(vitals.discovery_failing.load(Relaxed), 0);
    }
}
