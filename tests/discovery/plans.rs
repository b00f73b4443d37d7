//! What a plan promises to tell, each for its reason; who is said to have changed what; what operators leave behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::consul_agent::Agent;
use super::staged::{eventually_says, folder, keys, route, service, staged, start, value};
use super::support::rota::{Directory, PLAIN, Place, said};
use super::support::{Origin, Rota, eventually, stays};
use super::{PREFIX, consul, document};

/// Orders certificates from a CA that nobody reaches.
fn with_acme(agent: &Agent) -> Rota {
    let place = Place::new();
    let key = place.path().join("fleet.key");
    fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let acme = "[acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nkey_file = \"fleet.key\"\n";
    place.start(&format!("{}{PLAIN}{acme}", consul(agent)))
}

/// `rota plan` of these files, which has to tell of changes.
fn planned(rota: &Rota, files: &[(&str, String)]) -> String {
    let output = staged(rota, "plan", &folder(files), &[]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    told
}

fn has_lines(told: &str, lines: &[&str]) {
    for line in lines {
        let is_there = told.lines().any(|known| known.trim().starts_with(line));
        assert!(is_there, "{line}: {told}");
    }
}

#[test]
fn each_warning_that_a_plan_promises_is_given_for_its_reason() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let rota = with_acme(&agent);
    document(&agent, "services/shop", &service(&origin));
    document(&agent, "routes/wide", &route("*.wide.test", "shop"));
    eventually_says(&rota, "a.wide.test", "one");
    let narrow = format!("{}path = \"/only\"\n", route("n.wide.test", "shop"));
    let told = planned(
        &rota,
        &[
            ("services/shop.toml", service(&origin)),
            (
                "services/lost.toml",
                "consul = { service = \"nobody-knows\" }".into(),
            ),
            ("routes/wide.toml", route("*.wide.test", "shop")),
            ("routes/twin.toml", route("*.wide.test", "lost")),
            ("routes/narrow.toml", narrow),
            ("routes/gone.toml", route("gone.test", "nowhere")),
            ("routes/lost.toml", route("lost.test", "lost")),
            ("domains/d.test.toml", String::new()),
        ],
    );
    has_lines(
        &told,
        &[
            // A host nobody serves.
            "! nobody would serve lost.test/: service lost has no server",
            "! routes/gone: there is no service nowhere",
            "! domains/d.test: no route serves d.test",
            // A shadowed path.
            "! routes/twin: *.wide.test/ is taken by routes/wide",
            "! n.wide.test: all paths but /only would be answered with 404: the most specific host decides, and *.wide.test/",
            // A service unknown to Consul.
            "! consul:nobody-knows: consul names no instance",
            "certificates to be ordered",
            "+ d.test",
            "+ lost.test",
        ],
    );
}

#[test]
fn hosts_that_come_from_or_fall_to_a_wider_route_are_told_with_the_servers_that_gain_and_lose() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    document(&agent, "services/shop", &service(&one));
    document(&agent, "services/blog", &service(&two));
    document(&agent, "routes/all", &route("*", "shop"));
    document(&agent, "routes/a", &route("a.test", "blog"));
    eventually_says(&rota, "a.test", "two");
    eventually_says(&rota, "b.test", "one");
    let told = planned(
        &rota,
        &[
            ("services/shop.toml", service(&one)),
            ("services/blog.toml", service(&two)),
            ("routes/all.toml", route("*", "shop")),
            ("routes/b.toml", route("b.test", "blog")),
            ("routes/c.toml", route("c.test", "shop")),
        ],
    );
    has_lines(
        &told,
        &[
            "~ a.test/  to shop instead of blog (by */)",
            "~ b.test/  to blog instead of shop (by */)",
            &format!("+ blog/{}  b.test/", two.address()),
            &format!("- blog/{}  a.test/", two.address()),
            &format!("+ shop/{}  a.test/", one.address()),
            &format!("- shop/{}  b.test/", one.address()),
        ],
    );
    let of_routes = told.split("servers\n").next().unwrap();
    assert!(
        !of_routes.contains("c.test"),
        "it goes where it went: {told}"
    );
}

/// `app` with a server of each colour.
fn divided(blue: &Origin, green: &Origin, shares: &str) -> String {
    let server = |origin: &Origin, group: &str| {
        format!(
            "{{ address = \"{}\", group = \"{group}\" }}",
            origin.address()
        )
    };
    format!(
        "servers = [{}, {}]\ngroups = {{ {shares} }}\n",
        server(blue, "blue"),
        server(green, "green")
    )
}

