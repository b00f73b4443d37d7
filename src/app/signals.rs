//! Signals, as what they ask for.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{self, SignalKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// TERM, QUIT
    Drain,
    /// INT
    Stop,
    /// HUP
    Reload,
    /// USR1
    ReopenLogs,
    /// USR2
    Upgrade,
}

/// All signals that rota takes.
pub struct Signals {
    term: unix::Signal,
    quit: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    /// From here on they no longer end the process by themselves. To be called on a tokio runtime.
    pub fn watch() -> io::Result<Signals> {
        Ok(Signals {
            term: unix::signal(SignalKind::terminate())?,
            quit: unix::signal(SignalKind::quit())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
            user1: unix::signal(SignalKind::user_defined1())?,
            user2: unix::signal(SignalKind::user_defined2())?,
        })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Drain,
            _ = self.quit.recv() => Signal::Drain,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.user1.recv() => Signal::ReopenLogs,
            _ = self.user2.recv() => Signal::Upgrade,
        }
    }

    /// While draining: whether a second TERM, or INT, comes within `span`.
    pub async fn is_stopped_within(&mut self, span: Duration) -> bool {
        let stopped = async { while !matches!(self.next().await, Signal::Drain | Signal::Stop) {} };
        tokio::time::timeout(span, stopped).await.is_ok()
    }
}
