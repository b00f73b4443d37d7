//! The client against a real admin listener, and what people get to see.

use super::*;
use crate::admin::canary::CanaryStatus;
use crate::admin::fleet::{FindingView, FleetView, NodeStatusView, NodeView};
use crate::admin::listener::{Address, AdminListener, bind};
use crate::admin::orders::{Answered, Carried, Control};
use crate::admin::state::State;
use crate::admin::views::{DiscoveryView, ListenerView, MistakeView, ServiceSummary};
use crate::app::cli::{Command, CommandLine};
use crate::drain;
use crate::routing::Snapshot;
use crate::routing::operator::{CertificateOrder, Order, OrderError, ShiftOrder};
use crate::routing::staged::{Staging, StagingError};
use crate::routing::swap;
use crate::telemetry::Vitals;
use clap::Parser;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, UNIX_EPOCH};

struct Refusing;

impl Control for Refusing {
    fn order(&self, _: Order) -> Carried {
        Box::pin(async { Err(OrderError::NoConsul("consul does not answer".into())) })
    }

    fn shift(&self, order: ShiftOrder) -> Carried {
        let said = crate::admin::shift::described(&order);
        Box::pin(async { Err(OrderError::Failed(said)) })
    }

    fn stage(&self, _: Staging) -> Answered {
        Box::pin(async { Err(StagingError::NoConsul("there is no [consul]".into())) })
    }

    fn order_certificate(&self, order: CertificateOrder) -> Carried {
        Box::pin(async move {
            match order {
                CertificateOrder::Renew(name) => Ok(format!("{name} is being ordered")),
                CertificateOrder::RenewAll => Ok("2 are ordered".to_owned()),
                CertificateOrder::Revoke(_) | CertificateOrder::Rekey => {
                    Err(OrderError::Failed("it came to nothing".into()))
                }
            }
        })
    }
}

/// A running admin listener; ends when dropped.
struct Running(
    Address,
    Option<Sender<()>>,
    Option<std::thread::JoinHandle<()>>,
);

impl Running {
    fn at(address: &Address) -> Running {
        let listener = bind(address).unwrap();
        let bound = match &listener {
            AdminListener::Tcp(tcp) => Address::Tcp(tcp.local_addr().unwrap()),
            AdminListener::Unix(..) => address.clone(),
        };
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || serve_until(listener, &stopped));
        Running(bound, Some(stop), Some(thread))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.1.take();
        let _ = self.2.take().map(std::thread::JoinHandle::join);
    }
}

fn serve_until(listener: AdminListener, stopped: &std::sync::mpsc::Receiver<()>) {
    let (_publisher, table) = swap::channel(Snapshot::default());
    let (_drain, gate) = drain::channel();
    let state = State {
        node: "lb-1".into(),
        version: "0.1.0",
        table,
        certificates: Arc::new(Vec::new),
        fleet: Arc::new(a_fleet),
        vitals: Arc::new(Vitals::new(1)),
        gate,
        control: Arc::new(Refusing),
        token: None,
        large_bodies: tokio::sync::Semaphore::new(1),
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        let task = crate::admin::start(Arc::new(state), listener).unwrap();
        while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        task.abort();
    });
}

fn run(to: &Address, words: &[&str]) -> Result<String, String> {
    let admin = to.to_string();
    let line = ["rota"].iter().chain(words).copied();
    let line: Vec<&str> = line.chain(["--admin", &admin]).collect();
    match CommandLine::try_parse_from(line).unwrap().command {
        Command::Ask(ask) => answered(&ask),
        other => panic!("{other:?} asks nobody"),
    }
}

fn tcp() -> Running {
    Running::at(&Address::Tcp("127.0.0.1:0".parse().unwrap()))
}

#[test]
fn status_is_asked_over_tcp_and_printed_for_people_or_as_json() {
    let running = tcp();
    let text = run(&running.0, &["status"]).unwrap();
    assert!(text.contains("lb-1"), "{text}");
    assert!(text.contains("no: no table was published yet"), "{text}");
    let json = run(&running.0, &["status", "--json"]).unwrap();
    let read: StatusView = serde_json::from_str(&json).unwrap();
    assert!(!read.ready);
    assert!(run(&running.0, &["certs"]).unwrap().starts_with("DOMAIN"));
}

/// Two of one pod, one of them behind.
fn a_fleet() -> FleetView {
    let node = |name: &str| NodeView {
        name: name.into(),
        is_asked: name == "lb-1",
        version: "0.1.0".into(),
        state: "ready".into(),
        status: Some(NodeStatusView {
            revision: 7,
            table: "00000000000000ab".into(),
            requests: 200,
            failed: 1,
            window_s: 10,
            ..NodeStatusView::default()
        }),
        ..NodeView::default()
    };
    FleetView {
        node: "lb-1".into(),
        has_pod: true,
        old_after_s: 75,
        nodes: vec![node("lb-1"), node("lb-2")],
        findings: vec![FindingView {
            finding: "behind".into(),
            is_trouble: true,
            node: "lb-2".into(),
            since_s: 65,
            message: "its documents are older".into(),
        }],
        ..FleetView::default()
    }
}

