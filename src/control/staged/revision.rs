//! Revisions: what of a pod's documents was changed by whom, before and after, and how a state is put together from them. Pure.
//!
//! A revision holds what changed. Every [`CHECKPOINT_EACH`]th holds all documents besides, so that a state is the last such one and
//! what changed since, and older revisions can be dropped.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::live::Live;
use crate::routing::staged::Staged;
use crate::seal::{Digest, hex};

/// A revision's text is cut into pieces of so many bytes: each is a value of its own.
pub const PART_BYTES: usize = 256 * 1024;
/// Revisions that are kept at least; older ones are dropped up to a checkpoint.
pub const KEPT: u64 = 200;
/// And so many bytes of them at most, but for what follows the newest checkpoint.
pub const KEPT_BYTES: usize = 16 * 1024 * 1024;
/// Revisions from one that holds all documents to the next.
pub const CHECKPOINT_EACH: u64 = 50;
/// Whose change it is that nobody announced.
pub const BY_HAND: &str = "by hand";

/// A document's bytes, readable wherever they are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    Plain(String),
    Hex { hex: String },
}

/// All documents by path.
pub type State = BTreeMap<String, Text>;

/// One document in a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Text>,
    /// It did not change; in checkpoints alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same: Option<Text>,
}

/// `revisions/<n>/head`, written last: without it there is no revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub n: u64,
    /// Unix seconds.
    pub at: u64,
    pub by: String,
    pub note: String,
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    /// Pieces of its text: `revisions/<n>/1` and so on.
    pub parts: usize,
    pub bytes: usize,
    pub is_checkpoint: bool,
    /// Of all documents afterwards.
    pub state: String,
}

/// `revisions/last`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub n: u64,
    /// Of all documents after it.
    pub state: String,
    /// The newest that holds all documents.
    pub checkpoint: u64,
}

/// `revisions/pending/<id>`, written together with a change by whoever makes it, so that its revision says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub by: String,
    pub note: String,
    /// Of all documents once the change is made.
    pub state: String,
}

impl Text {
    pub fn of(bytes: &[u8]) -> Text {
        match std::str::from_utf8(bytes) {
            Ok(text) => Text::Plain(text.to_owned()),
            Err(_) => Text::Hex { hex: hex(bytes) },
        }
    }

    /// As people are shown it.
    pub fn shown(&self) -> &str {
        match self {
            Text::Plain(text) => text,
            Text::Hex { hex } => hex,
        }
    }
}

/// The state that live documents are.
pub fn state_of(live: &Live) -> State {
    live.iter()
        .map(|(path, document)| (path.clone(), Text::of(&document.value)))
        .collect()
}

/// The state once `staged` stands there.
pub fn state_with(live: &Live, staged: &Staged) -> State {
    let mut state = state_of(live);
    for (path, _) in live.of_kinds(&staged.kinds) {
        state.remove(path);
    }
    let staged = staged.documents.iter();
    state.extend(staged.map(|(path, text)| (path.clone(), Text::Plain(text.clone()))));
    state
}

