//! One exchange with one server over HTTP/2: a stream of a connection that many share. Hot path of services that speak it.
//!
//! Whatever ends an exchange early drops its stream's handles, for which h2 sends RST_STREAM with CANCEL.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use super::server::{MAX_INTERIMS, Relay};
use super::{AwaitFault, Exchanged, Flow, Sendable, Story};
use crate::proxy::dialling;
use crate::proxy::exchange::{ClientGone, Piece, Sink, Source, SourceFault, watch};
use crate::proxy::fields::{check_http2_field, is_trailer};
use crate::proxy::http1::body::Framing;
use crate::proxy::http1::head;
use crate::proxy::http2::upstream::{self, Lease};
use crate::proxy::refusal::Fault;
use crate::proxy::timer::Timer;
use crate::routing::{Member, Protocol};

/// What the server said next.
enum Heard {
    Interim(Response<()>),
    Answer(Response<RecvStream>),
}

/// A piece of a request's body, in memory that h2 may keep.
enum Frame {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

impl Story<'_> {
    /// A place on a connection that has one, or on a new one.
    pub(super) async fn lease(&self, member: &Member, flow: &Flow) -> Result<Lease, Fault> {
        let timeouts = &self.plan.timeouts;
        let number = member.upstream.number();
        let began = Instant::now();
        let response_deadline = flow.progress.get() + timeouts.response;
        if began >= response_deadline {
            return Err(Fault::TooLate);
        }
        if let Some(lease) = self.take_lease(number) {
            return Ok(lease);
        }
        let deadline = (began + timeouts.connect).min(response_deadline);
        let opening = self.worker.lanes.borrow_mut().opening(number);
        let turn = self.timer.within(deadline, opening.lock()).await;
        let _turn = turn.map_err(|_| Fault::ConnectTimeout)?;
        if let Some(lease) = self.take_lease(number) {
            return Ok(lease);
        }
        member.upstream.cell(self.worker.id).connects.add(1);
        let service = &self.plan.route.service;
        let opened = dialling::open_http2(self.worker, member, &service.protocol, deadline);
        let sender = opened.await?;
        let cap = service.pool.div_ceil(self.worker.workers);
        let mut lanes = self.worker.lanes.borrow_mut();
        Ok(lanes.put(number, sender, Instant::now(), cap))
    }

    fn take_lease(&self, upstream: u64) -> Option<Lease> {
        let mut lanes = self.worker.lanes.borrow_mut();
        let lease = lanes.take(upstream, Instant::now(), &self.plan.timeouts)?;
        self.worker.vitals.workers[self.worker.id.0]
            .pool_reused
            .add(1);
        Some(lease)
    }

