//! Documents staged in a directory: shown as a plan before anything is written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use super::consul_agent::Agent;
use super::support::rota::{Directory, PLAIN, Place, said};
use super::support::{Origin, Rota, eventually};
use super::{PREFIX, consul, document};

/// A pod's load balancer without a service in its file; it takes orders through its Unix socket.
pub fn start(agent: &Agent) -> Rota {
    Place::new().start(&text(agent))
}

/// Of [`start`].
pub fn text(agent: &Agent) -> String {
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    format!("{socket}{}{PLAIN}", consul(agent))
}

/// Load balancers of one pod.
pub fn fleet(agent: &Agent, count: usize) -> Vec<Rota> {
    let start = |number| {
        let node = format!("[node]\nname = \"lb-{number}\"\n");
        Place::new().start_unready(&format!("{node}{}", text(agent)))
    };
    let fleet: Vec<Rota> = (0..count).map(start).collect();
    fleet.iter().for_each(Rota::wait_until_ready);
    fleet
}

pub fn eventually_says(rota: &Rota, host: &str, body: &str) {
    eventually(&format!("{host} says {body}"), || {
        rota.get(host, "/").text() == body
    });
}

pub fn value(agent: &Agent, key: &str) -> Option<String> {
    let path = format!("/v1/kv/{PREFIX}/{key}?raw");
    let answer = agent.try_call("GET", &path, b"").unwrap();
    (answer.status == 200).then_some(answer.body)
}

pub fn service(origin: &Origin) -> String {
    format!("servers = [\"{}\"]\n", origin.address())
}

pub fn route(host: &str, service: &str) -> String {
    format!("host = \"{host}\"\nservice = \"{service}\"\n")
}

/// A directory with these files.
pub fn folder(files: &[(&str, String)]) -> Directory {
    let folder = Directory::new();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Runs `rota VERB DIR ARGUMENTS…`.
pub fn staged(rota: &Rota, verb: &str, folder: &Directory, arguments: &[&str]) -> Output {
    let path = folder.path().to_str().unwrap();
    rota.command(&[&[verb, path], arguments].concat())
}

pub fn keys(agent: &Agent, below: &str) -> String {
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

#[test]
fn what_is_applied_is_in_force_on_every_load_balancer_and_what_the_directory_lacks_is_gone() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let fleet = fleet(&agent, 2);
    let first = folder(&[
        ("services/shop.toml", service(&one)),
        ("routes/shop.toml", route("shop.test", "shop")),
        ("routes/old.toml", route("old.test", "shop")),
    ]);
    let output = staged(&fleet[0], "apply", &first, &["--note", "the first"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(
        told.contains("3 documents are changed: the first"),
        "{told}"
    );
    for rota in &fleet {
        eventually_says(rota, "shop.test", "one");
    }
    let second = folder(&[
        ("services/shop.toml", service(&one)),
        ("services/blog.toml", service(&two)),
        ("routes/shop.toml", route("shop.test", "blog")),
    ]);
    let output = staged(&fleet[1], "apply", &second, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for rota in &fleet {
        eventually_says(rota, "shop.test", "two");
        eventually("the old route is gone", || {
            rota.get("old.test", "/").status == 404
        });
    }
    let again = staged(&fleet[0], "apply", &second, &[]);
    assert_eq!(again.status.code(), Some(0));
    assert!(
        said(&again).contains("nothing to change"),
        "{}",
        said(&again)
    );
    assert!(fleet[0].log().contains("apply of 3 documents by"));
}

#[test]
fn a_change_by_others_since_the_plan_refuses_it_and_shows_the_difference() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let rota = start(&agent);
    let wanted = folder(&[
        ("services/shop.toml", service(&origin)),
        ("routes/shop.toml", route("shop.test", "shop")),
    ]);
    let plan = staged(&rota, "plan", &wanted, &["--json"]);
    let file = wanted.path().join(".plan.json");
    fs::write(&file, &plan.stdout).unwrap();
    let with_plan = ["--plan", file.to_str().unwrap()];
    document(&agent, "routes/other", &route("other.test", "shop"));
    let output = staged(&rota, "apply", &wanted, &with_plan);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for words in [
        "changed by others meanwhile: routes/other; nothing was written",
        "+ routes/other",
        "what would change now:",
        "- other.test/",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(value(&agent, "config/routes/shop"), None);
    agent.delete(&format!("{PREFIX}/config/routes/other"));
    let output = staged(&rota, "apply", &wanted, &with_plan);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    eventually_says(&rota, "shop.test", "one");
}

#[test]
fn over_64_documents_come_into_force_at_once_on_every_load_balancer() {
    const ROUTES: usize = 100;
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let fleet = fleet(&agent, 2);
    let files = |origin: &Origin| {
        let mut files = vec![("services/app.toml".to_owned(), service(origin))];
        for number in 0..ROUTES {
            let text = route(&format!("h{number}.test"), "app");
            files.push((format!("routes/r{number}.toml"), text));
        }
        let borrowed: Vec<(&str, String)> = files
            .iter()
            .map(|(name, text)| (&**name, text.clone()))
            .collect();
        folder(&borrowed)
    };
    let wanted = files(&one);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let seen: Vec<_> = fleet
            .iter()
            .map(|rota| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut seen = std::collections::BTreeSet::new();
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        let routes = rota.admin_get("/v1/routes").text();
                        seen.insert(routes.matches("\"service\"").count());
                    }
                    seen
                })
            })
            .collect();
        let output = staged(&fleet[0], "apply", &wanted, &[]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains("101 documents are changed, in 2 transactions"));
        for rota in &fleet {
            for host in ["h0.test", "h99.test"] {
                eventually_says(rota, host, "one");
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        for seen in seen {
            let seen = seen.join().unwrap();
            assert_eq!(seen, [0, ROUTES].into(), "nobody saw a part");
        }
    });
    assert_eq!(value(&agent, "apply"), None, "the mark is gone");
    let output = staged(&fleet[1], "apply", &files(&two), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    fleet
        .iter()
        .for_each(|rota| eventually_says(rota, "h50.test", "two"));
}

#[test]
fn a_service_and_its_route_that_are_exchanged_at_once_cost_no_request() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    let of = |name: &str, origin: &Origin| {
        folder(&[
            (&format!("services/{name}.toml"), service(origin)),
            ("routes/app.toml", route("load.test", name)),
        ])
    };
    let (blue, green) = (of("blue", &one), of("green", &two));
    assert!(staged(&rota, "apply", &blue, &[]).status.success());
    eventually_says(&rota, "load.test", "one");
    let load = super::support::Load::new(rota.http(), 4).rate(400).start();
    for _ in 0..5 {
        assert!(staged(&rota, "apply", &green, &[]).status.success());
        eventually_says(&rota, "load.test", "two");
        assert!(staged(&rota, "apply", &blue, &[]).status.success());
        eventually_says(&rota, "load.test", "one");
    }
    let tally = load.finish();
    assert_eq!(tally.failed(), 0, "{:?} {:?}", tally.statuses, tally.errors);
}

