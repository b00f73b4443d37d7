//! What is asked once, between the watches: of a service that nobody watches yet.

use super::client::{Client, When};
use super::error::ConsulError;
use super::observation::Instance;
use crate::config::ConsulService;

impl Client {
    /// The instances of a service at this moment, as any server knows them. An error: an answer that says too little.
    pub async fn instances_now(
        &self,
        service: &ConsulService,
    ) -> Result<Vec<Instance>, ConsulError> {
        let reply = self.instances(service, When::Now).await?;
        reply.sound_index()?;
        Ok(reply.content.instances)
    }
}
