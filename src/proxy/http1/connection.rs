//! One client's HTTP/1 connection: request after request, in order. Hot path.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::head::{self, Found, Version, field_space};
use super::sink::AnswerSink;
use super::source::BodySource;
use crate::proxy::answer::{self, Then};
use crate::proxy::buffer::Buf;
use crate::proxy::exchange::{Sink, Source};
use crate::proxy::io::Io;
use crate::proxy::linger;
use crate::proxy::plan::{self, Peer, Plan, Prepared};
use crate::proxy::refusal::Refusal;
use crate::proxy::scratch::Scratch;
use crate::proxy::story;
use crate::proxy::timer::Timer;
use crate::proxy::tunnel;
use crate::proxy::under_way::UnderWay;
use crate::proxy::worker::Worker;
use crate::routing::Timeouts;
use crate::telemetry::Reason;

/// How much is read and dropped at the end of a connection that we end: as much as a client may send on while our last answer is still in
/// the kernel.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// How long an idle connection may still send a last request once the LB drains: it may be on its way already, and whoever keeps a
/// connection busy learns from its answer that it ends.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// A connection between requests.
struct Connection<'w> {
    worker: &'w Worker,
    peer: &'w Peer,
    io: Io,
    buf: Buf,
    /// For the client's side; the story has one of its own for the server's.
    timer: Timer,
    /// When it was accepted, or its last answer ended.
    since: Instant,
    /// As of its last request.
    timeouts: Timeouts,
}

/// What comes after a request.
enum Next {
    Request,
    /// Close in an orderly way: the client has ended its side, or was sent nothing that is still on its way.
    Close,
    /// Close, but read on for a moment: what the client may still send would cost it the end of its answer.
    Linger,
    /// Drop it as it is.
    Drop,
}

enum Arrival {
    /// A whole head is among so many bytes of the buffer.
    Head(usize),
    /// Nothing came, or the client left between requests.
    Nothing,
    Refused(Refusal),
}

/// Serves a connection until it ends. `accepted` is when it was opened: the first head's deadline counts from there.
pub async fn serve(worker: Rc<Worker>, peer: Peer, io: Io, accepted: Instant) {
    let buf = worker.buffers.empty();
    let mut connection = Connection {
        worker: &worker,
        peer: &peer,
        io,
        buf,
        timer: Timer::default(),
        since: accepted,
        timeouts: worker.table.load().timeouts.clone(),
    };
    let mut awaited = Awaited::First;
    loop {
        let arrival = connection.await_head(awaited).await;
        awaited = Awaited::Next;
        let next = match arrival {
            Arrival::Head(length) => connection.request(length).await,
            Arrival::Nothing => Next::Close,
            Arrival::Refused(refusal) => connection.refuse_unread(refusal).await,
        };
        match next {
            Next::Request => {}
            Next::Close => return connection.close().await,
            Next::Linger => return connection.linger().await,
            Next::Drop => return,
        }
    }
}

