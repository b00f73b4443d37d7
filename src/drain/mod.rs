//! The LB's own way out: from serving to stopped, announced to everyone who has to know.

use tokio::sync::watch;

/// How far the LB is on its way out; only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Readiness is false, connections are still accepted (`timeouts.drain_delay`).
    Announced,
    /// Nothing is accepted, what is in flight is finished (`timeouts.drain`): `Connection: close`, GOAWAY.
    Draining,
    /// What is left is cut.
    Stopped,
}

/// Moves the phase on; held by the app alone.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// Sees the phase; cloned to whoever has to act on it.
#[derive(Clone, Debug)]
pub struct Gate(watch::Receiver<Phase>);

pub fn channel() -> (Drain, Gate) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Drain(sender), Gate(receiver))
}

impl Drain {
    /// Goes on to `phase`; a phase already passed stays.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let moves = phase > *current;
            *current = phase.max(*current);
            moves
        });
    }
}

impl Gate {
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Ends when the phase is `phase` or later; also when the app is gone.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}
