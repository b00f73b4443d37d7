//! The id of the pod in KV: what its absence, or another one, means for documents.

use super::*;

const ROUTE: &str = "host = \"a.example\"\nservice = \"app\"";
/// The operator's word for the whole pod.
const ACCEPTED: (&str, &str, u64) = (
    "@documents",
    "{\"by\":\"alice\",\"at\":1000000,\"until\":1000060}",
    9,
);
const OTHER: (&str, &str, u64) = ("b", "host = \"b.example\"\nservice = \"app\"", 2);

/// Exact hosts of documents that are in force.
fn hosts(world: &mut World) -> Vec<String> {
    let table = world.build();
    let hosts = table.routes.routes().map(|route| route.host.to_string());
    hosts.filter(|host| host != "*").collect()
}

/// With one route, and the id `an-id`.
fn in_a_pod() -> World {
    let mut world = World::with_consul("");
    world.documents(Subtree::Pod, &[("", "an-id", 1)]);
    world.documents(Subtree::Routes, &[("a", ROUTE, 1)]);
    world
}

#[test]
fn without_the_pods_id_where_it_was_documents_stay_until_it_is_back() {
    let mut world = World::with_consul("");
    world.documents(Subtree::Pod, &[("", "an-id", 1)]);
    world.documents(Subtree::Routes, &[("a", ROUTE, 1)]);
    world.documents(Subtree::Pod, &[]);
    let other = ("b", "host = \"b.example\"\nservice = \"app\"", 2);
    world.documents(Subtree::Routes, &[other]);
    let exact = |world: &mut World, host: &str| {
        let table = world.build();
        let route = table.routes.find(host, "/").unwrap();
        route.host != crate::routing::HostPattern::Any
    };
    assert!(exact(&mut world, "a.example") && !exact(&mut world, "b.example"));
    assert!(world.mistakes().contains_key("kv:rota/p/pod"));
    world.documents(Subtree::Pod, &[("", "an-id", 3)]);
    assert!(!exact(&mut world, "a.example") && exact(&mut world, "b.example"));
    assert!(world.effects.is_empty());
}

#[test]
fn another_id_of_the_pod_ends_no_doubt_before_an_operator_accepts_it() {
    let mut world = in_a_pod();
    world.documents(Subtree::Pod, &[]);
    world.documents(Subtree::Routes, &[OTHER]);
    world.documents(Subtree::Pod, &[("", "another-id", 3)]);
    assert_eq!(hosts(&mut world), ["a.example"]);
    let mistakes = world.mistakes();
    let told = &mistakes["kv:rota/p/pod"];
    assert!(told.contains("another one than it was"), "{told}");
    let told = &mistakes["kv:rota/p/config/routes"];
    assert!(told.contains("rota accept documents"), "{told}");
    assert_eq!(world.model.discovery().reason(), Some("consul_state_lost"));
    world.documents(Subtree::OperatorAccept, &[ACCEPTED]);
    assert_eq!(hosts(&mut world), ["b.example"]);
    assert!(world.mistakes().is_empty());
    assert!(world.effects.is_empty(), "there is one");
    world.documents(Subtree::OperatorAccept, &[]);
    world.wait(seconds(100));
    world.documents(Subtree::Pod, &[("", "an-id", 1)]);
    assert!(
        world.mistakes().contains_key("kv:rota/p/pod"),
        "now it is this one that is another"
    );
}

#[test]
fn an_id_that_takes_the_others_place_at_once_is_doubted_as_one_that_is_gone() {
    let mut world = in_a_pod();
    world.documents(Subtree::Pod, &[("", "another-id", 3)]);
    world.documents(Subtree::Routes, &[OTHER]);
    assert_eq!(hosts(&mut world), ["a.example"]);
    world.documents(Subtree::Pod, &[("", "an-id", 7)]);
    assert_eq!(hosts(&mut world), ["b.example"], "a backup was restored");
    assert!(world.effects.is_empty());
}

#[test]
fn one_that_begins_with_nothing_in_an_emptied_consul_ends_nobodys_doubt() {
    let mut old = in_a_pod();
    old.documents(Subtree::Pod, &[]);
    old.documents(Subtree::Routes, &[]);
    let mut fresh = World::with_consul("");
    fresh.documents(Subtree::Pod, &[]);
    assert_eq!(fresh.effects, [Effect::WritePodId]);
    let written = ("", "what-it-wrote", 20);
    for world in [&mut old, &mut fresh] {
        world.documents(Subtree::Pod, &[written]);
        // The first of many that somebody restores.
        world.documents(Subtree::Routes, &[OTHER]);
    }
    assert_eq!(hosts(&mut old), ["a.example"]);
    assert_eq!(
        old.model
            .doubts(&crate::routing::operator::Matter::Documents),
        4
    );
    assert_eq!(hosts(&mut fresh), ["b.example"]);
    assert!(fresh.mistakes().is_empty());
}

#[test]
fn what_is_accepted_here_alone_writes_no_id_for_the_pod() {
    let here = crate::routing::operator::Order::Accept {
        matter: crate::routing::operator::Matter::Documents,
        reach: crate::routing::operator::Reach::Here,
        by: "alice".into(),
        lasting: seconds(60),
    };
    for heard in [None, Some(("", "another-id", 3))] {
        let mut world = in_a_pod();
        let heard: Vec<_> = heard.into_iter().collect();
        world.documents(Subtree::Pod, &heard);
        world.documents(Subtree::Routes, &[OTHER]);
        world.apply(Event::Ordered(here.clone()));
        assert_eq!(hosts(&mut world), ["b.example"]);
        assert!(world.effects.is_empty());
        assert!(world.mistakes().is_empty());
    }
}

#[test]
fn the_pods_id_is_written_once_and_only_if_it_was_never_there() {
    let mut world = World::with_consul("");
    world
        .documents(Subtree::Pod, &[])
        .documents(Subtree::Pod, &[]);
    assert_eq!(world.effects, [Effect::WritePodId]);
}
