//! Answers of one worker that wait for their HTTP/2 clients: each holds memory, so once too many wait the slow ones are cut. Hot path.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::timer::{Elapsed, Timer};
use super::worker::Worker;

/// How long one piece of an answer (16 KiB) may take to be given to its client once too many wait.
pub const SPAN: Duration = Duration::from_secs(1);

/// A worker's.
#[derive(Debug, Default)]
pub struct Stalls {
    waiting: Cell<usize>,
    /// This worker's share of `limits.stalled_answers`.
    most: Cell<usize>,
}

impl Stalls {
    pub fn allow(&self, most: usize) {
        self.most.set(most);
    }

    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    fn is_crowded(&self) -> bool {
        self.waiting.get() > self.most.get()
    }
}

/// Answers that have ended for us and wait in h2 for their client, until dropped.
#[must_use]
pub struct Held {
    worker: Rc<Worker>,
    count: Cell<usize>,
}

impl Held {
    pub fn none(worker: &Rc<Worker>) -> Held {
        Held {
            worker: worker.clone(),
            count: Cell::new(0),
        }
    }

    /// So many there are now.
    pub fn are(&self, count: usize) {
        let waiting = &self.worker.stalls.waiting;
        waiting.set(waiting.get() - self.count.replace(count) + count);
    }

    /// There are some, and too many answers wait.
    pub fn is_too_much(&self) -> bool {
        self.count.get() > 0 && self.worker.stalls.is_crowded()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.are(0);
    }
}

/// One piece of an answer that waits, until dropped.
#[must_use]
pub struct Stall {
    worker: Rc<Worker>,
    since: Instant,
}

impl Stall {
    pub fn begin(worker: &Rc<Worker>) -> Stall {
        let stalls = &worker.stalls;
        stalls.waiting.set(stalls.waiting.get() + 1);
        Stall {
            worker: worker.clone(),
            since: Instant::now(),
        }
    }

    /// What `future` gives; None: it did not within `patience`, unless it is the connection that holds it up, or its piece has waited
    /// for a second and too many wait.
    pub async fn wait<T>(
        &self,
        timer: &Timer,
        patience: Duration,
        future: impl Future<Output = T>,
        is_held_up: impl Fn() -> bool,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut now = Instant::now();
        let mut deadline = now + patience;
        loop {
            if self.worker.stalls.is_crowded() && now - self.since >= SPAN {
                self.worker.vitals.workers[self.worker.id.0]
                    .stalled_cut
                    .add(1);
                return None;
            }
            match timer.within(deadline.min(now + SPAN), &mut future).await {
                Ok(value) => return Some(value),
                Err(Elapsed) => now = Instant::now(),
            }
            if now >= deadline && is_held_up() {
                deadline = now + SPAN;
            } else if now >= deadline {
                return None;
            }
        }
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let stalls = &self.worker.stalls;
        stalls.waiting.set(stalls.waiting.get() - 1);
    }
}
