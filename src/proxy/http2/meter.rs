//! What a client's HTTP/2 frames cost, counted below h2, which has no hook for most of them. Hot path.
//!
//! The heads of frames are looked at as bytes pass; nothing is copied or kept. h2 itself ends a connection for empty and tiny DATA,
//! unfinished header blocks (CVE-2024-27316), header lists far too large, and resets of streams that nobody accepted yet. What it answers
//! or passes over for ever are PING, SETTINGS, PRIORITY, WINDOW_UPDATE, trailers, RST_STREAM of streams long gone and kinds it doesn't know
//! (CVE-2019-9511 to -9518); DATA for those it answers with RST_STREAM. Here they cost tokens, which answers earn: whoever downloads
//! opens windows, and gRPC clients ping for as long as they are sent something. Heads are counted and have their time (`heads`). Frames
//! that can't be of their kind end here, too: h2 takes any for the first one, and has no word of its own for a wrong size.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::heads::Heads;
use super::outflow::Outflow;
use crate::proxy::io::Io;
use crate::telemetry::vitals::FrameKind;

/// The client's connection preface (RFC 9113 section 3.4), which is no frame.
const PREFACE: usize = 24;
const HEAD: usize = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const GOAWAY: u8 = 7;

/// Tokens that a connection begins with, and that time gives back. Past the last one it ends with ENHANCE_YOUR_CALM. Browsers need
/// some ten of them.
const TOKENS: u32 = 1000;
/// What time gives back.
const TOKENS_A_SECOND: u32 = 50;
/// The most that answers can earn: a window of 16 MiB that is opened again 4 KiB at a time, for a stream and its connection, takes 8,192.
const MOST_TOKENS: u32 = 10_000;
/// What each HEADERS or DATA frame of an answer earns: a PING and two windows opened for it, and one to spare.
const EARNED_BY_FRAME: u32 = 4;
/// Clients open windows by 4 KiB or more, their stream's and their connection's.
const BYTES_A_TOKEN: u32 = 512;
/// SETTINGS may have to be applied to all open streams.
const SETTINGS_COST: u32 = 10;

/// The tokens of one connection, shared by its stream and by whoever ends it.
#[derive(Debug)]
pub struct Budget {
    tokens: Cell<u32>,
    refilled: Cell<Instant>,
    last: Cell<FrameKind>,
    is_begun: Cell<bool>,
    verdict: Cell<Option<Reason>>,
    heads: Heads,
}

impl Budget {
    /// `first_due`: when the first head has to be whole.
    pub fn new(now: Instant, first_due: Instant) -> Rc<Budget> {
        Rc::new(Budget {
            tokens: Cell::new(TOKENS),
            refilled: Cell::new(now),
            last: Cell::new(FrameKind::Settings),
            is_begun: Cell::new(false),
            verdict: Cell::new(None),
            heads: Heads::new(first_due),
        })
    }

    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Why the connection has to end: the client sent more than it is allowed to, or what is no frame.
    pub fn verdict(&self) -> Option<Reason> {
        self.verdict.get()
    }

    /// The kind of frame that came last.
    pub fn last(&self) -> FrameKind {
        self.last.get()
    }

    fn received(&self, frame: Frame) {
        if self.verdict.get().is_some() {
            return;
        }
        let kind = FrameKind::of(frame.kind);
        self.last.set(kind);
        // RFC 9113 section 3.4: the preface ends with the client's SETTINGS.
        if !self.is_begun.replace(true) && (kind != FrameKind::Settings || frame.is_ack()) {
            return self.verdict.set(Some(Reason::PROTOCOL_ERROR));
        }
        if !frame.has_its_size() {
            return self.verdict.set(Some(Reason::FRAME_SIZE_ERROR));
        }
        match kind {
            FrameKind::Headers | FrameKind::Continuation => {
                self.heads.continues(frame.ends_its_block());
            }
            FrameKind::Data
            | FrameKind::Priority
            | FrameKind::RstStream
            | FrameKind::Settings
            | FrameKind::Ping
            | FrameKind::WindowUpdate
            | FrameKind::Other => self.heads.passed(),
        }
        let cost = match kind {
            // DATA is h2's to count; new streams are held against what becomes of them (`conduct`).
            FrameKind::Data => return,
            FrameKind::Headers if self.heads.began(frame.stream) => {
                if self.heads.are_too_many() {
                    self.verdict.set(Some(Reason::ENHANCE_YOUR_CALM));
                }
                return;
            }
            FrameKind::Settings if !frame.is_ack() => SETTINGS_COST,
            FrameKind::Headers
            | FrameKind::Settings
            | FrameKind::Priority
            | FrameKind::RstStream
            | FrameKind::Ping
            | FrameKind::WindowUpdate
            | FrameKind::Continuation
            | FrameKind::Other => 1,
        };
        self.spend(cost);
    }

