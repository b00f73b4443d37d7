//! One exchange with one server over HTTP/1: the request up, the answer down, both at once where they overlap. Hot path.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use httparse::Header;
use tokio::time::Instant;

use super::{AwaitFault, CONTINUE_PATIENCE, Exchanged, Flow, Sendable, Story, trailer_section};
use crate::proxy::answer::{BodyOut, Then};
use crate::proxy::exchange::{ClientGone, Piece, Sink, Source, SourceFault, at_once, watch};
use crate::proxy::fields::is_trailer;
use crate::proxy::http1::body::{
    Decoder, Framing, Step, check_received, chunk_line, trailer_fields,
};
use crate::proxy::http1::head::{self, AnswerHead, Found, Version, field_space};
use crate::proxy::pool::ServerConnection;
use crate::proxy::refusal::Fault;
use crate::proxy::timer::Timer;
use crate::routing::Member;

/// Chunks up to this size are copied and sent together with those that came with them.
const GATHERED_PIECE: usize = 4 * 1024;

/// 1xx heads that a server may send before its answer.
pub(super) const MAX_INTERIMS: usize = 16;

/// The relayed part of an answer, decided with its head.
pub(super) struct Relay {
    pub(super) framing: Framing,
    is_stream: bool,
    keeps_alive: bool,
    then: Then,
}

