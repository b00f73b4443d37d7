//! How many servers may vanish from Consul's answers before it is doubted. Pure: answers, probes' findings and time go in.
//!
//! Losses are counted over a window against the most that the service had in it. Up to `max_loss` of that they are believed
//! at once. Past it, when the answer is empty, or while something speaks against Consul as a whole, all of the window's losses are
//! doubted: those already taken off come back, until they are in an answer again, a consistent re-read lacks them and a probe
//! finds them failing (where the answer is empty: the probe alone), an operator accepts it, or (as long as the answer is not
//! empty) the deadline passes. Who was asked to leave is no loss.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use crate::config::Guard as Policy;

/// What of the service is believed, and what is missing. `V` is what has to be known of a server to bring it back.
#[derive(Clone, Debug)]
pub struct Guard<K, V> {
    present: BTreeMap<K, V>,
    losses: BTreeMap<K, Loss<V>>,
    /// How many servers answers held, each from its time to the next one's.
    sizes: VecDeque<(SystemTime, usize)>,
    /// Since when the answer is not empty any more: what an empty one took has its deadline from then on.
    partial_since: Option<SystemTime>,
    /// Why what is doubted is; the most telling of what was found since the first doubt.
    cause: Option<Cause>,
}

#[derive(Clone, Debug)]
struct Loss<V> {
    at: SystemTime,
    doubted_since: Option<SystemTime>,
    /// Whether a consistent re-read was asked for, and has said that it is gone.
    is_asked: bool,
    is_confirmed: bool,
    server: V,
}

/// Why losses are doubted; what tells more comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// More than `max_loss` of the service within the window.
    Many,
    /// All of them.
    Empty,
    /// More than `max_loss` of all services' servers.
    PodWide,
    /// Consul's index went back, or the pod's id is missing where it was.
    StateLost,
    /// The token may not read the service.
    Hidden,
}

impl Cause {
    /// A stable code.
    pub fn reason(self) -> &'static str {
        match self {
            Cause::Many => "many_lost",
            Cause::Empty => "all_lost",
            Cause::PodWide => "many_lost_pod_wide",
            Cause::StateLost => "consul_state_lost",
            Cause::Hidden => "hidden_by_acl",
        }
    }

    /// For people.
    pub fn evidence(self) -> &'static str {
        match self {
            Cause::Many => {
                "more of the service's servers than guard.max_loss vanished within guard.window"
            }
            Cause::Empty => "consul names none of the service's servers any more",
            Cause::PodWide => {
                "more of all services' servers than guard.max_loss vanished within guard.window"
            }
            Cause::StateLost => "consul has lost its state, or an older one was restored",
            Cause::Hidden => "the token may not read the service any more",
        }
    }
}

/// What speaks against Consul's answers as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alarm {
    #[default]
    None,
    /// Too much vanished, over all services.
    ManyLost,
    /// The pod's id is missing where it was.
    StateLost,
}

impl Alarm {
    fn cause(self) -> Option<Cause> {
        match self {
            Alarm::None => None,
            Alarm::ManyLost => Some(Cause::PodWide),
            Alarm::StateLost => Some(Cause::StateLost),
        }
    }
}

/// What an answer is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub policy: &'a Policy,
    pub alarm: Alarm,
    pub now: SystemTime,
}

impl<K, V> Default for Guard<K, V> {
    fn default() -> Self {
        Guard {
            present: BTreeMap::new(),
            losses: BTreeMap::new(),
            sizes: VecDeque::new(),
            partial_since: None,
            cause: None,
        }
    }
}

impl<K: Ord + Clone, V: Clone> Guard<K, V> {
    /// Takes an answer whole; who is missing from it and was asked to leave is not missed.
    pub fn observe(
        &mut self,
        answer: BTreeMap<K, V>,
        was_asked_to_leave: impl Fn(&K, &V) -> bool,
        terms: Terms<'_>,
    ) {
        let Terms { policy, now, .. } = terms;
        self.expire(policy, now);
        let before = std::mem::replace(&mut self.present, answer);
        if before.is_empty() && !self.present.is_empty() {
            self.partial_since = Some(now);
        }
        for (key, server) in before {
            if !self.present.contains_key(&key) && !was_asked_to_leave(&key, &server) {
                let loss = Loss {
                    at: now,
                    doubted_since: None,
                    is_asked: false,
                    is_confirmed: false,
                    server,
                };
                self.losses.insert(key, loss);
            }
        }
        self.losses.retain(|key, _| !self.present.contains_key(key));
        if self.sizes.back().map(|&(_, size)| size) != Some(self.present.len()) {
            self.sizes.push_back((now, self.present.len()));
        }
        self.judge(terms);
    }

    /// Doubts all of the window's losses if they are too much, or while there is an alarm.
    pub fn judge(&mut self, terms: Terms<'_>) {
        let Some(cause) = self.reason_to_doubt(terms) else {
            return self.forget_cause();
        };
        for loss in self.losses.values_mut() {
            loss.doubted_since.get_or_insert(terms.now);
        }
        self.blame(cause);
    }

    /// What was found out about why they vanished.
    pub fn blame(&mut self, cause: Cause) {
        if self.doubted().next().is_some() {
            self.cause = self.cause.max(Some(cause));
        }
    }

    /// Why what is doubted is.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Whether the leader is to be asked about a loss that it was not yet asked about; it is taken for asked from now on.
    pub fn wants_reread(&mut self) -> bool {
        let mut wants = false;
        for loss in self.losses.values_mut() {
            wants |= loss.doubted_since.is_some() && !loss.is_asked;
            loss.is_asked = loss.doubted_since.is_some();
        }
        wants
    }

