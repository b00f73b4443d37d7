//! An answer on its way to an HTTP/2 stream. Hot path.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use httparse::Header;

use super::outflow::Outflow;
use super::refusal_text;
use crate::proxy::answer::{BodyOut, Then, is_passed_on};
use crate::proxy::exchange::{ClientGone, Sink};
use crate::proxy::http1::head::{self, AnswerHead, field_space};
use crate::proxy::refusal::Refusal;
use crate::proxy::stalls::Stall;
use crate::proxy::timer::Timer;
use crate::proxy::worker::Worker;
use crate::telemetry::date;

/// What is gathered of a body before it is given to h2.
const GATHERED: usize = 16 * 1024;

pub struct StreamSink {
    worker: Rc<Worker>,
    outflow: Rc<Outflow>,
    respond: SendResponse<Bytes>,
    head: Option<Response<()>>,
    stream: Option<SendStream<Bytes>>,
    gathered: BytesMut,
    timer: Timer,
    patience: Duration,
    sent: u64,
    answered: Rc<Cell<bool>>,
}

impl StreamSink {
    /// `patience`: how long a client may keep its window shut.
    pub fn new(
        worker: &Rc<Worker>,
        outflow: Rc<Outflow>,
        respond: SendResponse<Bytes>,
        patience: Duration,
    ) -> StreamSink {
        StreamSink {
            worker: worker.clone(),
            outflow,
            respond,
            head: None,
            stream: None,
            gathered: BytesMut::new(),
            timer: Timer::default(),
            patience,
            sent: 0,
            answered: Rc::default(),
        }
    }

    /// Whether the head of an answer came, for the source of the same stream.
    pub fn answered(&self) -> Rc<Cell<bool>> {
        self.answered.clone()
    }

    /// Sends a whole answer of rota's own.
    pub fn answer(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = (&'static str, String)>,
        body: Option<Bytes>,
    ) {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Ok(date) = HeaderValue::from_bytes(&date::now()) {
            response.headers_mut().insert(DATE, date);
        }
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::try_from(value) {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        // A stream that is gone has nobody to be told.
        if let Ok(mut stream) = self.respond.send_response(response, body.is_none()) {
            if let Some(body) = body {
                let _ = stream.send_data(body, true);
            }
            self.outflow.answer_ended();
        }
    }

    fn send_head(&mut self, is_end: bool) -> Result<(), ClientGone> {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        let stream = self
            .respond
            .send_response(head, is_end)
            .map_err(|_| ClientGone)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Gives bytes to h2 as the client's window allows; `is_end`: they are the last.
    async fn send(&mut self, mut bytes: Bytes, is_end: bool) -> Result<(), ClientGone> {
        let StreamSink {
            worker,
            outflow,
            stream: Some(stream),
            timer,
            patience,
            ..
        } = self
        else {
            return Err(ClientGone);
        };
        let mut stall = None;
        while !bytes.is_empty() {
            stream.reserve_capacity(bytes.len());
            if stream.capacity() == 0 {
                let capacity = poll_fn(|cx| stream.poll_capacity(cx));
                let stall = stall.get_or_insert_with(|| Stall::begin(worker, outflow.client()));
                let taken = outflow.taken();
                let is_held_up = || outflow.is_held_up(taken);
                match stall.wait(timer, *patience, capacity, is_held_up).await {
                    Some(Some(Ok(_))) => continue,
                    Some(Some(Err(_)) | None) | None => return Err(ClientGone),
                }
            }
            let piece = bytes.split_to(bytes.len().min(stream.capacity()));
            let is_last = is_end && bytes.is_empty();
            stream.send_data(piece, is_last).map_err(|_| ClientGone)?;
            if is_last {
                return Ok(());
            }
        }
        if is_end {
            stream.send_data(Bytes::new(), true).map_err(|_| ClientGone)
        } else {
            Ok(())
        }
    }

    async fn send_end(&mut self, trailers: &[Header<'_>]) -> Result<(), ClientGone> {
        let has_more = !self.gathered.is_empty() || !trailers.is_empty();
        if self.head.is_some() && !has_more {
            return self.send_head(true);
        }
        self.send_head(false)?;
        let bytes = self.gathered.split().freeze();
        self.send(bytes, trailers.is_empty()).await?;
        match &mut self.stream {
            Some(stream) if !trailers.is_empty() => stream
                .send_trailers(fields_of(trailers))
                .map_err(|_| ClientGone),
            _ => Ok(()),
        }
    }
}

impl Sink for StreamSink {
    async fn interim(&mut self, raw: &[u8]) -> Result<(), ClientGone> {
        let mut space = field_space();
        if let Ok(head) = head::answer(raw, &mut space) {
            self.respond
                .send_informational(response_of(&head))
                .map_err(|_| ClientGone)?;
        }
        Ok(())
    }

    fn head(&mut self, head: &AnswerHead<'_>, body: BodyOut, _then: Then) {
        self.answered.set(true);
        let mut response = response_of(head);
        let length = match body {
            BodyOut::Length(length) => Some(length),
            BodyOut::None if head.status != 204 => head.declared_length(),
            BodyOut::None | BodyOut::Chunked | BodyOut::UntilClose => None,
        };
        if let Some(length) = length {
            response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.head = Some(response);
    }

    async fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        self.sent += bytes.len() as u64;
        // Piece by piece: a client that opens no window holds no second copy of a large read.
        for piece in bytes.chunks(GATHERED) {
            self.gathered.extend_from_slice(piece);
            if self.gathered.len() >= GATHERED {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ClientGone> {
        self.send_head(false)?;
        let bytes = self.gathered.split().freeze();
        self.send(bytes, false).await
    }

    fn takes_large_reads(&self) -> bool {
        false
    }

    async fn end(&mut self, trailers: &[Header<'_>]) -> Result<(), ClientGone> {
        self.send_end(trailers).await?;
        self.outflow.answer_ended();
        Ok(())
    }

    async fn refuse(
        &mut self,
        refusal: Refusal,
        is_head: bool,
        _then: Then,
    ) -> Result<(), ClientGone> {
        let (fields, text) = refusal_text(refusal);
        self.head = None;
        self.answer(refusal.status(), fields, (!is_head).then_some(text));
        Ok(())
    }

    fn cut(&mut self) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    fn poll_aborted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(cx).map(|_| ()),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }

    fn sent(&self) -> u64 {
        self.sent
    }
}

fn response_of(head: &AnswerHead<'_>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let fields = head
        .fields
        .iter()
        .filter(|field| is_passed_on(field.name, head));
    *response.headers_mut() = fields.filter_map(pair).collect();
    response
}

pub(super) fn fields_of(fields: &[Header<'_>]) -> HeaderMap {
    fields.iter().filter_map(pair).collect()
}

/// httparse has checked both already; what http would not take is left out.
fn pair(field: &Header<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(field.value).ok()?))
}
