//! What holds while thousands of requests are under way.

use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::rota::{Place, edge, edge_with};
use crate::support::{Origin, Rota, eventually};
use crate::{alone, echo_or, still_echoes, websocket};

fn weighted(weights: &[u32]) -> (String, Vec<Origin>) {
    let names = ["one", "two", "three", "four"];
    let origins: Vec<_> = weights
        .iter()
        .zip(names)
        .map(|(_, name)| Origin::fixed(name))
        .collect();
    origins.iter().for_each(Origin::stop_recording);
    let servers: Vec<_> = origins
        .iter()
        .zip(weights)
        .map(|(origin, weight)| {
            format!(
                "{{ address = \"{}\", weight = {weight} }}",
                origin.address()
            )
        })
        .collect();
    (
        edge_with(&format!("servers = [{}]", servers.join(", "))),
        origins,
    )
}

#[test]
fn shares_are_within_one_percent_of_weights_over_60_000_requests_and_2_workers() {
    let _alone = alone();
    let (config, _origins) = weighted(&[1, 2, 3]);
    let rota = Place::new().start(&format!("[node]\nworkers = 2\n{config}"));
    let tally = Load::new(rota.http(), 16).run_count(60_000);
    assert_eq!(tally.failed(), 0, "{:?}", tally.errors);
    let total = tally.total() as f64;
    for (name, weight) in [("one", 1.0), ("two", 2.0), ("three", 3.0)] {
        let share = tally.bodies[name] as f64 / total;
        let expected = weight / 6.0;
        assert!(
            (share - expected).abs() < 0.01 * expected.max(share),
            "{name}: {share} for {expected}"
        );
    }
}

#[test]
fn turns_are_smooth_and_exact_on_one_worker() {
    let _alone = alone();
    let (config, _origins) = weighted(&[1, 2, 3]);
    let rota = Place::new().start(&format!("[node]\nworkers = 1\n{config}"));
    let order: Vec<_> = (0..60).map(|_| rota.get("a", "/").text()).collect();
    for window in order.windows(6) {
        let count = |name: &str| window.iter().filter(|n| *n == name).count();
        assert_eq!(
            (count("one"), count("two"), count("three")),
            (1, 2, 3),
            "{window:?}"
        );
    }
    let three_in_a_row = order
        .windows(3)
        .any(|w| w.iter().all(|name| name == "three"));
    assert!(!three_in_a_row, "smooth: {order:?}");
}

#[test]
fn a_server_killed_under_load_costs_its_clients_nothing() {
    let _alone = alone();
    let origins: Vec<_> = ["one", "two", "three"].map(Origin::fixed).into();
    origins.iter().for_each(Origin::stop_recording);
    let servers: Vec<_> = origins.iter().map(Origin::address).collect();
    let rota = Rota::start(&edge(&servers));
    let load = Load::new(rota.http(), 32).rate(1500).start();
    std::thread::sleep(Duration::from_millis(500));
    origins[0].stop();
    rota.wait_until_down("app", servers[0]);
    std::thread::sleep(Duration::from_secs(1));
    origins[0].restart();
    rota.wait_until_up("app", servers[0]);
    std::thread::sleep(Duration::from_millis(500));
    let tally = load.finish();
    assert_eq!(tally.failed(), 0, "{:?} {:?}", tally.statuses, tally.errors);
    assert!(tally.total() > 1500, "{}", tally.total());
}

#[test]
fn reloads_under_load_cost_nothing_and_websockets_live_through_them() {
    let _alone = alone();
    let origins: Vec<_> = (0..2)
        .map(|_| Origin::start(|exchange| echo_or(exchange, "ok")))
        .collect();
    origins.iter().for_each(Origin::stop_recording);
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let rota = Rota::start(&edge(&addresses));
    let mut sockets: Vec<_> = (0..20).map(|_| websocket(&rota)).collect();
    let before = rota.generation();
    let load = Load::new(rota.http(), 16).rate(800).start();
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        number += 1;
        rota.reload(&edge_with(&format!(
            "servers = [\"{}\", \"{}\"]\npool = {}",
            addresses[0],
            addresses[1],
            100 + number % 2
        )));
        std::thread::sleep(Duration::from_millis(10));
    }
    let tally = load.finish();
    assert_eq!(tally.failed(), 0, "{:?} {:?}", tally.statuses, tally.errors);
    sockets.iter_mut().for_each(still_echoes);
    assert!(rota.generation() - before >= 10.0, "{}", rota.generation());
    let served = rota.metric(
        "rota_requests_total",
        &[("service", "app"), ("code", "200")],
    );
    assert!(
        served >= tally.total() as f64,
        "counters live through swaps: {served} of {}",
        tally.total()
    );
}

#[test]
fn memory_stays_flat_under_load() {
    let _alone = alone();
    let origin = Origin::fixed("ok");
    origin.stop_recording();
    let rota = Rota::start(&edge(&[origin.address()]));
    Load::new(rota.http(), 32).run_count(10_000);
    let before = rota.memory_kib("VmRSS");
    Load::new(rota.http(), 32).run_count(30_000);
    let after = rota.memory_kib("VmRSS");
    assert!(after < before + 4096, "{before} KiB, then {after} KiB");
    eventually("nothing is in flight", || {
        rota.metric("rota_upstream_in_flight", &[]) == 0.0
    });
}
