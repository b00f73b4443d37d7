//! The two sides of a request as its story sees them, whichever protocol the client speaks. Hot path.

// Both traits are for this crate's own single-threaded workers: their futures need no Send bound.
#![expect(async_fn_in_trait)]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use httparse::Header;

use super::answer::{BodyOut, Then};
use super::http1::head::AnswerHead;
use super::refusal::Refusal;

/// A piece of a request's body.
#[derive(Debug)]
pub enum Piece<'a> {
    Data(&'a [u8]),
    /// The body ends with these fields.
    Trailers(Vec<Header<'a>>),
    End,
}

/// Why a request's body did not come whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFault {
    /// The client went away.
    Gone,
    TooSlow,
    TooLarge,
    Malformed(&'static str),
}

impl SourceFault {
    /// None: nobody is there to be answered.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            SourceFault::Gone => None,
            SourceFault::TooSlow => Some(Refusal::ClientTimeout),
            SourceFault::TooLarge => Some(Refusal::BodyTooLarge),
            SourceFault::Malformed(what) => Some(Refusal::Malformed(what)),
        }
    }
}

/// The client is gone, or takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientGone;

/// Where a request's body comes from.
pub trait Source {
    /// The whole body, if there is none or all of it is here: such a request can be sent again.
    fn whole(&self) -> Option<&[u8]>;
    /// The next piece; not to be called once [`Source::whole`] gave something. Who stops waiting and asks again misses nothing.
    async fn next(&mut self) -> Result<Piece<'_>, SourceFault>;
    /// Whether the next piece is here already, as far as can be told without asking for it.
    fn holds_more(&self) -> bool;
    /// Body bytes that came so far.
    fn received(&self) -> u64;
}

/// Where the answer goes. What is small is gathered until [`Sink::flush`] or [`Sink::end`].
pub trait Sink {
    /// A 1xx other than 101.
    async fn interim(&mut self, head: &[u8]) -> Result<(), ClientGone>;
    /// Takes the head; nothing is sent yet.
    fn head(&mut self, head: &AnswerHead<'_>, body: BodyOut, then: Then);
    async fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone>;
    async fn flush(&mut self) -> Result<(), ClientGone>;
    /// Whether large reads pay: not where many answers share a connection, and all of them may stall.
    fn takes_large_reads(&self) -> bool;
    async fn end(&mut self, trailers: &[Header<'_>]) -> Result<(), ClientGone>;
    /// An answer of rota's own; nothing was sent before.
    async fn refuse(
        &mut self,
        refusal: Refusal,
        is_head: bool,
        then: Then,
    ) -> Result<(), ClientGone>;
    /// The answer can't be completed: its end must not look like one.
    fn cut(&mut self);
    /// Ready when the client gave up on this request.
    fn poll_aborted(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Body bytes that were sent so far.
    fn sent(&self) -> u64;
}

/// `future`, unless the client gives up first.
pub async fn watch<K: Sink, T>(
    sink: &mut K,
    future: impl Future<Output = T>,
) -> Result<T, ClientGone> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => sink.poll_aborted(cx).map(|()| Err(ClientGone)),
    })
    .await
}

/// What `future` gives at once; else it is dropped, and has done nothing that asking again would miss.
pub async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
