//! Answers of one worker that wait for HTTP/2 clients: each holds memory, so the slow are cut once all or a client have too many. Hot path.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::http2::STREAMS;
use super::timer::{Elapsed, Timer};
use super::worker::Worker;
use crate::routing::Client;

/// How long one piece of an answer (16 KiB) may take to be given to its client once too many wait.
pub const SPAN: Duration = Duration::from_secs(1);

/// A worker's.
#[derive(Debug, Default)]
pub struct Stalls {
    waiting: Cell<usize>,
    /// This worker's share of `limits.stalled_answers`.
    most: Cell<usize>,
    /// Of clients that any are of.
    of_client: RefCell<HashMap<Client, usize>>,
}

/// Of [`Stalls::most`] one client may have an eighth, and what one connection can have open.
const CLIENTS: usize = 8;

impl Stalls {
    pub fn allow(&self, most: usize) {
        self.most.set(most);
    }

    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Too many wait for somebody who has some of them to be given time. `client`: None is one that stands for many.
    fn is_crowded(&self, client: Option<Client>) -> bool {
        self.waiting.get() > self.most.get() || self.of(client) > self.share()
    }

    /// So many of one client wait that no further one may: its answers would be there before the first ones are cut.
    fn is_overrun(&self, client: Option<Client>) -> bool {
        self.of(client) > 2 * self.share()
    }

    fn share(&self) -> usize {
        (self.most.get() / CLIENTS).max(STREAMS as usize)
    }

    fn of(&self, client: Option<Client>) -> usize {
        let count = |client| self.of_client.borrow().get(&client).copied();
        client.and_then(count).unwrap_or(0)
    }

    /// Those of `client` that are counted change from `before` to `now`.
    fn change(&self, client: Option<Client>, before: usize, now: usize) {
        if before == now {
            return;
        }
        self.waiting.set(self.waiting.get() - before + now);
        let Some(client) = client else {
            return;
        };
        let mut of_client = self.of_client.borrow_mut();
        let count = of_client.entry(client).or_default();
        *count = *count - before + now;
        if *count == 0 {
            of_client.remove(&client);
        }
    }
}

/// Answers that have ended for us and wait in h2 for their client, until dropped.
#[must_use]
pub struct Held {
    worker: Rc<Worker>,
    client: Option<Client>,
    count: Cell<usize>,
}

impl Held {
    /// `client`: None is one that stands for many.
    pub fn none(worker: &Rc<Worker>, client: Option<Client>) -> Held {
        Held {
            worker: worker.clone(),
            client,
            count: Cell::new(0),
        }
    }

    /// Whose they are.
    pub fn client(&self) -> Option<Client> {
        self.client
    }

    /// So many there are now.
    pub fn are(&self, count: usize) {
        let before = self.count.replace(count);
        self.worker.stalls.change(self.client, before, count);
    }

    /// There are some, and too many answers wait.
    pub fn is_too_much(&self) -> bool {
        self.count.get() > 0 && self.worker.stalls.is_crowded(self.client)
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
    client: Option<Client>,
    since: Instant,
}

impl Stall {
    /// `client`: None is one that stands for many.
    pub fn begin(worker: &Rc<Worker>, client: Option<Client>) -> Stall {
        worker.stalls.change(client, 0, 1);
        Stall {
            worker: worker.clone(),
            client,
            since: Instant::now(),
        }
    }

    /// What `future` gives; None: it did not within `patience`, unless it is the connection that holds it up, or its piece has waited
    /// for a second and too many wait, or for no time at all and its client has far too many.
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
            let stalls = &self.worker.stalls;
            let is_late = stalls.is_crowded(self.client) && now - self.since >= SPAN;
            if is_late || stalls.is_overrun(self.client) {
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
        self.worker.stalls.change(self.client, 1, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::worker::tests::worker;

    #[tokio::test]
    async fn one_client_has_an_eighth_of_what_may_wait_and_no_more_than_twice_that() {
        let worker = worker();
        let (many, other) = (
            Client::at("10.0.0.1".parse().unwrap()),
            Client::at("10.0.0.2".parse().unwrap()),
        );
        worker.stalls.allow(4096);
        let begin = |client, count| -> Vec<Stall> {
            let one = |_| Stall::begin(&worker, client);
            (0..count).map(one).collect()
        };
        let share = begin(Some(many), 512);
        assert!(!worker.stalls.is_crowded(Some(many)));
        let more = begin(Some(many), 512);
        assert!(worker.stalls.is_crowded(Some(many)) && !worker.stalls.is_overrun(Some(many)));
        let held = Held::none(&worker, Some(many));
        held.are(1);
        assert!(worker.stalls.is_overrun(Some(many)) && held.is_too_much());
        // Nobody else is in need of room, nor who stands for many.
        let others = (begin(Some(other), 1), begin(None, 2000));
        assert!(!worker.stalls.is_crowded(Some(other)) && !worker.stalls.is_crowded(None));
        drop((share, more, held, others));
        assert_eq!(worker.stalls.waiting(), 0);
        assert!(worker.stalls.of_client.borrow().is_empty());
        // Few may wait in all: a connection may still have all of its streams.
        worker.stalls.allow(16);
        let few = begin(Some(many), STREAMS as usize);
        assert!(worker.stalls.of(Some(many)) <= worker.stalls.share());
        drop(few);
    }
}
