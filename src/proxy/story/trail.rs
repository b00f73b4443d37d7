//! What came of a request's attempts, for `rota why ID`: kept from the first one that comes to nothing, so never on the fast path.

use super::Story;
use crate::proxy::refusal::Fault;
use crate::routing::Member;
use crate::routing::measured::AttemptOutcome;
use crate::telemetry::noted::MAX_ATTEMPTS;
use crate::telemetry::{Attempt, Reason};

pub(super) const TRUNCATED: &str = "its answer was cut in the middle";
pub(super) const CLIENT_GONE: &str = "the client was gone before its answer was whole";
pub(super) const BODY_MISSING: &str = "the client's body did not come whole";

impl Story<'_> {
    #[cold]
    pub(super) fn note_fault(&self, member: &Member, fault: Fault) {
        let status = match fault {
            Fault::Status(status) => Some(status),
            _ => None,
        };
        self.add(member, fault.outcome(), fault.text(), status);
    }

    #[cold]
    pub(super) fn note(&self, member: &Member, outcome: AttemptOutcome, error: &'static str) {
        self.add(member, outcome, error, None);
    }

    /// All attempts, the one that was answered among them; none where there is nothing to explain.
    pub(super) fn trail_to(
        &self,
        status: u16,
        reason: Reason,
        member: Option<&Member>,
    ) -> Vec<Attempt> {
        let trail = self.trail.take();
        let is_plain = trail.is_empty() && status < 500;
        let Some(member) = member.filter(|_| reason == Reason::Answered && !is_plain) else {
            return trail;
        };
        self.trail.set(trail);
        let outcome = match status {
            500.. => AttemptOutcome::ServerError,
            _ => AttemptOutcome::Ok,
        };
        self.add(member, outcome, "", Some(status));
        self.trail.take()
    }

    fn add(
        &self,
        member: &Member,
        outcome: AttemptOutcome,
        error: &'static str,
        status: Option<u16>,
    ) {
        let mut trail = self.trail.take();
        // The last one is told, whatever came before.
        trail.truncate(MAX_ATTEMPTS);
        let before = trail.iter().map(|attempt| attempt.lasted).sum();
        // Mostly it is the only one, and may be kept for long (`telemetry::noted`).
        trail.reserve_exact(1);
        trail.push(Attempt {
            upstream: member.upstream.label().clone(),
            outcome,
            error,
            status,
            lasted: self.began.elapsed().saturating_sub(before),
        });
        self.trail.set(trail);
    }
}
