//! The task with real sockets: probes against loopback servers, ejections, orders, reloads.

use super::*;
use crate::certs::{CertStore, TicketKeys};
use crate::control::acme::Overview;
use crate::control::fleet::Fleet;
use crate::control::probe::{Spec, probe};
use crate::control::{Handle, Inputs, start};
use crate::routing::operator::{Order, OrderError, Reach, Target};
use crate::routing::swap::{self, Reader};
use crate::routing::{PassiveReport, Protocol};
use crate::telemetry::Vitals;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

struct Live {
    handle: Handle,
    reader: Reader<Snapshot>,
    passive: mpsc::Sender<PassiveReport>,
}

fn live(config: Arc<Config>) -> Live {
    let (publisher, reader) = swap::channel(Snapshot::default());
    let (passive, reports) = mpsc::channel(16);
    let handle = start(Inputs {
        config,
        publisher,
        passive: reports,
        vitals: Arc::new(Vitals::new(2)),
        own_addresses: vec![],
        keyring: None,
        ticket_keys: swap::channel(TicketKeys::default()).0,
        own_certificates: CertStore::default(),
        certificates: swap::channel(CertStore::default()).0,
        overview: swap::channel(Overview::default()).0,
        hurried: mpsc::channel(1).1,
        fleet: swap::channel(Fleet::default()).0,
        gate: crate::drain::channel().1,
    })
    .unwrap();
    Live {
        handle,
        reader,
        passive,
    }
}

