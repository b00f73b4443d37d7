//! What is wrong with Consul as a whole, since when, and what that means here: told with each explanation.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::views::{seconds, span};
use crate::routing::{Discovery, PastTrouble, Trouble};
use crate::telemetry::Vitals;
use crate::telemetry::metrics::discovery_age_seconds;
use crate::telemetry::rfc3339;

/// There while something is wrong, or was of late.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConsulView {
    /// Null: nothing is wrong now.
    pub trouble: Option<TroubleView>,
    /// Since Consul, with a leader, last answered all that is asked of it; null: it never did, or nobody knows.
    pub age_s: Option<f64>,
    /// Oldest first.
    pub past: Vec<PastTroubleView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TroubleView {
    /// A stable code: `consul_unreachable`, `no_leader`, `token_denied`, `consul_state_lost`, `many_lost_pod_wide`, `consul_failing`.
    pub reason: String,
    pub evidence: String,
    pub since: String,
    pub since_s: u64,
    /// What is done until it is over.
    pub meanwhile: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastTroubleView {
    pub reason: String,
    pub evidence: String,
    pub since: String,
    pub until: String,
    pub lasted_s: u64,
    pub ago_s: u64,
}

impl ConsulView {
    /// None: nothing is wrong, and nothing was. Without `vitals` nobody knows how old what is known is.
    pub fn of(
        discovery: &Discovery,
        vitals: Option<&Vitals>,
        now: SystemTime,
    ) -> Option<ConsulView> {
        let is_silent = discovery.trouble.is_none() && discovery.past.is_empty();
        (!is_silent).then(|| ConsulView {
            trouble: trouble(discovery, now),
            age_s: vitals.and_then(|vitals| discovery_age_seconds(vitals, now)),
            past: discovery.past.iter().map(|one| past(one, now)).collect(),
        })
    }

    /// Lines for people: what is wrong, then what was.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(trouble) = &self.trouble {
            let TroubleView {
                reason,
                evidence,
                since,
                since_s,
                meanwhile,
            } = trouble;
            let since_span = span(*since_s);
            lines.push(format!(
                "consul: {reason} since {since} ({since_span}): {evidence}"
            ));
            let age = self.age_s.map_or("never heard".to_owned(), |age| {
                format!("{} old", span(age as u64))
            });
            lines.push(format!("  what is known of it is {age}; {meanwhile}"));
        }
        let past = self.past.iter().map(|past| {
            let (ago, lasted) = (span(past.ago_s), span(past.lasted_s));
            format!(
                "consul: {ago} ago it was over: {} from {} to {} ({lasted}): {}",
                past.reason, past.since, past.until, past.evidence
            )
        });
        lines.extend(past);
        lines
    }
}

pub fn trouble(discovery: &Discovery, now: SystemTime) -> Option<TroubleView> {
    let Trouble {
        reason,
        evidence,
        since,
    } = discovery.trouble.as_ref()?;
    Some(TroubleView {
        reason: (*reason).to_owned(),
        evidence: evidence.to_string(),
        since: rfc3339::text(*since),
        since_s: seconds(*since, now),
        meanwhile: meanwhile(reason).to_owned(),
    })
}

fn past(past: &PastTrouble, now: SystemTime) -> PastTroubleView {
    let PastTrouble { trouble, until } = past;
    PastTroubleView {
        reason: trouble.reason.to_owned(),
        evidence: trouble.evidence.to_string(),
        since: rfc3339::text(trouble.since),
        until: rfc3339::text(*until),
        lasted_s: seconds(trouble.since, *until),
        ago_s: seconds(*until, now),
    }
}

/// What rota does while it lasts, and what ends it.
fn meanwhile(reason: &str) -> &'static str {
    match reason {
        "consul_state_lost" => {
            "meanwhile documents stay in force, and servers that consul does not name stay while rota's own probes find them well; rota accept documents takes consul's state as it is"
        }
        "many_lost_pod_wide" => {
            "meanwhile servers that consul does not name stay while rota's own probes find them well; rota accept SERVICE lets them go"
        }
        "token_denied" => {
            "meanwhile what the token may not read stays as it was last read; it ends when the token of [consul] has its rights again"
        }
        _ => {
            "meanwhile the last answers stay in force and nobody joins or leaves by consul's word; rota's own probes, passive health and drains with --here go on; it is asked again all the time"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_is_wrong_comes_first_with_its_beginning_and_what_is_done_then_what_was() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut discovery = Discovery::default();
        assert!(ConsulView::of(&discovery, None, at(0)).is_none());
        discovery.take(Some(("no_leader", "said".into())), at(60));
        discovery.take(None, at(65));
        discovery.take(Some(("token_denied", "refused by acl".into())), at(100));
        let view = ConsulView::of(&discovery, None, at(110)).unwrap();
        let lines = view.lines();
        assert_eq!(
            lines[0],
            "consul: token_denied since 1970-01-01T00:01:40Z (10s): refused by acl"
        );
        assert!(
            lines[1].contains("never heard; meanwhile what the token"),
            "{lines:?}"
        );
        assert_eq!(
            lines[2],
            "consul: 45s ago it was over: no_leader from 1970-01-01T00:01:00Z to 1970-01-01T00:01:05Z (5s): said"
        );
    }
}
