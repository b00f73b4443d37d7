//! What was known before the start: in force at once, told as such, and judged as Consul's own last word once it speaks again.

use super::*;
use proptest::prelude::*;

use crate::control::kept::table::Table;
use crate::control::model::memory::PATIENCE;

const THREE: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

/// What a model would be fed with at its next start.
fn kept(world: &World) -> Table {
    world.model.kept(world.now).expect("it knows enough")
}

/// All subtrees but the pod's id are empty.
fn answer_all(world: &mut World) {
    world.documents(Subtree::Pod, &[("", "id", 1)]);
    for subtree in Subtree::ALL {
        if subtree != Subtree::Pod {
            world.documents(subtree, &[]);
        }
    }
}

/// Documents of each kind.
fn document_all(world: &mut World) {
    world.documents(Subtree::Pod, &[("", "id", 1)]);
    world.documents(
        Subtree::Services,
        &[("shop", "servers = [\"10.0.1.1:80\"]", 2)],
    );
    world.documents(
        Subtree::Routes,
        &[("shop", "host = \"shop.test\"\nservice = \"shop\"", 3)],
    );
    world.documents(Subtree::Domains, &[]);
    world.documents(Subtree::Tuning, &[("", "[guard]\nwindow = \"7s\"", 4)]);
    let drain = ("app/10.0.0.3:80", "{\"by\":\"a\",\"at\":1}", 5);
    world.documents(Subtree::OperatorDrain, &[drain]);
}

/// With three servers, one of them drained.
fn before() -> World {
    let mut world = World::with_consul("");
    document_all(&mut world);
    world.answer(passing(&THREE));
    world
}

/// The next start, an hour later.
fn after(table: Table) -> World {
    let mut world = World::with_consul("");
    world.now += seconds(3600);
    world.apply(Event::Remembered(Box::new(table)));
    world
}

fn missing(world: &World) -> String {
    world.model.missing().join("; ")
}

#[test]
fn the_first_table_has_the_servers_documents_drains_and_tuning_of_before() {
    let mut before = before();
    let (table, heard) = (kept(&before), before.now);
    let mut world = after(table.clone());
    assert_eq!(world.fit(), before.fit());
    assert_eq!(world.fit(), THREE[..2], "the third is drained");
    let snapshot = world.build();
    assert_eq!(snapshot.services["shop"].members.len(), 1);
    assert_eq!(snapshot.routes.routes().count(), 2);
    assert_eq!(world.model.tuning().guard.window, seconds(7));
    assert!(world.mistakes().is_empty());
    let standing = world.standing(THREE[0]);
    assert_eq!(standing.remembered, Some(heard));
    assert_eq!(
        (standing.consul.reason, standing.consul.since),
        ("passing", heard)
    );
    assert_eq!(
        kept(&world).services,
        table.services,
        "and it goes on being kept"
    );
    assert_eq!(kept(&world).documents, table.documents);
    assert!(world.effects.is_empty(), "the pod's id is not written over");
}

#[test]
fn readiness_waits_a_moment_for_consuls_own_word_and_no_longer() {
    let mut world = after(kept(&before()));
    assert!(
        missing(&world).contains("consul:app: not read yet"),
        "{}",
        missing(&world)
    );
    assert!(missing(&world).contains("kv:rota/p/pod: not read yet"));
    world.wait(PATIENCE - Duration::from_millis(1));
    assert!(!missing(&world).is_empty());
    world.wait(Duration::from_millis(1));
    assert_eq!(missing(&world), "");
    // Nobody remembers certificates: those of the store may be all there are.
    let mut world = World::with_consul("");
    world.apply(Event::Certificates(Loaded::NotYet));
    let table = kept(&before());
    world
        .apply(Event::Remembered(Box::new(table)))
        .wait(PATIENCE);
    assert_eq!(missing(&world), "certificates: not read yet");
    world.apply(Event::Certificates(Loaded::Remembered));
    assert_eq!(missing(&world), "");
}

#[test]
fn with_consul_there_it_is_ready_by_its_word() {
    let mut world = after(kept(&before()));
    document_all(&mut world);
    assert_eq!(missing(&world), "consul:app: not read yet");
    world.answer(passing(&THREE[..2]));
    assert_eq!(missing(&world), "");
    let standing = world.standing(THREE[0]);
    assert_eq!(standing.remembered, None);
    let steps: Vec<_> = standing.history.iter().map(|step| step.to).collect();
    assert_eq!(steps, ["present", "remembered", "present"]);
}

#[test]
fn what_consul_no_longer_names_when_it_returns_is_the_guards_to_judge() {
    let mut world = after(kept(&before()));
    world.answer(passing(&THREE[..2]));
    assert_eq!(world.servers(), THREE[..2], "one of three is believed");
    let mut world = after(kept(&before()));
    world.answer(vec![]);
    // The third is drained: nobody misses it.
    assert_eq!(world.servers(), THREE[..2]);
    assert!(world.standing(THREE[0]).doubt.is_some());
    assert_eq!(world.standing(THREE[0]).remembered, None);
    world
        .probe(THREE[0], Err("refused"))
        .probe(THREE[0], Err("refused"));
    assert_eq!(world.servers(), THREE[1..2]);
}

#[test]
fn a_consul_that_lost_its_state_meanwhile_takes_no_document() {
    let mut world = after(kept(&before()));
    for subtree in Subtree::ALL {
        world.documents(subtree, &[]);
    }
    let snapshot = world.build();
    assert_eq!(snapshot.services["shop"].members.len(), 1);
    assert_eq!(snapshot.routes.routes().count(), 2);
    let mistakes = world.mistakes();
    assert!(
        mistakes["kv:rota/p/config/routes"].contains("last good version"),
        "{mistakes:?}"
    );
    assert!(!world.effects.contains(&Effect::WritePodId));
}

