//! What an operator can ask of a running LB, as data: admin takes it in, control carries it out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::group::GroupName;
use super::service::ServiceName;

/// Whom an operator's word is about.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Service(ServiceName),
    /// `SERVICE/SERVER`, the server as its label: `address:port`.
    Server(ServiceName, String),
    /// The LB itself.
    Node,
}

/// How long an acceptance holds that does not say so.
pub const USUAL_ACCEPT: Duration = Duration::from_secs(60);
/// No longer than this, whatever it says: for so long nothing guards what it is about.
pub const MAX_ACCEPT: Duration = Duration::from_secs(3600);

/// What an operator accepts that Consul says of it, doubted or not.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Matter {
    /// That servers of it are gone.
    Service(ServiceName),
    /// That this server is.
    Server(ServiceName, String),
    /// That the pod's documents are those that are there.
    Documents,
}

/// How far a word reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The whole pod, through Consul's KV.
    Pod,
    /// This LB alone, also when Consul is down.
    Here,
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Drain {
        target: Target,
        reach: Reach,
        by: String,
        /// From when it is carried out; None: until undrained. A span, since whoever counts it has a clock of his own.
        lasting: Option<Duration>,
    },
    Undrain {
        target: Target,
        reach: Reach,
        by: String,
    },
    /// What Consul says of it is not doubted, now and for this long.
    Accept {
        matter: Matter,
        reach: Reach,
        by: String,
        lasting: Duration,
    },
}

/// Other shares for a service's groups, in the whole pod. Groups that are not named get nothing from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftOrder {
    pub service: ServiceName,
    pub weights: BTreeMap<GroupName, u32>,
    pub by: String,
}

/// One order about certificates by ACME; names as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateOrder {
    /// Another certificate, due or not.
    Renew(String),
    /// The same for all names, as budgets and back-off allow.
    RenewAll,
    /// The CA is to tell the world that the present one is not to be believed any more; another one is ordered.
    Revoke(String),
    /// All that is sealed is sealed with the key file's first key.
    Rekey,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderError {
    /// No such service or server; holds the message.
    Unknown(String),
    /// It reaches for the pod, and there is no Consul or it does not answer.
    NoConsul(String),
    /// It was tried and came to nothing; holds why.
    Failed(String),
    /// The control plane is shutting down.
    Stopped,
}

impl std::fmt::Display for OrderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OrderError::Unknown(message)
            | OrderError::NoConsul(message)
            | OrderError::Failed(message) => f.write_str(message),
            OrderError::Stopped => f.write_str("rota is stopping"),
        }
    }
}

impl std::error::Error for OrderError {}
