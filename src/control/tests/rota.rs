//! What the log says of the rota: each change once, and never too much.

use super::*;
use crate::control::rota::{Change, LINES_PER_SECOND, Line, Rota};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

/// The lines since the last call, each as `off|on server signal reason on/of`, `nobody` or `somebody`.
fn told(rota: &mut Rota, world: &World) -> Vec<String> {
    let lines = rota.compare(world.model.services(), world.now);
    lines.iter().map(text).collect()
}

fn text(line: &Line) -> String {
    let server = |way: &str, change: &Change| {
        let Change {
            server,
            signal,
            reason,
            on,
            of,
            ..
        } = change;
        format!("{way} {server} {signal} {reason} {on}/{of}")
    };
    match line {
        Line::Left(change) => server("off", change),
        Line::Joined(change) => server("on", change),
        Line::Nobody { requests, .. } => format!("nobody: {requests}"),
        Line::Somebody { on, of, .. } => format!("somebody {on}/{of}"),
        Line::Unsaid(changes) => format!("{changes} unsaid"),
    }
}

#[test]
fn each_change_of_the_rota_is_told_once_with_its_signal() {
    let (mut rota, mut world) = (Rota::default(), World::with_consul(""));
    assert!(told(&mut rota, &world).is_empty(), "not heard of yet");
    world.answer(passing(&[A, B]));
    assert!(
        told(&mut rota, &world).is_empty(),
        "the first table is no change"
    );
    world.answer(vec![
        instance(A, CheckStatus::Critical),
        instance(B, CheckStatus::Passing),
    ]);
    let lines = rota.compare(world.model.services(), world.now);
    let [Line::Left(change)] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(change.evidence, "alive: its word");
    assert_eq!(text(&lines[0]), format!("off {A} consul critical 1/2"));
    assert!(told(&mut rota, &world).is_empty());
    world.answer(passing(&[A, B]));
    assert_eq!(
        told(&mut rota, &world),
        [format!("on {A} consul passing 2/2")]
    );
}

#[test]
fn an_ejection_and_its_end_are_told() {
    let (mut rota, mut world) = (Rota::default(), World::with_consul(""));
    world.answer(passing(&[A, B]));
    told(&mut rota, &world);
    world.eject(A, Unfit::Failing);
    assert_eq!(
        told(&mut rota, &world),
        [format!("off {A} passive failing 1/2")]
    );
    world.wait(seconds(10));
    assert_eq!(
        told(&mut rota, &world),
        [format!("on {A} passive returned 2/2")]
    );
}

#[test]
fn a_service_with_nobody_is_told_once_and_once_when_somebody_is_back() {
    let (mut rota, mut world) = (Rota::default(), World::with_consul(""));
    world.answer(vec![instance(A, CheckStatus::Critical)]);
    let expected = [
        format!("off {A} consul critical 0/1"),
        "nobody: go to servers whose checks fail".into(),
    ];
    assert_eq!(told(&mut rota, &world), expected);
    world.answer(vec![instance(A, CheckStatus::Maintenance)]);
    assert!(told(&mut rota, &world).is_empty());
    world.answer(passing(&[A]));
    let expected = [format!("on {A} consul passing 1/1"), "somebody 1/1".into()];
    assert_eq!(told(&mut rota, &world), expected);
    world.answer(vec![instance(A, CheckStatus::Maintenance)]);
    let expected = [
        format!("off {A} consul maintenance 0/1"),
        "nobody: are answered with 503".into(),
    ];
    assert_eq!(told(&mut rota, &world), expected);
}

#[test]
fn a_server_that_joins_or_is_named_no_more_is_told() {
    let (mut rota, mut world) = (Rota::default(), World::with_consul(""));
    let three = [A, B, "10.0.0.3:80"];
    world.answer(passing(&three[..2]));
    told(&mut rota, &world);
    world.answer(passing(&three));
    assert_eq!(
        told(&mut rota, &world),
        ["on 10.0.0.3:80 table present 3/3"]
    );
    world.answer(passing(&three[..2]));
    assert_eq!(
        told(&mut rota, &world),
        ["off 10.0.0.3:80 table absent 2/2"]
    );
}

#[test]
fn a_flood_of_changes_is_counted_beyond_its_lines() {
    let (mut rota, mut world) = (Rota::default(), World::with_consul(""));
    world.answer(passing(&[A, B]));
    told(&mut rota, &world);
    let mut lines = Vec::new();
    for _ in 0..50 {
        for status in [CheckStatus::Critical, CheckStatus::Passing] {
            world.answer(vec![instance(A, status), instance(B, CheckStatus::Passing)]);
            lines.extend(told(&mut rota, &world));
        }
    }
    assert_eq!(lines.len() as u64, LINES_PER_SECOND);
    assert!(rota.overdue(world.now).is_empty());
    world.now += seconds(1);
    assert_eq!(
        rota.overdue(world.now),
        [Line::Unsaid(100 - LINES_PER_SECOND)]
    );
    assert!(rota.overdue(world.now).is_empty());
}

#[test]
fn what_a_check_printed_is_one_short_line() {
    let (mut rota, mut world) = (Rota::default(), World::with_consul(""));
    let mut sick = instance(A, CheckStatus::Critical);
    sick.checks[0].output = format!("first\r\n\u{1b}[31m second\n{}", "é".repeat(400));
    world.answer(vec![sick]);
    let lines = rota.compare(world.model.services(), world.now);
    let Line::Left(Change { evidence, .. }) = &lines[0] else {
        panic!("{lines:?}");
    };
    assert!(
        evidence.starts_with("alive: first [31m second é"),
        "{evidence}"
    );
    assert_eq!(evidence.chars().count(), 201);
}
