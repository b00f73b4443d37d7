//! The journal of a process that lived through something, replayed without it and without Consul.

use serde_json::Value;

use super::consul_agent::Agent;
use super::support::rota::{Place, run, said};
use super::support::{Origin, Rota, eventually};
use super::{app, document, eventually_answers};

/// With probes, a state directory and a socket for orders.
fn settings(agent: &Agent) -> String {
    let probes = "[service.health.active]\npath = \"/\"\ninterval = \"200ms\"\nfall = 2\nrise = 2\nheaders = { Authorization = \"s3cret\" }\n[[route]]";
    let settings = app(agent).replacen("[[route]]", probes, 1);
    format!(
        "[node]\nstate_dir = \"{{dir}}/state\"\n[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{settings}"
    )
}

/// Without what is measured, and without ages, which depend on when somebody asks.
fn told(mut view: Value) -> Value {
    match &mut view {
        Value::Object(keys) => {
            for measured in ["in_flight", "failures", "since_s", "ago_s", "because"] {
                keys.remove(measured);
            }
            let values = std::mem::take(keys).into_iter();
            *keys = values.map(|(key, value)| (key, told(value))).collect();
        }
        Value::Array(parts) => {
            let values = std::mem::take(parts).into_iter();
            *parts = values.map(told).collect();
        }
        _ => {}
    }
    view
}

fn live(rota: &Rota) -> (Value, Value) {
    let services: Value = serde_json::from_str(&rota.admin_get("/v1/services").text()).unwrap();
    let routes: Value = serde_json::from_str(&rota.admin_get("/v1/routes").text()).unwrap();
    (told(services), routes)
}

fn replayed(rota: &Rota, more: &[&str]) -> Value {
    let journal = rota.directory().join("state/journal");
    let journal = journal.to_str().unwrap();
    let output = run(&[&["replay", journal, "--json"], more].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_journal_replayed_gives_the_table_that_was_live_with_its_reasons() {
    let mut agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let three = Origin::fixed("three");
    for (name, origin) in [("one", &one), ("two", &two), ("three", &three)] {
        agent.register_passing("app", name, origin.address().port());
    }
    let rota = Place::new().start(&settings(&agent));
    eventually_answers(&rota, &["one", "three", "two"]);
    document(
        &agent,
        "routes/shop",
        "host = \"shop.test\"\nservice = \"app\"",
    );
    document(&agent, "routes/bad", "hots = \"shop.test\"");
    one.stop();
    rota.wait_until_down("app", one.address());
    agent.set_check("two", "fail");
    rota.wait_until_down("app", two.address());
    let target = format!("app/{}", three.address());
    assert!(rota.command(&["drain", &target, "--here"]).status.success());
    rota.wait_until_down("app", three.address());
    one.restart();
    rota.wait_until_up("app", one.address());
    eventually("the document is there", || {
        rota.admin_get("/v1/routes").text().contains("shop.test")
    });
    agent.kill();
    eventually("consul is known to be away", || {
        rota.metric("rota_discovery_failing", &[]) > 0.0
    });
    eventually("the same", || {
        let replayed = replayed(&rota, &[]);
        assert_eq!(replayed["notes"], Value::Array(Vec::new()));
        let table = (
            told(replayed["services"].clone()),
            replayed["routes"].clone(),
        );
        table == live(&rota)
    });
    let whole = replayed(&rota, &[]);
    assert!(
        whole["mistakes"].to_string().contains("routes/bad"),
        "{whole}"
    );
    let said = replayed(&rota, &["--why", "app"]).to_string();
    assert!(
        said.contains("\"drained\"") && said.contains("critical"),
        "{said}"
    );
    let journal = std::fs::read_dir(rota.directory().join("state/journal")).unwrap();
    for file in journal {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("s3cret"), "no secret is written");
    }
}
