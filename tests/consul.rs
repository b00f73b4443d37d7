//! What is promised of discovery, against a real Consul agent; and against one that misbehaves as no real one would on demand.

#![allow(clippy::unwrap_used)] // Clippy's exemption for tests does not reach what they share.

#[path = "support/consul.rs"]
mod consul_agent;
#[path = "consul/hidden.rs"]
mod hidden;
#[path = "consul/scripted.rs"]
mod scripted;
#[path = "consul/store.rs"]
mod store;
#[path = "consul/sweeping.rs"]
mod sweeping;
#[path = "consul/tickets.rs"]
mod tickets;
#[path = "consul/watching.rs"]
mod watching;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use consul_agent::{ACL_DENY, Agent, MASTER_TOKEN};
use rota::config::ConsulToken;
use rota::control::consul::{
    CheckStatus, Client, Consistency, ConsulError, Finding, Instance, LAST_CONTACT, LEADER_WATCH,
    Observation, Subtree,
};
use scripted::{Scripted, hang, reply};
use watching::{Watching, eventually, settings};

fn is_critical(instances: &[Instance]) -> bool {
    instances
        .iter()
        .any(|instance| instance.status() == CheckStatus::Critical)
}

fn is_passing(instances: &[Instance]) -> bool {
    !instances.is_empty() && !is_critical(instances)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_check_that_turns_critical_is_seen_within_50_ms() {
    let agent = Agent::start();
    agent.register_passing("app", "app-1", 8001);
    let mut watching = Watching::start(settings(&agent.http_address()));
    watching.want(&["app"]);
    watching.wait_for_instances("app", is_passing);
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let start = Instant::now();
            agent.set_check("app-1", "fail");
            let seen = watching.wait_for_instances("app", is_critical);
            agent.set_check("app-1", "pass");
            watching.wait_for_instances("app", is_passing);
            seen - start
        })
        .collect();
    times.sort();
    println!(
        "critical -> observation: median {:?}, most {:?}",
        times[10], times[20]
    );
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
}

#[test]
fn instances_come_and_go_with_their_registration() {
    let agent = Agent::start();
    agent.register(
        r#"{"Name": "app", "ID": "a", "Port": 8001, "Tags": ["v2"], "Weights": {"Passing": 5, "Warning": 2}}"#,
    );
    agent.register_passing("app", "b", 8002);
    let mut watching = Watching::start(settings(&agent.http_address()));
    watching.want(&["app"]);
    let both = watching.wait_for("both", |observation| matches!(observation, Observation::Instances { instances, .. } if instances.len() == 2));
    let Observation::Instances { instances, .. } = both.1 else {
        unreachable!()
    };
    assert_eq!(
        instances[0].address, "127.0.0.1",
        "an empty address is the node's"
    );
    assert_eq!(
        (instances[0].weight_passing, instances[0].weight_warning),
        (5, 2)
    );
    assert_eq!(instances[0].tags, ["v2"]);
    assert!(
        instances[1]
            .checks
            .iter()
            .any(|check| check.id == "serfHealth")
    );
    agent.deregister("a");
    watching.wait_for_instances("app", |instances| instances.len() == 1);
    agent.deregister("b");
    watching.wait_for_instances("app", <[Instance]>::is_empty);
    watching.want(&[]);
    agent.register_passing("app", "c", 8003);
    assert_eq!(watching.during(Duration::from_millis(300)), []);
}