#[test]
fn a_wrong_document_keeps_all_of_a_directory_from_being_written() {
    let agent = Agent::start();
    let rota = start(&agent);
    let wrong = folder(&[
        (
            "services/shop.toml",
            "servers = [\"127.0.0.1:80\"]\n".to_owned(),
        ),
        (
            "routes/shop.toml",
            "host = \"shop.test\"\nservice = 7\n".to_owned(),
        ),
    ]);
    let output = staged(&rota, "apply", &wrong, &[]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("nothing was written"), "{told}");
    assert!(
        told.contains("routes/shop.toml:2: service = 7: expected"),
        "{told}"
    );
    assert!(!keys(&agent, "config/").contains("shop"));
}

#[test]
fn without_the_token_nothing_is_applied_over_tcp() {
    let agent = Agent::start();
    let place = Place::new();
    let token = place.path().join("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let admin = "[admin]\naddress = \"127.0.0.1:{admin}\"\ntoken_file = \"token\"\n";
    let rota = place.start(&format!("{admin}{}{PLAIN}", consul(&agent)));
    let wanted = folder(&[(
        "services/shop.toml",
        "servers = [\"127.0.0.1:80\"]\n".to_owned(),
    )]);
    let output = staged(&rota, "apply", &wanted, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("token"), "{}", said(&output));
    assert!(!keys(&agent, "config/").contains("shop"));
    assert_eq!(staged(&rota, "plan", &wanted, &[]).status.code(), Some(2));
    assert!(rota.command(&["history"]).status.success());
    for arguments in [["diff", "1"], ["rollback", "1"]] {
        let output = rota.command(&arguments);
        assert!(
            said(&output).contains("needs the token"),
            "{}",
            said(&output)
        );
    }
    let output = staged(
        &rota,
        "apply",
        &wanted,
        &["--token-file", token.to_str().unwrap()],
    );
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}
