//! Small pods, reports by reports: what one load balancer makes of them.

use super::*;
use crate::control::acme::NodeRecord;

const TABLE: Fingerprint = Fingerprint(1);

fn status(table: u64, revision: u64, index: u64) -> NodeStatus {
    NodeStatus {
        process: "other".into(),
        is_ready: true,
        table: Fingerprint(table),
        revision,
        index,
        documents: Some(Fingerprint(index)),
        discovery_s: Some(0),
        ..NodeStatus::default()
    }
}

fn trying(table: u64) -> NodeStatus {
    NodeStatus {
        trying: Some("one".into()),
        ..status(table, 1, 10)
    }
}

fn report(node: &str, version: &str, status: NodeStatus) -> NodeReport {
    let certificates = NodeRecord {
        node: node.into(),
        version: version.into(),
        ..NodeRecord::default()
    };
    NodeReport::of(node, &certificates, status)
}

/// `lb-0` and what it hears, second by second.
struct Pod {
    start: Instant,
    observer: Observer,
    reports: BTreeMap<String, Option<NodeReport>>,
}

impl Pod {
    /// With revision 1 of index 10 and [`TABLE`].
    fn new() -> Pod {
        let start = Instant::now();
        let mut observer = Observer::new("lb-0", "1", "own", start);
        observer.know_table(TABLE, start);
        observer.know_documents(Fingerprint(10), start);
        observer.serve(Fingerprint::default(), start);
        observer.be(status(TABLE.0, 1, 10));
        let own = NodeStatus {
            process: "own".into(),
            ..status(TABLE.0, 1, 10)
        };
        let reports = BTreeMap::from([("lb-0".into(), Some(report("lb-0", "1", own)))]);
        Pod {
            start,
            observer,
            reports,
        }
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn reports(&mut self, node: &str, status: NodeStatus, second: u64) {
        self.reports
            .insert(node.into(), Some(report(node, "1", status)));
        self.hear(second);
    }

    fn hear(&mut self, second: u64) {
        self.observer.hear(self.reports.clone(), self.at(second));
    }

    fn knows(&mut self, table: u64, revision: u64, index: u64, second: u64) {
        let now = self.at(second);
        self.observer.know_table(Fingerprint(table), now);
        self.observer.know_documents(Fingerprint(index), now);
        self.observer.be(status(table, revision, index));
    }

    /// Another table than the pod's, as a canary.
    fn tries(&mut self, table: u64) {
        self.observer.be(trying(table));
    }

    fn finds(&mut self, second: u64) -> Vec<String> {
        let found = self.observer.look(self.at(second)).findings;
        found
            .iter()
            .map(|one| format!("{} {}", one.fault.label(), one.node))
            .collect()
    }
}

#[test]
fn who_has_the_same_is_nothing_to_be_told() {
    let mut pod = Pod::new();
    pod.reports("lb-1", status(1, 1, 10), 1);
    pod.reports("lb-2", status(1, 1, 10), 2);
    assert!(pod.finds(60).is_empty());
    let fleet = pod.observer.look(pod.at(60));
    let names: Vec<&str> = fleet.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["lb-0", "lb-1", "lb-2"]);
    assert_eq!(fleet.nodes[0].presence, Presence::Here);
}

#[test]
fn who_does_not_follow_a_change_is_told_once_it_had_the_time_and_until_it_follows() {
    let mut pod = Pod::new();
    pod.reports("lb-1", status(1, 1, 10), 1);
    pod.knows(2, 2, 11, 10);
    pod.reports("lb-1", status(1, 1, 10), 20);
    assert!(pod.finds(29).is_empty(), "a change takes a while");
    assert_eq!(pod.finds(30), ["behind lb-1", "diverging lb-1"]);
    let since = pod.observer.look(pod.at(40)).findings[0].since;
    assert_eq!(since, pod.at(10));
    pod.reports("lb-1", status(2, 2, 11), 41);
    assert!(pod.finds(41).is_empty());
}

#[test]
fn who_missed_a_change_and_its_undoing_is_not_behind() {
    let mut pod = Pod::new();
    // lb-1 was cut off: the documents are as they were, written anew.
    pod.reports("lb-1", status(1, 1, 10), 1);
    let documents = Some(Fingerprint(10));
    pod.observer.be(NodeStatus {
        documents,
        ..status(1, 1, 12)
    });
    assert!(pod.finds(60).is_empty());
    // Of an older version it is not known what it has.
    let unknown = NodeStatus {
        documents: None,
        ..status(1, 1, 9)
    };
    pod.reports("lb-1", unknown, 61);
    assert!(pod.finds(61).is_empty() && pod.finds(90).is_empty());
}