#[test]
fn a_wrong_document_has_its_last_good_version_over_a_restart() {
    let mut before = before();
    before.documents(Subtree::Services, &[("shop", "servers = 7", 2)]);
    let mut world = after(kept(&before));
    assert!(world.mistakes().is_empty(), "what is kept is good");
    world.documents(Subtree::Services, &[("shop", "servers = 7", 2)]);
    assert_eq!(world.build().services["shop"].members.len(), 1);
    let mistakes = world.mistakes();
    assert!(mistakes["kv:rota/p/config/services/shop"].contains("last good version"));
}

#[test]
fn servers_in_doubt_are_kept_however_long_and_believed_losses_are_not() {
    let mut world = before();
    world.answer(vec![]);
    world.wait(seconds(100_000));
    // But for the drained one, whom nobody misses.
    assert_eq!(kept(&world).services[0].1.len(), 2);
    let mut world = before();
    world.answer(vec![]);
    world.wait(seconds(100));
    world.answer(passing(&THREE[..1]));
    assert_eq!(after(kept(&world)).servers(), THREE[..2]);
    world.wait(seconds(601));
    assert_eq!(
        world.servers(),
        THREE[..1],
        "partial losses have a deadline"
    );
    assert_eq!(after(kept(&world)).servers(), THREE[..1]);
}

#[test]
fn another_id_of_the_pod_is_kept_no_sooner_than_an_operator_accepts_it() {
    let id = |world: &World| String::from_utf8(kept(world).pod_id().unwrap()).unwrap();
    let mut world = after(kept(&before()));
    document_all(&mut world);
    world.documents(Subtree::Pod, &[("", "another", 9)]);
    world.documents(Subtree::Services, &[]);
    assert_eq!(id(&world), "id");
    let mut again = after(kept(&world));
    again.documents(Subtree::Pod, &[("", "another", 9)]);
    again.documents(Subtree::Services, &[]);
    assert_eq!(again.build().services["shop"].members.len(), 1);
    assert!(again.mistakes().contains_key("kv:rota/p/pod"));
    let said = "{\"by\":\"alice\",\"at\":1003590,\"until\":1003650}";
    again.documents(Subtree::OperatorAccept, &[]);
    again.documents(Subtree::OperatorAccept, &[("@documents", said, 7)]);
    assert_eq!(id(&again), "another");
    assert!(!again.mistakes().contains_key("kv:rota/p/pod"));
}

#[test]
fn what_is_less_than_may_be_kept_already_is_not_kept() {
    let mut world = World::with_consul("");
    world.answer(passing(&THREE));
    let now = world.now;
    assert!(world.model.kept(now).is_none(), "documents are not known");
    answer_all(&mut world);
    assert!(world.model.kept(now).is_some());
    assert!(World::with_consul("").model.kept(now).is_none());
}

#[test]
fn certificates_are_kept_from_nobody_while_documents_are_but_remembered() {
    let acme = "[acme]\ndirectory = \"https://ca.test/dir\"\nkey_file = \"/k\"\n";
    let mut before = World::with_consul(acme);
    answer_all(&mut before);
    before.documents(Subtree::Domains, &[("customer.test", "", 1)]);
    let mut world = World::with_consul(acme);
    world.apply(Event::Remembered(Box::new(kept(&before))));
    assert_eq!(world.model.kv_names().iter().count(), 1);
    assert!(!world.model.kv_names().is_whole());
    answer_all(&mut world);
    assert!(world.model.kv_names().is_whole());
}

#[test]
fn troubles_with_files_are_named_among_the_mistakes_until_they_are_mended() {
    let mut world = World::with_consul("");
    let trouble =
        crate::control::mistake::Mistake::new("state:/s/kept/table", "damaged", "ignored");
    world.apply(Event::Troubles(vec![trouble]));
    assert_eq!(world.mistakes()["state:/s/kept/table"], "damaged (ignored)");
    world.apply(Event::Troubles(vec![]));
    assert!(world.mistakes().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever Consul answered and our own probes found: the next start has the servers of before, and what it keeps is the same.
    #[test]
    fn no_history_is_another_after_a_restart(
        steps in proptest::collection::vec((0u8..64, 0u64..40, proptest::option::of(0usize..6)), 1..30)
    ) {
        let address = |bit: usize| format!("10.0.0.{}:80", bit + 1);
        let mut world = World::with_consul("");
        answer_all(&mut world);
        for (mask, pause, failing) in steps {
            let named = (0..6).filter(|bit| mask & (1 << bit) != 0).map(address);
            let named: Vec<String> = named.collect();
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            world.answer(passing(&named)).wait(seconds(pause));
            if let Some(bit) = failing {
                world.probe(&address(bit), Err("refused")).probe(&address(bit), Err("refused"));
            }
            let table = kept(&world);
            let mut again = after(table.clone());
            prop_assert_eq!(again.servers(), world.servers());
            prop_assert_eq!(&kept(&again).documents, &table.documents);
            let places = |table: &Table| {
                let instances = table.services.iter().flat_map(|(_, instances)| instances.iter());
                let mut places: Vec<_> = instances.map(|one| one.address.clone()).collect();
                places.sort();
                places
            };
            prop_assert_eq!(places(&kept(&again)), places(&table));
        }
    }
}
