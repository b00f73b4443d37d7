//! Revisions as they lie in KV: read whole, of one moment.
//!
//! What nobody can read of them costs itself, and those that are made from it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::live::Live;
use super::revision::{Entry, Head, Last, Pending, State, follow};
use super::spent::OPERATOR;
use crate::control::consul::{Client, Consistency, ConsulError, Document};

/// Below the pod's prefix.
pub const REVISIONS: &str = "revisions/";
pub const LAST: &str = "revisions/last";
/// Who writes a revision holds it.
pub const LOCK: &str = "revisions/lock";
pub const PENDING: &str = "revisions/pending/";

/// Where documents and their revisions are read.
#[derive(Clone)]
pub struct Ledger {
    client: Client,
    /// The pod's.
    prefix: String,
}

/// All revisions that there are.
#[derive(Debug, Default)]
pub struct Book {
    pub heads: Vec<Head>,
    /// Pieces by revision and number.
    parts: BTreeMap<(u64, usize), Document>,
    /// All keys of each revision with their versions, also of one that was never finished.
    keys: BTreeMap<u64, Vec<(String, u64)>>,
    /// What was last written; found out from the heads where it is gone, or nobody can read it.
    pub last: Option<Last>,
    /// Of its key; 0: there is none.
    pub last_version: u64,
    pub pending: Vec<Pending>,
    /// Their keys with their versions, also of those that nobody can read.
    pub pending_keys: Vec<(String, u64)>,
    /// Heads that nobody can read.
    pub damaged: Vec<u64>,
    /// Why something cannot be read, with its key.
    pub damage: Vec<String>,
}

/// Why nothing is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerError {
    Consul(String),
    /// There is no such revision, or not any more.
    Missing(u64),
    Unreadable(String),
}

impl Ledger {
    /// `prefix` is the pod's.
    pub fn new(client: Client, prefix: &str) -> Ledger {
        Ledger {
            client,
            prefix: prefix.to_owned(),
        }
    }

    /// All documents, of one moment, as a majority has them.
    pub async fn live(&self) -> Result<Live, LedgerError> {
        self.list("config/").await.map(Live::of)
    }

    /// What was last written of revisions, and its version.
    pub async fn last(&self) -> Result<Option<(Last, u64)>, LedgerError> {
        let key = format!("{}/{LAST}", self.prefix);
        let read = self.client.kv_read_consistently(&key).await;
        let document = read.map_err(|error| failed(&key, &error))?;
        document
            .map(|found| Ok((json(LAST, &found)?, found.modify_index)))
            .transpose()
    }

    /// Operators' words, named by what follows `operator/`.
    pub async fn words(&self) -> Result<Vec<Document>, LedgerError> {
        self.list(OPERATOR).await
    }

    /// All revisions.
    pub async fn book(&self) -> Result<Book, LedgerError> {
        self.list(REVISIONS).await.map(Book::of)
    }

    /// Writes a key that nobody else writes.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<(), LedgerError> {
        let key = format!("{}/{key}", self.prefix);
        let written = self.client.kv_write(&key, value, None).await;
        written.map(drop).map_err(|error| failed(&key, &error))
    }

    pub async fn delete(&self, key: &str) -> Result<(), LedgerError> {
        let key = format!("{}/{key}", self.prefix);
        let deleted = self.client.kv_delete(&key).await;
        deleted.map(drop).map_err(|error| failed(&key, &error))
    }

    /// All keys below one, named by what follows it, in the order of their names.
    pub async fn list(&self, below: &str) -> Result<Vec<Document>, LedgerError> {
        let key = format!("{}/{below}", self.prefix);
        let listed = self.client.kv_list(&key, Consistency::Consistent).await;
        listed.map_err(|error| failed(&key, &error))
    }
}

impl Book {
    /// Of all keys below [`REVISIONS`], named by what follows that.
    pub fn of(listed: Vec<Document>) -> Book {
        let mut book = Book::default();
        for document in listed {
            if let Err(error) = book.take(document) {
                book.damage.push(error.to_string());
            }
        }
        book.heads.sort_by_key(|head| head.n);
        // Each head was written with it in one transaction: without it they are not those of a revision that was never finished.
        if book.last.is_none() {
            book.last = book.found_last();
        }
        book
    }

