//! A pod's load balancers beside each other, as JSON: `GET /v1/fleet`. The command line reads it back.

use serde::{Deserialize, Serialize};

/// `GET /v1/fleet`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetView {
    /// Who is asked.
    pub node: String,
    /// False: there is no Consul, and nobody else.
    pub has_pod: bool,
    /// Since it last heard of the pod; null: it has not yet.
    pub heard_s: Option<u64>,
    /// What was heard of is old from here on.
    pub old_after_s: u64,
    pub nodes: Vec<NodeView>,
    pub findings: Vec<FindingView>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    pub name: String,
    /// It is the one that is asked.
    pub is_asked: bool,
    pub version: String,
    /// `ready`, `not ready`, `draining`, `gone`, `left`; `live`: its version does not say more.
    pub state: String,
    /// Of who has gone or left: since when.
    #[serde(default)]
    pub state_s: Option<u64>,
    /// Since its last report came.
    pub said_s: u64,
    /// Null: its version says nothing of this.
    pub status: Option<NodeStatusView>,
}

/// As of its last report; ages are of now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatusView {
    pub process: String,
    pub up_s: u64,
    pub ready: bool,
    /// The newest revision of the documents that it knows of; 0: none.
    pub revision: u64,
    /// The highest ModifyIndex among the documents that it has heard; 0: there are none.
    pub index: u64,
    /// 16 hex digits: the same for the same routes, services, servers and weights.
    pub table: String,
    /// 16 hex digits: the same for the same certificates.
    pub certificates: String,
    pub generation: u64,
    pub table_s: u64,
    /// Since Consul last answered while no watch failed; null: never.
    pub discovery_s: Option<u64>,
    /// Watches that fail, and some of their names.
    pub failing: u64,
    pub failing_watches: Vec<String>,
    pub in_flight: u64,
    /// What was counted in a window: requests that ended, and how many of them with 500 or above.
    pub window_s: u64,
    pub requests: u64,
    pub failed: u64,
    pub mistakes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FindingView {
    /// `same_name`, `behind`, `diverging`, `certificates`, `stuck_watch`, `gone`, `silent`, `unreadable`, `untold`, `deaf`, `version_skew`, `too_many`.
    pub finding: String,
    /// Whether somebody has to do something about it.
    pub is_trouble: bool,
    /// Whom it is about; empty: the pod.
    pub node: String,
    pub since_s: u64,
    pub message: String,
}

impl FleetView {
    /// Findings that somebody has to do something about.
    pub fn troubles(&self) -> usize {
        self.findings.iter().filter(|one| one.is_trouble).count()
    }
}
