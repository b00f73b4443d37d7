//! How it stands with Consul as a whole: what is wrong with it now, and what was of late.

use std::sync::Arc;
use std::time::SystemTime;

/// Past troubles that are told; the oldest goes first.
pub const PAST_LEN: usize = 8;

/// Something that is wrong with Consul as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A stable code: `consul_unreachable`, `no_leader`, `token_denied`, `consul_state_lost`, `many_lost_pod_wide`, `consul_failing`.
    pub reason: &'static str,
    /// What was said, by whom.
    pub evidence: Arc<str>,
    pub since: SystemTime,
}

/// One that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastTrouble {
    pub trouble: Trouble,
    pub until: SystemTime,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    pub trouble: Option<Trouble>,
    /// Oldest first.
    pub past: Vec<PastTrouble>,
}

impl Discovery {
    /// Of what is wrong now.
    pub fn reason(&self) -> Option<&'static str> {
        self.trouble.as_ref().map(|trouble| trouble.reason)
    }

    /// What is found now: a trouble by its reason and evidence. One of the same reason goes on.
    pub fn take(&mut self, found: Option<(&'static str, String)>, now: SystemTime) {
        if self.reason() == found.as_ref().map(|(reason, _)| *reason) {
            return;
        }
        if let Some(trouble) = self.trouble.take() {
            let beyond = (self.past.len() + 1).saturating_sub(PAST_LEN);
            self.past.drain(..beyond);
            self.past.push(PastTrouble {
                trouble,
                until: now,
            });
        }
        self.trouble = found.map(|(reason, evidence)| Trouble {
            reason,
            evidence: evidence.into(),
            since: now,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_trouble_begins_once_ends_once_and_the_last_ones_are_told() {
        let mut discovery = Discovery::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let found = |reason| Some((reason, "why".to_owned()));
        for round in 0..10 {
            discovery.take(found("no_leader"), at(round * 10));
            discovery.take(found("no_leader"), at(round * 10 + 1));
            discovery.take(None, at(round * 10 + 5));
        }
        assert_eq!(discovery.trouble, None);
        assert_eq!(discovery.past.len(), PAST_LEN);
        let newest = discovery.past.last().unwrap();
        assert_eq!((newest.trouble.since, newest.until), (at(90), at(95)));
    }
}
