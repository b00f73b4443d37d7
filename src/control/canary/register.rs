//! Where canaries are begun, promoted and ended: in KV, by check-and-set, by whichever load balancer does it.
//!
//! The head is what makes one: it is written after all that is tried, and whoever deletes it has ended it, in one transaction with
//! what came of it. What is left then is swept under the lock, which whoever begins or judges one holds. Its promotion is decided in
//! the head, with the first documents: from then on it can only be finished, by whoever comes upon it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::counts::Report;
use super::proposal::{HEAD, Proposal};
use super::standing::{CHANGED, Standing, ended, given_up, missing, standing};
use crate::control::consul::Document;
use crate::control::staged::apply::{self, CANARY, MARK, Outcome as Applied, refusal};
use crate::control::staged::batches::{Write, parted};
use crate::control::staged::ledger::{Ledger, LedgerError};
use crate::control::staged::live::Live;
use crate::control::staged::revision::{Pending, State, Text, hash, state_of};
use crate::control::store::{Change, Lease, Store, Written};
use crate::routing::canary::{Canary, Ended, Outcome};
use crate::routing::staged::StagingError;
use crate::telemetry::Vitals;

/// Who begins or judges a canary holds it.
pub const LOCK: &str = "canaries/lock";
/// What each load balancer counts meanwhile.
pub const COUNTS: &str = "canaries/counts/";
const TRIED: &str = "canary/";
const ENDED: &str = "canaries/ended/";
const NODES: &str = "nodes/";
/// Canaries that are remembered; of more the oldest are forgotten.
pub const ENDED_KEPT: usize = 50;
/// How long every load balancer has to hear of the documents before the canary's own are gone: it would else go back for a moment.
const LEAD: Duration = Duration::from_millis(500);
/// How long whoever begins one waits for the lock.
const LOCK_LOOKS: u32 = 20;
const LOCK_REST: Duration = Duration::from_millis(250);
/// How often others may come between before a promotion is given up.
const TRIES: usize = 5;
/// Keys of one transaction, with places left for the lock's check and the like.
const AT_ONCE: usize = 60;

pub struct Register {
    ledger: Ledger,
    store: Store,
    vitals: Arc<Vitals>,
}

/// A canary that is under way.
#[derive(Debug)]
pub struct Running {
    pub proposal: Proposal,
    /// What its head is to be changed by.
    version: u64,
}

/// What came of writing what was tried for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promotion {
    Done,
    /// Somebody else changed documents, and how it stands.
    Lost(String),
    /// Somebody else has ended it.
    Over,
}

impl Register {
    pub fn new(ledger: Ledger, store: Store, vitals: Arc<Vitals>) -> Register {
        Register {
            ledger,
            store,
            vitals,
        }
    }

    /// None: somebody else begins or judges one.
    pub async fn lock(&self) -> Result<Option<Lease>, StagingError> {
        let lease = self.store.lock(LOCK).await;
        lease.map_err(|error| refusal(&error))
    }

    /// The canary that is under way, without what it tries.
    pub async fn canary(&self) -> Result<Option<Canary>, StagingError> {
        let head = self.store.read(CANARY).await;
        let Some(entry) = head.map_err(|error| refusal(&error))? else {
            return Ok(None);
        };
        serde_json::from_slice(&entry.value)
            .map(Some)
            .map_err(|error| unreadable(&error.to_string()))
    }

    /// Deletes a head that nobody here can read, written by hand or by another version; gives why. None: there is no such one.
    pub async fn drop_unreadable(&self) -> Result<Option<String>, StagingError> {
        let head = self.store.read(CANARY).await;
        let Some(entry) = head.map_err(|error| refusal(&error))? else {
            return Ok(None);
        };
        let Err(error) = serde_json::from_slice::<Canary>(&entry.value) else {
            return Ok(None);
        };
        let delete = Change::Delete {
            key: CANARY.to_owned(),
            version: entry.version,
        };
        let deleted = self.store.write(delete).await;
        match deleted.map_err(|error| refusal(&error))? {
            Written::Done => Ok(Some(error.to_string())),
            Written::Conflict => Err(refused("canary/head was just changed by others")),
        }
    }

