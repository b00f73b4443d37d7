//! All keys below one prefix by a blocking query of its own, for who wants them as they are.

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::{Watched, follow};
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
    /// The names of the last answer.
    known: Vec<String>,
    tell: F,
}

impl<F> Following<F> {
    /// Known names that an answer lacks; both are in their order.
    fn lacking(&self, answer: &[Document]) -> Vec<String> {
        let is_in = |name: &String| answer.binary_search_by(|one| one.name.cmp(name)).is_ok();
        let lacking = self.known.iter().filter(|name| !is_in(name));
        lacking.cloned().collect()
    }
}

impl<F: FnMut(Vec<Document>) + Send> Watched for Following<F> {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let mut reply = self.client.below(&self.prefix, when).await?;
        let lacking = self.lacking(&reply.content);
        self.client
            .find_hidden_keys(&self.prefix, lacking, &mut reply)
            .await?;
        // A server without a leader may have read only a part of its state yet: its answer says nothing.
        let index = reply.sound_index()?;
        let names = reply.content.iter().map(|document| document.name.clone());
        self.known = names.collect();
        (self.tell)(reply.content);
        if let Some(subject) = &self.subject {
            subject.answered().await;
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
