//! The story of one request, for both protocols: pick, send, relay, and again elsewhere where that is safe. Hot path.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::Then;
use super::exchange::{ClientGone, Piece, Sink, Source, SourceFault};
use super::fields::is_trailer;
use super::http2::upstream::Lease;
use super::plan::Plan;
use super::pool::{Past, ServerConnection};
use super::refusal::{Fault, Refusal};
use super::timer::Timer;
use super::worker::Worker;
use crate::routing::admission::Pass;
use crate::routing::measured::AttemptOutcome;
use crate::routing::{Member, PassiveFault, Protocol, UpstreamCell};
use crate::telemetry::{Attempt, Reason};

use self::admitted::Unadmitted;

mod admitted;
mod attempts;
mod pooled;
mod server;
mod server2;
mod trail;

/// Servers that one request may try, whatever its policy says.
const MAX_TRIED: usize = 16;

/// How long a client that waits for a 100 waits for its server's; then rota says it, and sends the body unasked: RFC 9110 section
/// 10.1.1 allows both for servers that never say it.
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How a request ended.
pub struct End<'p> {
    pub at: Instant,
    /// 0: nothing was answered.
    pub status: u16,
    pub reason: Reason,
    pub upstream: Option<&'p str>,
    pub attempts: u32,
    /// Empty where all went well.
    pub tried: Vec<Attempt>,
    /// Whether the client's connection can carry another request.
    pub then: Then,
    /// A WebSocket begins.
    pub tunnel: Option<Tunnel<'p>>,
}

/// A server's connection that stopped speaking HTTP, with its upstream's in-flight count.
pub struct Tunnel<'p> {
    pub connection: ServerConnection,
    _in_flight: InFlight<'p>,
    _pass: Option<Pass<'p>>,
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
    /// The client owes the next piece of its body: meanwhile no server is late.
    awaits_client: Cell<bool>,
    uploaded: Cell<bool>,
    /// Something of the answer is on its way to the client.
    answered: Cell<bool>,
    /// The server said 100.
    continued: Cell<bool>,
    /// When rota says it to the client instead.
    continue_due: Cell<Option<Instant>>,
    status: Cell<u16>,
    /// Both sides stream without an end in sight (gRPC): neither is too slow for saying nothing.
    is_stream: Cell<bool>,
}

impl Flow {
    fn begin(now: Instant) -> Flow {
        Flow {
            progress: Cell::new(now),
            awaits_client: Cell::new(false),
            uploaded: Cell::new(false),
            answered: Cell::new(false),
            continued: Cell::new(false),
            continue_due: Cell::new(None),
            status: Cell::new(0),
            is_stream: Cell::new(false),
        }
    }

    /// The next piece of the client's body.
    async fn next_piece<'s, S: Source>(&self, source: &'s mut S) -> Result<Piece<'s>, SourceFault> {
        // Of a stream nobody owes a piece before its answer has begun.
        self.awaits_client.set(!self.is_stream.get());
        let awaited = Awaited(self);
        let piece = source.next().await;
        drop(awaited);
        if piece.is_ok() {
            self.progress.set(Instant::now());
        }
        piece
    }

    /// When something is to be done while no answer comes. The server may be late: it has `response` from the last progress on, its
    /// client's time aside.
    fn answer_due(&self, response: Duration) -> Instant {
        let due = match self.awaits_client.get() {
            true => Instant::now() + response,
            false => self.progress.get() + response,
        };
        self.continue_due.get().map_or(due, |say| say.min(due))
    }

    /// Says 100 to a client that has waited for it, once.
    async fn continue_if_due<K: Sink>(&self, sink: &mut K) -> Result<(), AwaitFault> {
        if self
            .continue_due
            .get()
            .is_none_or(|due| due > Instant::now())
        {
            return Ok(());
        }
        self.continue_due.set(None);
        let said = sink.interim(CONTINUE).await;
        said.map_err(|ClientGone| AwaitFault::ClientGone)
    }

    /// What it means that an answer stops in its middle: a server that waits for what its client owes is not to blame.
    fn silence(&self) -> Exchanged {
        match self.awaits_client.get() {
            true => Exchanged::Source(SourceFault::TooSlow),
            false => Exchanged::Truncated,
        }
    }

    fn is_answer_late(&self, response: Duration) -> bool {
        !self.awaits_client.get() && self.progress.get() + response <= Instant::now()
    }
}

