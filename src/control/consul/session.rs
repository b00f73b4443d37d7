//! Sessions: what locks and keys are bound to, so that they go when their owner does.

use std::time::Duration;

use consulrs::api::session::requests::{DeleteSessionRequest, RenewSessionRequest};
use serde::Deserialize;
use serde_json::json;

use super::client::Client;
use super::endpoints::SessionCreate;
use super::error::ConsulError;
use super::middleware::Consistency;
use super::parse;
use super::transport::{Missing, Terms};

/// For each of these questions: several tries fit into a session's life.
const DEADLINE: Duration = Duration::from_secs(4);
/// Answers are some hundred bytes.
const BODY_BYTES: usize = 64 * 1024;

/// What a session is to be.
#[derive(Clone, Copy, Debug)]
pub struct SessionTerms<'a> {
    /// For operators to read.
    pub name: &'a str,
    /// Consul ends it when it was not renewed for so long, up to as long again later. At least 10 s.
    pub ttl: Duration,
    /// Nobody gets a lock for so long after its session ended without giving it back.
    pub lock_delay: Duration,
}

/// What renewing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Renewed,
    /// Consul no longer has it; its locks have passed on.
    Gone,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

impl Client {
    /// A session of the agent's node that ends by its TTL alone, and takes the keys bound to it with it. Gives its id.
    pub async fn session_create(&self, terms: SessionTerms<'_>) -> Result<String, ConsulError> {
        let body = json!({
            "Name": terms.name,
            "TTL": format!("{}s", terms.ttl.as_secs()),
            "LockDelay": format!("{}s", terms.lock_delay.as_secs()),
            "Behavior": "delete",
            // Else the node's own check would end it sooner than its owner can know. One key for each generation of Consul.
            "Checks": [],
            "NodeChecks": [],
        });
        let endpoint = SessionCreate {
            dc: self.datacenter(),
            body: body.to_string().into_bytes(),
        };
        let reply = self.ask(endpoint, self.about_sessions()?).await?;
        let created: Created = parse::whole(&reply.body)?;
        Ok(created.id)
    }

    /// Begins the session's TTL anew.
    pub async fn session_renew(&self, id: &str) -> Result<Renewal, ConsulError> {
        let request = RenewSessionRequest {
            uuid: id.into(),
            dc: self.datacenter(),
            ..RenewSessionRequest::default()
        };
        match self.ask(request, self.about_sessions()?).await {
            Ok(_) => Ok(Renewal::Renewed),
            Err(ConsulError::Server { status: 404, .. }) => Ok(Renewal::Gone),
            Err(error) => Err(error),
        }
    }

    /// Ends a session, there or not.
    pub async fn session_destroy(&self, id: &str) -> Result<(), ConsulError> {
        let request = DeleteSessionRequest {
            uuid: id.into(),
            dc: self.datacenter(),
            ..DeleteSessionRequest::default()
        };
        self.ask(request, self.about_sessions()?).await.map(drop)
    }

    fn about_sessions(&self) -> Result<super::middleware::Envelope, ConsulError> {
        self.envelope(
            Consistency::Leader,
            Terms {
                deadline: DEADLINE,
                body_limit: BODY_BYTES,
                missing: Missing::IsAnError,
            },
        )
    }
}
