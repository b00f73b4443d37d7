//! What is ordered when, with a clock and a CA of the test's own.

use proptest::prelude::*;

use super::super::failure::UNREACHED;
use super::when::SPREAD;
use super::*;

mod budgets;
mod clock;

const DAY: Duration = Duration::from_secs(86_400);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn names(count: usize) -> BTreeMap<DomainName, Option<Validity>> {
    let one = |n| (name(&format!("n{n}.test")), None);
    (0..count).map(one).collect()
}

fn ninety_days(from: SystemTime) -> Validity {
    Validity {
        not_before: from,
        not_after: from + DAY * 90,
    }
}

fn failed(until: SystemTime) -> Ended {
    Ended::Failed(until, "no".into())
}

/// A model and its clock, with a CA that says of all certificates the same.
struct World {
    model: Model,
    now: SystemTime,
    window: Option<Window>,
}

impl World {
    fn of(wanted: BTreeMap<DomainName, Option<Validity>>) -> World {
        let mut world = World {
            model: Model::new("lb-1", Duration::ZERO),
            now: start(),
            window: None,
        };
        world.say(Event::Wanted(wanted));
        world
    }

    /// As [`World::of`], with its account open.
    fn open(wanted: BTreeMap<DomainName, Option<Validity>>) -> World {
        let mut world = World::of(wanted);
        assert_eq!(world.effects(), [Effect::Open]);
        world.say(Event::Opened(Ok(())));
        world
    }

    fn say(&mut self, event: Event) {
        self.model.apply(event, self.now);
    }

    fn end(&mut self, text: &str, ended: Ended) {
        self.say(Event::Ended(name(text), ended));
    }

    /// What is to be done but for the questions, which are answered.
    fn effects(&mut self) -> Vec<Effect> {
        let mut left = Vec::new();
        loop {
            let effects = self.model.take_effects();
            if effects.is_empty() {
                return left;
            }
            for effect in effects {
                match effect {
                    Effect::Ask(name, of) => self.say(Event::Told(name, of, self.window)),
                    Effect::Open | Effect::Order(..) => left.push(effect),
                }
            }
        }
    }

    /// What is to be done now, or else as [`World::wait`].
    fn wait_or_now(&mut self) -> Vec<Effect> {
        let effects = self.effects();
        match effects.is_empty() {
            true => self.wait().unwrap(),
            false => effects,
        }
    }

    /// Goes on to when there is something to be done; None: never.
    fn wait(&mut self) -> Option<Vec<Effect>> {
        loop {
            let next = self.model.next_tick()?;
            self.now = self.now.max(next);
            self.say(Event::Tick);
            let effects = self.effects();
            if !effects.is_empty() {
                return Some(effects);
            }
        }
    }
}

fn order(text: &str) -> Effect {
    Effect::Order(name(text), Replaces::Nothing)
}

#[test]
fn a_missing_certificate_is_ordered_at_once_and_renewed_near_two_thirds_of_its_life() {
    let mut world = World::open(names(1));
    assert_eq!(world.effects(), [order("n0.test")]);
    assert_eq!(world.model.next_tick(), None);
    world.end("n0.test", Ended::Held(ninety_days(start())));
    assert_eq!(world.effects(), []);
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    assert!(world.now <= start() + DAY * 60 + SPREAD && world.now >= start() + DAY * 55);
}

#[test]
fn the_cas_window_goes_before_two_thirds_and_the_order_says_what_it_replaces() {
    let mut world = World::open(names(1));
    assert_eq!(world.effects(), [order("n0.test")]);
    world.window = Some(Window {
        start: start() + DAY * 3,
        end: start() + DAY * 4,
        ask_after: Duration::ZERO,
    });
    world.end("n0.test", Ended::Held(ninety_days(start())));
    assert_eq!(world.effects(), []);
    let renewal = Effect::Order(name("n0.test"), Replaces::Present);
    assert_eq!(world.wait().unwrap(), [renewal]);
    assert!(world.now >= start() + DAY * 3 && world.now <= start() + DAY * 4 + SPREAD);
    world.window = None;
    let until = world.now + DAY;
    world.end("n0.test", failed(until));
    assert_eq!(world.effects(), []);
    assert_eq!(world.wait().unwrap(), [order("n0.test")], "a plain one");
}

