//! A request on its way to a server and back: accounted for once, however its task ends. Hot path.

use tokio::time::Instant;

use super::plan::{Facts, Peer, Plan};
use super::story::End;
use super::worker::Worker;
use crate::telemetry::{Attempt, NotedRequest, Reason};

/// Recorded when dropped: as it ended, or as cut where its task ends before it (by the end of a drain, by a panic of ours).
#[must_use]
pub struct UnderWay<'a> {
    worker: &'a Worker,
    peer: &'a Peer,
    facts: &'a Facts,
    plan: &'a Plan,
    began: Instant,
    /// None: it ends when this is dropped.
    over: Option<Instant>,
    status: u16,
    /// None: it is under way.
    ended: Option<Reason>,
    upstream: Option<&'a str>,
    attempts: u32,
    tried: Vec<Attempt>,
    received: u64,
    sent: u64,
}

impl<'a> UnderWay<'a> {
    pub fn begin(
        worker: &'a Worker,
        peer: &'a Peer,
        facts: &'a Facts,
        plan: &'a Plan,
        began: Instant,
    ) -> UnderWay<'a> {
        UnderWay {
            worker,
            peer,
            facts,
            plan,
            began,
            over: None,
            status: 0,
            ended: None,
            upstream: None,
            attempts: 0,
            tried: Vec::new(),
            received: 0,
            sent: 0,
        }
    }

    pub fn ended(&mut self, end: &mut End<'a>) {
        self.status = end.status;
        self.ended = Some(end.reason);
        self.over = end.tunnel.is_none().then_some(end.at);
        self.upstream = end.upstream;
        self.attempts = end.attempts;
        self.tried = std::mem::take(&mut end.tried);
    }

    /// Body bytes that came from the client and went to it.
    pub fn moved(&mut self, received: u64, sent: u64) {
        self.received += received;
        self.sent += sent;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let cut = || match std::thread::panicking() {
            true => Reason::Internal,
            false => Reason::Stopped,
        };
        let service = &self.plan.route.service;
        let mut outcome = {
            let over = self.over.unwrap_or_else(Instant::now);
            self.peer
                .outcome(self.plan.version, self.facts, over - self.began)
        };
        outcome.status = self.status;
        outcome.reason = self.ended.unwrap_or_else(cut);
        outcome.route = Some(&self.plan.route.name);
        outcome.service = Some(service.name.as_str());
        outcome.upstream = self.upstream;
        outcome.attempts = self.attempts;
        (outcome.received, outcome.sent) = (self.received, self.sent);
        self.worker
            .record(&outcome, Some((service, self.plan.method)));
        if NotedRequest::is_wanted(&outcome, &self.tried) {
            let tried = std::mem::take(&mut self.tried);
            self.worker.note(&outcome, &self.plan.route, tried);
        }
    }
}
