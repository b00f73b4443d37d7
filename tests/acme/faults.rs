//! Promises about a pod when something is wrong: everybody starts at once, a CA that stumbles or is away, strangers at the door.

use std::time::{Duration, Instant};

use super::consul_agent::Agent;
use super::fleet::{Front, PREFIX, allow, at_the_ca, file, place, within_a_minute};
use super::pebble::Pebble;
use super::support::client::handshake;
use super::support::rota::said;
use super::support::{Origin, Rota, eventually};
use super::{HOURS, is_served, leaf, orders};

/// What a pod has around it.
pub(super) struct World {
    pub(super) agent: Agent,
    pub(super) origin: Origin,
    pub(super) front: Front,
    pub(super) pebble: Pebble,
}

impl World {
    pub(super) fn start(pebble: impl FnOnce(u16) -> Pebble) -> World {
        let front = Front::new();
        World {
            // All load balancers share one agent here, and one address: more than its 200 connections a client.
            agent: Agent::start_with(r#"{"limits": {"http_max_conns_per_client": 2000}}"#),
            origin: Origin::fixed("ok"),
            pebble: pebble(front.port),
            front,
        }
    }

    pub(super) fn file(&self, node: &str) -> String {
        file(node, &self.agent, &self.pebble, &self.origin)
    }

    /// All at the same moment, and ready.
    pub(super) fn load_balancers(&self, count: usize) -> Vec<Rota> {
        let spawn = |number| place().spawn(&self.file(&format!("lb-{number}")));
        let rotas: Vec<Rota> = (0..count).map(spawn).collect();
        self.front.send_to(&rotas.iter().collect::<Vec<_>>());
        within_a_minute("all are ready", || {
            rotas.iter().all(|rota| rota.readiness() == Some(200))
        });
        rotas
    }

    pub(super) fn is_served_by(&self, rotas: &[Rota], name: &str) -> bool {
        let client = self.pebble.client(name);
        rotas.iter().all(|rota| is_served(rota, &client))
    }

    /// All that ACME keeps, as Consul has it.
    fn kept(&self) -> String {
        let path = format!("/v1/kv/{PREFIX}/acme/?recurse");
        self.agent.must("GET", &path, b"").body
    }
}

#[test]
fn thirteen_that_start_at_once_with_nothing_make_one_account_and_one_order_a_name() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    let names = ["a.test", "b.test", "c.test"];
    for name in names {
        allow(&world.agent, name);
    }
    let rotas = world.load_balancers(13);
    for name in names {
        within_a_minute(name, || world.is_served_by(&rotas, name));
    }
    assert_eq!(at_the_ca(&world.pebble), (3, 3));
    let log = world.pebble.log();
    assert!(log.contains("There are now 1 accounts") && !log.contains("There are now 2 accounts"));
}

#[test]
fn a_ca_that_rejects_half_of_all_nonces_costs_patience_and_no_second_order() {
    let world = World::start(|port| {
        let mut pebble = Pebble::prepare(port, HOURS);
        pebble.set("PEBBLE_WFE_NONCEREJECT", "50");
        pebble.launch();
        pebble
    });
    let names = ["a.test", "b.test", "c.test"];
    for name in names {
        allow(&world.agent, name);
    }
    let rotas = world.load_balancers(2);
    for name in names {
        within_a_minute(name, || world.is_served_by(&rotas, name));
    }
    assert_eq!(at_the_ca(&world.pebble).1, 3);
}

#[test]
fn a_pod_serves_what_it_has_while_the_ca_is_down_and_orders_by_itself_when_it_is_back() {
    let mut world = World::start(|port| Pebble::start(port, HOURS));
    allow(&world.agent, "old.test");
    let rotas = world.load_balancers(1);
    within_a_minute("old.test", || world.is_served_by(&rotas, "old.test"));
    let client = world.pebble.client("old.test");
    world.pebble.kill();
    allow(&world.agent, "new.test");
    let late = place().start(&world.file("late"));
    assert!(is_served(&late, &client), "it is ready, so it has it");
    eventually("the error is shown", || {
        let shown = said(&late.command(&["certs"]));
        let line = shown.lines().find(|line| line.starts_with("new.test"));
        line.is_some_and(|line| line.contains("none yet") && line.contains("refused"))
    });
    world.pebble.launch();
    let both = [rotas.into_iter().next().unwrap(), late];
    world.front.send_to(&both.iter().collect::<Vec<_>>());
    within_a_minute("new.test", || world.is_served_by(&both, "new.test"));
}

