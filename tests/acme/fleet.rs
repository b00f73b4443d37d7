//! Promises about a pod: several load balancers behind one name, one Consul, one CA that reaches any of them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::consul_agent::Agent;
use super::pebble::Pebble;
use super::support::rota::{Place, free_port, said};
use super::support::{Origin, Rota, Signal, eventually};
use super::{HOURS, KEY, is_served, leaf, orders, write_key_file};

/// Below it lies all that a pod shares.
pub(super) const PREFIX: &str = "rota/acme";

/// A port behind which the load balancers take turns, as behind a name with several addresses.
pub(super) struct Front {
    pub(super) port: u16,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    /// What comes is kept waiting.
    holds: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
}

impl Front {
    pub(super) fn new() -> Front {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let front = Front {
            port,
            targets: Arc::default(),
            holds: Arc::default(),
            came: Arc::default(),
        };
        let (targets, holds) = (front.targets.clone(), front.holds.clone());
        let came = front.came.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let turn = came.fetch_add(1, Relaxed);
                let (targets, holds) = (targets.clone(), holds.clone());
                std::thread::spawn(move || {
                    while holds.load(Relaxed) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    let targets = targets.lock().unwrap().clone();
                    if let Some(target) = targets.get(turn % targets.len().max(1)) {
                        let _ = carry(client, *target);
                    }
                });
            }
        });
        front
    }

    fn hold(&self) {
        self.holds.store(true, Relaxed);
    }

    fn let_go(&self) {
        self.holds.store(false, Relaxed);
    }

    pub(super) fn send_to(&self, rotas: &[&Rota]) {
        self.send_to_addresses(rotas.iter().map(|rota| rota.http()).collect());
    }

    fn send_to_addresses(&self, targets: Vec<SocketAddr>) {
        *self.targets.lock().unwrap() = targets;
    }
}

fn carry(client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    let (mut there, mut back) = ((client.try_clone()?, server.try_clone()?), (server, client));
    let up = std::thread::spawn(move || io::copy(&mut there.0, &mut there.1).map(drop));
    let _ = io::copy(&mut back.0, &mut back.1);
    let _ = back.1.shutdown(std::net::Shutdown::Both);
    let _ = back.0.shutdown(std::net::Shutdown::Both);
    let _ = up.join();
    Ok(())
}

/// A load balancer's file: all but its node's name is the same in each.
pub(super) fn file(node: &str, agent: &Agent, pebble: &Pebble, origin: &Origin) -> String {
    format!(
        r#"
[node]
name = "{node}"
[consul]
address = "{}"
prefix = "{PREFIX}"
[[listener]]
name = "web"
address = "127.0.0.1:{{http}}"
protocol = "http"
[[listener]]
name = "web-tls"
address = "127.0.0.1:{{https}}"
protocol = "https"
{}key_file = "fleet.key"
[[service]]
name = "app"
servers = ["{}"]
"#,
        agent.http_address(),
        pebble.table(),
        origin.address(),
    )
}

pub(super) fn place() -> Place {
    let place = Place::new();
    write_key_file(&place.path().join("fleet.key"), &[KEY]);
    place
}

pub(super) fn allow(agent: &Agent, name: &str) {
    let key = format!("{PREFIX}/config/domains/{name}");
    agent.put(&key, br#"{"service": "app"}"#);
}

/// Longer than a session that nobody renews.
pub(super) fn within_a_minute(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(90), "not so: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Orders that the CA has heard of, and certificates that it issued.
pub(super) fn at_the_ca(pebble: &Pebble) -> (usize, usize) {
    let log = pebble.log();
    let count = |what: &str| log.matches(what).count();
    (count("Added order"), count("Issued certificate serial"))
}

#[test]
fn three_load_balancers_order_each_of_twenty_names_once_and_each_serves_them_all() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let names: Vec<String> = (0..20).map(|n| format!("n{n}.pod{n}.test")).collect();
    for name in &names {
        allow(&agent, name);
    }
    let start = |node: &str| place().start_unready(&file(node, &agent, &pebble, &origin));
    let rotas = ["lb-1", "lb-2", "lb-3"].map(start);
    let all: Vec<&Rota> = rotas.iter().collect();
    front.send_to(&all);
    within_a_minute("each serves all", || {
        let mut pairs = all
            .iter()
            .flat_map(|rota| names.iter().map(move |name| (rota, name)));
        pairs.all(|(rota, name)| {
            rota.assert_running();
            is_served(rota, &pebble.client(name))
        })
    });
    for name in &names {
        let client = pebble.client(name);
        let leaves = rotas.each_ref().map(|rota| leaf(rota, &client));
        assert!(leaves.iter().all(|one| *one == leaves[0]), "{name}");
    }
    assert_eq!(at_the_ca(&pebble), (20, 20));
    let ordered = rotas.each_ref().map(|rota| orders(rota, "ok"));
    assert_eq!(ordered.iter().sum::<f64>(), 20.0, "{ordered:?}");
    assert!(pebble.log().contains("There are now 1 accounts"));
    assert!(!pebble.log().contains("There are now 2 accounts"));
}

#[test]
fn who_joins_has_every_certificate_before_it_is_ready_and_orders_none() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let first = place().start_unready(&file("lb-1", &agent, &pebble, &origin));
    front.send_to(&[&first]);
    for name in ["a.test", "b.test"] {
        allow(&agent, name);
        within_a_minute(name, || is_served(&first, &pebble.client(name)));
    }
    let second = place().start(&file("lb-2", &agent, &pebble, &origin));
    for name in ["a.test", "b.test"] {
        let client = pebble.client(name);
        assert_eq!(leaf(&second, &client), leaf(&first, &client));
    }
    assert_eq!(at_the_ca(&pebble), (2, 2));
    assert_eq!(orders(&second, "ok") + orders(&second, "failed"), 0.0);
}

