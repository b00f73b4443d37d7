//! Writes a revision of every change of the documents, by whatever hand: each load balancer hears of it, whoever gets the lock writes.
//!
//! What is written is compared with what the last revision left, never with what this process has seen: so a change is recorded once,
//! however many hear of it, and also if nobody was there when it was made.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::apply::MARK;
use super::ledger::{Book, LAST, LOCK, Ledger, LedgerError, REVISIONS};
use super::live::Heard;
use super::revision::{
    CHECKPOINT_EACH, Head, Last, Scope, State, author, counts, entries, hash, outdated, parts,
    state_of,
};
use super::spent::spent;
use crate::control::store::{Change, Lease, Store, StoreError, Written};

/// Who did not write the last revision leaves the next one to who did, for so long on average.
const DEFERENCE: Duration = Duration::from_millis(300);
/// Between two looks, doubled each time; whoever hears of documents meanwhile looks sooner.
const AGAIN: Duration = Duration::from_millis(200);
/// The longest while somebody else writes, or Consul does not answer.
const AGAIN_LONGEST: Duration = Duration::from_secs(2);
/// The longest while something is wrong that only an operator mends, as rights.
const WRONG_LONGEST: Duration = Duration::from_secs(600);
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
    heard: watch::Receiver<Heard>,
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

/// Why nothing came of one.
enum Trouble {
    /// It may pass.
    Away(String),
    /// An operator's to mend.
    Wrong(String),
}

