//! How many orders a CA may be asked for: the moments at which orders began, kept in the store, counted for all load balancers.
//! Pure.

use std::time::{Duration, SystemTime};

use super::records::{self, moment, seconds};
use crate::seal::Plain;

/// Orders that began within a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) orders: usize,
    pub(super) span: Duration,
}

/// Seconds since 1970, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Begun(Vec<u64>);

impl Begun {
    pub(super) fn read(text: &[u8]) -> Result<Begun, String> {
        let mut moments: Vec<u64> = records::parse(text)?;
        moments.sort_unstable();
        Ok(Begun(moments))
    }

    pub(super) fn write(&self) -> Plain {
        Plain::new(serde_json::to_vec(&self.0).expect("numbers are json"))
    }

    /// Counts another order; or says when there is room for it.
    pub(super) fn charge(
        &mut self,
        allowance: Allowance,
        now: SystemTime,
    ) -> Result<(), SystemTime> {
        let now = seconds(now);
        let span = allowance.span.as_secs();
        // What a clock far ahead wrote would never end.
        self.0
            .retain(|at| at.saturating_add(span) > now && *at <= now + span);
        if self.0.len() >= allowance.orders {
            let frees = self.0[self.0.len() - allowance.orders];
            return Err(moment(frees + span));
        }
        let at = self.0.partition_point(|at| *at <= now);
        self.0.insert(at, now);
        Ok(())
    }

    /// Takes back an order that no CA heard of.
    pub(super) fn refund(&mut self, charged: SystemTime) {
        let charged = seconds(charged);
        if let Some(at) = self.0.iter().position(|at| *at == charged) {
            self.0.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALLOWANCE: Allowance = Allowance {
        orders: 3,
        span: Duration::from_secs(100),
    };

    fn at(second: u64) -> SystemTime {
        moment(1_800_000_000 + second)
    }

    #[test]
    fn beyond_the_allowance_it_says_when_there_is_room() {
        let mut begun = Begun::default();
        for second in [0, 10, 20] {
            assert_eq!(begun.charge(ALLOWANCE, at(second)), Ok(()));
        }
        assert_eq!(begun.charge(ALLOWANCE, at(30)), Err(at(100)));
        assert_eq!(begun.charge(ALLOWANCE, at(100)), Ok(()));
        assert_eq!(begun.charge(ALLOWANCE, at(101)), Err(at(110)));
        begun.refund(at(100));
        assert_eq!(begun.charge(ALLOWANCE, at(101)), Ok(()));
    }

    #[test]
    fn what_is_written_is_read_as_the_same_and_nothing_else_is() {
        let mut begun = Begun::default();
        assert_eq!(begun.charge(ALLOWANCE, at(0)), Ok(()));
        assert_eq!(Begun::read(&begun.write()).unwrap(), begun);
        for text in ["", "{}", "[-1]", "[\"1\"]"] {
            assert!(Begun::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_clock_that_was_far_ahead_holds_nobody_back() {
        let mut begun = Begun::default();
        for _ in 0..3 {
            assert_eq!(begun.charge(ALLOWANCE, at(100_000)), Ok(()));
        }
        assert_eq!(begun.charge(ALLOWANCE, at(0)), Ok(()));
    }

    #[test]
    fn no_number_that_somebody_wrote_is_too_large_to_count_with() {
        let text = format!("[0,{}]", u64::MAX);
        let mut begun = Begun::read(text.as_bytes()).unwrap();
        assert_eq!(begun.charge(ALLOWANCE, at(0)), Ok(()));
    }

    proptest! {
        /// Whenever orders are asked for, no span has more of them than the allowance.
        #[test]
        fn the_allowance_is_never_exceeded(steps in prop::collection::vec(0u64..60, 0..200)) {
            let mut begun = Begun::default();
            let mut allowed = Vec::new();
            let mut now = 0;
            for step in steps {
                now += step;
                match begun.charge(ALLOWANCE, at(now)) {
                    Ok(()) => allowed.push(now),
                    Err(until) => prop_assert!(until > at(now)),
                }
            }
            for (index, first) in allowed.iter().enumerate() {
                let within = allowed[index..].iter().filter(|later| **later < first + 100);
                prop_assert!(within.count() <= ALLOWANCE.orders);
            }
        }
    }
}
