//! Consul's servers die, forget, or are asked with a token that lost its rights.

use super::consul_agent::{ACL_DENY, Agent};
use super::{Pod, alone, pause};

/// What is done while nobody answers.
const MEANWHILE: &str =
    "meanwhile the last answers stay in force and nobody joins or leaves by consul's word";

/// Whether a change of the catalogue reaches every load balancer.
fn follows_again(pod: &Pod, agent: usize) {
    let port = pod.servers[0].address().port();
    let up = pod.servers.len() as f64;
    for (status, expected) in [("critical", up - 1.0), ("passing", up)] {
        pod.consul[agent].put_instance("app", "app-0", port, status);
        pod.everywhere("a check's word is followed", |rota| {
            rota.metric("rota_upstream_up", &[]) == expected
        });
    }
}

#[test]
fn a_leader_that_is_killed_costs_no_request_and_why_names_it_everywhere() {
    let mut pod = Pod::start(3, "{}", None);
    let leader = pod.consul.iter().position(Agent::is_leader).unwrap();
    pod.nothing_fails(|pod| {
        pod.consul[leader].kill();
        let told = pod.is_told(leader, &["consul: consul_unreachable since 20", MEANWHILE]);
        assert!(told.contains("what is known of it is "), "{told}");
        for number in (0..3).filter(|number| *number != leader) {
            // Now, or over already: the others elect another leader within seconds.
            pod.is_told(number, &["no_leader"]);
        }
        pod.consul[leader].spawn_again();
        assert!(pod.consul[leader].wait_until_ready());
        for number in 0..3 {
            pod.is_told(number, &["ago it was over: "]);
        }
    });
    follows_again(&pod, leader);
}

#[test]
fn servers_without_a_majority_cost_no_request_and_why_says_that_they_have_no_leader() {
    let mut pod = Pod::start(3, "{}", None);
    pod.nothing_fails(|pod| {
        pod.consul[0].kill();
        pod.consul[1].kill();
        let told = pod.is_told(2, &["consul: no_leader since 20", MEANWHILE]);
        assert!(told.contains(" 3 of 3 servers on the rota"), "{told}");
        let reason = [("reason", "no_leader")];
        assert_eq!(pod.rotas[2].metric("rota_discovery_trouble", &reason), 1.0);
        let age = pod.rotas[2].metric("rota_discovery_age_seconds", &[]);
        pause(2);
        let later = pod.rotas[2].metric("rota_discovery_age_seconds", &[]);
        assert!(later >= age + 1.5, "what is known grows old: {age} {later}");
        pod.consul[..2].iter_mut().for_each(Agent::spawn_again);
        assert!(pod.consul[..2].iter_mut().all(Agent::wait_until_ready));
        pod.is_told(2, &["ago it was over: no_leader from 20"]);
        assert_eq!(pod.rotas[2].metric("rota_discovery_trouble", &[]), 0.0);
    });
    follows_again(&pod, 2);
}

fn all_servers_killed_for(seconds: u64) {
    let mut pod = Pod::start(3, "{}", None);
    pod.nothing_fails(|pod| {
        pod.consul.iter_mut().for_each(Agent::kill);
        pod.everywhere("that Consul is away is told", |rota| {
            rota.metric("rota_discovery_failing", &[]) > 0.0
                && rota.log().contains("agent unreachable")
        });
        for number in 0..3 {
            pod.is_told(number, &["consul: consul_unreachable since 20", MEANWHILE]);
        }
        pause(seconds);
        pod.consul.iter_mut().for_each(Agent::spawn_again);
        assert!(pod.consul.iter_mut().all(Agent::wait_until_ready));
        pod.everywhere("all watches work again", |rota| {
            rota.metric("rota_discovery_failing", &[]) == 0.0
        });
        for number in 0..3 {
            pod.is_told(number, &["ago it was over: consul_unreachable from 20"]);
        }
    });
    follows_again(&pod, 0);
}

#[test]
fn all_servers_of_consul_killed_for_a_while_cost_no_request_and_why_names_it() {
    all_servers_killed_for(5);
}

#[test]
#[ignore = "it takes a minute"]
fn all_servers_of_consul_killed_for_a_minute_cost_no_request_and_why_names_it() {
    all_servers_killed_for(60);
}

#[test]
fn a_consul_that_comes_back_empty_costs_no_request_and_why_names_it() {
    let mut pod = Pod::start(3, "{}", None);
    pod.nothing_fails(|pod| {
        pod.consul.iter_mut().for_each(Agent::kill);
        pod.consul.iter().for_each(Agent::forget);
        pod.consul.iter_mut().for_each(Agent::spawn_again);
        assert!(pod.consul.iter_mut().all(Agent::wait_until_ready));
        pod.everywhere("why names the state that was lost", |rota| {
            pod.why(rota).contains("consul_state_lost")
        });
        for number in 0..3 {
            let words = [
                "consul: consul_state_lost since 20",
                "the pod's id is missing where it was",
                "servers that consul does not name stay while rota's own probes find them well",
                "rota accept documents takes consul's state as it is",
                "doubted  consul_state_lost for ",
            ];
            pod.is_told(number, &words);
        }
        pause(3);
    });
}

#[test]
fn a_token_that_loses_its_rights_costs_no_request_and_why_names_it() {
    let alone = alone();
    let consul = Agent::start_three(ACL_DENY);
    let read = "{ policy = \\\"read\\\" }";
    let token = consul[0].new_token(&format!(
        "key_prefix \\\"\\\" {{ policy = \\\"write\\\" }} service_prefix \\\"\\\" {read} node_prefix \\\"\\\" {read}"
    ));
    let mut pod = Pod::with(consul, 3, Some(&token.secret), alone);
    pod.nothing_fails(|pod| {
        pod.consul[0].take_rights(&token);
        for number in 0..3 {
            let words = [
                "consul: token_denied since 20",
                "refused by acl",
                "meanwhile what the token may not read stays as it was last read",
            ];
            pod.is_told(number, &words);
        }
        // A question that hangs is not woken by that; the next one is answered with nothing.
        let port = pod.servers[0].address().port();
        pod.consul[0].put_instance("app", "app-0", port, "warning");
        pod.everywhere("why names the token", |rota| {
            pod.why(rota).contains("hidden_by_acl")
        });
        pause(2);
    });
}