    fn take(&mut self, document: Document) -> Result<(), LedgerError> {
        let key = format!("{REVISIONS}{}", document.name);
        let version = document.modify_index;
        if key == LAST {
            self.last_version = version;
            self.last = Some(json(&key, &document)?);
            return Ok(());
        }
        if key.starts_with(PENDING) {
            self.pending_keys.push((key.clone(), version));
            self.pending.push(json(&key, &document)?);
            return Ok(());
        }
        let parted = document.name.split_once('/');
        let Some((n, part)) = parted.and_then(|(n, part)| Some((n.parse().ok()?, part))) else {
            return Ok(());
        };
        self.keys.entry(n).or_default().push((key.clone(), version));
        match (part, part.parse()) {
            ("head", _) => match json(&key, &document) {
                Ok(head) => self.heads.push(head),
                Err(error) => {
                    self.damaged.push(n);
                    return Err(error);
                }
            },
            (_, Ok(part)) => drop(self.parts.insert((n, part), document)),
            (_, Err(_)) => {}
        }
        Ok(())
    }

    /// What `revisions/last` has to have said.
    fn found_last(&self) -> Option<Last> {
        let newest = self.heads.last();
        let state = newest.map(|head| head.state.clone());
        let n = newest
            .map(|head| head.n)
            .max(self.damaged.iter().max().copied())?;
        let mut checkpoints = self.heads.iter().filter(|head| head.is_checkpoint);
        Some(Last {
            n,
            // Of one that cannot be read nobody knows it.
            state: state
                .filter(|_| !self.damaged.contains(&n))
                .unwrap_or_default(),
            checkpoint: checkpoints.next_back().map_or(0, |head| head.n),
        })
    }

    /// All keys of a revision, with their versions.
    pub fn keys_of(&self, n: u64) -> impl Iterator<Item = &(String, u64)> {
        self.keys.get(&n).into_iter().flatten()
    }

    fn entries(&self, head: &Head) -> Result<Vec<Entry>, LedgerError> {
        let mut text = Vec::with_capacity(head.bytes);
        for part in 1..=head.parts {
            let piece = self.parts.get(&(head.n, part));
            let piece = piece.ok_or(LedgerError::Missing(head.n))?;
            text.extend_from_slice(&piece.value);
        }
        serde_json::from_slice(&text)
            .map_err(|error| LedgerError::Unreadable(format!("{REVISIONS}{}: {error}", head.n)))
    }

    /// All documents after revision `n`.
    pub fn state(&self, n: u64) -> Result<State, LedgerError> {
        let mut state = State::new();
        for head in self.chain(n)? {
            follow(&mut state, head, self.entries(head)?);
        }
        Ok(state)
    }

    /// Revisions that lead to the documents after `n`: the newest one that holds all, and what changed since.
    fn chain(&self, n: u64) -> Result<&[Head], LedgerError> {
        let until = &self.heads[..self.heads.partition_point(|head| head.n <= n)];
        if until.last().is_none_or(|head| head.n != n) {
            return Err(LedgerError::Missing(n));
        }
        let from = until.iter().rposition(|head| head.is_checkpoint);
        let chain = &until[from.ok_or(LedgerError::Missing(n))?..];
        let mut numbers = chain[0].n..;
        match chain
            .iter()
            .zip(&mut numbers)
            .find(|(head, n)| head.n != *n)
        {
            Some((_, hole)) => Err(LedgerError::Missing(hole)),
            None => Ok(chain),
        }
    }

    /// Whether the documents after `n` can be put together, as far as can be told without doing it.
    pub fn leads_to(&self, n: u64) -> bool {
        let has_parts =
            |head: &Head| (1..=head.parts).all(|part| self.parts.contains_key(&(head.n, part)));
        self.chain(n).is_ok_and(|chain| chain.iter().all(has_parts))
    }
}

fn json<T: DeserializeOwned>(key: &str, document: &Document) -> Result<T, LedgerError> {
    serde_json::from_slice(&document.value)
        .map_err(|error| LedgerError::Unreadable(format!("{key}: {error}")))
}

fn failed(key: &str, error: &ConsulError) -> LedgerError {
    LedgerError::Consul(format!("kv:{key}: {error}"))
}

