//! Blue and green: what a service's groups make of its turns, whoever names them.

use super::*;
use crate::control::shift;
use crate::routing::Unfit;
use crate::routing::operator::ShiftOrder;

const DIVIDED: &str = r#"groups = { blue = 90, green = 10 }"#;

fn of(group: &str, address: &str, status: CheckStatus) -> Instance {
    Instance {
        tags: vec![format!("rota.group={group}")],
        ..instance(address, status)
    }
}

/// Turns of each server of `app` in a cycle, by label.
fn turns(world: &mut World) -> BTreeMap<String, usize> {
    let service = world.service("app");
    let label = |index: u32| service.members[index as usize].upstream.label().to_string();
    let mut count = BTreeMap::new();
    for &index in service.turn.indices() {
        *count.entry(label(index)).or_default() += 1;
    }
    count
}

fn are(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let owned = counts.iter().map(|&(name, count)| (name.to_owned(), count));
    owned.collect()
}

#[test]
fn instances_of_one_machine_get_their_groups_shares() {
    use CheckStatus::Passing;
    let mut world = World::with_consul(DIVIDED);
    world.answer(vec![
        of("blue", "10.0.0.1:80", Passing),
        of("green", "10.0.0.1:81", Passing),
        of("blue", "10.0.0.2:80", Passing),
        instance("10.0.0.3:80", Passing),
        of("red", "10.0.0.4:80", Passing),
    ]);
    let expected = are(&[("10.0.0.1:80", 9), ("10.0.0.1:81", 2), ("10.0.0.2:80", 9)]);
    assert_eq!(turns(&mut world), expected);
    let service = world.service("app");
    let shares: Vec<f64> = service
        .group_shares()
        .iter()
        .map(|group| group.share)
        .collect();
    assert_eq!(shares, [0.9, 0.1]);
}

#[test]
fn the_share_of_a_group_whose_servers_are_all_off_goes_to_the_others() {
    use CheckStatus::{Critical, Passing};
    let mut world = World::with_consul(DIVIDED);
    let answer = |blue| {
        vec![
            of("blue", "10.0.0.1:80", blue),
            of("green", "10.0.0.2:80", Passing),
        ]
    };
    world.answer(answer(Critical));
    assert_eq!(turns(&mut world), are(&[("10.0.0.2:80", 1)]));
    world.answer(answer(Passing));
    assert_eq!(
        turns(&mut world),
        are(&[("10.0.0.1:80", 9), ("10.0.0.2:80", 1)])
    );
    world.eject("10.0.0.2:80", Unfit::Refused);
    assert_eq!(turns(&mut world), are(&[("10.0.0.1:80", 1)]));
}

#[test]
fn a_group_of_weight_0_serves_neither_for_the_others_nor_in_panic() {
    use CheckStatus::{Critical, Passing};
    let mut world = World::with_consul(r#"groups = { blue = 0, green = 1 }"#);
    world.answer(vec![
        of("blue", "10.0.0.1:80", Passing),
        of("green", "10.0.0.2:80", Critical),
        instance("10.0.0.3:80", Passing),
    ]);
    assert_eq!(turns(&mut world), are(&[]));
    let service = world.service("app");
    let picked = service.pick(crate::routing::WorkerId(0), 1, &[]).unwrap();
    assert_eq!(&**service.members[picked].upstream.label(), "10.0.0.2:80");
}

#[test]
fn a_document_divides_its_listed_servers_and_another_version_shifts_them() {
    let mut world = World::of(&format!(
        "{CONSUL}[[route]]\nhost = \"*\"\nservice = \"app\"\n"
    ));
    let servers = r#"servers = [{ address = "10.0.0.1:80", group = "blue" }, { address = "10.0.0.2:80", group = "green", weight = 3 }]"#;
    let mut shift = |groups: &str| {
        let text = format!("{servers}\ngroups = {{ {groups} }}");
        world.documents(Subtree::Services, &[("app", &text, 1)]);
        turns(&mut world)
    };
    assert_eq!(
        shift("blue = 3, green = 1"),
        are(&[("10.0.0.1:80", 3), ("10.0.0.2:80", 1)])
    );
    assert_eq!(shift("blue = 0, green = 1"), are(&[("10.0.0.2:80", 1)]));
    // Nobody would serve: the last good version stays.
    assert_eq!(shift("red = 1"), are(&[("10.0.0.2:80", 1)]));
    assert_eq!(shift("blue = 5"), are(&[("10.0.0.1:80", 1)]));
}

#[test]
fn an_instance_that_changes_its_group_changes_its_share_and_a_wrong_name_is_told() {
    use CheckStatus::Passing;
    let mut world = World::with_consul(DIVIDED);
    world.answer(vec![
        of("green", "10.0.0.1:80", Passing),
        of("green", "10.0.0.2:80", Passing),
    ]);
    assert_eq!(
        turns(&mut world),
        are(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)])
    );
    world.answer(vec![
        of("blue", "10.0.0.1:80", Passing),
        of("green", "10.0.0.2:80", Passing),
    ]);
    assert_eq!(
        turns(&mut world),
        are(&[("10.0.0.1:80", 9), ("10.0.0.2:80", 1)])
    );
    world.answer(vec![
        of("b l", "10.0.0.1:80", Passing),
        of("green", "10.0.0.2:80", Passing),
    ]);
    assert_eq!(turns(&mut world), are(&[("10.0.0.2:80", 1)]));
    let told = &world.mistakes()["consul:app/10.0.0.1:80"];
    assert!(told.starts_with("rota.group = \"b l\": expected"), "{told}");
}

/// A service document `app` with servers of `blue` and `green`, and this key besides.
fn with_document(groups: &str, green: CheckStatus) -> World {
    let mut world = World::of(&format!(
        "{CONSUL}[[service]]\nname = \"fixed\"\nservers = [\"10.0.0.9:80\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
    ));
    let text = format!("consul = {{ service = \"app\" }}\n{groups}");
    world.documents(Subtree::Services, &[("app", &text, 1)]);
    let blue = of("blue", "10.0.0.1:80", CheckStatus::Passing);
    world.answer(vec![blue, of("green", "10.0.0.2:80", green)]);
    world
}

fn planned(world: &World, service: &str, weights: &[(&str, u32)]) -> Result<(), String> {
    let weights = weights.iter().map(|&(name, weight)| (name.into(), weight));
    let order = ShiftOrder {
        service: service.into(),
        weights: weights.collect(),
        by: "ops".into(),
    };
    let planned = shift::plan(&world.model, order);
    planned.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_shift_to_who_is_there_is_planned_and_one_to_nobody_is_refused() {
    use CheckStatus::{Critical, Passing};
    let world = with_document("groups = { blue = 1 }", Passing);
    assert_eq!(planned(&world, "app", &[("green", 100)]), Ok(()));
    assert_eq!(planned(&world, "app", &[("green", 1), ("old", 0)]), Ok(()));
    for (service, weights, told) in [
        ("app", &[("gren", 1)][..], "nearest known name is green"),
        ("app", &[("blue", 0)], "above 0"),
        ("ap", &[("blue", 1)], "nearest known name is app"),
        ("fixed", &[("blue", 1)], "stands in the file"),
    ] {
        let refused = planned(&world, service, weights).unwrap_err();
        assert!(refused.contains(told), "{refused}");
    }
    let sick = with_document("", Critical);
    let refused = planned(&sick, "app", &[("green", 100)]).unwrap_err();
    assert!(refused.contains("answered with 503"), "{refused}");
    assert_eq!(
        planned(&sick, "app", &[("green", 100), ("blue", 1)]),
        Ok(())
    );
}
