//! Where operators' staged documents are brought: the live ones are read, Consul is asked about what nobody has watched yet, and
//! the comparison is made on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep;

use super::apply::{self, Outcome};
use super::batches::{batches, writes};
use super::check::check;
use super::ledger::{Ledger, LedgerError};
use super::live::{Live, moved};
use super::plan::plan;
use super::revision::{
    Entry, Head, Pending, Scope, State, Text, entries, hash, state_of, state_with,
};
use super::unified::unified;
use crate::certs::CertStore;
use crate::config::ConsulService;
use crate::control::canary::Trials;
use crate::control::consul::Client;
use crate::control::model::Rehearsal;
use crate::control::store::Store;
use crate::control::task::Request;
use crate::routing::canary::{Canary, Trial};
use crate::routing::staged::{
    Basis, Difference, DocumentChange, Kind, Plan, RevisionRow, Staged, Staging, StagingAnswer,
    StagingError, Word, Written,
};
use crate::routing::swap::Reader;
use crate::telemetry::Vitals;
use crate::telemetry::vitals::Staged as Asked;

/// Services that Consul is asked about for one plan; of more nothing is said.
pub const MAX_ASKED: usize = 256;
/// Documents whose texts a refusal shows; all of them are named.
const MAX_DIFFERENCES: usize = 20;
/// How long an answer waits for the revision that holds the change.
const RECORDED_LOOKS: u32 = 20;
const RECORDED_REST: Duration = Duration::from_millis(100);

/// Carries out what is asked about staged documents.
pub struct Desk {
    client: Client,
    pub(super) ledger: Ledger,
    pub(super) store: Store,
    trials: Trials,
    served: Reader<CertStore>,
    pub(super) vitals: Arc<Vitals>,
    /// One at a time: each holds all documents twice.
    place: Semaphore,
    /// Of those that take back what is in force: they wait for no plan, which may ask Consul a hundred questions first.
    way_back: Semaphore,
}

/// Whose mistakes speak against a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strictness {
    All,
    /// Those of documents that would be written: what is wrong and stays is no worse than it was.
    Changes,
}

/// Staged documents beside those that they would replace.
struct Considered {
    live: Live,
    staged: Staged,
    plan: Plan,
}

/// What documents are compared with.
struct Ground {
    rehearsal: Rehearsal,
    live: Live,
}

impl Desk {
    pub fn new(
        client: Client,
        ledger: Ledger,
        store: Store,
        trials: Trials,
        served: Reader<CertStore>,
        vitals: Arc<Vitals>,
    ) -> Arc<Desk> {
        Arc::new(Desk {
            trials,
            ledger,
            client,
            store,
            served,
            vitals,
            place: Semaphore::new(1),
            way_back: Semaphore::new(1),
        })
    }

    /// Answers one question after the other; `task` is the control plane's.
    pub async fn answer(
        &self,
        staging: Staging,
        task: &mpsc::Sender<Request>,
    ) -> Result<StagingAnswer, StagingError> {
        let place = match &staging {
            Staging::EndCanary { .. } | Staging::Rollback { .. } => &self.way_back,
            Staging::Plan(_)
            | Staging::Apply { .. }
            | Staging::Canary
            | Staging::History
            | Staging::Diff { .. } => &self.place,
        };
        let _place = place.acquire().await.map_err(|_| StagingError::Stopped)?;
        match staging {
            Staging::Plan(staged) => {
                let considered = self.consider(staged, Strictness::All, task).await;
                self.vitals.was_staged(Asked::Plan, &considered);
                let mut plan = considered?.plan;
                plan.warnings.extend(self.trials.objection().await?);
                Ok(StagingAnswer::Plan(plan))
            }
            Staging::Apply {
                staged,
                basis,
                since,
                word,
                trial,
            } => {
                let written = self.take((staged, trial), (basis, since), word, task).await;
                self.vitals.was_staged(Asked::Apply, &written);
                Ok(StagingAnswer::Written(written?))
            }
            Staging::Canary => self.trials.view().await.map(StagingAnswer::Canary),
            Staging::EndCanary { outcome, word } => {
                let ended = self.trials.end_by_hand(outcome, &word).await?;
                Ok(StagingAnswer::CanaryEnded(ended))
            }
            Staging::History => self.history().await.map(StagingAnswer::History),
            Staging::Diff { from, to } => self.diff(from, to).await.map(StagingAnswer::Diff),
            Staging::Rollback { to, word } => {
                let written = self.roll_back(to, word, task).await;
                self.vitals.was_staged(Asked::Rollback, &written);
                Ok(StagingAnswer::Written(written?))
            }
        }
    }

