//! The canary that is under way, as whoever asks this load balancer is told of it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::routing::Snapshot;
use crate::telemetry::rfc3339;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// Whether what is tried is in force on this load balancer.
    pub here: bool,
    pub nodes: Vec<String>,
    pub by: String,
    pub note: String,
    pub until: String,
    /// Its time is over, and nobody has judged it.
    pub overdue: bool,
}

impl CanaryStatus {
    pub fn of(snapshot: &Snapshot, now: SystemTime) -> Option<CanaryStatus> {
        let canary = snapshot.canary.as_ref()?;
        Some(CanaryStatus {
            here: snapshot.is_trying,
            nodes: canary.nodes.clone(),
            by: canary.by.clone(),
            note: canary.note.clone(),
            until: rfc3339::text(canary.until()),
            overdue: canary.until() < now,
        })
    }

    /// `in force here, by ops@lb until 2026-11-20T20:59:04Z, also on lb-2: new servers`.
    pub fn words(&self) -> String {
        let nodes = self.nodes.join(", ");
        let place = match self.here {
            true => format!("in force here (on {nodes})"),
            false => format!("in force on {nodes}, not here"),
        };
        let overdue = match self.overdue {
            true => ", and nobody has judged it yet",
            false => "",
        };
        let note = match self.note.is_empty() {
            true => String::new(),
            false => format!(": {}", self.note),
        };
        format!(
            "a change of {} is {place} until {}{overdue}{note}",
            self.by, self.until
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::routing::canary::Canary;

    #[test]
    fn it_is_told_where_it_is_in_force_and_that_nobody_judged_it() {
        let canary = Canary {
            by: "ops@lb".into(),
            note: "new servers".into(),
            nodes: vec!["lb-2".into()],
            until_ms: 10_000,
            ..Canary::default()
        };
        let mut snapshot = Snapshot {
            canary: Some(Arc::new(canary)),
            is_trying: true,
            ..Snapshot::default()
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let told = |snapshot: &Snapshot, now| CanaryStatus::of(snapshot, now).unwrap().words();
        assert_eq!(
            told(&snapshot, at(1)),
            "a change of ops@lb is in force here (on lb-2) until 1970-01-01T00:00:10Z: new servers"
        );
        snapshot.is_trying = false;
        let elsewhere = told(&snapshot, at(11));
        assert!(elsewhere.contains("in force on lb-2, not here"));
        assert!(elsewhere.contains("nobody has judged it yet"));
        assert!(CanaryStatus::of(&Snapshot::default(), at(1)).is_none());
    }
}
