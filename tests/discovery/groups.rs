//! Blue and green: shares between groups of one service's servers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::consul_agent::Agent;
use super::support::rota::{PLAIN, Place, said};
use super::support::{Origin, Rota, eventually};
use super::{PREFIX, consul, document};

/// An instance of `app` on the agent's one node; `label` is a further key of its registration.
fn register(agent: &Agent, origin: &Origin, id: &str, label: &str) {
    agent.register(&format!(
        r#"{{"Name": "app", "ID": "{id}", "Address": "127.0.0.1", "Port": {}, {label}}}"#,
        origin.address().port()
    ));
}

/// Who answered so many requests in a row, and how often.
fn answers(rota: &Rota, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers.entry(rota.get("a", "/").text()).or_default() += 1;
    }
    answers
}

fn eventually_shares(rota: &Rota, of: usize, expected: &[(&str, usize)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|&(name, count)| (name.to_owned(), count))
        .collect();
    eventually(&format!("{expected:?}"), || answers(rota, of) == expected);
}

#[test]
fn instances_of_one_node_are_divided_by_tag_or_meta_as_their_services_document_says() {
    let agent = Agent::start();
    let [blue, second, green, other] = ["blue", "second", "green", "other"].map(Origin::fixed);
    register(&agent, &blue, "one", r#""Tags": ["v1", "rota.group=blue"]"#);
    register(&agent, &second, "two", r#""Meta": {"rota-group": "blue"}"#);
    register(&agent, &green, "three", r#""Tags": ["rota.group=green"]"#);
    register(&agent, &other, "four", r#""Tags": ["v1"]"#);
    document(&agent, "services/app", r#"{"consul": {"service": "app"}}"#);
    document(&agent, "routes/app", "host = \"*\"\nservice = \"app\"");
    let rota = Place::new().start(&format!("[node]\nworkers = 1\n{}{PLAIN}", consul(&agent)));
    // Without groups in the document all are alike.
    eventually_shares(
        &rota,
        8,
        &[("blue", 2), ("green", 2), ("other", 2), ("second", 2)],
    );
    let shift = |groups: &str| {
        let text = format!("consul = {{ service = \"app\" }}\ngroups = {{ {groups} }}");
        document(&agent, "services/app", &text);
    };
    shift("blue = 90, green = 10");
    eventually_shares(&rota, 40, &[("blue", 18), ("green", 4), ("second", 18)]);
    let share = |group: &str| rota.metric("rota_service_group_share", &[("group", group)]);
    assert_eq!((share("blue"), share("green")), (0.9, 0.1));
    let why = rota.admin_get("/v1/services/app").text();
    assert!(why.contains("it is of no group"), "{why}");
    shift("blue = 0, green = 1");
    eventually_shares(&rota, 8, &[("green", 8)]);
    shift("blue = 1, green = 1");
    eventually_shares(&rota, 8, &[("blue", 2), ("green", 4), ("second", 2)]);
    agent.must(
        "PUT",
        "/v1/agent/service/maintenance/three?enable=true",
        b"",
    );
    eventually_shares(&rota, 8, &[("blue", 4), ("second", 4)]);
}

#[test]
fn a_shift_is_in_force_on_every_load_balancer_within_a_second_and_so_is_the_way_back() {
    let agent = Agent::start();
    let [blue, green] = ["blue", "green"].map(Origin::fixed);
    register(&agent, &blue, "one", r#""Tags": ["rota.group=blue"]"#);
    register(&agent, &green, "two", r#""Tags": ["rota.group=green"]"#);
    let text =
        "# ours\nconsul = { service = \"app\" } # both\n\n[groups]\nblue = 3 # old\ngreen = 1\n";
    document(&agent, "services/app", text);
    document(&agent, "routes/app", "host = \"*\"\nservice = \"app\"");
    let config = format!("[node]\nworkers = 1\n{}{PLAIN}", consul(&agent));
    let first = Place::new().start(&format!(
        "[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{config}"
    ));
    let second = Place::new().start(&config);
    for rota in [&first, &second] {
        eventually_shares(rota, 4, &[("blue", 3), ("green", 1)]);
    }
    let stands = || {
        let read = agent.must(
            "GET",
            &format!("/v1/kv/{PREFIX}/config/services/app?raw"),
            b"",
        );
        read.body
    };
    let shift = |weights: &str, expected: &[(&str, usize)]| {
        let output = first.command(&["shift", "app", weights]);
        assert!(output.status.success(), "{}", said(&output));
        let begin = Instant::now();
        for rota in [&first, &second] {
            eventually_shares(rota, 4, expected);
        }
        // The bar is a second, and tests/load's to hold.
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{:?}",
            begin.elapsed()
        );
    };
    shift("green=100", &[("green", 4)]);
    assert_eq!(
        stands(),
        text.replace("= 3", "= 0").replace("= 1\n", "= 100\n")
    );
    let status = said(&second.command(&["status"]));
    assert!(status.contains("blue 0 % / green 100 %"), "{status}");
    shift("blue=3,green=1", &[("blue", 3), ("green", 1)]);
    assert_eq!(stands(), text);
    let refused = first.command(&["shift", "app", "gren=1"]);
    assert!(
        said(&refused).contains("nearest known name is green"),
        "{}",
        said(&refused)
    );
    let without_a_token = second.command(&["shift", "app", "green=1"]);
    assert!(!without_a_token.status.success());
    assert_eq!(stands(), text);
}
