//! What a clock that is months off makes of orders, and what is left of it once it is right again.

use super::*;

#[test]
fn a_clock_far_ahead_of_the_ca_s_orders_one_certificate_in_two_days_and_says_why() {
    for window in [None, Some(DAY * 60)] {
        let mut world = World::open(names(1));
        assert_eq!(world.effects().len(), 1);
        let mut ordered = 0;
        // For thirty days of a clock that is 65 days ahead.
        while world.now < start() + DAY * 30 {
            ordered += 1;
            let begun = world.now - DAY * 65;
            world.window = window.map(|after| Window {
                start: begun + after,
                end: begun + after + DAY,
                ask_after: DAY,
            });
            world.end("n0.test", Ended::Held(ninety_days(begun)));
            assert_eq!(world.effects(), []);
            let standing = world.model.standings().next().unwrap().1;
            assert!(standing.error.unwrap().contains("clock"));
            assert_eq!(world.wait().unwrap().len(), 1);
        }
        assert!((15..=18).contains(&ordered), "{ordered}");
    }
}

#[test]
fn what_a_clock_that_was_ahead_settled_is_forgotten_once_it_is_set_back() {
    let mut world = World::open(names(3));
    world.effects();
    for name in ["n0.test", "n1.test", "n2.test"] {
        world.end(name, Ended::Held(ninety_days(start())));
    }
    assert_eq!(world.effects(), []);
    let next = |world: &World| -> Vec<_> {
        let standings = world.model.standings();
        standings.map(|(_, one)| one.next.unwrap()).collect()
    };
    let due = next(&world);
    world.now = start() + DAY * 200;
    world.say(Event::Tick);
    assert_eq!(world.effects().len(), 3);
    world.end("n0.test", failed(world.now + DAY));
    world.end("n1.test", Ended::Full(world.now + DAY, "full".into()));
    world.end("n2.test", Ended::Rests(world.now + DAY, "rests".into()));
    assert_eq!(world.effects(), []);
    world.now = start();
    world.say(Event::Tick);
    assert_eq!(world.effects(), []);
    assert_eq!(next(&world), due);
}

#[test]
fn a_certificate_that_has_not_begun_yet_by_our_clock_is_not_ordered_again() {
    let mut world = World::open(names(1));
    world.effects();
    world.end("n0.test", Ended::Held(ninety_days(start() + DAY * 400)));
    assert_eq!(world.effects(), []);
    world.wait();
    assert!(world.now > start() + DAY * 450);
}
