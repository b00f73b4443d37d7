//! Routes in the tags of Consul's services: live as they come, kept while Consul forgets, last among who claims a host.

use std::time::Duration;

use super::consul_agent::Agent;
use super::support::rota::{PLAIN, Place};
use super::support::{Origin, Rota, eventually, stays};
use super::{consul, document};

/// Tags are read by this grammar; they may name hosts below `apps.test`, and in fabio's every host.
fn config(agent: &Agent, tags: &str) -> String {
    let hosts = if tags == "fabio" { "*" } else { "*.apps.test" };
    let consul = consul(agent);
    format!("{consul}tags = \"{tags}\"\ntag_hosts = [\"{hosts}\"]\n{PLAIN}")
}

/// An instance with these tags, whose check passes.
fn register(agent: &Agent, service: &str, origin: &Origin, tags: &[&str]) {
    let port = origin.address().port();
    agent.register(&format!(
        r#"{{"Name": "{service}", "ID": "{service}-{port}", "Tags": {tags:?}, "Address": "127.0.0.1", "Port": {port}}}"#
    ));
}

fn deregister(agent: &Agent, service: &str, origin: &Origin) {
    agent.deregister(&format!("{service}-{}", origin.address().port()));
}

fn says(rota: &Rota, host: &str, path: &str, body: &str) {
    eventually(&format!("{host}{path} says {body}"), || {
        rota.get(host, path).text() == body
    });
}

fn is_not_found(rota: &Rota, host: &str, path: &str) {
    eventually(&format!("{host}{path} is not found"), || {
        rota.get(host, path).status == 404
    });
}

fn names(rota: &Rota, words: &[&str]) {
    eventually(&format!("status names {words:?}"), || {
        let status = rota.admin_get("/v1/status").text();
        words.iter().all(|word| status.contains(word))
    });
}

#[test]
fn a_tag_is_a_route_until_its_last_server_is_really_gone() {
    let agent = Agent::start();
    let rota = Place::new().start(&config(&agent, "rota"));
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    register(
        &agent,
        "shop",
        &one,
        &["rota.host=shop.apps.test", "rota.path=/x", "rota.weight=3"],
    );
    says(&rota, "shop.apps.test", "/x/y", "one");
    assert_eq!(rota.get("shop.apps.test", "/").status, 404);
    // Another tag of the same instance, at once.
    register(&agent, "shop", &one, &["rota.host=shop.apps.test"]);
    says(&rota, "shop.apps.test", "/", "one");
    register(
        &agent,
        "shop",
        &one,
        &["rota.host=shop.apps.test", "rota.enable=false"],
    );
    is_not_found(&rota, "shop.apps.test", "/");
    register(&agent, "shop", &two, &["rota.host=shop.apps.test"]);
    says(&rota, "shop.apps.test", "/", "two");
    // All of them gone from the catalogue, by mistake: well, so kept.
    deregister(&agent, "shop", &one);
    deregister(&agent, "shop", &two);
    stays("its last server is well", Duration::from_secs(2), || {
        rota.get("shop.apps.test", "/").status == 200
    });
    one.stop();
    two.stop();
    is_not_found(&rota, "shop.apps.test", "/");
    assert!(!rota.admin_get("/v1/services").text().contains("shop"));
}

#[test]
fn routes_by_tag_outlive_a_consul_that_forgot_everything() {
    let mut agent = Agent::start();
    let one = Origin::fixed("one");
    register(&agent, "shop", &one, &["rota.host=shop.apps.test"]);
    let rota = Place::new().start(&config(&agent, "rota"));
    says(&rota, "shop.apps.test", "/", "one");
    agent.restart_empty();
    stays("the last good routes", Duration::from_secs(4), || {
        rota.get("shop.apps.test", "/").text() == "one"
    });
    register(&agent, "shop", &one, &["rota.host=shop.apps.test"]);
    says(&rota, "shop.apps.test", "/", "one");
}

