//! Writes a revision of every change of the documents, by whatever hand: each load balancer hears of it, whoever gets the lock writes.
//!
//! What is written is compared with what the last revision left, never with what this process has seen: so a change is recorded once,
//! however many hear of it, and also if nobody was there when it was made.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::apply::MARK;
use super::ledger::{Book, LAST, LOCK, Ledger, LedgerError, REVISIONS};
use super::revision::{
    CHECKPOINT_EACH, Head, Last, Scope, State, author, counts, entries, hash, outdated, parts,
    state_of,
};
use super::spent::spent;
use crate::control::consul::Pause;
use crate::control::store::{Change, Lease, Store, StoreError, Written};

/// Who did not write the last revision leaves the next one to who did, for so long on average.
const DEFERENCE: Duration = Duration::from_millis(300);
/// Between two looks while somebody else writes.
const AGAIN: Duration = Duration::from_millis(200);
/// Keys that are deleted in one transaction.
const DELETED_AT_ONCE: usize = 60;
/// How often operators' words are looked at, and how many that are over are taken away in one turn.
const SWEPT_EACH: Duration = Duration::from_secs(300);
const SWEPT_AT_ONCE: usize = 60;

/// Follows the pod's documents.
pub struct Recorder {
    ledger: Ledger,
    store: Store,
    /// Moves on with each answer about documents.
    heard: watch::Receiver<u64>,
    /// The newest revision that is known of.
    newest: watch::Sender<u64>,
    /// The last revision, if this process wrote it, and what it left.
    known: Option<(u64, State)>,
    /// What was last told as wrong.
    told: Option<String>,
    /// When operators' words were last looked at.
    swept: Option<Instant>,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Recorded,
    /// Somebody is writing: documents, or a revision.
    Again,
}

impl Recorder {
    /// `heard` moves on with each answer about documents; `newest` is told the newest revision.
    pub fn new(
        ledger: Ledger,
        store: Store,
        heard: watch::Receiver<u64>,
        newest: watch::Sender<u64>,
    ) -> Recorder {
        Recorder {
            ledger,
            store,
            heard,
            newest,
            known: None,
            told: None,
            swept: None,
        }
    }

    /// Ends when nobody can tell of documents any more.
    pub async fn run(mut self) {
        loop {
            let heard = timeout(SWEPT_EACH, self.heard.changed()).await;
            if let Ok(Err(_)) = heard {
                return;
            }
            if self.swept.is_none_or(|last| last.elapsed() >= SWEPT_EACH) {
                self.swept = Some(Instant::now());
                self.sweep().await;
            }
            if heard.is_err() {
                continue;
            }
            let mut pause = Pause::default();
            if self.known.is_none() {
                sleep(DEFERENCE.mul_f64(0.5 + fastrand::f64())).await;
            }
            while self.heard.has_changed().is_ok() {
                match self.look().await {
                    Ok(Look::Recorded) => break,
                    Ok(Look::Again) => sleep(AGAIN.mul_f64(0.5 + fastrand::f64())).await,
                    Err(why) => {
                        self.say(why);
                        pause.rest().await;
                    }
                }
            }
            self.say_mended();
        }
    }

    /// Takes away what operators said long ago and what binds nobody any more; what cannot be done now is done next time.
    async fn sweep(&mut self) {
        let Ok(words) = self.ledger.words().await else {
            return;
        };
        let mut spent = spent(&words, SystemTime::now());
        spent.truncate(SWEPT_AT_ONCE);
        if spent.is_empty() {
            return;
        }
        let Ok(Some(lease)) = self.store.lock(LOCK).await else {
            return;
        };
        let named: Vec<&str> = spent.iter().map(|(key, _)| &**key).collect();
        let named = named.join(", ");
        let swept = self.delete(&lease, spent.clone()).await;
        lease.release().await;
        match swept {
            Ok(true) => {
                tracing::info!("operators' words that are over were taken out of KV: {named}");
            }
            // Some were said anew meanwhile.
            Ok(false) => {}
            Err(why) => tracing::warn!("operators' words that are over stay in KV: {why}"),
        }
    }

    async fn look(&mut self) -> Result<Look, String> {
        if !self.is_due().await? {
            return Ok(Look::Recorded);
        }
        let Some(lease) = self.store.lock(LOCK).await.map_err(text)? else {
            return Ok(Look::Again);
        };
        let looked = self.record(&lease).await;
        lease.release().await;
        looked
    }

    /// Whether documents are other than the last revision left them.
    async fn is_due(&mut self) -> Result<bool, String> {
        let last = self.ledger.last().await.map_err(said)?;
        let state = state_of(&self.ledger.live().await.map_err(said)?);
        let is_due = match &last {
            Some((last, _)) => last.state != hash(&state),
            // Where there never was a document there is nothing to record.
            None => !state.is_empty(),
        };
        let is_ours =
            |known: &(u64, State)| last.as_ref().is_some_and(|(last, _)| last.n == known.0);
        if !self.known.as_ref().is_some_and(is_ours) {
            self.known = None;
        }
        self.newest.send_replace(last.map_or(0, |(last, _)| last.n));
        Ok(is_due)
    }

