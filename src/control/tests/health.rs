//! Consul's checks, probes, ejections and drains: each a signal of its own.

use super::*;
use crate::control::order::{self, Plan};
use crate::routing::Verdict;
use crate::routing::operator::{Order, OrderError, Reach, Target};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const ACTIVE: &str = "[service.health.active]\npath = \"/\"\nfall = 3\nrise = 2\n";

#[test]
fn each_status_of_consul_has_its_effect() {
    use CheckStatus::{Critical, Maintenance, Passing, Warning};
    for (status, reason, is_fit, is_fit_in_panic) in [
        (Passing, "passing", true, true),
        (Warning, "warning", true, true),
        (Critical, "critical", false, true),
        (Maintenance, "maintenance", false, false),
    ] {
        let mut world = World::with_consul("");
        world.answer(vec![instance(A, status)]);
        let service = world.service("app");
        let member = &service.members[0];
        assert_eq!(member.standing.consul.reason, reason);
        assert_eq!(member.upstream.is_fit(), is_fit, "{reason}");
        assert_eq!(
            member.upstream.is_fit_in_panic(),
            is_fit_in_panic,
            "{reason}"
        );
    }
}

#[test]
fn who_comes_back_while_nobody_is_fit_serves_before_the_next_table_is_there() {
    let mut world = World::with_consul("");
    let critical = |address| instance(address, CheckStatus::Critical);
    world.answer(vec![critical(A), critical(B)]);
    let service = world.service("app");
    let pick = |tried: &[u64]| service.pick(crate::routing::WorkerId(0), 1, tried);
    assert!(pick(&[]).is_some(), "panic");
    let back = &service.members[1].upstream;
    back.clear(Unfit::Check);
    assert_eq!(pick(&[]), Some(1));
    assert_eq!(pick(&[back.number()]), None, "the other one is not fit");
}

#[test]
fn who_is_fit_and_in_no_order_yet_keeps_nobody_from_serving_in_panic() {
    let mut world = World::with_consul("");
    world.answer(vec![
        instance(A, CheckStatus::Maintenance),
        instance(B, CheckStatus::Critical),
    ]);
    let service = world.service("app");
    service.members[0].upstream.clear(Unfit::Operator);
    assert!(service.members[0].upstream.is_fit());
    let picked = service.pick(crate::routing::WorkerId(0), 1, &[]);
    assert_eq!(picked, Some(1));
}

#[test]
fn a_dead_node_takes_its_servers_off_and_says_so() {
    let mut world = World::with_consul("");
    let mut dead = instance(A, CheckStatus::Passing);
    dead.checks.push(Check {
        id: "serfHealth".into(),
        name: "Serf Health Status".into(),
        status: CheckStatus::Critical,
        output: "Agent not live or unreachable".into(),
    });
    world.answer(vec![dead]);
    let consul = world.standing(A).consul.clone();
    assert_eq!(
        (consul.reason, &*consul.evidence),
        (
            "node_down",
            "Serf Health Status: Agent not live or unreachable"
        )
    );
}

#[test]
fn evidence_has_no_colon_before_nothing() {
    for (name, output, evidence) in [
        ("alive", "its word", "alive: its word"),
        ("alive", " \n", "alive"),
        ("", "its word", "its word"),
        ("", "", ""),
    ] {
        let mut world = World::with_consul("");
        let mut sick = instance(A, CheckStatus::Critical);
        (sick.checks[0].name, sick.checks[0].output) = (name.into(), output.into());
        world.answer(vec![sick]);
        assert_eq!(&*world.standing(A).consul.evidence, evidence);
    }
}

#[test]
fn warning_takes_turns_at_its_own_weight_and_weight_zero_takes_none() {
    let mut world = World::with_consul("");
    let mut warned = instance(A, CheckStatus::Warning);
    (warned.weight_passing, warned.weight_warning) = (10, 2);
    let mut idle = instance(B, CheckStatus::Passing);
    idle.weight_passing = 0;
    world.answer(vec![warned, idle]);
    let service = world.service("app");
    let weights: Vec<u32> = service.members.iter().map(|member| member.weight).collect();
    assert_eq!(weights, [2, 0]);
    assert_eq!(service.turn.indices(), [0]);
}

