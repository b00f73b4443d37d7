//! How many requests a service has under way over all workers, and who waits for one of them to end. Hot path of services with a limit.
//!
//! The count is one atomic of the whole process, so that the limit is exact however unevenly connections fell on workers; the lock
//! behind it is taken only while somebody waits. Who waits is let in in order, by whoever ends a request. No clock: how long one waits
//! is for the caller to end, by dropping its [`Ticket`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::policy::InFlightLimit;

/// One service's requests under way; outlives snapshots.
#[derive(Debug, Default)]
pub struct Admission {
    in_flight: AtomicUsize,
    /// The queue's length: who ends a request looks into the queue only if there is one.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// By number, ascending.
    waiting: VecDeque<(u64, Waker)>,
    /// Let in, and not polled since.
    let_in: Vec<u64>,
}

impl Admission {
    /// A place at once; None: all are taken, or others wait for one.
    pub fn enter(&self, limit: &InFlightLimit) -> Option<Pass<'_>> {
        let is_free = self.waiting.load(SeqCst) == 0 && self.take(limit.most);
        is_free.then(|| Pass {
            admission: self,
            most: limit.most,
        })
    }

    /// A place at the queue's end; None: it is full.
    pub fn queue_up(&self, limit: &InFlightLimit) -> Option<Ticket<'_>> {
        let mut queue = self.queue();
        if queue.waiting.len() >= limit.queue {
            return None;
        }
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back((number, Waker::noop().clone()));
        // Said before the count is looked at again: whoever ends a request does it the other way round.
        self.waiting.store(queue.waiting.len(), SeqCst);
        self.let_in(&mut queue, limit.most);
        Some(Ticket {
            admission: self,
            most: limit.most,
            number: Some(number),
        })
    }

    /// Counts a request for which there was no place in time.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    fn take(&self, most: usize) -> bool {
        let more = |count| (count < most).then_some(count + 1);
        self.in_flight.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn leave(&self, most: usize) {
        self.in_flight.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.let_in(&mut self.queue(), most);
        }
    }

    /// Gives what is free to those who have waited longest.
    fn let_in(&self, queue: &mut Queue, most: usize) {
        while !queue.waiting.is_empty() && self.take(most) {
            if let Some((number, waker)) = queue.waiting.pop_front() {
                queue.let_in.push(number);
                waker.wake();
            }
        }
        self.waiting.store(queue.waiting.len(), SeqCst);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole at every moment.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request under way, until dropped.
#[must_use]
#[derive(Debug)]
pub struct Pass<'a> {
    admission: &'a Admission,
    most: usize,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.admission.leave(self.most);
    }
}

/// A place in the queue. Dropped, it is given up.
#[must_use]
#[derive(Debug)]
pub struct Ticket<'a> {
    admission: &'a Admission,
    most: usize,
    /// None: it was exchanged for a pass.
    number: Option<u64>,
}

impl<'a> Ticket<'a> {
    /// Ready once a request has ended and nobody is before this one. Not to be polled again then.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Pass<'a>> {
        let Some(number) = self.number else {
            return Poll::Pending;
        };
        let mut queue = self.admission.queue();
        if let Some(at) = queue.let_in.iter().position(|one| *one == number) {
            queue.let_in.swap_remove(at);
            self.number = None;
            return Poll::Ready(Pass {
                admission: self.admission,
                most: self.most,
            });
        }
        if let Ok(at) = queue.waiting.binary_search_by_key(&number, |(one, _)| *one) {
            queue.waiting[at].1.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut queue = self.admission.queue();
        if let Ok(at) = queue.waiting.binary_search_by_key(&number, |(one, _)| *one) {
            queue.waiting.remove(at);
            self.admission.waiting.store(queue.waiting.len(), SeqCst);
        } else {
            // Let in at the last moment: the next one's.
            queue.let_in.retain(|one| *one != number);
            drop(queue);
            self.admission.leave(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    fn limit(most: usize, queue: usize) -> InFlightLimit {
        InFlightLimit {
            most,
            queue,
            wait: Duration::from_secs(1),
        }
    }

    fn is_in<'a>(ticket: &mut Ticket<'a>) -> Option<Pass<'a>> {
        match ticket.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(pass) => Some(pass),
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_waits_is_let_in_in_order_and_nobody_overtakes() {
        let admission = Admission::default();
        let limit = limit(1, 2);
        let first = admission.enter(&limit).unwrap();
        assert!(admission.enter(&limit).is_none());
        let mut second = admission.queue_up(&limit).unwrap();
        let mut third = admission.queue_up(&limit).unwrap();
        assert!(admission.queue_up(&limit).is_none(), "the queue is full");
        assert!(is_in(&mut second).is_none());
        drop(first);
        assert!(admission.enter(&limit).is_none(), "the place is promised");
        assert!(is_in(&mut third).is_none());
        drop(is_in(&mut second).unwrap());
        drop(is_in(&mut third).unwrap());
        assert_eq!((admission.in_flight(), admission.waiting()), (0, 0));
    }

    #[test]
    fn who_leaves_the_queue_gives_its_place_to_the_next_even_at_the_last_moment() {
        let admission = Admission::default();
        let limit = limit(1, 3);
        let first = admission.enter(&limit).unwrap();
        let waiting = admission.queue_up(&limit).unwrap();
        let let_in = admission.queue_up(&limit).unwrap();
        let mut last = admission.queue_up(&limit).unwrap();
        drop(waiting);
        drop(first);
        drop(let_in);
        drop(is_in(&mut last).unwrap());
        assert_eq!((admission.in_flight(), admission.waiting()), (0, 0));
    }

    #[test]
    fn no_wake_is_lost_between_many_threads() {
        static LATE: AtomicBool = AtomicBool::new(false);
        let admission = Admission::default();
        let limit = limit(2, 64);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..2000 {
                        let pass = admission.enter(&limit).unwrap_or_else(|| {
                            let mut ticket = admission.queue_up(&limit).unwrap();
                            waited(&mut ticket).unwrap_or_else(|| {
                                LATE.store(true, Relaxed);
                                panic!("let in by nobody")
                            })
                        });
                        assert!(admission.in_flight() <= 2);
                        drop(pass);
                    }
                });
            }
        });
        assert!(!LATE.load(Relaxed));
        assert_eq!((admission.in_flight(), admission.waiting()), (0, 0));
    }

    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }

    /// None: nobody woke it for a minute.
    fn waited<'a>(ticket: &mut Ticket<'a>) -> Option<Pass<'a>> {
        let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
        let begun = std::time::Instant::now();
        loop {
            match ticket.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(pass) => return Some(pass),
                Poll::Pending if begun.elapsed() > Duration::from_secs(60) => return None,
                Poll::Pending => std::thread::park_timeout(Duration::from_secs(60)),
            }
        }
    }
}
