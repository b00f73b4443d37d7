//! What is wrong with Consul as a whole: one thing at a time, the one that explains the rest.

use super::*;
use crate::control::consul::{Blame, LEADER_WATCH};

fn fail(world: &mut World, watch: &str, blame: Blame) {
    world.apply(Event::Consul(Observation::Failing {
        watch: watch.into(),
        error: "why".into(),
        blame,
    }));
}

fn mend(world: &mut World, watch: &str) {
    let watch = watch.into();
    world.apply(Event::Consul(Observation::Recovered { watch }));
}

fn reason(world: &mut World) -> Option<&'static str> {
    let table = world.build();
    table
        .discovery
        .trouble
        .as_ref()
        .map(|trouble| trouble.reason)
}

#[test]
fn what_explains_the_rest_is_named_with_its_beginning_and_its_end() {
    let mut world = World::with_consul("");
    assert_eq!(reason(&mut world), None);
    fail(&mut world, "service far in dc9", Blame::Servers);
    assert_eq!(reason(&mut world), Some("consul_failing"));
    fail(&mut world, "service app", Blame::Agent);
    let since = world.now;
    assert_eq!(reason(&mut world), Some("consul_unreachable"));
    let before = world.model.discovery().clone();
    world.wait(Duration::from_secs(5));
    fail(&mut world, "config/routes", Blame::Agent);
    assert!(
        Arc::ptr_eq(&before, world.model.discovery()),
        "it is told already"
    );
    fail(&mut world, LEADER_WATCH, Blame::Servers);
    assert_eq!(reason(&mut world), Some("no_leader"));
    for watch in [
        "service app",
        "config/routes",
        LEADER_WATCH,
        "service far in dc9",
    ] {
        mend(&mut world, watch);
    }
    assert_eq!(reason(&mut world), None);
    let discovery = world.build().discovery.clone();
    let past: Vec<_> = discovery
        .past
        .iter()
        .map(|past| past.trouble.reason)
        .collect();
    assert_eq!(
        past[..3],
        ["consul_failing", "consul_unreachable", "no_leader"]
    );
    assert_eq!(discovery.past[1].trouble.since, since);
    assert_eq!(discovery.past[1].until, since + Duration::from_secs(5));
}

#[test]
fn a_state_that_was_lost_is_named_once_consul_answers_again() {
    let mut world = World::with_consul("");
    world.documents(Subtree::Pod, &[("", "id", 1)]);
    world.documents(Subtree::Pod, &[]);
    assert_eq!(reason(&mut world), Some("consul_state_lost"));
    fail(&mut world, "pod", Blame::Agent);
    assert_eq!(reason(&mut world), Some("consul_unreachable"));
    mend(&mut world, "pod");
    assert_eq!(reason(&mut world), Some("consul_state_lost"));
}
