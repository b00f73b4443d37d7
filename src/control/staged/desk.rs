//! Where operators' staged documents are brought: the live ones are read, Consul is asked about what nobody has watched yet, and
//! the comparison is made on a thread of its own.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::apply::{self, Outcome};
use super::batches::batches;
use super::check::check;
use super::live::{Live, moved};
use super::plan::plan;
use crate::certs::CertStore;
use crate::config::ConsulService;
use crate::control::consul::{Client, Consistency, ConsulError};
use crate::control::model::Rehearsal;
use crate::control::store::Store;
use crate::control::task::Request;
use crate::routing::staged::{
    Basis, Plan, Staged, Staging, StagingAnswer, StagingError, Word, Written,
};
use crate::routing::swap::Reader;

/// Services that Consul is asked about for one plan; of more nothing is said.
pub const MAX_ASKED: usize = 256;

/// Carries out what is asked about staged documents.
pub struct Desk {
    client: Client,
    prefix: String,
    store: Store,
    served: Reader<CertStore>,
    /// One at a time: each holds all documents twice.
    place: Semaphore,
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
    /// `prefix` is the pod's.
    pub fn new(client: Client, prefix: &str, store: Store, served: Reader<CertStore>) -> Arc<Desk> {
        Arc::new(Desk {
            client,
            prefix: prefix.to_owned(),
            store,
            served,
            place: Semaphore::new(1),
        })
    }

    /// Answers one question after the other; `task` is the control plane's.
    pub async fn answer(
        &self,
        staging: Staging,
        task: &mpsc::Sender<Request>,
    ) -> Result<StagingAnswer, StagingError> {
        let _place = self
            .place
            .acquire()
            .await
            .map_err(|_| StagingError::Stopped)?;
        match staging {
            Staging::Plan(staged) => {
                let considered = self.consider(staged, task).await?;
                Ok(StagingAnswer::Plan(considered.plan))
            }
            Staging::Apply {
                staged,
                basis,
                word,
            } => {
                let written = self.apply(staged, basis, &word, task).await?;
                Ok(StagingAnswer::Written(written))
            }
        }
    }

    /// Reads, checks and compares.
    async fn consider(
        &self,
        staged: Staged,
        task: &mpsc::Sender<Request>,
    ) -> Result<Considered, StagingError> {
        let mut ground = self.ground(task).await?;
        let base = ground.rehearsal.file().tuning.clone();
        let (staged, checked) = blocking(move || {
            let checked = check(&staged, &base);
            (staged, checked)
        })
        .await?;
        let asked = checked.map_err(StagingError::Mistakes)?;
        self.ask_about(asked, &mut ground.rehearsal).await;
        let served = self.served.full();
        blocking(move || {
            let Ground { rehearsal, live } = ground;
            let plan = plan(&rehearsal, &live, &staged, &served, SystemTime::now());
            Considered { live, staged, plan }
        })
        .await
    }

    async fn apply(
        &self,
        staged: Staged,
        basis: Option<Basis>,
        word: &Word,
        task: &mpsc::Sender<Request>,
    ) -> Result<Written, StagingError> {
        let Considered { live, staged, plan } = self.consider(staged, task).await?;
        let since = basis.map_or_else(Vec::new, |basis| moved(&basis, &plan.basis));
        if !since.is_empty() {
            let plan = Box::new(plan);
            return Err(StagingError::Changed {
                since,
                done: 0,
                plan,
            });
        }
        let batches = batches(&staged, &live);
        let transactions = batches.len();
        match apply::write(&self.store, batches).await? {
            Outcome::Done => Ok(Written {
                message: done(&plan, transactions, word),
                plan,
            }),
            Outcome::Conflict { done } => {
                let read = plan.basis;
                let now = self.consider(staged, task).await?.plan;
                Err(StagingError::Changed {
                    since: moved(&read, &now.basis),
                    done,
                    plan: Box::new(now),
                })
            }
        }
    }

    async fn ground(&self, task: &mpsc::Sender<Request>) -> Result<Ground, StagingError> {
        let (answer, answered) = oneshot::channel();
        let asked = task.send(Request::Rehearse(answer)).await;
        asked.map_err(|_| StagingError::Stopped)?;
        Ok(Ground {
            live: self.live().await?,
            rehearsal: answered.await.map_err(|_| StagingError::Stopped)?,
        })
    }

    /// All documents, of one moment, as a majority has them.
    async fn live(&self) -> Result<Live, StagingError> {
        let key = format!("{}/config/", self.prefix);
        let listed = self.client.kv_list(&key, Consistency::Consistent).await;
        listed
            .map(Live::of)
            .map_err(|error| no_consul(&key, &error))
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

fn no_consul(key: &str, error: &ConsulError) -> StagingError {
    StagingError::NoConsul(format!("kv:{key}: {error}"))
}

/// Large sets take milliseconds: no watch and no probe waits for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StagingError> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|error| StagingError::Refused(error.to_string()))
}
