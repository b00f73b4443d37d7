//! What a load balancer counts of each service, before and while something is tried. Pure but for reading the workers' cells.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::durations::BUCKETS;
use crate::routing::canary::Canary;
use crate::routing::measured::ServiceCell;
use crate::routing::{ServiceMeasured, ServiceName, Snapshot};
use crate::telemetry::{Reason, Vitals};

/// How far back a canary's time is compared with the time before it. Of more nothing is kept.
pub const BEFORE_AT_MOST: Duration = Duration::from_secs(300);
/// Between two samples of all counters.
pub const SAMPLE_EACH: Duration = Duration::from_secs(10);
/// Services that a report has, those that the change is about first, then those with the most requests; the others count among all
/// requests alone.
pub const REPORTED_SERVICES: usize = 1000;

/// Requests that ended, and how. Sums: those of two times or places can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Counts {
    pub requests: u64,
    /// Answered with 500 or above, or not at all.
    pub failed: u64,
    /// Answered with 400 to 499.
    pub refused: u64,
    /// How many took how long.
    pub durations: [u64; BUCKETS],
}

/// Numbers that are not there are zeros.
impl From<Vec<u64>> for Counts {
    fn from(numbers: Vec<u64>) -> Counts {
        let mut numbers = numbers.into_iter();
        let mut next = || numbers.next().unwrap_or_default();
        Counts {
            requests: next(),
            failed: next(),
            refused: next(),
            durations: std::array::from_fn(|_| next()),
        }
    }
}

impl From<Counts> for Vec<u64> {
    fn from(counts: Counts) -> Vec<u64> {
        let Counts {
            requests,
            failed,
            refused,
            durations,
        } = counts;
        let mut numbers = vec![requests, failed, refused];
        numbers.extend(durations);
        let last = numbers.iter().rposition(|number| *number > 0);
        numbers.truncate(last.map_or(0, |last| last + 1));
        numbers
    }
}

impl Counts {
    fn of(measured: &ServiceMeasured) -> Counts {
        let cells = measured.cells().iter().map(Counts::of_cell);
        cells.fold(Counts::default(), Counts::and)
    }

    fn of_cell(cell: &ServiceCell) -> Counts {
        let mut counts = Counts::default();
        for (_, code, count) in cell.codes() {
            counts.requests += count;
            match code {
                0 | 500.. => counts.failed += count,
                400..500 => counts.refused += count,
                1..400 => {}
            }
        }
        for (sum, count) in counts.durations.iter_mut().zip(cell.durations()) {
            *sum += count;
        }
        counts
    }

    fn without_durations(self) -> Counts {
        Counts {
            durations: [0; BUCKETS],
            ..self
        }
    }

    pub fn and(self, more: Counts) -> Counts {
        Counts {
            requests: self.requests + more.requests,
            failed: self.failed + more.failed,
            refused: self.refused + more.refused,
            durations: std::array::from_fn(|it| self.durations[it] + more.durations[it]),
        }
    }

    /// What was counted since; all of it, where the counters began anew.
    fn since(self, before: Counts) -> Counts {
        if self.requests < before.requests {
            return self;
        }
        let took = |bucket: usize| {
            let before = before.durations[bucket];
            self.durations[bucket].saturating_sub(before)
        };
        Counts {
            requests: self.requests - before.requests,
            failed: self.failed.saturating_sub(before.failed),
            refused: self.refused.saturating_sub(before.refused),
            durations: std::array::from_fn(took),
        }
    }
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    services: BTreeMap<ServiceName, Counts>,
    /// Requests that no route had.
    unrouted: u64,
}

/// What requests without a route count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrouted {
    /// What is tried takes routes away.
    Failed,
    /// It takes none: who asks for hosts that nobody has ever had is no fault of it.
    Refused,
}

impl Unrouted {
    pub fn of(canary: &Canary) -> Unrouted {
        match canary.unroutes {
            true => Unrouted::Failed,
            false => Unrouted::Refused,
        }
    }
}

/// What was counted between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub all: Counts,
    /// Those that had requests.
    pub services: BTreeMap<ServiceName, Counts>,
}

impl Totals {
    pub fn of(table: &Snapshot, vitals: &Vitals) -> Totals {
        let services = table.services.iter();
        let workers = vitals.workers.iter();
        Totals {
            services: services
                .map(|(name, service)| (name.clone(), Counts::of(&service.measured)))
                .filter(|(_, counts)| counts.requests > 0)
                .collect(),
            unrouted: workers.map(|worker| worker.reason(Reason::NoRoute)).sum(),
        }
    }

