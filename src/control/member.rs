//! One server of one service as the control plane sees it: its four signals, each by itself, and what came before. Pure.

use std::sync::Arc;
use std::time::SystemTime;

use super::candidate::{Candidate, MAINTENANCE, cut};
use super::guard::Cause;
use super::passive::{self, Bench};
use super::word::Word;
use crate::config::ActiveCheck;
use crate::routing::standing::{Doubt, HISTORY_LEN, Transition};
use crate::routing::{PassiveFault, Signal, Standing, Unfit, Verdict};
use crate::telemetry::rfc3339;

/// Whether anything that others see of a member changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    None,
    Seen,
}

impl Change {
    pub fn or(self, other: Change) -> Change {
        if self == Change::None { other } else { self }
    }
}

#[derive(Clone, Debug)]
pub struct Member {
    pub facts: Candidate,
    pub standing: Arc<Standing>,
    /// Probes in a row that failed, and that succeeded.
    failed: u32,
    succeeded: u32,
    refused: Bench,
    failing: Bench,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Consul,
    Probe,
    Passive,
    Operator,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Which::Consul => "consul",
            Which::Probe => "probe",
            Which::Passive => "passive",
            Which::Operator => "operator",
        }
    }
}

impl Member {
    pub fn new(facts: Candidate, source: &'static str, now: SystemTime) -> Member {
        let signal = |verdict, reason| Signal::new(verdict, reason, "", now);
        let consul = Signal::new(
            facts.word.verdict,
            facts.word.reason,
            facts.word.evidence.clone(),
            now,
        );
        let joined = Transition {
            at: now,
            signal: "table",
            from: "absent",
            to: "present",
            evidence: source.into(),
        };
        let standing = Standing {
            consul,
            probe: signal(Verdict::Unknown, "not_probed"),
            passive: signal(Verdict::Unknown, "not_ejected"),
            operator: signal(Verdict::Fit, "not_drained"),
            source,
            group: facts.group.clone(),
            doubt: None,
            remembered: None,
            history: [joined].into(),
        };
        Member {
            facts,
            standing: Arc::new(standing),
            failed: 0,
            succeeded: 0,
            refused: Bench::refused(),
            failing: Bench::failing(),
        }
    }

    /// What its source says of it now.
    pub fn takes(&mut self, facts: Candidate, now: SystemTime) -> Change {
        let word = facts.word.clone();
        let moved = self.facts.weight != facts.weight
            || self.facts.weight_warning != facts.weight_warning
            || self.facts.label != facts.label
            || self.facts.host_name != facts.host_name
            || self.facts.group != facts.group;
        if self.facts.group != facts.group {
            let mut standing = (*self.standing).clone();
            standing.group = facts.group.clone();
            self.standing = Arc::new(standing);
        }
        self.facts = facts;
        let said = self.says(
            Which::Consul,
            word.verdict,
            word.reason,
            &word.evidence,
            now,
        );
        said.or(if moved { Change::Seen } else { Change::None })
    }

    /// Whether it is kept although its source does not name it any more.
    pub fn is_doubted(&self) -> bool {
        self.standing.doubt.is_some()
    }

    /// Why its source's silence about it is doubted; None: it is named.
    pub fn doubt(&mut self, cause: Option<Cause>, now: SystemTime) -> Change {
        let before = self.standing.doubt.as_ref();
        if before.map(|doubt| doubt.reason) == cause.map(Cause::reason) {
            return Change::None;
        }
        let was_doubted = before.is_some();
        let since = before.map_or(now, |doubt| doubt.since);
        let mut standing = (*self.standing).clone();
        standing.doubt = cause.map(|cause| Doubt {
            reason: cause.reason(),
            evidence: cause.evidence(),
            since,
        });
        let word = |is_doubted| if is_doubted { "doubted" } else { "present" };
        let (from, to) = (word(was_doubted), word(cause.is_some()));
        let evidence = cause.map_or("", Cause::evidence);
        remember(&mut standing, "table", from, to, evidence.into(), now);
        self.standing = Arc::new(standing);
        if from != to {
            // Whoever probes from now on begins anew.
            (self.failed, self.succeeded) = (0, 0);
        }
        Change::Seen
    }