impl Recorder {
    /// `heard` moves on with each answer about documents; `newest` is told the newest revision.
    pub fn new(
        ledger: Ledger,
        store: Store,
        heard: watch::Receiver<Heard>,
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
            let mut rests = 0;
            if self.known.is_none() {
                sleep(DEFERENCE.mul_f64(0.5 + fastrand::f64())).await;
            }
            while self.heard.has_changed().is_ok() {
                match self.look().await {
                    Ok(Look::Recorded) => break,
                    Ok(Look::Again) => self.rest(&mut rests, AGAIN_LONGEST).await,
                    Err(trouble) => {
                        let (longest, why) = match trouble {
                            Trouble::Away(why) => (AGAIN_LONGEST, why),
                            Trouble::Wrong(why) => (WRONG_LONGEST, why),
                        };
                        self.say(why);
                        self.rest(&mut rests, longest).await;
                    }
                }
            }
            self.say_mended();
        }
    }

    /// Until it is over or documents are heard of, but for a moment at least.
    async fn rest(&mut self, rests: &mut u32, longest: Duration) {
        let full = (AGAIN * 2u32.pow((*rests).min(12))).min(longest);
        *rests += 1;
        let rest = full.mul_f64(0.5 + fastrand::f64() / 2.0);
        let least = rest.min(AGAIN);
        sleep(least).await;
        // If nobody can tell of any more, the loop ends.
        let _ = timeout(rest - least, self.heard.changed()).await;
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

    /// What costs much is read by who holds the lock.
    async fn look(&mut self) -> Result<Look, Trouble> {
        if self.heard.borrow().is_marked() {
            return Ok(Look::Again);
        }
        if !self.is_due().await? {
            return Ok(Look::Recorded);
        }
        let Some(lease) = self.store.lock(LOCK).await? else {
            return Ok(Look::Again);
        };
        let looked = self.record(&lease).await;
        lease.release().await;
        looked
    }

    /// Whether documents are other than the last revision left them, as far as they were heard of: who has not heard of all will.
    async fn is_due(&mut self) -> Result<bool, Trouble> {
        let last = match self.ledger.last().await {
            Ok(last) => last.map(|(last, _)| last),
            // Who holds the lock writes over it.
            Err(LedgerError::Unreadable(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let is_ours = |known: &(u64, State)| last.as_ref().is_some_and(|last| last.n == known.0);
        if !self.known.as_ref().is_some_and(is_ours) {
            self.known = None;
        }
        self.newest
            .send_replace(last.as_ref().map_or(0, |last| last.n));
        let heard = self.heard.borrow().live();
        Ok(heard.is_some_and(|live| !is_recorded(last.as_ref(), &state_of(&live))))
    }

    async fn record(&mut self, lease: &Lease) -> Result<Look, Trouble> {
        if self.store.read(MARK).await?.is_some() {
            return Ok(Look::Again);
        }
        let after = state_of(&self.ledger.live().await?);
        // Who wrote it was faster than what we heard.
        if let Ok(last) = self.ledger.last().await
            && is_recorded(last.as_ref().map(|(last, _)| last), &after)
        {
            return Ok(Look::Recorded);
        }
        let book = self.ledger.book().await?;
        if !book.damage.is_empty() {
            let damage = book.damage.join("; ");
            tracing::warn!("revisions: passed over what nobody can read: {damage}");
        }
        let before = self.state_before(&book);
        let revision = Revision::of(&book, before.as_ref(), &after);
        if !self.write(lease, &book, &revision).await? {
            return Ok(Look::Again);
        }
        let Head { n, by, note, .. } = &revision.head;
        tracing::info!(revision = n, by, note, "documents changed");
        self.newest.send_replace(*n);
        self.known = Some((*n, after));
        self.drop_outdated(lease, book, revision.head).await?;
        // What has changed since it was read is heard of, and looked at then.
        Ok(Look::Recorded)
    }

    /// What the last revision left; None: nobody can tell any more, or there is none.
    fn state_before(&self, book: &Book) -> Option<State> {
        let n = book.last.as_ref()?.n;
        if !book.leads_to(n) {
            return None;
        }
        match &self.known {
            Some((known, state)) if *known == n => Some(state.clone()),
            _ => book.state(n).ok(),
        }
    }

    /// False: somebody else came between, and what was begun is nobody's.
    async fn write(
        &self,
        lease: &Lease,
        book: &Book,
        revision: &Revision,
    ) -> Result<bool, StoreError> {
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
        let mut changes = vec![
            put(format!("{REVISIONS}{n}/head"), json(&revision.head), 0),
            put(LAST.to_owned(), json(&last), book.last_version),
        ];
        let pending = book.pending_keys.iter().take(DELETED_AT_ONCE);
        changes.extend(pending.map(|(key, version)| Change::Delete {
            key: key.clone(),
            version: *version,
        }));
        Ok(self.transact(lease, changes).await? == Written::Done)
    }

    async fn drop_outdated(
        &self,
        lease: &Lease,
        book: Book,
        newest: Head,
    ) -> Result<(), StoreError> {
        let mut heads = book.heads.clone();
        heads.push(newest);
        let mut outdated = outdated(&heads);
        let newest = outdated.last().copied().unwrap_or(0);
        outdated.extend(book.damaged.iter().filter(|n| **n < newest));
        let keys = outdated.iter().flat_map(|n| book.keys_of(*n).cloned());
        // What is not deleted now is with the next revision.
        self.delete(lease, keys.collect()).await.map(drop)
    }

    async fn delete(&self, lease: &Lease, keys: Vec<(String, u64)>) -> Result<bool, StoreError> {
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

    async fn transact(&self, lease: &Lease, changes: Vec<Change>) -> Result<Written, StoreError> {
        self.store.transact(lease, changes).await
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
    /// `before` is what the last one left; where nobody knows it this one holds all documents, so that the next ones need none before it.
    fn of(book: &Book, before: Option<&State>, after: &State) -> Revision {
        let last = book.last.as_ref();
        let n = last.map_or(1, |last| last.n + 1);
        let checkpoint = last.map(|last| last.checkpoint);
        let is_due = checkpoint.is_none_or(|newest| n - newest >= CHECKPOINT_EACH);
        let is_checkpoint = is_due || before.is_none();
        let scope = match is_checkpoint {
            true => Scope::All,
            false => Scope::Changes,
        };
        let entries = entries(before.unwrap_or(&State::new()), after, scope);
        let text = json(&entries);
        let (added, changed, removed) = counts(&entries);
        let state = hash(after);
        let (by, note) = author(&book.pending, &state, last.is_none());
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

/// Whether the last revision left these documents; where there never was one there is nothing to record.
fn is_recorded(last: Option<&Last>, state: &State) -> bool {
    match last {
        Some(last) => last.state == hash(state),
        None => state.is_empty(),
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        match error {
            StoreError::Away(why) => Trouble::Away(why),
            StoreError::Refused(_) | StoreError::Broken { .. } => Trouble::Wrong(error.to_string()),
        }
    }
}

impl From<LedgerError> for Trouble {
    fn from(error: LedgerError) -> Trouble {
        match error {
            LedgerError::Consul(why) => Trouble::Away(why),
            LedgerError::Missing(_) | LedgerError::Unreadable(_) => {
                Trouble::Wrong(error.to_string())
            }
        }
    }
}