    pub fn since(&self, before: &Totals, told: Unrouted) -> Window {
        let since = |(name, counts): (&ServiceName, &Counts)| {
            let before = before.services.get(name).copied().unwrap_or_default();
            (name.clone(), counts.since(before))
        };
        let services = self.services.iter().map(since);
        let services: BTreeMap<_, _> = services.filter(|(_, counts)| counts.requests > 0).collect();
        let unrouted = self.unrouted.saturating_sub(before.unrouted);
        let all = services.values().copied();
        // Nobody waits for them: they say nothing of durations.
        let (failed, refused) = match told {
            Unrouted::Failed => (unrouted, 0),
            Unrouted::Refused => (0, unrouted),
        };
        let all = all.fold(Counts::default(), Counts::and).and(Counts {
            requests: unrouted,
            failed,
            refused,
            ..Counts::default()
        });
        Window { all, services }
    }
}

/// Samples of the last [`BEFORE_AT_MOST`].
#[derive(Debug, Default)]
pub struct Ring(VecDeque<(Instant, Arc<Totals>)>);

impl Ring {
    /// Takes a sample, if one is due.
    pub fn note(&mut self, now: Instant, totals: &Arc<Totals>) {
        let is_early = |(at, _): &(Instant, Arc<Totals>)| now < *at + SAMPLE_EACH;
        if self.0.back().is_some_and(is_early) {
            return;
        }
        self.0.push_back((now, totals.clone()));
        // The one before the span is its beginning.
        while self
            .0
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= BEFORE_AT_MOST)
        {
            self.0.pop_front();
        }
    }

    /// The counters as they were so long ago, or as near to it as is known, rather earlier than later.
    pub fn at(&self, now: Instant, ago: Duration) -> Option<&Arc<Totals>> {
        let is_before =
            |(at, _): &&(Instant, Arc<Totals>)| now.saturating_duration_since(*at) >= ago;
        let before = self.0.iter().rev().find(is_before);
        before.or(self.0.front()).map(|(_, totals)| totals)
    }
}

/// A service's counts before, and since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub before: Counts,
    pub during: Counts,
}

/// What a load balancer says it has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The canary's.
    pub id: String,
    /// Drawn at the start of the process that counted.
    pub process: String,
    /// Another process of this name has reported before: what it counted is lost.
    pub is_second: bool,
    /// It is on its way out, as somebody wanted: this may be its last word.
    pub is_leaving: bool,
    /// It tried it, and took it off by itself: what it counts since is of what was before.
    pub is_taken_off: bool,
    /// Since it heard of the canary, by a clock that never jumps.
    pub heard_ms: u64,
    /// Moves on with each: one that stands still is nobody's any more.
    pub beat: u64,
    pub all: Pair,
    pub services: BTreeMap<ServiceName, Pair>,
}

