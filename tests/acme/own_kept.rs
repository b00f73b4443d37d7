//! Imported certificates that a load balancer keeps on its own disk, and a store that has more of them than one answer carries.

use std::fs;

use super::copy_folder;
use super::fleet::{PREFIX, place, within_a_minute};
use super::own::{World, certs, import, succeeded};
use super::support::rota::Place;
use super::support::{Rota, Signal, eventually};

/// 64 MiB and more of them, in base64.
const LARGE: usize = 120;
const LARGE_BYTES: usize = 450 * 1024;

fn file(world: &World) -> String {
    let text = world.file("lb-1");
    text.replacen("[node]", "[node]\nstate_dir = \"state\"", 1)
}

/// With both imported, served and kept; then the process is killed.
fn killed_with_two(world: &World) -> Rota {
    let rota = place().start(&file(world));
    world.front.send_to(&[&rota]);
    for name in ["a.test", "b.test"] {
        succeeded(&world.import(&rota, &[name]));
        eventually(name, || world.is_own(&rota, name));
    }
    let kept = |name: &str| rota.directory().join("state/kept").join(name);
    eventually("they are kept with their mark, and the table", || {
        let own = ["a.test", "b.test", "_mark"].map(|name| kept(&format!("certs/own/{name}")));
        own.iter().all(|path| path.exists()) && kept("table").exists()
    });
    let text = fs::read_to_string(kept("certs/own/a.test")).unwrap();
    assert!(
        text.contains("\nrota1:") && !text.contains("PRIVATE"),
        "sealed: {text}"
    );
    rota.signal(Signal::KILL);
    rota.wait();
    rota
}

fn after(before: &Rota) -> Place {
    let place = place();
    let state = before.directory().join("state");
    copy_folder(&state, &place.path().join("state"));
    place
}

#[test]
fn imported_certificates_are_served_at_a_start_without_consul_and_given_back_to_an_empty_one() {
    let mut world = World::start();
    let before = killed_with_two(&world);
    world.agent.kill();
    let rota = after(&before).spawn(&file(&world));
    eventually("they are served", || {
        world.is_own(&rota, "a.test") && world.is_own(&rota, "b.test")
    });
    rota.wait_until_ready();
    world.agent.restart_empty();
    within_a_minute("the store has them again", || {
        ["a.test", "b.test", "_mark"]
            .iter()
            .all(|name| world.kept(name).is_some())
    });
    assert!(world.is_own(&rota, "a.test") && world.is_own(&rota, "b.test"));
}

#[test]
fn an_imported_certificate_that_was_forgotten_meanwhile_is_not_remembered_for_ever() {
    let world = World::start();
    let before = killed_with_two(&world);
    within_a_minute("it is forgotten", || {
        certs(before.directory(), "forget", &["a.test"])
            .status
            .success()
    });
    let rota = after(&before).start(&file(&world));
    within_a_minute("a.test is gone", || !world.is_own(&rota, "a.test"));
    assert!(world.is_own(&rota, "b.test"));
    let kept = rota.directory().join("state/kept/certs/own/a.test");
    eventually("its file, too", || !kept.exists());
    assert_eq!(world.kept("a.test"), None);
}

#[test]
fn more_below_a_prefix_than_one_answer_carries_is_named_and_what_was_there_stays() {
    let world = World::start();
    let home = place();
    fs::write(home.path().join("rota.toml"), home.fill(&world.file("op"))).unwrap();
    world.authority.leaf(&["a.test"]).write(home.path(), "own");
    succeeded(&import(home.path(), &["own.pem", "own.key"]));
    let [first] = world.load_balancers(["lb-1"]);
    let key = |number: usize| format!("{PREFIX}/certs/own/n{number}");
    let large = vec![b'x'; LARGE_BYTES];
    (0..LARGE).for_each(|number| world.agent.put(&key(number), &large));

    let is_named = |text: &str| text.contains("certs/own: unreadable answer: longer than 67108864");
    let joins = place().start_unready(&world.file("lb-2"));
    within_a_minute("who joins says why it is not ready", || {
        let answer = joins.admin_get("/readyz");
        answer.status == 503 && is_named(&answer.text())
    });
    for rota in [&first, &joins] {
        within_a_minute("status names it", || {
            let mistakes = rota.admin_get("/v1/status").json()["mistakes"].clone();
            let mistakes = mistakes.as_array().unwrap().iter();
            let mut texts = mistakes.map(|it| it["message"].as_str().unwrap().to_owned());
            texts.any(|text| text.starts_with("unreadable answer: longer than"))
        });
        assert_eq!(rota.metric("rota_discovery_failing", &[]), 1.0);
    }
    assert!(world.is_own(&first, "a.test"), "the last good one stays");
    let log = first.log();
    assert_eq!(log.matches("longer than").count(), 1, "{log}");

    (0..LARGE).for_each(|number| world.agent.delete(&key(number)));
    within_a_minute("it is ready", || joins.readiness() == Some(200));
    eventually("it has it", || world.is_own(&joins, "a.test"));
    for rota in [&first, &joins] {
        within_a_minute("all is well", || {
            rota.metric("rota_discovery_failing", &[]) == 0.0
        });
    }
}