#[test]
fn a_window_in_the_past_renews_at_once_and_the_ca_is_asked_again_but_not_all_the_time() {
    let mut world = World::open(names(1));
    world.effects();
    world.end("n0.test", Ended::Held(ninety_days(start())));
    assert_eq!(world.effects(), []);
    let asked = world.model.next_tick().unwrap();
    assert_eq!(asked, start() + ASK_AGAIN);
    world.window = Some(Window {
        start: start() - DAY * 2,
        end: start() - DAY,
        ask_after: Duration::ZERO,
    });
    assert_eq!(world.wait().unwrap().len(), 1);
    assert_eq!(world.now, asked);
    world.end("n0.test", Ended::Held(ninety_days(asked)));
    let asked_about = Effect::Ask(name("n0.test"), ninety_days(asked));
    assert_eq!(world.model.take_effects(), [asked_about]);
    let told = world.window.map(|window| Window {
        start: asked + DAY * 50,
        end: asked + DAY * 51,
        ..window
    });
    world.say(Event::Told(name("n0.test"), ninety_days(asked), told));
    assert_eq!(world.model.next_tick().unwrap(), asked + ASK_SOONEST);
}

#[test]
fn a_window_that_is_longer_than_a_certificates_life_renews_it_within_its_life() {
    let (seconds, now) = (Duration::from_secs, start());
    let short = Validity {
        not_before: now,
        not_after: now + seconds(100),
    };
    for seed in 0..500 {
        for (before, after) in [(DAY, DAY), (DAY, seconds(1)), (DAY * 3, DAY * 5)] {
            let window = Window {
                start: now + seconds(50) - before,
                end: now + seconds(50) + after,
                ask_after: DAY,
            };
            let at = within(window, short, now, seed);
            assert!(at >= now + seconds(2) && at <= now + seconds(90), "{at:?}");
        }
    }
    let beyond = Window {
        start: now + DAY,
        end: now + DAY * 2,
        ask_after: DAY,
    };
    assert_eq!(within(beyond, short, now, 1), now + seconds(90));
}

#[test]
fn a_ca_is_asked_about_a_few_certificates_at_once_and_what_it_says_of_an_old_one_is_not_heard() {
    let wanted = names(30).into_keys();
    let held = ninety_days(start() - DAY);
    let mut world = World::open(wanted.map(|name| (name, Some(held))).collect());
    let asked = world.model.take_effects();
    assert_eq!(asked.len(), AT_ONCE);
    assert!(
        world.model.next_tick().unwrap() > start() + DAY * 50,
        "no tick for questions"
    );
    let Effect::Ask(name, _) = &asked[0] else {
        panic!("{asked:?}")
    };
    let past = Window {
        start: start() - DAY,
        end: start() - DAY,
        ask_after: DAY,
    };
    world.say(Event::Told(name.clone(), ninety_days(start()), Some(past)));
    let next = world.model.take_effects();
    assert_eq!(
        next,
        [Effect::Ask(name.clone(), held)],
        "asked again, and not ordered"
    );
}

#[test]
fn what_rests_is_not_ordered_before_its_time_and_hurts_no_other_name() {
    let mut world = World::open(names(3));
    assert_eq!(world.effects().len(), 3);
    let hour = Duration::from_secs(3600);
    world.end("n1.test", Ended::Held(ninety_days(start() + DAY * 20)));
    world.end("n0.test", failed(start() + hour));
    let full = Ended::Full(start() + hour * 2, "the budget is used up".into());
    world.end("n2.test", full);
    assert_eq!(world.effects(), []);
    let standings: Vec<_> = world.model.standings().map(|(_, one)| one).collect();
    assert_eq!(standings[0].error.as_deref(), Some("no"));
    assert_eq!(standings[0].next, Some(start() + hour));
    assert_eq!(standings[1].error, None);
    assert_eq!(standings[2].error.as_deref(), Some("the budget is used up"));
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    assert_eq!(world.now, start() + hour);
    assert_eq!(world.wait().unwrap(), [order("n2.test")]);
}

#[test]
fn an_operators_order_for_which_there_is_no_room_delays_no_renewal() {
    let mut world = World::open(BTreeMap::from([(
        name("n0.test"),
        Some(ninety_days(start())),
    )]));
    assert_eq!(world.effects(), []);
    let next = |world: &World| world.model.standings().next().unwrap().1.next;
    let due = next(&world);
    world.say(Event::Begun(name("n0.test")));
    let full = Ended::Full(start() + DAY * 80, "the budget is used up".into());
    world.end("n0.test", full);
    assert_eq!(next(&world), due);
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    // What it orders by itself rests.
    let full = Ended::Full(start() + DAY * 80, "the budget is used up".into());
    world.end("n0.test", full);
    assert_eq!(next(&world), Some(start() + DAY * 80));
}

