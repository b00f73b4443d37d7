//! Whether what an answer lacks is gone, or is only not shown to this token any more: Consul leaves out what it may not read.

use super::client::Client;
use super::endpoints::AccessQuestion;
use super::error::{Blame, ConsulError};
use super::observation::{Document, Subtree};
use super::parse::Instances;
use super::reply::Reply;
use super::subject::Subject;
use crate::config::ConsulService;

/// Consul refuses more at once.
const QUESTIONS: usize = 64;

impl Client {
    /// Gives an answer from which access control left out instances that were there a flaw. Without a word of it from Consul (there
    /// since 1.11) none is looked for: who vanishes is the guard's to doubt.
    pub(super) async fn find_hidden_instances(
        &self,
        service: &ConsulService,
        subject: &Subject,
        reply: &mut Reply<Instances>,
    ) -> Result<(), ConsulError> {
        if !reply.is_filtered {
            return Ok(());
        }
        let nodes = subject.nodes_lacking(&reply.content.instances);
        let of_service = ("service", service.service.to_string());
        let lacking = nodes.into_iter().map(|node| ("node", node));
        let lacking: Vec<_> = lacking.chain([of_service]).collect();
        if lacking.len() > 1 {
            self.find_hidden(self.datacenter_of(service), &lacking, reply)
                .await?;
        }
        Ok(())
    }

    /// The same of documents, whether Consul says a word or not: they vanish rarely, and one by one nobody doubts it.
    pub(super) async fn find_hidden_documents(
        &self,
        subtree: Subtree,
        subject: &Subject,
        reply: &mut Reply<Vec<Document>>,
    ) -> Result<(), ConsulError> {
        // Of a single key Consul says that it may not be read.
        if !subtree.key().ends_with('/') {
            return Ok(());
        }
        let names = subject.names_lacking(&reply.content);
        self.find_hidden_keys(&self.key_of(subtree), names, reply)
            .await
    }

    /// The same of keys that begin with `prefix`, by what followed it in those that an answer lacks.
    pub(super) async fn find_hidden_keys(
        &self,
        prefix: &str,
        names: Vec<String>,
        reply: &mut Reply<Vec<Document>>,
    ) -> Result<(), ConsulError> {
        let keys = names.iter().map(|name| format!("{prefix}{name}"));
        let lacking: Vec<_> = keys.map(|key| ("key", key)).collect();
        if !lacking.is_empty() {
            self.find_hidden(self.datacenter(), &lacking, reply).await?;
        }
        Ok(())
    }

    async fn find_hidden<T>(
        &self,
        datacenter: Option<String>,
        lacking: &[(&'static str, String)],
        reply: &mut Reply<T>,
    ) -> Result<(), ConsulError> {
        if reply.flaw.is_some() {
            return Ok(());
        }
        for some in lacking.chunks(QUESTIONS) {
            let questions = some.iter().map(|(resource, segment)| AccessQuestion {
                resource,
                access: "read",
                segment,
            });
            let questions: Vec<AccessQuestion> = questions.collect();
            let is_shown = match self.may(datacenter.clone(), &questions).await {
                Ok(is_allowed) => is_allowed,
                Err(error) if matches!(error.blame(), Blame::Agent | Blame::Leader) => {
                    return Err(error);
                }
                // Nobody can say: access control is off, or the question is not allowed.
                Err(_) => !reply.is_filtered,
            };
            if !is_shown {
                let what = "the answer lacks what was there and the token may not read";
                reply.flaw = Some(ConsulError::Denied(what.into()));
                return Ok(());
            }
        }
        Ok(())
    }
}
