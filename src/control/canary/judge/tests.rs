//! What is a change for the worse, and what only looks like one.

use proptest::prelude::*;

use super::*;
use crate::routing::measured::DURATION_BOUNDS_US;

/// Of so many requests this share fails, and each takes so long.
fn counts(requests: u64, failed: f64, milliseconds: f64) -> Counts {
    let mut bounds = DURATION_BOUNDS_US.iter();
    let bucket = bounds.position(|&bound| milliseconds * 1000.0 <= bound as f64);
    let mut counts = Counts {
        requests,
        failed: (requests as f64 * failed) as u64,
        ..Counts::default()
    };
    counts.durations[bucket.unwrap_or(BUCKETS - 1)] = requests;
    counts
}

fn usual(requests: u64) -> Counts {
    counts(requests, 0.001, 10.0)
}

fn pair(before: Counts, during: Counts) -> Pair {
    Pair { before, during }
}

/// A pod whose first load balancer tries a change of `shop`.
struct Pod {
    canary: Canary,
    reports: BTreeMap<String, Report>,
}

impl Pod {
    fn new() -> Pod {
        Pod {
            canary: Canary {
                id: "one".into(),
                nodes: vec!["lb-1".into()],
                // By a clock that nobody else has.
                begun_ms: 7_000_000,
                until_ms: 7_300_000,
                services: vec!["shop".into()],
                ..Canary::default()
            },
            reports: BTreeMap::new(),
        }
    }

    fn with(mut self, node: &str, service: &str, pair: Pair) -> Pod {
        let report = self.reports.entry(node.into()).or_default();
        report.all.before = report.all.before.and(pair.before);
        report.all.during = report.all.during.and(pair.during);
        report.services.insert(service.into(), pair);
        self
    }

    fn shop(self, node: &str, before: Counts, during: Counts) -> Pod {
        self.with(node, "shop", pair(before, during))
    }

    fn at(&self, seconds: u64) -> Verdict {
        let heard = Duration::from_secs(seconds);
        judge(&self.canary, &self.reports, heard).verdict
    }