#[test]
fn a_fleet_is_a_table_and_what_is_wrong_in_it_an_error() {
    let running = tcp();
    let said = run(&running.0, &["fleet"]).unwrap_err();
    assert_eq!(said, "1 finding in this pod");
    let text = print::fleet(&a_fleet());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("NODE"), "{text}");
    assert!(
        lines[1].starts_with("lb-1 *") && lines[1].contains("200 in 10s"),
        "{text}"
    );
    assert_eq!(
        lines[3],
        "behind: lb-2: its documents are older (for 1m05s)"
    );
    let alone = print::fleet(&FleetView::default());
    assert!(alone.contains("its own pod"), "{alone}");
    let old = FleetView {
        heard_s: Some(80),
        ..a_fleet()
    };
    assert!(print::fleet(&old).contains("1m20s ago"));
}

#[test]
fn a_name_that_nobody_has_is_an_error_in_words() {
    let running = tcp();
    let error = run(&running.0, &["why", "a b/ü?"]).unwrap_err();
    assert!(
        error.contains("nothing here is called \"a b/ü?\""),
        "{error}"
    );
}

#[test]
fn a_change_over_tcp_without_a_token_says_what_to_do() {
    let running = tcp();
    let error = run(&running.0, &["drain", "shop"]).unwrap_err();
    assert!(error.contains("token_file"), "{error}");
}

#[test]
fn an_order_that_was_not_carried_out_is_an_error_in_words() {
    let path = std::env::temp_dir().join(format!("rota-ask-{}.sock", std::process::id()));
    let running = Running::at(&Address::Unix(path.clone()));
    let error = run(&running.0, &["drain", "shop", "--for", "10m"]).unwrap_err();
    assert_eq!(error, "consul does not answer (503)");
    let error = run(&running.0, &["shift", "shop", "green=100"]).unwrap_err();
    assert!(error.starts_with("shift shop to green=100 by "), "{error}");
    drop(running);
    let error = run(&Address::Unix(path.clone()), &["status"]).unwrap_err();
    assert!(error.contains("is rota running there?"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_stranger_on_the_other_end_is_recognised() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Address::Tcp(listener.local_addr().unwrap());
    let stranger = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    });
    let error = run(&to, &["status"]).unwrap_err();
    assert!(
        error.contains("not what rota's admin listener says"),
        "{error}"
    );
    stranger.join().unwrap();
}

fn sick_status() -> StatusView {
    StatusView {
        node: "lb-1".into(),
        version: "0.1.0".into(),
        started: "2026-11-20T20:00:00Z".into(),
        uptime_s: 75,
        ready: false,
        missing: vec!["consul has not answered".into()],
        phase: "serving".into(),
        node_drained: false,
        generation: 7,
        workers: 2,
        routes: 3,
        listeners: vec![ListenerView {
            name: "web".into(),
            address: "0.0.0.0:80".into(),
            protocol: "http".into(),
        }],
        discovery: Some(DiscoveryView {
            age_s: Some(61.5),
            failing: 1,
            trouble: None,
            remembered: None,
        }),
        services: vec![ServiceSummary {
            name: "shop".into(),
            up: 0,
            total: 2,
            doubted: 1,
            panic: false,
            groups: vec![],
        }],
        mistakes: vec![MistakeView {
            entry: "kv:rota/config/routes/x".into(),
            message: "no service \u{1b}[31mshpo\nno host".into(),
            in_force: "ignored".into(),
            since: "2026-11-20T20:00:00Z".into(),
            since_s: 5,
        }],
        canary: Some(CanaryStatus {
            here: true,
            nodes: vec!["lb-1".into()],
            by: "ops@lb".into(),
            note: String::new(),
            until: "2026-11-20T20:05:00Z".into(),
            overdue: false,
        }),
    }
}

#[test]
fn status_for_people_says_what_is_missing_and_what_is_wrong() {
    let text = print::status(&sick_status());
    for part in [
        "ready      no: consul has not answered\n",
        "discovery  1m01s old, 1 watches failing\n",
        "canary     a change of ops@lb is in force here (on lb-1) until 2026-11-20T20:05:00Z\n",
        "shop     0/2  1 doubted, nobody is on the rota\n",
        "mistake in kv:rota/config/routes/x: no service  [31mshpo; no host (in force: ignored; since 5s)\n",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn certificates_show_how_long_they_last() {
    let row = CertificateRow {
        domain: "a.example".into(),
        listener: "web".into(),
        source: "file:a.pem".into(),
        issuer: "CN=a ca".into(),
        not_after: 90_000,
        renewal: Some(3600),
        error: Some("the ca was down".into()),
    };
    let text = print::certificates(std::slice::from_ref(&row), UNIX_EPOCH);
    assert!(
        text.contains("a.example  1970-01-02T01:00:00Z  1d01h  web       CN=a ca  "),
        "{text}"
    );
    let later = UNIX_EPOCH + Duration::from_secs(90_001);
    assert!(print::certificates(&[row], later).contains("has ended"));
}
