//! One subtree's documents: which are there, their last good versions, and whether the subtree as a whole is doubted. Pure.
//!
//! There are ten thousand of them and one of them changes: what stays is shared, and nothing is looked up by name.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use super::laid::Laid;
use crate::control::consul::Document;
use crate::control::fleet::status::Fingerprint;
use crate::control::mistake::{IGNORED, LAST_GOOD, Mistake};

#[derive(Clone, Debug)]
pub struct Tree<T> {
    pub(super) is_answered: bool,
    pub(super) is_doubted: bool,
    /// An answer that came while the pod's id was missing.
    pub(super) held: Option<Arc<[Document]>>,
    /// By name.
    pub(super) entries: Arc<[Arc<Entry<T>>]>,
    /// What a canary has in the place of an entry, or besides.
    pub(super) laid: BTreeMap<String, Laid<T>>,
    /// Those with a good version, in the order in which they win.
    in_force: Arc<[Arc<Entry<T>>]>,
    /// Those with a mistake.
    wrong: Arc<[Arc<Entry<T>>]>,
    /// The highest ModifyIndex of what was last heard.
    index: u64,
    /// Of names and texts, as they were last taken.
    content: Fingerprint,
}

#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) document: Document,
    pub(super) good: Option<T>,
    /// What the good version was read from.
    good_text: Arc<[u8]>,
    pub(super) mistake: Option<String>,
    fingerprint: Fingerprint,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree {
            is_answered: false,
            is_doubted: false,
            held: None,
            entries: Arc::default(),
            laid: BTreeMap::new(),
            in_force: Arc::default(),
            wrong: Arc::default(),
            index: 0,
            content: Fingerprint::default(),
        }
    }
}

impl<T: Clone> Tree<T> {
    /// Whether Consul has said even once what is in it.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Good versions in force: the lower CreateIndex first, then by name.
    pub fn in_force(&self) -> impl Iterator<Item = (&str, &T)> {
        let entries = self.in_force.iter();
        entries.filter_map(|entry| Some((entry.document.name.as_str(), entry.good.as_ref()?)))
    }

    /// The highest ModifyIndex of what was last heard; 0: there is nothing.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    pub(super) fn content(&self) -> Fingerprint {
        self.content
    }

    pub(super) fn observe(
        &mut self,
        documents: &[Document],
        parse: impl Fn(&Document) -> Result<T, String>,
    ) {
        self.is_answered = true;
        self.is_doubted = documents.is_empty() && !self.entries.is_empty();
        if self.is_doubted {
            return;
        }
        self.index = newest(documents);
        let before = self.entries.clone();
        let mut before = before.iter().peekable();
        let read = |document: &&Document| {
            let known = next_of(&mut before, &document.name);
            Entry::read(known, document, &parse)
        };
        let entries = by_name(documents).iter().map(read).collect();
        self.take(entries);
    }

    /// What made it doubted is taken as it is.
    pub(super) fn accept(&mut self) {
        if std::mem::take(&mut self.is_doubted) {
            self.index = 0;
            self.take(Vec::new());
        }
    }

    /// Takes what was kept: in force, and answered by nobody.
    pub(super) fn remember(
        &mut self,
        documents: Vec<Document>,
        parse: impl Fn(&Document) -> Result<T, String>,
    ) {
        self.index = newest(&documents);
        let read = |document: &&Document| Entry::read(None, document, &parse);
        let entries = by_name(&documents).iter().map(read).collect();
        self.take(entries);
    }

    /// Good versions, as they were written.
    pub(super) fn kept(&self) -> Vec<Document> {
        let good = self.entries.iter().filter(|entry| entry.good.is_some());
        let good = good.map(|entry| Document {
            value: entry.good_text.clone(),
            ..entry.document.clone()
        });
        good.collect()
    }

    /// What answers of before left, as two of them: the last good versions of those that are wrong now, and all as they were last taken.
    pub(super) fn retold(&self) -> [Vec<Document>; 2] {
        let outlived = self.wrong.iter().filter(|entry| entry.good.is_some());
        let outlived = outlived.map(|entry| Document {
            value: entry.good_text.clone(),
            ..entry.document.clone()
        });
        let taken = self.entries.iter().map(|entry| entry.document.clone());
        [outlived.collect(), taken.collect()]
    }

    /// Reads each document again: what it is read against has changed.
    pub(super) fn read_again(&mut self, parse: impl Fn(&Document) -> Result<T, String>) {
        for laid in self.laid.values_mut() {
            laid.read_again(&parse);
        }
        let again = |entry: &Arc<Entry<T>>| entry.read_again(&parse);
        let entries = self.entries.iter().map(again).collect();
        self.take(entries);
    }

    /// `lost` is why Consul is believed to have lost its state.
    pub(super) fn mistakes(&self, root: &str, lost: Option<&str>, into: &mut Vec<Mistake>) {
        let lost = lost.filter(|_| !self.entries.is_empty());
        let lost = lost.map(|why| format!("{why}: consul may have lost its state"));
        let emptied = || "it is empty where documents were".to_owned();
        if let Some(why) = lost.or_else(|| self.is_doubted.then(emptied)) {
            let reason = format!("{why}; rota accept documents takes it as it is");
            into.push(Mistake::new(format!("kv:{root}"), reason, LAST_GOOD));
        }
        for entry in self.wrong.iter() {
            let (Some(message), name) = (&entry.mistake, &entry.document.name) else {
                continue;
            };
            let in_force = if entry.good.is_some() {
                LAST_GOOD
            } else {
                IGNORED
            };
            let key = if name.is_empty() {
                format!("kv:{root}")
            } else {
                format!("kv:{root}/{name}")
            };
            into.push(Mistake::new(key, message.clone(), in_force));
        }
        self.laid_mistakes(root, into);
    }

    fn take(&mut self, entries: Vec<Arc<Entry<T>>>) {
        let in_force = |entry: &Arc<Entry<T>>| {
            let in_force = match self.laid.get(&entry.document.name) {
                None => entry,
                Some(laid) => laid.instead_of(entry)?,
            };
            let place = entry.document.create_index;
            in_force.good.is_some().then(|| (place, in_force.clone()))
        };
        let mut found: Vec<(u64, Arc<Entry<T>>)> = entries.iter().filter_map(in_force).collect();
        // Those that KV does not have are the youngest of all.
        found.extend(self.added(&entries).map(|entry| (u64::MAX, entry.clone())));
        // By name already, and equals stay as they are.
        found.sort_by_key(|&(place, _)| place);
        self.in_force = found.into_iter().map(|(_, entry)| entry).collect();
        let wrong = entries.iter().filter(|entry| entry.mistake.is_some());
        self.wrong = wrong.cloned().collect();
        let fingerprints = entries.iter().map(|entry| entry.fingerprint);
        self.content = fingerprints.fold(Fingerprint::default(), Fingerprint::with);
        self.entries = entries.into();
    }

    /// Lays other entries over those of KV, or none any more.
    pub(super) fn lay(&mut self, laid: BTreeMap<String, Laid<T>>) {
        if laid.is_empty() && self.laid.is_empty() {
            return;
        }
        self.laid = laid;
        self.take(self.entries.to_vec());
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Arc<Entry<T>>> {
        find(&self.entries, name)
    }

    fn added<'a>(
        &'a self,
        entries: &'a [Arc<Entry<T>>],
    ) -> impl Iterator<Item = &'a Arc<Entry<T>>> {
        let added = self.laid.iter();
        let added = added.filter(move |(name, _)| find(entries, name).is_none());
        added.filter_map(|(_, laid)| laid.entry().filter(|entry| entry.good.is_some()))
    }
}

