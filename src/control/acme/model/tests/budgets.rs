//! What operators ask for, and what a full budget holds back.

use super::*;

/// A renewal that was asked for, failed, and found a full budget when it was tried again.
fn asked_for_failed_and_without_room(until: SystemTime) -> World {
    let mut world = World::open(BTreeMap::from([(
        name("n0.test"),
        Some(ninety_days(start())),
    )]));
    assert_eq!(world.effects(), []);
    world.say(Event::Begun(name("n0.test")));
    let rested = world.now + Duration::from_secs(60);
    world.end("n0.test", failed(rested));
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    assert!(world.now >= rested, "the name's own rest is kept");
    let full = Ended::Full(until, "the budget is used up".into());
    world.end("n0.test", full);
    assert_eq!(world.effects(), []);
    world
}

#[test]
fn a_full_budget_holds_back_what_was_asked_for_and_not_what_the_ca_takes_in_the_present_ones_place()
{
    // Longer than the certificate lives.
    let mut world = asked_for_failed_and_without_room(start() + DAY * 100);
    let shown = world.model.standings().next().unwrap().1;
    assert_eq!(shown.next, Some(start() + DAY * 100));
    assert_eq!(shown.error.as_deref(), Some("the budget is used up"));
    world.window = Some(Window {
        start: start() + DAY * 20,
        end: start() + DAY * 21,
        ask_after: DAY,
    });
    let renewal = Effect::Order(name("n0.test"), Replaces::Present);
    assert_eq!(world.wait().unwrap(), [renewal]);
    assert!(world.now <= start() + DAY * 21 + SPREAD);
    // That one has more room than any other.
    let until = world.now + Duration::from_secs(7200);
    world.end("n0.test", Ended::Full(until, "the account's, too".into()));
    assert_eq!(world.model.standings().next().unwrap().1.next, Some(until));
}

#[test]
fn a_renewal_by_the_cas_window_that_failed_once_is_not_kept_waiting_by_a_full_budget() {
    let held = BTreeMap::from([(name("n0.test"), Some(ninety_days(start())))]);
    let mut world = World::of(held);
    world.window = Some(Window {
        start: start() + DAY * 62,
        end: start() + DAY * 63,
        ask_after: DAY,
    });
    assert_eq!(world.effects(), [Effect::Open]);
    world.say(Event::Opened(Ok(())));
    assert_eq!(world.effects(), []);
    let renewal = Effect::Order(name("n0.test"), Replaces::Present);
    assert_eq!(world.wait().unwrap(), std::slice::from_ref(&renewal));
    world.end("n0.test", failed(world.now + Duration::from_secs(60)));
    // Perhaps it was what the order was to replace that the CA did not take.
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    let full = Ended::Full(world.now + DAY * 7, "the budget is used up".into());
    world.end("n0.test", full);
    assert_eq!(world.effects(), [renewal], "the ca was asked again at once");
}

#[test]
fn what_was_asked_for_is_ordered_once_there_is_room() {
    let until = start() + DAY * 7;
    let mut world = asked_for_failed_and_without_room(until);
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    assert_eq!(world.now, until);
}

#[test]
fn what_is_asked_of_all_is_ordered_some_at_once_and_no_rest_is_cut_short() {
    let held = names(AT_ONCE + 2).into_keys();
    let held = held.map(|name| (name, Some(ninety_days(start()))));
    let mut world = World::open(held.collect());
    assert_eq!(world.effects(), []);
    world.say(Event::Begun(name("n0.test")));
    let rested = world.now + DAY;
    world.end("n0.test", failed(rested));
    world.say(Event::AskedForAll);
    let ordered = world.effects();
    assert_eq!(ordered.len(), AT_ONCE);
    for effect in ordered {
        let Effect::Order(name, _) = effect else {
            panic!("{effect:?}")
        };
        let another = ninety_days(world.now + Duration::from_secs(1));
        world.say(Event::Ended(name, Ended::Held(another)));
    }
    assert_eq!(
        world.effects().len(),
        1,
        "the one for which there was no room"
    );
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    assert!(world.now >= rested);
}