#[test]
fn a_tag_and_a_datacenter_narrow_a_watch_and_a_bad_one_hurts_no_other() {
    let agent = Agent::start();
    agent.register(r#"{"Name": "app", "ID": "a", "Port": 8001, "Tags": ["v2"]}"#);
    agent.register(r#"{"Name": "app", "ID": "b", "Port": 8002}"#);
    let mut tagged = watching::service("app");
    tagged.tag = Some("v2".into());
    let mut here = watching::service("app");
    here.datacenter = Some("dc1".into());
    let mut nowhere = watching::service("app");
    nowhere.datacenter = Some("nowhere".into());
    for connections in [100, 3] {
        let mut settings = settings(&agent.http_address());
        settings.connections = connections;
        let mut watching = Watching::start(settings);
        watching.want_services([&tagged, &here, &nowhere].map(Clone::clone).into());
        let mut missing = vec![(&tagged, 1), (&here, 2)];
        while !missing.is_empty() {
            let (_, one) =
                watching.wait_for("both", |one| matches!(one, Observation::Instances { .. }));
            if let Observation::Instances { watch, instances } = one {
                missing.retain(|(wanted, count)| **wanted != watch || *count != instances.len());
            }
        }
        eventually("nowhere fails", || watching.failing_watches() > 0);
        assert!(watching.seen.iter().all(
            |(_, one)| !matches!(one, Observation::Instances { watch, .. } if *watch == nowhere)
        ));
        watching.want_services([tagged.clone()].into());
        eventually("what is wanted no more fails no more", || {
            watching.failing_watches() == 0
        });
        while !watching.told_to_fail().is_empty() {
            watching.wait_for("what fails and is wanted no more says so", |_| true);
        }
    }
}

#[test]
fn maintenance_is_told_from_critical() {
    let agent = Agent::start();
    agent.register_passing("app", "app-1", 8001);
    let mut watching = Watching::start(settings(&agent.http_address()));
    watching.want(&["app"]);
    watching.wait_for_instances("app", is_passing);
    agent.must(
        "PUT",
        "/v1/agent/service/maintenance/app-1?enable=true&reason=disk",
        b"",
    );
    watching.wait_for_instances("app", |instances| {
        let checks = &instances[0].checks;
        let says_why = checks.iter().any(|check| check.output == "disk");
        instances[0].status() == CheckStatus::Maintenance && says_why
    });
}

#[test]
fn each_subtree_is_read_and_a_write_to_it_is_seen() {
    let agent = Agent::start();
    agent.put("rota/pod", b"pod-1");
    agent.put("rota/config/services/", b"");
    agent.put("rota/config/services/shop", b"{}");
    let mut watching = Watching::start(settings(&agent.http_address()));
    let is_shop = |documents: &[rota::control::consul::Document]| {
        documents.len() == 1 && documents[0].name == "shop" && &*documents[0].value == b"{}"
    };
    watching.wait_for_documents(Subtree::Services, is_shop);
    for (key, subtree, name) in [
        ("rota/config/routes/a", Subtree::Routes, "a"),
        ("rota/config/domains/a.test", Subtree::Domains, "a.test"),
        ("rota/config/tuning", Subtree::Tuning, ""),
        (
            "rota/operator/drain/shop/10.0.0.1:80",
            Subtree::OperatorDrain,
            "shop/10.0.0.1:80",
        ),
        ("rota/pod", Subtree::Pod, ""),
    ] {
        agent.put(key, b"word");
        watching.wait_for_documents(subtree, |documents| {
            documents.len() == 1 && documents[0].name == name && &*documents[0].value == b"word"
        });
    }
    agent.delete("rota/config/services?recurse");
    watching.wait_for_documents(Subtree::Services, <[_]>::is_empty);
}

#[test]
fn a_missing_prefix_that_other_writes_wake_yields_no_observation() {
    let agent = Agent::start();
    let mut watching = Watching::start(settings(&agent.http_address()));
    watching.wait_for_subtrees();
    for number in 0..30 {
        agent.put(&format!("elsewhere/{number}"), b"x");
    }
    assert_eq!(watching.during(Duration::from_millis(500)), []);
    agent.put("rota/config/routes/a", b"{}");
    watching.wait_for_documents(Subtree::Routes, |documents| documents.len() == 1);
}

#[test]
fn a_key_of_any_characters_is_written_read_listed_and_deleted() {
    let agent = Agent::start();
    let client = Client::new(&settings(&agent.http_address())).unwrap();
    wait(async {
        for name in [
            "a b",
            "50%",
            "%41",
            "x/y/z",
            "ü?#&=+",
            "10.0.0.1:80",
            "[::1]:80",
            "a%2Fb",
        ] {
            let key = format!("rota/operator/drain/{name}");
            assert!(client.kv_write(&key, name.as_bytes(), None).await.unwrap());
            let read = client.kv_read(&key).await.unwrap().unwrap();
            assert_eq!(&*read.value, name.as_bytes());
            let listed = client
                .kv_list("rota/operator/drain/", Consistency::Consistent)
                .await
                .unwrap();
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert_eq!(listed[0].name, name);
            client.kv_delete(&key).await.unwrap();
            assert_eq!(client.kv_read(&key).await.unwrap(), None);
        }
    });
}

#[test]
fn a_write_against_an_older_index_changes_nothing() {
    let agent = Agent::start();
    let client = Client::new(&settings(&agent.http_address())).unwrap();
    wait(async {
        assert!(client.kv_write("k", b"1", Some(0)).await.unwrap());
        assert!(!client.kv_write("k", b"2", Some(0)).await.unwrap());
        let first = client.kv_read("k").await.unwrap().unwrap();
        assert!(
            client
                .kv_write("k", b"3", Some(first.modify_index))
                .await
                .unwrap()
        );
        assert!(
            !client
                .kv_write("k", b"4", Some(first.modify_index))
                .await
                .unwrap()
        );
        assert_eq!(&*client.kv_read("k").await.unwrap().unwrap().value, b"3");
        let long_key = "k".repeat(65_500);
        assert!(matches!(
            client.kv_read(&long_key).await,
            Err(ConsulError::Local(_))
        ));
        let long = vec![b'x'; rota::control::consul::VALUE_BYTES + 1];
        assert!(matches!(
            client.kv_write("k", &long, None).await,
            Err(ConsulError::Local(_))
        ));
    });
}

#[test]
fn a_dead_agent_is_said_once_by_each_watch_empties_nothing_and_is_found_again_within_a_second() {
    let mut agent = Agent::start();
    agent.put("rota/pod", b"pod-1");
    agent.register_passing("app", "app-1", 8001);
    let mut watching = Watching::start(settings(&agent.http_address()));
    watching.wait_for_subtrees();
    watching.want(&["app"]);
    watching.wait_for_instances("app", is_passing);
    eventually("contact", || watching.last_contact_ms() > 0);
    let _ = watching.during(Duration::from_millis(300));

    agent.kill();
    let failing = watching.during(Duration::from_secs(4));
    assert_eq!(
        failing.len(),
        Subtree::ALL.len() + 2,
        "the subtrees, a service and the leader, once each: {failing:#?}"
    );
    assert!(
        failing
            .iter()
            .all(|one| matches!(one, Observation::Failing { .. }))
    );
    assert_eq!(watching.failing_watches(), Subtree::ALL.len() as i64 + 2);
    let contact = watching.last_contact_ms();

    agent.spawn_again();
    assert!(agent.wait_until_ready());
    let back = Instant::now();
    let seen_before = watching.seen.len();
    let recovered = watching.wait_for(
        "recovery of the service",
        |one| matches!(one, Observation::Recovered { watch } if watch == "service app"),
    );
    println!(
        "agent has a leader -> watch is back: {:?}",
        recovered.0.saturating_duration_since(back)
    );
    assert!(recovered.0.saturating_duration_since(back) < Duration::from_millis(1300));
    eventually("no watch fails", || watching.failing_watches() == 0);
    eventually("contact again", || watching.last_contact_ms() > contact);
    let _ = watching.during(Duration::from_millis(300));
    for (_, observation) in &watching.seen[seen_before..] {
        // The agent itself may take its TTL checks for critical until they are renewed: that is its word.
        match observation {
            Observation::Recovered { .. } | Observation::Strays(_) => {}
            // Asked now and then, it says late that there was an agent again and no leader yet.
            Observation::Failing { watch, .. } if watch == LEADER_WATCH => {}
            Observation::Instances { instances, .. } => assert_eq!(instances.len(), 1),
            Observation::Documents { .. }
            | Observation::Tagged { .. }
            | Observation::Reread { .. }
            | Observation::Failing { .. } => {
                panic!("{observation:?}")
            }
        }
    }
}

#[test]
fn an_agent_that_comes_back_empty_is_observed_as_such() {
    let mut agent = Agent::start();
    agent.put("rota/pod", b"pod-1");
    let mut watching = Watching::start(settings(&agent.http_address()));
    watching.wait_for_documents(Subtree::Pod, |documents| documents.len() == 1);
    agent.restart_empty();
    watching.wait_for_documents(Subtree::Pod, <[_]>::is_empty);
    agent.put("rota/pod", b"pod-2");
    watching.wait_for_documents(Subtree::Pod, |documents| documents.len() == 1);
}

#[test]
fn a_weak_token_gets_an_empty_answer_and_a_wrong_one_fails() {
    let agent = Agent::start_with(ACL_DENY);
    agent.register_passing("app", "app-1", 8001);
    let without = settings(&agent.http_address());

    let mut watching = Watching::start(without.clone());
    watching.want(&["app"]);
    watching.wait_for_instances("app", <[Instance]>::is_empty);
    // Of a single key Consul says that it may not be read; of a prefix, that there is none.
    eventually("keys fail", || watching.failing_watches() == 3);
    let failing = |watch: &str| {
        let is_it = |one: &Observation| matches!(one, Observation::Failing { watch: name, .. } if name == watch);
        watching.seen.iter().any(|(_, one)| is_it(one))
    };
    assert!(!failing("service app") && !failing("config/routes"));

    let mut wrong = without.clone();
    wrong.token = Some(ConsulToken::Value(
        "7d0a5f0e-dead-dead-dead-000000000009".into(),
    ));
    let mut watching = Watching::start(wrong);
    watching.want(&["app"]);
    let (_, said) = watching.wait_for(
        "failing",
        |one| matches!(one, Observation::Failing { watch, .. } if watch == "service app"),
    );
    let Observation::Failing { error, .. } = said else {
        unreachable!()
    };
    assert!(error.starts_with("refused by acl: "), "{error}");
    assert!(!error.contains("dead"), "{error}");
    assert_eq!(
        watching.last_contact_ms(),
        0,
        "an agent that refuses is no contact"
    );
}

#[test]
fn a_token_file_is_read_again_at_each_question() {
    let agent = Agent::start_with(ACL_DENY);
    agent.put("k", b"1");
    let path = std::env::temp_dir().join(format!("rota-token-{}", std::process::id()));
    let mut with_file = settings(&agent.http_address());
    with_file.token = Some(ConsulToken::File(path.clone()));
    let client = Client::new(&with_file).unwrap();
    wait(async {
        let error = client.kv_read("k").await.unwrap_err();
        assert!(
            matches!(&error, ConsulError::Local(what) if what.contains("token file")),
            "{error}"
        );
        std::fs::write(&path, "7d0a5f0e-dead-dead-dead-000000000009\n").unwrap();
        assert!(matches!(
            client.kv_read("k").await,
            Err(ConsulError::Denied(_))
        ));
        std::fs::write(&path, format!("{MASTER_TOKEN}\n")).unwrap();
        assert_eq!(&*client.kv_read("k").await.unwrap().unwrap().value, b"1");
        std::fs::write(&path, "a\nb").unwrap();
        let error = client.kv_read("k").await.unwrap_err();
        assert!(
            matches!(&error, ConsulError::Local(what) if what.contains("no header")),
            "{error}"
        );
    });
    let _ = std::fs::remove_file(path);
}

/// Certificates of one test: an authority, and what it signed for the agent and for us.
fn make_certificates(directory: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("ca.pem", authority.self_signed(&key).unwrap().pem());
    let authority = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap();
        write(
            &format!("{name}.pem"),
            leaf.signed_by(&key, &authority).unwrap().pem(),
        );
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[test]
fn an_agent_is_asked_over_verified_tls_with_a_client_certificate_by_name_or_address() {
    let directory = std::env::temp_dir().join(format!("rota-consul-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    make_certificates(&directory);
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let file = |name: &str| directory.join(name);
    let agent = Agent::start_with(&format!(
        r#"{{"ports": {{"https": {port}}}, "verify_incoming_https": true, "ca_file": {:?}, "cert_file": {:?}, "key_file": {:?}}}"#,
        file("ca.pem"),
        file("server.pem"),
        file("server.key"),
    ));
    agent.put("k", b"1");
    for host in ["localhost", "127.0.0.1"] {
        let mut tls = settings(&format!("https://{host}:{port}"));
        tls.ca_file = Some(file("ca.pem"));
        let without = Client::new(&tls).unwrap();
        assert!(matches!(
            wait(without.kv_read("k")),
            Err(ConsulError::Unreachable(_))
        ));
        tls.certificate = Some(file("client.pem"));
        tls.key = Some(file("client.key"));
        let client = Client::new(&tls).unwrap();
        assert_eq!(&*wait(client.kv_read("k")).unwrap().unwrap().value, b"1");
        tls.ca_file = None;
        let untrusting = Client::new(&tls).unwrap();
        let error = wait(untrusting.kv_read("k")).unwrap_err().to_string();
        assert!(
            error.starts_with("agent unreachable: ") && error.contains("tls: "),
            "{error}"
        );
    }
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn an_agent_that_stops_answering_is_no_contact_though_its_connections_live() {
    let agent = Agent::start();
    let watching = Watching::start(settings(&agent.http_address()));
    eventually("contact", || watching.last_contact_ms() > 0);
    let before = watching.last_contact_ms();
    eventually("the contact is renewed while every query hangs", || {
        watching.last_contact_ms() > before + 1000
    });
    agent.signal("STOP");
    std::thread::sleep(Duration::from_millis(100)); // What was under way when it stopped.
    let stopped = watching.last_contact_ms();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(watching.last_contact_ms(), stopped);
    agent.signal("CONT");
    eventually("contact again", || watching.last_contact_ms() > stopped);
}

#[test]
fn an_address_that_cannot_be_used_is_named_at_once() {
    for address in ["127.0.0.1:8500", "ftp://x", "http://", "unix:/run/consul"] {
        let error = Client::new(&settings(address)).err().expect(address);
        assert!(error.contains(address), "{error}");
    }
}

#[test]
fn more_services_than_connections_are_watched_all_the_same() {
    let agent = Agent::start();
    let names: Vec<String> = (0..10).map(|number| format!("app-{number}")).collect();
    for name in &names {
        agent.register_passing(name, &format!("{name}-a"), 8001);
    }
    let mut few = settings(&agent.http_address());
    few.connections = 3;
    let mut watching = Watching::start(few);
    watching.want(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut unseen: std::collections::BTreeSet<String> = names.iter().cloned().collect();
    while !unseen.is_empty() {
        let (_, one) = watching.wait_for("all ten", |one| {
            matches!(one, Observation::Instances { .. })
        });
        if let Observation::Instances { watch, instances } = one {
            assert!(is_passing(&instances));
            unseen.remove(&watch.service);
        }
    }
    let _ = watching.during(Duration::from_secs(1));
    let start = Instant::now();
    agent.set_check("app-7-a", "fail");
    let seen = watching.wait_for_instances("app-7", is_critical);
    println!("sweep: critical -> observation {:?}", seen - start);
    assert!(seen - start < Duration::from_millis(500));

    agent.register_passing("app-3", "app-3-b", 8002);
    watching.wait_for_instances("app-3", |instances| instances.len() == 2);
    agent.deregister("app-3-a");
    watching.wait_for_instances("app-3", |instances| instances.len() == 1);
    // No check shows it, and the catalogue names the service already.
    agent.register(r#"{"Name": "app-5", "ID": "app-5-b", "Address": "127.0.0.1", "Port": 8003}"#);
    watching.wait_for_instances("app-5", |instances| instances.len() == 2);
    agent.must("PUT", "/v1/agent/maintenance?enable=true", b"");
    watching.wait_for_instances("app-9", |instances| {
        instances[0].status() == CheckStatus::Maintenance
    });
}

#[test]
fn what_stays_wanted_is_not_said_again_whichever_way_it_is_watched() {
    let agent = Agent::start();
    let names: Vec<String> = (0..6).map(|number| format!("app-{number}")).collect();
    for name in &names {
        agent.register_passing(name, name, 8001);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut four_services = settings(&agent.http_address());
    four_services.connections = 25;
    let mut watching = Watching::start(four_services);
    watching.wait_for_subtrees();
    for wanted in [
        &names[..2],
        &names[..4],
        &names[..6],
        &names[..3],
        &names[..5],
    ] {
        watching.want(wanted);
        let said = watching.during(Duration::from_millis(800));
        println!("{} wanted: {} observations", wanted.len(), said.len());
    }
    let of_first = watching.seen.iter().filter(
        |(_, one)| matches!(one, Observation::Instances { watch, .. } if watch.service == "app-0"),
    );
    assert_eq!(of_first.count(), 1);
    agent.set_check("app-0", "fail");
    watching.wait_for_instances("app-0", is_critical);
    watching.want(&names[..1]);
    agent.set_check("app-0", "pass");
    watching.wait_for_instances("app-0", is_passing);
}

#[test]
fn a_thousand_services_work_at_an_agents_default_limits() {
    let agent = Agent::start();
    let names: Vec<String> = (0..1000).map(|number| format!("app-{number}")).collect();
    for name in &names {
        agent.register_passing(name, name, 8001);
    }
    let mut watching = Watching::start(settings(&agent.http_address()));
    let start = Instant::now();
    watching.want(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut unseen: std::collections::BTreeSet<String> = names.iter().cloned().collect();
    while !unseen.is_empty() {
        let (_, one) = watching.wait_for("all", |one| matches!(one, Observation::Instances { .. }));
        if let Observation::Instances { watch, .. } = one {
            unseen.remove(&watch.service);
        }
    }
    println!("1,000 services read in {:?}", start.elapsed());
    let start = Instant::now();
    agent.set_check("app-500", "fail");
    let seen = watching.wait_for_instances("app-500", is_critical);
    println!("1,000 services: critical -> observation {:?}", seen - start);
    assert!(seen - start < Duration::from_secs(2));
    assert_eq!(watching.failing_watches(), 0);
}

const APP: &str = r#"[{"Node": {"Node": "n", "Address": "127.0.0.1"}, "Service": {"ID": "a", "Port": 80}, "Checks": []}]"#;

#[test]
fn an_index_that_goes_back_is_asked_for_anew_and_the_next_answer_is_seen() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", APP),
            1 if target.contains("index=90") => reply(stream, 200, "5", APP),
            2 if !target.contains("index=") => reply(stream, 200, "5", APP),
            3 if target.contains("index=5") && target.contains("stale") => {
                reply(stream, 200, "6", "[]")
            }
            _ => hang(stream),
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for_instances("app", is_passing);
    watching.wait_for_instances("app", <[Instance]>::is_empty);
    assert_eq!(watching.seen.len(), 2, "{:?}", watching.seen);
}

#[test]
fn what_a_500_says_is_not_believed_nor_its_index() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", APP),
            1..=4 => reply(stream, 500, "1", "No cluster leader"),
            _ if target.contains("index=1&") => reply(stream, 200, "1", "[]"),
            5 => reply(stream, 200, "91", APP),
            _ => hang(stream),
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for("recovery", |one| {
        matches!(one, Observation::Recovered { .. })
    });
    let rest = watching.during(Duration::from_millis(300));
    assert_eq!(rest, [], "the same instances are no news");
    let failing: Vec<_> = watching
        .seen
        .iter()
        .filter(|(_, one)| matches!(one, Observation::Failing { .. }))
        .collect();
    assert_eq!(failing.len(), 1, "{failing:?}");
    assert!(format!("{failing:?}").contains("answered 500: No cluster leader"));
}

#[test]
fn what_servers_without_a_leader_answer_replaces_nothing() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", APP),
            1..=3 => reply(stream, 200, "1\r\nX-Consul-KnownLeader: false", "[]"),
            4 => reply(stream, 200, "91\r\nX-Consul-KnownLeader: true", APP),
            _ => hang(stream),
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for("recovery", |one| {
        matches!(one, Observation::Recovered { .. })
    });
    let said: Vec<&Observation> = watching.seen.iter().map(|(_, one)| one).collect();
    assert!(
        matches!(said[1], Observation::Failing { error, .. } if error == "the servers have no leader")
    );
    assert_eq!(said.len(), 3, "{said:?}");
}

/// What is said of `app` when the second to fourth answer are empty and carry `fields`.
fn said_while_answers_carry(fields: &'static str) -> Vec<Observation> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", APP),
            1..=3 => reply(stream, 200, &format!("91\r\n{fields}"), "[]"),
            4 => reply(stream, 200, "91", APP),
            _ => hang(stream),
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for("recovery", |one| {
        matches!(one, Observation::Recovered { .. })
    });
    watching.seen.iter().map(|(_, one)| one.clone()).collect()
}

#[test]
fn a_server_far_behind_its_leader_is_named_and_takes_nobody_away() {
    let said = said_while_answers_carry("X-Consul-LastContact: 60000");
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        matches!(&said[1], Observation::Failing { error, .. } if error.contains("60000 ms ago"))
    );
    // Up to the limit a follower's word is as good as any.
    assert!(LAST_CONTACT > Duration::from_secs(1));
}

#[test]
fn an_answer_that_access_control_emptied_is_named_and_takes_nobody_away() {
    let said = said_while_answers_carry("X-Consul-Results-Filtered-By-ACLs: true");
    assert_eq!(said.len(), 3, "{said:?}");
    let is_named = |error: &str| error.starts_with("refused by acl: the answer is empty");
    assert!(matches!(&said[1], Observation::Failing { error, .. } if is_named(error)));
}

#[test]
fn a_re_read_is_the_leaders_and_says_what_the_token_may_not_read() {
    let agent = Agent::start_with(ACL_DENY);
    agent.register_passing("app", "app-1", 8001);
    let token = agent.new_token(
        r#"service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }"#,
    );
    let mut settings = settings(&agent.http_address());
    settings.token = Some(ConsulToken::Value(token.secret.clone()));
    let mut watching = Watching::start(settings);
    watching.want(&["app"]);
    watching.wait_for_instances("app", is_passing);
    let is_found = |wanted: Finding| move |one: &Observation| matches!(one, Observation::Reread { finding, .. } if *finding == wanted);
    watching.reread("app");
    watching.wait_for("it is as it is", is_found(Finding::AsItIs));
    agent.take_rights(&token);
    // A question that hangs is not woken by that; the next one is answered with nothing.
    agent.set_check("app-1", "warn");
    watching.wait_for_instances("app", |instances| instances.is_empty());
    watching.reread("app");
    watching.wait_for("the token may not", is_found(Finding::Hidden));
}

#[test]
fn malformed_json_and_an_endless_answer_fail_and_change_nothing() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", APP),
            1 => reply(
                stream,
                200,
                "91",
                &format!("[{{\"Node\": \"{}", "x".repeat(5000)),
            ),
            2 => {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nX-Consul-Index: 92\r\n\r\n[");
                while stream.write_all(&[b' '; 65536]).is_ok() {}
            }
            3 => reply(stream, 200, "93", "[]"),
            _ => hang(stream),
        }
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for_instances("app", is_passing);
    watching.wait_for_instances("app", <[Instance]>::is_empty);
    let said: Vec<&Observation> = watching.seen.iter().map(|(_, one)| one).collect();
    assert_eq!(
        said.len(),
        4,
        "passing, failing once, recovered, empty: {said:?}"
    );
    assert!(
        matches!(said[1], Observation::Failing { error, .. } if error.starts_with("unreadable") && error.len() < 300)
    );
    assert!(matches!(said[2], Observation::Recovered { .. }));
}

#[test]
fn an_answer_without_an_index_is_not_asked_for_in_a_busy_loop() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        count.fetch_add(1, Relaxed);
        reply(stream, 200, "0", APP);
    });
    let mut watching = Watching::start(settings(&format!("http://{}", server.address)));
    watching.want(&["app"]);
    watching.wait_for_instances("app", is_passing);
    assert_eq!(watching.during(Duration::from_secs(2)), []);
    assert!(asked.load(Relaxed) < 15, "{}", asked.load(Relaxed));
}

#[test]
fn a_query_that_hangs_past_its_end_is_asked_again_without_an_alarm() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Scripted::start(move |target, stream| {
        if !target.contains("health/service/app") {
            return hang(stream);
        }
        match count.fetch_add(1, Relaxed) {
            0 => reply(stream, 200, "90", APP),
            1 => hang(stream),
            _ if target.contains("index=") => hang(stream),
            _ => reply(stream, 200, "91", "[]"),
        }
    });
    let mut short = settings(&format!("http://{}", server.address));
    short.wait = Duration::from_millis(100);
    let mut watching = Watching::start(short);
    watching.want(&["app"]);
    watching.wait_for_instances("app", <[Instance]>::is_empty);
    assert!(!watching.seen.iter().any(
        |(_, one)| matches!(one, Observation::Failing { watch, .. } if watch == "service app")
    ));
}
