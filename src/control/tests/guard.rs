//! What Consul's silence does to a service and to a pod, and what settles a doubt about it.

use super::*;
use crate::control::consul::Finding;
use crate::routing::operator::{Matter, Order, Reach};

const TEN: [&str; 10] = [
    "10.0.0.1:80",
    "10.0.0.2:80",
    "10.0.0.3:80",
    "10.0.0.4:80",
    "10.0.0.5:80",
    "10.0.0.6:80",
    "10.0.0.7:80",
    "10.0.0.8:80",
    "10.0.0.9:80",
    "10.0.0.10:80",
];

fn reread(world: &mut World, instances: Vec<Instance>, finding: Finding) {
    world.apply(Event::Consul(Observation::Reread {
        watch: watch(),
        instances,
        finding,
    }));
}

fn accept(world: &mut World, matter: Matter) {
    world.apply(Event::Ordered(Order::Accept {
        matter,
        reach: Reach::Here,
        by: "alice".into(),
        lasting: seconds(60),
    }));
}

fn fails_its_probes(world: &mut World, address: &str) {
    world
        .probe(address, Err("refused"))
        .probe(address, Err("refused"));
}

fn doubt(world: &mut World, label: &str) -> Option<&'static str> {
    world
        .standing(label)
        .doubt
        .as_ref()
        .map(|doubt| doubt.reason)
}

fn sorted(labels: &[&str]) -> Vec<String> {
    let mut labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    labels.sort_by_key(|label| label.parse::<std::net::SocketAddr>().unwrap());
    labels
}

#[test]
fn a_partial_loss_is_settled_by_failing_probes_together_with_a_consistent_re_read() {
    let mut world = World::with_consul("");
    world.answer(passing(&TEN));
    world.answer(passing(&TEN[..2]));
    assert_eq!(world.effects, [Effect::Reread { watch: watch() }]);
    assert_eq!(doubt(&mut world, TEN[5]), Some("many_lost"));
    fails_its_probes(&mut world, TEN[5]);
    assert!(
        world.servers().contains(&TEN[5].to_owned()),
        "the leader was not heard"
    );
    reread(&mut world, passing(&TEN[..2]), Finding::AsItIs);
    assert!(
        !world.servers().contains(&TEN[5].to_owned()),
        "now both say so"
    );
    fails_its_probes(&mut world, TEN[6]);
    assert_eq!(world.servers().len(), 8);
    assert_eq!(world.effects.len(), 1, "asked once");
}

#[test]
fn a_re_read_that_names_them_ends_the_doubt() {
    let mut world = World::with_consul("");
    world.answer(passing(&TEN[..4])).answer(vec![]);
    assert_eq!(doubt(&mut world, TEN[0]), Some("all_lost"));
    reread(&mut world, passing(&TEN[..4]), Finding::AsItIs);
    assert_eq!(doubt(&mut world, TEN[0]), None);
    assert!(world.mistakes().is_empty());
}

#[test]
fn what_the_token_may_not_read_is_named_and_confirms_nothing() {
    let mut world = World::with_consul("");
    world.answer(passing(&TEN[..4])).answer(passing(&TEN[..1]));
    reread(&mut world, vec![], Finding::Hidden);
    assert_eq!(world.fit(), TEN[..4]);
    assert_eq!(doubt(&mut world, TEN[1]), Some("hidden_by_acl"));
    fails_its_probes(&mut world, TEN[1]);
    assert_eq!(world.servers(), TEN[..4]);
    assert!(world.mistakes()["consul:app"].contains("the token may not read"));
}

#[test]
fn an_index_that_went_back_names_the_state_that_was_lost() {
    let mut world = World::with_consul("");
    world.answer(passing(&TEN[..4])).answer(vec![]);
    reread(&mut world, vec![], Finding::WentBack);
    assert_eq!(doubt(&mut world, TEN[0]), Some("consul_state_lost"));
    assert_eq!(world.fit(), TEN[..4]);
}

#[test]
fn after_an_empty_answer_the_deadline_of_the_others_begins_with_the_first_that_is_back() {
    let mut world = World::with_consul("");
    world.answer(passing(&TEN)).answer(vec![]);
    world.wait(seconds(3600));
    world.answer(passing(&TEN[..1]));
    assert_eq!(world.fit(), sorted(&TEN));
    world.wait(seconds(599));
    assert_eq!(world.fit(), sorted(&TEN));
    world.wait(seconds(1));
    assert_eq!(world.fit(), TEN[..1]);
}

#[test]
fn who_was_told_to_leave_is_not_missed() {
    let mut world = World::with_consul("");
    let state = |address: &&str| {
        let is_leaving = *address != TEN[0];
        let status = match is_leaving {
            true => CheckStatus::Maintenance,
            false => CheckStatus::Passing,
        };
        instance(address, status)
    };
    world.answer(TEN.iter().map(state).collect());
    world.answer(passing(&TEN[..1]));
    assert_eq!(world.servers(), TEN[..1]);
    assert!(world.mistakes().is_empty() && world.effects.is_empty());
}

#[test]
fn deregistrations_spread_out_are_not_slowed() {
    let mut world = World::with_consul("");
    world.answer(passing(&TEN));
    for left in (2..10).rev() {
        world.wait(seconds(30)).answer(passing(&TEN[..left]));
        assert_eq!(world.servers().len(), left);
    }
}