#[test]
fn a_table_in_constant_change_is_no_difference() {
    let mut pod = Pod::new();
    for second in 1..120 {
        pod.knows(second, 1, 10, second);
        // Each ten seconds the other one reports what it had two seconds ago.
        if second % 10 == 0 {
            pod.reports("lb-1", status(second - 2, 1, 10), second);
        }
        assert!(pod.finds(second).is_empty(), "after {second} s");
    }
}

#[test]
fn one_that_was_never_the_same_is_told_after_as_long() {
    let mut pod = Pod::new();
    pod.reports("lb-1", status(9, 1, 10), 5);
    assert!(pod.finds(5).is_empty() && pod.finds(24).is_empty());
    pod.reports("lb-1", status(8, 1, 10), 25);
    assert_eq!(pod.finds(25), ["diverging lb-1"]);
}

#[test]
fn this_one_is_told_where_most_others_agree_on_something_else() {
    let mut pod = Pod::new();
    for node in ["lb-1", "lb-2"] {
        pod.reports(node, status(2, 2, 11), 1);
    }
    pod.finds(1);
    assert_eq!(pod.finds(21), ["behind lb-0", "diverging lb-0"]);
    let message = &pod.observer.look(pod.at(22)).findings[0].message;
    assert!(
        message.contains("revision 1, index 10") && message.contains("revision 2, index 11"),
        "{message}"
    );
}

#[test]
fn tables_of_other_versions_are_not_compared_and_the_skew_is_told() {
    let mut pod = Pod::new();
    let other = report("lb-1", "2", status(9, 1, 10));
    pod.reports.insert("lb-1".into(), Some(other));
    // One that reports nothing but its version, and one that nobody can read.
    let older = NodeReport {
        fleet: None,
        ..report("lb-2", "0", status(9, 1, 10))
    };
    pod.reports.insert("lb-2".into(), Some(older));
    pod.reports.insert("lb-3".into(), None);
    pod.hear(1);
    pod.finds(1);
    assert_eq!(pod.finds(40), ["unreadable lb-3", "version_skew "]);
    let message = &pod.observer.look(pod.at(40)).findings[1].message;
    assert!(
        message.starts_with("0 (lb-2), 1 (lb-0), 2 (lb-1)"),
        "{message}"
    );
}

#[test]
fn whose_report_cannot_be_read_is_named_and_nothing_else_is_made_of_it() {
    let mut pod = Pod::new();
    pod.reports("lb-1", status(1, 1, 10), 1);
    pod.reports.insert("lb-1".into(), None);
    pod.reports.insert("lb-0".into(), None);
    pod.knows(2, 1, 10, 2);
    for second in [2, 40, 70] {
        pod.hear(second);
    }
    assert_eq!(pod.finds(74), ["unreadable lb-0", "unreadable lb-1"]);
    assert!(!pod.observer.has_namesake(pod.at(74)));
    pod.reports("lb-1", status(2, 1, 10), 75);
    let own = report(
        "lb-0",
        "1",
        NodeStatus {
            process: "own".into(),
            ..status(2, 1, 10)
        },
    );
    pod.reports.insert("lb-0".into(), Some(own));
    pod.hear(76);
    assert!(pod.finds(76).is_empty());
}

#[test]
fn what_is_tried_on_one_of_them_is_no_difference_while_the_others_move_on() {
    let mut pod = Pod::new();
    pod.reports("lb-2", status(1, 1, 10), 1);
    pod.reports("lb-1", trying(9), 2);
    pod.finds(2);
    // Servers come and go meanwhile: the others' tables are others.
    pod.knows(2, 1, 10, 30);
    pod.reports("lb-2", status(2, 1, 10), 31);
    pod.reports("lb-1", trying(8), 32);
    assert!(pod.finds(70).is_empty());
    // Rolled back; who does not go back is told after as long as ever.
    pod.reports("lb-1", status(8, 1, 10), 71);
    assert!(pod.finds(71).is_empty() && pod.finds(90).is_empty());
    assert_eq!(pod.finds(91), ["diverging lb-1"]);
    pod.reports("lb-1", status(2, 1, 10), 92);
    assert!(pod.finds(100).is_empty());
}

#[test]
fn who_tries_something_finds_nobody_else_different_nor_those_who_take_it_over_later() {
    let mut pod = Pod::new();
    for node in ["lb-1", "lb-2"] {
        pod.reports(node, status(1, 1, 10), 1);
    }
    pod.tries(9);
    assert!(pod.finds(2).is_empty() && pod.finds(60).is_empty());
    // Promoted: the others follow within seconds, and report it a while later.
    pod.knows(9, 1, 10, 61);
    assert!(pod.finds(61).is_empty() && pod.finds(70).is_empty());
    for node in ["lb-1", "lb-2"] {
        pod.reports(node, status(9, 1, 10), 71);
    }
    assert!(pod.finds(100).is_empty());
}