/// Among entries by name.
fn find<'a, T>(entries: &'a [Arc<Entry<T>>], name: &str) -> Option<&'a Arc<Entry<T>>> {
    let place = entries.binary_search_by(|entry| entry.document.name.as_str().cmp(name));
    Some(&entries[place.ok()?])
}

impl<T: Clone> Entry<T> {
    /// What it is read against has changed.
    pub(super) fn read_again(
        &self,
        parse: impl Fn(&Document) -> Result<T, String>,
    ) -> Arc<Entry<T>> {
        let document = self.document.clone();
        Arc::new(match parse(&document) {
            Ok(good) => Entry::good(document, good),
            Err(message) => Entry {
                document,
                good: self.good.clone(),
                good_text: self.good_text.clone(),
                mistake: Some(message),
                fingerprint: self.fingerprint,
            },
        })
    }

    pub(super) fn read(
        known: Option<&Arc<Entry<T>>>,
        document: &Document,
        parse: impl Fn(&Document) -> Result<T, String>,
    ) -> Arc<Entry<T>> {
        if let Some(entry) = known.filter(|entry| entry.document.value == document.value) {
            let is_the_same = entry.document.create_index == document.create_index;
            return match is_the_same {
                true => entry.clone(),
                false => Arc::new(Entry {
                    document: document.clone(),
                    good: entry.good.clone(),
                    good_text: entry.good_text.clone(),
                    mistake: entry.mistake.clone(),
                    fingerprint: entry.fingerprint,
                }),
            };
        }
        let document = document.clone();
        Arc::new(match parse(&document) {
            Ok(good) => Entry::good(document, good),
            Err(message) => Entry {
                good: known.and_then(|entry| entry.good.clone()),
                good_text: known.map_or_else(Arc::default, |entry| entry.good_text.clone()),
                mistake: Some(message),
                fingerprint: fingerprint_of(&document),
                document,
            },
        })
    }
}

impl<T> Entry<T> {
    fn good(document: Document, good: T) -> Entry<T> {
        Entry {
            good_text: document.value.clone(),
            fingerprint: fingerprint_of(&document),
            document,
            good: Some(good),
            mistake: None,
        }
    }
}

/// Of what it says: its indexes move with every write, of the same text too.
fn fingerprint_of(document: &Document) -> Fingerprint {
    Fingerprint::of(&[document.name.as_bytes(), b"\0", &document.value].concat())
}

fn newest(documents: &[Document]) -> u64 {
    let indexes = documents.iter().map(|document| document.modify_index);
    indexes.max().unwrap_or(0)
}

/// As Consul gives them, but whoever reads a journal or writes a test may not.
fn by_name(documents: &[Document]) -> Vec<&Document> {
    let mut sorted: Vec<&Document> = documents.iter().collect();
    sorted.sort_by_key(|document| &document.name);
    sorted.dedup_by(|later, first| later.name == first.name);
    sorted
}

/// The entry of this name, if there is one; those before it are passed over for good.
fn next_of<'a, T: 'a>(
    entries: &mut Peekable<impl Iterator<Item = &'a Arc<Entry<T>>>>,
    name: &str,
) -> Option<&'a Arc<Entry<T>>> {
    loop {
        match entries.peek()?.document.name.as_str().cmp(name) {
            Ordering::Less => {
                entries.next();
            }
            Ordering::Equal => return entries.next(),
            Ordering::Greater => return None,
        }
    }
}
