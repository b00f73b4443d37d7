//! A request's body as it comes over HTTP/1. Hot path.

use std::cell::Cell;

use tokio::time::Instant;

use super::body::{Decoder, Framing, Step, trailer_fields};
use crate::proxy::buffer::Buf;
use crate::proxy::exchange::{Piece, Source, SourceFault};
use crate::proxy::io::Io;
use crate::proxy::pace::Pace;
use crate::proxy::plan::Plan;
use crate::proxy::timer::Timer;

/// Reads a body out of the connection's buffer, and more of it from the connection.
pub struct BodySource<'c> {
    io: &'c Io,
    buf: &'c mut Buf,
    timer: &'c Timer,
    decoder: Decoder,
    /// All of the body stands in the buffer: so many bytes.
    whole: Option<usize>,
    /// Bytes at the buffer's front that the last piece lent out.
    lent: usize,
    received: u64,
    limit: u64,
    pace: Pace,
    /// The answer has begun: a slow client is not cut any more for its pace.
    answered: &'c Cell<bool>,
}

impl<'c> BodySource<'c> {
    pub fn new(
        io: &'c Io,
        buf: &'c mut Buf,
        timer: &'c Timer,
        plan: &Plan,
        answered: &'c Cell<bool>,
    ) -> BodySource<'c> {
        let whole = match plan.framing {
            Framing::None => Some(0),
            Framing::Length(length) if length <= buf.len() as u64 => Some(length as usize),
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => None,
        };
        BodySource {
            io,
            buf,
            timer,
            decoder: Decoder::new(plan.framing),
            whole,
            lent: 0,
            received: whole.unwrap_or(0) as u64,
            limit: plan.body_limit,
            pace: Pace::new(plan.timeouts.body, plan.body_rate),
            answered,
        }
    }

    /// Leaves the buffer at the first byte behind this body. False: the body was not read to its end.
    pub fn finish(mut self) -> bool {
        self.buf.end_body();
        if let Some(length) = self.whole.take() {
            self.buf.consume(length);
            return true;
        }
        self.buf.consume(std::mem::take(&mut self.lent));
        self.decoder.is_done()
    }

    async fn read_more(&mut self) -> Result<(), SourceFault> {
        if self.buf.is_full() {
            self.buf.grow_for_body();
        }
        let asked = Instant::now();
        let mut until = asked + self.pace.window();
        let count = loop {
            let read = self.timer.within(until, self.io.read_into(self.buf));
            match read.await {
                Ok(Ok(count)) if count > 0 => break count,
                Ok(Ok(_) | Err(_)) => return Err(SourceFault::Gone),
                // What a client owes does not cut its answer: that ends when its server says no more.
                Err(_) if self.answered.get() => until += self.pace.window(),
                Err(_) => return Err(SourceFault::TooSlow),
            }
        };
        if self.pace.allows(asked.elapsed(), count as u64) || self.answered.get() {
            Ok(())
        } else {
            Err(SourceFault::TooSlow)
        }
    }
}

impl Source for BodySource<'_> {
    fn whole(&self) -> Option<&[u8]> {
        self.whole.map(|length| &self.buf.filled()[..length])
    }

    async fn next(&mut self) -> Result<Piece<'_>, SourceFault> {
        self.buf.consume(std::mem::take(&mut self.lent));
        loop {
            match self
                .decoder
                .step(self.buf.filled())
                .map_err(|bad| SourceFault::Malformed(bad.0))?
            {
                Step::Framing(count) => self.buf.consume(count),
                Step::Data(count) => {
                    self.lent = count;
                    self.received += count as u64;
                    if self.received > self.limit {
                        return Err(SourceFault::TooLarge);
                    }
                    return Ok(Piece::Data(&self.buf.filled()[..count]));
                }
                Step::Trailers(count) => {
                    self.lent = count;
                    let fields = trailer_fields(&self.buf.filled()[..count]);
                    return fields
                        .map(Piece::Trailers)
                        .map_err(|bad| SourceFault::Malformed(bad.0));
                }
                Step::End => return Ok(Piece::End),
                Step::Read => self.read_more().await?,
            }
        }
    }

    fn holds_more(&self) -> bool {
        let (mut decoder, mut rest) = (self.decoder, &self.buf.filled()[self.lent..]);
        loop {
            match decoder.step(rest) {
                Ok(Step::Framing(count)) => rest = &rest[count..],
                Ok(Step::Data(_) | Step::Trailers(_) | Step::End) => return true,
                // What came before something malformed goes its way.
                Ok(Step::Read) | Err(_) => return false,
            }
        }
    }

    fn received(&self) -> u64 {
        self.received
    }
}
