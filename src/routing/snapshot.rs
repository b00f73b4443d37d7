//! The one immutable table that the data plane reads: everything configured, as of one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::canary::Canary;
use super::discovery::Discovery;
use super::policy::{Limits, ListenerPolicy, Timeouts};
use super::service::{Service, ServiceName};
use super::table::RouteTable;

/// An entry (document, tag, server) that could not be taken, and what is in force instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMistake {
    /// Where it stands: `kv:rota/pod-1/config/routes/shop`, `consul:app/10.0.0.7:80`, `file:route shop`.
    pub entry: String,
    pub message: String,
    /// `last good version`, `last good answer`, `ignored` or `503`.
    pub in_force: &'static str,
    pub since: SystemTime,
}

/// Replaced as a whole behind one ArcSwap; parts that did not change are shared between snapshots.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with each swap; 0: nothing was published yet.
    pub generation: u64,
    pub routes: RouteTable,
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    pub listeners: Vec<Arc<ListenerPolicy>>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub mistakes: Vec<EntryMistake>,
    /// Of Consul as a whole; nothing is ever wrong with it where there is none.
    pub discovery: Arc<Discovery>,
    /// The LB itself was drained by an operator: readiness is false.
    pub node_drained: bool,
    /// A change that is tried on some load balancers of the pod, this one among them or not.
    pub canary: Option<Arc<Canary>>,
    /// What it tries is in force here.
    pub is_trying: bool,
    /// What is still missing for readiness, in words; empty: ready.
    pub missing: Vec<String>,
}

impl Snapshot {
    pub fn listener(&self, name: &str) -> Option<&Arc<ListenerPolicy>> {
        self.listeners
            .iter()
            .find(|listener| &*listener.name == name)
    }
}
