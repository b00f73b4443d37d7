//! What the control plane's decisions are made from, and what they ask the outside to do: plain data, so that a history can be replayed.

use super::acme::Loaded;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::consul::Observation;
use super::kept::table::Table;
use super::mistake::Mistake;
use crate::config::{Config, ConsulService};
use crate::routing::operator::Order;
use crate::routing::{PassiveFault, Unfit, UpstreamKey};

/// Something happened. The journal holds it in this form.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The file as it stands now, already checked.
    File(#[serde(with = "super::journal::form::file")] Arc<Config>),
    Consul(Observation),
    /// A host name's addresses, or why there are none now.
    Resolved {
        name: String,
        answer: Result<Vec<IpAddr>, String>,
    },
    /// One probe ended: well, or with the evidence that it was not.
    Probed {
        key: UpstreamKey,
        result: Result<(), String>,
    },
    /// A worker took a server off.
    Ejected {
        key: UpstreamKey,
        unfit: Unfit,
        fault: PassiveFault,
        failures: u32,
    },
    /// What came of an [`Effect::TryConnect`].
    Tried {
        key: UpstreamKey,
        result: Result<(), String>,
    },
    /// An order for this LB alone.
    Ordered(Order),
    /// How it stands with the certificates that were ordered before.
    Certificates(Loaded),
    /// What was kept before the start: the first event, if there is one.
    Remembered(#[serde(with = "super::journal::form::table")] Box<Table>),
    /// What is wrong with files that are kept, all of it.
    Troubles(#[serde(with = "super::journal::form::mistakes")] Vec<Mistake>),
    /// Time has passed.
    Tick,
}

/// Something is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Clear what the data plane set, and its count of failures.
    GiveBack { key: UpstreamKey, unfit: Unfit },
    /// Connect once, and say what came of it.
    TryConnect { key: UpstreamKey },
    /// Read a service again from the leader, and say what that found.
    Reread { watch: ConsulService },
    /// Write the pod's id, unless there is one.
    WritePodId,
}
