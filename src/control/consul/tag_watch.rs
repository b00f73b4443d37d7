//! Which services of the catalogue have tags that ask for routes. Their instances are watched as any service's.

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::Watched;
use super::observation::Observation;
use super::subject::Subject;
use crate::config::TagGrammar;
use crate::config::tags::asks_for_routes;

/// Services that are looked at for their tags; those beyond, by name, are left out and counted.
pub const TAGGED_SERVICES: usize = 4096;

pub(super) struct TagWatch {
    pub client: Client,
    pub subject: Subject,
    pub grammar: TagGrammar,
    /// None: the agent's own.
    pub datacenter: Option<String>,
    /// What was said.
    pub known: Option<Vec<String>>,
}

impl Watched for TagWatch {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let asked = self.client.services(self.datacenter.clone(), when);
        let reply = asked.await?;
        let index = reply.sound_index()?;
        self.subject.answered().await;
        self.subject.outlet().contact();
        let asks = |tags: &[String]| tags.iter().any(|tag| asks_for_routes(tag, self.grammar));
        let tagged = reply.content.into_iter().filter(|(_, tags)| asks(tags));
        let mut services: Vec<String> = tagged.map(|(name, _)| name).collect();
        services.sort();
        if self.known.as_ref() != Some(&services) {
            self.known = Some(services.clone());
            let beyond = services.len().saturating_sub(TAGGED_SERVICES);
            services.truncate(TAGGED_SERVICES);
            let observation = Observation::Tagged { services, beyond };
            // Who listened may have gone.
            let _ = self.subject.outlet().observations.send(observation).await;
        }
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        self.subject.failed(&error).await;
    }
}