#[test]
fn the_order_of_a_load_balancer_that_was_killed_is_finished_by_another() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    front.hold();
    let start = |node: &str| place().start(&file(node, &agent, &pebble, &origin));
    let (one, other) = (start("lb-1"), start("lb-2"));
    allow(&agent, "shop.test");
    eventually("the ca looks", || front.came.load(Relaxed) > 0);
    let (holder, successor) = match holder_of(&agent, "shop.test").as_str() {
        "rota lb-1" => (one, other),
        "rota lb-2" => (other, one),
        holder => panic!("{holder}"),
    };
    holder.signal(Signal::KILL);
    front.send_to(&[&successor]);
    front.let_go();
    let client = pebble.client("shop.test");
    within_a_minute("another finishes it", || is_served(&successor, &client));
    assert_eq!(at_the_ca(&pebble), (1, 1));
    assert!(
        successor.log().contains("an order is resumed"),
        "{}",
        successor.log()
    );
    let left = agent.try_call("GET", &format!("/v1/kv/{PREFIX}/acme/orders/?keys"), b"");
    assert_eq!(left.unwrap().status, 404, "nothing is under way any more");
}

/// The name of the session that has the name's lock.
fn holder_of(agent: &Agent, name: &str) -> String {
    let lock = agent.must("GET", &format!("/v1/kv/{PREFIX}/acme/locks/{name}"), b"");
    let lock: serde_json::Value = serde_json::from_str(&lock.body).unwrap();
    let session = lock[0]["Session"].as_str().unwrap();
    let info = agent.must("GET", &format!("/v1/session/info/{session}"), b"");
    let info: serde_json::Value = serde_json::from_str(&info.body).unwrap();
    info[0]["Name"].as_str().unwrap().to_owned()
}

#[test]
fn a_proof_by_tls_alpn_01_is_shown_by_whichever_load_balancer_the_ca_reaches() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let words = serde_json::json!({ "tlsPort": front.port });
    let pebble = Pebble::start_with(1, HOURS, words);
    let start = |node: &str| {
        let text = file(node, &agent, &pebble, &origin);
        let by_tls = "key_file = \"fleet.key\"\nchallenge = \"tls-alpn-01\"\n";
        place().start(&text.replace("key_file = \"fleet.key\"\n", by_tls))
    };
    let rotas = ["lb-1", "lb-2", "lb-3"].map(start);
    front.send_to_addresses(rotas.iter().map(Rota::https).collect());
    allow(&agent, "a.test");
    for rota in &rotas {
        within_a_minute("a.test", || is_served(rota, &pebble.client("a.test")));
    }
    assert_eq!(at_the_ca(&pebble), (1, 1));
}

