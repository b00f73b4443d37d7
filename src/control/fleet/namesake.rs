//! Whether another process reports under this one's name: found by what comes to stand where this one's report stood. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A namesake that has not been heard of for so long has gone.
pub const NAMESAKE_KEPT: Duration = Duration::from_secs(75);
/// Processes of this name whose last report is remembered.
const REMEMBERED: usize = 16;

#[derive(Debug)]
pub struct Namesake {
    own: String,
    was_seen: bool,
    /// The last report of each other process, by its number.
    others: BTreeMap<String, u64>,
    heard: Option<Instant>,
}

impl Namesake {
    /// `own` is this process, as its reports name it.
    pub fn new(own: &str) -> Namesake {
        Namesake {
            own: own.to_owned(),
            was_seen: false,
            others: BTreeMap::new(),
            heard: None,
        }
    }

    /// Sees who reported last under this name; true: this process.
    ///
    /// What stood there before this one's first report is of a process that ended, unless it goes on.
    pub fn see(&mut self, process: &str, number: u64, now: Instant) -> bool {
        if process == self.own {
            self.was_seen = true;
            return true;
        }
        let known = self.others.get(process).copied();
        let is_new = known.is_none_or(|known| known < number);
        if is_new && (self.was_seen || known.is_some()) {
            self.heard = Some(now);
        }
        if known.is_some() || self.others.len() < REMEMBERED {
            self.others
                .insert(process.to_owned(), number.max(known.unwrap_or(0)));
        }
        false
    }

    pub fn is_there(&self, now: Instant) -> bool {
        self.heard.is_some_and(|at| now - at < NAMESAKE_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_before_is_no_namesake() {
        let now = Instant::now();
        let mut namesake = Namesake::new("b");
        assert!(!namesake.see("a", 9, now));
        assert!(namesake.see("b", 1, now));
        // A server that is behind says again what was.
        assert!(!namesake.see("a", 9, now));
        assert!(!namesake.is_there(now));
    }

    #[test]
    fn a_process_that_goes_on_reporting_is_one_for_a_while() {
        let now = Instant::now();
        let mut namesake = Namesake::new("b");
        namesake.see("a", 9, now);
        namesake.see("b", 1, now);
        namesake.see("a", 10, now);
        assert!(namesake.is_there(now));
        assert!(!namesake.is_there(now + NAMESAKE_KEPT));
    }

    #[test]
    fn one_that_comes_later_is_found_by_both() {
        let now = Instant::now();
        let mut older = Namesake::new("a");
        older.see("a", 1, now);
        older.see("b", 1, now);
        assert!(older.is_there(now));
    }
}