    /// A consistent answer lacks all that the last answer lacks.
    pub fn confirm(&mut self) {
        for loss in self.losses.values_mut() {
            loss.is_confirmed = true;
        }
    }

    /// Whether a failing probe is enough to believe that it is gone.
    pub fn is_settled_by_probe(&self, key: &K) -> bool {
        let loss = self.losses.get(key);
        self.present.is_empty() || loss.is_some_and(|loss| loss.is_confirmed)
    }

    /// Consul was right about it, or an operator says so.
    pub fn settle(&mut self, key: &K) {
        self.losses.remove(key);
        self.forget_cause();
    }

    fn forget_cause(&mut self) {
        if self.doubted().next().is_none() {
            self.cause = None;
        }
    }

    /// Losses that count now, doubted or not, against the most that the window had.
    pub fn toll(&self, policy: &Policy, now: SystemTime) -> (usize, usize) {
        let counts =
            |loss: &&Loss<V>| loss.doubted_since.is_some() || !is_past(loss.at, policy.window, now);
        let lost = self.losses.values().filter(counts).count();
        (lost, self.peak(policy, now))
    }

    /// Those that are missing and count, doubted or not.
    pub fn lost(&self) -> impl Iterator<Item = (&K, &V)> {
        self.losses.iter().map(|(key, loss)| (key, &loss.server))
    }

    /// Forgets losses that left the window, and partial ones doubted past the deadline.
    pub fn expire(&mut self, policy: &Policy, now: SystemTime) {
        let is_partial = !self.present.is_empty();
        let partial_since = self.partial_since;
        self.losses.retain(|_, loss| match loss.doubted_since {
            None => !is_past(loss.at, policy.window, now),
            Some(since) => {
                let since = partial_since.map_or(since, |partial| partial.max(since));
                !(is_partial && is_past(since, policy.deadline, now))
            }
        });
        self.forget_cause();
        // The first size is the one in force when the window began.
        while self.sizes.len() > 1 && is_past(self.sizes[1].0, policy.window, now) {
            self.sizes.pop_front();
        }
    }

    /// When [`Guard::expire`] may have something to do next.
    pub fn next_expiry(&self, policy: &Policy) -> Option<SystemTime> {
        let is_partial = !self.present.is_empty();
        // Then the most that the window had may be less, and the losses in it too many.
        let shrinks = self.sizes.get(1).map(|(at, _)| *at);
        let shrinks = shrinks.and_then(|at| at.checked_add(policy.window));
        self.losses
            .values()
            .filter_map(|loss| match loss.doubted_since {
                None => loss.at.checked_add(policy.window),
                Some(since) if is_partial => {
                    let partial = self.partial_since.unwrap_or(since);
                    since.max(partial).checked_add(policy.deadline)
                }
                Some(_) => None,
            })
            .chain(shrinks)
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

    fn reason_to_doubt(&self, terms: Terms<'_>) -> Option<Cause> {
        let losses = self.losses.len();
        if losses == 0 {
            return None;
        }
        let most = self.peak(terms.policy, terms.now) as f64 * terms.policy.max_loss;
        let own = if self.present.is_empty() {
            Some(Cause::Empty)
        } else {
            (losses as f64 > most).then_some(Cause::Many)
        };
        own.max(terms.alarm.cause())
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
    use std::collections::BTreeSet;
    use std::time::Duration;

    type Small = Guard<u8, ()>;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn terms(policy: &Policy, seconds: u64) -> Terms<'_> {
        Terms {
            policy,
            alarm: Alarm::None,
            now: at(seconds),
        }
    }

    fn nobody(_: &u8, (): &()) -> bool {
        false
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
        guard.observe(answer(0..4), nobody, terms(&policy, 0));
        guard.observe(answer(0..2), nobody, terms(&policy, 1));
        assert!(doubted(&guard).is_empty());
    }

    #[test]
    fn losses_past_half_bring_back_all_of_the_windows_losses() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer(0..4), nobody, terms(&policy, 0));
        guard.observe(answer(0..2), nobody, terms(&policy, 30));
        guard.observe(answer(0..1), nobody, terms(&policy, 59));
        assert_eq!(doubted(&guard), [1, 2, 3]);
    }

    #[test]
    fn losses_spread_wider_than_the_window_are_believed() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer(0..4), nobody, terms(&policy, 0));
        for (step, left) in [(1, 3), (2, 2), (3, 1)] {
            guard.observe(answer(0..left), nobody, terms(&policy, step * 100));
            assert!(doubted(&guard).is_empty(), "{left} left");
        }
    }

    #[test]
    fn an_empty_answer_is_settled_by_failing_probes_alone() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer([7]), nobody, terms(&policy, 0));
        guard.observe(answer([]), nobody, terms(&policy, 1));
        guard.expire(&policy, at(1_000_000));
        assert_eq!(doubted(&guard), [7]);
        guard.settle(&7);
        guard.observe(answer([]), nobody, terms(&policy, 1_000_001));
        assert!(doubted(&guard).is_empty());
    }

    #[test]
    fn partial_losses_are_believed_past_the_deadline() {
        let (mut guard, policy) = (Small::default(), Policy::default());
        guard.observe(answer(0..5), nobody, terms(&policy, 0));
        guard.observe(answer(0..1), nobody, terms(&policy, 1));
        assert_eq!(guard.next_expiry(&policy), Some(at(61)), "the window");
        guard.expire(&policy, at(600));
        assert_eq!(guard.next_expiry(&policy), Some(at(601)));
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
                guard.observe(answer(keys.clone()), nobody, terms(&policy, now));
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
