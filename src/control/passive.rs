//! How long a server that requests found failing stays off, and when it is tried again. Pure.
//!
//! A worker ejects at once and reports it. The ejection lasts a back-off that begins at its base and doubles with each ejection
//! up to its longest, separately for refused connections and for bad answers; it begins anew once the server was well for
//! [`WELL_FOR`] times its last back-off. After a refused connection rota connects by itself first: still refused doubles the
//! back-off without a request having been risked. Bad answers end with their time: only requests can tell.

use std::time::{Duration, SystemTime};

use crate::routing::{PassiveFault, Unfit};

/// The first back-off after a refused connection, and the longest.
pub const REFUSED_BASE: Duration = Duration::from_secs(1);
pub const REFUSED_LONGEST: Duration = Duration::from_secs(60);
/// The first back-off after bad answers or timeouts, and the longest.
pub const FAILING_BASE: Duration = Duration::from_secs(10);
pub const FAILING_LONGEST: Duration = Duration::from_secs(300);
/// So many times its last back-off has a server to be well for the next one to begin at the base.
pub const WELL_FOR: u32 = 10;

/// One kind of ejection of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bench {
    base: Duration,
    longest: Duration,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Never,
    Off {
        span: Duration,
        until: SystemTime,
    },
    /// Its time is over; our own connection decides.
    Trying {
        span: Duration,
    },
    Back {
        span: Duration,
        since: SystemTime,
    },
}

impl Bench {
    pub fn refused() -> Bench {
        Bench {
            base: REFUSED_BASE,
            longest: REFUSED_LONGEST,
            state: State::Never,
        }
    }

    pub fn failing() -> Bench {
        Bench {
            base: FAILING_BASE,
            longest: FAILING_LONGEST,
            state: State::Never,
        }
    }

    pub fn is_off(&self) -> bool {
        matches!(self.state, State::Off { .. } | State::Trying { .. })
    }

    /// When it is to be tried again.
    pub fn until(&self) -> Option<SystemTime> {
        match self.state {
            State::Off { until, .. } => Some(until),
            State::Never | State::Trying { .. } | State::Back { .. } => None,
        }
    }

    /// A worker ejected it. One that is off already stays as it is.
    pub fn eject(&mut self, now: SystemTime) {
        let span = match self.state {
            State::Off { .. } | State::Trying { .. } => return,
            State::Never => self.base,
            State::Back { span, since } if now < since + span * WELL_FOR => self.doubled(span),
            State::Back { .. } => self.base,
        };
        self.off(span, now);
    }

    /// True once its time is over; from then on it is being tried.
    pub fn is_due(&mut self, now: SystemTime) -> bool {
        match self.state {
            State::Off { span, until } if until <= now => {
                self.state = State::Trying { span };
                true
            }
            State::Off { .. } | State::Never | State::Trying { .. } | State::Back { .. } => false,
        }
    }

    /// Our own connection was refused too.
    pub fn still_off(&mut self, now: SystemTime) {
        if let State::Trying { span } = self.state {
            self.off(self.doubled(span), now);
        }
    }

    /// Back on the rota; true if it was off.
    pub fn give_back(&mut self, now: SystemTime) -> bool {
        match self.state {
            State::Off { span, .. } | State::Trying { span } => {
                self.state = State::Back { span, since: now };
                true
            }
            State::Never | State::Back { .. } => false,
        }
    }

    fn off(&mut self, span: Duration, now: SystemTime) {
        self.state = State::Off {
            span,
            until: now + span,
        };
    }

    fn doubled(&self, span: Duration) -> Duration {
        (span * 2).min(self.longest)
    }
}

/// The reason code and the evidence of an ejection.
pub fn words(unfit: Unfit, fault: PassiveFault, failures: u32) -> (&'static str, String) {
    let reason = if unfit == Unfit::Refused {
        "refused"
    } else {
        "failing"
    };
    let seen = match fault {
        PassiveFault::Refused => "a connection was refused".to_owned(),
        PassiveFault::Tls => {
            "tls failed: no agreement, or a certificate that is not valid".to_owned()
        }
        PassiveFault::ConnectTimeout => "connecting took too long".to_owned(),
        PassiveFault::Timeout => "no answer within the deadline".to_owned(),
        PassiveFault::Broken => "the answer was broken off".to_owned(),
        PassiveFault::Status(code) => format!("HTTP {code}"),
    };
    let evidence = if failures > 1 {
        format!("{seen}, {failures} in a row")
    } else {
        seen
    };
    (reason, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_server_that_stays_refused_is_tried_ever_more_rarely() {
        let mut bench = Bench::refused();
        bench.eject(at(0));
        let mut spans = Vec::new();
        let mut now = at(0);
        for _ in 0..8 {
            let until = bench.until().unwrap();
            spans.push(until.duration_since(now).unwrap().as_secs());
            now = until;
            assert!(bench.is_due(now) && !bench.is_due(now), "due once");
            bench.still_off(now);
        }
        assert_eq!(spans, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn the_back_off_doubles_for_one_that_falls_again_and_begins_anew_after_it_was_well() {
        let mut bench = Bench::failing();
        bench.eject(at(0));
        assert_eq!(bench.until(), Some(at(10)));
        assert!(bench.give_back(at(10)) && !bench.give_back(at(10)));
        bench.eject(at(50));
        assert_eq!(bench.until(), Some(at(70)));
        bench.give_back(at(70));
        bench.eject(at(70 + 200));
        assert_eq!(bench.until(), Some(at(280)));
    }

    #[test]
    fn a_second_report_of_one_ejection_changes_nothing() {
        let mut bench = Bench::refused();
        bench.eject(at(0));
        bench.eject(at(1));
        assert_eq!(bench.until(), Some(at(1)));
    }
}
