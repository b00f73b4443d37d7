//! How a client behaves over one HTTP/2 connection: what its streams still cost, and how many it gave up.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::STREAMS;
use crate::telemetry::Reason;

/// Streams that may end because the client reset them, made us reset them (CVE-2023-44487, CVE-2025-8671) or sent no request, beyond
/// those that a server's answer or time makes up for. Past it the connection ends with ENHANCE_YOUR_CALM.
pub const ABANDONED: usize = 200;
/// One abandoned stream is forgiven so often.
const FORGIVEN_EVERY: Duration = Duration::from_millis(100);
/// Streams whose work has not ended, those the client has given up included: h2 lets it open others in their place.
const WORKING: usize = 2 * STREAMS as usize;

pub struct Conduct {
    working: Cell<usize>,
    abandoned: Cell<usize>,
    forgiven: Cell<Instant>,
}

impl Conduct {
    pub fn new(now: Instant) -> Rc<Conduct> {
        Rc::new(Conduct {
            working: Cell::new(0),
            abandoned: Cell::new(0),
            forgiven: Cell::new(now),
        })
    }

    pub fn is_idle(&self) -> bool {
        self.working.get() == 0
    }

    /// The client costs more than it lets us finish.
    pub fn is_abusive(&self) -> bool {
        self.abandoned.get() > ABANDONED || self.working.get() > WORKING
    }

    /// A stream ended so. Answers that cost no server anything make up for nothing.
    pub fn ended(&self, reason: Reason) {
        match reason {
            Reason::Answered => self.abandoned.set(self.abandoned.get().saturating_sub(1)),
            // What would end an HTTP/1 connection at once is borne here, but not for ever.
            Reason::ClientAborted | Reason::BadRequest | Reason::HeadTooLarge => {
                self.abandoned(1, Instant::now())
            }
            Reason::Redirected
            | Reason::Proven
            | Reason::NoRoute
            | Reason::NoUpstream
            | Reason::TargetTooLong
            | Reason::BodyTooLarge
            | Reason::ClientTimeout
            | Reason::MethodNotAllowed
            | Reason::NotImplemented
            | Reason::Misdirected
            | Reason::ConnectFailed
            | Reason::UpstreamBroken
            | Reason::UpstreamTimeout
            | Reason::UpstreamTruncated
            | Reason::Stopped
            | Reason::Exhausted
            | Reason::Overloaded
            | Reason::Internal => {}
        }
    }

    /// So many streams were given up, or were none.
    pub fn abandoned(&self, count: usize, now: Instant) {
        let spans = (now - self.forgiven.get()).as_millis() / FORGIVEN_EVERY.as_millis();
        let forgiven = usize::try_from(spans).unwrap_or(usize::MAX);
        if forgiven > 0 {
            self.forgiven.set(now);
        }
        self.abandoned
            .set(self.abandoned.get().saturating_sub(forgiven) + count);
    }
}

/// Counts a stream as worked on until it is dropped.
#[must_use]
pub struct Working(Rc<Conduct>);

impl Working {
    pub fn begin(conduct: &Rc<Conduct>) -> Working {
        conduct.working.set(conduct.working.get() + 1);
        Working(conduct.clone())
    }

    pub fn conduct(&self) -> &Conduct {
        &self.0
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.set(self.0.working.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_and_time_make_up_for_abandoned_streams() {
        let start = Instant::now();
        let conduct = Conduct::new(start);
        for _ in 0..ABANDONED {
            conduct.ended(Reason::ClientAborted);
        }
        assert!(!conduct.is_abusive());
        conduct.abandoned(1, start);
        assert!(conduct.is_abusive());
        conduct.ended(Reason::Answered);
        assert!(!conduct.is_abusive());
        conduct.abandoned(10, start + 10 * FORGIVEN_EVERY);
        assert!(!conduct.is_abusive());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_cost_nothing_make_up_for_no_abandoned_stream() {
        let conduct = Conduct::new(Instant::now());
        for _ in 0..=ABANDONED {
            conduct.ended(Reason::ClientAborted);
            conduct.ended(Reason::MethodNotAllowed);
            conduct.ended(Reason::NoRoute);
        }
        assert!(conduct.is_abusive());
    }

    #[tokio::test(start_paused = true)]
    async fn more_work_than_streams_can_ask_for_is_abuse() {
        let conduct = Conduct::new(Instant::now());
        let mut work: Vec<_> = (0..WORKING).map(|_| Working::begin(&conduct)).collect();
        assert!(!conduct.is_abusive());
        work.push(Working::begin(&conduct));
        assert!(conduct.is_abusive());
        drop(work);
        assert!(conduct.is_idle() && !conduct.is_abusive());
    }
}