#[test]
fn what_another_load_balancer_orders_is_looked_at_again_soon_unless_it_comes_by_itself() {
    let mut world = World::open(names(2));
    assert_eq!(world.effects().len(), 2);
    world.end("n0.test", Ended::Elsewhere);
    world.end("n1.test", Ended::Elsewhere);
    assert_eq!(world.effects(), []);
    let errors = world.model.standings().all(|(_, one)| one.error.is_none());
    assert!(errors, "it is no failure");
    world.say(Event::Held(name("n1.test"), Some(ninety_days(start()))));
    assert_eq!(world.effects(), []);
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    let waited = world.now.duration_since(start()).unwrap();
    assert!(waited >= ELSEWHERE.mul_f64(0.79) && waited <= ELSEWHERE.mul_f64(1.21));
    world.end("n0.test", Ended::Held(ninety_days(start())));
    world.wait();
    assert!(world.now > start() + DAY * 50);
}

#[test]
fn a_name_that_is_new_is_ordered_once_the_others_of_the_pod_have_heard_of_it() {
    let mut world = World::of(BTreeMap::new());
    world.model = Model::new("lb-1", Duration::from_secs(1));
    world.say(Event::Opened(Ok(())));
    world.say(Event::Wanted(names(1)));
    assert_eq!(world.effects(), []);
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    assert_eq!(world.now, start() + Duration::from_secs(1));
}

#[test]
fn a_certificate_that_went_is_ordered_anew_at_once() {
    let mut world = World::open(names(1));
    world.effects();
    world.end("n0.test", Ended::Held(ninety_days(start())));
    assert_eq!(world.effects(), []);
    world.say(Event::Held(name("n0.test"), None));
    assert_eq!(world.effects(), [order("n0.test")]);
}

#[test]
fn a_name_that_a_client_waits_for_is_ordered_before_all_others() {
    let mut world = World::of(names(100));
    world.say(Event::Hurried(name("n77.test")));
    assert_eq!(world.effects(), [Effect::Open]);
    world.say(Event::Opened(Ok(())));
    assert_eq!(world.effects()[0], order("n77.test"));
}

#[test]
fn what_an_operator_began_is_not_begun_again() {
    let held = Some(ninety_days(start() - DAY * 80));
    let wanted = BTreeMap::from([(name("n0.test"), held)]);
    let mut world = World::of(wanted);
    world.say(Event::Begun(name("n0.test")));
    assert!(world.model.orders(&name("n0.test")));
    world.say(Event::Opened(Ok(())));
    let effects = world.effects();
    assert!(
        effects.iter().all(|one| *one == Effect::Open),
        "{effects:?}"
    );
    world.end("n0.test", Ended::Held(ninety_days(start())));
    assert!(!world.model.orders(&name("n0.test")));
}

#[test]
fn what_an_operator_asked_for_stays_due_until_it_is_there() {
    let held = Some(ninety_days(start()));
    let wanted = BTreeMap::from([(name("n0.test"), held), (name("n1.test"), held)]);
    let mut world = World::of(wanted);
    world.say(Event::Begun(name("n0.test")));
    // Asked elsewhere, and told by the index.
    world.say(Event::Asked(name("n1.test")));
    world.say(Event::Opened(Ok(())));
    let until = world.now + Duration::from_secs(60);
    world.end("n0.test", failed(until));
    let order = |text: &str| Effect::Order(name(text), Replaces::Nothing);
    let effects = world.effects();
    assert!(effects.contains(&order("n1.test")), "{effects:?}");
    assert!(
        !effects.contains(&order("n0.test")),
        "it rests first: {effects:?}"
    );
    world.now = until;
    world.say(Event::Tick);
    assert!(world.effects().contains(&order("n0.test")));
    for known in ["n0.test", "n1.test"] {
        world.end(known, Ended::Held(ninety_days(world.now)));
    }
    world.now += DAY;
    world.say(Event::Tick);
    let is_order = |one: &Effect| matches!(one, Effect::Order(..));
    assert!(!world.effects().iter().any(is_order), "it is there");
}