#[test]
fn who_is_not_ready_is_not_compared() {
    let mut pod = Pod::new();
    let starting = NodeStatus {
        is_ready: false,
        ..status(9, 0, 0)
    };
    pod.reports("lb-1", starting, 1);
    pod.finds(1);
    assert!(pod.finds(60).is_empty());
}

#[test]
fn who_vanishes_is_gone_for_an_hour_and_who_drained_has_left() {
    let mut pod = Pod::new();
    let draining = NodeStatus {
        is_draining: true,
        ..status(1, 1, 10)
    };
    pod.reports("lb-1", status(1, 1, 10), 1);
    pod.reports("lb-2", draining, 1);
    pod.reports.retain(|node, _| node == "lb-0");
    pod.hear(2);
    assert!(
        pod.finds(11).is_empty(),
        "perhaps its session alone was lost"
    );
    assert_eq!(pod.finds(12), ["gone lb-1"]);
    let fleet = pod.observer.look(pod.at(13));
    assert_eq!(fleet.nodes[1].presence, Presence::Gone(pod.at(2)));
    assert_eq!(fleet.nodes[2].presence, Presence::Left(pod.at(2)));
    // One that comes back is there again.
    pod.reports("lb-1", status(1, 1, 10), 14);
    assert!(pod.finds(14).is_empty());
    for second in (15..3_620).step_by(30) {
        pod.hear(second);
    }
    let fleet = pod.observer.look(pod.at(3_620));
    assert_eq!(fleet.nodes.len(), 2, "who has left is forgotten");
}

#[test]
fn who_cannot_hear_says_so_and_nothing_of_others() {
    let mut pod = Pod::new();
    pod.reports("lb-1", status(1, 1, 10), 1);
    pod.knows(2, 1, 11, 2);
    assert_eq!(pod.finds(75), ["behind lb-1", "diverging lb-1"]);
    assert_eq!(pod.finds(76), ["deaf lb-0"]);
    assert_eq!(pod.observer.look(pod.at(77)).heard, Some(pod.at(1)));
}

#[test]
fn a_live_one_that_reports_nothing_and_a_report_that_does_not_arrive_are_told() {
    let mut pod = Pod::new();
    pod.reports("lb-1", status(1, 1, 10), 1);
    pod.reports.remove("lb-0");
    for second in (2..100).step_by(10) {
        pod.reports(
            "lb-2",
            NodeStatus {
                number: second,
                ..status(1, 1, 10)
            },
            second,
        );
    }
    assert_eq!(pod.finds(100), ["silent lb-1", "untold lb-0"]);
}

#[test]
fn a_watch_that_fails_is_told_by_name_once_what_is_known_is_old() {
    let mut pod = Pod::new();
    let stuck = NodeStatus {
        failing: 1,
        failing_watches: vec!["service app".into()],
        discovery_s: Some(15),
        ..status(1, 1, 10)
    };
    pod.reports("lb-1", stuck, 1);
    assert!(pod.finds(5).is_empty());
    assert_eq!(pod.finds(6), ["stuck_watch lb-1"]);
    assert!(
        pod.observer.look(pod.at(7)).findings[0]
            .message
            .contains("service app")
    );
}

#[test]
fn two_processes_of_one_name_are_told_by_whoever_hears_of_it() {
    let mut pod = Pod::new();
    pod.hear(1);
    assert!(!pod.observer.has_namesake(pod.at(1)));
    pod.reports("lb-0", status(1, 1, 10), 2);
    assert!(pod.observer.has_namesake(pod.at(2)));
    let named_twice = NodeStatus {
        has_namesake: true,
        ..status(1, 1, 10)
    };
    pod.reports("lb-1", named_twice, 3);
    assert_eq!(pod.finds(3), ["same_name lb-1"]);
}

#[test]
fn no_more_load_balancers_are_looked_at_than_the_limit() {
    let mut pod = Pod::new();
    for number in 1..=MOST_NODES + 3 {
        let name = format!("lb-{number}");
        let report = report(&name, "1", status(1, 1, 10));
        pod.reports.insert(name, Some(report));
    }
    pod.hear(1);
    assert_eq!(pod.finds(2), ["too_many "]);
    assert_eq!(pod.observer.look(pod.at(3)).nodes.len(), MOST_NODES + 1);
}
