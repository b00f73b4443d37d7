//! The load balancers of a pod beside each other: whoever is asked says who is behind, gone, or there twice.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::between::Between;
use super::consul_agent::Agent;
use super::staged::{route, service};
use super::support::rota::{PLAIN, Place, said};
use super::support::{Origin, Rota, Signal};
use super::{PREFIX, document};

/// What is told of a fleet takes a report, and the time that a change has to spread.
const PATIENCE: Duration = Duration::from_secs(90);

fn node(name: &str, consul: &str) -> Rota {
    Place::new().start(&format!(
        "[node]\nname = \"{name}\"\n[consul]\naddress = \"{consul}\"\nprefix = \"{PREFIX}\"\nallow_upstreams = [\"127.0.0.0/8\"]\n{PLAIN}"
    ))
}

fn view(rota: &Rota) -> Value {
    serde_json::from_str(&rota.admin_get("/v1/fleet").text()).unwrap()
}

/// Findings as `behind lb-2`.
fn findings(view: &Value) -> Vec<String> {
    let found = view["findings"].as_array().unwrap().iter();
    let word = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    found
        .map(|one| format!("{} {}", word(one, "finding"), word(one, "node")))
        .collect()
}

fn of<'a>(view: &'a Value, name: &str) -> Option<&'a Value> {
    view["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == name)
}

fn eventually_sees(rota: &Rota, what: &str, is_so: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    loop {
        let view = view(rota);
        if is_so(&view) {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}: {view:#}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All three see each other ready with the same table and the same revision.
fn eventually_agree(rotas: &[&Rota], revision: u64) {
    for rota in rotas {
        eventually_sees(rota, "all are there and agree", |view| {
            let nodes = view["nodes"].as_array().unwrap();
            let of_first = &nodes[0]["status"]["table"];
            nodes.len() == rotas.len()
                && nodes.iter().all(|one| {
                    one["state"] == "ready"
                        && one["status"]["table"] == *of_first
                        && one["status"]["revision"] == revision
                })
                && findings(view).is_empty()
        });
    }
}

#[test]
fn the_fleet_shows_one_lb_that_is_behind() {
    let agent = Agent::start();
    let way = Between::start(agent.http_address().trim_start_matches("http://"));
    let origin = Origin::fixed("one");
    document(&agent, "services/shop", &service(&origin));
    let rotas = [
        node("lb-0", &agent.http_address()),
        node("lb-1", &agent.http_address()),
        node("lb-2", &format!("http://{}", way.address)),
    ];
    eventually_agree(&rotas.each_ref(), 1);
    let output = rotas[0].command(&["fleet"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("lb-2"), "{}", said(&output));

    way.freeze("config/routes");
    document(&agent, "routes/shop", &route("shop.test", "shop"));
    for rota in &rotas[..2] {
        eventually_sees(rota, "lb-2 is told to be behind", |view| {
            let found = findings(view);
            found.contains(&"behind lb-2".to_owned())
                && found.contains(&"diverging lb-2".to_owned())
        });
        assert_eq!(rota.metric("rota_fleet_diverging", &[]), 1.0);
        assert_eq!(
            rota.metric("rota_fleet_findings", &[("finding", "behind")]),
            1.0
        );
    }
    // The one that is behind finds so itself, since both others agree.
    eventually_sees(&rotas[2], "it says so itself", |view| {
        findings(view).contains(&"diverging lb-2".to_owned())
    });
    let output = rotas[0].command(&["fleet"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("behind: lb-2: its documents are older"),
        "{}",
        said(&output)
    );
    assert!(rotas[0].log().contains("fleet: its documents are older"));

    way.thaw();
    eventually_agree(&rotas.each_ref(), 2);
}

#[test]
fn a_killed_lb_is_shown_as_gone_and_one_that_drained_as_left() {
    let agent = Agent::start();
    let start = |name: &str| node(name, &agent.http_address());
    let rotas = [start("lb-0"), start("lb-1"), start("lb-2")];
    eventually_agree(&rotas.each_ref(), 0);
    let version = &view(&rotas[0])["nodes"][1]["version"];
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    rotas[1].signal(Signal::KILL);
    assert!(rotas[2].stop().success());
    eventually_sees(&rotas[0], "one is gone, one has left", |view| {
        let state = |name| of(view, name).map(|one| one["state"].as_str().unwrap().to_owned());
        state("lb-1") == Some("gone".into()) && state("lb-2") == Some("left".into())
    });
    assert_eq!(findings(&view(&rotas[0])), ["gone lb-1"]);
    assert_eq!(
        rotas[0].metric("rota_fleet_nodes", &[("state", "gone")]),
        1.0
    );
    assert_eq!(
        rotas[0].metric("rota_fleet_nodes", &[("state", "live")]),
        1.0
    );
}

#[test]
fn two_processes_of_one_name_are_told_by_both_and_by_others() {
    let agent = Agent::start();
    let start = |name: &str| node(name, &agent.http_address());
    let rotas = [start("lb-0"), start("lb-1"), start("lb-1")];
    for rota in &rotas {
        eventually_sees(rota, "two of one name", |view| {
            findings(view).contains(&"same_name lb-1".to_owned())
        });
    }
    assert_eq!(
        rotas[1].metric("rota_fleet_findings", &[("finding", "same_name")]),
        1.0
    );
    assert!(rotas[1].log().contains("two processes have this node.name"));
}

#[test]
fn a_fleet_whose_consul_is_down_is_shown_as_it_was() {
    let mut agent = Agent::start();
    let start = |name: &str| node(name, &agent.http_address());
    let rotas = [start("lb-0"), start("lb-1")];
    eventually_agree(&rotas.each_ref(), 0);
    agent.kill();
    eventually_sees(&rotas[0], "the watches that fail are told", |view| {
        findings(view).contains(&"stuck_watch lb-0".to_owned())
    });
    let seen = view(&rotas[0]);
    assert_eq!(of(&seen, "lb-1").unwrap()["state"], "ready");
    assert!(seen["heard_s"].as_u64().unwrap() >= 10, "{seen:#}");
    assert!(rotas[0].metric("rota_fleet_age_seconds", &[]) >= 10.0);
}

#[test]
fn a_load_balancer_without_consul_has_no_fleet() {
    let rota = Place::new().start(PLAIN);
    let output = rota.command(&["fleet"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("its own pod"), "{}", said(&output));
}
