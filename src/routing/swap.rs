//! A value that many read without a lock and one publisher replaces as a whole. The only door to arc-swap. Hot path.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use arc_swap::{ArcSwap, Guard};

#[derive(Debug)]
struct Shared<T> {
    value: ArcSwap<T>,
    /// Locked by those who wait and by the publisher, never by those who read.
    waiting: Mutex<Waiting>,
}

/// Who waits for the next value.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// The reading side: any number, on any thread.
#[derive(Debug)]
pub struct Reader<T>(Arc<Shared<T>>);

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Reader(self.0.clone())
    }
}

/// The writing side: exactly one, owned by one task. Replaced values are kept until nobody reads them, so that they are freed
/// here and never on a worker.
#[derive(Debug)]
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    retired: Vec<Arc<T>>,
}

/// A reader and its only publisher, with a first value.
pub fn channel<T>(first: T) -> (Publisher<T>, Reader<T>) {
    let shared = Arc::new(Shared {
        value: ArcSwap::from_pointee(first),
        waiting: Mutex::default(),
    });
    (
        Publisher {
            shared: shared.clone(),
            retired: Vec::new(),
        },
        Reader(shared),
    )
}

impl<T> Reader<T> {
    /// The value of this moment, borrowed: to be dropped soon, never held across a request's body.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.0.value.load()
    }

    /// The value of this moment, to keep.
    pub fn full(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    /// Waits for another value than `seen`; at once if there is one already. Values between are not seen.
    pub async fn newer(&self, seen: &Arc<T>) -> Arc<T> {
        let place = Place::new(&self.0.waiting);
        poll_fn(|cx| {
            // Before the look, so that no value slips in between.
            place.wake_by(cx);
            let present = self.full();
            match Arc::ptr_eq(&present, seen) {
                true => Poll::Pending,
                false => Poll::Ready(present),
            }
        })
        .await
    }
}

/// One who waits; nothing of it stays when it is dropped.
struct Place<'a> {
    waiting: &'a Mutex<Waiting>,
    number: u64,
}

impl<'a> Place<'a> {
    fn new(waiting: &'a Mutex<Waiting>) -> Place<'a> {
        let mut locked = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        locked.next += 1;
        let number = locked.next;
        drop(locked);
        Place { waiting, number }
    }

    fn wake_by(&self, cx: &Context<'_>) {
        let mut locked = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        locked.wakers.insert(self.number, cx.waker().clone());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut locked = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        locked.wakers.remove(&self.number);
    }
}

impl<T> Publisher<T> {
    /// Replaces the value; readers see the new one from their next load on.
    pub fn publish(&mut self, next: T) -> Arc<T> {
        let next = Arc::new(next);
        self.retired.push(self.shared.value.swap(next.clone()));
        self.wake();
        self.free_retired();
        next
    }

    pub fn current(&self) -> Arc<T> {
        self.shared.value.load_full()
    }

    /// Another reader of what is published here.
    pub fn reader(&self) -> Reader<T> {
        Reader(self.shared.clone())
    }

    /// Frees what nobody reads any more.
    pub fn free_retired(&mut self) {
        self.retired.retain(|old| Arc::strong_count(old) > 1);
    }

    fn wake(&self) {
        let waiting = &self.shared.waiting;
        let mut locked = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let wakers = std::mem::take(&mut locked.wakers);
        drop(locked);
        wakers.into_values().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn who_waits_is_woken_by_the_next_value_and_who_gave_up_leaves_nothing() {
        let (mut publisher, reader) = channel(1);
        let seen = reader.full();
        let mut cx = Context::from_waker(Waker::noop());
        let wakers = || reader.0.waiting.lock().unwrap().wakers.len();
        {
            let mut given_up = pin!(reader.newer(&seen));
            assert!(given_up.as_mut().poll(&mut cx).is_pending());
            assert!(given_up.as_mut().poll(&mut cx).is_pending());
            assert_eq!(wakers(), 1);
        }
        assert_eq!(wakers(), 0);
        let mut waits = pin!(reader.newer(&seen));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        publisher.publish(2);
        assert_eq!(wakers(), 0);
        assert_eq!(waits.as_mut().poll(&mut cx), Poll::Ready(Arc::new(2)));
    }
}
