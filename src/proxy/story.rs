//! The story of one request, for both protocols: pick, send, relay, and again elsewhere where that is safe. Hot path.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;

use super::answer::{BodyOut, Then};
use super::exchange::{ClientGone, Piece, Sink, Source, SourceFault};
use super::fields::is_trailer;
use super::http1::body::{Decoder, Framing, Step, chunk_line, trailer_fields};
use super::http1::head::{self, AnswerHead, Found, Version, field_space};
use super::plan::Plan;
use super::pool::{self, ServerConnection};
use super::refusal::{Fault, Refusal};
use super::timer::Timer;
use super::worker::Worker;
use crate::drain::Phase;
use crate::routing::measured::AttemptOutcome;
use crate::routing::{Member, PassiveFault, PassiveReport, Unfit, UpstreamCell};
use crate::telemetry::Reason;

/// Servers that one request may try, whatever its policy says.
const MAX_TRIED: usize = 16;
/// 1xx heads that a server may send before its answer.
const MAX_INTERIMS: usize = 16;

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

/// The relayed part of an answer, decided with its head.
struct Relay {
    framing: Framing,
    is_stream: bool,
    keeps_alive: bool,
    then: Then,
}

enum HeadVerdict {
    Relay(Relay),
    Interim(usize),
    Switch,
    Retry(Fault, usize),
    Bad,
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
    timer: Timer,
}

