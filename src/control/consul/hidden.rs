//! Whether what an answer lacks is gone, or is only not shown to this token any more: Consul leaves out what it may not read.
//!
//! What is hidden stays in the answer as it was known, so that it holds up nothing of what is beside it.

use std::collections::BTreeSet;

use super::client::{Client, When};
use super::endpoints::AccessQuestion;
use super::error::{Blame, ConsulError};
use super::observation::{Document, Instance, Subtree};
use super::parse::Instances;
use super::reply::Reply;
use super::subject::Subject;
use crate::config::ConsulService;

/// Consul refuses more at once.
const QUESTIONS: usize = 64;

/// What is to be made of what an answer lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Silence {
    /// It is gone; what is hidden is in the answer again.
    IsJudged,
    /// A question that hung was answered by the rights that it began with, which are not those of now: to be asked again.
    IsOutdated,
}

impl Client {
    /// Puts instances that access control left out back into an answer. Without a word of it from Consul (there since 1.11) none is
    /// looked for: who vanishes is the guard's to doubt.
    pub(super) async fn restore_hidden_instances(
        &self,
        service: &ConsulService,
        subject: &Subject,
        when: When,
        reply: &mut Reply<Instances>,
    ) -> Result<Silence, ConsulError> {
        if !reply.is_filtered || reply.flaw.is_some() {
            return Ok(Silence::IsJudged);
        }
        let mut lacking = subject.known_instances();
        let answer = &reply.content.instances;
        lacking.retain(|one| !answer.iter().any(|other| is_same(one, other)));
        if lacking.is_empty() {
            return Ok(Silence::IsJudged);
        }
        let nodes: BTreeSet<String> = lacking.iter().map(|one| one.node.clone()).collect();
        let of_service = ("service", service.service.to_string());
        let of_nodes = nodes.into_iter().map(|node| ("node", node));
        let asked: Vec<_> = [of_service].into_iter().chain(of_nodes).collect();
        let datacenter = self.datacenter_of(service);
        let hidden = self.hidden(datacenter, &asked, reply).await?;
        let is_hidden = |one: &Instance| {
            hidden.contains(&asked[0]) || hidden.contains(&("node", one.node.clone()))
        };
        let all = lacking.len();
        lacking.retain(is_hidden);
        if lacking.len() < all && when != When::Now {
            return Ok(Silence::IsOutdated);
        }
        reply.hide(lacking.len());
        let instances = &mut reply.content.instances;
        instances.extend(lacking);
        instances.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
        Ok(Silence::IsJudged)
    }

    /// The same of documents, whether Consul says a word or not: they vanish rarely, and one by one nobody doubts it.
    pub(super) async fn restore_hidden_documents(
        &self,
        subtree: Subtree,
        subject: &Subject,
        when: When,
        reply: &mut Reply<Vec<Document>>,
    ) -> Result<Silence, ConsulError> {
        // Of a single key Consul says that it may not be read.
        if !subtree.key().ends_with('/') {
            return Ok(Silence::IsJudged);
        }
        let (prefix, known) = (self.key_of(subtree), subject.known_documents());
        self.restore_hidden_keys(&prefix, (&known, Some(subject)), when, reply)
            .await
    }

    /// The same of keys that begin with `prefix`; `known` is what there was of them, in the order of names, and who says what fails.
    pub(super) async fn restore_hidden_keys(
        &self,
        prefix: &str,
        (known, subject): (&[Document], Option<&Subject>),
        when: When,
        reply: &mut Reply<Vec<Document>>,
    ) -> Result<Silence, ConsulError> {
        let answer = &reply.content;
        let is_in = |one: &Document| answer.binary_search_by(|other| other.name.cmp(&one.name));
        let lacking = known.iter().filter(|one| is_in(one).is_err());
        let lacking: Vec<Document> = lacking.cloned().collect();
        if lacking.is_empty() || reply.flaw.is_some() {
            return Ok(Silence::IsJudged);
        }
        let key = |one: &Document| ("key", format!("{prefix}{}", one.name));
        let asked: Vec<_> = lacking.iter().map(key).collect();
        let hidden = self.hidden(self.datacenter(), &asked, reply).await?;
        let was_denied = reply.is_filtered || subject.is_some_and(Subject::is_denied);
        if hidden.len() < lacking.len() && was_denied && when != When::Now {
            return Ok(Silence::IsOutdated);
        }
        reply.hide(hidden.len());
        let lacking = lacking.into_iter().filter(|one| hidden.contains(&key(one)));
        reply.content.extend(lacking);
        reply.content.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Silence::IsJudged)
    }

    /// Those of `asked`, resources and their names, that the token may not read.
    async fn hidden<T>(
        &self,
        datacenter: Option<String>,
        asked: &[Resource],
        reply: &Reply<T>,
    ) -> Result<BTreeSet<Resource>, ConsulError> {
        let mut hidden = BTreeSet::new();
        for some in asked.chunks(QUESTIONS) {
            let questions = some.iter().map(|(resource, segment)| AccessQuestion {
                resource,
                access: "read",
                segment,
            });
            let questions: Vec<AccessQuestion> = questions.collect();
            let is_allowed = match self.rights(datacenter.clone(), &questions).await {
                Ok(is_allowed) if is_allowed.len() == some.len() => is_allowed,
                Err(error) if matches!(error.blame(), Blame::Agent | Blame::Leader) => {
                    return Err(error);
                }
                // Nobody can say: access control is off, or the question is not allowed.
                Ok(_) | Err(_) => vec![!reply.is_filtered; some.len()],
            };
            let each = some.iter().zip(is_allowed);
            hidden.extend(
                each.filter(|(_, is_allowed)| !is_allowed)
                    .map(|(one, _)| one.clone()),
            );
        }
        Ok(hidden)
    }
}

/// What kind it is, and its name.
type Resource = (&'static str, String);

fn is_same(one: &Instance, other: &Instance) -> bool {
    (&one.node, &one.id) == (&other.node, &other.id)
}

impl<T> Reply<T> {
    /// Notes that so much of it is hidden.
    fn hide(&mut self, hidden: usize) {
        if hidden > 0 {
            let what =
                "the answer lacks what was there and the token may not read: it stays as it was";
            self.hidden = Some(ConsulError::Denied(what.into()));
        }
    }
}
