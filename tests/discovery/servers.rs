//! Which servers Consul names, and in what state.

use std::time::Duration;

use super::consul_agent::{ACL_DENY, Agent, MASTER_TOKEN};
use super::support::rota::{PLAIN, Place};
use super::support::{Origin, eventually, stays};
use super::{app, bodies, consul, eventually_answers, with_two_servers};

#[test]
fn a_critical_check_takes_a_server_off_and_a_passing_one_brings_it_back() {
    let agent = Agent::start();
    let (rota, one, _two) = with_two_servers(&agent);
    agent.set_check("one", "fail");
    rota.wait_until_down("app", one.address());
    eventually_answers(&rota, &["two"]);
    agent.set_check("one", "warn");
    eventually_answers(&rota, &["one", "two"]);
    agent.set_check("one", "pass");
    eventually_answers(&rota, &["one", "two"]);
}

#[test]
fn maintenance_is_followed_at_once_in_both_directions() {
    let agent = Agent::start();
    let (rota, one, _two) = with_two_servers(&agent);
    let maintenance = "/v1/agent/service/maintenance/one?reason=disk&enable=";
    agent.must("PUT", &format!("{maintenance}true"), b"");
    rota.wait_until_down("app", one.address());
    eventually_answers(&rota, &["two"]);
    agent.must("PUT", &format!("{maintenance}false"), b"");
    eventually_answers(&rota, &["one", "two"]);
    agent.must("PUT", "/v1/agent/maintenance?enable=true", b"");
    eventually("nobody serves on a node in maintenance", || {
        rota.get("a", "/").status == 503
    });
    agent.must("PUT", "/v1/agent/maintenance?enable=false", b"");
    eventually_answers(&rota, &["one", "two"]);
}

#[test]
fn the_log_says_once_who_left_the_rota_and_who_came_back() {
    let agent = Agent::start();
    let (rota, one, _two) = with_two_servers(&agent);
    let says = |words: &[&str]| {
        let log = rota.log();
        let told = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(told).count() == 1
    };
    let label = format!("server={}", one.address());
    agent.set_check("one", "fail");
    eventually("the log says who left", || {
        says(&[
            "WARN",
            "off the rota",
            "service=app",
            &label,
            "signal=\"consul\"",
            "reason=\"critical\"",
            "on=1 of=2",
        ])
    });
    agent.set_check("two", "fail");
    eventually("the log says that nobody is left", || {
        says(&["ERROR", "service=app", "nobody is on the rota"])
    });
    agent.set_check("one", "pass");
    eventually("the log says who came back", || {
        says(&["INFO", " on the rota", &label, "on=1 of=2"])
            && says(&["INFO", "service=app", "somebody is on the rota again"])
    });
}

#[test]
fn a_new_server_is_used_and_a_stopped_one_is_gone() {
    let agent = Agent::start();
    let (rota, _one, two) = with_two_servers(&agent);
    let three = Origin::fixed("three");
    agent.register_passing("app", "three", three.address().port());
    eventually_answers(&rota, &["one", "three", "two"]);
    two.stop();
    agent.deregister("two");
    eventually_answers(&rota, &["one", "three"]);
}

#[test]
fn weights_are_consuls_own_and_a_warning_changes_them() {
    let agent = Agent::start();
    let (heavy, light) = (Origin::fixed("heavy"), Origin::fixed("light"));
    for (origin, name, weight) in [(&heavy, "heavy", 3), (&light, "light", 1)] {
        agent.register(&format!(
            r#"{{"Name": "app", "ID": "{name}", "Address": "127.0.0.1", "Port": {}, "Weights": {{"Passing": {weight}, "Warning": 1}},
                "Check": {{"CheckID": "service:{name}", "TTL": "1h", "Status": "passing"}}}}"#,
            origin.address().port()
        ));
    }
    let rota = Place::new().start(&format!("[node]\nworkers = 1\n{}", app(&agent)));
    rota.wait_until_up("app", heavy.address());
    rota.wait_until_up("app", light.address());
    let share = || {
        let answers: Vec<_> = (0..40).map(|_| rota.get("a", "/").text()).collect();
        answers.iter().filter(|name| *name == "heavy").count()
    };
    assert_eq!(share(), 30);
    agent.set_check("heavy", "warn");
    eventually("the warning weight is in force", || share() == 20);
}

