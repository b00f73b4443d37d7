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
use crate::routing::Client;

/// What a blocked socket has to take within `timeouts.body`, as much as of a stream's answer: DATA frames are no larger.
const PIECE: usize = 16 * 1024;
/// What the socket has taken when each stream had its turn: h2 writes a frame of each that may send, round and round.
const ROUND: u64 = STREAMS as u64 * PIECE as u64;

/// One connection's.
pub struct Outflow {
    /// Answers that have ended, and whose end h2 holds.
    ended: Cell<usize>,
    /// Those of them that are counted among the worker's, while the socket is blocked.
    held: Held,
    /// The last write or flush waits for the socket.
    waits: Cell<bool>,
    /// Bytes, in all.
    taken: Cell<u64>,
    blocked: Cell<Option<Blocked>>,
}

#[derive(Clone, Copy)]
struct Blocked {
    since: Instant,
    /// What the socket has taken since then, less than a piece.
    taken: usize,
    next_look: Instant,
    /// Bytes that the client's kernel had, at the last look that asked.
    acknowledged: Option<u64>,
}

impl Outflow {
    /// `client`: whose it is; None is one that stands for many.
    pub fn new(worker: &Rc<Worker>, client: Option<Client>) -> Rc<Outflow> {
        Rc::new(Outflow {
            ended: Cell::new(0),
            held: Held::none(worker, client),
            waits: Cell::new(false),
            taken: Cell::new(0),
            blocked: Cell::new(None),
        })
    }

    /// Whose it is.
    pub fn client(&self) -> Option<Client> {
        self.held.client()
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
        let Poll::Ready(Ok(count)) = written else {
            return;
        };
        self.taken.set(self.taken.get() + *count as u64);
        if let Some(blocked) = self.blocked.get() {
            let taken = blocked.taken + count;
            self.blocked.set(Some(if taken < PIECE {
                Blocked { taken, ..blocked }
            } else {
                Blocked::begin(Instant::now())
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
                self.blocked.set(Some(Blocked::begin(Instant::now())));
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

    /// Bytes that the socket took in all.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Since it had taken `before`, the socket took too little for each stream to have had its turn: none has a shut window by that.
    pub fn is_held_up(&self, before: u64) -> bool {
        self.is_blocked() && self.taken.get() - before < ROUND
    }

    /// When somebody has to ask whether it is [`stuck`](Outflow::is_stuck).
    pub fn next_look(&self, patience: Duration) -> Option<Instant> {
        let blocked = self.blocked.get()?;
        Some(blocked.next_look.min(blocked.since + patience))
    }

    /// The socket took no piece for `patience`, or between two looks while too much is held for slow clients; nor did the client's kernel
    /// of what the socket holds, which is asked for the bytes that it has acknowledged.
    pub fn is_stuck(
        &self,
        now: Instant,
        patience: Duration,
        acknowledged: impl FnOnce() -> Option<u64>,
    ) -> bool {
        let Some(blocked) = self.blocked.get() else {
            return false;
        };
        let next_look = now + SPAN.min(patience);
        let is_due = now - blocked.since >= patience || self.held.is_too_much();
        self.blocked.set(Some(match blocked.acknowledged {
            None => Blocked {
                next_look,
                // A kernel that does not say: what the socket takes is all that counts.
                acknowledged: Some(acknowledged().unwrap_or(0)),
                ..blocked
            },
            Some(before) if is_due => {
                let count = acknowledged().unwrap_or(0);
                if count < before + PIECE as u64 {
                    return true;
                }
                Blocked {
                    next_look,
                    acknowledged: Some(count),
                    ..Blocked::begin(now)
                }
            }
            Some(_) => Blocked {
                next_look,
                ..blocked
            },
        }));
        false
    }
}

impl Blocked {
    fn begin(now: Instant) -> Blocked {
        Blocked {
            since: now,
            taken: 0,
            next_look: now + SPAN,
            acknowledged: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::worker::tests::worker;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn blocked(worker: &Rc<Worker>) -> Rc<Outflow> {
        let outflow = Outflow::new(worker, None);
        outflow.answer_ended();
        outflow.wrote(&Poll::Pending);
        outflow.settle();
        outflow
    }

    /// When it is found stuck, within ten minutes, by a kernel that has acknowledged so much after a time.
    async fn found_stuck(
        outflow: &Outflow,
        acknowledged: impl Fn(Duration) -> Option<u64>,
    ) -> Option<u64> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(600) {
            let look = outflow.next_look(PATIENCE).expect("blocked");
            tokio::time::sleep_until(look).await;
            let now = Instant::now();
            if outflow.is_stuck(now, PATIENCE, || acknowledged(now - begun)) {
                return Some((now - begun).as_secs());
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_stuck_when_patience_is_over_whether_the_kernel_says_so_or_nothing()
     {
        let worker = worker();
        assert_eq!(
            found_stuck(&blocked(&worker), |_| Some(7_000_000)).await,
            Some(30)
        );
        assert_eq!(found_stuck(&blocked(&worker), |_| None).await, Some(30));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_piece_from_the_kernel_within_patience_is_not_stuck() {
        let worker = worker();
        let rate = |a_second| move |since: Duration| Some(a_second * since.as_secs());
        assert_eq!(found_stuck(&blocked(&worker), rate(600)).await, None);
        assert_eq!(found_stuck(&blocked(&worker), rate(500)).await, Some(30));
        // What was taken long ago counts no more.
        let stops = |since: Duration| Some(2000 * since.as_secs().min(100));
        assert_eq!(found_stuck(&blocked(&worker), stops).await, Some(150));
    }

    #[tokio::test(start_paused = true)]
    async fn while_too_much_is_held_a_piece_is_owed_each_second() {
        let worker = worker();
        worker.stalls.allow(0);
        assert_eq!(found_stuck(&blocked(&worker), |_| None).await, Some(2));
        let fast = |since: Duration| Some(20_000 * since.as_secs());
        assert_eq!(found_stuck(&blocked(&worker), fast).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_held_up_by_its_connection_until_each_had_its_turn() {
        let worker = worker();
        let outflow = blocked(&worker);
        let before = outflow.taken();
        assert!(outflow.is_held_up(before));
        outflow.wrote(&Poll::Ready(Ok(ROUND as usize)));
        assert!(!outflow.is_held_up(before) && outflow.is_held_up(outflow.taken()));
    }
}
