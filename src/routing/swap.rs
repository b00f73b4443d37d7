//! A value that many read without a lock and one publisher replaces as a whole. The only door to arc-swap. Hot path.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// The reading side: any number, on any thread.
#[derive(Debug)]
pub struct Reader<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Reader(self.0.clone())
    }
}

/// The writing side: exactly one, owned by one task. Replaced values are kept until nobody reads them, so that they are freed
/// here and never on a worker.
#[derive(Debug)]
pub struct Publisher<T> {
    shared: Arc<ArcSwap<T>>,
    retired: Vec<Arc<T>>,
}

/// A reader and its only publisher, with a first value.
pub fn channel<T>(first: T) -> (Publisher<T>, Reader<T>) {
    let shared = Arc::new(ArcSwap::from_pointee(first));
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
        self.0.load()
    }

    /// The value of this moment, to keep.
    pub fn full(&self) -> Arc<T> {
        self.0.load_full()
    }
}

impl<T> Publisher<T> {
    /// Replaces the value; readers see the new one from their next load on.
    pub fn publish(&mut self, next: T) -> Arc<T> {
        let next = Arc::new(next);
        self.retired.push(self.shared.swap(next.clone()));
        self.free_retired();
        next
    }

    pub fn current(&self) -> Arc<T> {
        self.shared.load_full()
    }

    /// Frees what nobody reads any more.
    pub fn free_retired(&mut self) {
        self.retired.retain(|old| Arc::strong_count(old) > 1);
    }
}