    async fn history(&self) -> Result<Vec<RevisionRow>, StagingError> {
        let book = self.ledger.book().await.map_err(refusal)?;
        let row = |head: Head| RevisionRow {
            revision: Some(head.n),
            at: head.at,
            by: head.by,
            note: head.note,
            added: head.added,
            changed: head.changed,
            removed: head.removed,
            rolled_back: None,
        };
        let damaged = book.damaged.iter().map(|&n| {
            let mut before = book.heads.iter().rev().filter(|head| head.n < n);
            RevisionRow {
                revision: Some(n),
                at: before.next().map_or(0, |head| head.at),
                note: "nobody can read it".to_owned(),
                ..RevisionRow::default()
            }
        });
        let mut rows: Vec<RevisionRow> = damaged.collect();
        rows.extend(book.heads.into_iter().rev().map(row));
        rows.extend(self.trials.rolled_back().await?);
        rows.sort_by_key(|row| std::cmp::Reverse(row.at));
        Ok(rows)
    }

    pub(super) async fn refuse_beside_canary(&self) -> Result<(), StagingError> {
        match self.trials.objection().await? {
            None => Ok(()),
            Some(why) => Err(StagingError::Refused(why)),
        }
    }

    async fn diff(&self, from: u64, to: Option<u64>) -> Result<Vec<Difference>, StagingError> {
        let book = self.ledger.book().await.map_err(refusal)?;
        let before = book.state(from).map_err(refusal)?;
        let after = match to {
            Some(to) => book.state(to).map_err(refusal)?,
            None => state_of(&self.ledger.live().await.map_err(refusal)?),
        };
        blocking(move || differences(before, after)).await
    }

    /// Applies, or tries out.
    async fn take(
        &self,
        (staged, trial): (Staged, Option<Trial>),
        basis: (Option<Basis>, Option<u64>),
        word: Word,
        task: &mpsc::Sender<Request>,
    ) -> Result<Written, StagingError> {
        self.refuse_beside_canary().await?;
        let considered = self.consider(staged, Strictness::All, task).await?;
        match trial {
            None => self.apply(considered, basis, &word, task).await,
            Some(trial) => self.try_out(considered, basis, word, trial).await,
        }
    }

    /// By the same way as any other change, so that it is one: checked, announced, and a revision of its own.
    async fn roll_back(
        &self,
        to: u64,
        word: Word,
        task: &mpsc::Sender<Request>,
    ) -> Result<Written, StagingError> {
        self.refuse_beside_canary().await?;
        let book = self.ledger.book().await.map_err(refusal)?;
        let state = book.state(to).map_err(refusal)?;
        let mut documents = BTreeMap::new();
        for (path, text) in state {
            match text {
                Text::Plain(text) => drop(documents.insert(path, text)),
                Text::Hex { .. } => {
                    let why = format!("revision {to}: {path} is no text, so nobody could read it");
                    return Err(StagingError::Refused(why));
                }
            }
        }
        let staged = Staged {
            kinds: Kind::ALL.into(),
            documents,
        };
        let note = match word.note.is_empty() {
            true => format!("rollback to {to}"),
            false => format!("rollback to {to}: {}", word.note),
        };
        let word = Word { note, ..word };
        let considered = self.consider(staged, Strictness::Changes, task).await?;
        self.apply(considered, (None, None), &word, task).await
    }