    /// The same with what it tries.
    pub async fn running(&self) -> Result<Option<Running>, StagingError> {
        let below = self.list(TRIED).await?;
        let proposal = Proposal::read(&below).map_err(|why| unreadable(&why))?;
        let head = below.iter().find(|document| document.name == HEAD);
        Ok(proposal.zip(head).map(|(proposal, head)| Running {
            proposal,
            version: head.modify_index,
        }))
    }

    /// Names of the load balancers that live.
    pub async fn live_nodes(&self) -> Result<BTreeSet<String>, StagingError> {
        let nodes = self.list(NODES).await?.into_iter();
        let live = nodes.filter(|node| node.is_locked);
        Ok(live.map(|node| node.name).collect())
    }

    /// Writes what is to be tried, its head last.
    pub async fn begin(&self, canary: &Canary, tried: Vec<Write>) -> Result<(), StagingError> {
        let lease = self.lock_soon().await?;
        let begun = self.write(&lease, canary, tried).await;
        lease.release().await;
        begun
    }

    /// Whoever judged the last one may still be sweeping.
    async fn lock_soon(&self) -> Result<Lease, StagingError> {
        for _ in 0..LOCK_LOOKS {
            if let Some(lease) = self.lock().await? {
                return Ok(lease);
            }
            sleep(LOCK_REST).await;
        }
        Err(refused("another canary is just being begun or ended"))
    }

    async fn write(
        &self,
        lease: &Lease,
        canary: &Canary,
        tried: Vec<Write>,
    ) -> Result<(), StagingError> {
        if self.canary().await?.is_some() {
            return Err(refused("another canary was begun meanwhile"));
        }
        self.sweep(lease).await?;
        let put = |write: Write| {
            let key = Proposal::key(&write.path, write.text.as_deref());
            Change::Put {
                key,
                value: write.text.unwrap_or_default().into_bytes().into(),
                version: 0,
            }
        };
        for batch in parted(tried) {
            let changes = batch.into_iter().map(put).collect();
            self.transact(lease, changes).await?;
        }
        if hash(&state_of(&self.live().await?)) != canary.before {
            return Err(refused(
                "documents were changed meanwhile: nothing is tried",
            ));
        }
        let head = Change::Put {
            key: CANARY.to_owned(),
            value: json(canary).into(),
            version: 0,
        };
        let begun = self
            .store
            .transact(lease, vec![Change::none_at(MARK), head])
            .await;
        match begun.map_err(|error| refusal(&error))? {
            Written::Done => Ok(()),
            Written::Conflict => Err(refused(
                "somebody else writes documents, or a canary, just now",
            )),
        }
    }

    /// The canary of this name, if it still is under way.
    pub async fn running_still(&self, id: &str) -> Result<Option<Running>, StagingError> {
        let running = self.running().await?;
        Ok(running.filter(|running| running.proposal.canary.id == id))
    }

    /// How far it has become everybody's. While [`Register::is_writing`] that may be the half of something else.
    pub async fn standing(&self, running: &Running) -> Result<Standing, StagingError> {
        let live = self.live().await?;
        Ok(standing(&running.proposal, running.version, &live))
    }

    /// Whether somebody writes several transactions just now.
    pub async fn is_writing(&self) -> Result<bool, StagingError> {
        let mark = self.store.read(MARK).await;
        Ok(mark.map_err(|error| refusal(&error))?.is_some())
    }

