//! From what the control plane makes of its pod to what the admin listener shows of it.

use std::time::{Duration, Instant};

use crate::admin::fleet::{FindingView, FleetView, NodeStatusView, NodeView};
use crate::control::fleet::Fleet;
use crate::control::fleet::status::NodeStatus;
use crate::control::fleet::view::{DEAF_AFTER, Finding, Node, Presence};

/// `fleet` as it is to be shown at `now`.
pub(super) fn view(fleet: &Fleet, now: Instant) -> FleetView {
    let since = |at: Instant| now.saturating_duration_since(at).as_secs();
    let finding = |one: &Finding| FindingView {
        finding: one.fault.label().to_owned(),
        is_trouble: one.fault.is_trouble(),
        node: one.node.clone(),
        since_s: since(one.since),
        message: one.message.clone(),
    };
    FleetView {
        node: fleet.node.clone(),
        has_pod: !fleet.node.is_empty(),
        heard_s: fleet.heard.map(since),
        old_after_s: DEAF_AFTER.as_secs(),
        nodes: fleet.nodes.iter().map(|one| node(one, now)).collect(),
        findings: fleet.findings.iter().map(finding).collect(),
    }
}

fn node(node: &Node, now: Instant) -> NodeView {
    let said = now.saturating_duration_since(node.said);
    let state = match (node.presence, &node.status) {
        (Presence::Gone(_), _) => "gone",
        (Presence::Left(_), _) => "left",
        (_, None) => "live",
        (_, Some(status)) if status.is_draining => "draining",
        (_, Some(status)) if status.is_ready => "ready",
        (_, Some(_)) => "not ready",
    };
    let state_s = match node.presence {
        Presence::Gone(at) | Presence::Left(at) => {
            Some(now.saturating_duration_since(at).as_secs())
        }
        Presence::Here | Presence::Live => None,
    };
    NodeView {
        name: node.name.clone(),
        is_asked: node.presence == Presence::Here,
        version: node.version.clone(),
        state: state.to_owned(),
        state_s,
        said_s: said.as_secs(),
        status: node.status.as_ref().map(|one| status(one, said)),
    }
}

/// A report is as old as it has been here.
fn status(status: &NodeStatus, said: Duration) -> NodeStatusView {
    let said = said.as_secs();
    NodeStatusView {
        process: status.process.clone(),
        up_s: status.up_s + said,
        ready: status.is_ready,
        revision: status.revision,
        index: status.index,
        table: status.table.to_string(),
        certificates: status.certificates.to_string(),
        generation: status.generation,
        table_s: status.table_s + said,
        discovery_s: status.discovery_s.map(|age| age + said),
        failing: status.failing,
        failing_watches: status.failing_watches.clone(),
        in_flight: status.in_flight,
        window_s: status.window.seconds,
        requests: status.window.counts.requests,
        failed: status.window.counts.failed,
        mistakes: status.mistakes,
    }
}