#[test]
fn a_new_output_of_an_unchanged_check_makes_no_table() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A]));
    let before = world.model.revision();
    let mut same = instance(A, CheckStatus::Passing);
    same.checks[0].output = "other words".into();
    world.answer(vec![same]);
    assert_eq!(world.model.revision(), before);
}

#[test]
fn a_probe_takes_off_after_fall_and_brings_back_after_rise() {
    let mut world = World::with_consul(ACTIVE);
    world.answer(passing(&[A]));
    assert_eq!(world.fit(), [A], "not yet probed counts as well");
    world.probe(A, Err("HTTP 503")).probe(A, Err("HTTP 503"));
    assert_eq!(world.fit(), [A]);
    world.probe(A, Err("HTTP 503"));
    assert!(world.fit().is_empty());
    assert_eq!(&*world.standing(A).probe.evidence, "HTTP 503");
    world.probe(A, Ok(()));
    assert!(world.fit().is_empty());
    world.probe(A, Ok(()));
    assert_eq!(world.fit(), [A]);
}

#[test]
fn a_refused_server_comes_back_only_once_it_takes_a_connection_of_our_own() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A, B])).eject(A, Unfit::Refused);
    assert_eq!(world.fit(), [B]);
    assert_eq!(world.standing(A).passive.reason, "refused");
    world.wait(seconds(1));
    assert_eq!(world.effects, [Effect::TryConnect { key: key(A) }]);
    world.tried(A, Err("connection refused")).wait(seconds(1));
    assert_eq!(world.effects.len(), 1, "the back-off doubled");
    world.wait(seconds(1));
    assert_eq!(world.effects.len(), 2);
    world.tried(A, Ok(()));
    assert_eq!(world.fit(), [A, B]);
    assert_eq!(world.standing(A).passive.reason, "returned");
    world.eject(A, Unfit::Refused).wait(seconds(3));
    assert_eq!(world.effects.len(), 3, "it fell again too soon: 4 s now");
}

#[test]
fn bad_answers_end_with_their_back_off() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A, B])).eject(A, Unfit::Failing);
    world.wait(seconds(9));
    assert_eq!(world.fit(), [B]);
    world.wait(seconds(1));
    assert_eq!(world.fit(), [A, B]);
}

#[test]
fn probes_that_pass_bring_an_ejected_server_back_at_once() {
    let mut world = World::with_consul(ACTIVE);
    world.answer(passing(&[A, B]));
    world.probe(A, Ok(())).probe(A, Ok(()));
    world.eject(A, Unfit::Refused).eject(A, Unfit::Failing);
    world.probe(A, Ok(()));
    assert_eq!(world.fit(), [B]);
    world.probe(A, Ok(()));
    assert_eq!(world.fit(), [A, B]);
}

#[test]
fn signals_never_overwrite_one_another() {
    let mut world = World::with_consul(ACTIVE);
    world.answer(passing(&[A, B]));
    for _ in 0..3 {
        world.probe(A, Err("HTTP 500"));
    }
    world.eject(A, Unfit::Refused);
    drain(&mut world, Target::Server("app".into(), A.into()), None);
    world.answer(vec![
        instance(A, CheckStatus::Critical),
        instance(B, CheckStatus::Passing),
    ]);
    let standing = world.standing(A);
    let reasons: Vec<_> = standing
        .signals()
        .map(|(_, s)| (s.verdict, s.reason))
        .into();
    assert_eq!(
        reasons,
        [
            (Verdict::Unfit, "critical"),
            (Verdict::Unfit, "probe_failed"),
            (Verdict::Unfit, "refused"),
            (Verdict::Unfit, "drained"),
        ]
    );
    assert_eq!(standing.history.len(), 5);
    world.answer(passing(&[A, B]));
    world.probe(A, Ok(())).probe(A, Ok(()));
    assert!(!world.fit().contains(&A.to_owned()), "still drained");
    world.apply(Event::Ordered(Order::Undrain {
        target: Target::Server("app".into(), A.into()),
        reach: Reach::Here,
        by: "alice".into(),
    }));
    assert_eq!(world.fit(), [A, B]);
}