#[test]
fn an_empty_address_is_the_nodes_and_nonsense_hurts_nobody() {
    let agent = Agent::start();
    let one = Origin::fixed("one");
    let port = one.address().port();
    agent.register(&format!(
        r#"{{"Name": "app", "ID": "one", "Port": {port}}}"#
    ));
    agent.register(r#"{"Name": "app", "ID": "no-port", "Address": "127.0.0.1"}"#);
    agent.register(
        r#"{"Name": "app", "ID": "forbidden", "Address": "169.254.169.254", "Port": 80}"#,
    );
    let rota = Place::new().start(&app(&agent));
    eventually_answers(&rota, &["one"]);
    stays(
        "the others take no turn",
        Duration::from_millis(300),
        || bodies(&rota).len() == 1,
    );
    let forbidden = [("upstream", "169.254.169.254:80")];
    assert_eq!(
        rota.metric("rota_upstream_weight", &forbidden),
        0.0,
        "no upstream of ours"
    );
    assert!(
        rota.metrics().contains("169.254.169.254:80"),
        "but named among the mistakes"
    );
}

#[test]
fn loopback_servers_are_refused_unless_they_are_allowed() {
    let agent = Agent::start();
    let one = Origin::fixed("one");
    agent.register_passing("app", "one", one.address().port());
    let config = app(&agent).replace("allow_upstreams = [\"127.0.0.0/8\"]\n", "");
    let rota = Place::new().start_unready(&config);
    stays("it is never asked", Duration::from_millis(500), || {
        rota.get("a", "/").status == 503 && one.count() == 0
    });
}

#[test]
fn a_tag_chooses_among_a_services_servers() {
    let agent = Agent::start();
    let (blue, green) = (Origin::fixed("blue"), Origin::fixed("green"));
    for (origin, tag) in [(&blue, "blue"), (&green, "green")] {
        let port = origin.address().port();
        agent.register(&format!(
            r#"{{"Name": "app", "ID": "{tag}", "Tags": ["{tag}"], "Address": "127.0.0.1", "Port": {port}}}"#
        ));
    }
    let config = app(&agent).replace(
        "service = \"app\" }",
        "service = \"app\", tag = \"green\" }",
    );
    let rota = Place::new().start(&config);
    eventually_answers(&rota, &["green"]);
    stays("blue is never asked", Duration::from_millis(200), || {
        bodies(&rota).len() == 1
    });
}

#[test]
fn an_agent_that_denies_by_default_is_asked_with_the_token() {
    let agent = Agent::start_with(ACL_DENY);
    let one = Origin::fixed("one");
    agent.register_passing("app", "one", one.address().port());
    let place = Place::new().with_variable("CONSUL_HTTP_TOKEN", MASTER_TOKEN);
    let rota = place.start(&app(&agent));
    eventually_answers(&rota, &["one"]);
    assert!(
        !rota.log().contains(MASTER_TOKEN),
        "and nobody reads it in the log"
    );
    super::document(
        &agent,
        "routes/more",
        "host = \"more.test\"\nservice = \"app\"",
    );
    eventually("documents are read too", || {
        rota.admin_get("/v1/routes").text().contains("more.test")
    });
}

#[test]
fn without_consul_at_start_the_file_is_served_and_what_is_missing_is_said() {
    let mut agent = Agent::start();
    let (fixed, one) = (Origin::fixed("file"), Origin::fixed("one"));
    agent.register_passing("app", "one", one.address().port());
    let config = format!(
        "{}[[service]]\nname = \"fixed\"\nservers = [\"{}\"]\n[[route]]\nhost = \"file.test\"\nservice = \"fixed\"\n",
        app(&agent),
        fixed.address()
    );
    agent.kill();
    let rota = Place::new().start_unready(&config);
    assert_eq!(rota.get("file.test", "/").text(), "file");
    assert_eq!(rota.readiness(), Some(503));
    let missing = rota.admin_get("/readyz").text();
    assert!(missing.to_lowercase().contains("consul"), "{missing}");
    agent.restart();
    agent.register_passing("app", "one", one.address().port());
    rota.wait_until_ready();
    eventually("the servers are there", || {
        rota.get("a", "/").text() == "one"
    });
}

#[test]
fn a_route_may_stand_in_the_file_and_its_service_in_consul_only() {
    let agent = Agent::start();
    let one = Origin::fixed("one");
    agent.register_passing("web", "one", one.address().port());
    super::document(&agent, "services/shop", r#"{"consul": {"service": "web"}}"#);
    let config = format!(
        "{}{PLAIN}[[route]]\nhost = \"*\"\nservice = \"shop\"\n",
        consul(&agent)
    );
    let rota = Place::new().start_unready(&config);
    eventually("the document names the service", || {
        rota.get("a", "/").text() == "one"
    });
}
