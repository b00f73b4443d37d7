//! Documents that were written at once and arrive piece by piece: half a change is not followed, and nothing is waited for without end.

use super::*;
use crate::control::model::{DANGLING_AT_MOST, MARKED_AT_MOST};

const BLUE: (&str, &str, u64) = ("blue", "servers = [\"10.0.0.1:80\"]", 1);
const GREEN: (&str, &str, u64) = ("green", "servers = [\"10.0.0.2:80\"]", 4);
const TO_BLUE: (&str, &str, u64) = ("r", "host = \"a.test\"\nservice = \"blue\"", 2);
const TO_GREEN: (&str, &str, u64) = ("r", "host = \"a.test\"\nservice = \"green\"", 2);

/// Ready, with `a.test` to `blue`.
fn ready() -> World {
    let mut world = World::of(CONSUL);
    world
        .documents(Subtree::Services, &[BLUE])
        .documents(Subtree::Routes, &[TO_BLUE])
        .documents(Subtree::Pod, &[("", "id", 1)]);
    for subtree in [Subtree::Domains, Subtree::Tuning, Subtree::OperatorDrain] {
        world.documents(subtree, &[]);
    }
    assert!(world.build().missing.is_empty());
    world
}

/// Who has `a.test`, and whether anybody is there.
fn served(world: &mut World) -> (String, usize) {
    let table = world.build();
    let route = table.routes.find("a.test", "/").unwrap();
    (route.service.name.to_string(), route.service.members.len())
}

#[test]
fn a_route_waits_for_the_service_that_it_goes_to_now() {
    let mut world = ready();
    world.documents(Subtree::Routes, &[TO_GREEN]);
    assert_eq!(served(&mut world), ("blue".to_owned(), 1));
    world.documents(Subtree::Services, &[GREEN]);
    assert_eq!(served(&mut world), ("green".to_owned(), 1));
    assert!(world.mistakes().is_empty());
}

#[test]
fn a_service_that_goes_waits_for_the_route_that_left_it() {
    let mut world = ready();
    world.documents(Subtree::Services, &[GREEN]);
    assert_eq!(served(&mut world), ("blue".to_owned(), 1));
    world.documents(Subtree::Routes, &[TO_GREEN]);
    assert_eq!(served(&mut world), ("green".to_owned(), 1));
}

#[test]
fn what_nobody_adds_is_not_waited_for_without_end() {
    let mut world = ready();
    world.documents(Subtree::Routes, &[TO_GREEN]);
    world.wait(DANGLING_AT_MOST / 2);
    assert_eq!(served(&mut world), ("blue".to_owned(), 1));
    world.wait(DANGLING_AT_MOST / 2);
    assert_eq!(served(&mut world), ("green".to_owned(), 0));
    assert!(world.mistakes()["kv:rota/p/config/routes/r"].contains("there is no service green"));
    let more = ("s", "host = \"b.test\"\nservice = \"blue\"", 5);
    world.documents(Subtree::Routes, &[TO_GREEN, more]);
    let table = world.build();
    assert!(
        table.routes.find("b.test", "/").is_ok(),
        "what dangles already holds up nothing"
    );
}

#[test]
fn while_the_mark_is_there_the_old_table_stays_and_then_all_comes_at_once() {
    let mut world = ready();
    world.documents(Subtree::Apply, &[("", "lb-2", 10)]);
    world.documents(Subtree::Services, &[BLUE, GREEN]);
    world.documents(Subtree::Routes, &[TO_GREEN]);
    world.wait(MARKED_AT_MOST / 2);
    assert_eq!(served(&mut world), ("blue".to_owned(), 1));
    assert!(world.mistakes().is_empty());
    let before = world.model.revision();
    world.documents(Subtree::Apply, &[]);
    assert!(world.model.revision() > before);
    assert_eq!(served(&mut world), ("green".to_owned(), 1));
}

#[test]
fn a_mark_that_stays_is_believed_for_10_s_and_named_afterwards() {
    let mut world = ready();
    world.documents(Subtree::Apply, &[("", "lb-2", 10)]);
    world.documents(
        Subtree::Routes,
        &[TO_BLUE, ("s", "host = \"b.test\"\nservice = \"blue\"", 5)],
    );
    assert!(world.build().routes.find("b.test", "/").is_err());
    world.wait(MARKED_AT_MOST);
    assert!(world.build().routes.find("b.test", "/").is_ok());
    assert!(world.mistakes()["kv:rota/p/apply"].contains("did not end in time"));
    world.documents(Subtree::Routes, &[TO_BLUE]);
    assert!(
        world.build().routes.find("b.test", "/").is_err(),
        "it holds up nothing any more"
    );
    world.documents(Subtree::Apply, &[("", "lb-3", 20)]);
    assert!(world.mistakes().is_empty(), "another one is another change");
    world.documents(
        Subtree::Routes,
        &[TO_BLUE, ("s", "host = \"b.test\"\nservice = \"blue\"", 5)],
    );
    assert!(world.build().routes.find("b.test", "/").is_err());
}

#[test]
fn a_mark_that_stays_is_looked_at_again_though_nothing_waits_for_it() {
    let mut world = ready();
    world.documents(Subtree::Apply, &[("", "lb-2", 10)]);
    let until = world.now + MARKED_AT_MOST;
    assert!(world.model.next_tick().is_some_and(|next| next <= until));
}

#[test]
fn an_operators_drain_waits_for_no_document() {
    let mut world = ready();
    world.documents(Subtree::Apply, &[("", "lb-2", 10)]);
    let drain = r#"{"by": "ops", "at": 1}"#;
    world.documents(Subtree::OperatorDrain, &[("blue", drain, 11)]);
    assert!(
        world
            .model
            .drains()
            .has(&crate::routing::operator::Target::Service("blue".into()))
    );
}
