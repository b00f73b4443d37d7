//! Promises about what lies in Consul's KV and is damaged: what nobody can read counts as nothing, what others may read is left alone.

use std::time::{Duration, SystemTime};

use rota::seal::{Digest, Keyring, Secret};

use super::faults::World;
use super::fleet::{PREFIX, allow, at_the_ca, place, within_a_minute};
use super::pebble::Pebble;
use super::support::rota::said;
use super::support::{Authority, Rota};
use super::{HOURS, KEY, SECOND_KEY};

/// As a load balancer with this key file would have written it.
fn sealed(key_file: &str, key: &str, text: &str) -> String {
    let secret = Secret::from_base64(key_file).unwrap();
    Keyring::of(&[secret]).seal(key, text.as_bytes())
}

fn keys_below(world: &World, below: &str) -> Vec<String> {
    let path = format!("/v1/kv/{PREFIX}/{below}?keys");
    let keys = world.agent.try_call("GET", &path, b"").unwrap();
    serde_json::from_str(&keys.body).unwrap_or_default()
}

fn value(world: &World, key: &str) -> String {
    let path = format!("/v1/kv/{key}?raw");
    world.agent.must("GET", &path, b"").body
}

/// What `rota certs` says of a name.
fn line_of(rota: &Rota, name: &str) -> String {
    let shown = said(&rota.command(&["certs"]));
    let mut lines = shown.lines();
    let line = lines.find(|line| line.starts_with(name));
    line.unwrap_or_default().to_owned()
}

#[test]
fn what_nobody_can_read_is_named_once_and_written_over_by_the_next_order() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    allow(&world.agent, "a.shop.test");
    let rotas = world.load_balancers(1);
    within_a_minute("a.shop.test", || world.is_served_by(&rotas, "a.shop.test"));
    let mut damaged = keys_below(&world, "acme/budget/");
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    for key in &damaged {
        world.agent.put(key, b"[1, 2");
    }
    let of = |kind: &str| format!("{PREFIX}/acme/{kind}/b.shop.test");
    let whole = sealed(KEY, &of("orders"), "{\"directory\": \"\"}");
    let truncated = &whole.as_bytes()[..whole.len() / 2];
    world.agent.put(&of("orders"), truncated);
    world.agent.put(&of("proofs"), b"garbage");
    world
        .agent
        .put(&of("attempts"), b"{\"failures\": \"many\"}");
    damaged.extend(["orders", "proofs", "attempts"].map(of));
    allow(&world.agent, "b.shop.test");
    within_a_minute("b.shop.test", || world.is_served_by(&rotas, "b.shop.test"));
    assert_eq!(at_the_ca(&world.pebble), (2, 2));
    let log = rotas[0].log();
    for key in &damaged {
        assert_eq!(
            log.matches(&format!("kv:{key}: ")).count(),
            1,
            "{key}: {log}"
        );
    }
    for key in keys_below(&world, "acme/budget/") {
        assert!(!value(&world, &key).contains("[1, 2"), "{key}");
    }
}

#[test]
fn what_another_key_may_open_is_named_and_never_written_over() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    let rotas = world.load_balancers(1);
    let foreign = ["acme/orders/a.test", "acme/certs/b.test"].map(|key| {
        let key = format!("{PREFIX}/{key}");
        let value = sealed(SECOND_KEY, &key, "{}");
        world.agent.put(&key, value.as_bytes());
        (key, value)
    });
    for (name, (key, _)) in ["a.test", "b.test"].into_iter().zip(&foreign) {
        allow(&world.agent, name);
        within_a_minute("it is named", || {
            let line = line_of(&rotas[0], name);
            line.contains(&format!("kv:{key}")) && line.contains("which the key file does not have")
        });
    }
    for (key, before) in &foreign {
        assert_eq!(value(&world, key), *before);
    }
    assert_eq!(at_the_ca(&world.pebble), (0, 0));
}

#[test]
fn a_damaged_certificate_that_nobody_holds_is_ordered_anew() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    allow(&world.agent, "a.test");
    let rotas = world.load_balancers(1);
    within_a_minute("a.test", || world.is_served_by(&rotas, "a.test"));
    drop(rotas);
    let key = format!("{PREFIX}/acme/certs/a.test");
    let mut tampered = value(&world, &key);
    tampered.truncate(tampered.len() / 2);
    world.agent.put(&key, tampered.as_bytes());
    let rotas = world.load_balancers(1);
    within_a_minute("another one", || world.is_served_by(&rotas, "a.test"));
    assert_eq!(at_the_ca(&world.pebble), (2, 2));
}

#[test]
fn a_name_for_which_there_is_no_room_is_not_even_asked_for_its_proof() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    let strict = format!(
        "{}domain_orders = 1\n",
        world.pebble.table().replace("\"off\"", "\"require\"")
    );
    let text = world.file("lb-1").replace(&world.pebble.table(), &strict);
    let digest = Digest::of(world.pebble.directory().as_bytes()).to_hex();
    let budget = format!("{PREFIX}/acme/budget/domain/{}/shop.test", &digest[..16]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let begun = format!("[{}]", now.unwrap().as_secs());
    world.agent.put(&budget, begun.as_bytes());
    // Its proof would not be found: there is no such address.
    allow(&world.agent, "a.shop.test");
    let rota = place().start_unready(&text);
    within_a_minute("it says that there is no room", || {
        let line = line_of(&rota, "a.shop.test");
        assert!(
            !line.contains("preflight") && !line.contains("address"),
            "{line}"
        );
        line.contains("1 orders of shop.test began within 168 h")
    });
    assert_eq!(value(&world, &budget), begun);
    assert!(keys_below(&world, "acme/attempts/").is_empty());
}

#[test]
fn a_certificate_that_has_ended_takes_no_place_of_one_that_has_not() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    allow(&world.agent, "a.test");
    let rotas = world.load_balancers(2);
    within_a_minute("a.test", || world.is_served_by(&rotas, "a.test"));
    let ended = Authority::new().short_leaf(&["a.test"], Duration::ZERO);
    let record = serde_json::json!({
        "chain": &ended.certificate, "key": &ended.key, "directory": "https://ca.test/dir",
    });
    let key = format!("{PREFIX}/acme/certs/a.test");
    let value = sealed(KEY, &key, &record.to_string());
    world.agent.put(&key, value.as_bytes());
    let digit = Digest::of(b"a.test").to_hex()[..1].to_owned();
    let entry = serde_json::json!({"a.test": {
        "hash": Digest::of(ended.certificate.as_bytes()).to_hex(),
        "not_before": 1, "not_after": 2, "issuer": "CN=before", "at": 3,
    }});
    let shard = format!("{PREFIX}/acme/index/{digit}");
    world.agent.put(&shard, entry.to_string().as_bytes());
    for rota in &rotas {
        within_a_minute("it is refused", || {
            line_of(rota, "a.test").contains("the store's certificate has ended")
        });
    }
    assert!(world.is_served_by(&rotas, "a.test"));
}
