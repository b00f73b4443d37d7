//! What the token may not read any more: left out of answers by Consul, and taken from nobody.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rota::config::ConsulToken;
use rota::control::consul::{Client, Consistency, Document, Observation, Subtree};
use rota::control::store::{Seen, Store};
use tokio::time::timeout;

use crate::consul_agent::{ACL_DENY, Agent};
use crate::scripted::{Scripted, hang, reply};
use crate::watching::{PATIENCE, Watching, eventually, service, settings};

const ALL_KEYS: &str = r#"key_prefix \"\" { policy = \"read\" }"#;
const ONE_TEAMS: &str = r#"key_prefix \"rota/config/routes/team-a\" { policy = \"read\" } key_prefix \"rota/pod\" { policy = \"read\" }"#;

fn is_denied(watch: &str) -> impl Fn(&Observation) -> bool {
    move |one| matches!(one, Observation::Failing { watch: name, error, .. } if name == watch && error.contains("may not read"))
}

#[test]
fn documents_that_the_token_may_not_read_any_more_stay_and_deleted_ones_go() {
    let agent = Agent::start_with(ACL_DENY);
    for name in ["team-a", "team-b", "team-c"] {
        agent.put(&format!("rota/config/routes/{name}"), b"{}");
    }
    let token = agent.new_token(ALL_KEYS);
    let mut settings = settings(&agent.http_address());
    settings.token = Some(ConsulToken::Value(token.secret.clone()));
    let mut watching = Watching::start(settings);
    watching.wait_for_documents(Subtree::Routes, |documents| documents.len() == 3);
    agent.delete("rota/config/routes/team-c");
    watching.wait_for_documents(Subtree::Routes, |documents| documents.len() == 2);

    agent.change_rights(&token, ONE_TEAMS);
    // A question that hangs keeps the rights that it began with.
    let mut writes = 1..60;
    let is_denied = is_denied("config/routes");
    let mut write = || {
        let text = format!("{{{}}}", " ".repeat(writes.next().expect("denied by then")));
        agent.put("rota/config/routes/team-a", text.as_bytes());
        text
    };
    loop {
        write();
        let said = watching.during(Duration::from_millis(300));
        if said.iter().any(&is_denied) {
            break;
        }
    }
    let hold = |text: String| move |documents: &[Document]| *documents[0].value == *text.as_bytes();
    watching.wait_for_documents(Subtree::Routes, hold(write()));
    agent.change_rights(&token, ALL_KEYS);
    watching.wait_for_documents(Subtree::Routes, hold(write()));
    let all = told(&watching);
    assert_eq!(all[0], 3);
    assert!(all[1..].iter().all(|count| *count == 2), "{all:?}");
    agent.delete("rota/config/routes/team-b");
    watching.wait_for_documents(Subtree::Routes, |documents| documents.len() == 1);
}

/// How many routes there were each time.
fn told(watching: &Watching) -> Vec<usize> {
    let told = watching.seen.iter().filter_map(|(_, one)| match one {
        Observation::Documents {
            subtree: Subtree::Routes,
            documents,
        } => Some(documents.len()),
        _ => None,
    });
    told.collect()
}

/// Keys below a folder of `rota/`, each with a value.
fn keys(folder: &str, all: &[(&str, &str)]) -> String {
    let key = |(name, value): &(&str, &str)| {
        format!(
            r#"{{"Key": "rota/{folder}/{name}", "Value": "{value}", "Flags": 0, "LockIndex": 0, "CreateIndex": 1, "ModifyIndex": 2}}"#
        )
    };
    let all: Vec<String> = all.iter().map(key).collect();
    format!("[{}]", all.join(","))
}

