//! How many servers may vanish from Consul's answers before it is doubted. Pure: answers, probes' findings and time go in.
//!
//! Losses are counted over a window against the most that the service had in it. Up to `max_loss` of that they are believed
//! at once. Past it, or when the answer is empty, all of the window's losses are doubted: those already taken off come back,
//! until a probe finds them failing, they are in an answer again, or (as long as the answer is not empty) the deadline passes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::SystemTime;

use crate::config::Guard as Policy;

/// What of the service is believed, and what is missing. `V` is what has to be known of a server to bring it back.
#[derive(Clone, Debug)]
pub struct Guard<K, V> {
    present: BTreeMap<K, V>,
    losses: BTreeMap<K, Loss<V>>,
    /// How many servers answers held, each from its time to the next one's.
    sizes: VecDeque<(SystemTime, usize)>,
}

#[derive(Clone, Debug)]
struct Loss<V> {
    at: SystemTime,
    doubted_since: Option<SystemTime>,
    server: V,
}

impl<K, V> Default for Guard<K, V> {
    fn default() -> Self {
        Guard {
            present: BTreeMap::new(),
            losses: BTreeMap::new(),
            sizes: VecDeque::new(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Guard<K, V> {
    /// Takes an answer whole.
    pub fn observe(&mut self, answer: BTreeMap<K, V>, policy: &Policy, now: SystemTime) {
        self.expire(policy, now);
        let before = std::mem::replace(&mut self.present, answer);
        for (key, server) in before {
            if !self.present.contains_key(&key) {
                self.losses.insert(
                    key,
                    Loss {
                        at: now,
                        doubted_since: None,
                        server,
                    },
                );
            }
        }
        self.losses.retain(|key, _| !self.present.contains_key(key));
        if self.sizes.back().map(|&(_, size)| size) != Some(self.present.len()) {
            self.sizes.push_back((now, self.present.len()));
        }
        if self.is_too_much(policy, now) {
            for loss in self.losses.values_mut() {
                loss.doubted_since.get_or_insert(now);
            }
        }
    }

    /// A probe found a doubted server failing: Consul was right about it.
    pub fn settle(&mut self, key: &K) {
        self.losses.remove(key);
    }

    /// Forgets losses that left the window, and partial ones doubted past the deadline.
    pub fn expire(&mut self, policy: &Policy, now: SystemTime) {
        let is_partial = !self.present.is_empty();
        self.losses.retain(|_, loss| match loss.doubted_since {
            None => !is_past(loss.at, policy.window, now),
            Some(since) => !(is_partial && is_past(since, policy.deadline, now)),
        });
        // The first size is the one in force when the window began.
        while self.sizes.len() > 1 && is_past(self.sizes[1].0, policy.window, now) {
            self.sizes.pop_front();
        }
    }

    /// When [`Guard::expire`] may have something to do next.
    pub fn next_expiry(&self, policy: &Policy) -> Option<SystemTime> {
        let is_partial = !self.present.is_empty();
        self.losses
            .values()
            .filter_map(|loss| match loss.doubted_since {
                None => Some(loss.at + policy.window),
                Some(since) => is_partial.then(|| since + policy.deadline),
            })
            .min()
    }

    /// Servers of the newest answer.
    pub fn present(&self) -> &BTreeMap<K, V> {
        &self.present
    }

    /// Servers that are in no answer any more and stay nevertheless.
    pub fn doubted(&self) -> impl Iterator<Item = (&K, &V)> {
        self.losses
            .iter()
            .filter(|(_, loss)| loss.doubted_since.is_some())
            .map(|(key, loss)| (key, &loss.server))
    }

    pub fn doubted_keys(&self) -> BTreeSet<K> {
        self.doubted().map(|(key, _)| key.clone()).collect()
    }

    fn is_too_much(&self, policy: &Policy, now: SystemTime) -> bool {
        let losses = self.losses.len();
        if losses == 0 {
            return false;
        }
        self.present.is_empty() || losses as f64 > self.peak(policy, now) as f64 * policy.max_loss
    }

    /// The most that the service had in the window.
    fn peak(&self, policy: &Policy, now: SystemTime) -> usize {
        let in_window = |index: usize| {
            index + 1 >= self.sizes.len() || !is_past(self.sizes[index + 1].0, policy.window, now)
        };
        (0..self.sizes.len())
            .filter(|&index| in_window(index))
            .map(|index| self.sizes[index].1)
            .max()
            .unwrap_or(0)
    }
}

fn is_past(from: SystemTime, span: std::time::Duration, now: SystemTime) -> bool {
    now.duration_since(from).is_ok_and(|age| age >= span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    type Small = Guard<u8, ()>;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn answer(keys: impl IntoIterator<Item = u8>) -> BTreeMap<u8, ()> {
        keys.into_iter().map(|key| (key, ())).collect()
    }

    fn doubted(guard: &Small) -> Vec<u8> {
        guard.doubted().map(|(key, ())| *key).collect()
    }

    #[test]
    fn losses_up_to_half_are_believed_at_once() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer(0..4), &policy, at(0));
        guard.observe(answer(0..2), &policy, at(1));
        assert!(doubted(&guard).is_empty());
    }

    #[test]
    fn losses_past_half_bring_back_all_of_the_windows_losses() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer(0..4), &policy, at(0));
        guard.observe(answer(0..2), &policy, at(30));
        guard.observe(answer(0..1), &policy, at(59));
        assert_eq!(doubted(&guard), [1, 2, 3]);
    }

    #[test]
    fn losses_spread_wider_than_the_window_are_believed() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer(0..4), &policy, at(0));
        for (step, left) in [(1, 3), (2, 2), (3, 1)] {
            guard.observe(answer(0..left), &policy, at(step * 100));
            assert!(doubted(&guard).is_empty(), "{left} left");
        }
    }

    #[test]
    fn an_empty_answer_is_settled_by_failing_probes_alone() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer([7]), &policy, at(0));
        guard.observe(answer([]), &policy, at(1));
        guard.expire(&policy, at(1_000_000));
        assert_eq!(doubted(&guard), [7]);
        guard.settle(&7);
        guard.observe(answer([]), &policy, at(1_000_001));
        assert!(doubted(&guard).is_empty());
    }

    #[test]
    fn partial_losses_are_believed_past_the_deadline() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer(0..5), &policy, at(0));
        guard.observe(answer(0..1), &policy, at(1));
        assert_eq!(guard.next_expiry(&policy), Some(at(601)));
        guard.expire(&policy, at(600));
        assert_eq!(doubted(&guard), [1, 2, 3, 4]);
        guard.expire(&policy, at(601));
        assert!(doubted(&guard).is_empty());
    }

    proptest! {
        /// Whatever Consul answers: nobody is both present and doubted, an empty answer takes nobody, and what an answer took
        /// without doubt within the window is at most half of the most there was.
        #[test]
        fn no_history_of_answers_takes_more_than_half_unseen(
            steps in proptest::collection::vec((0u64..40, any::<u8>()), 1..40)
        ) {
            let (mut guard, policy) = (Small::default(), Policy::default());
            let mut now = 0;
            let mut history: Vec<(u64, usize)> = Vec::new();
            for (pause, mask) in steps {
                now += pause;
                let keys: Vec<u8> = (0..8).filter(|bit| mask & (1 << bit) != 0).collect();
                let before: BTreeSet<u8> =
                    guard.present().keys().copied().chain(doubted(&guard)).collect();
                guard.observe(answer(keys.clone()), &policy, at(now));
                history.push((now, keys.len()));
                let kept = doubted(&guard);
                prop_assert!(kept.iter().all(|key| !keys.contains(key)));
                if keys.is_empty() {
                    prop_assert!(before.iter().all(|key| kept.contains(key)), "an empty answer took a server");
                }
                let start = history.iter().rposition(|&(when, _)| when + 60 <= now).unwrap_or(0);
                let peak = history[start..].iter().map(|&(_, size)| size).max().unwrap_or(0);
                let unseen = guard.losses.values().filter(|loss| loss.doubted_since.is_none()).count();
                prop_assert!(unseen * 2 <= peak.max(1), "{unseen} of {peak}");
            }
        }
    }
}
