//! Which names the task has certificates ordered for, looked at anew whenever that may be another answer: others name something, or a
//! certificate that stands for more than its own name comes, goes, begins or ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::super::model::Event;
use super::super::wanted::{Present, can_prove, in_use, of_file, wanted};
use super::{Loaded, Task, validity_of};
use crate::config::DomainName;
use crate::routing::Scheme;

impl Task {
    /// Takes what the file and KV name, and what is valid, as of now.
    pub(super) fn want(&mut self) {
        let listeners = self.config.listeners.iter();
        let with_tls = listeners.filter(|one| one.policy.scheme == Scheme::Https);
        self.shelf.wait = in_use(&self.config).map_or(Duration::ZERO, |acme| acme.wait);
        self.shelf.listeners = with_tls.map(|one| one.policy.name.clone()).collect();
        self.shelf.defaults = of_file(&self.config).collect();
        let now = SystemTime::now();
        let imported = self.shelf.imported.in_order();
        let present = Present {
            own: &self.shelf.own,
            imported: &imported,
            held: &self.shelf.held,
            now,
        };
        self.turns_at = present.next_turn();
        self.wanted = match in_use(&self.config) {
            Some(_) => wanted(&self.config, &self.kv_names.borrow_and_update(), &present),
            None => BTreeSet::new(),
        };
        self.tell_ends(now);
        let held = |name: &DomainName| {
            let held = self.shelf.held.get(name);
            (
                name.clone(),
                held.map(|held| validity_of(&held.certificate)),
            )
        };
        let acme = in_use(&self.config);
        let is_ours = |name: &&DomainName| acme.is_some_and(|acme| can_prove(acme, name));
        // Nothing is missing before it is known what there is.
        let wanted = match *self.loading.borrow_and_update() {
            Loaded::NotYet | Loaded::Remembered | Loaded::Unusable(_) => BTreeMap::new(),
            Loaded::Done => self.wanted.iter().filter(is_ours).map(held).collect(),
        };
        self.apply(Event::Wanted(wanted));
        self.ask_again();
        self.restock();
    }

    /// Whether names are wanted or not by a certificate of this name: a zone's, or one that a name has beside its zone.
    pub(super) fn matters(&self, name: &DomainName) -> bool {
        let is_loaded = *self.loaded.borrow() == Loaded::Done;
        is_loaded && (name.is_wildcard() || !self.wanted.contains(name))
    }

    /// Of the file's is warned when the file is read.
    fn tell_ends(&mut self, now: SystemTime) {
        let ended = self.shelf.imported.ended(now);
        for name in ended.difference(&self.told_ended) {
            tracing::warn!(
                name,
                "a certificate of one's own has ended: it keeps no name from being ordered any more, and is served where nothing else is"
            );
        }
        self.told_ended = ended;
    }
}
