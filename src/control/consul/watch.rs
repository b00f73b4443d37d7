//! Watches of one thing each: a service's instances, a subtree's documents.

use std::sync::Arc;

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::Watched;
use super::observation::Subtree;
use super::subject::Subject;
use crate::config::ConsulService;

/// One service by a blocking query of its own.
pub(super) struct ServiceWatch {
    pub client: Client,
    pub service: ConsulService,
    pub subject: Arc<Subject>,
}

impl Watched for ServiceWatch {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let reply = self.client.instances(&self.service, when).await?;
        let index = reply.index_of_leader();
        if self.subject.believes(reply.leader) {
            self.subject
                .learned_instances(&self.service, reply.content)
                .await;
        }
        let index = index?;
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
        let reply = self.client.documents(self.subtree, when).await?;
        let index = reply.index_of_leader();
        if self.subject.believes(reply.leader) {
            self.subject
                .learned_documents(self.subtree, reply.content)
                .await;
        }
        let index = index?;
        self.subject.outlet().contact();
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        self.subject.failed(&error).await;
    }
}