#[test]
fn other_shares_of_groups_are_told_by_group_and_by_server_and_a_shift_by_who_gave_it() {
    let agent = Agent::start();
    let (blue, green) = (Origin::fixed("blue"), Origin::fixed("green"));
    let rota = start(&agent);
    let first = [
        (
            "services/app.toml",
            divided(&blue, &green, "blue = 90, green = 10"),
        ),
        ("routes/app.toml", route("app.test", "app")),
    ];
    let applied = staged(&rota, "apply", &folder(&first), &[]);
    assert!(applied.status.success(), "{}", said(&applied));
    eventually("it is served", || rota.get("app.test", "/").status == 200);
    let mut other = first.clone();
    other[0].1 = divided(&blue, &green, "blue = 50, green = 50");
    let told = planned(&rota, &other);
    has_lines(
        &told,
        &[
            "~ app  group blue 50 instead of 90, group green 50 instead of 10",
            &format!(
                "- app/{}  its group has 50 % of the requests instead of 90 %",
                blue.address()
            ),
            &format!(
                "+ app/{}  its group has 50 % of the requests instead of 10 %",
                green.address()
            ),
        ],
    );
    let shifted = rota.command(&["shift", "app", "green=100"]);
    assert!(shifted.status.success(), "{}", said(&shifted));
    let newest = || -> serde_json::Value {
        let output = rota.command(&["history", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        rows[0].clone()
    };
    eventually("it is a revision", || {
        newest()["note"] == "shift app green=100"
    });
    let by = newest()["by"].as_str().unwrap().to_owned();
    assert!(by.contains('@'), "{by}");
    eventually_says(&rota, "app.test", "green");
    for (verb, outcome, count) in [
        ("plan", "ok", 1.0),
        ("apply", "ok", 1.0),
        ("shift", "ok", 1.0),
        ("rollback", "refused", 0.0),
    ] {
        let labels = [("verb", verb), ("outcome", outcome)];
        assert_eq!(rota.metric("rota_staged_total", &labels), count, "{verb}");
    }
    assert!(!rota.command(&["rollback", "99"]).status.success());
    let refused = [("verb", "rollback"), ("outcome", "refused")];
    assert_eq!(rota.metric("rota_staged_total", &refused), 1.0);
}

/// Files, and the plan of them as a file.
fn with_plan(rota: &Rota, files: &[(&str, String)]) -> (Directory, String) {
    let wanted = folder(files);
    let plan = staged(rota, "plan", &wanted, &["--json"]);
    let file = wanted.path().join(".plan.json");
    fs::write(&file, &plan.stdout).unwrap();
    (wanted, file.to_str().unwrap().to_owned())
}

#[test]
fn a_refused_apply_shows_by_its_lines_what_others_changed_meanwhile() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    let first = [
        ("services/shop.toml", service(&one)),
        ("routes/shop.toml", route("shop.test", "shop")),
    ];
    let applied = staged(&rota, "apply", &folder(&first), &[]);
    assert!(
        said(&applied).contains("(revision 1)"),
        "{}",
        said(&applied)
    );
    let mut wanted = first.to_vec();
    wanted.push(("routes/more.toml", route("more.test", "shop")));
    let (wanted, plan) = with_plan(&rota, &wanted);
    document(&agent, "services/shop", &service(&two));
    let output = staged(&rota, "apply", &wanted, &["--plan", &plan]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    has_lines(
        &told,
        &[
            "rota: changed by others meanwhile: services/shop; nothing was written",
            "--- a/services/shop",
            "+++ b/services/shop",
            &format!("-{}", service(&one).trim_end()),
            &format!("+{}", service(&two).trim_end()),
            "what would change now:",
        ],
    );
    assert_eq!(value(&agent, "config/routes/more"), None);
}

#[test]
fn operators_words_that_are_over_leave_kv_and_those_that_hold_stay() {
    let agent = Agent::start();
    let put = |key: &str, until: &str| {
        let word = format!(r#"{{"by": "ops", "at": 1000{until}}}"#);
        agent.put(&format!("{PREFIX}/operator/{key}"), word.as_bytes());
    };
    put("drain/shop", r#", "until": 1060"#);
    put("accept/shop/10.0.0.1:80", r#", "until": 1060"#);
    put("accept/@documents", "");
    put("drain/blog", "");
    put("drain/later", r#", "until": 99999999999"#);
    let rota = start(&agent);
    eventually("what is over is gone", || {
        let left = keys(&agent, "operator/");
        !left.contains("accept") && !left.contains("drain/shop")
    });
    eventually("it is logged", || {
        let log = rota.log();
        log.contains("operators' words that are over were taken out of KV")
    });
    stays("what holds stays", Duration::from_secs(1), || {
        let left = keys(&agent, "operator/");
        left.contains("drain/blog") && left.contains("drain/later")
    });
}

#[test]
fn documents_that_wait_for_the_end_of_a_change_are_counted() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let rota = start(&agent);
    document(&agent, "services/shop", &service(&origin));
    document(&agent, "routes/shop", &route("shop.test", "shop"));
    eventually_says(&rota, "shop.test", "one");
    let held = || rota.metric("rota_documents_held", &[]);
    assert_eq!(held(), 0.0);
    agent.put(&format!("{PREFIX}/apply"), b"somebody");
    // Each watch is one of its own: the mark may be heard of after what it is to hold.
    eventually("news waits", || {
        let number = fastrand::u32(..);
        let more = format!("# {number}\n{}", route("more.test", "shop"));
        document(&agent, "routes/more", &more);
        held() == 1.0
    });
    agent.delete(&format!("{PREFIX}/apply"));
    eventually("nothing waits any more", || held() == 0.0);
    eventually_says(&rota, "more.test", "one");
}
