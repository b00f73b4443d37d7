//! Whatever Consul answers in whatever order: nobody who is well disappears by its silence.

use super::*;
use proptest::prelude::*;

const ADDRESSES: [&str; 6] = [
    "10.0.0.1:80",
    "10.0.0.2:80",
    "10.0.0.3:80",
    "10.0.0.4:80",
    "10.0.0.5:80",
    "10.0.0.6:80",
];

#[test]
fn an_empty_answer_takes_nobody_until_our_own_probes_fail() {
    let mut world = World::with_consul("");
    world.answer(passing(&ADDRESSES[..2]));
    world.answer(vec![]);
    assert_eq!(world.fit(), ADDRESSES[..2]);
    assert!(world.standing(ADDRESSES[0]).doubt.is_some());
    world.probe(ADDRESSES[0], Ok(())).wait(seconds(100_000));
    assert_eq!(world.fit(), ADDRESSES[..2]);
    world.probe(ADDRESSES[0], Err("refused"));
    assert_eq!(world.servers(), ADDRESSES[..2]);
    world.probe(ADDRESSES[0], Err("refused"));
    assert_eq!(world.servers(), ADDRESSES[1..2]);
    world.answer(passing(&ADDRESSES[..2]));
    assert_eq!(world.fit(), ADDRESSES[..2]);
    assert!(world.standing(ADDRESSES[1]).doubt.is_none());
    assert_eq!(world.standing(ADDRESSES[1]).probe.reason, "not_probed");
}

#[test]
fn one_of_several_that_leaves_is_believed_and_past_half_all_come_back() {
    let mut world = World::with_consul("");
    world.answer(passing(&ADDRESSES[..4]));
    world.answer(passing(&ADDRESSES[..3]));
    assert_eq!(world.servers(), ADDRESSES[..3]);
    world.answer(passing(&ADDRESSES[..1]));
    assert_eq!(world.fit(), ADDRESSES[..4]);
    world.wait(seconds(600));
    assert_eq!(
        world.fit(),
        ADDRESSES[..1],
        "partial losses have a deadline"
    );
}

#[test]
fn critical_is_believed_at_once_even_for_all() {
    let mut world = World::with_consul("");
    world.answer(passing(&ADDRESSES[..2]));
    let critical = |address: &&str| instance(address, CheckStatus::Critical);
    world.answer(ADDRESSES[..2].iter().map(critical).collect());
    assert!(world.fit().is_empty());
    assert_eq!(
        world.service("app").reserve.len(),
        2,
        "but they are a reserve"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Answer(u8, CheckStatus),
    Probe(usize, bool),
    Eject(usize, bool),
    Tried(usize, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop_oneof![
        4 => Just(CheckStatus::Passing),
        1 => Just(CheckStatus::Critical),
        1 => Just(CheckStatus::Maintenance)
    ];
    prop_oneof![
        4 => (0u8..64, status).prop_map(|(mask, status)| Step::Answer(mask, status)),
        1 => Just(Step::Answer(0, CheckStatus::Passing)),
        2 => (0usize..6, any::<bool>()).prop_map(|(index, well)| Step::Probe(index, well)),
        1 => (0usize..6, any::<bool>()).prop_map(|(index, refused)| Step::Eject(index, refused)),
        1 => (0usize..6, any::<bool>()).prop_map(|(index, well)| Step::Tried(index, well)),
        1 => (0u64..30).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// An answer takes a server only if most of its service is still named; an empty one takes nobody but who
    /// was asked to leave or fails its probes. A
    /// table with servers becomes one without only by probes that failed. What the data plane and the operator set stays until its
    /// own end.
    #[test]
    fn no_history_empties_a_table_without_a_reason(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::with_consul("");
        for step in steps {
            let before = world.servers();
            let leaving: Vec<String> = before
                .iter()
                .filter(|label| has_reason_to_leave(&world.standing(label)))
                .cloned()
                .collect();
            match step.clone() {
                Step::Answer(mask, status) => {
                    let named = (0..6).filter(|bit| mask & (1 << bit) != 0);
                    world.answer(named.map(|bit| instance(ADDRESSES[bit], status)).collect());
                }
                Step::Probe(index, well) => {
                    world.probe(ADDRESSES[index], well.then_some(()).ok_or("refused"));
                }
                Step::Eject(index, refused) => {
                    world.eject(ADDRESSES[index], if refused { Unfit::Refused } else { Unfit::Failing });
                }
                Step::Tried(index, well) => {
                    world.tried(ADDRESSES[index], well.then_some(()).ok_or("refused"));
                }
                Step::Wait(span) => {
                    world.wait(seconds(span));
                }
            }
            let after = world.servers();
            let lost = before.iter().filter(|label| !after.contains(label)).count();
            let missed = before
                .iter()
                .filter(|label| !after.contains(label) && !leaving.contains(label))
                .count();
            match step {
                Step::Answer(0, _) => prop_assert_eq!(missed, 0),
                Step::Answer(..) => prop_assert!(!after.is_empty()),
                Step::Probe(_, false) => prop_assert!(lost <= 1),
                Step::Wait(_) => prop_assert!(before.is_empty() || !after.is_empty()),
                Step::Probe(_, true) | Step::Eject(..) | Step::Tried(..) => prop_assert_eq!(lost, 0),
            }
            agrees_with_its_signals(&mut world)?;
        }
    }
}

fn has_reason_to_leave(standing: &Standing) -> bool {
    standing.consul.reason == "maintenance" || standing.probe.reason == "probe_failed"
}

/// The bits that workers read say what the signals say.
fn agrees_with_its_signals(world: &mut World) -> Result<(), TestCaseError> {
    let service = world.service("app");
    for member in &service.members {
        let (upstream, standing) = (&member.upstream, &member.standing);
        let is_against =
            |signal: &crate::routing::Signal| signal.verdict == crate::routing::Verdict::Unfit;
        let in_maintenance = standing.consul.reason == "maintenance";
        prop_assert_eq!(
            upstream.has(Unfit::Check),
            is_against(&standing.consul) && !in_maintenance
        );
        prop_assert_eq!(upstream.has(Unfit::Probe), is_against(&standing.probe));
        prop_assert_eq!(
            upstream.has(Unfit::Operator),
            is_against(&standing.operator) || in_maintenance
        );
        let is_ejected = upstream.has(Unfit::Refused) || upstream.has(Unfit::Failing);
        prop_assert_eq!(is_ejected, is_against(&standing.passive));
        prop_assert!(!upstream.has(Unfit::Gone));
    }
    let fit = service
        .members
        .iter()
        .filter(|member| member.upstream.is_fit())
        .count();
    prop_assert_eq!(service.turn.len(), fit);
    Ok(())
}
