//! Customers' domains: a document in KV allows a name, live; a wrong one changes nothing and hurts no other.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::consul_agent::Agent;
use super::support::rota::{PLAIN, Place, said};
use super::support::{Origin, Rota, eventually};
use super::{PREFIX, consul, document};

/// A service `shop`, a route of all hosts to `other`, and `[acme]` with a CA that nobody reaches.
fn start(agent: &Agent, shop: &Origin, other: &Origin) -> Rota {
    let place = Place::new();
    let key = place.path().join("fleet.key");
    fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let service = |name: &str, origin: &Origin| {
        let address = origin.address();
        format!("[[service]]\nname = \"{name}\"\nservers = [\"{address}\"]\n")
    };
    place.start(&format!(
        "{}{PLAIN}{}{}[[route]]\nhost = \"*\"\nservice = \"other\"\n\
         [acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nkey_file = \"fleet.key\"\n[[domain]]\nname = \"file.test\"\n",
        consul(agent),
        service("shop", shop),
        service("other", other),
    ))
}

/// The line of `rota certs` about a name.
fn certificate_of(rota: &Rota, name: &str) -> Option<String> {
    let shown = said(&rota.command(&["certs"]));
    let line = shown.lines().find(|line| line.starts_with(name));
    line.map(str::to_owned)
}

fn eventually_waits_for_a_certificate(rota: &Rota, name: &str) {
    eventually(&format!("{name} waits, and it says why"), || {
        let line = certificate_of(rota, name).unwrap_or_default();
        let error = line.split("acme").nth(1).unwrap_or_default();
        line.contains("none yet") && !error.trim().is_empty()
    });
}

fn eventually_says(rota: &Rota, host: &str, body: &str) {
    eventually(&format!("{host} says {body}"), || {
        rota.get(host, "/").text() == body
    });
}

#[test]
fn a_domain_is_served_and_waits_for_a_certificate_as_soon_as_its_document_is_there_and_no_longer() {
    let agent = Agent::start();
    let (shop, other) = (Origin::fixed("shop"), Origin::fixed("other"));
    let rota = start(&agent, &shop, &other);
    eventually_waits_for_a_certificate(&rota, "file.test");
    document(&agent, "domains/a.test", r#"{"service": "shop"}"#);
    document(&agent, "domains/b.test", "{}");
    eventually_says(&rota, "a.test", "shop");
    eventually_waits_for_a_certificate(&rota, "a.test");
    eventually_waits_for_a_certificate(&rota, "b.test");
    assert_eq!(rota.get("b.test", "/").text(), "other", "it has no service");
    document(&agent, "routes/r", "host = \"r.test\"\nservice = \"shop\"");
    eventually_waits_for_a_certificate(&rota, "r.test");
    agent.delete(&format!("{PREFIX}/config/domains/a.test"));
    eventually_says(&rota, "a.test", "other");
    eventually("nobody wants a certificate any more", || {
        certificate_of(&rota, "a.test").is_none()
    });
    for name in ["b.test", "r.test", "file.test"] {
        assert!(certificate_of(&rota, name).is_some(), "{name}");
    }
    assert_eq!(rota.metric("rota_config_errors", &[]), 0.0);
}

#[test]
fn a_wrong_domain_changes_nothing_is_named_and_hurts_no_other() {
    let agent = Agent::start();
    let (shop, other) = (Origin::fixed("shop"), Origin::fixed("other"));
    let rota = start(&agent, &shop, &other);
    document(&agent, "domains/a.test", "service = \"shop\"");
    eventually_says(&rota, "a.test", "shop");
    document(&agent, "domains/a.test", "servise = \"other\"");
    document(&agent, "domains/localhost", "");
    document(&agent, "domains/late.test", "service = \"shop\"");
    eventually_says(&rota, "late.test", "shop");
    assert_eq!(
        rota.get("a.test", "/").text(),
        "shop",
        "the last good version"
    );
    eventually_waits_for_a_certificate(&rota, "a.test");
    let status = rota.admin_get("/v1/status").text();
    for part in [
        "config/domains/a.test",
        "servise",
        "config/domains/localhost",
    ] {
        assert!(status.contains(part), "{part}: {status}");
        assert!(rota.log().contains(part), "{part}: {}", rota.log());
    }
    assert_eq!(rota.metric("rota_config_errors", &[]), 2.0);
    document(&agent, "domains/a.test", "service = \"other\"");
    agent.delete(&format!("{PREFIX}/config/domains/localhost"));
    eventually_says(&rota, "a.test", "other");
    eventually("nothing is wrong any more", || {
        rota.metric("rota_config_errors", &[]) == 0.0
    });
}

#[test]
fn of_two_documents_that_claim_one_host_a_route_wins_and_among_domains_the_older() {
    let agent = Agent::start();
    let (shop, other) = (Origin::fixed("shop"), Origin::fixed("other"));
    document(&agent, "domains/shop.test", "service = \"shop\"");
    document(&agent, "domains/Shop.test", "service = \"other\"");
    let rota = start(&agent, &shop, &other);
    eventually_says(&rota, "shop.test", "shop");
    eventually("the younger is named", || {
        let status = rota.admin_get("/v1/status").text();
        status.contains("config/domains/Shop.test")
    });
    document(
        &agent,
        "routes/r",
        "host = \"shop.test\"\nservice = \"other\"",
    );
    eventually_says(&rota, "shop.test", "other");
    eventually("the domain is named", || {
        let status = rota.admin_get("/v1/status").text();
        status.contains("is taken by kv:rota/test/config/routes/r")
    });
}
