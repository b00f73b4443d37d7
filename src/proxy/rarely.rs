//! Lines of the log that clients can cause: one a second of a kind, and how many had none.

use std::cell::Cell;
use std::time::{Duration, Instant};

const SPAN: Duration = Duration::from_secs(1);

/// One kind of line, of one worker.
#[derive(Debug, Default)]
pub struct Rarely {
    last: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl Rarely {
    /// Whether a line may be said now: then how many before it were not, since the last one. None is counted for the next.
    pub fn may_say(&self, now: Instant) -> Option<u64> {
        let is_too_soon = |last| now.saturating_duration_since(last) < SPAN;
        if self.last.get().is_some_and(is_too_soon) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.unsaid.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_is_said_and_the_next_says_how_many_were_not() {
        let (rarely, begin) = (Rarely::default(), Instant::now());
        let at = |millis| rarely.may_say(begin + Duration::from_millis(millis));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(999)), (None, None));
        assert_eq!(at(1000), Some(2));
        assert_eq!(at(1001), None);
        assert_eq!(at(2500), Some(1));
    }
}
