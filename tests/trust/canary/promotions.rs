//! A change of several transactions that becomes everybody's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Fleet, HOST, alone, within_two_minutes};
use crate::consul_agent::{ACL_DENY, Agent};
use crate::support::rota::{Directory, said};
use crate::support::{Origin, eventually};

/// Routes besides: with them a change has more documents than one transaction.
const MORE: usize = 100;

fn host(number: usize) -> String {
    format!("h{number}.test")
}

fn route(host: &str) -> String {
    format!("host = \"{host}\"\nservice = \"shop\"\n")
}

impl Fleet {
    fn serving_more(&self, origin: &Origin) -> Directory {
        let folder = self.serving(origin);
        for number in 0..MORE {
            let path = folder.path().join(format!("routes/more-{number:03}.toml"));
            std::fs::write(path, route(&host(number))).unwrap();
        }
        folder
    }

    fn begin_more(&self) {
        let folder = self.serving_more(&self.other);
        let begun = self.apply(0, &folder, &["--canary", "lb-1", "--for", "1h", "--detach"]);
        let told = said(&begun);
        assert_eq!(begun.status.code(), Some(0), "{told}");
        assert!(
            told.contains("101 documents are tried on lb-1"),
            "more than one transaction takes: {told}"
        );
        self.eventually_says(1, "other");
    }

    /// As the first transaction of one who died then leaves it.
    fn write_as_promoted(&self, more: impl Iterator<Item = (String, String)>) {
        let head = "/v1/kv/rota/trust/canary/head?raw";
        let head = self.agent.must("GET", head, b"").body;
        let mut head: serde_json::Value = serde_json::from_str(&head).unwrap();
        head["promoted"] = "by hand of the late ops".into();
        let server = format!("servers = [\"{}\"]\n", self.other.address());
        let first = [
            ("canary/head".to_owned(), head.to_string()),
            ("config/services/shop".to_owned(), server),
        ];
        let set = |(key, text): (String, String)| {
            let key = format!("rota/trust/{key}");
            json!({"KV": {"Verb": "set", "Key": key, "Value": STANDARD.encode(text)}})
        };
        let steps = first.into_iter().chain(more).map(set).collect();
        let steps = serde_json::Value::Array(steps).to_string();
        self.agent.must("PUT", "/v1/txn", steps.as_bytes());
    }

    fn serves_all_of_it_everywhere(&self) {
        for (number, rota) in self.rotas.iter().enumerate() {
            for host in [HOST, &host(0), &host(MORE - 1)] {
                eventually(&format!("lb-{number} serves {host}"), || {
                    rota.get(host, "/").text() == "other"
                });
            }
        }
    }
}

#[test]
fn a_change_of_several_transactions_is_promoted_by_hand_whoever_judges_meanwhile() {
    let fleet = Fleet::start();
    fleet.begin_more();
    let promoted = fleet.rotas[0].command(&["canary", "promote"]);
    let told = said(&promoted);
    assert_eq!(promoted.status.code(), Some(0), "{told}");
    assert!(told.contains("promoted, by hand of"), "{told}");
    fleet.serves_all_of_it_everywhere();
    let history = fleet.history();
    assert!(!history.contains("rolled back"), "{history}");
}

#[test]
fn a_promotion_that_nobody_finished_is_finished_by_who_judges() {
    let fleet = Fleet::start();
    fleet.begin_more();
    fleet.write_as_promoted((0..50).map(|number| {
        let name = format!("config/routes/more-{number:03}");
        (name, route(&host(number)))
    }));
    fleet.serves_all_of_it_everywhere();
    within_two_minutes("it is over", || {
        said(&fleet.rotas[1].command(&["canary"])).contains("no canary is under way")
    });
    let ended = said(&fleet.rotas[1].command(&["canary"]));
    assert!(
        ended.contains("promoted") && ended.contains("by hand of the late ops"),
        "{ended}"
    );
    let history = fleet.history();
    assert!(!history.contains("rolled back"), "{history}");
}

/// All that a load balancer needs, but of routes this policy.
fn rights(routes: &str) -> String {
    let all = ["key", "session", "agent"]
        .map(|kind| format!(r#"{kind}_prefix \"\" {{ policy = \"write\" }}"#));
    let read =
        ["service", "node"].map(|kind| format!(r#"{kind}_prefix \"\" {{ policy = \"read\" }}"#));
    let routes = format!(r#"key_prefix \"rota/trust/config/routes/\" {{ policy = \"{routes}\" }}"#);
    [&all[..], &read[..], &[routes]].concat().join(" ")
}

#[test]
fn a_promotion_that_nobody_may_finish_is_ended_by_an_abort_as_what_it_is() {
    let alone = alone();
    let agent = Agent::start_with(ACL_DENY);
    let token = agent.new_token(&rights("write"));
    let fleet = Fleet::with(agent, Some(&token.secret), alone);
    fleet.begin_more();
    fleet.agent.change_rights(&token, &rights("read"));
    fleet.write_as_promoted(std::iter::empty());
    // Whoever judges tries each time.
    within_two_minutes("it is ended", || {
        let told = said(&fleet.rotas[2].command(&["canary", "abort"]));
        told.contains("half in force: 100 of 101 documents are not written")
    });
    let history = fleet.history();
    assert!(history.contains("half in force"), "{history}");
    let next = fleet.apply(0, &fleet.serving(&fleet.good), &[]);
    assert_eq!(next.status.code(), Some(0), "{}", said(&next));
    fleet.eventually_says(0, "good");
}

#[test]
fn what_is_everybodys_already_cannot_be_aborted_and_is_not_called_rolled_back() {
    let fleet = Fleet::start();
    let change = fleet.serving(&fleet.other);
    let begun = fleet.apply(0, &change, &["--canary", "lb-1", "--for", "1h", "--detach"]);
    assert_eq!(begun.status.code(), Some(0), "{}", said(&begun));
    fleet.eventually_says(1, "other");
    fleet.write_as_promoted(std::iter::empty());
    let aborted = fleet.rotas[2].command(&["canary", "abort"]);
    assert_eq!(aborted.status.code(), Some(1), "{}", said(&aborted));
    within_two_minutes("it is over", || {
        said(&fleet.rotas[1].command(&["canary"])).contains("no canary is under way")
    });
    for number in 0..3 {
        fleet.eventually_says(number, "other");
    }
    let history = fleet.history();
    assert!(!history.contains("rolled back"), "{history}");
}
