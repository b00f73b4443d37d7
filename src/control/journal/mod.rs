//! The journal: what was observed and what was decided, in the order in which the model took it, so that [`replay`] comes to the same
//! table elsewhere.
//!
//! A process writes segments, files below `state_dir/journal`; each begins with a restatement of what is known ([`past`]), so that it
//! can be read without those before it. The control task never waits for a disk: records go through a bounded queue to a thread of
//! their own. What does not fit is counted, and a segment that begins anew says how many were lost. No secret is written
//! ([`form`]), and what changes nothing (the thousandth good probe) is not either.

pub mod changes;
pub mod digest;
pub mod form;
pub mod past;
pub mod reader;
pub mod replay;
mod writer;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use self::changes::{Answers, Changes};
use self::digest::Digests;
use self::past::Past;
use super::acme::Loaded;
use super::event::Event;
use super::model::{Model, Terms};
use crate::config::Config;
use crate::telemetry::Vitals;

/// Of the lines' form; a reader takes no other.
pub const FORMAT: u32 = 1;
/// Records that wait for the disk: some bursts of events. More are lost, and counted.
const QUEUE: usize = 8192;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// By the control plane's clock, in nanoseconds since 1970.
    #[serde(with = "form::nanoseconds")]
    pub at: SystemTime,
    pub what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The first record of a segment.
    Begin(Box<Begin>),
    /// What was applied to the model.
    Event(Event),
    /// The same, of an answer about documents.
    Changes(Changes),
    /// What came before in this segment restates what was known; from here on it is what happened.
    Restated,
    /// A table was published.
    Table { generation: u64, digest: String },
}

/// Whose a segment is, and what a model is made of that its events are applied to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Begin {
    pub version: String,
    pub node: String,
    /// Another one for each process.
    pub run: String,
    /// Counts the process's segments.
    pub segment: u64,
    /// Records that did not come into the segments before this one.
    pub lost: u64,
    /// Addresses that are never an upstream.
    pub own: Vec<SocketAddr>,
    pub certificates: Loaded,
    /// The process's first.
    #[serde(with = "form::file")]
    pub file: Arc<Config>,
}

/// What goes to the writer.
enum Entry {
    Record(Arc<Record>),
    /// A segment begins with these.
    Segment(Vec<Arc<Record>>),
}

/// The control task's end.
pub struct Journal {
    sender: SyncSender<Entry>,
    /// The writer wants a segment to begin.
    is_wanted: Arc<AtomicBool>,
    begin: Begin,
    began: SystemTime,
    past: Past,
    /// As the segment has them.
    answers: Answers,
    digests: Digests,
    vitals: Arc<Vitals>,
}

impl Journal {
    /// As the file wants it; None: it wants none, or none can be begun, which is named and costs nothing else.
    pub fn wanted(
        terms: &Terms,
        file: &Arc<Config>,
        now: SystemTime,
        vitals: &Arc<Vitals>,
    ) -> Option<Journal> {
        let (state_dir, size) = (file.node.state_dir.as_ref()?, file.node.journal);
        if size == 0 {
            return None;
        }
        Journal::start(state_dir, size, (terms, file), now, vitals.clone())
            .inspect_err(|error| tracing::warn!(%error, "there is no journal"))
            .ok()
    }

    /// Starts the writer's thread; the first segment begins with the first table. `size`: of all segments, in bytes.
    ///
    /// # Errors
    /// There is no thread to be had.
    fn start(
        state_dir: &Path,
        size: u64,
        of: (&Terms, &Arc<Config>),
        now: SystemTime,
        vitals: Arc<Vitals>,
    ) -> std::io::Result<Journal> {
        let (journal, entries) = Journal::open(of, now, vitals.clone());
        let is_wanted = journal.is_wanted.clone();
        let folder = state_dir.join("journal");
        writer::start(folder, size, entries, is_wanted, vitals)?;
        Ok(journal)
    }

    fn open(
        (terms, file): (&Terms, &Arc<Config>),
        now: SystemTime,
        vitals: Arc<Vitals>,
    ) -> (Journal, Receiver<Entry>) {
        let (sender, entries) = sync_channel(QUEUE);
        let journal = Journal {
            sender,
            is_wanted: Arc::new(AtomicBool::new(true)),
            begin: Begin {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                node: file.node.name.clone(),
                run: format!("{:08x}", fastrand::u32(..)),
                segment: 0,
                lost: 0,
                own: terms.bounds.own.clone(),
                certificates: terms.certificates.clone(),
                file: file.clone(),
            },
            began: now,
            past: Past::default(),
            answers: Answers::default(),
            digests: Digests::default(),
            vitals,
        };
        (journal, entries)
    }

    /// To be called before an event is applied, with the time that it is applied at.
    pub fn note(&mut self, model: &Model, event: &Event, at: SystemTime) {
        let is_due = model.next_tick().is_some_and(|due| due <= at);
        let event = match (model.learns_from(event), is_due) {
            (true, _) => event.clone(),
            (false, true) => Event::Tick,
            (false, false) => return,
        };
        let changes = self.answers.changes(&event);
        let what = What::Event(event);
        let record = Arc::new(Record { at, what });
        self.past.take(&record);
        self.send(match changes.map(What::Changes) {
            Some(what) => Arc::new(Record { at, what }),
            None => record,
        });
    }

    /// A table was made of the model as it is now.
    pub fn published(&mut self, model: &Model, generation: u64, at: SystemTime) {
        if self.is_wanted.swap(false, Relaxed) {
            self.begin_segment(model, at);
        }
        let digest = self.digests.of(model);
        let what = What::Table { generation, digest };
        self.send(Arc::new(Record { at, what }));
    }

    fn begin_segment(&mut self, model: &Model, at: SystemTime) {
        let begin = Record {
            at: self.began,
            what: What::Begin(Box::new(self.begin.clone())),
        };
        let mut records = vec![Arc::new(begin)];
        let restated = self.past.restated(model, at);
        self.answers = Answers::default();
        for record in &restated {
            if let What::Event(event) = &record.what {
                self.answers.see(event);
            }
        }
        records.extend(restated);
        let last = records.last().map_or(self.began, |record| record.at);
        let what = What::Restated;
        records.push(Arc::new(Record { at: last, what }));
        if self.sender.try_send(Entry::Segment(records)).is_ok() {
            self.begin.segment += 1;
            self.begin.lost = 0;
        } else {
            self.is_wanted.store(true, Relaxed);
        }
    }

    /// What is lost makes a new segment necessary: only a restatement makes up for it.
    fn send(&mut self, record: Arc<Record>) {
        if self.sender.try_send(Entry::Record(record)).is_err() {
            self.begin.lost += 1;
            self.vitals.journal_lost.fetch_add(1, Relaxed);
            self.is_wanted.store(true, Relaxed);
            // What follows may change what is not there.
            self.answers = Answers::default();
        }
    }
}

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;