impl Connection<'_> {
    /// Waits for a whole head.
    async fn await_head(&mut self, awaited: Awaited) -> Arrival {
        let mut seen = 0;
        let mut deadline = match awaited {
            Awaited::First => self.since + self.timeouts.head,
            Awaited::Next => self.since + self.timeouts.keep_alive,
        };
        let mut is_begun = awaited == Awaited::First;
        loop {
            if !self.buf.is_empty() {
                if seen == 0 {
                    self.buf
                        .consume(head::leading_empty_lines(self.buf.filled()));
                    if let Err(refusal) = head::check_beginning(self.buf.filled()) {
                        return Arrival::Refused(refusal);
                    }
                }
                match self.find_head(seen) {
                    Found::Whole(length) if length <= self.worker.head_bytes.get() => {
                        return Arrival::Head(length);
                    }
                    Found::Part if self.buf.len() < self.worker.head_bytes.get() => {
                        if let Err(refusal) = head::check_line(self.buf.filled(), seen) {
                            return Arrival::Refused(refusal);
                        }
                        // A lone CR may be half of an empty line, which is skipped when it is whole.
                        seen = match self.buf.filled() {
                            [b'\r'] => 0,
                            begun => begun.len(),
                        };
                    }
                    _ => return Arrival::Refused(self.oversize()),
                }
                self.buf.grow_if_full(self.worker.head_bytes.get());
                // A head that comes whole needs no deadline.
                if !is_begun {
                    is_begun = true;
                    deadline = Instant::now() + self.timeouts.head;
                }
            }
            match self.read_head_part(deadline).await {
                HeadRead::Bytes | HeadRead::Leaving => {}
                HeadRead::Ended => return Arrival::Nothing,
                HeadRead::TooLate if self.buf.is_empty() => return Arrival::Nothing,
                HeadRead::TooLate => return Arrival::Refused(Refusal::ClientTimeout),
            }
        }
    }

    /// Mostly a head is all that has come; should another one follow it, the parser ends at the first.
    fn find_head(&self, seen: usize) -> Found {
        let filled = self.buf.filled();
        if filled.ends_with(b"\r\n\r\n") && filled.len() <= self.worker.head_bytes.get() {
            return Found::Whole(filled.len());
        }
        head::find_end(filled, seen)
    }

    async fn read_head_part(&mut self, deadline: Instant) -> HeadRead {
        let Connection {
            worker,
            io,
            buf,
            timer,
            ..
        } = self;
        let leaving = worker.leaving_since.get();
        let deadline = match leaving {
            Some(since) if buf.is_empty() => deadline.min(since + LAST_REQUEST),
            _ => deadline,
        };
        let read = poll_fn(|cx| {
            if let Poll::Ready(result) = io.poll_read(cx, buf) {
                return Poll::Ready(Some(result));
            }
            buf.rest();
            // The worker wakes its connections when it begins to drain.
            if leaving.is_none() && worker.leaving_since.get().is_some() {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        });
        match timer.within(deadline, read).await {
            Ok(Some(Ok(count))) if count > 0 => HeadRead::Bytes,
            Ok(Some(_)) => HeadRead::Ended,
            Ok(None) => HeadRead::Leaving,
            Err(_) => HeadRead::TooLate,
        }
    }

    /// A head that does not end within its limit: 414 if not even its request line did.
    fn oversize(&self) -> Refusal {
        match memchr::memchr(b'\n', self.buf.filled()) {
            Some(line) if line <= self.worker.target_bytes.get() + 64 => Refusal::HeadTooLarge,
            _ => Refusal::TargetTooLong,
        }
    }

    /// One request, from its whole head among the first `within` bytes to its recorded end.
    async fn request(&mut self, within: usize) -> Next {
        self.worker.accepted();
        let began = Instant::now();
        let mut scratch = self.worker.scratches.take();
        let mut length = within;
        let prepared = {
            let snapshot = self.worker.table.load();
            self.timeouts.clone_from(&snapshot.timeouts);
            let mut space = field_space();
            match head::request(&self.buf.filled()[..within], &mut space, &snapshot.limits) {
                Ok(mut head) => {
                    length = head.length;
                    // Who has begun to send the body does not wait for a word; a server that was asked for one and answers
                    // instead might take that body for its next request.
                    head.expects_continue &= self.buf.len() == length;
                    let version = head.version;
                    let is_head = head.method == "HEAD";
                    let keep_alive = !head.connection.close && version == Version::Http11;
                    let has_body = head.framing != super::body::Framing::None;
                    let Scratch { facts, request, .. } = &mut scratch;
                    plan::note(facts, &head);
                    let certificates = &self.worker.certificates;
                    plan::prepare(&head, self.peer, &snapshot, certificates, facts, request)
                        .map_err(|refusal| (refusal, is_head, keep_alive && !has_body, version))
                }
                Err(refusal) => {
                    scratch.facts.clear();
                    Err((refusal, self.asks_for_head(), false, Version::Http11))
                }
            }
        };
        self.buf.consume(length);
        let next = match prepared {
            Ok(Prepared::Carry(plan)) => self.carry(&plan, &mut scratch, began).await,
            Ok(Prepared::Redirect(location)) => self.redirect(&location, &mut scratch, began).await,
            Ok(Prepared::Proof(text)) => self.prove(&text, &mut scratch, began).await,
            Err((refusal, is_head, keeps, version)) => {
                let keeps = keeps && !refusal.ends_connection() && self.worker.keeps_connections();
                let then = if keeps { Then::KeepAlive } else { Then::Close };
                scratch.answer.clear();
                answer::write_refusal(&mut scratch.answer, refusal, is_head, then);
                self.answer_here(
                    &mut scratch,
                    refusal.status(),
                    refusal.reason(),
                    version,
                    then,
                    began,
                )
                .await
            }
        };
        self.worker.scratches.give(scratch);
        next
    }

    /// Whether what stands in the buffer, which is no request, would be a HEAD: its answer has no body (RFC 9110 section 9.3.2).
    fn asks_for_head(&self) -> bool {
        self.buf.filled().starts_with(b"HEAD ")
    }

    async fn carry(&mut self, plan: &Plan, scratch: &mut Scratch, began: Instant) -> Next {
        let answered = Cell::new(false);
        let Scratch {
            facts,
            request,
            answer,
            server_timer,
            client_timer,
        } = scratch;
        let mut under_way = UnderWay::begin(self.worker, self.peer, facts, plan, began);
        let mut source = BodySource::new(&self.io, &mut self.buf, &self.timer, plan, &answered);
        let patience = plan.timeouts.body;
        let mut sink = AnswerSink::new(
            &self.io,
            answer,
            client_timer,
            patience,
            plan.version,
            &answered,
        );
        let mut end = story::carry(
            self.worker,
            plan,
            request,
            began,
            server_timer,
            &mut source,
            &mut sink,
        )
        .await;
        self.since = end.at;
        under_way.ended(&mut end);
        under_way.moved(source.received(), sink.sent());
        let is_read = source.finish();
        if let Some(tunnel) = end.tunnel {
            let moved = tunnel::run(
                &self.io,
                &mut self.buf,
                tunnel.connection,
                plan.timeouts.tunnel,
                &self.worker.buffers,
            )
            .await;
            under_way.moved(moved.up, moved.down);
            return Next::Close;
        }
        match (end.reason, end.then) {
            (Reason::ClientAborted | Reason::UpstreamTruncated, _) => Next::Drop,
            // Begun and not finished: in an orderly end it would look whole where its end is the connection's.
            (reason, _) if answered.get() && reason != Reason::Answered => Next::Drop,
            (_, Then::KeepAlive) if is_read => Next::Request,
            _ => Next::Linger,
        }
    }

    async fn redirect(&mut self, location: &str, scratch: &mut Scratch, began: Instant) -> Next {
        scratch.answer.clear();
        answer::write_redirect(&mut scratch.answer, location, Then::Close);
        self.answer_here(
            scratch,
            308,
            Reason::Redirected,
            Version::Http11,
            Then::Close,
            began,
        )
        .await
    }

    async fn prove(&mut self, text: &str, scratch: &mut Scratch, began: Instant) -> Next {
        scratch.answer.clear();
        answer::write_proof(&mut scratch.answer, text, Then::Close);
        let (reason, then) = (Reason::Proven, Then::Close);
        self.answer_here(scratch, 200, reason, Version::Http11, then, began)
            .await
    }

    /// Sends the answer that stands in `scratch`, and records it.
    async fn answer_here(
        &mut self,
        scratch: &mut Scratch,
        status: u16,
        reason: Reason,
        version: Version,
        then: Then,
        began: Instant,
    ) -> Next {
        let written = self
            .io
            .write_patiently(&[&scratch.answer], &self.timer, self.timeouts.body)
            .await;
        self.since = Instant::now();
        let mut outcome = self
            .peer
            .outcome(version, &scratch.facts, self.since - began);
        outcome.status = if written { status } else { 0 };
        outcome.reason = if written {
            reason
        } else {
            Reason::ClientAborted
        };
        self.worker.record(&outcome, None);
        match then {
            Then::KeepAlive if written => Next::Request,
            _ if written => Next::Linger,
            _ => Next::Drop,
        }
    }

    /// Refuses what never became a request.
    async fn refuse_unread(&mut self, refusal: Refusal) -> Next {
        self.worker.accepted();
        let mut scratch = self.worker.scratches.take();
        scratch.facts.clear();
        scratch.answer.clear();
        answer::write_refusal(
            &mut scratch.answer,
            refusal,
            self.asks_for_head(),
            Then::Close,
        );
        let began = Instant::now();
        let next = self
            .answer_here(
                &mut scratch,
                refusal.status(),
                refusal.reason(),
                Version::Http11,
                Then::Close,
                began,
            )
            .await;
        self.worker.scratches.give(scratch);
        next
    }

    async fn close(&mut self) {
        if self.io.is_tls() {
            // A client that takes nothing any more does not hold the connection open for its close_notify.
            let patience = self.timeouts.body.min(linger::PATIENCE);
            let _ = self.timer.patiently(patience, self.io.shutdown()).await;
        }
    }

    /// RFC 9112 section 9.6: closes our direction, reads on for a moment, then closes.
    async fn linger(&mut self) {
        let Connection {
            worker,
            io,
            buf,
            timer,
            ..
        } = self;
        buf.consume(buf.len());
        buf.rest();
        linger::linger(worker, io, timer, LINGER_BYTES).await;
    }
}

/// Which head of a connection is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    First,
    Next,
}

enum HeadRead {
    Bytes,
    Ended,
    /// The LB began to drain: there is another deadline now.
    Leaving,
    TooLate,
}
