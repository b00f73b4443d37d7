//! Which server is asked next, what a fault says about a server, and what sending again costs. Hot path.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Exchanged, MAX_TRIED, Sendable, Story};
use crate::proxy::pool::Past;
use crate::proxy::refusal::Fault;
use crate::routing::measured::AttemptOutcome;
use crate::routing::{Member, Moment, PassiveFault, PassiveReport, Unfit};

impl Story<'_> {
    /// The index of the member whose turn it is.
    pub(super) fn pick(&self) -> Option<usize> {
        let service = &self.plan.route.service;
        let tried = self.tried.get();
        service.pick(
            self.worker.id,
            self.worker.workers,
            &tried[..self.tried_count.get()],
        )
    }

    fn remember(&self, member: &Member) {
        let count = self.tried_count.get();
        if count < MAX_TRIED {
            let mut tried = self.tried.get();
            tried[count] = member.upstream.number();
            self.tried.set(tried);
            self.tried_count.set(count + 1);
        }
    }

    /// After a fault while awaiting an answer: elsewhere, if that is safe, else the fault.
    pub(super) fn retry_or(
        &self,
        member: &Member,
        fault: Fault,
        past: Past,
        sendable: Sendable,
    ) -> Exchanged {
        // A pooled connection that its server closed while we wrote says nothing about the server: it may be asked again.
        let is_race = fault == Fault::GoneAway || (past == Past::Used && fault.is_race());
        let next = if is_race {
            self.again(member, fault, sendable)
        } else {
            self.next_after(member, fault, sendable)
        };
        match next {
            Some(next) => Exchanged::Retry(fault, next),
            None => Exchanged::Faulted(fault),
        }
    }

    /// Where to try after a fault before anything was sent.
    pub(super) fn after_fault(&self, member: &Member, fault: Fault) -> Option<usize> {
        self.blame(member, fault, Past::New);
        self.next_after(member, fault, Sendable::Again)
    }

    /// The next member for a request that failed at `member`, if it is safe, allowed and affordable to send it again.
    pub(super) fn next_after(
        &self,
        member: &Member,
        fault: Fault,
        sendable: Sendable,
    ) -> Option<usize> {
        if fault.is_final() || !self.may_send_again(fault, sendable) {
            return None;
        }
        self.remember(member);
        let next = self.pick()?;
        self.spend(fault).then_some(next)
    }

    /// Where to try after an answer whose status the policy counts as a failure; None: it is relayed.
    pub(super) fn after_status(
        &self,
        member: &Member,
        status: u16,
        sendable: Sendable,
    ) -> Option<(Fault, usize)> {
        if !self.plan.route.service.retry.statuses.contains(&status) {
            return None;
        }
        let fault = Fault::Status(status);
        Some((fault, self.next_after(member, fault, sendable)?))
    }

    /// The same upstream or another one, over another connection.
    fn again(&self, member: &Member, fault: Fault, sendable: Sendable) -> Option<usize> {
        if !self.may_send_again(fault, sendable) {
            return None;
        }
        let next = self.pick().or_else(|| {
            self.plan
                .route
                .service
                .members
                .iter()
                .position(|other| std::ptr::eq(other, member))
        })?;
        self.spend(fault).then_some(next)
    }

    fn may_send_again(&self, fault: Fault, sendable: Sendable) -> bool {
        let policy = &self.plan.route.service.retry;
        let is_safe = fault.is_before_sending()
            || (sendable == Sendable::Again && self.plan.method.is_idempotent());
        let is_free = fault == Fault::Refused && self.tried_count.get() + 1 < MAX_TRIED;
        is_safe && policy.attempts > 0 && (is_free || self.counted.get() < policy.attempts)
    }

    /// Failed connects are free; the rest is paid from the service's budget.
    fn spend(&self, fault: Fault) -> bool {
        let cell = self.plan.route.service.measured.of(self.worker.id);
        if fault != Fault::Refused {
            self.counted.set(self.counted.get() + 1);
        }
        if !fault.is_before_sending() && !cell.budget().spend() {
            cell.retries_denied.add(1);
            return false;
        }
        cell.retries.add(1);
        true
    }

    pub(super) fn record(&self, member: &Member, outcome: AttemptOutcome) {
        member.upstream.cell(self.worker.id).record(outcome);
    }

    pub(super) fn succeeded(&self, member: &Member, status: u16, now: Instant) {
        let outcome = if status >= 500 {
            AttemptOutcome::ServerError
        } else {
            AttemptOutcome::Ok
        };
        self.record(member, outcome);
        if self.plan.route.service.retry.statuses.contains(&status) {
            self.failed(member, PassiveFault::Status(status));
        } else {
            member
                .upstream
                .succeeded(self.plan.route.number, self.moment(now));
        }
    }

    /// Counts a failed attempt and tells passive health what it has to know.
    pub(super) fn blame(&self, member: &Member, fault: Fault, past: Past) {
        self.record(member, fault.outcome());
        self.note_fault(member, fault);
        match fault.passive() {
            Some(passive @ (PassiveFault::Refused | PassiveFault::Tls)) => {
                self.eject(member, Unfit::Refused, passive)
            }
            Some(PassiveFault::Broken) if past == Past::Used && fault.is_race() => {}
            Some(passive) => self.failed(member, passive),
            None => {}
        }
    }

    pub(super) fn failed(&self, member: &Member, fault: PassiveFault) {
        let ejects = member
            .upstream
            .failed(self.plan.route.number, self.moment(Instant::now()));
        if ejects && self.plan.route.service.may_eject_failing() {
            self.eject(member, Unfit::Failing, fault);
        }
    }

    fn moment(&self, at: Instant) -> Moment {
        self.worker.vitals.moment(at.into_std())
    }

    /// Takes a server off the rota at once, and says so to the control plane, which brings it back.
    fn eject(&self, member: &Member, unfit: Unfit, fault: PassiveFault) {
        if member.upstream.set(unfit) {
            let failures = member.upstream.failures().max(1);
            let report = PassiveReport {
                upstream: Arc::clone(&member.upstream),
                unfit,
                fault,
                failures,
            };
            if self.worker.passive.try_send(report).is_err() {
                // Nobody would bring it back: better in with a fault than out for ever.
                member.upstream.clear(unfit);
            }
        }
    }
}