#[test]
fn an_operator_accepts_a_service_a_server_or_what_is_about_to_vanish() {
    let mut world = World::with_consul("");
    world.answer(passing(&TEN[..4])).answer(vec![]);
    accept(&mut world, Matter::Server("app".into(), TEN[3].into()));
    assert_eq!(world.fit(), TEN[..3]);
    accept(&mut world, Matter::Service("app".into()));
    assert!(world.servers().is_empty());
    assert!(!world.mistakes().contains_key("consul:app"));
    // What it was about is there again, and goes again within the minute.
    world.answer(passing(&TEN)).answer(passing(&TEN[..1]));
    assert_eq!(world.servers(), TEN[..1]);
    world.wait(seconds(61)).answer(vec![]);
    assert_eq!(world.servers(), TEN[..1], "the minute is over");
}

#[test]
fn the_pods_word_settles_what_is_doubted_on_every_load_balancer() {
    let mut world = World::with_consul("");
    world.documents(Subtree::OperatorAccept, &[]);
    world.answer(passing(&TEN[..2])).answer(vec![]);
    let said = "{\"by\":\"alice\",\"at\":1000000,\"until\":1000060}";
    world.documents(Subtree::OperatorAccept, &[("app", said, 7)]);
    assert!(world.servers().is_empty());
    world.documents(Subtree::OperatorAccept, &[("app", "{", 7)]);
    assert!(
        world
            .mistakes()
            .contains_key("kv:rota/p/operator/accept/app")
    );
}

#[test]
fn the_last_document_of_a_kind_goes_when_an_operator_accepts_that() {
    let mut world = World::with_consul("");
    let route = ("a", "host = \"a.example\"\nservice = \"app\"", 1);
    world.documents(Subtree::Routes, &[route]);
    world.documents(Subtree::Routes, &[]);
    assert!(world.mistakes()["kv:rota/p/config/routes"].contains("rota accept documents"));
    assert_eq!(world.model.doubts(&Matter::Documents), 1);
    accept(&mut world, Matter::Documents);
    assert!(world.mistakes().is_empty());
    assert_eq!(world.build().routes.routes().count(), 1, "the file's");
    // While it holds, also what is deleted afterwards.
    world.documents(Subtree::Routes, &[route]);
    world.documents(Subtree::Routes, &[]);
    assert!(world.mistakes().is_empty());
}

#[test]
fn a_pod_whose_id_is_gone_gets_a_new_one_when_an_operator_accepts_its_documents() {
    let mut world = World::with_consul("");
    let (old, new) = (
        ("a", "host = \"a.example\"\nservice = \"app\"", 1),
        ("b", "host = \"b.example\"\nservice = \"app\"", 2),
    );
    world.documents(Subtree::Pod, &[("", "an-id", 1)]);
    world.documents(Subtree::Routes, &[old]);
    world.documents(Subtree::Pod, &[]);
    world.documents(Subtree::Routes, &[new]);
    let said = "{\"by\":\"alice\",\"at\":1000000,\"until\":1000060}";
    world.documents(Subtree::OperatorAccept, &[("@documents", said, 7)]);
    assert_eq!(world.effects, [Effect::WritePodId]);
    let routes = world.build().routes;
    assert!(
        routes
            .routes()
            .any(|route| route.host.to_string() == "b.example")
    );
    assert!(
        routes
            .routes()
            .all(|route| route.host.to_string() != "a.example")
    );
}

#[test]
fn what_the_file_lists_is_nobodys_to_doubt_or_to_accept() {
    let mut world = World::of(&format!(
        "{CONSUL}[[service]]\nname = \"app\"\nservers = [\"10.0.0.1:80\"]\n"
    ));
    world.documents(Subtree::Pod, &[("", "an-id", 1)]);
    world.documents(Subtree::Pod, &[]);
    accept(&mut world, Matter::Service("app".into()));
    assert_eq!(world.fit(), TEN[..1]);
    world.wait(seconds(3600));
    assert_eq!(world.fit(), TEN[..1]);
}

/// Two services, `app` and `more`.
fn with_two_services() -> World {
    World::of(&format!(
        "{CONSUL}[[service]]\nname = \"app\"\nconsul = {{ service = \"app\" }}\n[[service]]\nname = \"more\"\nconsul = {{ service = \"more\" }}\n"
    ))
}

fn more(world: &mut World, addresses: &[&str]) {
    world.apply(Event::Consul(Observation::Instances {
        watch: ConsulService {
            service: "more".into(),
            ..watch()
        },
        instances: passing(addresses),
    }));
}

#[test]
fn a_loss_over_all_services_brings_back_those_that_were_believed() {
    let mut world = with_two_services();
    world.answer(passing(&TEN[..4]));
    more(&mut world, &TEN);
    world.answer(passing(&TEN[..3]));
    assert_eq!(world.servers(), TEN[..3], "one of four is believed");
    more(&mut world, &TEN[..2]);
    assert_eq!(world.fit(), TEN[..4], "nine of fourteen are not");
    assert_eq!(doubt(&mut world, TEN[3]), Some("many_lost_pod_wide"));
    assert!(world.mistakes().contains_key("consul"));
    more(&mut world, &TEN);
    assert!(!world.mistakes().contains_key("consul"));
}

#[test]
fn while_the_pods_id_is_missing_every_loss_is_doubted() {
    let mut world = World::with_consul("");
    world.documents(Subtree::Pod, &[("", "an-id", 1)]);
    world.answer(passing(&TEN)).answer(passing(&TEN[..9]));
    assert_eq!(world.servers().len(), 9);
    world.documents(Subtree::Pod, &[]);
    assert_eq!(world.servers().len(), 10, "that one, too");
    assert_eq!(doubt(&mut world, TEN[9]), Some("consul_state_lost"));
    world.answer(passing(&TEN[..8]));
    assert_eq!(world.fit(), sorted(&TEN));
}