/// That the client's next piece is awaited, until it is there or nobody waits for it any more: no server was late until then.
struct Awaited<'a>(&'a Flow);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Awaited(flow) = self;
        if flow.awaits_client.replace(false) {
            flow.progress.set(Instant::now());
        }
    }
}

/// What carries a request to its server.
enum Line {
    Http1(ServerConnection),
    Http2(Lease),
}

impl Line {
    fn past(&self) -> Past {
        match self {
            Line::Http1(connection) => connection.past,
            Line::Http2(lease) => lease.past,
        }
    }
}

/// Why no answer came.
enum AwaitFault {
    Server(Fault),
    ClientGone,
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
    began: Instant,
    tried: Cell<[u64; MAX_TRIED]>,
    tried_count: Cell<usize>,
    attempts: Cell<u32>,
    /// Attempts that count against the policy: connections refused at once don't.
    counted: Cell<u32>,
    /// Attempts that came to nothing: empty, and no memory, where all goes well.
    trail: Cell<Vec<Attempt>>,
    timer: &'p Timer,
}

/// Carries a request to a server and its answer to the client. `request` is the head that [`super::plan::prepare`] wrote,
/// `timer` for waiting on servers.
pub async fn carry<'p, S: Source, K: Sink>(
    worker: &'p Worker,
    plan: &'p Plan,
    request: &[u8],
    began: Instant,
    timer: &'p Timer,
    source: &mut S,
    sink: &mut K,
) -> End<'p> {
    let story = Story {
        worker,
        plan,
        began,
        tried: Cell::new([0; MAX_TRIED]),
        tried_count: Cell::new(0),
        attempts: Cell::new(0),
        counted: Cell::new(0),
        trail: Cell::default(),
        timer,
    };
    plan.route
        .service
        .measured
        .of(worker.id)
        .budget()
        .earn(worker.vitals.moment(began.into_std()));
    story.run(request, source, sink).await
}

impl<'p> Story<'p> {
    /// Long because each way in which an attempt can end has its arm here, and nowhere else.
    async fn run<S: Source, K: Sink>(
        &self,
        request: &[u8],
        source: &mut S,
        sink: &mut K,
    ) -> End<'p> {
        let flow = Flow::begin(self.began);
        let pass = match self.admitted(&flow, sink).await {
            Ok(pass) => pass,
            Err(Unadmitted::Overloaded) => {
                return self.refuse(Refusal::Overloaded, None, source, sink).await;
            }
            Err(Unadmitted::ClientGone) => return self.given_up(),
        };
        if self.plan.upgrade && self.speaks_http2() {
            return self.refuse(Refusal::NoWebSocket, None, source, sink).await;
        }
        let Some(mut at) = self.pick() else {
            return self.refuse(Refusal::NoUpstream, None, source, sink).await;
        };
        loop {
            let member = &self.plan.route.service.members[at];
            self.attempts.set(self.attempts.get() + 1);
            let in_flight = InFlight::begin(member.upstream.cell(self.worker.id));
            let line = match self.line_to(member, &flow).await {
                Ok(line) => line,
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
            let exchanged = self.exchange(member, &line, request, &flow, source, sink);
            match exchanged.await {
                Exchanged::Answered { keeps_alive, then } => {
                    let now = Instant::now();
                    self.succeeded(member, flow.status.get(), now);
                    if let Line::Http1(connection) = line
                        && keeps_alive
                        && flow.uploaded.get()
                    {
                        self.keep(member, connection, now);
                    }
                    return self.end(flow.status.get(), Reason::Answered, Some(member), then, now);
                }
                Exchanged::Switched => return self.switched(member, line, in_flight, pass),
                Exchanged::Retry(fault, next) => {
                    self.blame(member, fault, line.past());
                    at = next;
                }
                Exchanged::Faulted(fault) => {
                    self.blame(member, fault, line.past());
                    return self
                        .refuse(fault.refusal(), Some(member), source, sink)
                        .await;
                }
                Exchanged::Truncated => {
                    self.record(member, AttemptOutcome::Truncated);
                    self.note(member, AttemptOutcome::Truncated, trail::TRUNCATED);
                    self.failed(member, PassiveFault::Broken);
                    sink.cut();
                    return self.broken_off(member, &flow, Reason::UpstreamTruncated);
                }
                Exchanged::ClientGone => {
                    self.record(member, AttemptOutcome::Aborted);
                    self.note(member, AttemptOutcome::Aborted, trail::CLIENT_GONE);
                    return self.broken_off(member, &flow, Reason::ClientAborted);
                }
                Exchanged::Source(fault) => {
                    self.record(member, AttemptOutcome::Aborted);
                    self.note(member, AttemptOutcome::Aborted, trail::BODY_MISSING);
                    let refusal = fault.refusal();
                    if let (Some(refusal), false) = (refusal, flow.answered.get()) {
                        return self.refuse(refusal, Some(member), source, sink).await;
                    }
                    if flow.answered.get() {
                        sink.cut();
                    }
                    let reason = refusal.map_or(Reason::ClientAborted, Refusal::reason);
                    return self.broken_off(member, &flow, reason);
                }
            }
        }
    }