    fn spend(&self, cost: u32) {
        if self.tokens.get() < cost {
            self.refill(Instant::now());
        }
        match self.tokens.get().checked_sub(cost) {
            Some(left) => self.tokens.set(left),
            None => self.verdict.set(Some(Reason::ENHANCE_YOUR_CALM)),
        }
    }

    fn refill(&self, now: Instant) {
        let since = now.duration_since(self.refilled.get());
        let earned = since.as_millis() * u128::from(TOKENS_A_SECOND) / 1000;
        let earned = u32::try_from(earned).unwrap_or(TOKENS).min(TOKENS);
        if earned > 0 {
            self.refilled.set(now);
            self.tokens.set(self.tokens.get().max(earned));
        }
    }

    fn sent(&self, frame: Frame) {
        match FrameKind::of(frame.kind) {
            FrameKind::Data | FrameKind::Headers => {
                let earned = EARNED_BY_FRAME + frame.length / BYTES_A_TOKEN;
                self.tokens
                    .set((self.tokens.get() + earned).min(MOST_TOKENS));
            }
            // Whatever its client did for it, DATA for a stream long gone among it.
            FrameKind::RstStream => self.spend(1),
            FrameKind::Settings
            | FrameKind::Priority
            | FrameKind::Ping
            | FrameKind::WindowUpdate
            | FrameKind::Continuation
            | FrameKind::Other => {}
        }
    }
}

/// What a frame's head says of it (RFC 9113 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn ends_its_block(self) -> bool {
        self.flags & END_HEADERS != 0
    }

    fn is_ack(self) -> bool {
        self.flags & ACK != 0
    }

    fn ends_its_stream(self) -> bool {
        let kind = FrameKind::of(self.kind);
        matches!(kind, FrameKind::Data | FrameKind::Headers) && self.flags & END_STREAM != 0
    }

    /// Whether it can hold what its kind has (RFC 9113 sections 4.2 and 6).
    fn has_its_size(self) -> bool {
        match FrameKind::of(self.kind) {
            FrameKind::Priority => self.length == 5,
            FrameKind::RstStream | FrameKind::WindowUpdate => self.length == 4,
            FrameKind::Ping => self.length == 8,
            FrameKind::Settings if self.is_ack() => self.length == 0,
            FrameKind::Settings => self.length.is_multiple_of(6),
            FrameKind::Other => self.kind != GOAWAY || self.length >= 8,
            FrameKind::Data | FrameKind::Headers | FrameKind::Continuation => true,
        }
    }
}

/// Where one direction of a connection stands between frames.
#[derive(Debug)]
struct Walk {
    /// Bytes to pass over until the next head.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
}

impl Walk {
    fn behind(skip: usize) -> Walk {
        Walk {
            skip,
            head: [0; HEAD],
            have: 0,
        }
    }

    /// Passes over what came, and shows each frame whose head is complete.
    fn over(&mut self, mut bytes: &[u8], mut show: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            let wanted = (HEAD - self.have).min(bytes.len() - skipped);
            let (more, rest) = bytes[skipped..].split_at(wanted);
            self.head[self.have..self.have + wanted].copy_from_slice(more);
            self.have += wanted;
            if self.have < HEAD {
                return;
            }
            let [a, b, c, kind, flags, stream @ ..] = self.head;
            let length = u32::from_be_bytes([0, a, b, c]);
            show(Frame {
                length,
                kind,
                flags,
                // Its first bit is reserved.
                stream: u32::from_be_bytes(stream) << 1 >> 1,
            });
            self.have = 0;
            self.skip = length as usize;
            bytes = rest;
        }
    }
}

/// A client's bytes as they come, held against the budget of its connection.
pub struct Received {
    budget: Rc<Budget>,
    walk: Walk,
}

impl Received {
    pub fn new(budget: Rc<Budget>) -> Received {
        Received {
            budget,
            walk: Walk::behind(PREFACE),
        }
    }

    pub fn came(&mut self, bytes: &[u8]) {
        let Received { budget, walk } = self;
        walk.over(bytes, |frame| budget.received(frame));
        let is_of_head = matches!(budget.last(), FrameKind::Headers | FrameKind::Continuation);
        budget
            .heads
            .came(walk.have > 0 || (walk.skip > 0 && is_of_head));
    }
}

