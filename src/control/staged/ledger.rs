//! Revisions as they lie in KV: read whole, of one moment.

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
    pub last: Option<(Last, u64)>,
    pub pending: Vec<(String, u64, Pending)>,
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
        let mut book = Book::default();
        for document in self.list(REVISIONS).await? {
            book.take(document)?;
        }
        book.heads.sort_by_key(|head| head.n);
        Ok(book)
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
    /// `document` is named by what follows `revisions/`.
    fn take(&mut self, document: Document) -> Result<(), LedgerError> {
        let key = format!("{REVISIONS}{}", document.name);
        let version = document.modify_index;
        if key == LAST {
            self.last = Some((json(&key, &document)?, version));
            return Ok(());
        }
        if key.starts_with(PENDING) {
            let pending = json(&key, &document)?;
            self.pending.push((key, version, pending));
            return Ok(());
        }
        let parted = document.name.split_once('/');
        let Some((n, part)) = parted.and_then(|(n, part)| Some((n.parse().ok()?, part))) else {
            return Ok(());
        };
        self.keys.entry(n).or_default().push((key.clone(), version));
        match (part, part.parse()) {
            ("head", _) => self.heads.push(json(&key, &document)?),
            (_, Ok(part)) => drop(self.parts.insert((n, part), document)),
            (_, Err(_)) => {}
        }
        Ok(())
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
        let until: Vec<&Head> = self.heads.iter().filter(|head| head.n <= n).collect();
        let from = until.iter().rposition(|head| head.is_checkpoint);
        let missing = LedgerError::Missing(n);
        if until.last().is_none_or(|head| head.n != n) {
            return Err(missing);
        }
        let mut state = State::new();
        for head in &until[from.ok_or(missing)?..] {
            follow(&mut state, head, self.entries(head)?);
        }
        Ok(state)
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
