//! How fast a client has to send its body. Hot path.

use std::time::Duration;

/// Holds a client's body against `limits.body_rate`, averaged over `timeouts.body` of waiting for it.
pub struct Pace {
    window: Duration,
    bytes_a_window: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// `rate`: bytes a second; `window`: what it is averaged over, and the longest wait for a byte.
    pub fn new(window: Duration, rate: u64) -> Pace {
        Pace {
            window,
            bytes_a_window: rate.saturating_mul(window.as_secs().max(1)),
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    pub fn window(&self) -> Duration {
        self.window
    }

    /// Whether so many bytes after so long a wait are still fast enough.
    pub fn allows(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < self.window {
            return true;
        }
        let is_enough = self.bytes >= self.bytes_a_window;
        self.waited = Duration::ZERO;
        self.bytes = 0;
        is_enough
    }
}
