//! What an HTTP/2 client's socket takes of what h2 holds for it, once the answers themselves have ended. Hot path.
//!
//! A stream whose window is shut waits in its own task, and is counted and cut there (`stalls`). But of an answer that h2 was given
//! whole nobody waits for anything: of each it may hold [`SEND_BUFFER`](super::SEND_BUFFER), for as long as the client reads nothing.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::STREAMS;
use crate::proxy::stalls::{Held, SPAN};
use crate::proxy::worker::Worker;

/// What a blocked socket has to take within `timeouts.body`, as much as of a stream's answer: DATA frames are no larger.
const PIECE: usize = 16 * 1024;

/// One connection's.
pub struct Outflow {
    /// Answers that have ended, and whose end h2 holds.
    ended: Cell<usize>,
    /// Those of them that are counted among the worker's, while the socket is blocked.
    held: Held,
    /// The last write or flush waits for the socket.
    waits: Cell<bool>,
    blocked: Cell<Option<Blocked>>,
}

#[derive(Clone, Copy)]
struct Blocked {
    since: Instant,
    /// What the socket has taken since then, less than a piece.
    taken: usize,
}

impl Outflow {
    pub fn new(worker: &Rc<Worker>) -> Rc<Outflow> {
        Rc::new(Outflow {
            ended: Cell::new(0),
            held: Held::none(worker),
            waits: Cell::new(false),
            blocked: Cell::new(None),
        })
    }

    /// An answer was given to h2 to its end.
    pub fn answer_ended(&self) {
        self.ended.set(self.ended.get() + 1);
    }

    /// h2 wrote an answer's end.
    pub fn answer_left(&self) {
        // h2 also ends what nobody gave it: a head too large for it.
        self.ended.set(self.ended.get().saturating_sub(1));
    }

    /// Notes what the socket took, if it did.
    pub fn wrote(&self, written: &Poll<io::Result<usize>>) {
        self.waits.set(written.is_pending());
        if let (Poll::Ready(Ok(count)), Some(blocked)) = (written, self.blocked.get()) {
            let taken = blocked.taken + count;
            self.blocked.set(Some(if taken < PIECE {
                Blocked { taken, ..blocked }
            } else {
                Blocked::begin()
            }));
        }
    }

    /// Notes whether what was written lies in the socket.
    pub fn flushed(&self, flushed: &Poll<io::Result<()>>) {
        self.waits.set(flushed.is_pending());
    }

    /// h2 has written what it could: all that there was, unless the socket is waited for.
    pub fn settle(&self) {
        if self.waits.get() {
            if !self.is_blocked() {
                self.blocked.set(Some(Blocked::begin()));
            }
            // No more than can be open: those that their client reset meanwhile never end.
            self.held.are(self.ended.get().min(STREAMS as usize));
        } else {
            self.ended.set(0);
            if self.blocked.take().is_some() {
                self.held.are(0);
            }
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked.get().is_some()
    }

    /// When somebody has to ask whether it is [`stuck`](Outflow::is_stuck).
    pub fn next_look(&self, patience: Duration) -> Option<Instant> {
        let blocked = self.blocked.get()?;
        Some((Instant::now() + SPAN).min(blocked.since + patience))
    }

    /// The socket took no piece for `patience`, or for a second while too much is held for slow clients.
    pub fn is_stuck(&self, now: Instant, patience: Duration) -> bool {
        self.blocked.get().is_some_and(|blocked| {
            let waited = now - blocked.since;
            waited >= patience || (waited >= SPAN && self.held.is_too_much())
        })
    }
}

impl Blocked {
    fn begin() -> Blocked {
        Blocked {
            since: Instant::now(),
            taken: 0,
        }
    }
}
