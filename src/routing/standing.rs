//! How a server stands: each signal with its verdict, its reason, since when, and what came before.

use std::sync::Arc;
use std::time::SystemTime;

use super::group::GroupName;

/// What a signal says. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Fit,
    /// In, at its warning weight.
    Warning,
    /// Nothing is known (not yet probed, not asked for): counts as fit.
    Unknown,
    Unfit,
}

/// One signal of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    pub verdict: Verdict,
    /// A stable code: `passing`, `critical`, `maintenance`, `node_down`, `probe_failed`, `refused`, `drained`, ….
    pub reason: &'static str,
    /// The evidence in the source's own words, cut at 512 bytes: a check's name and output, a probe's answer, who drained it.
    pub evidence: Arc<str>,
    pub since: SystemTime,
}

impl Signal {
    pub fn new(
        verdict: Verdict,
        reason: &'static str,
        evidence: impl Into<Arc<str>>,
        since: SystemTime,
    ) -> Signal {
        Signal {
            verdict,
            reason,
            evidence: evidence.into(),
            since,
        }
    }
}

/// Why Consul's silence about a server is doubted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// A stable code: `many_lost`, `all_lost`, `many_lost_pod_wide`, `consul_state_lost`, `hidden_by_acl`.
    pub reason: &'static str,
    pub evidence: &'static str,
    pub since: SystemTime,
}

/// One step in a server's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub at: SystemTime,
    /// `consul`, `probe`, `passive`, `operator` or `table`.
    pub signal: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    pub evidence: Arc<str>,
}

/// How many transitions a server's history keeps; the oldest goes first.
pub const HISTORY_LEN: usize = 16;

/// A server's four signals and its last transitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub consul: Signal,
    pub probe: Signal,
    pub passive: Signal,
    pub operator: Signal,
    /// Where it is known from: `file`, `kv` or `consul`.
    pub source: &'static str,
    /// What its source says of its group; only a service that is divided asks.
    pub group: Option<GroupName>,
    /// It vanished from Consul's answer but is kept while our own probe finds it well.
    pub doubt: Option<Doubt>,
    /// It is known from what was kept before the start, as of this moment; Consul was not heard of it since.
    pub remembered: Option<SystemTime>,
    /// Oldest first.
    pub history: Arc<[Transition]>,
}

impl Standing {
    pub fn signals(&self) -> [(&'static str, &Signal); 4] {
        [
            ("consul", &self.consul),
            ("probe", &self.probe),
            ("passive", &self.passive),
            ("operator", &self.operator),
        ]
    }

    /// The first signal that keeps it off the rota.
    pub fn against(&self) -> Option<(&'static str, &Signal)> {
        self.signals()
            .into_iter()
            .find(|(_, signal)| signal.verdict == Verdict::Unfit)
    }
}
