//! What the token may not read any more: left out of answers by Consul, and taken from nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rota::config::ConsulToken;
use rota::control::consul::{Client, Observation, Subtree};
use rota::control::store::{Seen, Store};
use tokio::time::timeout;

use crate::consul_agent::{ACL_DENY, Agent};
use crate::scripted::{Scripted, hang, reply};
use crate::watching::{PATIENCE, Watching, service, settings};

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
    let last = loop {
        let text = format!("{{{}}}", " ".repeat(writes.next().expect("denied by then")));
        agent.put("rota/config/routes/team-a", text.as_bytes());
        let said = watching.during(Duration::from_millis(300));
        if said.iter().any(&is_denied) {
            break text;
        }
    };
    agent.change_rights(&token, ALL_KEYS);
    watching.wait_for_documents(Subtree::Routes, |documents| {
        &*documents[0].value == last.as_bytes()
    });
    let told = watching.seen.iter().filter_map(|(_, one)| match one {
        Observation::Documents {
            subtree: Subtree::Routes,
            documents,
        } => Some(documents.len()),
        _ => None,
    });
    let told: Vec<usize> = told.collect();
    assert_eq!(told[0], 3);
    assert!(told[1..].iter().all(|count| *count == 2), "{told:?}");
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
fn instances_on_nodes_that_the_token_may_not_read_any_more_stay_and_others_go() {
    // Node b is hidden, then c, that may be read, leaves.
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, rights) = (asked.clone(), asked.clone());
    let server = Scripted::start(move |target, stream| {
        if target.contains("acl/authorize") {
            let is_allowed = rights.load(Relaxed) > 3;
            let body = format!(r#"[{{"Allow": true}}, {{"Allow": {is_allowed}}}]"#);
            return reply(stream, 200, "1", &body);
        }
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", &on(&["a", "b", "c"])),
            1..=2 => reply(stream, 200, &format!("91\r\n{FILTERED}"), &on(&["a", "c"])),
            3 => reply(stream, 200, &format!("92\r\n{FILTERED}"), &on(&["a", "b"])),
            _ => hang(stream),
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for("it is denied", is_denied("service app"));
    watching.wait_for_instances("app", |instances| instances.len() == 2);
    let said: Vec<&Observation> = watching.seen.iter().map(|(_, one)| one).collect();
    assert!(
        matches!(
            said[..],
            [
                Observation::Instances { .. },
                Observation::Failing { .. },
                Observation::Recovered { .. },
                Observation::Instances { .. },
            ]
        ),
        "{said:?}"
    );
}

#[test]
fn certificates_that_the_token_may_not_read_any_more_stay() {
    let below = |names: &[&str]| {
        let key = |name: &&str| {
            format!(
                r#"{{"Key": "rota/certs/own/{name}", "Value": "e30=", "Flags": 0, "LockIndex": 0, "CreateIndex": 1, "ModifyIndex": 2}}"#
            )
        };
        let keys: Vec<String> = names.iter().map(key).collect();
        format!("[{}]", keys.join(","))
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
            1..=2 => reply(stream, 200, "91", &below(&["a"])),
            3 => reply(stream, 200, "92", &below(&["a", "b", "c"])),
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
