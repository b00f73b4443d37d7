//! Memory that a request needs while it runs, lent by its worker: nothing is allocated in the steady state. Hot path.

use std::cell::RefCell;

use super::plan::Facts;
use super::timer::Timer;

/// What one request writes into.
#[derive(Debug, Default)]
pub struct Scratch {
    pub facts: Facts,
    /// The head for the server; kept until the answer begins, for another attempt.
    pub request: Vec<u8>,
    /// What is gathered for the client.
    pub answer: Vec<u8>,
    /// For waiting on the server, and for writing to the client meanwhile. Armed ones are lent on: re-arming costs less.
    pub server_timer: Timer,
    pub client_timer: Timer,
}

/// How many a worker keeps for later.
const KEPT: usize = 1024;
/// One that grew beyond this is not kept.
const KEPT_BYTES: usize = 64 * 1024;

/// A worker's free scratches.
#[derive(Debug, Default)]
pub struct Scratches(RefCell<Vec<Scratch>>);

impl Scratches {
    pub fn take(&self) -> Scratch {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give(&self, scratch: Scratch) {
        let mut free = self.0.borrow_mut();
        if free.len() < KEPT && scratch.request.capacity() + scratch.answer.capacity() <= KEPT_BYTES
        {
            free.push(scratch);
        }
    }
}