/// Carries a request to a server and its answer to the client. `request` is the head that [`super::plan::prepare`] wrote.
pub async fn carry<'p, S: Source, K: Sink>(
    worker: &'p Worker,
    plan: &'p Plan,
    request: &[u8],
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
        timer: Timer::default(),
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

    /// The index of the member whose turn it is.
    fn pick(&self) -> Option<usize> {
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

    async fn connect(&self, member: &Member, flow: &Flow) -> Result<ServerConnection, Fault> {
        let now = Instant::now();
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
            return Err(Fault::Timeout);
        }
        member.upstream.cell(self.worker.id).connects.add(1);
        let deadline = (now + timeouts.connect).min(response_deadline);
        let protocol = &self.plan.route.service.protocol;
        super::dialling::open(self.worker, member, protocol, deadline).await
    }

    fn keep(&self, member: &Member, connection: ServerConnection) {
        let worker = self.worker;
        let cap = self.plan.route.service.pool.div_ceil(worker.workers);
        if cap == 0 || !connection.buf.borrow().is_empty() || !member.upstream.is_fit_in_panic() {
            return;
        }
        worker.pool.borrow_mut().put(
            member.upstream.number(),
            connection,
            Instant::now(),
            cap,
            worker.pool_total.get(),
        );
    }

    /// Sends a request that is here whole, reads the head of the answer, relays the rest.
    async fn exchange_whole<K: Sink>(
        &self,
        member: &Member,
        connection: &ServerConnection,
        request: &[&[u8]],
        flow: &Flow,
        sink: &mut K,
    ) -> Exchanged {
        let deadline = flow.progress.get() + self.plan.timeouts.response;
        let sent = self
            .timer
            .within(deadline, connection.io.write_all(request))
            .await;
        match sent {
            Ok(Ok(())) => {}
            // The server may have answered and closed without reading: what it said is read below; nothing is a fault there.
            Ok(Err(_)) => {}
            Err(_) => return Exchanged::Faulted(Fault::Timeout),
        }
        self.download(member, connection, flow, sink, Sendable::Again)
            .await
    }

    /// Sends the body as it comes, and relays the answer as it comes, whichever is first.
    async fn exchange_streaming<S: Source, K: Sink>(
        &self,
        member: &Member,
        connection: &ServerConnection,
        request: &[u8],
        flow: &Flow,
        source: &mut S,
        sink: &mut K,
    ) -> Exchanged {
        let mut upload = pin!(self.upload(connection, request, flow, source));
        let mut download = pin!(self.download(member, connection, flow, sink, Sendable::Once));
        let mut is_uploading = true;
        poll_fn(|cx| {
            if is_uploading && let Poll::Ready(outcome) = upload.as_mut().poll(cx) {
                is_uploading = false;
                if let Err(fault) = outcome {
                    return Poll::Ready(Exchanged::Source(fault));
                }
            }
            download.as_mut().poll(cx)
        })
        .await
    }

    /// Writes head and body to the server. A server that takes no more is no fault of the upload: its answer decides.
    async fn upload<S: Source>(
        &self,
        connection: &ServerConnection,
        request: &[u8],
        flow: &Flow,
        source: &mut S,
    ) -> Result<(), SourceFault> {
        let is_chunked = self.plan.framing == Framing::Chunked;
        let timer = Timer::default();
        let mut line = [0u8; 18];
        let mut first = request;
        if self.plan.expects_continue {
            if !self.write_to_server(connection, &timer, &[first]).await {
                return Ok(());
            }
            first = &[];
        }
        loop {
            let (is_last, written) = match source.next().await? {
                Piece::Data(bytes) if is_chunked => {
                    let size = chunk_line(&mut line, bytes.len());
                    (
                        false,
                        self.write_to_server(connection, &timer, &[first, size, bytes, b"\r\n"])
                            .await,
                    )
                }
                Piece::Data(bytes) => (
                    false,
                    self.write_to_server(connection, &timer, &[first, bytes])
                        .await,
                ),
                Piece::Trailers(fields) => {
                    let section = trailer_section(&fields);
                    (
                        true,
                        self.write_to_server(connection, &timer, &[first, &section])
                            .await,
                    )
                }
                Piece::End if is_chunked => (
                    true,
                    self.write_to_server(connection, &timer, &[first, b"0\r\n\r\n"])
                        .await,
                ),
                Piece::End => (
                    true,
                    self.write_to_server(connection, &timer, &[first]).await,
                ),
            };
            first = &[];
            flow.progress.set(Instant::now());
            if is_last && written {
                flow.uploaded.set(true);
            }
            if is_last || !written {
                return Ok(());
            }
        }
    }

    /// False: the server takes no more.
    async fn write_to_server(
        &self,
        connection: &ServerConnection,
        timer: &Timer,
        slices: &[&[u8]],
    ) -> bool {
        let deadline = Instant::now() + self.plan.timeouts.response;
        matches!(
            timer
                .within(deadline, connection.io.write_all(slices))
                .await,
            Ok(Ok(()))
        )
    }

    /// Reads the answer's head, then relays its body.
    async fn download<K: Sink>(
        &self,
        member: &Member,
        connection: &ServerConnection,
        flow: &Flow,
        sink: &mut K,
        sendable: Sendable,
    ) -> Exchanged {
        let mut interims = 0;
        loop {
            let length = match self.await_head(connection, flow, sink).await {
                Ok(length) => length,
                Err(AwaitFault::ClientGone) => return Exchanged::ClientGone,
                Err(AwaitFault::Server(fault)) => {
                    return self.retry_or(member, fault, connection, sendable);
                }
            };
            let verdict = self.judge(member, connection, length, flow, sink, sendable);
            match verdict {
                HeadVerdict::Relay(relay) => {
                    connection.buf.borrow_mut().consume(length);
                    return self.relay(connection, relay, flow, sink).await;
                }
                HeadVerdict::Interim(length) if interims < MAX_INTERIMS => {
                    interims += 1;
                    let head = connection.buf.borrow().filled()[..length].to_vec();
                    connection.buf.borrow_mut().consume(length);
                    if sink.interim(&head).await.is_err() {
                        return Exchanged::ClientGone;
                    }
                }
                HeadVerdict::Switch => {
                    connection.buf.borrow_mut().consume(length);
                    return if sink.flush().await.is_ok() {
                        Exchanged::Switched
                    } else {
                        Exchanged::ClientGone
                    };
                }
                HeadVerdict::Retry(fault, next) => return Exchanged::Retry(fault, next),
                HeadVerdict::Interim(_) | HeadVerdict::Bad => {
                    return Exchanged::Faulted(Fault::BadAnswer);
                }
            }
        }
    }

    /// Reads until a whole head is in the server's buffer; gives its length.
    async fn await_head<K: Sink>(
        &self,
        connection: &ServerConnection,
        flow: &Flow,
        sink: &mut K,
    ) -> Result<usize, AwaitFault> {
        let mut seen = 0;
        loop {
            {
                let mut buf = connection.buf.borrow_mut();
                if let Found::Whole(length) = head::find_end(buf.filled(), seen) {
                    return Ok(length);
                }
                seen = buf.len();
                if seen >= self.worker.head_bytes.get() {
                    return Err(AwaitFault::Server(Fault::BadAnswer));
                }
                if buf.is_full() {
                    let larger =
                        (buf.size() * 2).min(self.worker.head_bytes.get().max(buf.size() + 1));
                    buf.grow(larger);
                }
            }
            match self.read_from_server(connection, flow, sink).await? {
                0 if seen == 0 => return Err(AwaitFault::Server(Fault::ClosedBeforeAnswer)),
                0 => return Err(AwaitFault::Server(Fault::BadAnswer)),
                _ => {}
            }
        }
    }

    /// One read, until the client gives up or the response deadline, which moves on with the upload.
    async fn read_from_server<K: Sink>(
        &self,
        connection: &ServerConnection,
        flow: &Flow,
        sink: &mut K,
    ) -> Result<usize, AwaitFault> {
        loop {
            let deadline = flow.progress.get() + self.plan.timeouts.response;
            match self
                .timer
                .within(deadline, watch(sink, connection.io.read(&connection.buf)))
                .await
            {
                Ok(Ok(Ok(count))) => return Ok(count),
                Ok(Ok(Err(_))) if connection.buf.borrow().is_empty() => {
                    return Err(AwaitFault::Server(Fault::ClosedBeforeAnswer));
                }
                Ok(Ok(Err(_))) => return Err(AwaitFault::Server(Fault::BadAnswer)),
                Ok(Err(ClientGone)) => return Err(AwaitFault::ClientGone),
                Err(_) if flow.progress.get() + self.plan.timeouts.response > Instant::now() => {}
                Err(_) => return Err(AwaitFault::Server(Fault::Timeout)),
            }
        }
    }

    /// Decides what an answer's head means, and gives it to the sink if it is to be relayed.
    fn judge<K: Sink>(
        &self,
        member: &Member,
        connection: &ServerConnection,
        length: usize,
        flow: &Flow,
        sink: &mut K,
        sendable: Sendable,
    ) -> HeadVerdict {
        let buf = connection.buf.borrow();
        let mut space = field_space();
        let Ok(answer) = head::answer(&buf.filled()[..length], &mut space) else {
            return HeadVerdict::Bad;
        };
        if answer.status == 101 {
            if !(self.plan.upgrade && answer.upgrade) {
                return HeadVerdict::Bad;
            }
            sink.head(&answer, BodyOut::None, Then::Close);
            flow.status.set(101);
            return HeadVerdict::Switch;
        }
        if answer.is_interim() {
            return HeadVerdict::Interim(length);
        }
        if self
            .plan
            .route
            .service
            .retry
            .statuses
            .contains(&answer.status)
        {
            let fault = Fault::Status(answer.status);
            if let Some(next) = self.next_after(member, fault, sendable) {
                return HeadVerdict::Retry(fault, next);
            }
        }
        flow.status.set(answer.status);
        flow.answered.set(true);
        HeadVerdict::Relay(self.relay_of(&answer, flow, sink))
    }

    fn relay_of<K: Sink>(&self, answer: &AnswerHead<'_>, flow: &Flow, sink: &mut K) -> Relay {
        let framing = answer.framing_for(self.plan.is_head);
        let body = match framing {
            Framing::None => BodyOut::None,
            Framing::Length(length) => BodyOut::Length(length),
            Framing::Chunked | Framing::UntilClose if self.plan.version == Version::Http10 => {
                BodyOut::UntilClose
            }
            Framing::Chunked | Framing::UntilClose => BodyOut::Chunked,
        };
        let is_serving = self.worker.phase.get() < Phase::Draining;
        let keeps = self.plan.keep_alive
            && flow.uploaded.get()
            && body != BodyOut::UntilClose
            && is_serving;
        let then = if keeps { Then::KeepAlive } else { Then::Close };
        sink.head(answer, body, then);
        Relay {
            framing,
            is_stream: answer.is_stream,
            keeps_alive: answer.keeps_alive() && framing != Framing::UntilClose,
            then,
        }
    }

    /// Relays the body until it ends: what is read is written before more is read.
    async fn relay<K: Sink>(
        &self,
        connection: &ServerConnection,
        relay: Relay,
        flow: &Flow,
        sink: &mut K,
    ) -> Exchanged {
        let timeouts = &self.plan.timeouts;
        let patience = if relay.is_stream {
            timeouts.tunnel
        } else {
            timeouts.response
        };
        let mut decoder = Decoder::new(relay.framing);
        // Taken out for the time of the body: the server's connection is read here alone.
        let mut buf = connection.buf.replace(self.worker.buffers.empty());
        let exchanged = loop {
            let step = match decoder.step(buf.filled()) {
                Ok(step) => step,
                Err(_) => break Exchanged::Truncated,
            };
            match step {
                Step::Framing(count) => buf.consume(count),
                Step::Data(count) => {
                    if sink.data(&buf.filled()[..count]).await.is_err() {
                        break Exchanged::ClientGone;
                    }
                    buf.consume(count);
                }
                Step::Trailers(count) => {
                    let Ok(mut fields) = trailer_fields(&buf.filled()[..count]) else {
                        break Exchanged::Truncated;
                    };
                    fields.retain(|field| is_trailer(field.name));
                    if sink.end(&fields).await.is_err() {
                        break Exchanged::ClientGone;
                    }
                    buf.consume(count);
                    break Exchanged::Answered {
                        keeps_alive: relay.keeps_alive,
                        then: relay.then,
                    };
                }
                Step::End => {
                    if sink.end(&[]).await.is_err() {
                        break Exchanged::ClientGone;
                    }
                    break Exchanged::Answered {
                        keeps_alive: relay.keeps_alive,
                        then: relay.then,
                    };
                }
                Step::Read => {
                    if sink.flush().await.is_err() {
                        break Exchanged::ClientGone;
                    }
                    if buf.is_full() {
                        buf.grow(super::buffer::BODY_SIZE);
                    }
                    let deadline = Instant::now() + patience;
                    let read = connection.io.read_into(&mut buf);
                    match self.timer.within(deadline, watch(sink, read)).await {
                        Ok(Ok(Ok(0))) if decoder.ends_with_connection() => {
                            let ended = sink.end(&[]).await;
                            break match ended {
                                Ok(()) => Exchanged::Answered {
                                    keeps_alive: false,
                                    then: relay.then,
                                },
                                Err(ClientGone) => Exchanged::ClientGone,
                            };
                        }
                        Ok(Ok(Ok(0) | Err(_))) | Err(_) => break Exchanged::Truncated,
                        Ok(Ok(Ok(_))) => flow.progress.set(Instant::now()),
                        Ok(Err(ClientGone)) => break Exchanged::ClientGone,
                    }
                }
            }
        };
        *connection.buf.borrow_mut() = buf;
        exchanged
    }

    /// After a fault while awaiting an answer: elsewhere, if that is safe, else the fault.
    fn retry_or(
        &self,
        member: &Member,
        fault: Fault,
        connection: &ServerConnection,
        sendable: Sendable,
    ) -> Exchanged {
        // A pooled connection that its server closed while we wrote says nothing about the server: it may be asked again.
        let is_race = connection.is_reused && fault == Fault::ClosedBeforeAnswer;
        let next = if is_race {
            self.again(member, sendable)
        } else {
            self.next_after(member, fault, sendable)
        };
        match next {
            Some(next) => Exchanged::Retry(fault, next),
            None => Exchanged::Faulted(fault),
        }
    }

    /// Where to try after a fault before anything was sent.
    fn after_fault(&self, member: &Member, fault: Fault) -> Option<usize> {
        self.blame(member, fault, false);
        self.next_after(member, fault, Sendable::Again)
    }

    /// The next member for a request that failed at `member`, if it is safe, allowed and affordable to send it again.
    fn next_after(&self, member: &Member, fault: Fault, sendable: Sendable) -> Option<usize> {
        if fault == Fault::Timeout || !self.may_send_again(fault, sendable) {
            return None;
        }
        self.remember(member);
        let next = self.pick()?;
        self.spend(fault).then_some(next)
    }

    /// The same upstream or another one, over another connection.
    fn again(&self, member: &Member, sendable: Sendable) -> Option<usize> {
        if !self.may_send_again(Fault::ClosedBeforeAnswer, sendable) {
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
        self.spend(Fault::ClosedBeforeAnswer).then_some(next)
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

    fn record(&self, member: &Member, outcome: AttemptOutcome) {
        member.upstream.cell(self.worker.id).record(outcome);
    }

    fn succeeded(&self, member: &Member, status: u16) {
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
                .succeeded(self.plan.route.number, self.worker.vitals.moment());
        }
    }

    /// Counts a failed attempt and tells passive health what it has to know.
    fn blame(&self, member: &Member, fault: Fault, is_reused: bool) {
        self.record(member, fault.outcome());
        match fault.passive() {
            Some(passive @ PassiveFault::Refused) => self.eject(member, Unfit::Refused, passive),
            Some(PassiveFault::Broken) if is_reused && fault == Fault::ClosedBeforeAnswer => {}
            Some(passive) => self.failed(member, passive),
            None => {}
        }
    }

    fn failed(&self, member: &Member, fault: PassiveFault) {
        let ejects = member
            .upstream
            .failed(self.plan.route.number, self.worker.vitals.moment());
        if ejects && self.plan.route.service.may_eject_failing() {
            self.eject(member, Unfit::Failing, fault);
        }
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
    /// Its body streams through and is gone.
    Once,
}

enum AwaitFault {
    Server(Fault),
    ClientGone,
}

/// `future`, unless the client gives up first.
async fn watch<K: Sink, T>(sink: &mut K, future: impl Future<Output = T>) -> Result<T, ClientGone> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => sink.poll_aborted(cx).map(|()| Err(ClientGone)),
    })
    .await
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
