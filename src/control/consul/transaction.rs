//! Transactions: several steps on keys, of which Consul takes all or none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consulrs::api::kv::common::KVPair;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::endpoints::Transaction;
use super::error::{ConsulError, excerpt};
use super::middleware::Consistency;
use super::observation::Document;
use super::parse;

/// The most steps that Consul takes at once.
pub const TRANSACTION_STEPS: usize = 64;
/// The most bytes of JSON, in which values are a third longer than they are.
pub const TRANSACTION_BYTES: usize = 512 * 1024;

/// One step; keys are whole.
#[derive(Clone, Debug)]
pub enum Step {
    /// Fails if there is no such key.
    Get {
        key: String,
    },
    /// Fails unless this session holds the key.
    CheckSession {
        key: String,
        session: String,
    },
    /// Fails if another session holds the key, or lost it just now.
    Lock {
        key: String,
        session: String,
        value: Vec<u8>,
    },
    /// Fails unless the key's modify index is this one; 0: unless there is no such key.
    Set {
        key: String,
        value: Vec<u8>,
        index: u64,
    },
    /// Fails if there is the key with another modify index.
    DeleteAt {
        key: String,
        index: u64,
    },
    Delete {
        key: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it; the documents that it read, named by their whole keys.
    All(Vec<Document>),
    /// None of it, for these reasons.
    None(Vec<Objection>),
}

/// Why a step was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Which, from 0.
    pub step: usize,
    pub why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    results: Option<Vec<ResultEntry>>,
    errors: Option<Vec<ErrorEntry>>,
}

#[derive(Deserialize)]
struct ResultEntry {
    #[serde(rename = "KV")]
    pair: Option<KVPair>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorEntry {
    op_index: usize,
    what: String,
}

impl Client {
    /// Takes all steps or none. With an error that is not [`ConsulError::Local`] or [`ConsulError::Denied`] nobody knows which.
    pub async fn transaction(&self, steps: &[Step]) -> Result<Taken, ConsulError> {
        let body = body(steps)?;
        let endpoint = Transaction {
            dc: self.datacenter(),
            body,
        };
        // Of one that only reads Consul asks how new it is to be; the others are the leader's anyway.
        let only_reads = steps.iter().all(|step| matches!(step, Step::Get { .. }));
        let consistency = match only_reads {
            true => Consistency::Consistent,
            false => Consistency::Leader,
        };
        let reply = self.ask_for_agreement(endpoint, consistency).await?;
        reply.read(read).await.map(|reply| reply.content)
    }
}

fn body(steps: &[Step]) -> Result<Vec<u8>, ConsulError> {
    if steps.len() > TRANSACTION_STEPS {
        return Err(ConsulError::Local(format!(
            "a transaction of {} steps, consul takes {TRANSACTION_STEPS}",
            steps.len()
        )));
    }
    let steps: Vec<Value> = steps.iter().map(written).collect();
    let body = Value::Array(steps).to_string().into_bytes();
    if body.len() > TRANSACTION_BYTES {
        return Err(ConsulError::Local(format!(
            "a transaction of {} bytes, consul takes {TRANSACTION_BYTES}",
            body.len()
        )));
    }
    Ok(body)
}

fn written(step: &Step) -> Value {
    let encode = |value: &Vec<u8>| STANDARD.encode(value);
    let step = match step {
        Step::Get { key } => json!({"Verb": "get", "Key": key}),
        Step::CheckSession { key, session } => {
            json!({"Verb": "check-session", "Key": key, "Session": session})
        }
        Step::Lock {
            key,
            session,
            value,
        } => json!({"Verb": "lock", "Key": key, "Session": session, "Value": encode(value)}),
        Step::Set { key, value, index } => {
            json!({"Verb": "cas", "Key": key, "Index": index, "Value": encode(value)})
        }
        Step::DeleteAt { key, index } => json!({"Verb": "delete-cas", "Key": key, "Index": index}),
        Step::Delete { key } => json!({"Verb": "delete", "Key": key}),
    };
    json!({"KV": step})
}

fn read(body: &[u8]) -> Result<Taken, ConsulError> {
    let answer: Answer = parse::whole(body)?;
    let errors = answer.errors.unwrap_or_default();
    if errors.is_empty() {
        let pairs = answer.results.unwrap_or_default().into_iter();
        let documents = pairs
            .filter_map(|entry| entry.pair)
            .map(|pair| parse::document(pair, 0))
            .collect::<Result<Vec<_>, _>>()?;
        return Ok(Taken::All(documents));
    }
    let objections = errors.into_iter().map(|error| Objection {
        step: error.op_index,
        why: excerpt(error.what.as_bytes(), None),
    });
    let objections: Vec<Objection> = objections.collect();
    match objections.iter().find(|one| is_denied(&one.why)) {
        Some(denied) => Err(ConsulError::Denied(denied.why.clone())),
        None => Ok(Taken::None(objections)),
    }
}

/// Of a step Consul says so in words alone.
fn is_denied(why: &str) -> bool {
    why.to_ascii_lowercase().contains("permission denied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consul_answers_is_all_or_none_or_a_lack_of_rights() {
        let all = br#"{"Results":[{"KV":{"LockIndex":0,"Key":"a/b","Flags":0,"Value":"eHk=","CreateIndex":2,"ModifyIndex":3}}],"Errors":null}"#;
        let Taken::All(documents) = read(all).unwrap() else {
            panic!("all were taken");
        };
        assert_eq!(
            (&*documents[0].name, &*documents[0].value),
            ("a/b", &b"xy"[..])
        );
        let none = br#"{"Results":null,"Errors":[{"OpIndex":1,"What":"failed to set key \"k\", index is stale"}]}"#;
        let Taken::None(objections) = read(none).unwrap() else {
            panic!("none was taken");
        };
        assert_eq!(objections[0].step, 1);
        let denied = br#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}"#;
        assert!(matches!(read(denied), Err(ConsulError::Denied(_))));
        assert!(matches!(read(b"no"), Err(ConsulError::Unreadable(_))));
    }

    #[test]
    fn what_consul_would_not_take_is_not_sent() {
        let get = Step::Get { key: "k".into() };
        let many = vec![get; TRANSACTION_STEPS + 1];
        assert!(matches!(body(&many), Err(ConsulError::Local(_))));
        let long = Step::Set {
            key: "k".into(),
            value: vec![0; TRANSACTION_BYTES / 4 * 3],
            index: 0,
        };
        assert!(matches!(body(&[long]), Err(ConsulError::Local(_))));
    }
}