impl std::fmt::Display for LedgerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LedgerError::Consul(why) | LedgerError::Unreadable(why) => f.write_str(why),
            LedgerError::Missing(n) => {
                write!(
                    f,
                    "there is no revision {n}: rota history names those that there are"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, text: &str) -> Document {
        Document {
            name: name.to_owned(),
            value: text.as_bytes().into(),
            create_index: 1,
            modify_index: 7,
            is_locked: false,
        }
    }

    /// Revisions 1 to 4, each of which adds the document of its number; the first and the last hold all documents.
    fn listed() -> Vec<Document> {
        let head = |n: u64| {
            let is_checkpoint = n == 1 || n == 4;
            format!(
                r#"{{"n":{n},"at":{n},"by":"alice","note":"","added":1,"changed":0,"removed":0,"parts":1,"bytes":9,"is_checkpoint":{is_checkpoint},"state":"s{n}"}}"#
            )
        };
        let entries = |n: u64| {
            let before = if n == 4 { 1..4 } else { 0..0 };
            let same = before.map(|n| format!(r#"{{"path":"routes/{n}","same":"{n}"}},"#));
            let same: String = same.collect();
            format!(r#"[{same}{{"path":"routes/{n}","after":"{n}"}}]"#)
        };
        let of = |n: u64| {
            [
                key(&format!("{n}/head"), &head(n)),
                key(&format!("{n}/1"), &entries(n)),
            ]
        };
        let mut listed: Vec<Document> = (1..=4).flat_map(of).collect();
        listed.push(key("last", r#"{"n":4,"state":"s4","checkpoint":4}"#));
        listed.push(key("pending/a", r#"{"by":"alice","note":"","state":"s5"}"#));
        listed
    }

    fn spoilt(names: &[&str]) -> Book {
        let mut listed = listed();
        for document in &mut listed {
            if names.contains(&&*document.name) {
                document.value = (*b"{").into();
            }
        }
        Book::of(listed)
    }

    fn paths(book: &Book, n: u64) -> Result<Vec<String>, LedgerError> {
        let state = book.state(n)?;
        assert!(
            state
                .iter()
                .all(|(path, text)| path.ends_with(text.shown()))
        );
        Ok(state.into_keys().collect())
    }

    #[test]
    fn a_revision_that_nobody_can_read_costs_those_that_are_made_from_it_and_no_other() {
        let book = spoilt(&["2/head"]);
        let there: Vec<u64> = book.heads.iter().map(|head| head.n).collect();
        assert_eq!((there, &*book.damaged), (vec![1, 3, 4], &[2][..]));
        assert!(
            book.damage[0].starts_with("revisions/2/head: "),
            "{:?}",
            book.damage
        );
        assert_eq!(paths(&book, 1).unwrap(), ["routes/1"]);
        assert_eq!(paths(&book, 2), Err(LedgerError::Missing(2)));
        assert_eq!(paths(&book, 3), Err(LedgerError::Missing(2)));
        assert!(!book.leads_to(3));
        assert_eq!(paths(&book, 4).unwrap().len(), 4);
        assert!(book.leads_to(4));
        assert!(matches!(
            spoilt(&["4/1"]).state(4),
            Err(LedgerError::Unreadable(_))
        ));
    }

    #[test]
    fn what_was_last_written_is_found_out_where_nobody_can_read_it() {
        assert_eq!(spoilt(&[]).damage, Vec::<String>::new());
        let book = spoilt(&["last"]);
        assert_eq!(book.last, spoilt(&[]).last);
        assert_eq!(book.last_version, 7);
        let without = listed().into_iter().filter(|key| &*key.name != "last");
        assert_eq!(
            Book::of(without.collect()).last,
            book.last,
            "deleted by hand"
        );
        let last = spoilt(&["last", "4/head"]).last.unwrap();
        assert_eq!((last.n, &*last.state, last.checkpoint), (4, "", 1));
        assert_eq!(Book::of(vec![key("last", "{")]).last, None);
    }

    #[test]
    fn an_announcement_that_nobody_can_read_goes_with_the_others() {
        let book = spoilt(&["pending/a"]);
        assert!(book.pending.is_empty());
        assert_eq!(book.pending_keys, [("revisions/pending/a".to_owned(), 7)]);
    }
}
