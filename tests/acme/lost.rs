//! Promises about a Consul that lost its state: what the load balancers hold comes back, so that whoever joins has it without an order.

use super::faults::World;
use super::fleet::{PREFIX, at_the_ca, place, within_a_minute};
use super::pebble::Pebble;
use super::support::Rota;
use super::{HOURS, is_served, leaf};

const NAMES: [&str; 3] = ["a.test", "b.test", "c.test"];

/// The names stand in the file: documents in KV are the operator's to write again.
fn file(world: &World, node: &str) -> String {
    let domain = |name: &str| format!("[[domain]]\nname = \"{name}\"\nservice = \"app\"\n");
    format!("{}{}", world.file(node), NAMES.map(domain).concat())
}

/// What lies in KV below a key; nothing while Consul is about to be there again.
fn keys_below(world: &World, below: &str) -> Vec<String> {
    let path = format!("/v1/kv/{PREFIX}/{below}?keys");
    let keys = world.agent.try_call("GET", &path, b"");
    let keys = keys.map(|answer| answer.body).unwrap_or_default();
    serde_json::from_str(&keys).unwrap_or_default()
}

/// Names that the index names.
fn indexed(world: &World) -> usize {
    let shards = keys_below(world, "acme/index/").into_iter();
    let names = shards.map(|key| {
        let shard = world.agent.must("GET", &format!("/v1/kv/{key}?raw"), b"");
        let shard: serde_json::Value = serde_json::from_str(&shard.body).unwrap();
        shard.as_object().unwrap().len()
    });
    names.sum()
}

fn serve_all(world: &World, rotas: &[&Rota]) -> bool {
    NAMES.iter().all(|name| {
        let client = world.pebble.client(name);
        rotas.iter().all(|rota| is_served(rota, &client))
    })
}

fn are_back(world: &World) {
    within_a_minute("all is back", || {
        let accounts = keys_below(world, "acme/account/").len();
        let certificates = keys_below(world, "acme/certs/").len();
        (accounts, certificates, indexed(world)) == (2, NAMES.len(), NAMES.len())
    });
}

#[test]
fn a_store_that_lost_its_state_gets_back_what_is_held_and_who_joins_has_it_without_an_order() {
    let mut world = World::start(|port| Pebble::start(port, HOURS));
    let [one, other] = ["lb-1", "lb-2"].map(|node| place().start_unready(&file(&world, node)));
    world.front.send_to(&[&one, &other]);
    within_a_minute("all are served", || serve_all(&world, &[&one, &other]));
    let client = world.pebble.client("a.test");
    let before = leaf(&one, &client);

    world.agent.restart_empty();
    are_back(&world);
    let third = place().start(&file(&world, "lb-3"));
    assert!(serve_all(&world, &[&third]), "it is ready, so it has them");

    let all = format!("/v1/kv/{PREFIX}/?recurse");
    world.agent.must("DELETE", &all, b"");
    are_back(&world);
    let fourth = place().start(&file(&world, "lb-4"));
    let all = [&one, &other, &third, &fourth];
    assert!(serve_all(&world, &all), "nobody lost one");
    for rota in all {
        assert_eq!(leaf(rota, &client), before);
    }
    assert_eq!(at_the_ca(&world.pebble), (NAMES.len(), NAMES.len()));
    let log = world.pebble.log();
    assert!(!log.contains("There are now 2 accounts"), "{log}");
}

#[test]
fn what_somebody_takes_out_of_a_store_that_is_whole_does_not_come_back() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    let rota = place().start_unready(&file(&world, "lb-1"));
    world.front.send_to(&[&rota]);
    within_a_minute("all are served", || serve_all(&world, &[&rota]));
    // An account that is gone, too, is no proof: the pod is the one that it was.
    let gone = ["acme/account/", "acme/certs/", "acme/index/"];
    for below in gone {
        let path = format!("/v1/kv/{PREFIX}/{below}?recurse");
        world.agent.must("DELETE", &path, b"");
    }
    within_a_minute("it is doubted", || {
        rota.log().contains("what is known stays")
    });
    assert!(serve_all(&world, &[&rota]));
    assert_eq!(keys_below(&world, "acme/certs/"), [""; 0]);
}