/// The same for the same documents, whoever asks.
pub fn hash(state: &State) -> String {
    let mut bytes = Vec::new();
    for (path, text) in state {
        for part in [path.as_str(), text.shown()] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    Digest::of(&bytes).to_hex()
}

/// What changed, by path; with `all`, what did not besides.
pub fn entries(before: &State, after: &State, all: Scope) -> Vec<Entry> {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let entry = |path: &String| {
        let (before, after) = (before.get(path), after.get(path));
        let is_same = before == after;
        if is_same && all == Scope::Changes {
            return None;
        }
        Some(Entry {
            path: path.clone(),
            before: before.filter(|_| !is_same).cloned(),
            after: after.filter(|_| !is_same).cloned(),
            same: after.filter(|_| is_same).cloned(),
        })
    };
    paths.into_iter().filter_map(entry).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Changes,
    All,
}

/// Of a revision's entries: added, changed, removed.
pub fn counts(entries: &[Entry]) -> (usize, usize, usize) {
    let count = |is_so: fn(&Entry) -> bool| entries.iter().filter(|entry| is_so(entry)).count();
    (
        count(|entry| entry.before.is_none() && entry.after.is_some()),
        count(|entry| entry.before.is_some() && entry.after.is_some()),
        count(|entry| entry.before.is_some() && entry.after.is_none()),
    )
}

/// Follows one revision.
pub fn follow(state: &mut State, head: &Head, entries: Vec<Entry>) {
    if head.is_checkpoint {
        state.clear();
    }
    for entry in entries {
        match entry.after.or(entry.same) {
            Some(text) => drop(state.insert(entry.path, text)),
            None => drop(state.remove(&entry.path)),
        }
    }
}

/// Pieces of at most [`PART_BYTES`], between characters.
pub fn parts(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while !text.is_empty() {
        let end = text.floor_char_boundary(PART_BYTES);
        let (part, rest) = text.split_at(end);
        parts.push(part);
        text = rest;
    }
    parts
}

/// Whose change it is, and what for: `pending` are those that were announced, `state` is what there is now.
pub fn author(pending: &[Pending], state: &str, is_first: bool) -> (String, String) {
    let is_announced = pending.iter().any(|one| one.state == state);
    let by = pending.iter().map(|one| one.by.as_str());
    let by_hand = (!is_announced).then_some(BY_HAND);
    let by: Vec<&str> = by.chain(by_hand).collect();
    let notes = pending.iter().map(|one| one.note.as_str());
    let notes: Vec<&str> = notes.filter(|note| !note.is_empty()).collect();
    let note = match notes.is_empty() && pending.is_empty() && is_first {
        true => "as it was found".to_owned(),
        false => notes.join("; "),
    };
    (by.join(", "), note)
}

/// Revisions to be dropped, so that what is left begins with a checkpoint.
pub fn outdated(heads: &[Head]) -> Vec<u64> {
    let Some(newest) = heads.iter().map(|head| head.n).max() else {
        return Vec::new();
    };
    let bytes_from = |n: u64| {
        let from = heads.iter().filter(|head| head.n >= n);
        from.map(|head| head.bytes).sum::<usize>()
    };
    let mut checkpoints: Vec<u64> = heads
        .iter()
        .filter(|head| head.is_checkpoint)
        .map(|head| head.n)
        .collect();
    checkpoints.sort_unstable();
    let of_number = checkpoints.iter().rev().find(|&&n| newest - n + 1 >= KEPT);
    let of_size = checkpoints
        .iter()
        .find(|&&n| bytes_from(n) <= KEPT_BYTES)
        .or(checkpoints.last());
    let first = of_number.max(of_size).copied().unwrap_or(0);
    let old = heads.iter().map(|head| head.n).filter(|&n| n < first);
    old.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(documents: &[(&str, &str)]) -> State {
        let documents = documents.iter();
        documents
            .map(|(path, text)| ((*path).to_owned(), Text::Plain((*text).to_owned())))
            .collect()
    }

    fn head(n: u64, is_checkpoint: bool, bytes: usize) -> Head {
        Head {
            n,
            at: 0,
            by: String::new(),
            note: String::new(),
            added: 0,
            changed: 0,
            removed: 0,
            parts: 1,
            bytes,
            is_checkpoint,
            state: String::new(),
        }
    }

    #[test]
    fn what_changed_leads_from_one_state_to_the_next_and_a_checkpoint_from_any() {
        let before = state(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let after = state(&[("b", "2"), ("c", "4"), ("d", "5")]);
        let changes = entries(&before, &after, Scope::Changes);
        assert_eq!(counts(&changes), (1, 1, 1));
        let mut followed = before.clone();
        follow(&mut followed, &head(2, false, 0), changes);
        assert_eq!(followed, after);
        let all = entries(&before, &after, Scope::All);
        assert_eq!(counts(&all), (1, 1, 1));
        let mut followed = state(&[("x", "whatever")]);
        follow(&mut followed, &head(2, true, 0), all);
        assert_eq!(followed, after);
    }

    #[test]
    fn states_are_told_apart_and_bytes_that_are_no_text_are_kept() {
        assert_ne!(hash(&state(&[("a", "bc")])), hash(&state(&[("ab", "c")])));
        assert_eq!(Text::of(b"\xff\0").shown(), "ff00");
        let entry = entries(&State::new(), &state(&[("a", "1")]), Scope::Changes);
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(text, r#"[{"path":"a","after":"1"}]"#);
        assert_eq!(serde_json::from_str::<Vec<Entry>>(&text).unwrap(), entry);
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_loses_nothing() {
        let text = format!("x{}", "é".repeat(PART_BYTES));
        let parts = parts(&text);
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
        assert_eq!(parts.concat(), text);
    }

    #[test]
    fn an_author_is_who_announced_it_and_whatever_else_changed_was_by_hand() {
        let of = |state: &str| Pending {
            by: "ops".into(),
            note: "why".into(),
            state: state.into(),
        };
        let said = |pending: &[Pending], is_first| {
            let (by, note) = author(pending, "now", is_first);
            format!("{by}: {note}")
        };
        assert_eq!(said(&[], false), "by hand: ");
        assert_eq!(said(&[], true), "by hand: as it was found");
        assert_eq!(said(&[of("now")], true), "ops: why");
        assert_eq!(said(&[of("other")], false), "ops, by hand: why");
        assert_eq!(said(&[of("other"), of("now")], false), "ops, ops: why; why");
    }

    #[test]
    fn at_least_200_are_kept_and_what_is_kept_begins_with_a_checkpoint() {
        let heads: Vec<Head> = (1..=251)
            .map(|n| head(n, n % CHECKPOINT_EACH == 1, 10))
            .collect();
        assert_eq!(outdated(&heads), (1..=50).collect::<Vec<_>>());
        assert!(outdated(&heads[..249]).is_empty());
        let large: Vec<Head> = (1..=151)
            .map(|n| head(n, n % CHECKPOINT_EACH == 1, KEPT_BYTES / 70))
            .collect();
        assert_eq!(outdated(&large), (1..=100).collect::<Vec<_>>());
        assert!(outdated(&[head(1, true, KEPT_BYTES * 2)]).is_empty());
    }
}
