//! Documents in KV take effect live; a wrong one changes nothing and hurts no other.

use std::time::Duration;

use super::consul_agent::Agent;
use super::support::rota::{PLAIN, Place};
use super::support::{Origin, Rota, eventually, stays};
use super::{PREFIX, consul, document};

fn start(agent: &Agent) -> Rota {
    Place::new().start_unready(&format!("{}{PLAIN}", consul(agent)))
}

fn service(origin: &Origin) -> String {
    format!(r#"{{"servers": ["{}"]}}"#, origin.address())
}

fn eventually_says(rota: &Rota, host: &str, body: &str) {
    eventually(&format!("{host} says {body}"), || {
        rota.get(host, "/").text() == body
    });
}

#[test]
fn services_and_routes_come_change_and_go_live() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    document(&agent, "services/shop", &service(&one));
    document(
        &agent,
        "routes/shop",
        "host = \"shop.test\"\nservice = \"shop\"\n",
    );
    eventually_says(&rota, "shop.test", "one");
    document(&agent, "services/shop", &service(&two));
    eventually_says(&rota, "shop.test", "two");
    document(
        &agent,
        "routes/more",
        r#"{"host": "more.test", "service": "shop"}"#,
    );
    eventually_says(&rota, "more.test", "two");
    agent.delete(&format!("{PREFIX}/config/routes/shop"));
    eventually("the route is gone", || {
        rota.get("shop.test", "/").status == 404
    });
    assert_eq!(rota.get("more.test", "/").text(), "two");
}

#[test]
fn tuning_is_for_the_whole_pod_and_live() {
    let agent = Agent::start();
    let origin = Origin::fixed("ok");
    let rota = start(&agent);
    document(&agent, "services/app", &service(&origin));
    document(&agent, "routes/app", "host = \"*\"\nservice = \"app\"");
    eventually_says(&rota, "a", "ok");
    let long = format!("/{}", "x".repeat(2000));
    assert_eq!(rota.get("a", &long).status, 200);
    document(&agent, "tuning", "[limits]\ntarget_bytes = \"1KiB\"\n");
    eventually("the limit is in force", || {
        rota.get("a", &long).status == 414
    });
}

#[test]
fn a_wrong_document_changes_nothing_is_named_and_hurts_no_other() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    document(&agent, "services/shop", &service(&one));
    document(
        &agent,
        "routes/shop",
        "host = \"shop.test\"\nservice = \"shop\"",
    );
    eventually_says(&rota, "shop.test", "one");
    document(&agent, "services/shop", r#"{"serverz": ["127.0.0.1:1"]}"#);
    document(
        &agent,
        "routes/other",
        "host = \"other.test\"\nservice = \"other\"",
    );
    document(&agent, "services/other", &service(&two));
    eventually_says(&rota, "other.test", "two");
    assert_eq!(
        rota.get("shop.test", "/").text(),
        "one",
        "the last good version is in force"
    );
    let status = rota.admin_get("/v1/status").text();
    assert!(
        status.contains("serverz") && status.contains("services/shop"),
        "{status}"
    );
    assert!(rota.log().contains("serverz"), "{}", rota.log());
    assert!(rota.metric("rota_config_errors", &[]) >= 1.0);
    document(&agent, "services/shop", &service(&two));
    eventually_says(&rota, "shop.test", "two");
    eventually("nothing is wrong any more", || {
        rota.metric("rota_config_errors", &[]) == 0.0
    });
}

#[test]
fn a_key_that_nobody_reads_is_named_until_it_is_gone() {
    let agent = Agent::start();
    let origin = Origin::fixed("ok");
    let rota = start(&agent);
    document(&agent, "service/app", &service(&origin));
    document(&agent, "services/app", &service(&origin));
    document(&agent, "routes/app", "host = \"*\"\nservice = \"app\"");
    eventually_says(&rota, "a", "ok");
    eventually("it is named", || {
        let status = rota.admin_get("/v1/status").text();
        status.contains("kv:rota/test/config/service\"")
    });
    assert_eq!(rota.metric("rota_config_errors", &[]), 1.0);
    assert!(rota.log().contains("nobody reads this"), "{}", rota.log());
    agent.delete(&format!("{PREFIX}/config/service/app"));
    eventually("nothing is wrong any more", || {
        rota.metric("rota_config_errors", &[]) == 0.0
    });
}

#[test]
fn of_two_documents_that_claim_one_host_the_older_wins_and_the_loser_is_named() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    document(&agent, "services/one", &service(&one));
    document(&agent, "services/two", &service(&two));
    document(
        &agent,
        "routes/zz-first",
        "host = \"shop.test\"\nservice = \"one\"",
    );
    document(
        &agent,
        "routes/aa-second",
        "host = \"shop.test\"\nservice = \"two\"",
    );
    let rota = start(&agent);
    eventually_says(&rota, "shop.test", "one");
    eventually("the loser is named", || {
        rota.admin_get("/v1/status").text().contains("aa-second")
    });
    agent.delete(&format!("{PREFIX}/config/routes/zz-first"));
    eventually_says(&rota, "shop.test", "two");
}

#[test]
fn documents_that_vanish_all_at_once_stay_in_force() {
    let mut agent = Agent::start();
    let origin = Origin::fixed("ok");
    let rota = start(&agent);
    document(&agent, "services/app", &service(&origin));
    document(&agent, "routes/app", "host = \"*\"\nservice = \"app\"");
    eventually_says(&rota, "a", "ok");
    agent.restart_empty();
    stays("the last good documents", Duration::from_secs(3), || {
        rota.get("a", "/").text() == "ok"
    });
}

#[test]
fn the_file_wins_over_a_document_of_the_same_name() {
    let agent = Agent::start();
    let (file, kv) = (Origin::fixed("file"), Origin::fixed("kv"));
    document(&agent, "services/app", &service(&kv));
    let config = format!(
        "{}{PLAIN}[[service]]\nname = \"app\"\nservers = [\"{}\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
        consul(&agent),
        file.address()
    );
    let rota = Place::new().start(&config);
    stays(
        "the file's servers serve",
        Duration::from_millis(500),
        || rota.get("a", "/").text() == "file",
    );
}