    /// Sends a request, whole or as it comes, and relays the answer as it comes, whichever is first.
    pub(super) async fn exchange_stream<S: Source, K: Sink>(
        &self,
        member: &Member,
        lease: &Lease,
        request: &[u8],
        flow: &Flow,
        source: &mut S,
        sink: &mut K,
    ) -> Exchanged {
        let whole = source.whole().map(Bytes::copy_from_slice);
        let scheme = match self.plan.route.service.protocol {
            Protocol::Http | Protocol::H2c => "http",
            Protocol::Https(_) | Protocol::H2(_) => "https",
        };
        let request = match upstream::request_of(request, scheme, member.upstream.label()) {
            Ok(request) => request,
            Err(what) => return Exchanged::Source(SourceFault::Malformed(what)),
        };
        flow.is_stream.set(is_grpc(request.headers()));
        flow.uploaded.set(whole.is_some());
        let sendable = Cell::new(Sendable::Again);
        let ends_here = whole.as_ref().is_some_and(Bytes::is_empty);
        let (answer, mut stream) = match lease.sender.clone().send_request(request, ends_here) {
            Ok(halves) => halves,
            // The connection ended since it was lent: no byte was sent.
            Err(error) if error.is_go_away() || error.is_io() => {
                return self.stream_fault(member, lease, Fault::GoneAway, sendable.get());
            }
            Err(_) => return Exchanged::Faulted(Fault::Local),
        };
        let mut upload = pin!(async {
            match whole {
                Some(_) if ends_here => Ok(()),
                Some(body) => {
                    self.send_up(&mut stream, flow, Frame::Data(body)).await;
                    self.send_up(&mut stream, flow, Frame::End).await;
                    Ok(())
                }
                None => {
                    self.upload_stream(&mut stream, flow, &sendable, source)
                        .await
                }
            }
        });
        let mut download = pin!(self.download_stream(member, lease, answer, flow, sink, &sendable));
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

    /// Relays the body as it comes. A server that takes no more is no fault of the upload: its answer decides.
    async fn upload_stream<S: Source>(
        &self,
        stream: &mut SendStream<Bytes>,
        flow: &Flow,
        sendable: &Cell<Sendable>,
        source: &mut S,
    ) -> Result<(), SourceFault> {
        loop {
            let frame = self.next_frame(flow, source).await?;
            sendable.set(Sendable::Once);
            let is_last = !matches!(frame, Frame::Data(_));
            let is_sent = self.send_up(stream, flow, frame).await;
            if is_last && is_sent {
                flow.uploaded.set(true);
            }
            if is_last || !is_sent {
                return Ok(());
            }
        }
    }

    /// The next piece of the body. A client that says nothing for a while is not too slow where both sides stream.
    async fn next_frame<S: Source>(
        &self,
        flow: &Flow,
        source: &mut S,
    ) -> Result<Frame, SourceFault> {
        loop {
            match flow.next_piece(source).await {
                Ok(Piece::Data(bytes)) => return Ok(Frame::Data(Bytes::copy_from_slice(bytes))),
                Ok(Piece::Trailers(fields)) => {
                    return Ok(Frame::Trailers(upstream::trailers_of(&fields)));
                }
                Ok(Piece::End) => return Ok(Frame::End),
                Err(SourceFault::TooSlow)
                    if flow.is_stream.get()
                        && flow.progress.get() + self.plan.timeouts.tunnel > Instant::now() => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Sends a piece as the server's window allows. False: the server takes no more.
    async fn send_up(&self, stream: &mut SendStream<Bytes>, flow: &Flow, frame: Frame) -> bool {
        let mut bytes = match frame {
            Frame::Data(bytes) => bytes,
            Frame::Trailers(fields) => return stream.send_trailers(fields).is_ok(),
            Frame::End => return stream.send_data(Bytes::new(), true).is_ok(),
        };
        let timer = Timer::default();
        while !bytes.is_empty() {
            stream.reserve_capacity(bytes.len());
            if stream.capacity() == 0 {
                let capacity = poll_fn(|cx| stream.poll_capacity(cx));
                let deadline = Instant::now() + self.patience(flow);
                match timer.within(deadline, capacity).await {
                    Ok(Some(Ok(_))) => continue,
                    Ok(Some(Err(_)) | None) | Err(_) => return false,
                }
            }
            let piece = bytes.split_to(bytes.len().min(stream.capacity()));
            if stream.send_data(piece, false).is_err() {
                return false;
            }
            flow.progress.set(Instant::now());
        }
        true
    }

    /// How long nothing may move once the answer has begun.
    fn patience(&self, flow: &Flow) -> Duration {
        if flow.is_stream.get() {
            self.plan.timeouts.tunnel
        } else {
            self.plan.timeouts.response
        }
    }

    /// Awaits the answer's head, then relays its body.
    async fn download_stream<K: Sink>(
        &self,
        member: &Member,
        lease: &Lease,
        mut answer: ResponseFuture,
        flow: &Flow,
        sink: &mut K,
        sendable: &Cell<Sendable>,
    ) -> Exchanged {
        for _ in 0..=MAX_INTERIMS {
            match self.await_answer(&mut answer, flow, sink).await {
                Ok(Heard::Interim(interim)) => {
                    match interim.status() {
                        StatusCode::SWITCHING_PROTOCOLS => break,
                        StatusCode::CONTINUE => flow.continue_due.set(None),
                        _ => {}
                    }
                    if sink.interim(&written(&interim)).await.is_err() {
                        return Exchanged::ClientGone;
                    }
                }
                Ok(Heard::Answer(answer)) => {
                    return self
                        .relay_answer(member, answer, flow, sink, sendable)
                        .await;
                }
                Err(AwaitFault::ClientGone) => return Exchanged::ClientGone,
                Err(AwaitFault::Server(fault)) => {
                    return self.stream_fault(member, lease, fault, sendable.get());
                }
            }
        }
        Exchanged::Faulted(Fault::BadAnswer)
    }

    /// Waits until the client gives up or the response deadline, which moves on with the upload.
    async fn await_answer<K: Sink>(
        &self,
        answer: &mut ResponseFuture,
        flow: &Flow,
        sink: &mut K,
    ) -> Result<Heard, AwaitFault> {
        loop {
            let response = self.plan.timeouts.response;
            let deadline = flow.answer_due(response);
            let heard = poll_fn(|cx| {
                if let Poll::Ready(Some(interim)) = answer.poll_informational(cx) {
                    return Poll::Ready(interim.map(Heard::Interim));
                }
                Pin::new(&mut *answer)
                    .poll(cx)
                    .map(|heard| heard.map(Heard::Answer))
            });
            match self.timer.within(deadline, watch(sink, heard)).await {
                Ok(Ok(Ok(heard))) => return Ok(heard),
                Ok(Ok(Err(error))) => return Err(AwaitFault::Server(fault_of(&error))),
                Ok(Err(ClientGone)) => return Err(AwaitFault::ClientGone),
                Err(_) if !flow.is_answer_late(response) => flow.continue_if_due(sink).await?,
                Err(_) => return Err(AwaitFault::Server(Fault::Timeout)),
            }
        }
    }

    async fn relay_answer<K: Sink>(
        &self,
        member: &Member,
        answer: Response<RecvStream>,
        flow: &Flow,
        sink: &mut K,
        sendable: &Cell<Sendable>,
    ) -> Exchanged {
        let (parts, body) = answer.into_parts();
        let relay = {
            let fields = upstream::headers_of(&parts.headers);
            let Ok(answer) = head::framed_answer(parts.status, &fields) else {
                return Exchanged::Faulted(Fault::BadAnswer);
            };
            if let Some((fault, next)) = self.after_status(member, answer.status, sendable.get()) {
                return Exchanged::Retry(fault, next);
            }
            flow.status.set(answer.status);
            flow.answered.set(true);
            flow.is_stream.set(answer.is_stream);
            self.relay_of(&answer, flow, sink)
        };
        self.relay_stream(body, relay, flow, sink).await
    }

    /// Relays the body until its stream ends: the server may send as much again once the client's side has taken it.
    async fn relay_stream<K: Sink>(
        &self,
        mut body: RecvStream,
        relay: Relay,
        flow: &Flow,
        sink: &mut K,
    ) -> Exchanged {
        loop {
            let ready = poll_fn(|cx| match body.poll_data(cx) {
                Poll::Ready(next) => Poll::Ready(Some(next)),
                Poll::Pending => Poll::Ready(None),
            });
            let next = match ready.await {
                Some(next) => next,
                None => {
                    if sink.flush().await.is_err() {
                        return Exchanged::ClientGone;
                    }
                    let deadline = Instant::now() + self.patience(flow);
                    let next = poll_fn(|cx| body.poll_data(cx));
                    match self.timer.within(deadline, watch(sink, next)).await {
                        Ok(Ok(next)) => next,
                        Ok(Err(ClientGone)) => return Exchanged::ClientGone,
                        Err(_) => return flow.silence(),
                    }
                }
            };
            flow.progress.set(Instant::now());
            match next {
                // A frame without bytes: to a client of HTTP/1 an empty chunk is the body's end.
                Some(Ok(bytes)) if bytes.is_empty() => {}
                // A body where the status forbids one: a client of HTTP/1 would take it for the next answer.
                Some(Ok(_)) if relay.framing == Framing::None => {
                    return relay.end(&[], sink).await;
                }
                Some(Ok(bytes)) => {
                    if sink.data(&bytes).await.is_err() {
                        return Exchanged::ClientGone;
                    }
                    // Fails only on a stream that is gone, which the next read finds.
                    let _ = body.flow_control().release_capacity(bytes.len());
                }
                Some(Err(_)) => return Exchanged::Truncated,
                None => return self.relay_trailers(body, relay, sink).await,
            }
        }
    }

    async fn relay_trailers<K: Sink>(
        &self,
        mut body: RecvStream,
        relay: Relay,
        sink: &mut K,
    ) -> Exchanged {
        let deadline = Instant::now() + self.plan.timeouts.response;
        let trailers = poll_fn(|cx| body.poll_trailers(cx));
        let trailers = match self.timer.within(deadline, watch(sink, trailers)).await {
            Ok(Ok(Ok(trailers))) => trailers.unwrap_or_default(),
            Ok(Err(ClientGone)) => return Exchanged::ClientGone,
            Ok(Ok(Err(_))) | Err(_) => return Exchanged::Truncated,
        };
        let mut fields = upstream::headers_of(&trailers);
        fields.retain(|field| is_trailer(field.name));
        relay.end(&fields, sink).await
    }

    /// After a fault while awaiting an answer: elsewhere, if that is safe, else the fault.
    fn stream_fault(
        &self,
        member: &Member,
        lease: &Lease,
        fault: Fault,
        sendable: Sendable,
    ) -> Exchanged {
        // A connection over which nothing comes any more would swallow the next requests too.
        if matches!(fault, Fault::Timeout | Fault::GoneAway) {
            lease.retire();
        }
        // The server took nothing, but what of the body was taken from the client is gone.
        if fault.is_before_sending() && sendable == Sendable::Once {
            return Exchanged::Faulted(fault);
        }
        self.retry_or(member, fault, lease.past, sendable)
    }
}

fn is_grpc(fields: &HeaderMap) -> bool {
    let kind = fields.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What the end of a stream before its answer means. RFC 9113 section 8.7: a stream above GOAWAY's last one, and one reset with
/// REFUSED_STREAM, were not processed.
fn fault_of(error: &h2::Error) -> Fault {
    if error.is_remote() && error.is_go_away() {
        Fault::GoneAway
    } else if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        Fault::StreamRefused
    } else if error.is_remote() || error.is_io() {
        Fault::ClosedBeforeAnswer
    } else {
        // h2's own word: what the server sent is not HTTP/2.
        Fault::BadAnswer
    }
}

/// A 1xx head in the form that sinks take.
fn written(interim: &Response<()>) -> Vec<u8> {
    let status = interim.status();
    let phrase = status.canonical_reason().unwrap_or("");
    let mut out = format!("HTTP/1.1 {} {phrase}\r\n", status.as_u16()).into_bytes();
    for (name, value) in interim.headers() {
        if check_http2_field(name.as_str(), value.as_bytes()).is_err() {
            continue;
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}
