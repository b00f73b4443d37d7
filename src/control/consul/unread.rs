//! Which services of a sweep are to be read again, and in what order: what changed before what may have. Pure: `now` is an argument.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ConsulService;

/// The server that answers a read may be behind the one that told of the change: it is asked once more after so long.
const LAGGARD: Duration = Duration::from_millis(250);
/// The watch over all checks, asked once a second at most, tells within so long what others told at once.
const ECHO: Duration = Duration::from_secs(2);

/// Why a service is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something changed there.
    Change,
    /// The watch over all checks says so: perhaps it was told before.
    AnyCheck,
    /// Perhaps something did.
    Routine,
}

/// The first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    Urgent,
    /// A change, told for the second time.
    Echo,
    /// After a [`LAGGARD`]'s answer.
    Again,
    Routine,
}

impl Urgency {
    const ALL: [Urgency; 4] = [
        Urgency::Urgent,
        Urgency::Echo,
        Urgency::Again,
        Urgency::Routine,
    ];

    /// Whether there ought to be news.
    pub(super) fn expects_news(self) -> bool {
        self <= Urgency::Echo
    }
}

#[derive(Default)]
pub(super) struct Unread {
    /// By urgency.
    lines: [Line; Urgency::ALL.len()],
    /// When each was last told to have changed.
    told: HashMap<ConsulService, Instant>,
    /// Those that wait for a laggard, the earliest first.
    later: VecDeque<(Instant, ConsulService)>,
}

/// Each once, the first first: none waits for ever because others come back.
#[derive(Default)]
struct Line {
    order: VecDeque<ConsulService>,
    there: HashSet<ConsulService>,
}

impl Line {
    fn add(&mut self, service: &ConsulService) -> bool {
        let is_new = self.there.insert(service.clone());
        if is_new {
            self.order.push_back(service.clone());
        }
        is_new
    }

    fn take(&mut self) -> Option<ConsulService> {
        let service = self.order.pop_front()?;
        self.there.remove(&service);
        Some(service)
    }
}

impl Unread {
    /// Says whether that is one more to read.
    pub(super) fn add(&mut self, service: &ConsulService, cause: Cause, now: Instant) -> bool {
        let urgency = match cause {
            Cause::Change => {
                self.told.insert(service.clone(), now);
                Urgency::Urgent
            }
            Cause::AnyCheck => match self.told.get(service) {
                Some(at) if now - *at < ECHO => Urgency::Echo,
                Some(_) | None => Urgency::Urgent,
            },
            Cause::Routine => Urgency::Routine,
        };
        self.lines[urgency as usize].add(service)
    }

    pub(super) fn take(&mut self) -> Option<(ConsulService, Urgency)> {
        let mut all = Urgency::ALL.into_iter();
        all.find_map(|urgency| Some((self.lines[urgency as usize].take()?, urgency)))
    }

    /// It is to be read again, by then from a server that has caught up.
    pub(super) fn add_later(&mut self, service: ConsulService, now: Instant) {
        self.later.push_back((now + LAGGARD, service));
    }

    /// When the next one is due that waits for a laggard.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.front().map(|(at, _)| *at)
    }

    /// Those that are due are to be read; says how many more that makes.
    pub(super) fn rouse(&mut self, now: Instant) -> usize {
        let mut more = 0;
        while let Some((_, service)) = self.later.pop_front_if(|(at, _)| *at <= now) {
            more += usize::from(self.lines[Urgency::Again as usize].add(&service));
        }
        more
    }

    /// What was told long ago is no echo any more.
    pub(super) fn forget_told(&mut self, now: Instant) {
        self.told.retain(|_, at| now - *at < ECHO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ConsulService {
        ConsulService {
            service: name.into(),
            tag: None,
            datacenter: None,
        }
    }

    fn all(unread: &mut Unread) -> Vec<(String, Urgency)> {
        let taken = std::iter::from_fn(|| unread.take());
        taken
            .map(|(service, urgency)| (service.service.to_string(), urgency))
            .collect()
    }

    #[test]
    fn what_was_told_already_waits_behind_what_is_news() {
        let (mut unread, start) = (Unread::default(), Instant::now());
        let mut add = |name, cause, after| {
            let now = start + after;
            unread.forget_told(now);
            unread.add(&service(name), cause, now)
        };
        assert!(add("rest", Cause::Routine, Duration::ZERO));
        assert!(add("a", Cause::Change, Duration::ZERO));
        assert!(!add("a", Cause::Change, Duration::ZERO), "once is enough");
        assert!(add("a", Cause::AnyCheck, ECHO / 2));
        assert!(add("b", Cause::AnyCheck, ECHO / 2));
        assert!(add("c", Cause::Change, ECHO / 2));
        let named = |name: &str, urgency| (name.to_owned(), urgency);
        let expected = [
            named("a", Urgency::Urgent),
            named("b", Urgency::Urgent),
            named("c", Urgency::Urgent),
            named("a", Urgency::Echo),
            named("rest", Urgency::Routine),
        ];
        assert_eq!(all(&mut unread), expected);
        unread.forget_told(start + ECHO);
        unread.add(&service("a"), Cause::AnyCheck, start + ECHO);
        assert_eq!(all(&mut unread), [named("a", Urgency::Urgent)]);
        unread.forget_told(start + ECHO * 2);
        assert!(unread.told.is_empty());
    }

    #[test]
    fn who_waits_for_a_laggard_is_due_once_and_before_routine() {
        let (mut unread, now) = (Unread::default(), Instant::now());
        unread.add(&service("rest"), Cause::Routine, now);
        unread.add_later(service("a"), now);
        unread.add_later(service("a"), now);
        assert_eq!(unread.next_due(), Some(now + LAGGARD));
        assert_eq!(unread.rouse(now), 0);
        assert_eq!(unread.rouse(now + LAGGARD), 1);
        assert_eq!(unread.next_due(), None);
        let urgencies: Vec<Urgency> = all(&mut unread).into_iter().map(|one| one.1).collect();
        assert_eq!(urgencies, [Urgency::Again, Urgency::Routine]);
        assert!(!Urgency::Again.expects_news());
    }
}