/// A client's stream, metered both ways. Its owner ends it once h2 is done with it.
pub struct Metered {
    io: Rc<Io>,
    budget: Rc<Budget>,
    outflow: Rc<Outflow>,
    received: Received,
    sent: Walk,
}

impl Metered {
    pub fn new(io: Rc<Io>, budget: Rc<Budget>, outflow: Rc<Outflow>) -> Metered {
        Metered {
            io,
            received: Received::new(budget.clone()),
            budget,
            outflow,
            sent: Walk::behind(0),
        }
    }

    fn sent(&mut self, bytes: &[u8]) {
        self.sent.over(bytes, |frame| {
            self.budget.sent(frame);
            if frame.ends_its_stream() {
                self.outflow.answer_left();
            }
        });
    }
}

impl AsyncRead for Metered {
    /// Gives nothing once there is a verdict, not even what it is about, and wakes nobody: whoever polls h2 asks for it after each poll.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Metered {
            io,
            budget,
            received,
            ..
        } = self.get_mut();
        if budget.verdict().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut *io.stream()).poll_read(cx, buf))?;
        received.came(&buf.filled()[before..]);
        if budget.verdict().is_some() {
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let metered = self.get_mut();
        let written = Pin::new(&mut *metered.io.stream()).poll_write(cx, buf);
        metered.outflow.wrote(&written);
        let count = ready!(written)?;
        metered.sent(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let metered = self.get_mut();
        let written = Pin::new(&mut *metered.io.stream()).poll_write_vectored(cx, bufs);
        metered.outflow.wrote(&written);
        let count = ready!(written)?;
        let mut left = count;
        for buf in bufs {
            let taken = left.min(buf.len());
            metered.sent(&buf[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.io.poll_flush(cx);
        self.outflow.flushed(&flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.stream()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(length: u32, kind: u8, flags: u8) -> Frame {
        Frame {
            length,
            kind,
            flags,
            stream: 0,
        }
    }

    /// Of a connection whose client said its settings.
    fn begun() -> Rc<Budget> {
        let budget = Budget::new(Instant::now(), Instant::now());
        budget.received(frame(0, SETTINGS, 0));
        budget.tokens.set(TOKENS);
        budget
    }

    #[test]
    fn every_frame_is_seen_however_the_bytes_fall() {
        let mut bytes = vec![b'P'; PREFACE];
        let lengths = [0u8, 8, 200, 0, 1, 40];
        for length in lengths {
            bytes.extend_from_slice(&[0, 0, length, PING, ACK, 0, 0, 0, 0]);
            bytes.extend(std::iter::repeat_n(0xff, length.into()));
        }
        for piece in [1, 2, 5, 8, 9, 10, 17, 100, 1000] {
            let (mut walk, mut seen) = (Walk::behind(PREFACE), Vec::new());
            for part in bytes.chunks(piece) {
                walk.over(part, |frame| seen.push(frame));
            }
            let expected = lengths.map(|length| frame(length.into(), PING, ACK));
            assert_eq!(seen, expected, "{piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_nobody_needs_are_spent_out_of_a_budget_that_time_refills() {
        let budget = begun();
        for _ in 0..TOKENS {
            budget.received(frame(8, PING, 0));
        }
        assert_eq!(budget.verdict(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..TOKENS_A_SECOND {
            budget.received(frame(8, PING, 0));
        }
        assert_eq!(budget.verdict(), None);
        budget.received(frame(8, PING, 0));
        assert_eq!(budget.verdict(), Some(Reason::ENHANCE_YOUR_CALM));
        assert_eq!(budget.last(), FrameKind::Ping);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_pings_and_opens_two_windows_for_each_frame_of_an_answer_never_runs_out() {
        let budget = begun();
        for _ in 0..100_000 {
            budget.sent(frame(5, 0, 0));
            budget.received(frame(8, PING, 0));
            budget.received(frame(4, 8, 0));
            budget.received(frame(4, 8, 0));
        }
        assert_eq!(budget.verdict(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_window_that_was_filled_at_once_may_be_opened_in_small_steps() {
        let budget = begun();
        for _ in 0..1024 {
            budget.sent(frame(16 * 1024, 0, 0));
        }
        for _ in 0..8192 {
            budget.received(frame(4, 8, 0));
        }
        assert_eq!(budget.verdict(), None);
    }
}