#[test]
fn a_drained_service_has_nobody_and_a_drain_ends_by_itself() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A, B]));
    drain(&mut world, Target::Service("app".into()), Some(seconds(60)));
    let evidence = world.standing(A).operator.evidence.clone();
    assert_eq!(&*evidence, "by alice for 60 s");
    let service = world.service("app");
    assert!(service.turn.is_empty() && service.reserve.is_empty());
    assert_eq!(service.members.len(), 2);
    world.wait(seconds(59));
    assert!(world.fit().is_empty());
    world.wait(seconds(1));
    assert_eq!(world.fit(), [A, B]);
}

#[test]
fn a_drain_in_kv_is_followed_by_every_lb_and_its_end_too() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A, B]));
    let word = r#"{"by":"bob","at":1000000}"#;
    world.documents(Subtree::OperatorDrain, &[("app/10.0.0.1:80", word, 1)]);
    assert_eq!(world.fit(), [B]);
    assert_eq!(&*world.standing(A).operator.evidence, "by bob");
    world.documents(Subtree::OperatorDrain, &[]);
    assert_eq!(world.fit(), [A, B]);
}

#[test]
fn the_lb_itself_can_be_drained() {
    let mut world = World::with_consul("");
    drain(&mut world, Target::Node, None);
    assert!(world.build().node_drained);
}

#[test]
fn an_order_for_an_unknown_name_is_answered_with_the_nearest_known_one() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A]));
    let ask = |world: &World, target| {
        let order = Order::Drain {
            target,
            reach: Reach::Here,
            by: "alice".into(),
            lasting: None,
        };
        order::plan(&world.model, order, world.now)
    };
    for (target, nearest) in [
        (Target::Service("ap".into()), "app"),
        (Target::Server("app".into(), "10.0.0.1:81".into()), A),
    ] {
        match ask(&world, target) {
            Err(OrderError::Unknown(message)) => assert!(message.ends_with(nearest), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        ask(&world, Target::Service("app".into())),
        Ok(Plan::Here(..))
    ));
}

#[test]
fn an_order_for_the_pod_becomes_a_document() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A]));
    let order = Order::Drain {
        target: Target::Server("app".into(), A.into()),
        reach: Reach::Pod,
        by: "alice".into(),
        lasting: None,
    };
    match order::plan(&world.model, order, world.now) {
        Ok(Plan::Pod { key, value, .. }) => {
            assert_eq!(key, "rota/p/operator/drain/app/10.0.0.1:80");
            let text = String::from_utf8(value.unwrap()).unwrap();
            assert_eq!(text, r#"{"by":"alice","at":1000000,"until":null}"#);
        }
        other => panic!("{other:?}"),
    }
}

fn drain(world: &mut World, target: Target, lasting: Option<Duration>) {
    world.apply(Event::Ordered(Order::Drain {
        target,
        reach: Reach::Here,
        by: "alice".into(),
        lasting,
    }));
}

#[test]
fn undraining_what_was_not_drained_says_so() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A, B]));
    drain(&mut world, Target::Server("app".into(), A.into()), None);
    for (target, is_drained) in [
        (Target::Service("app".into()), false),
        (Target::Server("app".into(), A.into()), true),
    ] {
        let order = Order::Undrain {
            target,
            reach: Reach::Here,
            by: "alice".into(),
        };
        match order::plan(&world.model, order, world.now) {
            Ok(Plan::Here(_, done)) => {
                assert_eq!(!done.contains("was not drained"), is_drained, "{done}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn undraining_here_what_the_pod_drained_says_that_it_stays_drained() {
    let mut world = World::with_consul("");
    world.answer(passing(&[A, B]));
    let word = r#"{"by":"bob","at":1000000}"#;
    world.documents(Subtree::OperatorDrain, &[("app", word, 1)]);
    let order = Order::Undrain {
        target: Target::Service("app".into()),
        reach: Reach::Here,
        by: "alice".into(),
    };
    match order::plan(&world.model, order, world.now) {
        Ok(Plan::Here(_, done)) => assert!(done.contains("pod's drain of it stays"), "{done}"),
        other => panic!("{other:?}"),
    }
}
