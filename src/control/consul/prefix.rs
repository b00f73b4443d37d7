//! All keys below one prefix by a blocking query of its own, for who wants them as they are.

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::{ASK_AGAIN, Watched, follow};
use super::hidden::Silence;
use super::observation::Document;
use super::subject::{Subject, Topic};
use super::watcher::Task;

/// A prefix that is watched until this is dropped.
pub struct PrefixWatch(#[expect(dead_code, reason = "ends with this")] Task);

impl PrefixWatch {
    /// Begins on the current tokio runtime. `prefix` is whole; `tell` is given each answer, also one that says nothing new. What
    /// fails is asked again, and told to where the client reports to.
    pub fn start(
        client: Client,
        prefix: String,
        tell: impl FnMut(Vec<Document>) + Send + 'static,
    ) -> PrefixWatch {
        let topic = Topic::Prefix(prefix.clone());
        let subject = client.outlet().map(|outlet| Subject::new(topic, outlet));
        PrefixWatch(Task::spawn(follow(Following {
            client,
            prefix,
            subject,
            known: Vec::new(),
            tell,
        })))
    }
}

struct Following<F> {
    client: Client,
    prefix: String,
    /// None: nobody wants to know what fails.
    subject: Option<Subject>,
    /// The last answer.
    known: Vec<Document>,
    tell: F,
}

impl<F: FnMut(Vec<Document>) + Send> Watched for Following<F> {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let mut reply = self.client.below(&self.prefix, when).await?;
        let known = (&*self.known, self.subject.as_ref());
        let silence = self
            .client
            .restore_hidden_keys(&self.prefix, known, when, &mut reply)
            .await?;
        if silence == Silence::IsOutdated {
            return Ok(ASK_AGAIN);
        }
        // A server without a leader may have read only a part of its state yet: its answer says nothing.
        let index = reply.sound_index()?;
        self.known.clone_from(&reply.content);
        (self.tell)(reply.content);
        if let Some(subject) = &self.subject {
            subject.answered_without(reply.hidden.as_ref()).await;
        }
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        match &self.subject {
            Some(subject) => subject.failed(&error).await,
            None => tracing::debug!(prefix = self.prefix, %error, "watch of keys"),
        }
    }
}
