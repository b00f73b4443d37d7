//! A pod of 1,000 services, 10,000 servers and 10,000 hosts in Consul: how soon one change is in force, and what it costs to wait for one.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::alone;
use crate::consul_agent::Agent;
use crate::figures::{cpu_by_plane, median, setting, spread};
use crate::support::rota::{PLAIN, Place};
use crate::support::{Client, Origin, Rota, eventually};

/// Issue 5's: milliseconds from a change to its swap, percent of a core at rest.
const BAR_MS: f64 = 50.0;
const BAR_PERCENT: f64 = 1.0;
const SERVICES: usize = 1_000;
const SERVERS: usize = 10;
const HOSTS: usize = 10_000;
/// Two services whose servers are there; the other ones' addresses lead nowhere.
const LIVE: [usize; 2] = [500, 501];
const PREFIX: &str = "figures";
/// What a transaction may have at most.
const AT_ONCE: usize = 64;

/// The servers of the two live services; each says who it is, as `500/0`.
struct Live([Vec<Origin>; 2]);

impl Live {
    fn start() -> Live {
        let server = |service, server| {
            let name = format!("{service}/{server}");
            let origin = Origin::start(move |exchange| exchange.answer(200, &[], name.as_bytes()));
            origin.stop_recording();
            origin
        };
        Live(LIVE.map(|service| (0..SERVERS).map(|number| server(service, number)).collect()))
    }

    /// Where a server of a service is.
    fn place(&self, service: usize, server: usize) -> (String, u16) {
        match LIVE.iter().position(|live| *live == service) {
            Some(which) => {
                let address = self.0[which][server].address();
                (address.ip().to_string(), address.port())
            }
            None => (
                format!("10.{}.{}.{}", service / 250, 1 + service % 250, 1 + server),
                8080,
            ),
        }
    }
}

fn node_of(service: usize, server: usize) -> String {
    format!("node-{}", (service * SERVERS + server) % 100)
}

/// An instance of a service, as a transaction takes it.
fn instance(live: &Live, service: usize, server: usize, weight: u32) -> String {
    let (address, port) = live.place(service, server);
    let node = node_of(service, server);
    format!(
        r#"{{"Service": {{"Verb": "set", "Node": "{node}", "Service": {{"ID": "many-{service}-{server}", "Service": "many-{service}",
            "Address": "{address}", "Port": {port}, "Weights": {{"Passing": {weight}, "Warning": 1}}}}}}}}"#
    )
}

fn check(service: usize, server: usize, status: &str) -> String {
    let node = node_of(service, server);
    format!(
        r#"{{"Check": {{"Verb": "set", "Check": {{"Node": "{node}", "CheckID": "service:many-{service}-{server}", "Name": "Service 'many-{service}' check",
            "Status": "{status}", "Output": "HTTP GET http://127.0.0.1:8080/healthz: 200 OK Output: well", "ServiceID": "many-{service}-{server}",
            "ServiceName": "many-{service}"}}}}}}"#
    )
}