    /// Whether an operator told it to go, by maintenance in Consul or by a drain here: then nobody misses it.
    pub fn is_asked_to_leave(&self) -> bool {
        let standing = &self.standing;
        standing.consul.reason == MAINTENANCE || standing.operator.verdict == Verdict::Unfit
    }

    /// Known from what was kept at `of`, and from nobody since; None: its source has spoken.
    pub fn remembered(&mut self, of: Option<SystemTime>, now: SystemTime) -> Change {
        if self.standing.remembered == of {
            return Change::None;
        }
        let mut standing = (*self.standing).clone();
        standing.remembered = of;
        let (from, to, evidence) = match of {
            Some(of) => {
                standing.consul.since = of;
                let evidence = format!("known from {}", rfc3339::text(of));
                ("present", "remembered", evidence)
            }
            None => ("remembered", "present", String::new()),
        };
        remember(&mut standing, "table", from, to, evidence.into(), now);
        self.standing = Arc::new(standing);
        Change::Seen
    }

    /// Nobody probes it any more.
    pub fn forget_probes(&mut self, now: SystemTime) -> Change {
        (self.failed, self.succeeded) = (0, 0);
        self.says(Which::Probe, Verdict::Unknown, "not_probed", "", now)
    }

    /// One probe ended. From unknown the first success is enough; `fall` failures in a row take it off, `rise` successes bring it back.
    pub fn probed(
        &mut self,
        check: &ActiveCheck,
        result: &Result<(), String>,
        now: SystemTime,
    ) -> Change {
        match result {
            Ok(()) => {
                (self.failed, self.succeeded) = (0, self.succeeded.saturating_add(1));
                let is_enough =
                    self.standing.probe.verdict != Verdict::Unfit || self.succeeded >= check.rise;
                if is_enough {
                    self.says(Which::Probe, Verdict::Fit, "probe_passed", "", now)
                } else {
                    Change::None
                }
            }
            Err(evidence) => {
                (self.failed, self.succeeded) = (self.failed.saturating_add(1), 0);
                if self.failed >= check.fall {
                    self.says(Which::Probe, Verdict::Unfit, "probe_failed", evidence, now)
                } else {
                    Change::None
                }
            }
        }
    }

    /// Whether [`Member::probed`] would do anything that is ever seen. What counts successes begins anew with each failure,
    /// ejection and doubt; what counts failures, with each success.
    pub fn learns_from(&self, check: &ActiveCheck, result: &Result<(), String>) -> bool {
        let verdict = self.standing.probe.verdict;
        match result {
            Ok(()) => verdict != Verdict::Fit || self.failed > 0 || self.is_ejected(),
            Err(_) => {
                let is_known = verdict == Verdict::Unfit && self.failed >= check.fall;
                !is_known || self.succeeded > 0 || self.is_doubted()
            }
        }
    }

    pub fn is_probed_sick(&self) -> bool {
        self.standing.probe.verdict == Verdict::Unfit
    }

    /// So many probes in a row succeeded since it was ejected.
    pub fn is_probed_back(&self, check: &ActiveCheck) -> bool {
        self.is_ejected() && self.succeeded >= check.rise
    }

    /// A worker took it off.
    pub fn ejected(
        &mut self,
        unfit: Unfit,
        fault: PassiveFault,
        failures: u32,
        now: SystemTime,
    ) -> Change {
        self.succeeded = 0;
        let Some(bench) = self.bench(unfit) else {
            return Change::None;
        };
        bench.eject(now);
        let (reason, evidence) = passive::words(unfit, fault, failures);
        self.says(Which::Passive, Verdict::Unfit, reason, &evidence, now)
    }

    pub fn is_ejected(&self) -> bool {
        self.refused.is_off() || self.failing.is_off()
    }

    pub fn is_ejected_for(&self, unfit: Unfit) -> bool {
        match unfit {
            Unfit::Refused => self.refused.is_off(),
            Unfit::Failing => self.failing.is_off(),
            Unfit::Check | Unfit::Probe | Unfit::Operator | Unfit::Gone => false,
        }
    }

