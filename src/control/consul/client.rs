//! Questions to one agent, each with a deadline and a limit, their answers read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use consulrs::api::features::Blocking;
use consulrs::api::kv::requests::{
    DeleteKeyRequest, ReadKeyRequest, ReadKeysRequest, SetKeyRequest,
};
use http_02::{Response, StatusCode};
use rustify::endpoint::Endpoint;
use rustify::errors::ClientError;

use super::endpoints::{AccessQuestion, AclAuthorize};
use super::endpoints::{CatalogServices, HealthService, HealthState, StatusLeader};
use super::error::{ConsulError, excerpt};
use super::middleware::{Consistency, Envelope};
use super::observation::{Document, Subtree};
use super::parse;
use super::reply::{RawReply, Reply, by_status, raw};
use super::subject::Outlet;
use super::transport::{Missing, Terms, Transport};
use super::watcher::Watcher;
use crate::config::{Consul, ConsulService, ConsulToken};
use crate::dial::tls;

/// For a question that does not wait, from connecting to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);
/// For the probe, which asks next to nothing of the agent.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// An answer's limit: all checks of some 100,000 instances. It is there against an endless one.
const BODY_BYTES: usize = 64 * 1024 * 1024;
/// The limit for answers of a few bytes.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// The most that Consul takes as a value; beyond it the connection would be cut without a word.
pub const VALUE_BYTES: usize = 512 * 1024;

/// A way to ask one agent; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    settings: Arc<Consul>,
    /// Where watches of prefixes say that they fail.
    outlet: Option<Outlet>,
}

/// Whether an answer is wanted at once, or once there is something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    /// As soon as the index goes beyond this one, or after the settings' `wait`.
    Beyond(u64),
}

impl Client {
    /// Reads the TLS files and opens nothing yet. The error names the setting or file and what is wrong with it.
    pub fn new(settings: &Consul) -> Result<Client, String> {
        let transport = Transport::new(&settings.address, || {
            let identity = match (&settings.certificate, &settings.key) {
                (Some(certificate), Some(key)) => Some((certificate.as_path(), key.as_path())),
                _ => None,
            };
            tls::client_config(settings.ca_file.as_deref(), identity, &[b"http/1.1"])
        })?;
        Ok(Client {
            transport,
            settings: Arc::new(settings.clone()),
            outlet: None,
        })
    }

    /// The same, whose watches of prefixes say where this watcher's do that they fail.
    pub fn reporting_with(self, watcher: &Watcher) -> Client {
        Client {
            outlet: Some(watcher.outlet()),
            ..self
        }
    }

    pub(super) fn outlet(&self) -> Option<Outlet> {
        self.outlet.clone()
    }

    /// One key as the leader has it; None: there is none, or the token may not see it. Its document's name is empty.
    pub async fn kv_read(&self, key: &str) -> Result<Option<Document>, ConsulError> {
        let documents = self
            .documents_at(key, Depth::Key, Consistency::Leader, When::Now)
            .await?;
        Ok(documents.content.into_iter().next())
    }

    /// One key as the leader has it, after a majority confirmed that it still is one.
    pub async fn kv_read_consistently(&self, key: &str) -> Result<Option<Document>, ConsulError> {
        let documents = self
            .documents_at(key, Depth::Key, Consistency::Consistent, When::Now)
            .await?;
        Ok(documents.content.into_iter().next())
    }

    /// All keys that begin with `prefix`, named by what follows it. An error: a listing that lacks some, as far as Consul says so.
    pub async fn kv_list(
        &self,
        prefix: &str,
        consistency: Consistency,
    ) -> Result<Vec<Document>, ConsulError> {
        self.documents_at(prefix, Depth::Below, consistency, When::Now)
            .await?
            .whole()
    }

    /// Writes one key; with `cas` only if its modify index still is that (0: only if there is none). Says whether it did.
    pub async fn kv_write(
        &self,
        key: &str,
        value: &[u8],
        cas: Option<u64>,
    ) -> Result<bool, ConsulError> {
        if value.len() > VALUE_BYTES {
            return Err(ConsulError::Local(format!(
                "key {key}: {} bytes, consul takes {VALUE_BYTES}",
                value.len()
            )));
        }
        let request = SetKeyRequest {
            key: key.into(),
            value: value.into(),
            cas,
            dc: self.settings.datacenter.clone(),
            ..SetKeyRequest::default()
        };
        parse::whole(&self.ask(request, self.change()?).await?.body)
    }

