//! What `/metrics` says of a known snapshot and known vitals.

use super::*;
use crate::routing::measured::{Method, ServiceMeasured};
use crate::routing::snapshot::EntryMistake;
use crate::routing::standing::Standing;
use crate::routing::{GroupName, Groups, WorkerId};
use crate::routing::{InFlightLimit, Protocol, RetryPolicy, Upstream, UpstreamKey};
use std::sync::Arc;
use std::time::Duration;

fn member(service: &str, port: u16) -> Member {
    let address = ([127, 0, 0, 1], port).into();
    let key = UpstreamKey {
        service: service.into(),
        address,
    };
    let signal = |verdict, reason| Signal::new(verdict, reason, "", SystemTime::now());
    let standing = Standing {
        consul: signal(Verdict::Fit, "passing"),
        probe: signal(Verdict::Unknown, "not_probed"),
        passive: signal(Verdict::Fit, "well"),
        operator: signal(Verdict::Fit, "none"),
        source: "file",
        group: None,
        doubt: (port == 2).then_some(crate::routing::standing::Doubt {
            reason: "all_lost",
            evidence: "",
            since: SystemTime::UNIX_EPOCH,
        }),
        remembered: None,
        history: Arc::new([]),
    };
    Member {
        upstream: Arc::new(Upstream::new(key, 1, address.to_string().into(), 2)),
        host_name: None,
        weight: 1,
        standing: Arc::new(standing),
    }
}

fn snapshot() -> Snapshot {
    let members: Box<[Member]> = [member("app", 1), member("app", 2)].into();
    let (turn, reserve) = Service::turns(&members, None);
    let service = Service {
        name: "app".into(),
        members,
        turn,
        reserve,
        protocol: Protocol::Http,
        retry: RetryPolicy::default(),
        pool: 8,
        in_flight: Some(InFlightLimit {
            most: 1,
            queue: 0,
            wait: Duration::ZERO,
        }),
        measured: Arc::new(ServiceMeasured::new(2)),
        phase: 0,
        groups: Groups::new([(GroupName::parse("blue").unwrap(), 1)].into()),
    };
    let mut snapshot = Snapshot {
        generation: 3,
        ..Snapshot::default()
    };
    snapshot.mistakes.push(EntryMistake {
        entry: "kv:a\"b\n".into(),
        message: "x".into(),
        in_force: "ignored",
        since: SystemTime::now(),
    });
    snapshot
        .services
        .insert(service.name.clone(), Arc::new(service));
    snapshot
}

fn vitals() -> Vitals {
    let vitals = Vitals::new(2);
    vitals.discovery_configured.store(true, Relaxed);
    vitals.fleet.heard_ms.store(1, Relaxed);
    for worker in &vitals.workers {
        let cells = worker.listener(&"web".into());
        cells.accepted.add(3);
        cells.closed.add(1);
        cells.handshake(Handshake::Tls13Resumed);
        worker.ended(Reason::Internal);
    }
    vitals
}

/// Each sample line as `name{labels}` and value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn counts_of_all_workers_are_added_up() {
    let snapshot = snapshot();
    let service = &snapshot.services["app"];
    for worker in [WorkerId(0), WorkerId(1)] {
        let cell = service.measured.of(worker);
        cell.record(Method::Get, 200, 2_000);
        cell.retries.add(2);
        let upstream = service.members[0].upstream.cell(worker);
        upstream.record(AttemptOutcome::Ok);
        upstream.begin();
    }
    let text = render(&snapshot, std::iter::empty(), &vitals());
    let of = samples(&text);
    assert_eq!(
        of[r#"rota_requests_total{service="app",code="200",method="GET"}"#],
        2.0
    );
    assert_eq!(of[r#"rota_retries_total{service="app"}"#], 4.0);
    assert_eq!(
        of[r#"rota_upstream_in_flight{service="app",upstream="127.0.0.1:1"}"#],
        2.0
    );
    assert_eq!(
        of[r#"rota_request_duration_seconds_bucket{service="app",le="0.001"}"#],
        0.0
    );
    assert_eq!(
        of[r#"rota_request_duration_seconds_bucket{service="app",le="0.0025"}"#],
        2.0
    );
    assert_eq!(
        of[r#"rota_request_duration_seconds_bucket{service="app",le="+Inf"}"#],
        2.0
    );
    assert_eq!(of[r#"rota_connections{listener="web"}"#], 4.0);
    assert_eq!(of[r#"rota_requests_ended_total{reason="internal"}"#], 2.0);
    assert_eq!(of[r#"rota_discovery_guard_active{service="app"}"#], 1.0);
    assert_eq!(of["rota_snapshot_generation"], 3.0);
    let state = r#"rota_upstream_state{service="app",upstream="127.0.0.1:1",signal="probe",state="unknown",reason="not_probed"}"#;
    assert_eq!(of[state], 1.0);
}

#[test]
fn what_is_rendered_and_what_is_listed_are_the_same() {
    let mut snapshot = snapshot();
    let cell = snapshot.services["app"].measured.of(WorkerId(0));
    cell.record(Method::Other, 0, 1);
    let trouble = Some(("no_leader", "why".to_owned()));
    Arc::make_mut(&mut snapshot.discovery).take(trouble, SystemTime::now());
    let certificates = [("a.example".to_owned(), 9), ("a.example".to_owned(), 7)];
    let text = render(&snapshot, certificates.into_iter(), &vitals());
    for family in families::ALL {
        let head = format!("# TYPE {} {}\n", family.name, family.kind.label());
        assert!(
            text.contains(&head),
            "{} is listed, not rendered",
            family.name
        );
    }
    let of = samples(&text);
    let ends = of[r#"rota_certificate_not_after_seconds{domain="a.example"}"#];
    assert_eq!(ends, 7.0, "the earliest counts");
    assert!(text.contains(r#"entry="kv:a\"b\n""#), "labels are escaped");
}

#[test]
fn discovery_has_no_age_without_consul_and_one_from_the_start_with_it() {
    let plain = render(&Snapshot::default(), std::iter::empty(), &Vitals::new(1));
    assert!(!plain.contains("rota_discovery_age_seconds"));
    let vitals = vitals();
    let now = SystemTime::now();
    assert_eq!(discovery_age_seconds(&vitals, now), None);
    let contact = now - Duration::from_secs(5);
    let contact_ms = contact.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    vitals.set_discovery_contact(contact_ms);
    let age = discovery_age_seconds(&vitals, now).unwrap();
    assert!((4.9..5.1).contains(&age), "{age}");
}
