//! What is wrong with Consul as a whole, from the watches that fail and from what it has lost: named once, by what explains the rest.

use std::sync::Arc;
use std::time::SystemTime;

use super::Model;
use crate::control::consul::{Blame, LEADER_WATCH};
use crate::control::guard::Alarm;
use crate::routing::Discovery;

impl Model {
    /// How it stands with Consul, now and of late.
    pub fn discovery(&self) -> &Arc<Discovery> {
        &self.discovery
    }

    /// A table is made anew for it, since it is told with the table.
    pub(super) fn look_at_consul(&mut self, now: SystemTime) {
        let found = self.trouble();
        if self.discovery.reason() == found.as_ref().map(|(reason, _)| *reason) {
            return;
        }
        Arc::make_mut(&mut self.discovery).take(found, now);
        self.revision += 1;
    }

    fn trouble(&self) -> Option<(&'static str, String)> {
        let by = |wanted: Blame| {
            let mut failing = self.failing.iter();
            let (watch, (_, error)) = failing.find(|(_, (blame, _))| *blame == wanted)?;
            Some(format!("{watch}: {error}"))
        };
        if let Some((blame, error)) = self.failing.get(LEADER_WATCH) {
            return Some((of_leader(*blame), error.clone()));
        }
        for (blame, reason) in [
            (Blame::Agent, "consul_unreachable"),
            (Blame::Leader, "no_leader"),
            (Blame::Token, "token_denied"),
        ] {
            if let Some(told) = by(blame) {
                return Some((reason, told));
            }
        }
        match self.alarm {
            Alarm::StateLost => {
                let evidence = self.documents.pod_trouble().unwrap_or_default();
                return Some(("consul_state_lost", evidence.to_owned()));
            }
            Alarm::ManyLost => {
                let evidence = "more of all services' servers than guard.max_loss vanished within guard.window";
                return Some(("many_lost_pod_wide", evidence.to_owned()));
            }
            Alarm::None => {}
        }
        // What nobody can read is told as a mistake.
        let other = by(Blame::Servers).or_else(|| by(Blame::Us))?;
        Some(("consul_failing", other))
    }
}

/// Who cannot ask the leader anything has none, whoever is to blame among the servers.
fn of_leader(blame: Blame) -> &'static str {
    match blame {
        Blame::Agent => "consul_unreachable",
        Blame::Leader | Blame::Servers => "no_leader",
        Blame::Token => "token_denied",
        Blame::Us | Blame::Content => "consul_failing",
    }
}
