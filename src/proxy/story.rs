//! The story of one request, for both protocols: pick, send, relay, and again elsewhere where that is safe. Hot path.

use std::cell::Cell;

use tokio::time::Instant;

use super::answer::Then;
use super::exchange::{ClientGone, Sink, Source, SourceFault};
use super::fields::is_trailer;
use super::plan::Plan;
use super::pool::ServerConnection;
use super::refusal::{Fault, Refusal};
use super::timer::Timer;
use super::worker::Worker;
use crate::drain::Phase;
use crate::routing::measured::AttemptOutcome;
use crate::routing::{Member, PassiveFault, UpstreamCell};
use crate::telemetry::Reason;

mod attempts;
mod server;

/// Servers that one request may try, whatever its policy says.
const MAX_TRIED: usize = 16;

/// How a request ended.
pub struct End<'p> {
    /// 0: nothing was answered.
    pub status: u16,
    pub reason: Reason,
    pub upstream: Option<&'p str>,
    pub attempts: u32,
    /// Whether the client's connection can carry another request.
    pub then: Then,
    /// A WebSocket begins.
    pub tunnel: Option<Tunnel<'p>>,
}

/// A server's connection that stopped speaking HTTP, with its upstream's in-flight count.
pub struct Tunnel<'p> {
    pub connection: ServerConnection,
    _in_flight: InFlight<'p>,
}

/// Counts one request in flight at an upstream until it is dropped.
#[must_use]
struct InFlight<'p>(&'p UpstreamCell);

impl<'p> InFlight<'p> {
    fn begin(cell: &'p UpstreamCell) -> InFlight<'p> {
        cell.begin();
        InFlight(cell)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What both directions of one exchange tell each other.
struct Flow {
    /// When the request was sent, or last made progress.
    progress: Cell<Instant>,
    uploaded: Cell<bool>,
    /// Something of the answer is on its way to the client.
    answered: Cell<bool>,
    /// The server said 100.
    continued: Cell<bool>,
    status: Cell<u16>,
}

/// How an exchange with one server ended.
enum Exchanged {
    /// A complete answer; whether the server's connection can be kept.
    Answered {
        keeps_alive: bool,
        then: Then,
    },
    Switched,
    /// To be tried elsewhere: at this server, after this fault.
    Retry(Fault, usize),
    Faulted(Fault),
    /// In the middle of the answer.
    Truncated,
    Source(SourceFault),
    ClientGone,
}

/// One request under way.
struct Story<'p> {
    worker: &'p Worker,
    plan: &'p Plan,
    tried: Cell<[u64; MAX_TRIED]>,
    tried_count: Cell<usize>,
    attempts: Cell<u32>,
    /// Attempts that count against the policy: connections refused at once don't.
    counted: Cell<u32>,
    timer: &'p Timer,
}

/// Carries a request to a server and its answer to the client. `request` is the head that [`super::plan::prepare`] wrote,
/// `timer` for waiting on servers.
pub async fn carry<'p, S: Source, K: Sink>(
    worker: &'p Worker,
    plan: &'p Plan,
    request: &[u8],
    timer: &'p Timer,
    source: &mut S,
    sink: &mut K,
) -> End<'p> {
    let story = Story {
        worker,
        plan,
        tried: Cell::new([0; MAX_TRIED]),
        tried_count: Cell::new(0),
        attempts: Cell::new(0),
        counted: Cell::new(0),
        timer,
    };
    plan.route
        .service
        .measured
        .of(worker.id)
        .budget()
        .earn(worker.vitals.moment());
    story.run(request, source, sink).await
}

