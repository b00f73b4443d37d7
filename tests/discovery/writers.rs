//! What becomes of documents and of their revisions when who writes them may not, dies in the middle, or meets somebody else.

use std::time::{Duration, Instant};

use super::between::Between;
use super::consul_agent::{ACL_DENY, Agent};
use super::staged::{eventually_says, folder, route, service, staged, start, text, value};
use super::support::rota::{Directory, Place, Signal, said};
use super::support::{Origin, Rota, eventually, stays};
use super::{PREFIX, document};

/// All keys of all documents, read from the leader: what costs much where there are many.
const WHOLE: [&str; 3] = ["/config/?", "recurse", "consistent"];

fn way_to(agent: &Agent) -> Between {
    Between::start(agent.http_address().trim_start_matches("http://"))
}

/// As [`start`], by another way to the agent; `more` is of `[consul]`.
fn start_by(way: &Between, agent: &Agent, more: &str) -> Rota {
    let by = format!("http://{}", way.address);
    let text = text(agent).replace(&agent.http_address(), &by);
    Place::new().start(&text.replace("[consul]\n", &format!("[consul]\n{more}")))
}

fn last(agent: &Agent) -> Option<u64> {
    let last: serde_json::Value = serde_json::from_str(&value(agent, "revisions/last")?).unwrap();
    last["n"].as_u64()
}

#[test]
fn who_may_not_write_revisions_reads_no_documents_for_it() {
    let agent = Agent::start_with(ACL_DENY);
    let write = "{ policy = \\\"write\\\" }";
    let token = agent.new_token(&format!(
        "key_prefix \\\"\\\" {{ policy = \\\"read\\\" }} session_prefix \\\"\\\" {write} \
         key_prefix \\\"{PREFIX}/pod\\\" {write} key_prefix \\\"{PREFIX}/nodes/\\\" {write}"
    ));
    let way = way_to(&agent);
    let rota = start_by(&way, &agent, &format!("token = \"{}\"\n", token.secret));
    document(&agent, "services/shop", "servers = [\"10.0.0.1:80\"]");
    eventually("it says that it may not", || {
        rota.log()
            .contains("what changes is in force and not recorded")
    });
    stays("nothing is read", Duration::from_secs(4), || {
        way.asked(&WHOLE) == 0
    });
}

#[test]
fn while_a_mark_stands_nobody_reads_documents_to_record_them() {
    let agent = Agent::start();
    let way = way_to(&agent);
    let _rota = start_by(&way, &agent, "");
    agent.put(&format!("{PREFIX}/apply"), b"by hand");
    document(&agent, "services/shop", "servers = [\"10.0.0.1:80\"]");
    stays("nothing is read", Duration::from_secs(3), || {
        way.asked(&WHOLE) == 0
    });
    agent.delete(&format!("{PREFIX}/apply"));
    eventually("it is recorded", || last(&agent) == Some(1));
}

/// A service and a hundred routes, `h0.test` to `h99.test`: more than one transaction has.
fn many(origin: &Origin) -> Directory {
    let mut files = vec![("services/app.toml".to_owned(), service(origin))];
    files.extend((0..100).map(|number| {
        let text = route(&format!("h{number}.test"), "app");
        (format!("routes/r{number}.toml"), text)
    }));
    let files = files.iter().map(|(name, text)| (&**name, text.clone()));
    folder(&files.collect::<Vec<_>>())
}

/// Ends the session that holds a key, as its time would.
fn end_holder(agent: &Agent, key: &str) {
    let path = format!("/v1/kv/{PREFIX}/{key}");
    let held = agent.try_call("GET", &path, b"").unwrap();
    if held.status == 200 {
        let held: serde_json::Value = serde_json::from_str(&held.body).unwrap();
        let session = held[0]["Session"].as_str().unwrap_or_default();
        agent.must("PUT", &format!("/v1/session/destroy/{session}"), b"");
    }
}

#[test]
fn a_document_that_somebody_changed_before_the_first_of_many_is_written_refuses_them_all() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let way = way_to(&agent);
    let rota = start_by(&way, &agent, "");
    // What is applied was compared already: what comes next is the mark.
    way.freeze(&format!("{PREFIX}/apply"));
    let output = std::thread::scope(|scope| {
        let writing = scope.spawn(|| staged(&rota, "apply", &many(&origin), &[]));
        eventually("it asks for the mark", || {
            way.asked(&["/apply", "consistent"]) > 0
        });
        document(&agent, "routes/r99", &route("other.test", "app"));
        way.thaw();
        writing.join().unwrap()
    });
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let words = "changed by others meanwhile: routes/r99; nothing was written";
    assert!(told.contains(words), "{told}");
    assert_eq!(value(&agent, "config/services/app"), None);
    assert_eq!(value(&agent, "apply"), None, "the mark is gone");
}

