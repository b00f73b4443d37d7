//! Doubts, and what an operator accepts of them: on one load balancer or on all, also while Consul is away.

use super::consul_agent::{ACL_DENY, Agent};
use super::support::rota::{Place, said};
use super::support::{Origin, Rota, eventually};
use super::{PREFIX, app, document, eventually_answers};

const SOCKET: &str = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";

/// Two load balancers of a pod, and servers `one` and `two`.
fn two_load_balancers(agent: &Agent) -> (Rota, Rota, Origin, Origin) {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    agent.register_passing("app", "one", one.address().port());
    agent.register_passing("app", "two", two.address().port());
    let named = |name: &str| {
        let text = format!("[node]\nname = \"{name}\"\n{SOCKET}{}", app(agent));
        Place::new().start(&text)
    };
    let (first, second) = (named("lb-1"), named("lb-2"));
    for rota in [&first, &second] {
        eventually_answers(rota, &["one", "two"]);
    }
    (first, second, one, two)
}

fn doubted(rota: &Rota) -> f64 {
    rota.metric("rota_upstream_doubted", &[("service", "app")])
}

fn succeeds(rota: &Rota, arguments: &[&str]) -> String {
    let output = rota.command(arguments);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

#[test]
fn what_one_operator_accepts_is_settled_on_all_load_balancers() {
    let agent = Agent::start();
    let (first, second, _one, _two) = two_load_balancers(&agent);
    agent.deregister("one");
    agent.deregister("two");
    for rota in [&first, &second] {
        eventually("both are doubted", || doubted(rota) == 2.0);
        assert_eq!(rota.get("a", "/").status, 200);
    }
    let message = succeeds(&first, &["accept", "app"]);
    assert!(
        message.contains("in the whole pod (servers doubted here until now: 2)"),
        "{message}"
    );
    for rota in [&first, &second] {
        eventually("both are gone", || rota.get("a", "/").status == 503);
        assert_eq!(rota.metric("rota_discovery_guard_active", &[]), 0.0);
    }
    assert!(!first.command(&["accept", "nobody"]).status.success());
}

#[test]
fn a_server_is_accepted_here_while_consul_is_down() {
    let mut agent = Agent::start();
    let (first, second, one, _two) = two_load_balancers(&agent);
    agent.deregister("one");
    agent.deregister("two");
    for rota in [&first, &second] {
        eventually("both are doubted", || doubted(rota) == 2.0);
    }
    agent.kill();
    let server = format!("app/{}", one.address());
    assert!(!first.command(&["accept", &server]).status.success());
    succeeds(&first, &["accept", &server, "--here"]);
    eventually_answers(&first, &["two"]);
    eventually_answers(&second, &["one", "two"]);
}

#[test]
fn the_last_route_goes_when_an_operator_accepts_the_documents() {
    let agent = Agent::start();
    let (first, second, _one, _two) = two_load_balancers(&agent);
    document(
        &agent,
        "routes/more",
        "host = \"more.test\"\nservice = \"app\"",
    );
    let has_it = |rota: &Rota| rota.admin_get("/v1/routes").text().contains("more.test");
    for rota in [&first, &second] {
        eventually("the route is there", || has_it(rota));
    }
    agent.delete(&format!("{PREFIX}/config/routes/more"));
    for rota in [&first, &second] {
        eventually("the routes are doubted", || {
            rota.metrics().contains("config/routes\"} 1")
        });
        assert!(has_it(rota));
    }
    let message = succeeds(&second, &["accept", "documents"]);
    assert!(
        message.contains("subtrees doubted here until now: 1"),
        "{message}"
    );
    for rota in [&first, &second] {
        eventually("the route is gone", || !has_it(rota));
        assert!(!rota.metrics().contains("config/routes\"} 1"));
    }
}

#[test]
fn why_names_a_token_that_lost_its_rights() {
    let agent = Agent::start_with(ACL_DENY);
    let one = Origin::fixed("one");
    agent.register_passing("app", "one", one.address().port());
    let read = "{ policy = \\\"read\\\" }";
    let token = agent.new_token(&format!(
        "key_prefix \\\"\\\" {{ policy = \\\"write\\\" }} service_prefix \\\"\\\" {read} node_prefix \\\"\\\" {read}"
    ));
    let place = Place::new().with_variable("CONSUL_HTTP_TOKEN", &token.secret);
    let rota = place.start(&app(&agent));
    eventually_answers(&rota, &["one"]);
    agent.take_rights(&token);
    // A question that hangs is not woken when the token loses its rights: the next one is.
    agent.set_check("one", "warn");
    eventually("why names the token", || {
        said(&rota.command(&["why", "app"])).contains("hidden_by_acl")
    });
    assert_eq!(rota.get("a", "/").text(), "one");
    assert!(
        rota.admin_get("/v1/status")
            .text()
            .contains("the token may not read the service")
    );
}
