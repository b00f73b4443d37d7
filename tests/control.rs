//! What is promised of the table when Consul behaves and when it does not: a real agent, real servers, the control plane whole.

#![allow(clippy::unwrap_used)] // Clippy's exemption for tests does not reach what they share.

#[path = "support/consul.rs"]
mod consul_agent;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consul_agent::Agent;
use rota::certs::{CertStore, TicketKeys};
use rota::config::{self, Environment};
use rota::control::acme::Overview;
use rota::control::fleet::Fleet;
use rota::control::{Handle, Inputs, start};
use rota::drain;
use rota::routing::operator::{Order, Reach, Target};
use rota::routing::swap::{self, Reader};
use rota::routing::{PassiveReport, ServiceName, Snapshot};
use rota::telemetry::Vitals;
use tokio::sync::mpsc;

/// A control plane on a thread of its own; it ends with its handle.
struct Control {
    reader: Reader<Snapshot>,
    handle: Handle,
    runtime: tokio::runtime::Runtime,
    _passive: mpsc::Sender<PassiveReport>,
}

impl Control {
    fn start(agent: &Agent) -> Control {
        let text = format!(
            "[node]\nname = \"lb-1\"\nworkers = 1\n[[listener]]\naddress = \"127.0.0.1:8080\"\nprotocol = \"http\"\n\
             [consul]\naddress = \"{}\"\nprefix = \"rota/p\"\nallow_upstreams = [\"127.0.0.0/8\"]\n\
             [[service]]\nname = \"app\"\nconsul = {{ service = \"app\" }}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
            agent.http_address()
        );
        let environment = Environment::bare("lb-1");
        let config = config::parse(&text, Path::new("/rota.toml"), &environment)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let (publisher, reader) = swap::channel(Snapshot::default());
        let (passive, reports) = mpsc::channel(16);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let inputs = Inputs {
            config: Arc::new(config),
            publisher,
            passive: reports,
            vitals: Arc::new(Vitals::new(1)),
            own_addresses: vec![],
            keyring: None,
            ticket_keys: swap::channel(TicketKeys::default()).0,
            own_certificates: CertStore::default(),
            certificates: swap::channel(CertStore::default()).0,
            overview: swap::channel(Overview::default()).0,
            hurried: mpsc::channel(1).1,
            fleet: swap::channel(Fleet::default()).0,
            gate: drain::channel().1,
        };
        let handle = runtime.block_on(async { start(inputs) }).unwrap();
        Control {
            reader,
            handle,
            runtime,
            _passive: passive,
        }
    }

    fn until(&self, what: &str, is_so: impl Fn(&Snapshot) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(&self.reader.load()) {
            let table = self.reader.full();
            assert!(Instant::now() < deadline, "never: {what}: {table:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Holds all the time for a while: silence cannot be waited for.
    fn throughout(&self, span: Duration, what: &str, is_so: impl Fn(&Snapshot) -> bool) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            assert!(is_so(&self.reader.load()), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn fit(table: &Snapshot) -> usize {
    table.services.get("app").map_or(0, |service| {
        let members = service.members.iter();
        members.filter(|member| member.upstream.is_fit()).count()
    })
}

/// Servers that take connections and say nothing; registered as `app-0`, `app-1`, ….
fn servers(agent: &Agent, count: usize) -> Vec<TcpListener> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    for (index, listener) in listeners.iter().enumerate() {
        let port = listener.local_addr().unwrap().port();
        agent.register_passing("app", &format!("app-{index}"), port);
    }
    listeners
}

#[test]
fn a_critical_check_takes_a_server_off_the_rota_within_50_ms() {
    let agent = Agent::start();
    let _servers = servers(&agent, 3);
    let control = Control::start(&agent);
    control.until("all are on", |table| fit(table) == 3);
    control.until("ready", |table| table.missing.is_empty());
    let mut spans: Vec<Duration> = (0..9)
        .map(|_| {
            let begin = Instant::now();
            agent.set_check("app-1", "fail");
            control.until("off", |table| fit(table) == 2);
            let span = begin.elapsed();
            agent.set_check("app-1", "pass");
            control.until("on", |table| fit(table) == 3);
            span
        })
        .collect();
    spans.sort();
    eprintln!("check critical to off the rota, median: {:?}", spans[4]);
    assert!(spans[4] < Duration::from_millis(50), "{spans:?}");
}

#[test]
fn an_agent_that_comes_back_empty_takes_no_server_that_is_well() {
    let mut agent = Agent::start();
    let mut listeners = servers(&agent, 2);
    agent.put(
        "rota/p/config/routes/a",
        b"host = \"a.example\"\nservice = \"app\"",
    );
    let control = Control::start(&agent);
    let has_route = |table: &Snapshot| {
        let found = table.routes.find("a.example", "/");
        found.is_ok_and(|route| &*route.name == "a")
    };
    control.until("all is there", |table| {
        fit(table) == 2 && has_route(table) && table.missing.is_empty()
    });
    agent.kill();
    control.throughout(Duration::from_millis(500), "consul is down", |table| {
        fit(table) == 2 && has_route(table)
    });
    agent.restart_empty();
    control.until("it is doubted", |table| {
        let members = &table.services["app"].members;
        members.iter().all(|member| member.standing.doubt.is_some()) && !table.mistakes.is_empty()
    });
    control.throughout(Duration::from_secs(3), "consul is empty", |table| {
        fit(table) == 2 && has_route(table)
    });
    drop(listeners.pop());
    control.until("a server that is not well goes", |table| fit(table) == 1);
    control.throughout(Duration::from_secs(1), "the other stays", |table| {
        fit(table) == 1
    });
}

#[test]
fn documents_and_drains_of_the_pod_take_effect_live() {
    let agent = Agent::start();
    let listeners = servers(&agent, 2);
    let control = Control::start(&agent);
    control.until("ready", |table| fit(table) == 2 && table.missing.is_empty());
    agent.put(
        "rota/p/config/services/more",
        b"servers = [\"10.9.9.9:80\"]",
    );
    agent.put(
        "rota/p/config/routes/more",
        b"host = \"more.example\"\nservice = \"more\"",
    );
    control.until("a route of KV", |table| {
        let found = table.routes.find("more.example", "/x");
        found.is_ok_and(|route| route.service.members.len() == 1)
    });
    agent.put("rota/p/config/tuning", b"[limits]\nconnections = 4321");
    control.until("tuning", |table| table.limits.connections == 4321);
    agent.put("rota/p/config/tuning", b"[limits]\nconnections = \"no\"");
    control.until("a mistake", |table| table.mistakes.len() == 1);
    assert_eq!(control.reader.load().limits.connections, 4321);
    let server = listeners[0].local_addr().unwrap().to_string();
    let target = Target::Server(ServiceName::parse("app").unwrap(), server);
    let drain = Order::Drain {
        target: target.clone(),
        reach: Reach::Pod,
        by: "alice".into(),
        lasting: None,
    };
    control
        .runtime
        .block_on(control.handle.order(drain))
        .unwrap();
    control.until("drained", |table| fit(table) == 1);
    let undrain = Order::Undrain {
        target,
        reach: Reach::Pod,
        by: "alice".into(),
    };
    control
        .runtime
        .block_on(control.handle.order(undrain))
        .unwrap();
    control.until("undrained", |table| fit(table) == 2);
    let pod = agent.must("GET", "/v1/kv/rota/p/pod?raw", b"").body;
    assert_eq!(pod.len(), 32, "{pod}");
}