    /// Makes what is tried everybody's, the way `rota apply` does, or goes on with that. Nothing is written twice, whoever else does the
    /// same.
    pub async fn promote(&self, id: &str, reason: &str) -> Result<Promotion, StagingError> {
        for _ in 0..TRIES {
            let Some(running) = self.running_still(id).await? else {
                return Ok(Promotion::Over);
            };
            let live = self.live().await?;
            let is_done = match standing(&running.proposal, running.version, &live) {
                Standing::Whole => true,
                Standing::Overtaken => return Ok(Promotion::Lost(CHANGED.to_owned())),
                Standing::Untouched if !is_as_begun(&running, &live) => {
                    let why = "what lies below canary/ is not what was begun";
                    return Ok(Promotion::Lost(why.to_owned()));
                }
                Standing::Untouched | Standing::Begun => {
                    let written = self.write_missing(&running, &live, reason).await?;
                    written == Applied::Done
                }
            };
            if is_done {
                sleep(LEAD).await;
                return Ok(Promotion::Done);
            }
        }
        Err(refused("others write the same documents all the time"))
    }

    /// A conflict: somebody else does the same, or has ended it, or has changed documents.
    async fn write_missing(
        &self,
        running: &Running,
        live: &Live,
        reason: &str,
    ) -> Result<Applied, StagingError> {
        let mut canary = (*running.proposal.canary).clone();
        let reason = canary.promoted.get_or_insert_with(|| reason.to_owned());
        let why = format!("canary on {} promoted, {reason}", canary.nodes.join(", "));
        let note = match canary.note.is_empty() {
            true => why,
            false => format!("{}; {why}", canary.note),
        };
        let pending = Pending {
            by: canary.by.clone(),
            note,
            state: canary.after.clone(),
        };
        let head = Change::Put {
            key: CANARY.to_owned(),
            value: json(&canary).into(),
            version: running.version,
        };
        let writes = parted(missing(&running.proposal, live));
        apply::write_with(&self.store, &self.ledger, writes, &pending, head).await
    }

    /// Takes the head away and says what came of it. None: somebody else has ended it. What is everybody's already is promoted, whatever
    /// was asked for.
    ///
    /// # Errors
    /// Half of what is to be rolled back is everybody's.
    pub async fn end(
        &self,
        running: Running,
        outcome: Outcome,
        reason: String,
    ) -> Result<Option<Ended>, StagingError> {
        let promoted = running.proposal.canary.promoted.clone();
        let standing = self.standing(&running).await?;
        let (outcome, reason) = ended(outcome, standing, promoted, reason).map_err(refused)?;
        self.close(running, outcome, reason).await
    }

    /// Ends one whose promotion is refused (`why`), half in force as it is; that it is gone on with this moment is a refusal, too.
    pub async fn give_up(&self, id: &str, why: &str, reason: &str) -> Result<(), StagingError> {
        // The mark after the head: whoever has begun to write since has changed the head, and this is a conflict.
        let Some(running) = self.running_still(id).await? else {
            return Ok(());
        };
        if self.is_writing().await? {
            return Err(refused(why));
        }
        let reason = given_up(&running.proposal, &self.live().await?, why, reason);
        let closed = self.close(running, Outcome::RolledBack, reason).await;
        closed.map(drop)
    }

