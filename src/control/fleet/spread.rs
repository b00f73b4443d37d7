//! Something that all load balancers of a pod have in the end: who still has another, and since when. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Values that this load balancer had before the present one; the oldest go.
const REMEMBERED: usize = 256;

/// One value of this load balancer's, followed over time, with what others say they have of it.
#[derive(Debug)]
pub struct Spread<T> {
    present: Option<T>,
    /// Each with the moment at which another took its place; the newest last.
    before: VecDeque<(T, Instant)>,
    /// Who has what was never here, since when.
    strangers: BTreeMap<String, Instant>,
}

impl<T> Default for Spread<T> {
    fn default() -> Self {
        Spread {
            present: None,
            before: VecDeque::new(),
            strangers: BTreeMap::new(),
        }
    }
}

impl<T: Copy + Eq> Spread<T> {
    /// What this load balancer has now.
    pub fn take(&mut self, value: T, now: Instant) {
        if self.present == Some(value) {
            return;
        }
        if let Some(before) = self.present.replace(value) {
            self.before.push_back((before, now));
        }
        if self.before.len() > REMEMBERED {
            self.before.pop_front();
        }
    }

    /// Since when another load balancer has not had what this one has; None: it has the same.
    ///
    /// What was here until a while ago is only late since then, so that a table in constant change is no difference.
    pub fn differs_since(&mut self, node: &str, value: T, now: Instant) -> Option<Instant> {
        if self.present.is_none_or(|present| present == value) {
            self.strangers.remove(node);
            return None;
        }
        let known = self
            .before
            .iter()
            .rev()
            .find(|(before, _)| *before == value);
        match known {
            Some((_, until)) => {
                self.strangers.remove(node);
                Some(*until)
            }
            None => Some(*self.strangers.entry(node.to_owned()).or_insert(now)),
        }
    }

    /// Nobody asks about it any more.
    pub fn forget(&mut self, node: &str) {
        self.strangers.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_has_what_was_here_is_late_since_it_was_replaced() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut spread = Spread::default();
        assert_eq!(
            spread.differs_since("lb", 1, at(0)),
            None,
            "nothing is known here"
        );
        spread.take(1, at(0));
        spread.take(2, at(10));
        spread.take(2, at(12));
        assert_eq!(spread.differs_since("lb", 1, at(30)), Some(at(10)));
        assert_eq!(spread.differs_since("lb", 2, at(31)), None);
    }

    #[test]
    fn who_has_what_was_never_here_differs_since_it_was_first_said() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut spread = Spread::default();
        spread.take(1, at(0));
        assert_eq!(spread.differs_since("lb", 9, at(5)), Some(at(5)));
        assert_eq!(
            spread.differs_since("lb", 8, at(9)),
            Some(at(5)),
            "another stranger"
        );
        spread.take(8, at(10));
        assert_eq!(spread.differs_since("lb", 8, at(11)), None);
        assert_eq!(spread.differs_since("lb", 7, at(12)), Some(at(12)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut spread = Spread::default();
        (0..10_000).for_each(|value| spread.take(value, now));
        assert_eq!(spread.before.len(), REMEMBERED);
    }
}