    /// Removes one key, there or not.
    pub async fn kv_delete(&self, key: &str) -> Result<(), ConsulError> {
        let request = DeleteKeyRequest {
            key: key.into(),
            dc: self.settings.datacenter.clone(),
            ..DeleteKeyRequest::default()
        };
        self.ask(request, self.change()?).await.map(drop)
    }

    /// The instances of a service, as any server knows them.
    pub(super) async fn instances(
        &self,
        service: &ConsulService,
        when: When,
    ) -> Result<Reply<parse::Instances>, ConsulError> {
        let endpoint = HealthService {
            service: service.service.clone(),
            tag: service.tag.clone(),
            dc: self.datacenter_of(service),
        };
        let reply = self
            .ask(endpoint, self.watching(when, Missing::IsAnError)?)
            .await?;
        reply.read(parse::instances).await
    }

    /// The instances of a service as the leader has them, after a majority confirmed that it still is one.
    pub(super) async fn instances_consistently(
        &self,
        service: &ConsulService,
    ) -> Result<Reply<parse::Instances>, ConsulError> {
        let endpoint = HealthService {
            service: service.service.clone(),
            tag: service.tag.clone(),
            dc: self.datacenter_of(service),
        };
        let mut envelope = self.watching(When::Now, Missing::IsAnError)?;
        envelope.consistency = Consistency::Consistent;
        self.ask(endpoint, envelope)
            .await?
            .read(parse::instances)
            .await
    }

    /// Whether the token may read a service on a node. Consul leaves out what it may not, without a word before 1.11. An error
    /// where nobody can say: access control is off, or this Consul does not know the question.
    pub(super) async fn may_read(
        &self,
        service: &ConsulService,
        node: &str,
    ) -> Result<bool, ConsulError> {
        let asked = |resource, segment| AccessQuestion {
            resource,
            access: "read",
            segment,
        };
        let questions = [asked("service", &*service.service), asked("node", node)];
        let rights = self.rights(self.datacenter_of(service), &questions).await?;
        Ok(rights.into_iter().all(|is_allowed| is_allowed))
    }