#[test]
fn what_a_writer_left_that_died_in_the_middle_waits_for_its_end_and_no_longer() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let way = way_to(&agent);
    let other = start(&agent);
    let writer = Place::new().start(&format!(
        "[node]\nname = \"writer\"\n{}",
        text(&agent).replace(&agent.http_address(), &format!("http://{}", way.address))
    ));
    // The second transaction has the last route, and never comes to its end.
    way.freeze("config/routes/r99");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| staged(&writer, "apply", &many(&origin), &[]));
        eventually("a part is written", || {
            value(&agent, "config/routes/r0").is_some()
        });
        writer.signal(Signal::KILL);
    });
    let early = other.get("h0.test", "/").status;
    assert!(early == 404 || begun.elapsed() > Duration::from_secs(9));
    let status = || said(&other.command(&["status"]));
    eventually("that it did not end is told", || {
        status().contains("did not end in time")
    });
    eventually_says(&other, "h0.test", "one");
    assert_eq!(other.get("h99.test", "/").status, 404);
    end_holder(&agent, "apply");
    eventually("nothing is told any more", || {
        !status().contains("did not end in time")
    });
    assert_eq!(value(&agent, "apply"), None);
    eventually("the rest can be written", || {
        staged(&other, "apply", &many(&origin), &[])
            .status
            .success()
    });
    eventually_says(&other, "h99.test", "one");
}

/// A document of some 200 KiB, most of it comment.
fn large(origin: &Origin, letter: &str) -> String {
    let line = format!("# {}\n", letter.repeat(97));
    line.repeat(2000) + &service(origin)
}

#[test]
fn a_revision_larger_than_one_value_is_read_back_whole() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let names = ["services/first", "services/second"];
    for name in names {
        document(&agent, name, &large(&origin, &name[9..10]));
    }
    let rota = start(&agent);
    eventually("it is recorded", || last(&agent) == Some(1));
    assert!(value(&agent, "revisions/1/2").is_some(), "two values");
    assert_eq!(said(&rota.command(&["diff", "1"])), "no difference\n");
    for name in names {
        document(&agent, name, &service(&origin));
    }
    eventually("that they are others is recorded", || {
        last(&agent).is_some_and(|n| {
            n > 1 && said(&rota.command(&["diff", &n.to_string()])) == "no difference\n"
        })
    });
    let output = rota.command(&["rollback", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for name in names {
        let key = format!("config/{name}");
        let wanted = large(&origin, &name[9..10]);
        assert!(value(&agent, &key) == Some(wanted), "{name} is back");
    }
}

#[test]
fn what_a_recorder_left_that_died_before_its_head_is_nobodys() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    document(&agent, "services/first", &large(&origin, "f"));
    document(&agent, "services/second", &large(&origin, "s"));
    let way = way_to(&agent);
    way.freeze("revisions/1/head");
    let dying = start_by(&way, &agent, "");
    eventually("both pieces are there", || {
        value(&agent, "revisions/1/2").is_some()
    });
    dying.signal(Signal::KILL);
    dying.wait();
    assert_eq!(last(&agent), None);
    agent.delete(&format!("{PREFIX}/config/services/second"));
    end_holder(&agent, "revisions/lock");
    let rota = start(&agent);
    eventually("it is recorded", || last(&agent) == Some(1));
    assert_eq!(value(&agent, "revisions/1/2"), None, "one piece is enough");
    assert_eq!(said(&rota.command(&["diff", "1"])), "no difference\n");
}

#[test]
fn what_nobody_can_read_of_the_revisions_stops_neither_history_nor_rollback_nor_the_next_one() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let rota = start(&agent);
    for (n, name) in ["first", "second", "third"].into_iter().enumerate() {
        document(&agent, &format!("services/{name}"), &service(&origin));
        eventually("it is recorded", || last(&agent) == Some(n as u64 + 1));
    }
    for key in ["2/head", "last", "pending/x"] {
        agent.put(&format!("{PREFIX}/revisions/{key}"), b"{");
    }
    let history = || said(&rota.command(&["history"]));
    assert!(history().contains("nobody can read it"), "{}", history());
    assert_eq!(rota.command(&["diff", "3"]).status.code(), Some(1));
    document(&agent, "services/fourth", &service(&origin));
    eventually("the next one is recorded", || {
        value(&agent, "revisions/last").is_some_and(|last| last.contains("\"n\":4"))
    });
    assert_eq!(said(&rota.command(&["diff", "4"])), "no difference\n");
    assert_eq!(value(&agent, "revisions/pending/x"), None);
    let log = rota.log();
    assert!(log.contains("revisions/2/head: "), "{log}");
    let output = rota.command(&["rollback", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(value(&agent, "config/services/fourth"), None);
}

#[test]
fn a_rollback_waits_for_no_plan() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let way = way_to(&agent);
    let rota = start_by(&way, &agent, "");
    for (n, name) in ["first", "second"].into_iter().enumerate() {
        document(&agent, &format!("services/{name}"), &service(&origin));
        eventually("it is recorded", || last(&agent) == Some(n as u64 + 1));
    }
    way.freeze("/v1/health/service/slow");
    let slow = "consul = { service = \"slow\" }".to_owned();
    let slow = folder(&[("services/slow.toml", slow)]);
    std::thread::scope(|scope| {
        let planning = scope.spawn(|| staged(&rota, "plan", &slow, &[]));
        eventually("consul is asked", || {
            way.asked(&["/v1/health/service/slow"]) > 0
        });
        let output = rota.command(&["rollback", "1"]);
        assert!(!planning.is_finished(), "{}", said(&output));
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        way.thaw();
    });
    assert_eq!(value(&agent, "config/services/second"), None);
}
