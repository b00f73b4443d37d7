//! Where operators' staged documents are brought: the live ones are read, Consul is asked about what nobody has watched yet, and
//! the comparison is made on a thread of its own.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::check::check;
use super::live::Live;
use super::plan::plan;
use crate::certs::CertStore;
use crate::config::ConsulService;
use crate::control::consul::{Client, Consistency, ConsulError};
use crate::control::model::Rehearsal;
use crate::control::task::Request;
use crate::routing::staged::{Plan, Staged, Staging, StagingAnswer, StagingError};
use crate::routing::swap::Reader;

/// Services that Consul is asked about for one plan; of more nothing is said.
pub const MAX_ASKED: usize = 256;

/// Carries out what is asked about staged documents.
pub struct Desk {
    client: Client,
    prefix: String,
    served: Reader<CertStore>,
    /// One at a time: each holds all documents twice.
    place: Semaphore,
}

/// What documents are compared with.
struct Ground {
    rehearsal: Rehearsal,
    live: Live,
}

impl Desk {
    /// `prefix` is the pod's.
    pub fn new(client: Client, prefix: &str, served: Reader<CertStore>) -> Arc<Desk> {
        Arc::new(Desk {
            client,
            prefix: prefix.to_owned(),
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
            Staging::Plan(staged) => self.plan(staged, task).await.map(StagingAnswer::Plan),
        }
    }

    async fn plan(
        &self,
        staged: Staged,
        task: &mpsc::Sender<Request>,
    ) -> Result<Plan, StagingError> {
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
            let Ground { rehearsal, live } = &ground;
            plan(rehearsal, live, &staged, &served, SystemTime::now())
        })
        .await
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