    /// Whether the token may do each of this, in its order; an error where nobody can say.
    pub(super) async fn rights(
        &self,
        datacenter: Option<String>,
        questions: &[AccessQuestion<'_>],
    ) -> Result<Vec<bool>, ConsulError> {
        let endpoint = AclAuthorize {
            dc: datacenter,
            body: serde_json::to_vec(questions).expect("strings are always JSON"),
        };
        let terms = Terms {
            deadline: PROBE_DEADLINE,
            body_limit: SMALL_BODY_BYTES,
            missing: Missing::IsAnError,
        };
        let envelope = self.envelope(Consistency::Leader, terms)?;
        parse::are_allowed(&self.ask(endpoint, envelope).await?.body)
    }

    /// The datacenter that is asked about a service; None: the agent's own.
    pub(super) fn datacenter_of(&self, service: &ConsulService) -> Option<String> {
        let own = || self.settings.datacenter.clone();
        service.datacenter.clone().or_else(own)
    }

    /// The documents of a subtree, as any server knows them.
    pub(super) async fn documents(
        &self,
        subtree: Subtree,
        when: When,
    ) -> Result<Reply<Vec<Document>>, ConsulError> {
        let depth = match subtree.key().ends_with('/') {
            true => Depth::Below,
            false => Depth::Key,
        };
        let key = self.key_of(subtree);
        match depth {
            Depth::Below => self.below(&key, when).await,
            Depth::Key => self.key(&key, when).await,
        }
    }

    pub(super) fn key_of(&self, subtree: Subtree) -> String {
        format!("{}/{}", self.settings.prefix, subtree.key())
    }

    /// All keys that begin with `prefix` as any server knows them, named by what follows it: nothing, for a key that is the prefix.
    pub(super) async fn below(
        &self,
        prefix: &str,
        when: When,
    ) -> Result<Reply<Vec<Document>>, ConsulError> {
        let mut reply = self
            .documents_at(prefix, Depth::Below, Consistency::Stale, when)
            .await?;
        // Consul's own interface makes a key for the folder itself.
        if prefix.ends_with('/') {
            reply.content.retain(|document| !document.name.is_empty());
        }
        Ok(reply)
    }

    /// What stands right below a key that ends with a slash, named from the prefix on: a folder ends with a slash.
    pub(super) async fn keys(
        &self,
        below: &str,
        when: When,
    ) -> Result<Reply<Vec<String>>, ConsulError> {
        let request = ReadKeysRequest {
            key: format!("{}/{below}", self.settings.prefix),
            keys: true,
            separator: Some("/".into()),
            dc: self.settings.datacenter.clone(),
            ..ReadKeysRequest::default()
        };
        let envelope = self.watching(when, Missing::IsAnEmptyList)?;
        let reply = self.ask(request, envelope).await?;
        let mut reply = reply.read(parse::whole::<Vec<String>>).await?;
        let prefix = format!("{}/", self.settings.prefix);
        let below_prefix = |key: &String| key.strip_prefix(&prefix).map(str::to_owned);
        reply.content = reply.content.iter().filter_map(below_prefix).collect();
        Ok(reply)
    }

    /// One key as any server knows it; empty: there is none.
    pub(super) async fn key(
        &self,
        key: &str,
        when: When,
    ) -> Result<Reply<Vec<Document>>, ConsulError> {
        self.documents_at(key, Depth::Key, Consistency::Stale, when)
            .await
    }

    /// The checks of a datacenter that are in a state: `any`, `critical`, ….
    pub(super) async fn check_states(
        &self,
        state: &'static str,
        datacenter: Option<String>,
        when: When,
    ) -> Result<Reply<parse::CheckStates>, ConsulError> {
        let envelope = self.watching(when, Missing::IsAnError)?;
        let endpoint = HealthState {
            state,
            dc: datacenter,
        };
        let reply = self.ask(endpoint, envelope).await?;
        reply.read(parse::check_states).await
    }

    /// All services of a datacenter with their tags.
    pub(super) async fn services(
        &self,
        datacenter: Option<String>,
        when: When,
    ) -> Result<Reply<HashMap<String, Vec<String>>>, ConsulError> {
        let envelope = self.watching(when, Missing::IsAnError)?;
        let reply = self
            .ask(CatalogServices { dc: datacenter }, envelope)
            .await?;
        reply.read(parse::services).await
    }

    /// Whether the agent answers and its servers have a leader.
    pub(super) async fn has_leader(&self) -> Result<bool, ConsulError> {
        let endpoint = StatusLeader {
            dc: self.settings.datacenter.clone(),
        };
        let envelope = self.envelope(
            Consistency::Leader,
            Terms {
                deadline: PROBE_DEADLINE,
                body_limit: SMALL_BODY_BYTES,
                missing: Missing::IsAnError,
            },
        )?;
        let leader: String = parse::whole(&self.ask(endpoint, envelope).await?.body)?;
        Ok(!leader.is_empty())
    }

    async fn documents_at(
        &self,
        key: &str,
        depth: Depth,
        consistency: Consistency,
        when: When,
    ) -> Result<Reply<Vec<Document>>, ConsulError> {
        let request = ReadKeyRequest {
            key: key.into(),
            dc: self.settings.datacenter.clone(),
            recurse: (depth == Depth::Below).then_some(true),
            ..ReadKeyRequest::default()
        };
        let mut envelope = self.watching(when, Missing::IsAnEmptyList)?;
        envelope.consistency = consistency;
        let below = key.len();
        let reply = self.ask(request, envelope).await?;
        reply.read(move |body| parse::documents(body, below)).await
    }

    fn watching(&self, when: When, missing: Missing) -> Result<Envelope, ConsulError> {
        let wait = self.settings.wait;
        let (blocking, deadline) = match when {
            When::Now | When::Beyond(0) => (None, DEADLINE),
            // Consul adds up to a sixteenth, so that the watches of a fleet don't end together.
            When::Beyond(index) => (
                Some(Blocking {
                    index,
                    wait: Some(format!("{}ms", wait.as_millis())),
                }),
                wait * 17 / 16 + DEADLINE,
            ),
        };
        let terms = Terms {
            deadline,
            body_limit: BODY_BYTES,
            missing,
        };
        Ok(Envelope {
            blocking,
            ..self.envelope(Consistency::Stale, terms)?
        })
    }

    fn change(&self) -> Result<Envelope, ConsulError> {
        self.envelope(
            Consistency::Leader,
            Terms {
                deadline: DEADLINE,
                body_limit: SMALL_BODY_BYTES,
                missing: Missing::IsAnError,
            },
        )
    }

    pub(super) fn datacenter(&self) -> Option<String> {
        self.settings.datacenter.clone()
    }

    pub(super) fn envelope(
        &self,
        consistency: Consistency,
        terms: Terms,
    ) -> Result<Envelope, ConsulError> {
        Ok(Envelope {
            token: self.token()?,
            consistency,
            blocking: None,
            terms,
        })
    }

    /// A file is read each time: a rotated token is in force with the next question.
    fn token(&self) -> Result<Option<String>, ConsulError> {
        match &self.settings.token {
            None => Ok(None),
            Some(ConsulToken::Value(token)) => Ok(Some(token.trim_end().to_owned())),
            Some(ConsulToken::File(path)) => match std::fs::read_to_string(path) {
                Ok(token) => Ok(Some(token.trim_end().to_owned())),
                Err(error) => Err(ConsulError::Local(format!(
                    "token file {}: {error}",
                    path.display()
                ))),
            },
        }
    }

    pub(super) async fn ask<E: Endpoint>(
        &self,
        endpoint: E,
        envelope: Envelope,
    ) -> Result<RawReply, ConsulError> {
        let answer = self.exchange(endpoint, &envelope).await?;
        match answer.status().is_success() {
            true => Ok(raw(answer)),
            false => Err(by_status(&answer, envelope.token.as_deref())),
        }
    }

    /// Of a change to which Consul may say no: a conflict is an answer like another.
    pub(super) async fn ask_for_agreement<E: Endpoint>(
        &self,
        endpoint: E,
        consistency: Consistency,
    ) -> Result<RawReply, ConsulError> {
        let terms = Terms {
            deadline: DEADLINE,
            body_limit: BODY_BYTES,
            missing: Missing::IsAnError,
        };
        let envelope = self.envelope(consistency, terms)?;
        let answer = self.exchange(endpoint, &envelope).await?;
        match answer.status() {
            status if status.is_success() || status == StatusCode::CONFLICT => Ok(raw(answer)),
            _ => Err(by_status(&answer, envelope.token.as_deref())),
        }
    }

    async fn exchange<E: Endpoint>(
        &self,
        endpoint: E,
        envelope: &Envelope,
    ) -> Result<Response<Vec<u8>>, ConsulError> {
        let token = envelope.token.as_deref();
        let request = build(endpoint, envelope, self.transport.base())
            .map_err(|error| while_building(error, token))?;
        self.transport.send(&request).await
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Key,
    Below,
}

/// Both crates log each request at `info`, and each error at every level it passes: they build in silence, and nothing else of
/// them runs. (rustify's own `exec` would also copy a whole answer into its error.)
fn build<E: Endpoint>(
    endpoint: E,
    envelope: &Envelope,
    base: &str,
) -> Result<http_02::Request<Vec<u8>>, ClientError> {
    let silence = tracing::Dispatch::none();
    tracing::dispatcher::with_default(&silence, || {
        endpoint.with_middleware(envelope).request(base)
    })
}

fn while_building(error: ClientError, token: Option<&str>) -> ConsulError {
    let text = match error {
        ClientError::GenericError { source } => match source.downcast::<ConsulError>() {
            Ok(error) => return error,
            Err(error) => error.to_string(),
        },
        error => error.to_string(),
    };
    ConsulError::Local(excerpt(text.as_bytes(), token))
}