fn document(path: &str, text: &str) -> String {
    let value = STANDARD.encode(text);
    format!(r#"{{"KV": {{"Verb": "set", "Key": "{PREFIX}/config/{path}", "Value": "{value}"}}}}"#)
}

fn route(host: usize, service: usize) -> String {
    let text = format!("host = \"shop-{host}.customer.test\"\nservice = \"many-{service}\"\n");
    document(&format!("routes/shop-{host}"), &text)
}

fn write(agent: &Agent, operations: &[String]) {
    for some in operations.chunks(AT_ONCE) {
        let text = format!("[{}]", some.join(","));
        agent.must("PUT", "/v1/txn", text.as_bytes());
    }
}

/// Of the first live service two servers take turns, so that a request or two tell whether one of them does.
fn fill(agent: &Agent, live: &Live) {
    let nodes = (0..100).map(|number| {
        format!(
            r#"{{"Node": {{"Verb": "set", "Node": {{"Node": "node-{number}", "Address": "10.9.9.{number}"}}}}}}"#
        )
    });
    let all = (0..SERVICES).flat_map(|service| (0..SERVERS).map(move |server| (service, server)));
    let instances = all.flat_map(|(service, server)| {
        let status = match service == LIVE[0] && server > 1 {
            true => "critical",
            false => "passing",
        };
        [
            instance(live, service, server, 1),
            check(service, server, status),
        ]
    });
    let services = (0..SERVICES).map(|service| {
        let text = format!("consul = {{ service = \"many-{service}\" }}\n");
        document(&format!("services/many-{service}"), &text)
    });
    let routes = (0..HOSTS).map(|host| route(host, host % SERVICES));
    let operations: Vec<String> = nodes
        .chain(instances)
        .chain(services)
        .chain(routes)
        .collect();
    write(agent, &operations);
}

fn start(agent: &Agent) -> Rota {
    let text = format!(
        "[node]\nstate_dir = \"state\"\n[consul]\naddress = \"{}\"\nprefix = \"{PREFIX}\"\nallow_upstreams = [\"127.0.0.0/8\"]\n{PLAIN}",
        agent.http_address()
    );
    let rota = Place::new().start_unready(&text);
    let begun = Instant::now();
    while rota.readiness() != Some(200) {
        assert!(begun.elapsed() < Duration::from_secs(60), "never ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    rota
}

/// A client that asks for one host again and again.
struct Watcher {
    client: Client,
    host: String,
}

impl Watcher {
    fn of(rota: &Rota, host: usize) -> Watcher {
        Watcher {
            client: Client::connect(rota.http()),
            host: format!("shop-{host}.customer.test"),
        }
    }

    fn next(&mut self) -> String {
        let answer = self.client.get(&self.host, "/");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Milliseconds from the moment before a change is written to the answer that shows it in force. The last two answers tell.
    fn until(&mut self, change: impl FnOnce(), is_so: impl Fn(&str, &str) -> bool + Send) -> f64 {
        let mut last = self.next();
        std::thread::scope(|scope| {
            let begun = Instant::now();
            let asking = scope.spawn(move || {
                loop {
                    let next = self.next();
                    if is_so(&last, &next) {
                        return begun.elapsed();
                    }
                    assert!(begun.elapsed() < Duration::from_secs(60), "never in force");
                    last = next;
                    // The cores are the agent's and rota's.
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
            change();
            asking.join().unwrap().as_secs_f64() * 1e3
        })
    }
}

/// Times of one kind of change, there and back by turns, and what they cost the control plane.
struct Kind {
    name: &'static str,
    times: Vec<f64>,
    cpu: f64,
}

impl Kind {
    /// `round` gives how long its change took.
    fn measure(
        name: &'static str,
        rota: &Rota,
        rounds: usize,
        mut round: impl FnMut(usize) -> f64,
    ) -> Kind {
        let begun = cpu_by_plane(rota).1;
        let mut times = Vec::new();
        for number in 0..rounds {
            times.push(round(number));
            // What follows from one change is not to be in the way of the next.
            std::thread::sleep(Duration::from_millis(500));
        }
        let cpu = (cpu_by_plane(rota).1 - begun) / 1e3 / rounds as f64;
        Kind { name, times, cpu }
    }

    fn print(&self) {
        println!(
            "figure: {SERVICES} services, {HOSTS} hosts: {}, from the write to the first answer by it: {} ms, {} rounds, {:.1} ms of the control plane's CPU each",
            self.name,
            spread(&self.times),
            self.times.len(),
            self.cpu
        );
    }
}

fn changes(agent: &Agent, live: &Live, rota: &Rota) -> [Kind; 3] {
    let rounds = setting("ROUNDS", 24) as usize;
    let mut watcher = Watcher::of(rota, LIVE[0]);
    let set = |status| write(agent, &[check(LIVE[0], 0, status)]);
    let first = |last: &str, next: &str| last != next;
    let second = |last: &str, next: &str| (last, next) == ("500/1", "500/1");
    eventually("both serve", || watcher.next() != watcher.next());
    let checks = Kind::measure("a check", rota, rounds, |round| match round % 2 {
        0 => watcher.until(|| set("critical"), second),
        _ => watcher.until(|| set("passing"), first),
    });
    let routes = Kind::measure("a route document", rota, rounds, |round| {
        let (host, to) = (LIVE[0] + round / 2 % 10 * SERVICES, LIVE[1 - round % 2]);
        let leads_to = move |_: &str, next: &str| next.starts_with(&to.to_string());
        Watcher::of(rota, host).until(|| write(agent, &[route(host, to)]), leads_to)
    });
    // Twice in four turns, which equal weights never give.
    let twice = |last: &str, next: &str| (last, next) == ("500/0", "500/0");
    let weights = Kind::measure("an instance's weight", rota, 4, |_| {
        let weigh = |weight| write(agent, &[instance(live, LIVE[0], 0, weight)]);
        let time = watcher.until(|| weigh(3), twice);
        weigh(1);
        eventually("weights are equal again", || {
            let turns: Vec<String> = (0..8).map(|_| watcher.next()).collect();
            turns.windows(2).all(|two| two[0] != two[1])
        });
        time
    });
    [checks, routes, weights]
}

/// Percent of a core that the process takes while nothing changes.
fn at_rest(rota: &Rota) -> f64 {
    let span = Duration::from_secs(setting("REST_SECONDS", 130));
    std::thread::sleep(Duration::from_secs(10));
    let (before, begun) = (rota.cpu_time(), Instant::now());
    std::thread::sleep(span);
    let spent = (rota.cpu_time() - before).as_secs_f64();
    let percent = 100.0 * spent / begun.elapsed().as_secs_f64();
    println!(
        "figure: {SERVICES} services, {HOSTS} hosts: at rest {percent:.2} % of a core over {} s, {} MiB of memory, at most {} MiB",
        span.as_secs(),
        rota.memory_kib("VmRSS") / 1024,
        rota.memory_kib("VmHWM") / 1024,
    );
    percent
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn one_change_among_a_thousand_services_and_ten_thousand_hosts() {
    let _alone = alone();
    let (agent, live) = (Agent::start(), Live::start());
    fill(&agent, &live);
    let begun = Instant::now();
    let rota = start(&agent);
    println!(
        "figure: {SERVICES} services, {HOSTS} hosts: ready {:.2} s after the start",
        begun.elapsed().as_secs_f64()
    );
    let kinds = changes(&agent, &live, &rota);
    kinds.iter().for_each(Kind::print);
    let percent = at_rest(&rota);
    for kind in &kinds[..2] {
        assert!(median(kind.times.clone()) < BAR_MS, "{}", kind.name);
    }
    assert!(percent < BAR_PERCENT, "{percent}");
}
