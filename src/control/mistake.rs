//! An entry that could not be taken, before it is dated.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::routing::snapshot::EntryMistake;

/// What is in force instead of a wrong entry.
pub const LAST_GOOD: &str = "last good version";
pub const IGNORED: &str = "ignored";
pub const UNAVAILABLE: &str = "503";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub entry: String,
    pub message: String,
    pub in_force: &'static str,
}

impl Mistake {
    pub fn new(
        entry: impl Into<String>,
        message: impl Into<String>,
        in_force: &'static str,
    ) -> Mistake {
        Mistake {
            entry: entry.into(),
            message: message.into(),
            in_force,
        }
    }
}

/// Since when each mistake is known, and what of it was said already.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<(String, String), SystemTime>);

/// What changed between two dated lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    pub made: Vec<EntryMistake>,
    /// `entry: message` of those that are gone.
    pub mended: Vec<String>,
}

impl Ledger {
    /// Dates `found`, keeping the dates of what was known; names what is new and what is gone.
    pub fn date(&mut self, found: Vec<Mistake>, now: SystemTime) -> (Vec<EntryMistake>, News) {
        let mut before = std::mem::take(&mut self.0);
        let mut news = News::default();
        let mut dated = Vec::with_capacity(found.len());
        for mistake in found {
            let key = (mistake.entry.clone(), mistake.message.clone());
            let known = before.remove(&key).or_else(|| self.0.get(&key).copied());
            let entry = EntryMistake {
                entry: mistake.entry,
                message: mistake.message,
                in_force: mistake.in_force,
                since: known.unwrap_or(now),
            };
            if known.is_none() {
                news.made.push(entry.clone());
            }
            self.0.insert(key, entry.since);
            dated.push(entry);
        }
        news.mended = before
            .into_keys()
            .map(|(entry, message)| format!("{entry}: {message}"))
            .collect();
        (dated, news)
    }
}
