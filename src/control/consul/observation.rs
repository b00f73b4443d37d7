//! What Consul said, as plain data: the control plane decides what to believe.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::Blame;
use crate::config::ConsulService;

/// One answer, or the lack of one. Sent only when the content differs from the last one of the same watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observation {
    /// The instances of one service, whatever their checks say.
    Instances {
        watch: ConsulService,
        instances: Vec<Instance>,
    },
    /// What the leader, confirmed by a majority, has of a service whose losses are doubted. Sent for each time that it was asked for.
    Reread {
        watch: ConsulService,
        instances: Vec<Instance>,
        finding: Finding,
    },
    /// All documents of one subtree. A missing prefix is an empty list.
    Documents {
        subtree: Subtree,
        #[serde(with = "crate::control::journal::form::documents")]
        documents: Arc<[Document]>,
    },
    /// The services of the catalogue whose tags ask for routes, by name; `beyond` more were left out.
    Tagged {
        services: Vec<String>,
        beyond: usize,
    },
    /// What stands right below `config/` and nobody reads: `service/` (a folder), `tunign` (a key).
    Strays(Vec<String>),
    /// A watch began to fail (after it had worked, or at the start); said once per change of state.
    Failing {
        watch: String,
        error: String,
        #[serde(default)]
        blame: Blame,
    },
    /// A failing watch works again, or has ended.
    Recovered { watch: String },
}

/// What a consistent re-read says about why somebody is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing: that is how it is.
    AsItIs,
    /// Consul's index is lower than it was: it lost its state, or an older one was restored.
    WentBack,
    /// The token may not read it: its silence says nothing.
    Hidden,
}

/// The subtrees of `<prefix>` that are watched, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subtree {
    /// `config/services/`
    Services,
    /// `config/routes/`
    Routes,
    /// `config/domains/`
    Domains,
    /// `config/tuning`: at most one document, its name empty.
    Tuning,
    /// `operator/drain/`
    OperatorDrain,
    /// `operator/accept/`
    OperatorAccept,
    /// `apply`: the mark that stands while a change of several transactions is written, its name empty.
    Apply,
    /// `canary/`: a change that is tried on some load balancers: its `head`, the documents of `config/` as they would be, and below
    /// `gone/` those that would not be any more.
    Canary,
    /// `pod`: the pod's id, at most one document, its name empty. Missing where it was = Consul lost its state.
    Pod,
}

impl Subtree {
    pub const ALL: [Subtree; 9] = [
        Subtree::Services,
        Subtree::Routes,
        Subtree::Domains,
        Subtree::Tuning,
        Subtree::OperatorDrain,
        Subtree::OperatorAccept,
        Subtree::Apply,
        Subtree::Canary,
        Subtree::Pod,
    ];

    /// Its key below the prefix; one that ends with a slash has documents below it.
    pub fn key(self) -> &'static str {
        match self {
            Subtree::Services => "config/services/",
            Subtree::Routes => "config/routes/",
            Subtree::Domains => "config/domains/",
            Subtree::Tuning => "config/tuning",
            Subtree::OperatorDrain => "operator/drain/",
            Subtree::OperatorAccept => "operator/accept/",
            Subtree::Apply => "apply",
            Subtree::Canary => "canary/",
            Subtree::Pod => "pod",
        }
    }
}

/// One KV entry below a subtree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// What follows the subtree's key: `shop`, `shop/10.0.0.1:80`.
    pub name: String,
    #[serde(with = "crate::control::journal::form::document")]
    pub value: Arc<[u8]>,
    pub create_index: u64,
    pub modify_index: u64,
    /// Goes with a session: whoever wrote it lives, or has only just died.
    pub is_locked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    Passing,
    Warning,
    Critical,
    /// Node or service maintenance mode.
    Maintenance,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `serfHealth`, `service:app-1`, `_node_maintenance`, ….
    pub id: String,
    pub name: String,
    pub status: CheckStatus,
    /// Of maintenance: its reason. Cut at 512 bytes.
    pub output: String,
}

/// One instance of a service as `/v1/health/service/:name` gives it. It is kept on disk: a field that comes later needs a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub node: String,
    pub id: String,
    /// The service's address, or the node's where that is empty: an IP address or a host name.
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    /// Its meta `rota-group`.
    pub group: Option<String>,
    pub weight_passing: u32,
    pub weight_warning: u32,
    pub checks: Vec<Check>,
    /// Its age, as Consul counts it.
    pub create_index: u64,
}

impl Instance {
    /// The worst of its checks; no check at all is passing.
    pub fn status(&self) -> CheckStatus {
        self.checks
            .iter()
            .map(|check| check.status)
            .max()
            .unwrap_or(CheckStatus::Passing)
    }
}