    /// Reads, checks and compares.
    async fn consider(
        &self,
        staged: Staged,
        strictness: Strictness,
        task: &mpsc::Sender<Request>,
    ) -> Result<Considered, StagingError> {
        let mut ground = self.ground(task).await?;
        let base = ground.rehearsal.file().tuning.clone();
        let (staged, (asked, mut mistakes)) = blocking(move || {
            let checked = check(&staged, &base);
            (staged, checked)
        })
        .await?;
        if strictness == Strictness::Changes {
            let changed = ground.live.changes(&staged);
            let is_changed = |path: &str| changed.iter().any(|change| change.path == path);
            mistakes.retain(|mistake| is_changed(&mistake.document));
        }
        if !mistakes.is_empty() {
            return Err(StagingError::Mistakes(mistakes));
        }
        self.ask_about(asked, &mut ground.rehearsal).await;
        // Whether revisions can be read decides about no change.
        let last = self.ledger.last().await.unwrap_or_default();
        let revision = last.map(|(last, _)| last.n);
        let served = self.served.full();
        blocking(move || {
            let Ground { rehearsal, live } = ground;
            let plan = Plan {
                revision,
                ..plan(&rehearsal, &live, &staged, &served, SystemTime::now())
            };
            Considered { live, staged, plan }
        })
        .await
    }

    async fn apply(
        &self,
        considered: Considered,
        (basis, planned_at): (Option<Basis>, Option<u64>),
        word: &Word,
        task: &mpsc::Sender<Request>,
    ) -> Result<Written, StagingError> {
        let Considered { live, staged, plan } = self.unmoved(considered, basis, planned_at).await?;
        let batches = batches(&staged, &live);
        let transactions = batches.len();
        let pending = Pending {
            by: word.by.clone(),
            note: word.note.clone(),
            state: hash(&state_with(&live, &staged)),
        };
        match apply::write(&self.store, &self.ledger, batches, &pending).await? {
            Outcome::Done => Ok(Written {
                message: done(&plan, transactions, word),
                revision: self.revision_of(&pending.state).await,
                plan,
                canary: None,
            }),
            Outcome::Conflict { done } => {
                // Or one was begun since.
                self.refuse_beside_canary().await?;
                let read = plan.basis;
                let now = self.consider(staged, Strictness::Changes, task).await?;
                let since = moved(&read, &now.plan.basis);
                Err(StagingError::Changed {
                    differences: shown(state_of(&live), state_of(&now.live), &since).await,
                    since,
                    done,
                    plan: Box::new(now.plan),
                })
            }
        }
    }

    async fn try_out(
        &self,
        considered: Considered,
        (basis, planned_at): (Option<Basis>, Option<u64>),
        word: Word,
        trial: Trial,
    ) -> Result<Written, StagingError> {
        let Considered { live, staged, plan } = self.unmoved(considered, basis, planned_at).await?;
        let tried = writes(&staged, &live);
        if tried.is_empty() {
            return Ok(Written {
                message: done(&plan, 0, &word),
                plan,
                revision: None,
                canary: None,
            });
        }
        let states = [hash(&state_of(&live)), hash(&state_with(&live, &staged))];
        let canary = self.trials.begin(&plan, tried, states, word, trial).await?;
        Ok(Written {
            message: begun(&canary),
            plan,
            revision: None,
            canary: Some(canary),
        })
    }

    /// Refuses what was planned on another basis.
    async fn unmoved(
        &self,
        considered: Considered,
        basis: Option<Basis>,
        planned_at: Option<u64>,
    ) -> Result<Considered, StagingError> {
        let since = basis.map_or_else(Vec::new, |basis| moved(&basis, &considered.plan.basis));
        if since.is_empty() {
            return Ok(considered);
        }
        Err(StagingError::Changed {
            differences: self
                .since_revision(planned_at, &considered.live, &since)
                .await,
            since,
            done: 0,
            plan: Box::new(considered.plan),
        })
    }

