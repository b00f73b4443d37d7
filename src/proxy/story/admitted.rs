//! Whether a service takes one more request now, later or not at all. Hot path of services with a limit.

use std::future::poll_fn;

use tokio::time::Instant;

use super::{End, Flow, Story};
use crate::proxy::answer::Then;
use crate::proxy::exchange::{ClientGone, Sink, watch};
use crate::routing::InFlightLimit;
use crate::routing::admission::Pass;
use crate::telemetry::Reason;

/// Why a request is not sent to any server.
pub(super) enum Unadmitted {
    Overloaded,
    /// It was given up while it waited.
    ClientGone,
}

impl<'p> Story<'p> {
    /// A place among the service's requests in flight, which is held to the request's end; None: it has no limit.
    pub(super) async fn admitted<K: Sink>(
        &self,
        flow: &Flow,
        sink: &mut K,
    ) -> Result<Option<Pass<'p>>, Unadmitted> {
        let service = &self.plan.route.service;
        let Some(limit) = &service.in_flight else {
            return Ok(None);
        };
        if let Some(pass) = service.measured.admission.enter(limit) {
            return Ok(Some(pass));
        }
        // In a box: its state is no part of requests that need not wait.
        let waited = Box::pin(self.wait_in_line(limit, sink)).await;
        if let Err(Unadmitted::Overloaded) = waited {
            service.measured.admission.refuse();
        }
        // The server's time begins now.
        flow.progress.set(Instant::now());
        waited.map(Some)
    }

    async fn wait_in_line<K: Sink>(
        &self,
        limit: &InFlightLimit,
        sink: &mut K,
    ) -> Result<Pass<'p>, Unadmitted> {
        let admission = &self.plan.route.service.measured.admission;
        let mut ticket = admission.queue_up(limit).ok_or(Unadmitted::Overloaded)?;
        let turn = watch(sink, poll_fn(|cx| ticket.poll(cx)));
        match self.timer.within(Instant::now() + limit.wait, turn).await {
            Ok(Ok(pass)) => Ok(pass),
            Ok(Err(ClientGone)) => Err(Unadmitted::ClientGone),
            Err(_) => Err(Unadmitted::Overloaded),
        }
    }

    /// The client is gone, and no server was asked.
    pub(super) fn given_up(&self) -> End<'p> {
        let now = Instant::now();
        self.end(0, Reason::ClientAborted, None, Then::Close, now)
    }
}
