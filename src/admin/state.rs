//! What the admin listener looks at: everything is read when asked, nothing is kept.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::fleet::FleetView;
use super::orders::Control;
use super::token::Token;
use super::views::CertificateRow;
use crate::drain::{Gate, Phase};
use crate::routing::Snapshot;
use crate::routing::swap::Reader;
use crate::telemetry::Vitals;

/// Gives the certificates served at this moment.
pub type Certificates = Arc<dyn Fn() -> Vec<CertificateRow> + Send + Sync>;

/// Gives how it stands with the pod's load balancers at this moment.
pub type Fleet = Arc<dyn Fn() -> FleetView + Send + Sync>;

/// Shared by all admin connections.
pub struct State {
    pub node: String,
    pub version: &'static str,
    pub table: Reader<Snapshot>,
    pub certificates: Certificates,
    pub fleet: Fleet,
    pub vitals: Arc<Vitals>,
    pub gate: Gate,
    /// Carries out orders.
    pub control: Arc<dyn Control>,
    /// None: changes are made through a Unix socket alone.
    pub token: Option<Token>,
    /// Places for bodies with documents: each is memory that anybody on this machine can ask for. More wait.
    pub large_bodies: Semaphore,
}

/// Bodies with documents at once, over all connections.
pub const LARGE_BODIES: usize = 2;

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("node", &self.node).finish()
    }
}

/// What keeps the LB from being ready, in words; empty: it is ready.
pub fn missing(snapshot: &Snapshot, phase: Phase) -> Vec<String> {
    let mut missing = Vec::new();
    match phase {
        Phase::Serving => {}
        Phase::Announced | Phase::Draining => missing.push("it is draining".to_owned()),
        Phase::Stopped => missing.push("it is stopping".to_owned()),
    }
    if snapshot.node_drained {
        missing.push("it was drained by an operator".to_owned());
    }
    if snapshot.generation == 0 {
        missing.push("no table was published yet".to_owned());
    }
    missing.extend(snapshot.missing.iter().cloned());
    missing
}

/// The word by which status names a phase.
pub fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "serving",
        Phase::Announced => "announced",
        Phase::Draining => "draining",
        Phase::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lb_is_ready_with_a_whole_table_while_nobody_takes_it_out() {
        let mut snapshot = Snapshot::default();
        assert_eq!(missing(&snapshot, Phase::Serving).len(), 1);
        snapshot.generation = 1;
        assert!(missing(&snapshot, Phase::Serving).is_empty());
        assert_eq!(missing(&snapshot, Phase::Announced), ["it is draining"]);
        snapshot.node_drained = true;
        snapshot.missing.push("consul has not answered".into());
        assert_eq!(missing(&snapshot, Phase::Serving).len(), 2);
    }
}
