//! The end of a connection that rota ends: our direction is closed, what the client still sends is read for a moment and dropped.
//!
//! Closing with bytes unread is a reset, which may cost the client our last words (RFC 9112 section 9.6): a refusal, a GOAWAY. What is
//! dropped is not decrypted. An answer that is cut short is the opposite case: there the close *is* a reset.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::io::Io;
use super::timer::Timer;
use super::worker::Worker;

/// How long a connection that we end is read from at most.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Connections of one worker that may be read from at their end; one more is closed at once, and counted.
const MOST: usize = 1000;

/// Connections of one worker that are read from at their end.
#[derive(Debug, Default)]
pub struct Lingering(Cell<usize>);

impl Lingering {
    fn begin(&self) -> Option<Ending<'_>> {
        let count = self.0.get();
        (count < MOST).then(|| {
            self.0.set(count + 1);
            Ending(self)
        })
    }
}

/// One of them, until dropped.
#[must_use]
struct Ending<'a>(&'a Lingering);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let Ending(lingering) = self;
        lingering.0.set(lingering.0.get() - 1);
    }
}

/// Ends our direction, then reads until the client ends its own, for [`PATIENCE`] and `most` bytes of the wire.
pub async fn linger(worker: &Worker, io: &Io, timer: &Timer, most: usize) {
    let Some(_ending) = worker.lingering.begin() else {
        return worker.vitals.workers[worker.id.0].linger_skipped.add(1);
    };
    let ending = async {
        if io.shutdown().await.is_ok() {
            io.drop_unread(most).await;
        }
    };
    // Whether it ended or not: it is closed now.
    let _ = timer.within(Instant::now() + PATIENCE, ending).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_linger_do_and_each_that_ends_makes_room() {
        let lingering = Lingering::default();
        let mut held: Vec<_> = (0..MOST).map(|_| lingering.begin().unwrap()).collect();
        assert!(lingering.begin().is_none());
        held.pop();
        assert!(lingering.begin().is_some());
    }
}