impl Relay {
    /// The answer has ended, and so has what the client gets.
    pub(super) async fn end<K: Sink>(&self, trailers: &[Header<'_>], sink: &mut K) -> Exchanged {
        match sink.end(trailers).await {
            Ok(()) => Exchanged::Answered {
                keeps_alive: self.keeps_alive,
                then: self.then,
            },
            Err(ClientGone) => Exchanged::ClientGone,
        }
    }
}

enum HeadVerdict {
    Relay(Relay),
    Interim(usize),
    Switch,
    Retry(Fault, usize),
    Bad,
}

impl Story<'_> {
    /// Sends a request that is here whole, reads the head of the answer, relays the rest.
    pub(super) async fn exchange_whole<K: Sink>(
        &self,
        member: &Member,
        connection: &ServerConnection,
        request: &[&[u8]],
        flow: &Flow,
        sink: &mut K,
    ) -> Exchanged {
        let deadline = flow.progress.get() + self.plan.timeouts.response;
        let written = Cell::new(0);
        let write = connection.io.write_counting(request, &written);
        match self.timer.within(deadline, write).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) if written.get() == 0 => {
                return self.retry_or(
                    member,
                    Fault::ClosedUnsent,
                    connection.past,
                    Sendable::Again,
                );
            }
            // The server may have answered and closed without reading it all: what it said is read below.
            Ok(Err(_)) => {}
            Err(_) => return Exchanged::Faulted(Fault::Timeout),
        }
        self.download(member, connection, flow, sink, Sendable::Again)
            .await
    }

    /// Sends the body as it comes, and relays the answer as it comes, whichever is first.
    pub(super) async fn exchange_streaming<S: Source, K: Sink>(
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
            loop {
                let is_continued = flow.continued.get();
                if is_uploading && let Poll::Ready(outcome) = upload.as_mut().poll(cx) {
                    is_uploading = false;
                    if let Err(fault) = outcome {
                        return Poll::Ready(Exchanged::Source(fault));
                    }
                }
                let polled = download.as_mut().poll(cx);
                // A 100 that just came lets the upload go on.
                if polled.is_ready() || flow.continued.get() == is_continued {
                    return polled;
                }
            }
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
        // Small chunks that came together leave together.
        let mut gathered = self.worker.buffers.empty();
        if self.plan.expects_continue {
            if !self.write_to_server(connection, &timer, &[first]).await {
                return Ok(());
            }
            first = &[];
            let said = poll_fn(|_| match flow.continued.get() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            let patience = Instant::now() + CONTINUE_PATIENCE;
            if timer.within(patience, said).await.is_err() && flow.answered.get() {
                return Ok(());
            }
        }
        loop {
            let mut ready = None;
            // A server may answer the head alone. Not where it would be a whole request: over HTTP/2 an empty body may come with bytes.
            if !first.is_empty() && self.plan.framing != Framing::Length(0) {
                ready = at_once(flow.next_piece(source)).await;
                if ready.is_none() {
                    // Behind a torn head the client's words would stand among rota's.
                    if !self.write_to_server(connection, &timer, &[first]).await {
                        return Ok(());
                    }
                    first = &[];
                }
            }
            // The client's time counts from here on, and not what its server took for the head.
            let piece = match ready {
                Some(piece) => piece?,
                None => flow.next_piece(source).await?,
            };
            let (is_last, written) = match piece {
                Piece::Data(bytes) if is_chunked => {
                    let size = chunk_line(&mut line, bytes.len());
                    let parts = [first, size, bytes, b"\r\n"];
                    let is_small = bytes.len() <= GATHERED_PIECE;
                    if is_small && gathered.append(&parts) {
                        first = &[];
                        if source.holds_more() {
                            continue;
                        }
                        let slices = [gathered.filled()];
                        (
                            false,
                            self.write_to_server(connection, &timer, &slices).await,
                        )
                    } else {
                        let slices = [gathered.filled(), first, size, bytes, b"\r\n"];
                        (
                            false,
                            self.write_to_server(connection, &timer, &slices).await,
                        )
                    }
                }
                Piece::Data(bytes) => (
                    false,
                    self.write_to_server(connection, &timer, &[first, bytes])
                        .await,
                ),
                Piece::Trailers(fields) => {
                    let section = trailer_section(&fields);
                    let slices = [gathered.filled(), first, &section];
                    (
                        true,
                        self.write_to_server(connection, &timer, &slices).await,
                    )
                }
                Piece::End if is_chunked => {
                    let slices = [gathered.filled(), first, b"0\r\n\r\n"];
                    (
                        true,
                        self.write_to_server(connection, &timer, &slices).await,
                    )
                }
                Piece::End => (
                    true,
                    self.write_to_server(connection, &timer, &[first]).await,
                ),
            };
            first = &[];
            gathered.consume(gathered.len());
            gathered.rest();
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
        mut sendable: Sendable,
    ) -> Exchanged {
        let mut interims = 0;
        loop {
            let length = match self.await_head(connection, flow, sink).await {
                Ok(length) => length,
                Err(AwaitFault::ClientGone) => return Exchanged::ClientGone,
                Err(AwaitFault::Server(fault)) => {
                    return self.retry_or(member, fault, connection.past, sendable);
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
                    sendable = Sendable::Once;
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
                buf.grow_if_full(self.worker.head_bytes.get());
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
            let response = self.plan.timeouts.response;
            match self
                .timer
                .within(
                    flow.answer_due(response),
                    watch(sink, connection.io.read(&connection.buf)),
                )
                .await
            {
                Ok(Ok(Ok(count))) => return Ok(count),
                Ok(Ok(Err(_))) if connection.buf.borrow().is_empty() => {
                    return Err(AwaitFault::Server(Fault::ClosedBeforeAnswer));
                }
                Ok(Ok(Err(_))) => return Err(AwaitFault::Server(Fault::BadAnswer)),
                Ok(Err(ClientGone)) => return Err(AwaitFault::ClientGone),
                Err(_) if !flow.is_answer_late(response) => flow.continue_if_due(sink).await?,
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
        if answer.is_interim() && answer.has_undue_body() {
            return HeadVerdict::Bad;
        }
        if answer.status == 101 {
            if !(self.plan.upgrade && answer.upgrade) {
                return HeadVerdict::Bad;
            }
            sink.head(&answer, BodyOut::None, Then::Close);
            flow.status.set(101);
            return HeadVerdict::Switch;
        }
        if answer.is_interim() {
            if answer.status == 100 {
                flow.continued.set(true);
                flow.continue_due.set(None);
            }
            return HeadVerdict::Interim(length);
        }
        if let Some((fault, next)) = self.after_status(member, answer.status, sendable) {
            return HeadVerdict::Retry(fault, next);
        }
        let framing = answer.framing_for(self.plan.is_head);
        if check_received(framing, &buf.filled()[length..]).is_err() {
            return HeadVerdict::Bad;
        }
        flow.status.set(answer.status);
        flow.answered.set(true);
        HeadVerdict::Relay(self.relay_of(&answer, flow, sink))
    }

    /// Gives the head of a final answer to the sink.
    pub(super) fn relay_of<K: Sink>(
        &self,
        answer: &AnswerHead<'_>,
        flow: &Flow,
        sink: &mut K,
    ) -> Relay {
        let framing = answer.framing_for(self.plan.is_head);
        let body = match framing {
            Framing::None => BodyOut::None,
            Framing::Length(length) => BodyOut::Length(length),
            Framing::Chunked | Framing::UntilClose if self.plan.version == Version::Http10 => {
                BodyOut::UntilClose
            }
            Framing::Chunked | Framing::UntilClose => BodyOut::Chunked,
        };
        let is_serving = self.worker.keeps_connections();
        let keeps = self.plan.keep_alive
            && flow.uploaded.get()
            && body != BodyOut::UntilClose
            && is_serving;
        let then = if keeps { Then::KeepAlive } else { Then::Close };
        sink.head(answer, body, then);
        Relay {
            framing,
            is_stream: answer.is_stream,
            // A server that answers before it has all of the body, or where it was to say 100, may take the rest for its next request.
            keeps_alive: answer.keeps_alive()
                && framing != Framing::UntilClose
                && flow.uploaded.get()
                && (!self.plan.expects_continue || flow.continued.get()),
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
                    let ended = relay.end(&fields, sink).await;
                    buf.consume(count);
                    break ended;
                }
                Step::End => break relay.end(&[], sink).await,
                Step::Read => {
                    if sink.flush().await.is_err() {
                        break Exchanged::ClientGone;
                    }
                    if buf.is_full() && sink.takes_large_reads() {
                        buf.grow_for_body();
                    }
                    let deadline = Instant::now() + patience;
                    let read = connection.io.read_into(&mut buf);
                    match self.timer.within(deadline, watch(sink, read)).await {
                        Ok(Ok(Ok(0))) if decoder.ends_with_connection() => {
                            break relay.end(&[], sink).await;
                        }
                        Ok(Ok(Ok(0) | Err(_))) => break Exchanged::Truncated,
                        Err(_) => break flow.silence(),
                        Ok(Ok(Ok(_))) => flow.progress.set(Instant::now()),
                        Ok(Err(ClientGone)) => break Exchanged::ClientGone,
                    }
                }
            }
        };
        *connection.buf.borrow_mut() = buf;
        exchanged
    }
}