    async fn exchange<S: Source, K: Sink>(
        &self,
        member: &Member,
        line: &Line,
        request: &[u8],
        flow: &Flow,
        source: &mut S,
        sink: &mut K,
    ) -> Exchanged {
        if self.plan.expects_continue && source.whole().is_none() {
            flow.continue_due
                .set(Some(Instant::now() + CONTINUE_PATIENCE));
        }
        match (line, source.whole()) {
            (Line::Http1(connection), Some(body)) => {
                flow.uploaded.set(true);
                self.exchange_whole(member, connection, &[request, body], flow, sink)
                    .await
            }
            (Line::Http1(connection), None) => {
                self.exchange_streaming(member, connection, request, flow, source, sink)
                    .await
            }
            (Line::Http2(lease), _) => {
                // In a box, so that requests over HTTP/1 don't carry its size.
                Box::pin(self.exchange_stream(member, lease, request, flow, source, sink)).await
            }
        }
    }

    fn switched(
        &self,
        member: &'p Member,
        line: Line,
        in_flight: InFlight<'p>,
        pass: Option<Pass<'p>>,
    ) -> End<'p> {
        let now = Instant::now();
        self.succeeded(member, 101, now);
        let tunnel = match line {
            Line::Http1(connection) => Some(Tunnel {
                connection,
                _in_flight: in_flight,
                _pass: pass,
            }),
            // Nothing is switched there.
            Line::Http2(_) => None,
        };
        End {
            tunnel,
            ..self.end(101, Reason::Answered, Some(member), Then::Close, now)
        }
    }

    fn broken_off(&self, member: &'p Member, flow: &Flow, reason: Reason) -> End<'p> {
        let now = Instant::now();
        self.end(flow.status.get(), reason, Some(member), Then::Close, now)
    }

    fn speaks_http2(&self) -> bool {
        match self.plan.route.service.protocol {
            Protocol::Http | Protocol::Https(_) => false,
            Protocol::H2c | Protocol::H2(_) => true,
        }
    }

    async fn line_to(&self, member: &Member, flow: &Flow) -> Result<Line, Fault> {
        if self.speaks_http2() {
            Box::pin(self.lease(member, flow)).await.map(Line::Http2)
        } else {
            self.connect(member, flow).await.map(Line::Http1)
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
        let is_serving = self.worker.keeps_connections();
        let then = if is_clean && self.plan.keep_alive && is_serving {
            Then::KeepAlive
        } else {
            Then::Close
        };
        let refused = sink.refuse(refusal, self.plan.is_head, then).await;
        let now = Instant::now();
        match refused {
            Ok(()) => self.end(refusal.status(), refusal.reason(), member, then, now),
            Err(ClientGone) => self.end(0, Reason::ClientAborted, member, Then::Close, now),
        }
    }

    fn end(
        &self,
        status: u16,
        reason: Reason,
        member: Option<&'p Member>,
        then: Then,
        at: Instant,
    ) -> End<'p> {
        let upstream = member.map(|member| &**member.upstream.label());
        End {
            at,
            status,
            reason,
            upstream,
            attempts: self.attempts.get(),
            tried: self.trail_to(status, reason, member),
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