    async fn record(&mut self, lease: &Lease) -> Result<Look, String> {
        if self.store.read(MARK).await.map_err(text)?.is_some() {
            return Ok(Look::Again);
        }
        let book = self.ledger.book().await.map_err(said)?;
        let after = state_of(&self.ledger.live().await.map_err(said)?);
        let last = book.last.as_ref().map(|(last, _)| last);
        if last.is_some_and(|last| last.state == hash(&after)) {
            return Ok(Look::Recorded);
        }
        let before = match last {
            Some(last) => self.state_after(last.n, &book)?,
            None => State::new(),
        };
        let revision = Revision::of(&book, &before, &after);
        if !self.write(lease, &book, &revision).await? {
            return Ok(Look::Again);
        }
        let Head { n, by, note, .. } = &revision.head;
        tracing::info!(revision = n, by, note, "documents changed");
        self.known = Some((*n, after));
        self.drop_outdated(lease, book, revision.head).await?;
        // They may have been changed again meanwhile.
        Ok(Look::Again)
    }

    fn state_after(&self, n: u64, book: &Book) -> Result<State, String> {
        match &self.known {
            Some((known, state)) if *known == n => Ok(state.clone()),
            _ => book.state(n).map_err(said),
        }
    }

    /// False: somebody else came between, and what was begun is nobody's.
    async fn write(&self, lease: &Lease, book: &Book, revision: &Revision) -> Result<bool, String> {
        let n = revision.head.n;
        // What a writer left that died before it was done.
        let leftovers = book.keys_of(n).cloned().collect();
        if !self.delete(lease, leftovers).await? {
            return Ok(false);
        }
        for (number, part) in parts(&revision.text).into_iter().enumerate() {
            let key = format!("{REVISIONS}{n}/{}", number + 1);
            let put = put(key, part.to_owned(), 0);
            if self.transact(lease, vec![put]).await? == Written::Conflict {
                return Ok(false);
            }
        }
        let last = Last {
            n,
            state: revision.head.state.clone(),
            checkpoint: revision.checkpoint,
        };
        let version = book.last.as_ref().map_or(0, |(_, version)| *version);
        let mut changes = vec![
            put(format!("{REVISIONS}{n}/head"), json(&revision.head), 0),
            put(LAST.to_owned(), json(&last), version),
        ];
        let pending = book.pending.iter().take(DELETED_AT_ONCE);
        changes.extend(pending.map(|(key, version, _)| Change::Delete {
            key: key.clone(),
            version: *version,
        }));
        Ok(self.transact(lease, changes).await? == Written::Done)
    }

    async fn drop_outdated(&self, lease: &Lease, book: Book, newest: Head) -> Result<(), String> {
        let mut heads = book.heads.clone();
        heads.push(newest);
        let outdated = outdated(&heads);
        let keys = outdated.iter().flat_map(|n| book.keys_of(*n).cloned());
        // What is not deleted now is with the next revision.
        self.delete(lease, keys.collect()).await.map(drop)
    }

    async fn delete(&self, lease: &Lease, keys: Vec<(String, u64)>) -> Result<bool, String> {
        for keys in keys.chunks(DELETED_AT_ONCE) {
            let delete = |(key, version): &(String, u64)| Change::Delete {
                key: key.clone(),
                version: *version,
            };
            let changes = keys.iter().map(delete).collect();
            if self.transact(lease, changes).await? == Written::Conflict {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn transact(&self, lease: &Lease, changes: Vec<Change>) -> Result<Written, String> {
        self.store.transact(lease, changes).await.map_err(text)
    }

    /// Once for each thing that is wrong.
    fn say(&mut self, why: String) {
        if self.told.as_ref() != Some(&why) {
            tracing::warn!("revisions: {why}: what changes is in force and not recorded");
            self.told = Some(why);
        }
    }

    fn say_mended(&mut self) {
        if self.told.take().is_some() {
            tracing::info!("revisions: mended");
        }
    }
}

/// One revision, ready to be written.
struct Revision {
    head: Head,
    text: String,
    /// The newest that holds all documents, once it is written.
    checkpoint: u64,
}

impl Revision {
    fn of(book: &Book, before: &State, after: &State) -> Revision {
        let last = book.last.as_ref().map(|(last, _)| last);
        let n = last.map_or(1, |last| last.n + 1);
        let checkpoint = last.map(|last| last.checkpoint);
        let is_checkpoint = checkpoint.is_none_or(|newest| n - newest >= CHECKPOINT_EACH);
        let scope = match is_checkpoint {
            true => Scope::All,
            false => Scope::Changes,
        };
        let entries = entries(before, after, scope);
        let text = json(&entries);
        let (added, changed, removed) = counts(&entries);
        let state = hash(after);
        let pending: Vec<_> = book.pending.iter().map(|(_, _, one)| one.clone()).collect();
        let (by, note) = author(&pending, &state, last.is_none());
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let head = Head {
            n,
            at: since.map_or(0, |since| since.as_secs()),
            by,
            note,
            added,
            changed,
            removed,
            parts: parts(&text).len(),
            bytes: text.len(),
            is_checkpoint,
            state,
        };
        Revision {
            checkpoint: checkpoint.filter(|_| !is_checkpoint).unwrap_or(n),
            head,
            text,
        }
    }
}

fn put(key: String, text: String, version: u64) -> Change {
    Change::Put {
        key,
        value: text.into_bytes().into(),
        version,
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("a revision has text keys alone")
}

fn text(error: StoreError) -> String {
    error.to_string()
}

fn said(error: LedgerError) -> String {
    error.to_string()
}