impl Report {
    pub fn of(canary: &Canary, beat: u64, before: &Window, during: &Window) -> Report {
        let names = before.services.keys().chain(during.services.keys());
        let is_meant = |name: &ServiceName| canary.is_about(name.as_str());
        let counts = |window: &Window, name: &ServiceName| {
            let counts = window.services.get(name).copied().unwrap_or_default();
            match is_meant(name) {
                true => counts,
                // Most of a report, and written and read by everybody all the time: those of others are among all requests.
                false => counts.without_durations(),
            }
        };
        let pair = |name: &ServiceName| Pair {
            before: counts(before, name),
            during: counts(during, name),
        };
        let mut services: BTreeMap<ServiceName, Pair> =
            names.map(|name| (name.clone(), pair(name))).collect();
        if services.len() > REPORTED_SERVICES {
            let mut ranked: Vec<(ServiceName, Pair)> = services.into_iter().collect();
            ranked.sort_by_key(|(name, pair)| Reverse((is_meant(name), pair.during.requests)));
            services = ranked.into_iter().take(REPORTED_SERVICES).collect();
        }
        Report {
            id: canary.id.clone(),
            beat,
            all: Pair {
                before: before.all,
                during: during.all,
            },
            services,
            ..Report::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Method, WorkerId};

    fn busy() -> Counts {
        Counts {
            requests: 1_000_000,
            ..Counts::default()
        }
    }

    fn totals(shop: u64, unrouted: u64) -> Totals {
        let mut counts = Counts {
            requests: shop,
            failed: shop / 10,
            ..Counts::default()
        };
        counts.durations[3] = shop;
        Totals {
            services: [("shop".into(), counts)].into(),
            unrouted,
        }
    }

    #[test]
    fn what_is_counted_is_how_requests_ended_and_about_how_long_they_took() {
        let measured = ServiceMeasured::new(2);
        for (worker, code, microseconds) in
            [(0, 200, 900), (0, 404, 900), (1, 503, 900), (1, 0, 900)]
        {
            let cell = measured.of(WorkerId(worker));
            cell.record(Method::Get, code, microseconds);
        }
        let counts = Counts::of(&measured);
        assert_eq!((counts.requests, counts.failed, counts.refused), (4, 2, 1));
        assert_eq!(counts.durations[1], 4, "between 0.5 and 1 ms");
    }

    #[test]
    fn a_window_is_what_was_counted_in_it_and_counters_that_began_anew_are_no_loss() {
        let window = totals(50, 7).since(&totals(30, 2), Unrouted::Failed);
        assert_eq!(window.services[&ServiceName::from("shop")].requests, 20);
        assert_eq!((window.all.requests, window.all.failed), (25, 7));
        let window = totals(50, 7).since(&totals(30, 2), Unrouted::Refused);
        let all = window.all;
        assert_eq!((all.requests, all.failed, all.refused), (25, 2, 5));
        assert_eq!(window.all.durations[3], 20);
        let window = totals(5, 0).since(&totals(30, 0), Unrouted::Failed);
        assert_eq!(window.services[&ServiceName::from("shop")].requests, 5);
        let window = totals(5, 0).since(&totals(5, 0), Unrouted::Failed);
        assert!(window.services.is_empty());
    }

    #[test]
    fn the_time_before_is_as_long_as_is_asked_for_and_known_and_no_more_is_kept() {
        let start = Instant::now();
        let mut ring = Ring::default();
        assert!(ring.at(start, SAMPLE_EACH).is_none());
        for number in 0..200u32 {
            let totals = Arc::new(totals(u64::from(number), 0));
            ring.note(start + SAMPLE_EACH * number, &totals);
            ring.note(start + SAMPLE_EACH * number, &totals);
        }
        let now = start + SAMPLE_EACH * 199;
        assert!(ring.0.len() <= 32, "{}", ring.0.len());
        let shop = |ago| ring.at(now, ago).unwrap().services[&ServiceName::from("shop")].requests;
        assert_eq!(shop(Duration::ZERO), 199);
        assert_eq!(shop(SAMPLE_EACH * 3), 196);
        assert_eq!(shop(SAMPLE_EACH * 3 - Duration::from_secs(1)), 196);
        assert_eq!(shop(BEFORE_AT_MOST * 9), 199 - 30);
    }

    #[test]
    fn a_report_of_a_large_pod_is_no_longer_than_it_may_be() {
        let mut window = Window::default();
        for number in 0..=REPORTED_SERVICES {
            let name = ServiceName::parse(&format!("service-{number}")).unwrap();
            let durations = [100_000; BUCKETS];
            let counts = Counts {
                durations,
                ..busy()
            };
            window.services.insert(name, counts);
        }
        let canary = Canary {
            services: (0..256).map(|number| format!("service-{number}")).collect(),
            ..Canary::default()
        };
        let report = Report::of(&canary, 3, &window, &window);
        let durations = |name: &str| report.services[&ServiceName::from(name)].during.durations[0];
        assert_eq!(durations("service-255"), 100_000, "the change is about it");
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.len() < 128 * 1024, "{}", text.len());
    }

    #[test]
    fn a_report_has_so_many_services_and_what_it_says_is_read_again() {
        let mut window = Window::default();
        for number in 0..=REPORTED_SERVICES as u64 {
            let counts = Counts {
                requests: number + 1,
                ..Counts::default()
            };
            let name = format!("s{number}");
            window
                .services
                .insert(ServiceName::parse(&name).unwrap(), counts);
        }
        let canary = Canary {
            services: vec!["s1".into()],
            ..Canary::default()
        };
        let report = Report::of(&canary, 3, &Window::default(), &window);
        assert_eq!(report.services.len(), REPORTED_SERVICES);
        assert!(!report.services.contains_key("s0"), "it has the fewest");
        window.services.insert("more".into(), busy());
        let report = Report::of(&canary, 3, &Window::default(), &window);
        assert!(report.services.contains_key("s1") && !report.services.contains_key("s2"));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert!(text.len() < 128 * 1024, "{}", text.len());
    }
}