    #[track_caller]
    fn is_rolled_back(&self, seconds: u64, words: &[&str]) {
        match self.at(seconds) {
            Verdict::RollBack(why) => {
                for word in words {
                    assert!(why.contains(word), "{word}: {why}");
                }
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn is_promoted(&self) {
        assert_eq!(self.at(299), Verdict::Wait);
        assert_eq!(
            self.at(300),
            Verdict::Promote("no worse: service shop".into())
        );
    }
}

#[test]
fn a_service_that_fails_is_rolled_back_at_once_and_named() {
    let pod = Pod::new()
        .shop("lb-1", usual(5000), counts(100, 1.0, 1.0))
        .shop("lb-2", usual(5000), usual(100));
    pod.is_rolled_back(
        2,
        &[
            "service shop on lb-1",
            "100.0 % of 100 requests failed",
            "0.0 % were to be expected",
        ],
    );
    let pod = Pod::new()
        .shop("lb-1", usual(5000), counts(3000, 0.05, 10.0))
        .shop("lb-2", usual(5000), usual(3000));
    pod.is_rolled_back(60, &["service shop", "5.0 %"]);
}

#[test]
fn what_is_overdue_for_one_of_them_is_promoted_by_nobody_who_began_to_judge_later() {
    let mut pod =
        Pod::new()
            .shop("lb-1", usual(5000), usual(5000))
            .shop("lb-2", usual(5000), usual(5000));
    let heard = |seconds: u64| Duration::from_secs(seconds).as_millis() as u64;
    pod.reports.get_mut("lb-1").unwrap().heard_ms = heard(329);
    assert!(matches!(pod.at(0), Verdict::Promote(_)));
    pod.reports.get_mut("lb-1").unwrap().heard_ms = heard(330);
    pod.is_rolled_back(0, &["nobody could judge it in time"]);
}

#[test]
fn what_was_taken_off_meanwhile_is_no_evidence() {
    let mut pod =
        Pod::new()
            .shop("lb-1", usual(5000), usual(5000))
            .shop("lb-2", usual(5000), usual(5000));
    pod.reports.get_mut("lb-1").unwrap().is_taken_off = true;
    pod.is_rolled_back(300, &["taken off on lb-1"]);
}

#[test]
fn what_is_no_worse_is_promoted_at_its_end_and_not_before() {
    let pod =
        Pod::new()
            .shop("lb-1", usual(5000), usual(5000))
            .shop("lb-2", usual(5000), usual(5000));
    pod.is_promoted();
    let better = Pod::new()
        .shop("lb-1", counts(5000, 0.3, 100.0), counts(5000, 0.0, 1.0))
        .shop("lb-2", usual(5000), usual(5000));
    better.is_promoted();
}

#[test]
fn everybody_getting_worse_is_nobodys_fault() {
    Pod::new()
        .shop("lb-1", usual(5000), counts(5000, 0.4, 500.0))
        .shop("lb-2", usual(5000), counts(5000, 0.4, 500.0))
        .shop("lb-3", usual(900), counts(2000, 0.4, 500.0))
        .is_promoted();
    let pod = Pod::new()
        .shop("lb-1", usual(5000), counts(5000, 0.8, 10.0))
        .shop("lb-2", usual(5000), counts(5000, 0.4, 10.0));
    pod.is_rolled_back(10, &["80.0 %", "40.0 % were to be expected"]);
}

#[test]
fn a_large_nat_behind_one_load_balancer_is_no_change_there_or_elsewhere() {
    Pod::new()
        .shop("lb-1", usual(1000), usual(90_000))
        .shop("lb-2", usual(50_000), usual(200))
        .is_promoted();
    Pod::new()
        .shop("lb-1", usual(90_000), usual(400))
        .shop("lb-2", usual(1000), usual(90_000))
        .is_promoted();
}

#[test]
fn clients_that_fail_more_and_move_between_the_others_are_no_change() {
    // Those of lb-3 have always failed; now most requests are theirs.
    let pod = Pod::new()
        .shop("lb-1", usual(5000), usual(5000))
        .shop("lb-2", usual(9000), usual(1000))
        .shop("lb-3", counts(1000, 0.5, 10.0), counts(9000, 0.5, 10.0));
    pod.is_promoted();
    let hidden = Pod::new()
        .shop("lb-1", usual(5000), counts(5000, 0.3, 10.0))
        .shop("lb-2", usual(9000), usual(1000))
        .shop("lb-3", counts(1000, 0.5, 10.0), counts(9000, 0.5, 10.0));
    hidden.is_rolled_back(10, &["service shop"]);
}

#[test]
fn too_few_requests_are_waited_for_and_rolled_back_at_the_end() {
    let pod =
        Pod::new()
            .shop("lb-1", usual(5000), usual(99))
            .shop("lb-2", usual(5000), usual(5000));
    assert_eq!(pod.at(299), Verdict::Wait);
    pod.is_rolled_back(
        300,
        &[
            "too few requests of shop",
            "99 on lb-1",
            "5000 on the others",
        ],
    );
    let quiet = Pod::new()
        .with("lb-1", "blog", pair(usual(5000), usual(5000)))
        .with("lb-2", "blog", pair(usual(5000), usual(5000)));
    quiet.is_rolled_back(300, &["too few requests of shop", "0 on lb-1"]);
}

/// `/cart` goes from `shop` to a service that had nothing before.
fn moved_to_a_new_one(requests: u64, failed: f64) -> Pod {
    let mut pod = Pod::new().shop("lb-1", usual(50_000), usual(50_000)).shop(
        "lb-2",
        usual(50_000),
        usual(50_000),
    );
    pod.canary.services = vec!["cart-new".into(), "shop".into()];
    match requests {
        0 => pod,
        _ => {
            let during = counts(requests, failed, 10.0);
            pod.with("lb-1", "cart-new", pair(Counts::default(), during))
        }
    }
}

#[test]
fn requests_of_one_service_are_no_evidence_for_another_that_the_change_is_about() {
    let pod = moved_to_a_new_one(60, 0.0);
    assert_eq!(pod.at(299), Verdict::Wait);
    let words = "too few requests of cart-new to compare: 60 on lb-1, 0 on the others";
    pod.is_rolled_back(300, &[words]);
    let promoted = Verdict::Promote("no worse: service cart-new, service shop".into());
    assert_eq!(moved_to_a_new_one(400, 0.0).at(300), promoted);
    moved_to_a_new_one(0, 0.0).is_promoted();
}

#[test]
fn a_service_of_the_change_that_fails_nearly_all_of_a_few_requests_is_rolled_back_at_once() {
    let words = ["service cart-new on lb-1", "100.0 % of 60 requests failed"];
    moved_to_a_new_one(60, 1.0).is_rolled_back(10, &words);
    moved_to_a_new_one(FEW, 1.0).is_rolled_back(10, &words[..1]);
    assert_eq!(moved_to_a_new_one(FEW - 1, 1.0).at(10), Verdict::Wait);
    assert_eq!(moved_to_a_new_one(60, 0.3).at(10), Verdict::Wait);
    // Of what the change is not about a few requests say nothing.
    let pod = Pod::new().shop("lb-1", usual(5000), usual(5000)).with(
        "lb-1",
        "blog",
        pair(usual(60), counts(60, 1.0, 10.0)),
    );
    assert_eq!(pod.at(10), Verdict::Wait);
}

#[test]
fn tuning_is_about_all_requests() {
    let mut pod = Pod::new()
        .with("lb-1", "blog", pair(usual(500), usual(500)))
        .with("lb-2", "blog", pair(usual(500), usual(500)));
    pod.canary.services.clear();
    assert_eq!(
        pod.at(300),
        Verdict::Promote("no worse: all requests".into())
    );
}

#[test]
fn a_service_without_a_past_is_compared_with_the_others_or_with_all_requests_of_before() {
    let moved = |failed| {
        Pod::new()
            .with("lb-1", "blog", pair(usual(5000), Counts::default()))
            .shop("lb-1", Counts::default(), counts(400, failed, 10.0))
            .with("lb-2", "blog", pair(usual(5000), usual(400)))
    };
    moved(0.9).is_rolled_back(10, &["service shop", "90.0 %"]);
    moved(0.001).is_promoted();
    let started_just_now = |failed| {
        Pod::new()
            .shop("lb-1", Counts::default(), counts(400, failed, 10.0))
            .shop("lb-2", Counts::default(), counts(400, 0.5, 10.0))
    };
    started_just_now(1.0).is_rolled_back(10, &["service shop", "50.0 % were to be expected"]);
    started_just_now(0.5).is_promoted();
}

#[test]
fn a_wrong_service_that_knows_nothing_of_what_is_asked_is_worse() {
    let all_404 = Counts {
        refused: 400,
        ..usual(400)
    };
    let pod = Pod::new()
        .shop("lb-1", usual(5000), all_404)
        .shop("lb-2", usual(5000), usual(400));
    pod.is_rolled_back(10, &["answered with 4xx"]);
    let scanned = Counts {
        refused: 60,
        ..usual(400)
    };
    Pod::new()
        .shop("lb-1", usual(5000), scanned)
        .shop("lb-2", usual(5000), usual(400))
        .is_promoted();
}

#[test]
fn much_slower_is_worse_and_a_little_slower_is_not() {
    let slower = |before, during| {
        Pod::new()
            .shop("lb-1", counts(5000, 0.0, before), counts(5000, 0.0, during))
            .shop("lb-2", usual(5000), usual(5000))
    };
    let words = [
        "100.0 % of 5000 requests took more than 21.2 ms",
        "0.0 % were to be expected",
    ];
    slower(10.0, 100.0).is_rolled_back(10, &words);
    slower(10.0, 25.0).is_promoted();
    slower(0.5, 5.0).is_promoted();
}

#[test]
fn one_large_client_that_begins_what_takes_long_is_no_slower_service() {
    let downloads = counts(1500, 0.0, 5000.0).and(usual(3500));
    Pod::new()
        .shop("lb-1", usual(5000), downloads)
        .shop("lb-2", usual(5000), usual(5000))
        .is_promoted();
}

#[test]
fn a_few_slow_requests_are_waited_for_and_what_is_slow_at_the_end_is_rolled_back() {
    let pod = |requests| {
        Pod::new()
            .shop("lb-1", usual(5000), counts(requests, 0.0, 1000.0))
            .shop("lb-2", usual(5000), usual(5000))
    };
    assert_eq!(pod(SLOW_SAMPLE - 1).at(299), Verdict::Wait);
    pod(SLOW_SAMPLE - 1).is_rolled_back(300, &["100.0 % of 999 requests took more than"]);
    pod(SLOW_SAMPLE).is_rolled_back(10, &["100.0 % of 1000 requests took more than"]);
}

#[test]
fn a_service_of_two_kinds_of_requests_is_as_slow_as_each_of_them() {
    let mixed =
        |quick: u64, slow: u64, by: f64| counts(quick, 0.0, by).and(counts(slow, 0.0, 100.0 * by));
    let pod = |during| {
        Pod::new()
            .shop("lb-1", mixed(51_000, 49_000, 1.0), during)
            .shop("lb-2", usual(5000), usual(5000))
    };
    // The median is another one then.
    pod(mixed(48_000, 52_000, 1.0)).is_promoted();
    pod(mixed(51_000, 49_000, 25.0)).is_rolled_back(10, &["took more than"]);
}

#[test]
fn a_canary_of_which_nothing_is_heard_is_rolled_back() {
    let pod = Pod::new().shop("lb-2", usual(500), usual(500));
    assert_eq!(pod.at(29), Verdict::Wait);
    pod.is_rolled_back(30, &["nothing is heard of lb-1"]);
    let mut short = Pod::new();
    short.canary.until_ms = short.canary.begun_ms + 1000;
    short.is_rolled_back(1, &["nothing is heard of lb-1"]);
}

#[test]
fn each_of_those_that_try_it_has_to_be_heard_of() {
    let mut pod =
        Pod::new()
            .shop("lb-1", usual(5000), usual(5000))
            .shop("lb-3", usual(5000), usual(5000));
    pod.canary.nodes = vec!["lb-1".into(), "lb-2".into()];
    assert_eq!(pod.at(29), Verdict::Wait);
    match pod.at(30) {
        Verdict::RollBack(why) => assert_eq!(why, "nothing is heard of lb-2"),
        other => panic!("{other:?}"),
    }
    pod.shop("lb-2", usual(5000), usual(5000)).is_promoted();
}

#[test]
fn a_judge_that_began_in_the_middle_goes_by_who_has_heard_of_it_for_longest() {
    let mut pod =
        Pod::new()
            .shop("lb-1", usual(5000), usual(5000))
            .shop("lb-2", usual(5000), usual(5000));
    assert_eq!(pod.at(3), Verdict::Wait);
    pod.reports.get_mut("lb-2").unwrap().heard_ms = 300_000;
    assert!(matches!(pod.at(3), Verdict::Promote(_)));
}

#[test]
fn a_second_process_of_one_that_tries_it_is_worse_and_of_another_one_is_not() {
    let mut pod =
        Pod::new()
            .shop("lb-1", usual(5000), usual(5000))
            .shop("lb-2", usual(5000), usual(5000));
    pod.reports.get_mut("lb-2").unwrap().is_second = true;
    pod.is_promoted();
    pod.reports.get_mut("lb-1").unwrap().is_second = true;
    pod.is_rolled_back(2, &["restarted meanwhile, or crashed: lb-1"]);
}

fn any_pair() -> impl Strategy<Value = Pair> {
    let counts =
        || (0u64..20_000, 0.0..1.0, 0.1..1000.0).prop_map(|(n, failed, ms)| counts(n, failed, ms));
    (counts(), counts()).prop_map(|(before, during)| Pair { before, during })
}

proptest! {
    #[test]
    fn who_moves_as_the_others_do_is_never_rolled_back_before_its_end(
        before in 0.0..0.5f64, now in 0.0..1.0f64, canary in 100u64..100_000, others in 100u64..100_000,
        ms in 1.0..500.0f64,
    ) {
        let pod = Pod::new()
            .shop("lb-1", counts(canary / 2 + 100, before, ms), counts(canary, now, ms))
            .shop("lb-2", counts(others, before, ms), counts(others / 3 + 100, now, ms));
        prop_assert_eq!(pod.at(100), Verdict::Wait);
    }

    #[test]
    fn what_fails_always_and_did_not_is_rolled_back_whatever_the_others_say(
        before in any_pair(), requests in 100u64..10_000,
    ) {
        let pod = Pod::new()
            .shop("lb-1", usual(1000), counts(requests, 1.0, 10.0))
            .shop("lb-2", before.before, counts(before.during.requests, 0.001, 10.0));
        prop_assert!(matches!(pod.at(1), Verdict::RollBack(_)));
    }

    #[test]
    fn nothing_is_promoted_before_its_end_or_with_fewer_requests_than_a_sample(
        one in any_pair(), two in any_pair(), seconds in 0u64..600,
    ) {
        let few = one.during.requests < SAMPLE;
        let pod = Pod::new().shop("lb-1", one.before, one.during).shop("lb-2", two.before, two.during);
        let verdict = pod.at(seconds);
        if seconds < 300 || few {
            prop_assert!(!matches!(verdict, Verdict::Promote(_)));
        }
        if seconds >= 300 {
            prop_assert_ne!(verdict, Verdict::Wait);
        }
    }
}