impl<'p> Story<'p> {
    async fn run<S: Source, K: Sink>(
        &self,
        request: &[u8],
        source: &mut S,
        sink: &mut K,
    ) -> End<'p> {
        let flow = Flow {
            progress: Cell::new(Instant::now()),
            uploaded: Cell::new(false),
            answered: Cell::new(false),
            continued: Cell::new(false),
            status: Cell::new(0),
        };
        let Some(mut at) = self.pick() else {
            return self.refuse(Refusal::NoUpstream, None, source, sink).await;
        };
        loop {
            let member = &self.plan.route.service.members[at];
            self.attempts.set(self.attempts.get() + 1);
            let in_flight = InFlight::begin(member.upstream.cell(self.worker.id));
            let connection = match self.connect(member, &flow).await {
                Ok(connection) => connection,
                Err(fault) => match self.after_fault(member, fault) {
                    Some(next) => {
                        at = next;
                        continue;
                    }
                    None => {
                        return self
                            .refuse(fault.refusal(), Some(member), source, sink)
                            .await;
                    }
                },
            };
            let exchanged = match source.whole() {
                Some(body) => {
                    flow.uploaded.set(true);
                    self.exchange_whole(member, &connection, &[request, body], &flow, sink)
                        .await
                }
                None => {
                    self.exchange_streaming(member, &connection, request, &flow, source, sink)
                        .await
                }
            };
            match exchanged {
                Exchanged::Answered { keeps_alive, then } => {
                    self.succeeded(member, flow.status.get());
                    if keeps_alive && flow.uploaded.get() {
                        self.keep(member, connection);
                    }
                    return self.end(flow.status.get(), Reason::Answered, Some(member), then);
                }
                Exchanged::Switched => {
                    self.succeeded(member, 101);
                    let tunnel = Some(Tunnel {
                        connection,
                        _in_flight: in_flight,
                    });
                    return End {
                        tunnel,
                        ..self.end(101, Reason::Answered, Some(member), Then::Close)
                    };
                }
                Exchanged::Retry(fault, next) => {
                    self.blame(member, fault, connection.is_reused);
                    at = next;
                }
                Exchanged::Faulted(fault) => {
                    self.blame(member, fault, connection.is_reused);
                    return self
                        .refuse(fault.refusal(), Some(member), source, sink)
                        .await;
                }
                Exchanged::Truncated => {
                    self.record(member, AttemptOutcome::Truncated);
                    self.failed(member, PassiveFault::Broken);
                    sink.cut();
                    return self.end(
                        flow.status.get(),
                        Reason::UpstreamTruncated,
                        Some(member),
                        Then::Close,
                    );
                }
                Exchanged::ClientGone => {
                    self.record(member, AttemptOutcome::Aborted);
                    return self.end(
                        flow.status.get(),
                        Reason::ClientAborted,
                        Some(member),
                        Then::Close,
                    );
                }
                Exchanged::Source(fault) => {
                    self.record(member, AttemptOutcome::Aborted);
                    return match (fault.refusal(), flow.answered.get()) {
                        (Some(refusal), false) => {
                            self.refuse(refusal, Some(member), source, sink).await
                        }
                        (refusal, answered) => {
                            if answered {
                                sink.cut();
                            }
                            let reason = refusal.map_or(Reason::ClientAborted, Refusal::reason);
                            self.end(flow.status.get(), reason, Some(member), Then::Close)
                        }
                    };
                }
            }
        }
    }

    async fn refuse<S: Source, K: Sink>(
        &self,
        refusal: Refusal,
        member: Option<&'p Member>,
        source: &S,
        sink: &mut K,
    ) -> End<'p> {
        // What was not read of the body would be taken for the next request.
        let is_clean = source.whole().is_some() && !refusal.ends_connection();
        let is_serving = self.worker.phase.get() < Phase::Draining;
        let then = if is_clean && self.plan.keep_alive && is_serving {
            Then::KeepAlive
        } else {
            Then::Close
        };
        match sink.refuse(refusal, self.plan.is_head, then).await {
            Ok(()) => self.end(refusal.status(), refusal.reason(), member, then),
            Err(ClientGone) => self.end(0, Reason::ClientAborted, member, Then::Close),
        }
    }

    fn end(&self, status: u16, reason: Reason, member: Option<&'p Member>, then: Then) -> End<'p> {
        let upstream = member.map(|member| &**member.upstream.label());
        End {
            status,
            reason,
            upstream,
            attempts: self.attempts.get(),
            then,
            tunnel: None,
        }
    }
}

/// Whether a request that was written could be written once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sendable {
    Again,
    /// Its body streams through and is gone, or something of an answer has come.
    Once,
}

/// The end of a chunked body with its trailer section (RFC 9112 section 7.1.2).
pub fn trailer_section(fields: &[httparse::Header<'_>]) -> Vec<u8> {
    let mut section = b"0\r\n".to_vec();
    for field in fields.iter().filter(|field| is_trailer(field.name)) {
        for part in [field.name.as_bytes(), b": ", field.value, b"\r\n"] {
            section.extend_from_slice(part);
        }
    }
    section.extend_from_slice(b"\r\n");
    section
}
