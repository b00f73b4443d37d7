//! Signals, as what they ask for. They are taken on a thread of their own, so that none wakes a worker.

use std::io;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use tokio::sync::mpsc;

/// Signals that wait to be carried out; more of them make the signals' thread wait, and the kernel merges what comes then.
const WAITING: usize = 16;

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

/// All signals that rota takes, each as often as the kernel delivers it (a queue of five of a kind, instead of a mark that it came):
/// a second TERM means something else than the first. Two that the kernel has not delivered yet are one to it (POSIX).
pub struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    /// From here on they no longer end the process by themselves.
    pub fn watch() -> Result<Signals, String> {
        Signals::take().map_err(|error| format!("signals can't be watched: {error}"))
    }

    fn take() -> io::Result<Signals> {
        let mut taken = SignalsInfo::<WithRawSiginfo>::new([
            SIGTERM, SIGQUIT, SIGINT, SIGHUP, SIGUSR1, SIGUSR2,
        ])?;
        let (sender, receiver) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for info in taken.forever() {
                    if sender.blocking_send(meaning(info.si_signo)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Signals(receiver))
    }

    pub async fn next(&mut self) -> Signal {
        self.0
            .recv()
            .await
            .expect("the signals' thread ends after its receiver")
    }

    /// While draining: whether a second TERM, or INT, comes within `span`.
    pub async fn is_stopped_within(&mut self, span: Duration) -> bool {
        let stopped = async { while !matches!(self.next().await, Signal::Drain | Signal::Stop) {} };
        tokio::time::timeout(span, stopped).await.is_ok()
    }
}

fn meaning(number: i32) -> Signal {
    match number {
        SIGTERM | SIGQUIT => Signal::Drain,
        SIGINT => Signal::Stop,
        SIGHUP => Signal::Reload,
        SIGUSR1 => Signal::ReopenLogs,
        SIGUSR2 => Signal::Upgrade,
        other => unreachable!("signal {other} was never asked for"),
    }
}
