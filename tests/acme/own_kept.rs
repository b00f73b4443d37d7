//! Imported certificates that a load balancer keeps on its own disk.

use std::fs;

use super::copy_folder;
use super::fleet::{place, within_a_minute};
use super::own::{World, certs, succeeded};
use super::support::rota::Place;
use super::support::{Rota, Signal, eventually};

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
