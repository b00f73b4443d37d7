//! Servers vanish from Consul's answers by mistake or on purpose, or their checks flap.

use std::time::{Duration, Instant};

use super::support::eventually;
use super::{Pod, pause};

#[test]
fn a_mass_deregistration_by_mistake_costs_no_request_and_is_alerted_within_a_second() {
    let mut pod = Pod::start(10, "{}", None);
    pod.nothing_fails(|pod| {
        (0..10).for_each(|number| pod.consul[1].remove_instance(&format!("app-{number}")));
        let begin = Instant::now();
        pod.everywhere("the guard is active", |rota| {
            rota.metric("rota_discovery_guard_active", &[("service", "app")]) == 1.0
        });
        let told = begin.elapsed();
        println!("deregistered -> alert metric on all three: {told:?}");
        assert!(told < Duration::from_secs(1), "{told:?}");
        pause(3);
        pod.everywhere("why names it", |rota| pod.why(rota).contains("all_lost"));
        pod.everywhere("all are kept", |rota| {
            rota.metric("rota_upstream_up", &[]) == 10.0
        });
    });
}

#[test]
fn a_scale_down_of_ten_to_two_costs_no_request_and_is_done_within_the_probes_fall_time() {
    let mut pod = Pod::start(10, "{}", None);
    pod.nothing_fails(|pod| {
        for (number, server) in pod.servers.iter().enumerate().skip(2) {
            pod.consul[1].remove_instance(&format!("app-{number}"));
            server.stop();
        }
        let begin = Instant::now();
        for rota in &pod.rotas {
            eventually("the eight are gone from the table", || {
                rota.metric("rota_upstream_weight", &[("service", "app")]) == 2.0
            });
        }
        let gone = begin.elapsed();
        println!("servers gone -> table of two on all three: {gone:?}");
        // Two probes a second apart, jittered, and a second of slack for a loaded machine.
        assert!(gone < Duration::from_secs(4), "{gone:?}");
    });
}

#[test]
fn a_flood_of_check_flaps_costs_no_request() {
    let mut pod = Pod::start(200, "{}", None);
    pod.nothing_fails(|pod| {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            for status in ["critical", "passing"] {
                for (number, server) in pod.servers.iter().enumerate() {
                    let port = server.address().port();
                    let id = format!("app-{number}");
                    pod.consul[number % 3].put_instance("app", &id, port, status);
                }
            }
        }
        pod.everywhere("all are on the rota again", |rota| {
            rota.metric("rota_upstream_up", &[]) == 200.0
        });
    });
    let why = pod.why(&pod.rotas[0]);
    assert!(
        why.contains("\"from\":\"passing\",\"to\":\"critical\""),
        "why names the flaps"
    );
}