#[test]
fn a_certificate_of_the_store_that_cannot_be_opened_is_named_and_the_last_good_one_stays() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let rota = place().start_unready(&file("lb-1", &agent, &pebble, &origin));
    front.send_to(&[&rota]);
    for name in ["a.test", "b.test"] {
        allow(&agent, name);
        within_a_minute(name, || is_served(&rota, &pebble.client(name)));
    }
    let client = pebble.client("a.test");
    let before = leaf(&rota, &client);
    // Another's certificate in its place, under an index that says so.
    let value = |name: &str| {
        let path = format!("/v1/kv/{PREFIX}/acme/certs/{name}?raw");
        agent.must("GET", &path, b"").body
    };
    agent.put(
        &format!("{PREFIX}/acme/certs/a.test"),
        value("b.test").as_bytes(),
    );
    let shards = agent.must("GET", &format!("/v1/kv/{PREFIX}/acme/index/?keys"), b"");
    let shards: Vec<String> = serde_json::from_str(&shards.body).unwrap();
    for key in shards {
        let shard = agent.must("GET", &format!("/v1/kv/{key}?raw"), b"").body;
        let mut shard: serde_json::Value = serde_json::from_str(&shard).unwrap();
        if let Some(entry) = shard.get_mut("a.test") {
            entry["hash"] = "0123".into();
            agent.put(&key, shard.to_string().as_bytes());
        }
    }
    eventually("it is named", || {
        let shown = said(&rota.command(&["certs"]));
        let line = shown.lines().find(|line| line.starts_with("a.test"));
        line.is_some_and(|line| line.contains("changed since it was sealed"))
    });
    assert_eq!(leaf(&rota, &client), before);
    assert!(is_served(&rota, &pebble.client("b.test")));
    assert_eq!(at_the_ca(&pebble), (2, 2));
}

#[test]
fn who_joins_with_another_key_is_not_ready_says_why_and_holds_up_nobodys_order() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let first = place().start_unready(&file("lb-1", &agent, &pebble, &origin));
    front.send_to(&[&first]);
    allow(&agent, "a.test");
    within_a_minute("a.test", || is_served(&first, &pebble.client("a.test")));
    let stranger = Place::new();
    write_key_file(&stranger.path().join("fleet.key"), &[super::SECOND_KEY]);
    let text = file("lb-2", &agent, &pebble, &origin);
    let second = stranger.start_unready(&text);
    let why = "certificates: kv:rota/acme/acme/account/key: sealed with the key";
    eventually("it says why", || {
        let answer = second.admin_get("/readyz");
        answer.status == 503 && answer.text().contains(why)
    });
    let shown = said(&second.command(&["status"]));
    assert!(shown.contains(why), "{shown}");
    let start = Instant::now();
    allow(&agent, "b.test");
    within_a_minute("b.test", || is_served(&first, &pebble.client("b.test")));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    // A key that is appended mends it without a restart.
    write_key_file(
        &second.directory().join("fleet.key"),
        &[super::SECOND_KEY, KEY],
    );
    second.reload(&text);
    within_a_minute("it is ready", || second.readiness() == Some(200));
    for name in ["a.test", "b.test"] {
        let client = pebble.client(name);
        assert_eq!(leaf(&second, &client), leaf(&first, &client));
    }
}

#[test]
fn what_is_sealed_is_sealed_anew_for_the_pod_when_an_operator_says_so() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let place = place();
    let key = place.path().join("fleet.key");
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    let text = format!("{socket}{}", file("lb-1", &agent, &pebble, &origin));
    let rota = place.spawn(&text);
    eventually("it is ready", || {
        rota.directory().join("admin.sock").exists() && rota.readiness() == Some(200)
    });
    front.send_to(&[&rota]);
    allow(&agent, "a.test");
    within_a_minute("a.test", || is_served(&rota, &pebble.client("a.test")));
    let sealed = |key: &str| {
        let path = format!("/v1/kv/{PREFIX}/{key}?raw");
        agent.try_call("GET", &path, b"").unwrap().body
    };
    eventually("there are ticket keys", || {
        sealed("keys/tickets").contains(':')
    });
    let keys = ["acme/certs/a.test", "acme/account/key", "keys/tickets"];
    let before = keys.map(sealed);
    write_key_file(&key, &[super::SECOND_KEY, KEY]);
    rota.reload(&text);
    eventually("the file is read", || {
        rota.metric("rota_reloads_total", &[("outcome", "ok")]) == 1.0
    });
    let shown = said(&rota.command(&["certs", "rekey"]));
    assert!(shown.contains("sealed anew"), "{shown}");
    let key_of = |text: &str| text.split(':').nth(1).unwrap().to_owned();
    for (key, before) in keys.iter().zip(&before) {
        assert_ne!(key_of(&sealed(key)), key_of(before), "{key}");
    }
    let again = said(&rota.command(&["certs", "rekey"]));
    assert!(again.starts_with("0 values sealed anew"), "{again}");
    assert!(is_served(&rota, &pebble.client("a.test")));
    let _ = fs::remove_file(rota.directory().join("admin.sock"));
}

