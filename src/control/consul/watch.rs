//! Watches of one thing each: a service's instances, a subtree's documents, what lies beside the subtrees.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::{ASK_AGAIN, Watched};
use super::hidden::Silence;
use super::observation::{Observation, Subtree};
use super::subject::{News, Subject};
use crate::config::ConsulService;

/// Strays are looked for so often at most: Consul's server walks all keys for it, and every write below `config/` would wake it.
const STRAYS_EACH: Duration = Duration::from_secs(5);
/// And so long after an error: whoever may read documents need not be allowed to list keys.
const STRAYS_AFTER_ERROR: Duration = Duration::from_secs(60);
/// Strays that are named; more say nothing new.
const STRAYS: usize = 20;

/// One service by a blocking query of its own.
pub(super) struct ServiceWatch {
    pub client: Client,
    pub service: ConsulService,
    pub subject: Arc<Subject>,
}

impl Watched for ServiceWatch {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let mut reply = self.client.instances(&self.service, when).await?;
        let silence = self
            .client
            .restore_hidden_instances(&self.service, &self.subject, when, &mut reply)
            .await?;
        if silence == Silence::IsOutdated {
            return Ok(ASK_AGAIN);
        }
        let index = reply.sound_index();
        let mut news = News::None;
        if self.subject.believes(&reply) {
            news = self.subject.learned_instances(&self.service, reply).await;
        }
        let index = index?;
        if news == News::Older {
            return Ok(ASK_AGAIN);
        }
        self.subject.outlet().contact();
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        self.subject.failed(&error).await;
    }
}

/// One subtree by a blocking query of its own.
pub(super) struct SubtreeWatch {
    pub client: Client,
    pub subtree: Subtree,
    pub subject: Subject,
}

impl Watched for SubtreeWatch {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let mut reply = self.client.documents(self.subtree, when).await?;
        let silence = self
            .client
            .restore_hidden_documents(self.subtree, &self.subject, when, &mut reply)
            .await?;
        if silence == Silence::IsOutdated {
            return Ok(ASK_AGAIN);
        }
        let index = reply.sound_index();
        if self.subject.believes(&reply) {
            self.subject.learned_documents(self.subtree, reply).await;
        }
        let index = index?;
        self.subject.outlet().contact();
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        self.subject.failed(&error).await;
    }
}

/// What lies right below `config/` and belongs to no subtree: a mistyped name, of which no watch would ever hear.
pub(super) struct StrayWatch {
    pub client: Client,
    pub observations: mpsc::Sender<Observation>,
    /// What was said.
    pub known: Vec<String>,
}

impl Watched for StrayWatch {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        if let When::Beyond(_) = when {
            sleep(STRAYS_EACH).await;
        }
        let reply = self.client.keys(CONFIG, when).await?;
        let index = reply.sound_index()?;
        let mut strays: Vec<String> = reply.content.into_iter().filter_map(stray).collect();
        strays.truncate(STRAYS);
        if strays != self.known {
            self.known.clone_from(&strays);
            // Who listened may have gone.
            let _ = self.observations.send(Observation::Strays(strays)).await;
        }
        Ok(index)
    }

    /// A courtesy: no watch that is needed fails.
    async fn failed(&mut self, error: ConsulError) {
        tracing::debug!(%error, "consul: keys below config/ cannot be listed");
        sleep(STRAYS_AFTER_ERROR).await;
    }
}

const CONFIG: &str = "config/";

/// What follows `config/` in a key that is neither a subtree's nor the folder's own.
fn stray(key: String) -> Option<String> {
    let is_known = Subtree::ALL.iter().any(|subtree| subtree.key() == key);
    let name = key.strip_prefix(CONFIG)?;
    (!is_known && !name.is_empty()).then(|| name.to_owned())
}