impl Live {
    async fn until(&self, what: &str, is_so: impl Fn(&Snapshot) -> bool) {
        // Long enough for a machine with other things to do.
        let deadline = std::time::Instant::now() + seconds(30);
        while !is_so(&self.reader.load()) {
            assert!(std::time::Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// An HTTP server that answers each request with a status that can be changed; gives its port.
async fn http_server(status: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = status.clone();
            tokio::spawn(async move {
                let mut head = [0; 1024];
                let count = stream.read(&mut head).await.unwrap_or(0);
                assert!(count == 0 || head.starts_with(b"GET /healthz HTTP/1.1\r\n"));
                let code = status.load(Relaxed);
                let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

fn service_text(port: u16, rest: &str) -> String {
    format!(
        "[[service]]\nname = \"app\"\nservers = [\"127.0.0.1:{port}\"]\n{rest}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
    )
}

const PROBED: &str =
    "[service.health.active]\npath = \"/healthz\"\ninterval = \"100ms\"\nfall = 2\nrise = 2\n";

fn is_fit(table: &Snapshot) -> bool {
    let members = &table.services["app"].members;
    members.len() == 1 && members[0].upstream.is_fit()
}

#[tokio::test]
async fn a_server_whose_probe_fails_leaves_and_rejoins_the_rota() {
    let status = Arc::new(AtomicU16::new(200));
    let port = http_server(status.clone()).await;
    let live = live(file(&service_text(port, PROBED)));
    assert!(is_fit(&live.reader.load()), "the file serves at once");
    let probed = |reason: &'static str| {
        move |table: &Snapshot| table.services["app"].members[0].standing.probe.reason == reason
    };
    live.until("probed well", probed("probe_passed")).await;
    status.store(503, Relaxed);
    live.until("off", |table| !is_fit(table)).await;
    let standing = live.reader.load().services["app"].members[0]
        .standing
        .clone();
    assert_eq!(&*standing.probe.evidence, "HTTP 503");
    assert!(live.reader.load().services["app"].turn.is_empty());
    status.store(204, Relaxed);
    live.until("back", is_fit).await;
}

#[tokio::test]
async fn a_refused_server_is_tried_by_us_and_comes_back() {
    let port = http_server(Arc::new(AtomicU16::new(200))).await;
    let live = live(file(&service_text(port, "")));
    let upstream = live.reader.load().services["app"].members[0]
        .upstream
        .clone();
    upstream.set(Unfit::Refused);
    let report = PassiveReport {
        upstream: upstream.clone(),
        unfit: Unfit::Refused,
        fault: PassiveFault::Refused,
        failures: 1,
    };
    live.passive.send(report).await.unwrap();
    live.until("off the turn order", |table| {
        table.services["app"].turn.is_empty()
    })
    .await;
    live.until("back", |table| !table.services["app"].turn.is_empty())
        .await;
    assert!(upstream.is_fit());
}

#[tokio::test]
async fn a_report_that_got_lost_is_found() {
    let port = http_server(Arc::new(AtomicU16::new(200))).await;
    let live = live(file(&service_text(port, "")));
    let upstream = live.reader.load().services["app"].members[0]
        .upstream
        .clone();
    upstream.set(Unfit::Refused);
    live.until("back", |_| upstream.is_fit()).await;
}

#[tokio::test]
async fn orders_and_reloads_are_in_force_when_they_are_answered() {
    let live = live(file(&service_text(9, "")));
    let target = Target::Service("app".into());
    let drain = |reach| Order::Drain {
        target: target.clone(),
        reach,
        by: "alice".into(),
        lasting: None,
    };
    live.handle.order(drain(Reach::Here)).await.unwrap();
    assert!(!is_fit(&live.reader.load()));
    assert!(matches!(
        live.handle.order(drain(Reach::Pod)).await,
        Err(OrderError::NoConsul(_))
    ));
    let undrain = Order::Undrain {
        target,
        reach: Reach::Here,
        by: "alice".into(),
    };
    live.handle.order(undrain).await.unwrap();
    assert!(is_fit(&live.reader.load()));
    let generation = live.reader.load().generation;
    live.handle
        .reload(file(&service_text(10, "")), None, CertStore::default())
        .await
        .unwrap();
    let table = live.reader.full();
    assert_eq!(
        table.services["app"].members[0].upstream.address().port(),
        10
    );
    assert!(table.generation > generation);
}

#[tokio::test]
async fn localhost_is_resolved_from_the_hosts_file() {
    let live = live(file(
        "[[service]]\nname = \"app\"\nservers = [\"localhost:9\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
    ));
    live.until("resolved", |table| {
        let members = &table.services["app"].members;
        members
            .iter()
            .any(|member| &**member.upstream.label() == "localhost@127.0.0.1:9")
            && table.missing.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_probes_evidence_says_what_happened() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let sick = http_server(Arc::new(AtomicU16::new(503))).await;
    let config = file(&service_text(9, PROBED));
    let ask = async |address: std::net::SocketAddr, path: Option<&str>, status: Vec<(u16, u16)>| {
        let mut check = config.services[0].active.clone().unwrap();
        check.path = path.map(str::to_owned);
        check.status = status;
        let spec = Spec {
            key: key(&address.to_string()),
            check,
            host_name: None,
            protocol: Protocol::Http,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
        probe(&spec, deadline).await
    };
    let silent = silent.local_addr().unwrap();
    let sick = std::net::SocketAddr::from(([127, 0, 0, 1], sick));
    let path = Some("/healthz");
    assert_eq!(ask(sick, path, vec![]).await, Err("HTTP 503".into()));
    assert_eq!(ask(sick, path, vec![(500, 599)]).await, Ok(()));
    assert_eq!(ask(sick, None, vec![]).await, Ok(()));
    let refused = ask(closed, path, vec![]).await.unwrap_err();
    assert!(refused.to_lowercase().contains("refused"), "{refused}");
    assert_eq!(
        ask(silent, path, vec![]).await,
        Err("no answer in time".into())
    );
}

#[tokio::test]
async fn a_thousand_servers_are_probed_within_seconds() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let mut text = String::new();
    for service in 0..10 {
        let servers: Vec<String> = (0..100)
            .map(|server| format!("\"127.9.{service}.{}:{port}\"", server + 1))
            .collect();
        text += &format!(
            "[[service]]\nname = \"s{service}\"\nservers = [{}]\n[service.health.active]\ninterval = \"2s\"\n[[route]]\nhost = \"h{service}.example\"\nservice = \"s{service}\"\n",
            servers.join(", ")
        );
    }
    let live = live(file(&text));
    live.until("all are found well", |table| {
        let mut members = table.services.values().flat_map(|service| &service.members);
        members.all(|member| member.standing.probe.reason == "probe_passed")
    })
    .await;
    let generations = live.reader.load().generation;
    assert!(generations < 500, "a burst is one table: {generations}");
}