    async fn close(
        &self,
        running: Running,
        outcome: Outcome,
        reason: String,
    ) -> Result<Option<Ended>, StagingError> {
        let canary = Canary {
            promoted: None,
            ..(*running.proposal.canary).clone()
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let ended = Ended {
            canary,
            outcome,
            reason,
            at: since.map_or(0, |since| since.as_secs()),
        };
        let mut changes = vec![
            Change::Delete {
                key: CANARY.to_owned(),
                version: running.version,
            },
            Change::Put {
                key: format!("{ENDED}{:015}-{}", ended.canary.begun_ms, ended.canary.id),
                value: json(&ended).into(),
                version: 0,
            },
        ];
        let known = self.list(ENDED).await?;
        let old = known.len().saturating_sub(ENDED_KEPT - 1);
        let old = known.into_iter().take(old.min(AT_ONCE));
        changes.extend(old.map(|document| deleted(ENDED, &document)));
        let written = self.store.write_all(changes).await;
        if written.map_err(|error| refusal(&error))? == Written::Conflict {
            return Ok(None);
        }
        match outcome {
            Outcome::Promoted => self.vitals.canaries_promoted.fetch_add(1, Relaxed),
            Outcome::RolledBack => self.vitals.canaries_rolled_back.fetch_add(1, Relaxed),
        };
        Ok(Some(ended))
    }

    /// Newest first; what cannot be read is passed over.
    pub async fn ended(&self) -> Result<Vec<Ended>, StagingError> {
        let documents = self.list(ENDED).await?.into_iter().rev();
        let read = documents.filter_map(|one| serde_json::from_slice(&one.value).ok());
        Ok(read.collect())
    }

    /// Says what this load balancer has counted; nobody else writes there.
    pub async fn report(&self, node: &str, report: &Report) -> Result<(), StagingError> {
        let key = format!("{COUNTS}{node}");
        let put = self.ledger.put(&key, &json(report)).await;
        put.map_err(unlisted)
    }

    pub async fn forget_report(&self, node: &str) -> Result<(), StagingError> {
        let gone = self.ledger.delete(&format!("{COUNTS}{node}")).await;
        gone.map_err(unlisted)
    }

    /// What each load balancer has counted of a canary; what cannot be read is passed over.
    pub async fn reports(&self, id: &str) -> Result<BTreeMap<String, Report>, StagingError> {
        let reports = self.list(COUNTS).await?.into_iter();
        let read = |document: Document| {
            let report: Report = serde_json::from_slice(&document.value).ok()?;
            (report.id == id).then_some((document.name, report))
        };
        Ok(reports.filter_map(read).collect())
    }

    /// Deletes what nobody needs: there is no canary, or only just a new one.
    pub async fn sweep(&self, lease: &Lease) -> Result<(), StagingError> {
        for below in [TRIED, COUNTS] {
            let left = self.list(below).await?;
            for some in left.chunks(AT_ONCE) {
                let some = some.iter().map(|document| deleted(below, document));
                self.transact(lease, some.collect()).await?;
            }
        }
        Ok(())
    }

    /// All keys below one, named by what follows it, in the order of their names.
    pub async fn list(&self, below: &str) -> Result<Vec<Document>, StagingError> {
        self.ledger.list(below).await.map_err(unlisted)
    }

    async fn live(&self) -> Result<Live, StagingError> {
        self.ledger.live().await.map_err(unlisted)
    }

    async fn transact(&self, lease: &Lease, changes: Vec<Change>) -> Result<(), StagingError> {
        let written = self.store.transact(lease, changes).await;
        match written.map_err(|error| refusal(&error))? {
            Written::Done => Ok(()),
            Written::Conflict => Err(refused("somebody else wrote below canary/ meanwhile")),
        }
    }
}

/// Whether what lies there of it makes of the documents what it was to make of them.
fn is_as_begun(running: &Running, live: &Live) -> bool {
    let proposal = &running.proposal;
    hash(&tried(state_of(live), proposal)) == proposal.canary.after
}

/// All documents with what is tried.
fn tried(mut state: State, proposal: &Proposal) -> State {
    for (path, bytes) in proposal.changes() {
        match bytes {
            Some(bytes) => drop(state.insert(path.to_owned(), Text::of(bytes))),
            None => drop(state.remove(path)),
        }
    }
    state
}

fn deleted(below: &str, document: &Document) -> Change {
    Change::Delete {
        key: format!("{below}{}", document.name),
        version: document.modify_index,
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a canary has text keys alone")
}

fn refused(why: &str) -> StagingError {
    StagingError::Refused(why.to_owned())
}

fn unreadable(why: &str) -> StagingError {
    StagingError::Refused(format!(
        "canary/head cannot be read ({why}), and nothing is changed beside it: rota canary abort deletes it"
    ))
}

fn unlisted(error: LedgerError) -> StagingError {
    match error {
        LedgerError::Consul(why) => StagingError::NoConsul(why),
        LedgerError::Missing(_) | LedgerError::Unreadable(_) => {
            StagingError::Refused(error.to_string())
        }
    }
}
