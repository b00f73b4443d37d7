//! Certificates that a load balancer of a pod keeps on its own disk: HTTPS although Consul and the CA are down, and the pod's again
//! once Consul returns.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::consul_agent::Agent;
use super::fleet::{self, Front, PREFIX, allow, within_a_minute};
use super::pebble::Pebble;
use super::support::rota::{Place, said};
use super::support::{Client, Origin, Rota, Signal, eventually};
use super::{HOURS, copy_folder, is_served, leaf, orders};

/// Between the start of a process and what it is to serve, on a machine with other things to do.
const LENIENT: Duration = Duration::from_secs(5);

fn file(node: &str, agent: &Agent, pebble: &Pebble, origin: &Origin) -> String {
    let text = fleet::file(node, agent, pebble, origin);
    let text = text.replacen("[node]", "[node]\nstate_dir = \"state\"", 1);
    format!("[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{text}")
}

/// A place with what a process that has ended kept in another.
fn after(before: &Rota) -> Place {
    let place = fleet::place();
    copy_folder(
        &before.directory().join("state"),
        &place.path().join("state"),
    );
    place
}

fn kept(rota: &Rota, name: &str) -> std::path::PathBuf {
    rota.directory().join("state/kept/acme/certs").join(name)
}

fn is_sealed(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap();
    let body = text.lines().nth(1).unwrap();
    body.starts_with("rota1:") && !text.contains("PRIVATE")
}

#[test]
fn https_is_served_at_a_start_without_consul_and_the_stores_newer_certificate_wins_when_it_returns()
{
    let (mut agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let mut pebble = Pebble::start(front.port, HOURS);
    let start = |node: &str| fleet::place().start(&file(node, &agent, &pebble, &origin));
    let (one, other) = (start("lb-1"), start("lb-2"));
    front.send_to(&[&one, &other]);
    allow(&agent, "shop.test");
    let client = pebble.client("shop.test");
    within_a_minute("both serve it", || {
        is_served(&one, &client) && is_served(&other, &client)
    });
    let old = leaf(&one, &client);
    eventually("it is kept with its document", || {
        let table = one.directory().join("state/kept/table");
        kept(&one, "shop.test").exists() && table.exists()
    });
    assert!(is_sealed(&kept(&one, "shop.test")));
    // The table is kept a moment after its last change.
    std::thread::sleep(Duration::from_millis(2500));
    one.signal(Signal::KILL);
    one.wait();
    front.send_to(&[&other]);
    let said = said(&other.command(&["certs", "renew", "shop.test"]));
    within_a_minute(&said, || leaf(&other, &client) != old);
    agent.kill();
    pebble.kill();

    let text = file("lb-1", &agent, &pebble, &origin);
    let place = after(&one);
    let start = Instant::now();
    let again = place.spawn(&text);
    let is_there = || {
        let connected = Client::connect_tls(again.https(), &client);
        connected.is_ok_and(|mut client| client.get("shop.test", "/").text() == "ok")
    };
    eventually("https is served", is_there);
    let took = start.elapsed();
    println!("https served {took:?} after its start, with Consul and the CA down");
    assert!(took < LENIENT, "{took:?}");
    again.wait_until_ready();
    assert!(
        start.elapsed() < LENIENT,
        "ready after {:?}",
        start.elapsed()
    );
    assert_eq!(leaf(&again, &client), old);

    agent.restart();
    let new = leaf(&other, &client);
    eventually("the newer one wins", || leaf(&again, &client) == new);
    assert_eq!(orders(&again, "ok") + orders(&again, "failed"), 0.0);
}

#[test]
fn a_certificate_that_the_pod_has_no_more_is_not_remembered_for_ever() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let rota = fleet::place().start(&file("lb-1", &agent, &pebble, &origin));
    front.send_to(&[&rota]);
    for name in ["a.test", "b.test"] {
        allow(&agent, name);
        within_a_minute(name, || is_served(&rota, &pebble.client(name)));
        eventually("it is kept", || kept(&rota, name).exists());
    }
    rota.signal(Signal::KILL);
    rota.wait();
    // Its name leaves, then the certificate with its entry in the index.
    agent.delete(&format!("{PREFIX}/config/domains/b.test"));
    agent.delete(&format!("{PREFIX}/acme/certs/b.test"));
    let place = after(&rota);
    let again = place.start(&file("lb-1", &agent, &pebble, &origin));
    for digit in "0123456789abcdef".chars() {
        let key = format!("{PREFIX}/acme/index/{digit}");
        let shard = agent
            .try_call("GET", &format!("/v1/kv/{key}?raw"), b"")
            .unwrap();
        if shard.body.contains("b.test") && !shard.body.contains("a.test") {
            agent.delete(&key);
        } else if shard.body.contains("b.test") {
            let mut entries: serde_json::Value = serde_json::from_str(&shard.body).unwrap();
            entries.as_object_mut().unwrap().remove("b.test");
            agent.put(&key, entries.to_string().as_bytes());
        }
    }
    within_a_minute("it is forgotten", || !kept(&again, "b.test").exists());
    assert!(kept(&again, "a.test").exists());
    assert!(is_served(&again, &pebble.client("a.test")));
}
