//! Consul dies, forgets, hangs or denies: clients notice nothing.

use std::time::Duration;

use super::consul_agent::Agent;
use super::support::load::{Load, Tally};
use super::support::{Rota, eventually};
use super::with_two_servers;

/// Load while `trouble` happens; nothing may fail.
fn nothing_fails(rota: &Rota, trouble: impl FnOnce()) -> Tally {
    let load = Load::new(rota.http(), 8).rate(300).start();
    trouble();
    let tally = load.finish();
    assert_eq!(tally.failed(), 0, "{:?} {:?}", tally.statuses, tally.errors);
    tally
}

fn pause(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

#[test]
fn consul_killed_and_started_again_empty_costs_no_request() {
    let mut agent = Agent::start();
    let (rota, _one, _two) = with_two_servers(&agent);
    let tally = nothing_fails(&rota, || {
        agent.kill();
        pause(3);
        agent.restart_empty();
        pause(3);
    });
    assert_eq!(
        tally.bodies.len(),
        2,
        "both servers serve on: {:?}",
        tally.bodies
    );
}

#[test]
fn the_age_of_what_is_known_is_told() {
    let mut agent = Agent::start();
    let (rota, _one, _two) = with_two_servers(&agent);
    assert!(rota.metric("rota_discovery_age_seconds", &[]) < 5.0);
    agent.kill();
    eventually("it grows while Consul is away", || {
        rota.metric("rota_discovery_age_seconds", &[]) > 2.0
    });
    agent.restart();
    eventually("it is small again", || {
        rota.metric("rota_discovery_age_seconds", &[]) < 1.0
    });
}

#[test]
fn a_watch_comes_back_soon_after_consul_does() {
    let mut agent = Agent::start();
    let (rota, one, two) = with_two_servers(&agent);
    agent.kill();
    pause(3);
    agent.restart_empty();
    agent.register_passing("app", "one", one.address().port());
    agent.register_passing("app", "two", two.address().port());
    agent.set_check("one", "fail");
    let begin = std::time::Instant::now();
    rota.wait_until_down("app", one.address());
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn all_servers_deregistered_by_mistake_serve_on_while_they_are_well() {
    let agent = Agent::start();
    let (rota, one, two) = with_two_servers(&agent);
    nothing_fails(&rota, || {
        agent.deregister("one");
        agent.deregister("two");
        pause(2);
        agent.register_passing("app", "one", one.address().port());
        agent.register_passing("app", "two", two.address().port());
        pause(1);
    });
}

#[test]
fn an_agent_that_hangs_costs_no_request() {
    let agent = Agent::start();
    let (rota, _one, _two) = with_two_servers(&agent);
    nothing_fails(&rota, || {
        agent.signal("STOP");
        pause(3);
        agent.signal("CONT");
        pause(1);
    });
}

#[test]
fn a_drain_here_works_while_consul_is_down() {
    let mut agent = Agent::start();
    let (one, two) = (super::Origin::fixed("one"), super::Origin::fixed("two"));
    agent.register_passing("app", "one", one.address().port());
    agent.register_passing("app", "two", two.address().port());
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    let rota = super::Place::new().start(&format!("{socket}{}", super::app(&agent)));
    super::eventually_answers(&rota, &["one", "two"]);
    agent.kill();
    let target = format!("app/{}", one.address());
    assert!(rota.command(&["drain", &target, "--here"]).status.success());
    super::eventually_answers(&rota, &["two"]);
}

#[test]
fn a_drain_of_the_whole_pod_goes_through_consul() {
    let agent = Agent::start();
    let (one, two) = (super::Origin::fixed("one"), super::Origin::fixed("two"));
    agent.register_passing("app", "one", one.address().port());
    agent.register_passing("app", "two", two.address().port());
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    let first = super::Place::new().start(&format!("{socket}{}", super::app(&agent)));
    let second = super::Place::new().start(&super::app(&agent));
    super::eventually_answers(&second, &["one", "two"]);
    let target = format!("app/{}", one.address());
    let output = first.command(&["drain", &target]);
    assert!(
        output.status.success(),
        "{}",
        super::support::rota::said(&output)
    );
    super::eventually_answers(&first, &["two"]);
    super::eventually_answers(&second, &["two"]);
    assert!(first.command(&["undrain", &target]).status.success());
    super::eventually_answers(&second, &["one", "two"]);
}
