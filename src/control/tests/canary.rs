//! A change that is tried here: in force beside what KV has, and gone without a trace.

use super::*;
use crate::control::consul::{Blame, LEADER_WATCH};
use crate::control::model::FOLLOWED_AT_MOST;
use crate::routing::canary::{Canary, OVERDUE};

const SHOP: (&str, &str, u64) = ("shop", "servers = [\"10.0.0.1:80\"]", 1);
const OTHER: &str = "servers = [\"10.0.0.2:80\"]";
const ROUTE: (&str, &str, u64) = ("shop", "host = \"shop.test\"\nservice = \"shop\"", 2);
const OLD: (&str, &str, u64) = ("old", "host = \"old.test\"\nservice = \"shop\"", 3);

fn head(nodes: &[&str]) -> String {
    let canary = Canary {
        id: "one".into(),
        by: "ops".into(),
        nodes: nodes.iter().map(ToString::to_string).collect(),
        ..Canary::default()
    };
    serde_json::to_string(&canary).unwrap()
}

/// The head of one that is tried here.
fn trying(id: &str, lasting: Duration) -> String {
    let canary = Canary {
        id: id.into(),
        nodes: vec!["lb-1".into()],
        until_ms: lasting.as_millis() as u64,
        ..Canary::default()
    };
    serde_json::to_string(&canary).unwrap()
}

fn begin(world: &mut World, nodes: &[&str], changes: &[(&str, &str)]) {
    let head = head(nodes);
    let changes = changes.iter().map(|&(name, text)| (name, text, 50));
    let all: Vec<_> = changes.chain([("head", head.as_str(), 60)]).collect();
    world.documents(Subtree::Canary, &all);
}

fn world() -> World {
    let mut world = World::of(CONSUL);
    world.documents(Subtree::Services, &[SHOP]);
    world.documents(Subtree::Routes, &[ROUTE, OLD]);
    world
}

/// The servers that a host comes to; None: it has no route.
fn served(world: &mut World, host: &str) -> Option<Vec<String>> {
    let table = world.build();
    let route = table.routes.find(host, "/").ok()?;
    let members = route.service.members.iter();
    Some(
        members
            .map(|one| one.upstream.address().to_string())
            .collect(),
    )
}

fn one(address: &str) -> Option<Vec<String>> {
    Some(vec![address.to_owned()])
}

#[test]
fn what_is_tried_is_in_force_on_those_that_are_named_until_it_is_gone() {
    let changes = [
        ("config/services/shop", "servers = [\"10.0.0.2:80\"]"),
        ("config/services/blog", "servers = [\"10.0.0.3:80\"]"),
        (
            "config/routes/blog",
            "host = \"blog.test\"\nservice = \"blog\"",
        ),
        ("gone/routes/old", ""),
    ];
    let mut world = world();
    begin(&mut world, &["lb-2"], &changes);
    assert_eq!(served(&mut world, "shop.test"), one("10.0.0.1:80"));
    assert!(
        world.build().canary.is_some(),
        "it is known where it is not in force"
    );
    begin(&mut world, &["lb-1"], &changes);
    assert_eq!(served(&mut world, "shop.test"), one("10.0.0.2:80"));
    assert_eq!(served(&mut world, "blog.test"), one("10.0.0.3:80"));
    assert_eq!(served(&mut world, "old.test"), None);
    assert!(world.mistakes().is_empty());
    world.documents(Subtree::Canary, &[]);
    assert_eq!(served(&mut world, "shop.test"), one("10.0.0.1:80"));
    assert_eq!(served(&mut world, "blog.test"), None);
    assert_eq!(served(&mut world, "old.test"), one("10.0.0.1:80"));
    assert!(world.build().canary.is_none());
}

#[test]
fn a_wrong_document_of_a_canary_hurts_no_other_and_is_named() {
    let mut world = world();
    begin(
        &mut world,
        &["lb-1"],
        &[
            ("config/services/shop", "servers = 7"),
            ("gone/routes/old", ""),
        ],
    );
    assert_eq!(served(&mut world, "shop.test"), one("10.0.0.1:80"));
    assert_eq!(served(&mut world, "old.test"), None);
    let mistakes = world.mistakes();
    let told = &mistakes["kv:rota/p/config/services/shop"];
    assert!(
        told.starts_with("in the canary: ") && told.ends_with("(last good version)"),
        "{told}"
    );
    world.documents(Subtree::Canary, &[("head", "nonsense", 70)]);
    assert!(world.mistakes().contains_key("kv:rota/p/canary/head"));
    assert_eq!(served(&mut world, "old.test"), one("10.0.0.1:80"));
}

#[test]
fn documents_that_consul_lost_are_doubted_while_a_canary_adds_some() {
    let mut world = world();
    begin(
        &mut world,
        &["lb-1"],
        &[("config/services/blog", "servers = [\"10.0.0.3:80\"]")],
    );
    world.documents(Subtree::Services, &[]);
    assert_eq!(served(&mut world, "shop.test"), one("10.0.0.1:80"));
    assert!(world.build().services.contains_key("blog"));
}

