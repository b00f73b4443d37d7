//! Whether a worker keeps up: how late its loop comes to what is due. Asked at each accept, never on a request's way.

use std::cell::Cell;
use std::time::Duration;

/// A loop that is late so often in a row has more to do than it can. Once is a hiccup: a pause of the machine, a large table.
const IN_A_ROW: u32 = 3;

/// What a worker's last ticks say of it.
#[derive(Debug, Default)]
pub struct Lag {
    late: Cell<u32>,
    is_behind: Cell<bool>,
}

/// What a tick changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    FellBehind,
    CaughtUp,
}

impl Lag {
    /// New connections are to be refused: those that are there have more than enough.
    pub fn is_behind(&self) -> bool {
        self.is_behind.get()
    }

    /// A tick came so late. `limit`: `limits.loop_lag`; zero: no lag is too much.
    pub fn ticked(&self, late_by: Duration, limit: Duration) -> Option<Change> {
        let is_late = !limit.is_zero() && late_by >= limit;
        let late = if is_late { self.late.get() + 1 } else { 0 };
        self.late.set(late.min(IN_A_ROW));
        let was_behind = self.is_behind.get();
        // Not at once back and forth: what is half as late has room for more.
        let is_behind = match was_behind {
            true => !limit.is_zero() && late_by >= limit / 2,
            false => late >= IN_A_ROW,
        };
        self.is_behind.set(is_behind);
        match (was_behind, is_behind) {
            (false, true) => Some(Change::FellBehind),
            (true, false) => Some(Change::CaughtUp),
            (true, true) | (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    fn ticks(lag: &Lag, late_by_ms: &[u64]) -> Vec<Option<Change>> {
        let ticked = |late: &u64| lag.ticked(Duration::from_millis(*late), LIMIT);
        late_by_ms.iter().map(ticked).collect()
    }

    #[test]
    fn a_hiccup_is_not_lag_however_long_it_was() {
        let lag = Lag::default();
        let changes = ticks(&lag, &[60_000, 1, 700, 700, 0, 500, 500, 499, 9000]);
        assert_eq!(changes, [None; 9]);
        assert!(!lag.is_behind());
    }

    #[test]
    fn who_is_late_thrice_in_a_row_is_behind_until_it_is_half_as_late() {
        let lag = Lag::default();
        assert_eq!(
            ticks(&lag, &[500, 500, 500]),
            [None, None, Some(Change::FellBehind)]
        );
        assert_eq!(ticks(&lag, &[499, 250, 9000]), [None; 3]);
        assert!(lag.is_behind());
        assert_eq!(ticks(&lag, &[249, 0]), [Some(Change::CaughtUp), None]);
        assert!(!lag.is_behind());
    }

    #[test]
    fn without_a_limit_nobody_is_behind_and_lifting_it_is_catching_up() {
        let lag = Lag::default();
        ticks(&lag, &[700, 700, 700]);
        let late = Duration::from_secs(9);
        assert_eq!(lag.ticked(late, Duration::ZERO), Some(Change::CaughtUp));
        for _ in 0..9 {
            assert_eq!(lag.ticked(late, Duration::ZERO), None);
        }
    }
}