    /// What the documents that were changed said at a revision and say now; nothing where that revision is not known (any more).
    async fn since_revision(
        &self,
        revision: Option<u64>,
        live: &Live,
        changed: &[DocumentChange],
    ) -> Vec<Difference> {
        let Some(revision) = revision else {
            return Vec::new();
        };
        let Ok(before) = self
            .ledger
            .book()
            .await
            .and_then(|book| book.state(revision))
        else {
            return Vec::new();
        };
        shown(before, state_of(live), changed).await
    }

    /// The revision that holds a state, once it is written; nobody waits long for it.
    async fn revision_of(&self, state: &str) -> Option<u64> {
        for _ in 0..RECORDED_LOOKS {
            if let Ok(Some((last, _))) = self.ledger.last().await
                && last.state == state
            {
                return Some(last.n);
            }
            sleep(RECORDED_REST).await;
        }
        None
    }

    async fn ground(&self, task: &mpsc::Sender<Request>) -> Result<Ground, StagingError> {
        let (answer, answered) = oneshot::channel();
        let asked = task.send(Request::Rehearse(answer)).await;
        asked.map_err(|_| StagingError::Stopped)?;
        Ok(Ground {
            live: self.ledger.live().await.map_err(refusal)?,
            rehearsal: answered.await.map_err(|_| StagingError::Stopped)?,
        })
    }

    /// What cannot be asked is said in the plan: nothing is known of it.
    async fn ask_about(&self, services: Vec<ConsulService>, rehearsal: &mut Rehearsal) {
        let unknown = services
            .into_iter()
            .filter(|watch| !rehearsal.has_answer(watch));
        let unknown: Vec<ConsulService> = unknown.take(MAX_ASKED).collect();
        for watch in unknown {
            match self.client.instances_now(&watch).await {
                Ok(instances) => rehearsal.answer(watch, instances),
                Err(error) => {
                    tracing::warn!(service = watch.service, %error, "consul: asked for a plan");
                    return;
                }
            }
        }
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

fn begun(canary: &Canary) -> String {
    let documents = match canary.documents {
        1 => "1 document is".to_owned(),
        count => format!("{count} documents are"),
    };
    let nodes = canary.nodes.join(", ");
    format!("{documents} tried on {nodes} for {:?}", canary.lasting())
}

fn differences(before: State, after: State) -> Vec<Difference> {
    let changed = entries(&before, &after, Scope::Changes).into_iter();
    let difference = |entry: Entry| {
        let text = |side: &Option<Text>| side.as_ref().map(|text| text.shown().to_owned());
        let (before, after) = (text(&entry.before), text(&entry.after));
        Difference {
            diff: unified(&entry.path, before.as_deref(), after.as_deref()),
            path: entry.path,
        }
    };
    changed.map(difference).collect()
}

/// The texts of the first ones that were changed.
async fn shown(before: State, after: State, changed: &[DocumentChange]) -> Vec<Difference> {
    let first = changed.iter().take(MAX_DIFFERENCES);
    let paths: BTreeSet<String> = first.map(|change| change.path.clone()).collect();
    let only = move |mut state: State| {
        state.retain(|path, _| paths.contains(path));
        state
    };
    let compared = blocking(move || differences(only(before), only(after)));
    compared.await.unwrap_or_default()
}

fn done(plan: &Plan, transactions: usize, word: &Word) -> String {
    let documents = plan.documents.len();
    let note = match word.note.is_empty() {
        true => String::new(),
        false => format!(": {}", word.note),
    };
    match (documents, transactions) {
        (0, _) => "there is nothing to change".to_owned(),
        (1, _) => format!("1 document is changed{note}"),
        (_, 1) => format!("{documents} documents are changed{note}"),
        _ => format!("{documents} documents are changed, in {transactions} transactions{note}"),
    }
}

fn refusal(error: LedgerError) -> StagingError {
    let why = error.to_string();
    match error {
        LedgerError::Consul(_) => StagingError::NoConsul(why),
        LedgerError::Missing(_) => StagingError::Unknown(why),
        LedgerError::Unreadable(_) => StagingError::Refused(why),
    }
}

/// Large sets take milliseconds: no watch and no probe waits for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StagingError> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|error| StagingError::Refused(error.to_string()))
}
