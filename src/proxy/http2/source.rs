//! A request's body as it comes over an HTTP/2 stream. Hot path.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use httparse::Header;
use tokio::time::Instant;

use crate::proxy::exchange::{Piece, Source, SourceFault};
use crate::proxy::http1::body::Framing;
use crate::proxy::pace::Pace;
use crate::proxy::plan::Plan;
use crate::proxy::timer::Timer;

pub struct StreamSource {
    body: RecvStream,
    /// The whole body, if it came with the head.
    whole: Option<Bytes>,
    /// What came (with the head, or too slowly) and was not lent out yet.
    early: Option<Bytes>,
    /// The last of a body that has reached its content-length: lent out only when no more follows, so that no server takes a request
    /// for complete which isn't.
    last: Option<Bytes>,
    current: Bytes,
    trailers: Option<HeaderMap>,
    timer: Timer,
    pace: Pace,
    /// The answer has begun: a slow client is not cut any more for its pace.
    answered: Rc<Cell<bool>>,
    expected: Option<u64>,
    received: u64,
    limit: u64,
}

impl StreamSource {
    /// Takes what is there already: a small body that came with its head can be sent again.
    /// `answered`: as the sink of the same stream says it.
    pub async fn new(body: RecvStream, plan: &Plan, answered: Rc<Cell<bool>>) -> StreamSource {
        let expected = match plan.framing {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked | Framing::UntilClose => None,
        };
        let mut source = StreamSource {
            body,
            whole: None,
            early: None,
            last: None,
            current: Bytes::new(),
            trailers: None,
            timer: Timer::default(),
            pace: Pace::new(plan.timeouts.body, plan.body_rate),
            answered,
            expected,
            received: 0,
            limit: plan.body_limit,
        };
        if plan.framing == Framing::None {
            source.whole = Some(Bytes::new());
        } else if expected.is_some() {
            source.take_early().await;
        }
        source
    }

    async fn take_early(&mut self) {
        let ready = poll_fn(|cx| match self.body.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(bytes)),
            _ => Poll::Ready(None),
        });
        let Some(bytes) = ready.await else { return };
        self.release(bytes.len());
        if self.expected == Some(bytes.len() as u64) && self.body.is_end_stream() {
            self.received = bytes.len() as u64;
            self.whole = Some(bytes);
        } else {
            self.early = Some(bytes);
        }
    }

    /// Lets the client send as much again.
    fn release(&mut self, count: usize) {
        // Fails only on a stream that is gone, which the next read finds.
        let _ = self.body.flow_control().release_capacity(count);
    }

    async fn read(&mut self) -> Result<Option<Bytes>, SourceFault> {
        if let Some(bytes) = self.early.take() {
            return Ok(Some(bytes));
        }
        let asked = Instant::now();
        let mut until = asked + self.pace.window();
        let read = loop {
            let read = poll_fn(|cx| self.body.poll_data(cx));
            match self.timer.within(until, read).await {
                // What a client owes does not cut its answer: that ends when its server says no more.
                Err(_) if self.answered.get() => until += self.pace.window(),
                read => break read,
            }
        };
        match read {
            Ok(Some(Ok(bytes))) => {
                self.release(bytes.len());
                let is_fast = self.pace.allows(asked.elapsed(), bytes.len() as u64);
                if is_fast || self.answered.get() {
                    return Ok(Some(bytes));
                }
                // A call that streams may go on nevertheless, and must not miss these.
                self.early = Some(bytes);
                Err(SourceFault::TooSlow)
            }
            Ok(Some(Err(_))) => Err(SourceFault::Gone),
            Ok(None) => Ok(None),
            Err(_) => Err(SourceFault::TooSlow),
        }
    }

    /// Waits for the end of a body that has reached its content-length.
    async fn await_end(&mut self) -> Result<(), SourceFault> {
        while let Some(bytes) = self.read().await? {
            if !bytes.is_empty() {
                return Err(SourceFault::Malformed(
                    "the body is longer than its content-length",
                ));
            }
        }
        Ok(())
    }

    async fn read_trailers(&mut self) -> Result<(), SourceFault> {
        let read = poll_fn(|cx| self.body.poll_trailers(cx));
        match self
            .timer
            .within(Instant::now() + self.pace.window(), read)
            .await
        {
            Ok(Ok(trailers)) => self.trailers = trailers,
            Ok(Err(_)) => return Err(SourceFault::Gone),
            Err(_) => return Err(SourceFault::TooSlow),
        }
        Ok(())
    }
}

impl Source for StreamSource {
    fn whole(&self) -> Option<&[u8]> {
        self.whole.as_deref()
    }

    async fn next(&mut self) -> Result<Piece<'_>, SourceFault> {
        while self.last.is_none()
            && let Some(bytes) = self.read().await?
        {
            if bytes.is_empty() {
                continue;
            }
            self.received += bytes.len() as u64;
            if self.received > self.limit {
                return Err(SourceFault::TooLarge);
            }
            if self
                .expected
                .is_some_and(|expected| self.received > expected)
            {
                return Err(SourceFault::Malformed(
                    "the body is longer than its content-length",
                ));
            }
            if self.expected == Some(self.received) {
                self.last = Some(bytes);
            } else {
                self.current = bytes;
                return Ok(Piece::Data(&self.current));
            }
        }
        if self.last.is_some() {
            self.await_end().await?;
            self.current = self.last.take().unwrap_or_default();
            return Ok(Piece::Data(&self.current));
        }
        if self
            .expected
            .is_some_and(|expected| self.received != expected)
        {
            return Err(SourceFault::Malformed(
                "the body is shorter than its content-length",
            ));
        }
        self.read_trailers().await?;
        Ok(match &self.trailers {
            None => Piece::End,
            Some(_) if self.expected.is_some() => Piece::End,
            Some(fields) => Piece::Trailers(
                fields
                    .iter()
                    .map(|(name, value)| Header {
                        name: name.as_str(),
                        value: value.as_bytes(),
                    })
                    .collect(),
            ),
        })
    }

    fn holds_more(&self) -> bool {
        false
    }

    fn received(&self) -> u64 {
        self.received
    }
}
