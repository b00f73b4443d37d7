//! Where a request's HTTP/1 connection to a server comes from, and where it goes. Hot path.

use tokio::time::Instant;

use super::{Flow, Story};
use crate::proxy::dialling;
use crate::proxy::pool::{self, ServerConnection};
use crate::proxy::refusal::Fault;
use crate::routing::Member;

impl Story<'_> {
    /// A connection from the worker's pool, or a new one.
    pub(super) async fn connect(
        &self,
        member: &Member,
        flow: &Flow,
    ) -> Result<ServerConnection, Fault> {
        // The first attempt comes right behind its request's head.
        let now = match self.attempts.get() {
            0 | 1 => self.began,
            _ => Instant::now(),
        };
        let timeouts = &self.plan.timeouts;
        let vitals = &self.worker.vitals.workers[self.worker.id.0];
        let taken = pool::take(&self.worker.pool, member.upstream.number(), now, timeouts).await;
        if taken.stale > 0 {
            vitals.pool_stale.add(taken.stale);
        }
        if let Some(connection) = taken.connection {
            vitals.pool_reused.add(1);
            return Ok(connection);
        }
        let response_deadline = flow.progress.get() + timeouts.response;
        if now >= response_deadline {
            return Err(Fault::TooLate);
        }
        member.upstream.cell(self.worker.id).connects.add(1);
        let deadline = (now + timeouts.connect).min(response_deadline);
        let protocol = &self.plan.route.service.protocol;
        dialling::open(self.worker, member, protocol, deadline).await
    }

    /// Gives a connection back to the pool, if its server may be asked again.
    pub(super) fn keep(&self, member: &Member, connection: ServerConnection, now: Instant) {
        let worker = self.worker;
        let cap = self.plan.route.service.pool.div_ceil(worker.workers);
        if cap == 0 || !connection.buf.borrow().is_empty() || !member.upstream.is_fit_in_panic() {
            return;
        }
        worker.pool.borrow_mut().put(
            member.upstream.number(),
            connection,
            now,
            cap,
            worker.pool_total.get(),
        );
    }
}