    /// Ends one ejection; true if there was one.
    pub fn give_back(&mut self, unfit: Unfit, evidence: &str, now: SystemTime) -> bool {
        if !self.bench(unfit).is_some_and(|bench| bench.give_back(now)) {
            return false;
        }
        let _ = if self.refused.is_off() {
            self.says(Which::Passive, Verdict::Unfit, "refused", evidence, now)
        } else if self.failing.is_off() {
            self.says(Which::Passive, Verdict::Unfit, "failing", evidence, now)
        } else {
            self.says(Which::Passive, Verdict::Fit, "returned", evidence, now)
        };
        true
    }

    /// A trial connection was refused too.
    pub fn still_refused(&mut self, now: SystemTime) {
        self.refused.still_off(now);
    }

    /// Which ejections' time is over; each is said once.
    pub fn due(&mut self, now: SystemTime) -> (bool, bool) {
        (self.refused.is_due(now), self.failing.is_due(now))
    }

    /// When an ejection's time is over next.
    pub fn next_due(&self) -> Option<SystemTime> {
        [self.refused.until(), self.failing.until()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the operator says of it now.
    pub fn drained(&mut self, word: Option<&Word>, now: SystemTime) -> Change {
        match word {
            Some(word) => self.says(
                Which::Operator,
                Verdict::Unfit,
                "drained",
                &word.evidence(),
                now,
            ),
            None => self.says(Which::Operator, Verdict::Fit, "not_drained", "", now),
        }
    }

    /// Its weight as its checks stand.
    pub fn weight(&self) -> u32 {
        if self.standing.consul.verdict == Verdict::Warning {
            self.facts.weight_warning
        } else {
            self.facts.weight
        }
    }

    /// The reasons for being off the rota that the control plane itself answers for, each with whether it holds.
    pub fn reasons(&self) -> [(Unfit, bool); 3] {
        let standing = &self.standing;
        let is_unfit = |signal: &Signal| signal.verdict == Verdict::Unfit;
        let in_maintenance = standing.consul.reason == MAINTENANCE;
        [
            (Unfit::Check, is_unfit(&standing.consul) && !in_maintenance),
            (Unfit::Probe, is_unfit(&standing.probe)),
            (
                Unfit::Operator,
                is_unfit(&standing.operator) || in_maintenance,
            ),
        ]
    }

    fn bench(&mut self, unfit: Unfit) -> Option<&mut Bench> {
        match unfit {
            Unfit::Refused => Some(&mut self.refused),
            Unfit::Failing => Some(&mut self.failing),
            Unfit::Check | Unfit::Probe | Unfit::Operator | Unfit::Gone => None,
        }
    }

    fn says(
        &mut self,
        which: Which,
        verdict: Verdict,
        reason: &'static str,
        evidence: &str,
        now: SystemTime,
    ) -> Change {
        let before = match which {
            Which::Consul => &self.standing.consul,
            Which::Probe => &self.standing.probe,
            Which::Passive => &self.standing.passive,
            Which::Operator => &self.standing.operator,
        };
        if before.verdict == verdict && before.reason == reason {
            return Change::None;
        }
        let from = before.reason;
        let next = Signal::new(verdict, reason, cut(evidence), now);
        let mut standing = (*self.standing).clone();
        let evidence = next.evidence.clone();
        match which {
            Which::Consul => standing.consul = next,
            Which::Probe => standing.probe = next,
            Which::Passive => standing.passive = next,
            Which::Operator => standing.operator = next,
        }
        remember(&mut standing, which.name(), from, reason, evidence, now);
        self.standing = Arc::new(standing);
        Change::Seen
    }
}

fn remember(
    standing: &mut Standing,
    signal: &'static str,
    from: &'static str,
    to: &'static str,
    evidence: Arc<str>,
    at: SystemTime,
) {
    let surplus = (standing.history.len() + 1).saturating_sub(HISTORY_LEN);
    let step = Transition {
        at,
        signal,
        from,
        to,
        evidence,
    };
    standing.history = standing.history[surplus..]
        .iter()
        .cloned()
        .chain([step])
        .collect();
}
