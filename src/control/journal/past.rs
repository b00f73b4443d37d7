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
use crate::control::consul::{Document, Observation, Subtree};
use crate::control::event::Event;
use crate::control::model::Model;
use crate::routing::UpstreamKey;
use crate::routing::operator::{Matter, Order};
use crate::routing::standing::HISTORY_LEN;

mod words;
use self::words::Words;

/// Answers younger than this count for the guard, whose window and deadline are shorter as a rule.
const RECENT: Duration = Duration::from_secs(900);
/// Answers of one thing at most.
const ANSWERS: usize = 32;

/// Files at most: each may be large.
const FILES: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    File,
    Service(ConsulService),
    Documents(Subtree),
    Tagged,
    Strays,
    Failing(String),
    Name(String),
    Server(UpstreamKey),
    Accepted(Matter),
    Reread(ConsulService),
    Certificates,
    Remembered,
    Troubles,
}

#[derive(Debug, Default)]
pub struct Past {
    things: BTreeMap<Key, VecDeque<Arc<Record>>>,
    words: Words,
}

impl Past {
    /// Takes a record that is newer than all before.
    pub fn take(&mut self, record: &Arc<Record>) {
        let What::Event(event) = &record.what else {
            return;
        };
        match event {
            Event::Tick => {}
            Event::File(_) => self.reload(record),
            Event::Consul(observation) => self.observe(observation, record),
            Event::Resolved { name, .. } => {
                let key = Key::Name(name.clone());
                self.push(key, record, &|event| {
                    matches!(event, Event::Resolved { answer: Ok(_), .. })
                });
            }
            Event::Probed { key, .. } | Event::Ejected { key, .. } | Event::Tried { key, .. } => {
                let records = self.things.entry(Key::Server(key.clone())).or_default();
                records.push_back(record.clone());
                if records.len() > HISTORY_LEN {
                    records.pop_front();
                }
            }
            Event::Ordered(Order::Drain { .. } | Order::Undrain { .. }) => self.words.take(record),
            Event::Ordered(Order::Accept { matter, .. }) => {
                self.replace(Key::Accepted(matter.clone()), record);
            }
            Event::Certificates(_) => self.replace(Key::Certificates, record),
            Event::Remembered(_) => self.replace(Key::Remembered, record),
            Event::Troubles(_) => self.replace(Key::Troubles, record),
        }
    }

    /// Those that are recent, and the one that was in force before them. The first file of all begins each segment.
    fn reload(&mut self, record: &Arc<Record>) {
        let records = self.things.entry(Key::File).or_default();
        records.push_back(record.clone());
        let is_over = |next: &Arc<Record>| !is_recent(next.at, record.at);
        while records.len() > FILES || records.get(1).is_some_and(is_over) {
            records.pop_front();
        }
    }

    fn observe(&mut self, observation: &Observation, record: &Arc<Record>) {
        match observation {
            Observation::Instances { watch, .. } => {
                self.push(Key::Service(watch.clone()), record, &|event| {
                    matches!(event, Event::Consul(Observation::Instances { instances, .. }) if !instances.is_empty())
                });
            }
            // What those before it left is told by the model.
            Observation::Documents { subtree, .. } if is_retold(*subtree) => {
                self.replace(Key::Documents(*subtree), record);
            }
            // Which of them begins a doubt is known once they are told.
            Observation::Documents {
                subtree: Subtree::Pod,
                ..
            } => {
                let records = self.things.entry(Key::Documents(Subtree::Pod)).or_default();
                records.push_back(record.clone());
                if records.len() > ANSWERS {
                    records.remove(1);
                }
            }
            Observation::Documents { subtree, .. } => {
                self.push(Key::Documents(*subtree), record, &|event| {
                    matches!(event, Event::Consul(Observation::Documents { documents, .. }) if !documents.is_empty())
                });
            }
            Observation::Tagged { .. } => self.replace(Key::Tagged, record),
            Observation::Reread { watch, .. } => {
                self.push(Key::Reread(watch.clone()), record, &|_| true);
            }
            Observation::Strays(_) => self.replace(Key::Strays, record),
            Observation::Failing { watch, .. } => {
                self.replace(Key::Failing(watch.clone()), record);
            }
            Observation::Recovered { watch } => {
                self.things.remove(&Key::Failing(watch.clone()));
            }
        }
    }

    fn replace(&mut self, key: Key, record: &Arc<Record>) {
        self.things.insert(key, [record.clone()].into());
    }

    /// Those that are recent with the one before them, and the newest that says something.
    fn push(&mut self, key: Key, record: &Arc<Record>, says_something: &dyn Fn(&Event) -> bool) {
        let records = self.things.entry(key).or_default();
        records.push_back(record.clone());
        let says = |record: &Arc<Record>| match &record.what {
            What::Event(event) => says_something(event),
            What::Begin(_) | What::Changes(_) | What::Restated | What::Table { .. } => false,
        };
        // One that is not recent is what those that are have changed, if it is the last such that says something.
        let recent = records
            .iter()
            .filter(|one| is_recent(one.at, record.at))
            .count();
        let mut from = records.len().saturating_sub(recent + 1);
        while from > 0 && !says(&records[from]) {
            from -= 1;
        }
        records.drain(..from);
        while records.len() > ANSWERS {
            records.remove(1);
        }
    }