#[test]
fn tuning_is_tried_too_and_what_is_kept_on_disk_is_without_it() {
    let mut world = world();
    let before = world.build().timeouts;
    let tuning = "[timeouts]\nresponse = \"7s\"\n";
    begin(&mut world, &["lb-1"], &[("config/tuning", tuning)]);
    assert_ne!(world.build().timeouts, before);
    for subtree in [Subtree::Domains, Subtree::Tuning, Subtree::OperatorDrain] {
        world.documents(subtree, &[]);
    }
    world.documents(Subtree::Pod, &[("", "id", 1)]);
    assert_ne!(world.build().timeouts, before);
    let kept = world.model.kept(world.now).unwrap();
    let tuning = kept.documents.iter().find(|(of, _)| *of == Subtree::Tuning);
    assert!(tuning.unwrap().1.is_empty());
    assert!(kept.documents.iter().all(|(of, _)| *of != Subtree::Canary));
}

#[test]
fn a_canary_whose_end_nobody_says_is_taken_off_by_itself_and_named() {
    let mut world = world();
    let begin = |world: &mut World, id: &str| {
        let head = trying(id, Duration::from_secs(60));
        let changes = [("gone/routes/old", "", 50), ("head", head.as_str(), 60)];
        world.documents(Subtree::Canary, &changes);
    };
    begin(&mut world, "one");
    world.wait(Duration::from_secs(60) + OVERDUE - Duration::from_secs(1));
    assert_eq!(served(&mut world, "old.test"), None);
    assert!(world.mistakes().is_empty());
    world.wait(Duration::from_secs(1));
    assert_eq!(served(&mut world, "old.test"), one("10.0.0.1:80"));
    let told = &world.mistakes()["kv:rota/p/canary/head"];
    assert!(told.contains("taken off here"), "{told}");
    begin(&mut world, "one");
    assert_eq!(served(&mut world, "old.test"), one("10.0.0.1:80"));
    begin(&mut world, "two");
    assert_eq!(
        served(&mut world, "old.test"),
        None,
        "another one is another"
    );
    assert!(world.mistakes().is_empty());
}

#[test]
fn a_canary_that_nobody_could_end_for_half_a_minute_is_taken_off_and_stays_off() {
    let second = Duration::from_secs(1);
    let fail = |world: &mut World, watch: &str| {
        world.apply(Event::Consul(Observation::Failing {
            watch: watch.into(),
            error: "why".into(),
            blame: Blame::Agent,
        }));
    };
    let mend = |world: &mut World, watch: &str| {
        let watch = watch.into();
        world.apply(Event::Consul(Observation::Recovered { watch }));
    };
    for watch in ["canary", LEADER_WATCH] {
        let mut world = world();
        let head = trying("one", Duration::from_secs(86_400));
        let tried = [("gone/routes/old", "", 50), ("head", head.as_str(), 60)];
        world.documents(Subtree::Canary, &tried);
        fail(&mut world, "service app");
        world.wait(OVERDUE * 2);
        fail(&mut world, watch);
        world.wait(OVERDUE - second);
        mend(&mut world, watch);
        fail(&mut world, watch);
        world.wait(OVERDUE - second);
        assert_eq!(served(&mut world, "old.test"), None);
        world.wait(second);
        assert_eq!(served(&mut world, "old.test"), one("10.0.0.1:80"));
        let told = &world.mistakes()["kv:rota/p/canary/head"];
        assert!(told.contains("taken off here"), "{told}");
        mend(&mut world, watch);
        world.documents(Subtree::Canary, &tried);
        assert_eq!(served(&mut world, "old.test"), one("10.0.0.1:80"));
    }
}

#[test]
fn what_was_promoted_stays_until_its_documents_are_here() {
    let promoted = |world: &mut World| {
        let mut head: Canary = serde_json::from_str(&head(&["lb-1"])).unwrap();
        head.promoted = Some("no worse".into());
        let head = serde_json::to_string(&head).unwrap();
        let changes = [("gone/routes/old", ""), ("config/services/shop", OTHER)];
        let changes = changes.map(|(name, text)| (name, text, 50));
        let all = [&changes[..], &[("head", head.as_str(), 60)]].concat();
        world.documents(Subtree::Canary, &all);
        world.documents(Subtree::Canary, &[]);
        assert!(world.build().canary.is_none(), "it is over");
    };
    let mut world = world();
    promoted(&mut world);
    assert_eq!(served(&mut world, "old.test"), None);
    world.documents(Subtree::Routes, &[ROUTE]);
    assert_eq!(served(&mut world, "shop.test"), one("10.0.0.2:80"));
    world.documents(Subtree::Services, &[("shop", OTHER, 1)]);
    assert_eq!(served(&mut world, "shop.test"), one("10.0.0.2:80"));
    world.documents(Subtree::Services, &[SHOP]);
    assert_eq!(
        served(&mut world, "shop.test"),
        one("10.0.0.1:80"),
        "nothing lies over it any more"
    );
    promoted(&mut world);
    world.wait(FOLLOWED_AT_MOST);
    assert_eq!(
        served(&mut world, "shop.test"),
        one("10.0.0.1:80"),
        "others have changed it since"
    );
}
