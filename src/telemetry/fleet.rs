//! What a load balancer makes of its pod's: a number for each kind of finding, for whoever renders metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// What can be wrong between the load balancers of a pod, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FleetFault {
    /// Another process has this one's `node.name`.
    SameName,
    /// Its documents are older than others'.
    Behind,
    /// Its table is another one, for longer than a change needs to spread.
    Diverging,
    /// It serves other certificates, for as long.
    Certificates,
    /// Consul does not answer one of its watches, and its knowledge ages.
    StuckWatch,
    /// Its session ended without a drain before.
    Gone,
    /// It lives and has not reported for long.
    Silent,
    /// What it reports cannot be read.
    Unreadable,
    /// This one's own report does not arrive in KV.
    Untold,
    /// This one has not heard of anybody for long: what it says of others is old.
    Deaf,
    /// The pod runs several versions.
    VersionSkew,
    /// More load balancers have reported than are looked at.
    TooMany,
}

impl FleetFault {
    pub const ALL: [FleetFault; 12] = [
        FleetFault::SameName,
        FleetFault::Behind,
        FleetFault::Diverging,
        FleetFault::Certificates,
        FleetFault::StuckWatch,
        FleetFault::Gone,
        FleetFault::Silent,
        FleetFault::Unreadable,
        FleetFault::Untold,
        FleetFault::Deaf,
        FleetFault::VersionSkew,
        FleetFault::TooMany,
    ];

    pub fn label(self) -> &'static str {
        match self {
            FleetFault::SameName => "same_name",
            FleetFault::Behind => "behind",
            FleetFault::Diverging => "diverging",
            FleetFault::Certificates => "certificates",
            FleetFault::StuckWatch => "stuck_watch",
            FleetFault::Gone => "gone",
            FleetFault::Silent => "silent",
            FleetFault::Unreadable => "unreadable",
            FleetFault::Untold => "untold",
            FleetFault::Deaf => "deaf",
            FleetFault::VersionSkew => "version_skew",
            FleetFault::TooMany => "too_many",
        }
    }

    /// Whether somebody has to do something about it; else it is merely told.
    pub fn is_trouble(self) -> bool {
        match self {
            FleetFault::VersionSkew => false,
            FleetFault::SameName
            | FleetFault::Behind
            | FleetFault::Diverging
            | FleetFault::Certificates
            | FleetFault::StuckWatch
            | FleetFault::Gone
            | FleetFault::Silent
            | FleetFault::Unreadable
            | FleetFault::Untold
            | FleetFault::Deaf
            | FleetFault::TooMany => true,
        }
    }
}

/// As of the last look, some seconds ago at most.
#[derive(Debug, Default)]
pub struct FleetVitals {
    pub live: AtomicU64,
    pub gone: AtomicU64,
    /// Unix milliseconds of the last word from the pod; 0: there was none yet.
    pub heard_ms: AtomicI64,
    faults: [AtomicU64; FleetFault::ALL.len()],
}

impl FleetVitals {
    pub fn set(&self, fault: FleetFault, count: usize) {
        self.faults[fault as usize].store(count as u64, Relaxed);
    }
    pub fn count(&self, fault: FleetFault) -> u64 {
        self.faults[fault as usize].load(Relaxed)
    }
}