    /// All of it in the order of time. What nobody asks for any more is forgotten, but of servers that left not why they did as long
    /// as there are answers with them.
    pub fn restated(&mut self, model: &Model, now: SystemTime) -> Vec<Arc<Record>> {
        let (watches, names) = (model.watches(), model.names());
        self.things.retain(|key, records| match key {
            Key::Service(watch) | Key::Reread(watch) => watches.contains(watch),
            Key::Name(name) => names.contains(name),
            Key::Server(key) => {
                let service = model.services().get(&key.service);
                let is_there =
                    service.is_some_and(|service| service.members().contains_key(&key.address));
                is_there || records.back().is_some_and(|last| is_recent(last.at, now))
            }
            Key::File
            | Key::Documents(_)
            | Key::Tagged
            | Key::Strays
            | Key::Failing(_)
            | Key::Accepted(_)
            | Key::Certificates
            | Key::Remembered
            | Key::Troubles => true,
        });
        if let Some(records) = self.things.get_mut(&Key::Documents(Subtree::Pod)) {
            forget_before(records, model.documents().pod_id());
        }
        let firsts = self.firsts(model);
        let told = self.things.iter().flat_map(|(key, records)| {
            let first = firsts.get(key).copied();
            let shifted = move |(place, record): (usize, &Arc<Record>)| match (place, first) {
                (0, Some(at)) if at < record.at => Arc::new(Record {
                    at,
                    what: record.what.clone(),
                }),
                _ => record.clone(),
            };
            records.iter().enumerate().map(shifted)
        });
        let mut told: Vec<Arc<Record>> = told.chain(self.words.told()).collect();
        told.sort_by_key(|record| record.at);
        let first = told.first().map_or(now, |record| record.at);
        let retold = model.documents().retold().into_iter();
        let is_heard = |(subtree, _): &(Subtree, Vec<Document>)| {
            is_retold(*subtree) && self.things.contains_key(&Key::Documents(*subtree))
        };
        let retold = retold.filter(is_heard);
        retold
            .map(|answer| as_if_heard(answer, first))
            .chain(told)
            .collect()
    }

    /// What brings servers, with the moment before the first that is told of one of them: by then it has to be there, though the
    /// answer that brought it is forgotten.
    fn firsts(&self, model: &Model) -> BTreeMap<Key, SystemTime> {
        let mut firsts = BTreeMap::new();
        for (key, records) in &self.things {
            let (Key::Server(server), Some(record)) = (key, records.front()) else {
                continue;
            };
            let Some(state) = model.services().get(&server.service) else {
                continue;
            };
            if let Some(watch) = state.watch() {
                let first = firsts.entry(Key::Service(watch.clone()));
                let first = first.or_insert(record.at);
                *first = record.at.min(*first);
            }
        }
        firsts
            .values_mut()
            .for_each(|at| *at = at.checked_sub(Duration::from_nanos(1)).unwrap_or(*at));
        firsts
    }
}

/// Answers about the pod's id before it was last heard as it is believed say nothing; nor do any but the newest where none is.
fn forget_before(records: &mut VecDeque<Arc<Record>>, id: Option<&Document>) {
    let is_it = |record: &Arc<Record>| {
        let What::Event(Event::Consul(Observation::Documents { documents, .. })) = &record.what
        else {
            return false;
        };
        documents.first().map(|heard| &heard.value) == id.map(|id| &id.value)
    };
    // Not among them: it is remembered from before the start.
    let from = records.iter().rposition(is_it).unwrap_or(0);
    records.drain(..from);
}

/// Subtrees whose documents may be wrong, held back or doubted, so that those of answers long ago are in force.
fn is_retold(subtree: Subtree) -> bool {
    match subtree {
        Subtree::Services | Subtree::Routes | Subtree::Domains => true,
        // Doubts of before hang on the tuning that was in force then.
        Subtree::Tuning
        | Subtree::OperatorDrain
        | Subtree::OperatorAccept
        | Subtree::Apply
        | Subtree::Canary
        | Subtree::Pod => false,
    }
}

/// An answer about documents before all else that is told.
fn as_if_heard((subtree, documents): (Subtree, Vec<Document>), first: SystemTime) -> Arc<Record> {
    let documents = documents.into();
    let heard = Observation::Documents { subtree, documents };
    Arc::new(Record {
        at: first.checked_sub(Duration::from_nanos(1)).unwrap_or(first),
        what: What::Event(Event::Consul(heard)),
    })
}

fn is_recent(at: SystemTime, now: SystemTime) -> bool {
    now.duration_since(at).is_ok_and(|age| age < RECENT)
}
