//! Every change of the documents is a revision, whoever made it: listed, compared, rolled back.

use std::time::Duration;

use super::consul_agent::Agent;
use super::staged::{eventually_says, fleet, folder, keys, route, service, staged, start, value};
use super::support::rota::{Directory, said};
use super::support::{Origin, Rota, eventually, stays};
use super::{PREFIX, document};

/// The rows of `rota history --json`, newest first.
fn history(rota: &Rota) -> Vec<serde_json::Value> {
    let output = rota.command(&["history", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn eventually_revisions(rota: &Rota, count: usize) {
    eventually(&format!("there are {count} revisions"), || {
        history(rota).len() == count
    });
}

/// `shop.test` at this server.
fn shop(origin: &Origin) -> Directory {
    folder(&[
        ("services/shop.toml", service(origin)),
        ("routes/shop.toml", route("shop.test", "shop")),
    ])
}

#[test]
fn a_change_by_whatever_hand_is_one_revision_though_all_load_balancers_hear_of_it() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let fleet = fleet(&agent, 2);
    document(&agent, "services/shop", &service(&origin));
    eventually_revisions(&fleet[0], 1);
    document(&agent, "routes/shop", &route("shop.test", "shop"));
    eventually_revisions(&fleet[1], 2);
    let with_more = folder(&[
        ("services/shop.toml", service(&origin)),
        ("routes/shop.toml", route("shop.test", "shop")),
        ("routes/more.toml", route("more.test", "shop")),
    ]);
    let output = staged(&fleet[1], "apply", &with_more, &["--note", "one more"]);
    assert!(said(&output).contains("(revision 3)"), "{}", said(&output));
    agent.delete(&format!("{PREFIX}/config/routes/more"));
    eventually_revisions(&fleet[0], 4);
    stays("no change is written twice", Duration::from_secs(2), || {
        history(&fleet[1]).len() == 4
    });
    let rows = history(&fleet[0]);
    let parts = |row: &serde_json::Value| {
        let number = |name: &str| row[name].as_u64().unwrap();
        let word = |name: &str| row[name].as_str().unwrap().to_owned();
        (
            number("revision"),
            [number("added"), number("changed"), number("removed")],
            word("by"),
            word("note"),
        )
    };
    let by_hand = "by hand".to_owned();
    assert_eq!(
        parts(&rows[0]),
        (4, [0, 0, 1], by_hand.clone(), String::new())
    );
    let (n, counts, by, note) = parts(&rows[1]);
    assert_eq!((n, counts, &*note), (3, [1, 0, 0], "one more"));
    assert!(by.contains('@'), "{by}");
    assert_eq!(
        parts(&rows[2]),
        (2, [1, 0, 0], by_hand.clone(), String::new())
    );
    let first = (1, [1, 0, 0], by_hand, "as it was found".to_owned());
    assert_eq!(parts(&rows[3]), first);
    let shown = said(&fleet[0].command(&["history"]));
    assert!(
        shown.lines().nth(2).unwrap().ends_with("one more"),
        "{shown}"
    );
    assert!(!keys(&agent, "revisions/").contains("pending"));
}

#[test]
fn a_diff_shows_each_document_by_its_lines() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    assert!(staged(&rota, "apply", &shop(&one), &[]).status.success());
    assert!(staged(&rota, "apply", &shop(&two), &[]).status.success());
    eventually_revisions(&rota, 2);
    let of = |arguments: &[&str]| said(&rota.command(arguments));
    let between = of(&["diff", "1", "2"]);
    let lines = [
        "--- a/services/shop".to_owned(),
        "+++ b/services/shop".to_owned(),
        format!("-{}", service(&one).trim_end()),
        format!("+{}", service(&two).trim_end()),
    ];
    for line in &lines {
        assert!(
            between.lines().any(|known| known == line),
            "{line}: {between}"
        );
    }
    assert!(!between.contains("routes/shop"));
    assert_eq!(of(&["diff", "1"]), between);
    assert_eq!(of(&["diff", "2"]), "no difference\n");
    document(&agent, "routes/new", &route("new.test", "shop"));
    let by_hand = of(&["diff", "2"]);
    assert!(
        by_hand.contains("--- /dev/null\n+++ b/routes/new\n@@ -0,0 +1,2 @@\n"),
        "{by_hand}"
    );
    let unknown = rota.command(&["diff", "9"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("there is no revision 9"));
}

#[test]
fn a_rollback_is_in_force_everywhere_and_a_change_like_any_other() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let fleet = fleet(&agent, 3);
    assert!(
        staged(&fleet[0], "apply", &shop(&one), &[])
            .status
            .success()
    );
    assert!(
        staged(&fleet[1], "apply", &shop(&two), &[])
            .status
            .success()
    );
    document(&agent, "routes/shop", "host = 7");
    document(&agent, "routes/new", &route("new.test", "shop"));
    fleet
        .iter()
        .for_each(|rota| eventually_says(rota, "new.test", "two"));
    eventually("both changes by hand are recorded", || {
        let newest = history(&fleet[2])[0].clone();
        value(&agent, "revisions/last").is_some_and(|last| {
            last.contains(&format!("\"n\":{},", newest["revision"]))
                && newest["by"] == "by hand"
                && said(&fleet[2].command(&["diff", &newest["revision"].to_string()]))
                    == "no difference\n"
        })
    });
    let before = history(&fleet[0]).len();
    let output = fleet[2].command(&["rollback", "1", "--note", "it was wrong"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("rollback to 1: it was wrong"), "{told}");
    for rota in &fleet {
        eventually_says(rota, "shop.test", "one");
        eventually("what came later is gone", || {
            rota.get("new.test", "/").status == 404
        });
    }
    eventually_revisions(&fleet[0], before + 1);
    assert_eq!(history(&fleet[0])[0]["note"], "rollback to 1: it was wrong");
    assert_eq!(said(&fleet[0].command(&["diff", "1"])), "no difference\n");
    let unknown = fleet[0].command(&["rollback", "99"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("there is no revision 99"));
}

#[test]
fn what_changed_while_nobody_was_there_is_recorded_by_the_next_one() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    let rota = start(&agent);
    document(&agent, "services/shop", &service(&origin));
    document(&agent, "services/gone", &service(&origin));
    eventually("all is recorded", || {
        history(&rota).first().is_some_and(|newest| {
            said(&rota.command(&["diff", &newest["revision"].to_string()])) == "no difference\n"
        })
    });
    let before = history(&rota).len();
    drop(rota);
    document(&agent, "routes/shop", &route("shop.test", "shop"));
    agent.delete(&format!("{PREFIX}/config/services/gone"));
    let rota = start(&agent);
    eventually_revisions(&rota, before + 1);
    let newest = &history(&rota)[0];
    assert_eq!(
        (&newest["added"], &newest["removed"]),
        (&1.into(), &1.into())
    );
    let shown = said(&rota.command(&["diff", &before.to_string()]));
    assert!(
        shown.contains("--- a/services/gone\n+++ /dev/null"),
        "{shown}"
    );
}

#[test]
fn a_pod_without_documents_has_no_revisions() {
    let agent = Agent::start();
    let rota = start(&agent);
    stays("nothing is written", Duration::from_secs(1), || {
        !keys(&agent, "").contains("revisions/")
    });
    assert!(history(&rota).is_empty());
}
