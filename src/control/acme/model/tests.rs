//! What is ordered when, with a clock and a CA of the test's own.

use proptest::prelude::*;

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

fn open(wanted: BTreeMap<DomainName, Option<Validity>>) -> Model {
    let mut model = Model::new();
    model.apply(Event::Wanted(wanted), start());
    assert_eq!(model.take_effects(), [Effect::Open]);
    model.apply(Event::Opened(Ok(())), start());
    model
}

fn refused() -> Failure {
    Failure::Refused("no".into())
}

#[test]
fn a_missing_certificate_is_ordered_at_once_and_renewed_near_two_thirds_of_its_life() {
    let mut model = open(names(1));
    assert_eq!(model.take_effects(), [Effect::Order(name("n0.test"))]);
    assert_eq!(model.next_tick(), None);
    model.apply(
        Event::Ended(name("n0.test"), Ok(ninety_days(start()))),
        start(),
    );
    assert_eq!(model.take_effects(), []);
    let renewal = model.next_tick().unwrap();
    assert!(renewal <= start() + DAY * 60 && renewal >= start() + DAY * 55);
    model.apply(Event::Tick, renewal - DAY);
    assert_eq!(model.take_effects(), []);
    model.apply(Event::Tick, renewal);
    assert_eq!(model.take_effects(), [Effect::Order(name("n0.test"))]);
}

#[test]
fn failures_back_off_and_hurt_no_other_name() {
    let mut model = open(names(2));
    assert_eq!(model.take_effects().len(), 2);
    let mut now = start();
    let mut pauses = Vec::new();
    model.apply(Event::Ended(name("n1.test"), Ok(ninety_days(now))), now);
    for _ in 0..14 {
        model.apply(Event::Ended(name("n0.test"), Err(refused())), now);
        assert_eq!(model.take_effects(), [], "not at once");
        let next = model.next_tick().unwrap();
        pauses.push(next.duration_since(now).unwrap());
        now = next;
        model.apply(Event::Tick, now);
        assert_eq!(model.take_effects(), [Effect::Order(name("n0.test"))]);
    }
    assert!(pauses[0] >= REFUSED.mul_f64(0.79) && pauses[0] <= REFUSED.mul_f64(1.21));
    assert!(pauses[2] > pauses[0] * 2);
    assert!(
        pauses
            .iter()
            .all(|pause| *pause <= REFUSED_LONGEST.mul_f64(1.21))
    );
    let errors: Vec<_> = model.standings().map(|(_, s)| s.error).collect();
    assert_eq!(errors, [Some("no".to_owned()), None]);
}

#[test]
fn an_account_that_cannot_be_opened_is_tried_again_and_then_all_is_ordered() {
    let mut model = Model::new();
    model.apply(Event::Wanted(names(3)), start());
    assert_eq!(model.take_effects(), [Effect::Open]);
    let down = Failure::Unreached("refused".into());
    model.apply(Event::Opened(Err(down)), start());
    assert_eq!(model.take_effects(), []);
    assert_eq!(
        model.standings().next().unwrap().1.error.unwrap(),
        "refused"
    );
    let again = model.next_tick().unwrap();
    assert!(again > start() && again < start() + UNREACHED * 2);
    model.apply(Event::Tick, again);
    assert_eq!(model.take_effects(), [Effect::Open]);
    model.apply(Event::Opened(Ok(())), again);
    assert_eq!(model.take_effects().len(), 3);
    assert!(
        model
            .standings()
            .all(|(_, standing)| standing.error.is_none())
    );
}

#[test]
fn only_some_are_ordered_at_once_and_those_without_a_certificate_first() {
    let mut model = Model::new();
    let mut wanted = names(20);
    let old = |n: u32| name(&format!("n{n}.test"));
    for number in 0..10 {
        wanted.insert(old(number), Some(ninety_days(start() - DAY * 80)));
    }
    model.apply(Event::Wanted(wanted), start());
    model.take_effects();
    model.apply(Event::Opened(Ok(())), start());
    let effects = model.take_effects();
    assert_eq!(effects.len(), AT_ONCE);
    for number in 0..10 {
        assert!(!effects.contains(&Effect::Order(old(number))));
    }
}

#[test]
fn a_name_that_is_no_longer_wanted_is_forgotten() {
    let mut model = open(names(2));
    model.take_effects();
    model.apply(Event::Wanted(names(1)), start());
    assert!(!model.wants(&name("n1.test")));
    assert_eq!(model.standings().count(), 1);
    model.apply(Event::Wanted(names(2)), start());
    assert_eq!(model.take_effects(), [], "its order is still under way");
    model.apply(Event::Wanted(names(1)), start());
    model.apply(Event::Ended(name("n1.test"), Err(refused())), start());
    assert_eq!(model.names.len(), 1);
}

proptest! {
    /// Whatever fails in whatever order, an account stays within its budget, and what is waited for is named.
    #[test]
    fn the_budget_is_never_exceeded(count in 1usize..400, fails in prop::collection::vec(any::<bool>(), 0..400)) {
        let mut model = open(names(count));
        let (mut now, mut begun) = (start(), Vec::new());
        let mut fails = fails.into_iter();
        for _ in 0..600 {
            let effects = model.take_effects();
            for effect in effects {
                let Effect::Order(name) = effect else { continue };
                begun.push(now);
                let result = match fails.next() {
                    Some(true) => Err(refused()),
                    Some(false) | None => Ok(ninety_days(now)),
                };
                model.apply(Event::Ended(name, result), now);
            }
            let Some(next) = model.next_tick() else { break };
            now = now.max(next);
            model.apply(Event::Tick, now);
        }
        for at in &begun {
            let within = begun.iter().filter(|other| *other >= at && **other < *at + BUDGET_SPAN);
            prop_assert!(within.count() <= BUDGET);
        }
    }
}
