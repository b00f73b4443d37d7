//! Documents staged in a directory: shown as a plan before anything is written.

use std::fs;
use std::process::Output;

use super::consul_agent::Agent;
use super::support::rota::{Directory, PLAIN, Place, said};
use super::support::{Origin, Rota, eventually};
use super::{PREFIX, consul, document};

/// A pod's load balancer without a service in its file.
fn start(agent: &Agent) -> Rota {
    Place::new().start(&format!("{}{PLAIN}", consul(agent)))
}

fn service(origin: &Origin) -> String {
    format!("servers = [\"{}\"]\n", origin.address())
}

fn route(host: &str, service: &str) -> String {
    format!("host = \"{host}\"\nservice = \"{service}\"\n")
}

/// A directory with these files.
fn folder(files: &[(&str, String)]) -> Directory {
    let folder = Directory::new();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Runs `rota VERB DIR ARGUMENTS…`.
fn staged(rota: &Rota, verb: &str, folder: &Directory, arguments: &[&str]) -> Output {
    let path = folder.path().to_str().unwrap();
    rota.command(&[&[verb, path], arguments].concat())
}

fn keys(agent: &Agent, below: &str) -> String {
    let path = format!("/v1/kv/{PREFIX}/{below}?keys");
    agent.try_call("GET", &path, b"").unwrap().body
}

#[test]
fn a_plan_shows_what_would_change_and_ends_with_2_where_something_would() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    document(&agent, "services/shop", &service(&one));
    document(&agent, "routes/shop", &route("shop.test", "shop"));
    document(&agent, "routes/old", &route("old.test", "shop"));
    eventually("all is served", || {
        rota.get("shop.test", "/").text() == "one" && rota.get("old.test", "/").text() == "one"
    });
    let same = folder(&[
        ("services/shop.toml", service(&one)),
        ("routes/shop.toml", route("shop.test", "shop")),
        ("routes/old.toml", route("old.test", "shop")),
    ]);
    let output = staged(&rota, "plan", &same, &[]);
    assert_eq!(
        (output.status.code(), &*said(&output)),
        (Some(0), "no changes\n")
    );
    let other = folder(&[
        ("services/shop.toml", service(&one)),
        (
            "services/blog.json",
            format!("{{\"servers\": [\"{}\"]}}", two.address()),
        ),
        (
            "services/far.toml",
            "consul = { service = \"nobody-knows\" }".to_owned(),
        ),
        ("routes/shop.toml", route("shop.test", "blog")),
        ("routes/far.toml", route("far.test", "far")),
    ]);
    let output = staged(&rota, "plan", &other, &[]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for line in [
        "+ blog  1 server".to_owned(),
        "~ shop.test/  to blog instead of shop".to_owned(),
        "- old.test/  no more to shop".to_owned(),
        format!("+ blog/{}  shop.test/", two.address()),
        format!("- shop/{}  old.test/, shop.test/", one.address()),
        "- routes/old".to_owned(),
        "3 to add, 1 to change, 1 to remove".to_owned(),
    ] {
        assert!(
            told.lines().any(|known| known.trim() == line),
            "{line}: {told}"
        );
    }
    assert!(told.contains("consul names no instance"), "{told}");
    let json = staged(&rota, "plan", &other, &["--json"]);
    assert_eq!(json.status.code(), Some(2));
    let plan: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(plan["routes"].as_array().unwrap().len(), 3);
    assert!(plan["basis"]["routes/old"].as_u64().is_some());
    assert_eq!(
        rota.get("shop.test", "/").text(),
        "one",
        "nothing was changed"
    );
    assert!(!keys(&agent, "config/").contains("blog"));
}

#[test]
fn a_wrong_document_is_told_by_file_line_and_value_and_ends_with_1() {
    let agent = Agent::start();
    let rota = start(&agent);
    let wrong = folder(&[
        (
            "services/shop.toml",
            "servers = [\"127.0.0.1:99999\"]\n".to_owned(),
        ),
        (
            "routes/shop.toml",
            "host = \"shop.test\"\n\nservice = 7\n".to_owned(),
        ),
        ("domains/localhost.toml", String::new()),
    ]);
    let output = staged(&rota, "plan", &wrong, &[]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for words in [
        "routes/shop.toml:3: service = 7: expected",
        "services/shop.toml:1: servers[0] = \"127.0.0.1:99999\": expected",
        "domains/localhost.toml: no name for a document",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let elsewhere = folder(&[("service/shop.toml", String::new())]);
    let told = said(&staged(&rota, "plan", &elsewhere, &[]));
    assert!(told.contains("/service: nobody reads this"), "{told}");
}

#[test]
fn without_consul_there_is_nothing_to_plan_against() {
    let rota = Rota::start(PLAIN);
    let some = folder(&[("routes/a.toml", route("a.test", "app"))]);
    let output = staged(&rota, "plan", &some, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("there is no [consul]"),
        "{}",
        said(&output)
    );
}
