//! Documents on their way: an answer of Consul waits here while those that belong to it are still to come.
//!
//! Each kind of document is watched by itself, so what was written at once arrives piece by piece. Two things make the pieces one:
//! the pod's mark, which stands while a change of several transactions is written, and the documents themselves: a route whose
//! service is not there (any more) is likely half a change. Both wait for a while and no longer: then what is there is followed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Model;
use super::alarm::Change;
use crate::config::RouteEntry;
use crate::control::consul::{Document, Subtree};
use crate::control::documents::{Documents, Follow};
use crate::control::event::Effect;
use crate::control::mistake::Mistake;
use crate::routing::{HostPattern, Prefix, ServiceName};

/// The longest that documents wait for the end of a change of several transactions.
pub const MARKED_AT_MOST: Duration = Duration::from_secs(10);
/// The longest that they wait for a service that a route names.
pub const DANGLING_AT_MOST: Duration = Duration::from_secs(1);

const OUTLASTED: &str =
    "a change of several transactions did not end in time: what is there of it is in force";

/// What was heard and is not in force yet.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    mark: Option<Mark>,
    waiting: BTreeMap<Subtree, Arc<[Document]>>,
    /// When the first of them was heard.
    since: Option<SystemTime>,
    /// With them a route would come to a service that is not there.
    dangles: bool,
}

#[derive(Debug)]
struct Mark {
    /// Which one it is: the next change's is another.
    created: u64,
    since: SystemTime,
    is_outlasted: bool,
}

impl Model {
    pub(super) fn observe_documents(
        &mut self,
        subtree: Subtree,
        documents: Arc<[Document]>,
        now: SystemTime,
    ) {
        match subtree {
            Subtree::Services | Subtree::Routes | Subtree::Domains | Subtree::Tuning => {
                self.hear_documents(subtree, documents, now);
            }
            Subtree::Apply => self.hear_mark(&documents, now),
            Subtree::Canary => self.hear_canary(&documents, now),
            Subtree::OperatorAccept => {
                self.accepts.observe(&documents, now);
                self.settle_accepts(now);
            }
            Subtree::OperatorDrain | Subtree::Pod => {
                let follow = self
                    .documents
                    .observe(subtree, &documents, &mut self.drains);
                if follow == Follow::WritePodId {
                    self.effects.push(Effect::WritePodId);
                }
                self.accept_documents(now);
                self.revision += 1;
                self.merge(now);
                self.settle_drains(now);
            }
        }
    }

    /// The pod's mark, as its watch says it.
    fn hear_mark(&mut self, documents: &[Document], now: SystemTime) {
        let created = documents.first().map(|document| document.create_index);
        let known = self.arriving.mark.as_ref().map(|mark| mark.created);
        if created != known {
            self.arriving.mark = created.map(|created| Mark {
                created,
                since: now,
                is_outlasted: false,
            });
            // One that stays is named though nothing else happens, and by a replay at the same moment.
            self.timers.insert((now + MARKED_AT_MOST, None));
            self.revision += 1;
        }
    }

    fn hear_documents(&mut self, subtree: Subtree, documents: Arc<[Document]>, now: SystemTime) {
        self.arriving.since.get_or_insert(now);
        self.arriving.waiting.insert(subtree, documents);
        self.arriving.dangles = self.would_dangle();
    }

    /// Takes what was heard, unless it is worth waiting for more.
    pub(super) fn take_arrived(&mut self, now: SystemTime) {
        let held_until = self.held_until(now);
        if self.arriving.waiting.is_empty() {
            return;
        }
        if let Some(until) = held_until {
            self.timers.insert((until, None));
            return;
        }
        self.arriving.since = None;
        self.arriving.dangles = false;
        let of_places = |subtree: &Subtree| matches!(subtree, Subtree::Routes | Subtree::Domains);
        let are_places = self.arriving.waiting.keys().all(of_places);
        let holds_drains = self.documents.holds_drains();
        for (subtree, documents) in std::mem::take(&mut self.arriving.waiting) {
            // Of these nothing has to be done outside.
            let _ = self
                .documents
                .observe(subtree, &documents, &mut self.drains);
        }
        let accepted = self.accept_documents(now);
        self.revision += 1;
        // Ten thousand servers need not be looked at because one host leads elsewhere.
        if are_places && !holds_drains && accepted == Change::None {
            return self.merge_places();
        }
        self.merge(now);
        self.settle_drains(now);
    }

    /// Kinds of documents of which there is news that waits.
    pub fn documents_held(&self) -> usize {
        self.arriving.waiting.len()
    }

    pub(super) fn arriving_mistake(&self) -> Option<Mistake> {
        let mark = self.arriving.mark.as_ref()?;
        let entry = || format!("kv:{}/apply", self.documents.prefix());
        mark.is_outlasted
            .then(|| Mistake::new(entry(), OUTLASTED, "what is there"))
    }

    /// None: there is nothing to wait for.
    fn held_until(&mut self, now: SystemTime) -> Option<SystemTime> {
        let arriving = &mut self.arriving;
        let of_mark = arriving.mark.as_mut().and_then(|mark| {
            let until = mark.since + MARKED_AT_MOST;
            let is_over = now >= until;
            if is_over && !mark.is_outlasted {
                mark.is_outlasted = true;
                self.revision += 1;
            }
            (!is_over).then_some(until)
        });
        let of_routes = || {
            let until = arriving.since? + DANGLING_AT_MOST;
            (arriving.dangles && now < until).then_some(until)
        };
        of_mark.or_else(of_routes)
    }

    /// Whether a route would come to a service that is not there, that does not now. Who is not ready has nothing to keep.
    fn would_dangle(&self) -> bool {
        if !self.was_ready {
            return false;
        }
        let (mut documents, mut drains) = (self.documents.clone(), self.drains.clone());
        for (subtree, heard) in &self.arriving.waiting {
            let _ = documents.observe(*subtree, heard, &mut drains);
        }
        let documents = documents;
        // The file's, and those that Consul's tags make.
        let others = self.services.iter();
        let others = others.filter(|(_, service)| service.origin() != "kv");
        let of_documents = documents.services.in_force();
        let there: HashSet<&str> = others
            .map(|(name, _)| name.as_str())
            .chain(of_documents.map(|(_, entry)| entry.name.as_str()))
            .collect();
        let lacks = |route: &&RouteEntry| !there.contains(route.service.as_str());
        let mut lacking = routes(&documents).filter(lacks).peekable();
        if lacking.peek().is_none() {
            return false;
        }
        let before = self.routes.iter().map(|route| &**route);
        let before: HashSet<_> = before
            .filter(|route| !self.services.contains_key(&route.service))
            .map(key)
            .collect();
        lacking.any(|route| !before.contains(&key(route)))
    }
}

fn key(route: &RouteEntry) -> (&HostPattern, &Prefix, &ServiceName) {
    (&route.host, &route.path, &route.service)
}

fn routes(documents: &Documents) -> impl Iterator<Item = &RouteEntry> {
    let of_routes = documents.routes.in_force();
    let of_domains = documents.domains.in_force();
    of_routes
        .map(|(_, route)| &**route)
        .chain(of_domains.filter_map(|(_, domain)| domain.route.as_deref()))
}
