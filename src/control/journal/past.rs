//! What of the past a segment restates: of each thing that was ever observed the newest word, and those before it on which
//! decisions of today may hang. Pure.
//!
//! Replayed at their own times, these events lead to the same servers with the same signals. What they cannot tell is older than
//! they are: since when a signal says what it said before already, and transitions long ago. A replay that begins with the
//! oldest segment takes no restatement after the first one, so that it loses nothing of what the journal has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Record, What};
use crate::config::ConsulService;
use crate::control::consul::{Observation, Subtree};
use crate::control::event::Event;
use crate::control::model::Model;
use crate::routing::UpstreamKey;
use crate::routing::operator::{Matter, Order, Target};
use crate::routing::standing::HISTORY_LEN;

/// Answers younger than this count for the guard, whose window and deadline are shorter as a rule.
const RECENT: Duration = Duration::from_secs(900);
/// Answers of one thing at most.
const ANSWERS: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Service(ConsulService),
    Documents(Subtree),
    Tagged,
    Strays,
    Failing(String),
    Name(String),
    Server(UpstreamKey),
    Word(Target),
    Accepted(Matter),
    Reread(ConsulService),
    Certificates,
    Remembered,
    Troubles,
}

#[derive(Debug, Default)]
pub struct Past(BTreeMap<Key, VecDeque<Arc<Record>>>);

impl Past {
    /// Takes a record that is newer than all before.
    pub fn take(&mut self, record: &Arc<Record>) {
        let What::Event(event) = &record.what else {
            return;
        };
        match event {
            // A segment begins with the newest file.
            Event::File(_) | Event::Tick => {}
            Event::Consul(observation) => self.observe(observation, record),
            Event::Resolved { name, .. } => {
                let key = Key::Name(name.clone());
                self.push(key, record, &|event| {
                    matches!(event, Event::Resolved { answer: Ok(_), .. })
                });
            }
            Event::Probed { key, .. } | Event::Ejected { key, .. } | Event::Tried { key, .. } => {
                let records = self.0.entry(Key::Server(key.clone())).or_default();
                records.push_back(record.clone());
                if records.len() > HISTORY_LEN {
                    records.pop_front();
                }
            }
            Event::Ordered(Order::Drain { target, .. }) => {
                self.replace(Key::Word(target.clone()), record);
            }
            Event::Ordered(Order::Undrain { target, .. }) => {
                self.0.remove(&Key::Word(target.clone()));
            }
            Event::Ordered(Order::Accept { matter, .. }) => {
                self.replace(Key::Accepted(matter.clone()), record);
            }
            Event::Certificates(_) => self.replace(Key::Certificates, record),
            Event::Remembered(_) => self.replace(Key::Remembered, record),
            Event::Troubles(_) => self.replace(Key::Troubles, record),
        }
    }

    fn observe(&mut self, observation: &Observation, record: &Arc<Record>) {
        match observation {
            Observation::Instances { watch, .. } => {
                self.push(Key::Service(watch.clone()), record, &|event| {
                    matches!(event, Event::Consul(Observation::Instances { instances, .. }) if !instances.is_empty())
                });
            }
            Observation::Documents { subtree, .. } => {
                self.push(Key::Documents(*subtree), record, &|event| {
                    matches!(event, Event::Consul(Observation::Documents { documents, .. }) if !documents.is_empty())
                });
            }
            Observation::Tagged { .. } => self.replace(Key::Tagged, record),
            Observation::Reread { watch, .. } => self.replace(Key::Reread(watch.clone()), record),
            Observation::Strays(_) => self.replace(Key::Strays, record),
            Observation::Failing { watch, .. } => {
                self.replace(Key::Failing(watch.clone()), record);
            }
            Observation::Recovered { watch } => {
                self.0.remove(&Key::Failing(watch.clone()));
            }
        }
    }

    fn replace(&mut self, key: Key, record: &Arc<Record>) {
        self.0.insert(key, [record.clone()].into());
    }

    /// The newest, the newest that says something, and those that are recent.
    fn push(&mut self, key: Key, record: &Arc<Record>, says_something: &dyn Fn(&Event) -> bool) {
        let records = self.0.entry(key).or_default();
        records.push_back(record.clone());
        let says = |record: &Arc<Record>| match &record.what {
            What::Event(event) => says_something(event),
            What::Begin(_) | What::Restated | What::Table { .. } => false,
        };
        let telling = records.iter().rev().find(|record| says(record)).cloned();
        let is_telling =
            |one: &Arc<Record>| telling.as_ref().is_some_and(|kept| Arc::ptr_eq(one, kept));
        let is_newest = |one: &Arc<Record>| Arc::ptr_eq(one, record);
        records.retain(|one| is_newest(one) || is_telling(one) || is_recent(one.at, record.at));
        while records.len() > ANSWERS
            && let Some(at) = records.iter().position(|one| !is_telling(one))
        {
            records.remove(at);
        }
    }

    /// All of it in the order of time. What nobody asks for any more is forgotten, but of servers that left not why they did as long
    /// as there are answers with them.
    pub fn restated(&mut self, model: &Model, now: SystemTime) -> Vec<Arc<Record>> {
        let (watches, names) = (model.watches(), model.names());
        self.0.retain(|key, records| match key {
            Key::Service(watch) | Key::Reread(watch) => watches.contains(watch),
            Key::Name(name) => names.contains(name),
            Key::Server(key) => {
                let service = model.services().get(&key.service);
                let is_there =
                    service.is_some_and(|service| service.members().contains_key(&key.address));
                is_there || records.back().is_some_and(|last| is_recent(last.at, now))
            }
            Key::Documents(_)
            | Key::Tagged
            | Key::Strays
            | Key::Failing(_)
            | Key::Word(_)
            | Key::Accepted(_)
            | Key::Certificates
            | Key::Remembered
            | Key::Troubles => true,
        });
        let mut records: Vec<Arc<Record>> = self.0.values().flatten().cloned().collect();
        records.sort_by_key(|record| record.at);
        records
    }
}

fn is_recent(at: SystemTime, now: SystemTime) -> bool {
    now.duration_since(at).is_ok_and(|age| age < RECENT)
}