#[test]
fn a_flood_of_handshakes_for_unknown_names_orders_nothing_and_writes_nothing() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    allow(&world.agent, "shop.test");
    let rotas = world.load_balancers(1);
    within_a_minute("shop.test", || world.is_served_by(&rotas, "shop.test"));
    // Its lock is given back a moment after it is served.
    eventually("its order is over", || !world.kept().contains("/locks/"));
    let before = world.kept();
    let resident = || rotas[0].metric("process_resident_memory_bytes", &[]);
    let client = world.pebble.client("shop.test");
    let flood = |count: u32| {
        for number in 0..count {
            let mut unknown = client.clone();
            unknown.name = format!("x{number}.shop.test");
            let refused = handshake(rotas[0].https(), &unknown).err().unwrap();
            assert!(
                refused.to_string().contains("UnrecogniseName")
                    || refused.to_string().contains("UnrecognisedName"),
                "{refused}"
            );
        }
    };
    flood(500);
    let warm = resident();
    flood(3000);
    assert!(resident() - warm < 4e6, "{} bytes more", resident() - warm);
    assert_eq!(world.kept(), before);
    assert_eq!(at_the_ca(&world.pebble), (1, 1));
}

#[test]
fn certificates_of_seconds_are_renewed_once_for_the_pod_and_no_handshake_fails() {
    let world = World::start(|port| Pebble::start(port, 20));
    allow(&world.agent, "short.test");
    let rotas = world.load_balancers(3);
    within_a_minute("short.test", || world.is_served_by(&rotas, "short.test"));
    let client = world.pebble.client("short.test");
    let first = leaf(&rotas[0], &client);
    let start = Instant::now();
    let mut handshakes = 0;
    // A handshake that fails panics in `leaf`.
    while rotas.iter().any(|rota| leaf(rota, &client) == first) {
        handshakes += 1;
        assert!(start.elapsed() < Duration::from_secs(25), "not renewed");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(handshakes > 50, "{handshakes}");
    let (orders, issued) = at_the_ca(&world.pebble);
    assert_eq!(orders, issued, "one order a renewal, and none in vain");
    assert!(orders <= 3, "{orders}");
    assert!(world.pebble.log().contains("ARI: order"), "with `replaces`");
}

#[test]
fn a_restarted_load_balancer_finds_the_pods_back_off_and_asks_the_ca_no_sooner() {
    let world = World::start(|port| Pebble::start(port, HOURS));
    allow(&world.agent, super::BLOCKED);
    let rotas = world.load_balancers(1);
    let asked = || world.pebble.log().matches("rejectedIdentifier").count();
    let shows_error = |rota: &Rota| said(&rota.command(&["certs"])).contains("rejectedIdentifier");
    eventually("the refusal is shown", || shows_error(&rotas[0]));
    let before = asked();
    let other = world.load_balancers(1);
    eventually("another knows why without having asked", || {
        shows_error(&other[0])
    });
    assert_eq!(asked(), before);
}

#[test]
fn a_renewal_that_an_operator_asked_for_is_tried_again_by_whoever_is_left() {
    let mut world = World::start(|port| Pebble::start(port, HOURS));
    allow(&world.agent, "a.test");
    let home = place();
    let text = format!(
        "[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{}",
        world.file("asked")
    );
    let asked = home.spawn(&text);
    eventually("it is ready", || asked.readiness() == Some(200));
    world.front.send_to(&[&asked]);
    let asked = [asked];
    within_a_minute("a.test", || world.is_served_by(&asked, "a.test"));
    let [asked] = asked;
    let other = place().start(&world.file("other"));
    world.pebble.kill();
    let shown = said(&asked.command(&["certs", "renew", "a.test"]));
    assert!(shown.contains("is being ordered"), "{shown}");
    eventually("it has failed", || orders(&asked, "failed") >= 1.0);
    drop(asked);
    world.front.send_to(&[&other]);
    // Its root is another one, and what it issued before is not known.
    world.pebble.launch();
    let other = [other];
    within_a_minute("another one", || world.is_served_by(&other, "a.test"));
}