#[test]
fn beside_a_hidden_document_the_others_are_followed_as_ever_and_no_faster() {
    let (before, after) = ("e30=", "eyB9");
    let below = |all: &[(&str, &str)]| keys("config/routes", all);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if target.contains("acl/authorize") {
            return reply(stream, 200, "1", r#"[{"Allow": false}]"#);
        }
        if !target.contains("config/routes") {
            return hang(stream);
        }
        noted.lock().unwrap().push(target.to_owned());
        match target {
            _ if target.contains("index=91") => hang(stream),
            _ if target.contains("index=90") => reply(
                stream,
                200,
                &format!("91\r\n{FILTERED}"),
                &below(&[("a", after), ("c", before)]),
            ),
            _ => {
                let all = [("a", before), ("b", before), ("c", before)];
                reply(stream, 200, "90", &below(&all));
            }
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.wait_for("it is denied", is_denied("config/routes"));
    watching.wait_for_documents(Subtree::Routes, |documents| {
        let shown = documents.iter().map(|one| (&*one.name, &*one.value));
        shown.eq([("a", &b"{ }"[..]), ("b", b"{}"), ("c", b"{}")])
    });
    eventually("it waits for news", || asked.lock().unwrap().len() == 3);
    assert!(watching.told_to_fail().contains("config/routes"));
    let asked = asked.lock().unwrap();
    assert!(!asked[0].contains("index="), "{asked:?}");
    assert!(asked[1].contains("index=90"), "{asked:?}");
    assert!(asked[2].contains("index=91"), "{asked:?}");
}

/// Instances of `app` on these nodes.
fn on(nodes: &[&str]) -> String {
    let on = |node: &&str| {
        format!(
            r#"{{"Node": {{"Node": "{node}", "Address": "127.0.0.1"}}, "Service": {{"ID": "a", "Port": 80}}, "Checks": []}}"#
        )
    };
    let all: Vec<String> = nodes.iter().map(on).collect();
    format!("[{}]", all.join(","))
}

const FILTERED: &str = "X-Consul-Results-Filtered-By-ACLs: true";

#[test]
fn instances_on_nodes_that_the_token_may_not_read_any_more_stay_and_others_turn_critical_and_go() {
    // Node b is hidden while c turns critical; then c, that may be read, leaves.
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, rights) = (asked.clone(), asked.clone());
    let server = Scripted::start(move |target, stream| {
        if target.contains("acl/authorize") {
            let is_allowed = rights.load(Relaxed) > 2;
            let body = format!(r#"[{{"Allow": true}}, {{"Allow": {is_allowed}}}]"#);
            return reply(stream, 200, "1", &body);
        }
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        let critical = r#"[{"CheckID": "c", "Name": "c", "Status": "critical", "Output": ""}]"#;
        let without_b = on(&["a", "c"]).replacen("[]", "[ ]", 1);
        let without_b = without_b.replace("[]", critical);
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", &on(&["a", "b", "c"])),
            1 => reply(stream, 200, &format!("91\r\n{FILTERED}"), &without_b),
            // By the rights that it was asked with.
            2 => reply(stream, 200, &format!("92\r\n{FILTERED}"), &without_b),
            3 => reply(stream, 200, &format!("92\r\n{FILTERED}"), &on(&["a", "b"])),
            _ => hang(stream),
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for_instances("app", |instances| instances.len() == 2);
    let said = watching.seen.iter().map(|(_, one)| match one {
        Observation::Instances { instances, .. } => {
            let all = instances.iter();
            all.map(|one| format!("{} {:?} ", one.node, one.status()))
                .collect()
        }
        other if is_denied("service app")(other) => "denied".to_owned(),
        Observation::Recovered { .. } => "recovered".to_owned(),
        other => format!("{other:?}"),
    });
    let said: Vec<String> = said.collect();
    assert_eq!(
        said,
        [
            "a Passing b Passing c Passing ",
            "denied",
            "a Passing b Passing c Critical ",
            "recovered",
            "a Passing b Passing ",
        ]
    );
}

#[test]
fn certificates_that_the_token_may_not_read_any_more_stay_and_others_come() {
    let below = |names: &[&str]| {
        let all: Vec<(&str, &str)> = names.iter().map(|name| (*name, "e30=")).collect();
        keys("certs/own", &all)
    };
    let asked = AtomicUsize::new(0);
    let server = Scripted::start(move |target, stream| {
        if target.contains("acl/authorize") {
            return reply(stream, 200, "1", r#"[{"Allow": false}]"#);
        }
        if !target.contains("certs/own") {
            return hang(stream);
        }
        match asked.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", &below(&["a", "b"])),
            1 => reply(stream, 200, "91", &below(&["a", "c"])),
            _ => hang(stream),
        }
    });
    let client = Client::new(&settings(&format!("http://{}", server.address))).unwrap();
    crate::wait(async {
        let store = Store::in_consul(client, "rota", "lb-1", None);
        let mut watch = store.watch("certs/own/");
        for count in [2, 3] {
            timeout(PATIENCE, watch.changed()).await.unwrap();
            assert!(matches!(watch.state(), Seen::Is(keys) if keys.len() == count));
        }
    });
}

#[test]
fn a_question_between_takes_no_silence_for_an_answer() {
    let server = Scripted::start(move |_, stream| {
        reply(stream, 200, "90\r\nX-Consul-KnownLeader: false", "[]");
    });
    let client = Client::new(&settings(&format!("http://{}", server.address))).unwrap();
    let answer = crate::wait(client.instances_now(&service("app")));
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn a_listing_that_is_cut_or_of_a_server_without_a_leader_is_none() {
    for header in [FILTERED, "X-Consul-KnownLeader: false"] {
        let server = Scripted::start(move |_, stream| {
            let below = keys("config", &[("routes/a", "e30=")]);
            reply(stream, 200, &format!("90\r\n{header}"), &below);
        });
        let client = Client::new(&settings(&format!("http://{}", server.address))).unwrap();
        let listed = client.kv_list("rota/config/", Consistency::Consistent);
        let listed = crate::wait(listed);
        assert!(listed.is_err(), "{header}: {listed:?}");
    }
}
