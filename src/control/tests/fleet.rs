//! What stands for a table among load balancers: the same for the same knowledge, whatever each finds out by itself.

use super::*;
use crate::control::fleet::TableHash;
use crate::control::fleet::status::Fingerprint;

const TWO: [&str; 2] = ["10.0.0.1:80", "10.0.0.2:80"];
const SHOP: (&str, &str, u64) = ("shop", "servers = [\"10.0.0.7:80\"]", 1);
const ROUTES: [(&str, &str, u64); 2] = [
    ("a", "host = \"a.test\"\nservice = \"shop\"", 2),
    ("b", "host = \"b.test\"\nservice = \"shop\"", 3),
];

fn hash(world: &World) -> Fingerprint {
    TableHash::default().of(&world.model)
}

fn world() -> World {
    let mut world = World::with_consul("");
    world.answer(passing(&TWO));
    world.documents(Subtree::Services, &[SHOP]);
    world.documents(Subtree::Routes, &ROUTES);
    world
}

#[test]
fn the_same_knowledge_has_the_same_hash_in_whatever_order_it_came() {
    let mut other = World::with_consul("");
    let [a, b] = ROUTES;
    // As documents of another age would be read first.
    let turned = [(b.0, b.1, 2), (a.0, a.1, 3)];
    other.documents(Subtree::Routes, &turned);
    other.documents(Subtree::Services, &[SHOP]);
    other.answer(passing(&[TWO[1], TWO[0]]));
    assert_eq!(hash(&world()), hash(&other));
}

#[test]
fn what_was_told_makes_another_hash_and_its_end_the_first_one_again() {
    let mut world = world();
    let mut hashes = TableHash::default();
    let first = hashes.of(&world.model);
    let mut heavier = passing(&TWO);
    heavier[0].weight_passing = 2;
    let mut grouped = passing(&TWO);
    grouped[0].group = Some("green".into());
    let mut resting = passing(&TWO);
    resting[0].checks[0].status = CheckStatus::Maintenance;
    for (what, instances) in [
        ("a weight", heavier),
        ("a group", grouped),
        ("maintenance", resting),
        (
            "a server more",
            passing(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]),
        ),
    ] {
        world.answer(instances);
        assert_ne!(hashes.of(&world.model), first, "{what}");
        world.answer(passing(&TWO));
        assert_eq!(hashes.of(&world.model), first, "{what}");
    }
    let drain = ("app/10.0.0.1:80", "{\"by\": \"a\", \"at\": 1}", 9);
    world.documents(Subtree::OperatorDrain, &[drain]);
    assert_ne!(hashes.of(&world.model), first, "a drain");
    world.documents(Subtree::OperatorDrain, &[]);
    assert_eq!(hashes.of(&world.model), first);
    world.documents(Subtree::Routes, &ROUTES[..1]);
    assert_ne!(hashes.of(&world.model), first, "a route less");
    assert_eq!(
        hashes.of(&world.model),
        hash(&world),
        "what is remembered is what is there"
    );
}

#[test]
fn what_each_finds_out_by_itself_and_checks_that_flap_change_no_hash() {
    let mut world = World::with_consul("[service.health.active]\ninterval = \"1s\"\nfall = 1\n");
    world.answer(passing(&TWO));
    let first = hash(&world);
    world.probe(TWO[0], Err("refused"));
    world.eject(TWO[1], Unfit::Refused);
    world.answer(vec![
        instance(TWO[0], CheckStatus::Critical),
        instance(TWO[1], CheckStatus::Warning),
    ]);
    assert_eq!(hash(&world), first);
}

#[test]
fn the_newest_document_is_the_one_of_the_highest_index() {
    let world = world();
    assert_eq!(world.model.documents().index(), 3);
    assert_eq!(World::with_consul("").model.documents().index(), 0);
}

#[test]
fn documents_that_say_the_same_are_the_same_whenever_they_were_written() {
    let content = |routes: &[(&str, &str, u64)]| {
        let mut world = World::with_consul("");
        world.documents(Subtree::Routes, routes);
        world.model.documents().content()
    };
    let [a, b] = ROUTES;
    let both = content(&[a, b]);
    assert_eq!(both, content(&[(a.0, a.1, 8), (b.0, b.1, 7)]));
    for other in [
        &[a][..],
        &[(a.0, b.1, 2), (b.0, a.1, 3)],
        &[a, (b.0, "", 3)],
    ] {
        assert_ne!(both, content(other), "{other:?}");
    }
    let mut world = world();
    let services = world.model.documents().content();
    assert_ne!(both, services);
    world.documents(Subtree::Routes, &[b]);
    world.documents(Subtree::Routes, &ROUTES);
    assert_eq!(
        services,
        world.model.documents().content(),
        "what was undone"
    );
}
