//! What is ordered when, with a clock and a CA of the test's own.

use proptest::prelude::*;

use super::super::failure::{REFUSED, REFUSED_LONGEST, UNREACHED};
use super::*;

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

fn refused() -> Failure {
    Failure::Refused("no".into())
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
            model: Model::new(),
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

    fn end(&mut self, text: &str, result: Result<Validity, Failure>) {
        self.say(Event::Ended(name(text), result));
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
    world.end("n0.test", Ok(ninety_days(start())));
    assert_eq!(world.effects(), []);
    assert_eq!(world.wait().unwrap(), [order("n0.test")]);
    assert!(world.now <= start() + DAY * 60 && world.now >= start() + DAY * 55);
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
    world.end("n0.test", Ok(ninety_days(start())));
    assert_eq!(world.effects(), []);
    let renewal = Effect::Order(name("n0.test"), Replaces::Present);
    assert_eq!(world.wait().unwrap(), [renewal]);
    assert!(world.now >= start() + DAY * 3 && world.now <= start() + DAY * 4);
    world.window = None;
    world.end("n0.test", Err(refused()));
    assert_eq!(world.effects(), []);
    assert_eq!(world.wait().unwrap(), [order("n0.test")], "a plain one");
}

#[test]
fn a_window_in_the_past_renews_at_once_and_the_ca_is_asked_again_but_not_all_the_time() {
    let mut world = World::open(names(1));
    world.effects();
    world.end("n0.test", Ok(ninety_days(start())));
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
    world.end("n0.test", Ok(ninety_days(asked)));
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
fn failures_back_off_and_hurt_no_other_name() {
    let mut world = World::open(names(2));
    assert_eq!(world.effects().len(), 2);
    world.end("n1.test", Ok(ninety_days(start() + DAY * 20)));
    let mut pauses = Vec::new();
    for _ in 0..14 {
        let before = world.now;
        world.end("n0.test", Err(refused()));
        assert_eq!(world.effects(), [], "not at once");
        assert_eq!(world.wait().unwrap(), [order("n0.test")]);
        pauses.push(world.now.duration_since(before).unwrap());
    }
    assert!(pauses[0] >= REFUSED.mul_f64(0.79) && pauses[0] <= REFUSED.mul_f64(1.21));
    assert!(pauses[2] > pauses[0] * 2);
    let longest = REFUSED_LONGEST.mul_f64(1.21);
    assert!(pauses.iter().all(|pause| *pause <= longest));
    let errors: Vec<_> = world.model.standings().map(|(_, s)| s.error).collect();
    assert_eq!(errors, [Some("no".to_owned()), None]);
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
    world.end("n1.test", Err(refused()));
    assert_eq!(world.model.names.len(), 1);
}

#[test]
fn what_no_ca_saw_costs_nothing_of_the_budget() {
    let mut world = World::open(names(BUDGET + 50));
    let mut begun = BTreeMap::<DomainName, usize>::new();
    while begun.len() < BUDGET + 50 {
        for effect in world.wait_or_now() {
            let Effect::Order(name, _) = effect else {
                panic!("{effect:?}")
            };
            *begun.entry(name.clone()).or_default() += 1;
            let failure = Failure::Preflight("elsewhere".into());
            world.say(Event::Ended(name, Err(failure)));
        }
    }
    assert!(world.now < start() + REFUSED, "{:?}", world.now);
    assert!(world.model.begun.is_empty());
}

#[test]
fn a_name_that_waits_for_the_budget_or_the_account_says_until_when_and_why() {
    let mut world = World::open(names(BUDGET + 1));
    for _ in 0..BUDGET / AT_ONCE + 1 {
        for effect in world.effects() {
            let Effect::Order(name, _) = effect else {
                panic!("{effect:?}")
            };
            world.say(Event::Ended(name, Ok(ninety_days(start()))));
        }
    }
    let standing = |world: &World| {
        let mut all = world.model.standings();
        let held = all.find(|(_, standing)| standing.validity.is_none());
        held.unwrap().1
    };
    let held = standing(&world);
    assert_eq!(held.next, Some(start() + BUDGET_SPAN));
    assert!(held.error.unwrap().contains("250 orders"));
    let renewed = |(_, standing): (&DomainName, Standing)| standing.error.is_none();
    assert_eq!(
        world
            .model
            .standings()
            .filter(|one| renewed(one.clone()))
            .count(),
        BUDGET
    );

    let mut world = World::of(names(1));
    assert_eq!(standing(&world).next, None, "as soon as may be");
    world.effects();
    world.say(Event::Opened(Err(Failure::Unreached("refused".into()))));
    assert!(standing(&world).next.unwrap() > start());
}

proptest! {
    // Each is a long story: some hundred orders.
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever fails in whatever order, an account stays within its budget.
    #[test]
    fn the_budget_is_never_exceeded(count in 1usize..400, fails in prop::collection::vec(any::<bool>(), 0..400)) {
        let mut world = World::open(names(count));
        let mut begun = Vec::new();
        let mut fails = fails.into_iter();
        let mut effects = world.model.take_effects();
        for _ in 0..200 {
            for effect in effects {
                let Effect::Order(name, _) = effect else {
                    continue;
                };
                begun.push(world.now);
                let result = match fails.next() {
                    Some(true) => Err(refused()),
                    Some(false) | None => Ok(ninety_days(world.now)),
                };
                world.say(Event::Ended(name, result));
            }
            effects = world.model.take_effects();
            if effects.is_empty() {
                // A step, not a wait: what it leads to may be far.
                let Some(next) = world.model.next_tick() else {
                    break;
                };
                world.now = world.now.max(next);
                world.say(Event::Tick);
                effects = world.model.take_effects();
            }
        }
        for (at, began) in begun.iter().enumerate() {
            let later = begun[at..].iter();
            let within = later.take_while(|other| **other < *began + BUDGET_SPAN);
            prop_assert!(within.count() <= BUDGET);
        }
    }
}