#[test]
fn an_account_that_the_ca_forgot_is_opened_again_before_the_next_order() {
    let mut world = World::open(names(1));
    world.effects();
    let until = start() + Duration::from_secs(2);
    world.end("n0.test", Ended::NoAccount(until, "unknown".into()));
    assert_eq!(world.effects(), []);
    assert_eq!(world.wait().unwrap(), [Effect::Open]);
    world.say(Event::Opened(Ok(())));
    assert_eq!(world.wait_or_now(), [order("n0.test")]);
}

#[test]
fn load_balancers_share_the_work_rather_than_begin_with_the_same_names() {
    let first = |node: &str| {
        let mut world = World::of(BTreeMap::new());
        world.model = Model::new(node, Duration::ZERO);
        world.say(Event::Opened(Ok(())));
        world.say(Event::Wanted(names(40)));
        world.effects()
    };
    let (one, other) = (first("lb-1"), first("lb-2"));
    assert_eq!((one.len(), other.len()), (AT_ONCE, AT_ONCE));
    let same = one.iter().filter(|effect| other.contains(effect)).count();
    assert!(same < AT_ONCE / 2, "{same}");
    assert_eq!(first("lb-1"), one);
}

#[test]
fn an_account_that_cannot_be_opened_is_tried_again_and_then_all_is_ordered() {
    let mut world = World::of(names(3));
    assert_eq!(world.effects(), [Effect::Open]);
    world.say(Event::Opened(Err(Failure::Unreached("refused".into()))));
    assert_eq!(world.effects(), []);
    let error = world.model.standings().next().unwrap().1.error;
    assert_eq!(error.unwrap(), "refused");
    assert_eq!(world.wait().unwrap(), [Effect::Open]);
    assert!(world.now > start() && world.now < start() + UNREACHED * 2);
    world.say(Event::Opened(Ok(())));
    assert_eq!(world.effects().len(), 3);
    let mut standings = world.model.standings();
    assert!(standings.all(|(_, standing)| standing.error.is_none()));
}

#[test]
fn only_some_are_ordered_at_once_and_those_without_a_certificate_first() {
    let mut wanted = names(20);
    let old = |n: u32| name(&format!("n{n}.test"));
    for number in 0..10 {
        wanted.insert(old(number), Some(ninety_days(start() - DAY * 80)));
    }
    let mut world = World::open(wanted);
    let effects = world.effects();
    assert_eq!(effects.len(), AT_ONCE);
    for number in 0..10 {
        let renewal = Effect::Order(old(number), Replaces::Nothing);
        assert!(!effects.contains(&renewal));
    }
}

#[test]
fn a_name_that_is_no_longer_wanted_is_forgotten() {
    let mut world = World::open(names(2));
    world.effects();
    world.say(Event::Wanted(names(1)));
    assert!(!world.model.wants(&name("n1.test")));
    assert_eq!(world.model.standings().count(), 1);
    world.say(Event::Wanted(names(2)));
    assert_eq!(world.effects(), [], "its order is still under way");
    world.say(Event::Wanted(names(1)));
    world.end("n1.test", failed(start()));
    assert_eq!(world.model.names.len(), 1);
}

proptest! {
    /// Whatever comes of orders, a name is never ordered twice at once, and no more than some names are.
    #[test]
    fn no_name_is_ordered_twice_at_once(count in 1usize..60, ends in prop::collection::vec(0u8..5, 0..300)) {
        let mut world = World::open(names(count));
        let mut under_way: Vec<DomainName> = Vec::new();
        let mut ends = ends.into_iter();
        loop {
            for effect in world.effects() {
                let Effect::Order(name, _) = effect else {
                    continue;
                };
                prop_assert!(!under_way.contains(&name));
                under_way.push(name);
            }
            prop_assert!(under_way.len() <= AT_ONCE);
            let Some(end) = ends.next() else {
                break;
            };
            let Some(name) = under_way.pop() else {
                let Some(next) = world.model.next_tick() else {
                    break;
                };
                world.now = world.now.max(next);
                world.say(Event::Tick);
                continue;
            };
            let later = world.now + Duration::from_secs(60);
            world.say(Event::Ended(name, match end {
                0 => Ended::Held(ninety_days(world.now)),
                1 => Ended::Elsewhere,
                2 => Ended::Rests(later, "rests".into()),
                3 => Ended::Full(later, "full".into()),
                _ => Ended::NoAccount(later, "unknown".into()),
            }));
            if let Account::Closed = world.model.account {
                world.now += DAY;
                world.say(Event::Tick);
                world.say(Event::Opened(Ok(())));
            }
        }
    }
}