#[test]
fn a_certificate_of_the_store_that_cannot_be_opened_is_written_over_by_a_new_order() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    let text = format!("{socket}{}", file("lb-1", &agent, &pebble, &origin));
    let place = place();
    let rota = place.spawn(&text);
    eventually("it is ready", || {
        rota.directory().join("admin.sock").exists() && rota.readiness() == Some(200)
    });
    front.send_to(&[&rota]);
    allow(&agent, "a.test");
    let client = pebble.client("a.test");
    within_a_minute("a.test", || is_served(&rota, &client));
    let before = leaf(&rota, &client);
    agent.put(&format!("{PREFIX}/acme/certs/a.test"), b"garbage");
    rota.command(&["certs", "renew", "a.test"]);
    within_a_minute("another one is served", || leaf(&rota, &client) != before);
    assert_eq!(at_the_ca(&pebble), (2, 2));
    let _ = fs::remove_file(rota.directory().join("admin.sock"));
}

/// How many of these the index names, as it lies in KV.
fn indexed(agent: &Agent, names: &[&str]) -> usize {
    let path = format!("/v1/kv/{PREFIX}/acme/index/?keys");
    let shards = agent.try_call("GET", &path, b"").unwrap();
    let keys: Vec<String> = serde_json::from_str(&shards.body).unwrap_or_default();
    let count = |key: &String| {
        let shard = agent.must("GET", &format!("/v1/kv/{key}?raw"), b"").body;
        let shard: serde_json::Value = serde_json::from_str(&shard).unwrap_or_default();
        let is_named = |name: &&&str| shard[**name]["hash"].is_string();
        names.iter().filter(is_named).count()
    };
    keys.iter().map(count).sum()
}

#[test]
fn an_index_that_somebody_emptied_takes_no_certificate_out_of_service_and_orders_none_anew() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let names = ["a.test", "b.test", "c.test", "d.test"];
    let start = |node: &str| place().start_unready(&file(node, &agent, &pebble, &origin));
    let rota = start("lb-1");
    front.send_to(&[&rota]);
    for name in names {
        allow(&agent, name);
        within_a_minute(name, || is_served(&rota, &pebble.client(name)));
    }
    let forget = || {
        let all = format!("/v1/kv/{PREFIX}/acme/index/?recurse");
        agent.must("DELETE", &all, b"");
    };
    let are_named_again = |rota: &Rota| {
        within_a_minute("the index is whole again", || {
            for name in names {
                assert!(is_served(rota, &pebble.client(name)), "{name}");
            }
            indexed(&agent, &names) == names.len()
        });
    };
    forget();
    are_named_again(&rota);
    let path = format!("/v1/kv/{PREFIX}/acme/index/?keys");
    let shards: Vec<String> = serde_json::from_str(&agent.must("GET", &path, b"").body).unwrap();
    for text in ["{}", "no json", "{\"evil.test\":{}}"] {
        for key in &shards {
            agent.put(key, text.as_bytes());
        }
        are_named_again(&rota);
    }
    // Nobody is left who knows of them.
    drop(rota);
    forget();
    let rota = start("lb-2");
    for name in names {
        within_a_minute(name, || is_served(&rota, &pebble.client(name)));
    }
    assert_eq!(indexed(&agent, &names), names.len());
    assert_eq!(at_the_ca(&pebble), (names.len(), names.len()));
    // Of one that lies nowhere any more there is nothing to keep.
    let lost = format!("/v1/kv/{PREFIX}/acme/certs/a.test");
    agent.must("DELETE", &lost, b"");
    let joined = start("lb-3");
    front.send_to(&[&joined]);
    within_a_minute("a.test is there again", || {
        is_served(&joined, &pebble.client("a.test"))
    });
    assert_eq!(at_the_ca(&pebble), (names.len() + 1, names.len() + 1));
}

#[test]
fn a_pod_whose_account_was_taken_away_goes_on_with_the_one_that_a_newcomer_makes() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let start = |node: &str| place().start_unready(&file(node, &agent, &pebble, &origin));
    let one = start("lb-1");
    front.send_to(&[&one]);
    allow(&agent, "a.test");
    within_a_minute("a.test", || is_served(&one, &pebble.client("a.test")));
    let account = format!("/v1/kv/{PREFIX}/acme/account/?recurse");
    agent.must("DELETE", &account, b"");
    let other = start("lb-2");
    front.send_to(&[&other]);
    allow(&agent, "b.test");
    within_a_minute("b.test", || is_served(&other, &pebble.client("b.test")));
    // The first one is asked now, and has its orders answered by the second.
    front.send_to(&[&one, &other]);
    for name in ["c.test", "d.test", "e.test", "f.test"] {
        allow(&agent, name);
    }
    for name in ["c.test", "d.test", "e.test", "f.test"] {
        within_a_minute(name, || {
            [&one, &other]
                .iter()
                .all(|rota| is_served(rota, &pebble.client(name)))
        });
    }
    assert_eq!(orders(&one, "failed"), 0.0, "{}", one.log());
    assert_eq!(orders(&other, "failed"), 0.0, "{}", other.log());
}