#[test]
fn a_wrong_tag_hurts_itself_alone_and_a_host_that_tags_may_not_name_is_refused() {
    let agent = Agent::start();
    let (one, thief) = (Origin::fixed("one"), Origin::fixed("thief"));
    register(
        &agent,
        "shop",
        &one,
        &[
            "rota.host=shop.apps.test",
            "rota.weight=many",
            "rota.host=bank.test",
        ],
    );
    register(&agent, "thief", &thief, &["rota.host=*"]);
    let rota = Place::new().start(&config(&agent, "rota"));
    says(&rota, "shop.apps.test", "/", "one");
    names(
        &rota,
        &[
            "shop tag rota.weight=many",
            "shop tag rota.host=bank.test",
            "thief tag rota.host=*",
        ],
    );
    assert_eq!(rota.get("bank.test", "/").status, 404);
    assert_eq!(thief.count(), 0);
    let log = rota.log();
    assert_eq!(log.matches("rota.weight=many").count(), 1, "{log}");
}

#[test]
fn the_file_wins_over_documents_these_over_tags_and_of_tags_the_oldest() {
    let agent = Agent::start();
    let [file, kv, first, second] = ["file", "kv", "first", "second"].map(Origin::fixed);
    register(
        &agent,
        "zz-first",
        &first,
        &[
            "rota.host=a.apps.test",
            "rota.host=b.apps.test",
            "rota.host=c.apps.test",
        ],
    );
    register(&agent, "aa-second", &second, &["rota.host=c.apps.test"]);
    document(
        &agent,
        "services/kv",
        &format!(r#"{{"servers": ["{}"]}}"#, kv.address()),
    );
    document(
        &agent,
        "routes/b",
        "host = \"b.apps.test\"\nservice = \"kv\"",
    );
    let text = format!(
        "{}[[service]]\nname = \"file\"\nservers = [\"{}\"]\n[[route]]\nhost = \"a.apps.test\"\nservice = \"file\"\n",
        config(&agent, "rota"),
        file.address()
    );
    let rota = Place::new().start(&text);
    says(&rota, "a.apps.test", "/", "file");
    says(&rota, "b.apps.test", "/", "kv");
    says(&rota, "c.apps.test", "/", "first");
    names(
        &rota,
        &[
            "consul:zz-first",
            "a.apps.test/ is taken by file:route",
            "consul:aa-second",
        ],
    );
    // A document of the service's name gives it settings, and its tags go on: 9 of 10 to blue.
    let green = Origin::fixed("green");
    register(
        &agent,
        "zz-first",
        &first,
        &["rota.host=c.apps.test", "rota.group=blue"],
    );
    register(
        &agent,
        "zz-first",
        &green,
        &["rota.host=c.apps.test", "rota.group=green"],
    );
    document(
        &agent,
        "services/zz-first",
        "consul = { service = \"zz-first\" }\ngroups = { blue = 0, green = 1 }",
    );
    says(&rota, "c.apps.test", "/", "green");
}

#[test]
fn fabios_tags_are_routes_where_they_mean_the_same_and_the_others_are_reported() {
    let agent = Agent::start();
    let [one, two] = ["one", "two"].map(Origin::fixed);
    register(
        &agent,
        "web",
        &one,
        &[
            "v1",
            "urlprefix-/css",
            "urlprefix-Www.shop.test/news weight=0.5",
        ],
    );
    register(
        &agent,
        "api",
        &two,
        &["urlprefix-api.shop.test/", "urlprefix-/api strip=/api"],
    );
    let rota = Place::new().start(&config(&agent, "fabio"));
    says(&rota, "any.test", "/css/a", "one");
    says(&rota, "www.shop.test", "/news", "one");
    says(&rota, "api.shop.test", "/", "two");
    assert_eq!(rota.get("any.test", "/api/x").status, 404);
    names(
        &rota,
        &[
            "weight=0.5",
            "in force without it",
            "strip=/api",
            "no such route",
        ],
    );
}

#[test]
fn tags_are_followed_where_one_watch_reads_all_services() {
    let agent = Agent::start();
    let one = Origin::fixed("one");
    let text = config(&agent, "rota").replace("tags =", "connections = 1\ntags =");
    let rota = Place::new().start(&text);
    register(&agent, "shop", &one, &["rota.host=a.apps.test"]);
    says(&rota, "a.apps.test", "/", "one");
    register(&agent, "shop", &one, &["rota.host=b.apps.test"]);
    says(&rota, "b.apps.test", "/", "one");
    is_not_found(&rota, "a.apps.test", "/");
}
