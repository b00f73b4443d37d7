//! Plans: what staged documents would change, found beside the live model and without touching it.

use super::*;
use crate::certs::CertStore;
use crate::control::staged::live::Live;
use crate::control::staged::plan::plan;
use crate::routing::staged::{Change, Kind, Plan, Staged, Traffic};

const SHOP: &str = "servers = [\"10.0.0.1:80\", \"10.0.0.2:80\"]";
const BLOG: &str = "servers = [\"10.0.0.3:80\"]";
const ACME: &str = "[acme]\ndirectory = \"https://ca.test/dir\"\nkey_file = \"/k\"\n";

fn document(path: &str, value: &str, index: u64) -> Document {
    Document {
        name: path.to_owned(),
        value: value.as_bytes().into(),
        create_index: index,
        modify_index: index,
        is_locked: false,
    }
}

fn route(host: &str, service: &str) -> String {
    format!("host = \"{host}\"\nservice = \"{service}\"")
}

/// `shop` at `a.test` is there, in KV alone.
fn live() -> Live {
    Live::of(vec![
        document("services/shop", SHOP, 1),
        document("routes/a", &route("a.test", "shop"), 2),
    ])
}

fn planned(world: &World, live: &Live, kinds: &[Kind], documents: &[(&str, &str)]) -> Plan {
    let documents = documents.iter();
    let staged = Staged {
        kinds: kinds.iter().copied().collect(),
        documents: documents
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect(),
    };
    let served = CertStore::builder().build(world.now);
    plan(&world.model.rehearsal(), live, &staged, &served, world.now)
}

fn routes(plan: &Plan) -> Vec<(&str, Change)> {
    let routes = plan.routes.iter();
    routes.map(|route| (&*route.host, route.change)).collect()
}

fn servers(plan: &Plan) -> Vec<(&str, Traffic)> {
    let servers = plan.servers.iter();
    servers.map(|one| (&*one.server, one.traffic)).collect()
}

#[test]
fn a_plan_while_documents_are_held_says_that_none_comes_into_force() {
    let mut world = World::of(CONSUL);
    world.documents(Subtree::Pod, &[("", "id", 1)]);
    let new = [("routes/b", &*route("b.test", "shop"))];
    assert!(
        planned(&world, &live(), &[Kind::Routes], &new)
            .warnings
            .is_empty()
    );
    world.documents(Subtree::Pod, &[]);
    let plan = planned(&world, &live(), &[Kind::Routes], &new);
    let told = &plan.warnings[0];
    assert!(
        told.starts_with("documents are held: the pod's id is missing where it was"),
        "{told}"
    );
    assert_eq!(plan.documents.len(), 2);
}

#[test]
fn a_plan_tells_whose_destination_changes_and_which_servers_gain_and_lose() {
    let world = World::of(CONSUL);
    let moved = route("a.test", "blog");
    let documents = [
        ("services/shop", SHOP),
        ("services/blog", BLOG),
        ("routes/a", &moved),
        ("routes/b", &route("b.test", "shop")),
    ];
    let plan = planned(&world, &live(), &[Kind::Services, Kind::Routes], &documents);
    assert_eq!(
        routes(&plan),
        [("a.test", Change::Changed), ("b.test", Change::Added)]
    );
    assert_eq!(plan.services[0].name, "blog");
    assert_eq!(
        servers(&plan),
        [
            ("blog/10.0.0.3:80", Traffic::Gains),
            ("shop/10.0.0.1:80", Traffic::Gains),
            ("shop/10.0.0.1:80", Traffic::Loses),
            ("shop/10.0.0.2:80", Traffic::Gains),
            ("shop/10.0.0.2:80", Traffic::Loses),
        ]
    );
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    assert_eq!(plan.basis.len(), 2);
    assert!(
        world.model.services().is_empty(),
        "the live one knows nothing of it"
    );
}

#[test]
fn the_same_documents_are_no_change_and_other_words_of_the_same_move_nobody() {
    let world = World::of(CONSUL);
    let same = [
        ("services/shop", SHOP),
        ("routes/a", &*route("a.test", "shop")),
    ];
    let kinds = [Kind::Services, Kind::Routes];
    let plan = planned(&world, &live(), &kinds, &same);
    assert!(plan.documents.is_empty() && plan.services.is_empty());
    let worded = format!("# why\n{SHOP}");
    let reworded = [("services/shop", &*worded), same[1]];
    let plan = planned(&world, &live(), &kinds, &reworded);
    assert_eq!(plan.documents.len(), 1);
    assert!(plan.services.is_empty() && plan.servers.is_empty());
}

#[test]
fn servers_that_come_go_and_weigh_more_are_told_by_name() {
    let world = World::of(CONSUL);
    let other = "servers = [{ address = \"10.0.0.1:80\", weight = 3 }, \"10.0.0.9:80\"]";
    let documents = [("services/shop", other)];
    let plan = planned(&world, &live(), &[Kind::Services], &documents);
    assert_eq!(
        servers(&plan),
        [
            ("shop/10.0.0.1:80", Traffic::Gains),
            ("shop/10.0.0.2:80", Traffic::Loses),
            ("shop/10.0.0.9:80", Traffic::Gains),
        ]
    );
    assert_eq!(plan.servers[0].why, "weight 3 instead of 1");
    assert!(plan.routes.is_empty());
}

#[test]
fn hosts_that_nobody_serves_shadowed_paths_and_services_unknown_to_consul_are_warned_of() {
    let mut world = World::of(&format!(
        "{CONSUL}[[service]]\nname = \"own\"\nservers = [\"10.9.9.9:80\"]\n[[route]]\nhost = \"own.test\"\nservice = \"own\"\n"
    ));
    world.apply(Event::Consul(Observation::Instances {
        watch: watch(),
        instances: vec![],
    }));
    let documents = [
        ("services/shop", SHOP),
        ("services/lost", "consul = { service = \"app\" }"),
        ("services/own", BLOG),
        ("routes/a", &*route("a.test", "shop")),
        ("routes/gone", &route("gone.test", "nowhere")),
        ("routes/own", &route("own.test", "shop")),
        ("routes/twin", &route("a.test", "lost")),
        ("routes/lost", &route("lost.test", "lost")),
    ];
    let plan = planned(&world, &live(), &[Kind::Services, Kind::Routes], &documents);
    for words in [
        "routes/gone: there is no service nowhere",
        "routes/own: own.test/ is taken by file:route",
        "routes/twin: a.test/ is taken by routes/a",
        "services/own: the file has a service of this name, and wins",
        "consul:app: consul names no instance",
        "nobody would serve lost.test/: service lost has no server",
    ] {
        let is_said = plan.warnings.iter().any(|warning| warning.contains(words));
        assert!(is_said, "{words}: {:#?}", plan.warnings);
    }
    assert!(
        !plan
            .warnings
            .iter()
            .any(|warning| warning.contains("rota/p"))
    );
}

#[test]
fn a_service_that_consul_was_not_asked_about_is_said_to_be_unknown() {
    let world = World::of(CONSUL);
    let documents = [("services/new", "consul = { service = \"app\" }")];
    let plan = planned(&world, &Live::default(), &[Kind::Services], &documents);
    assert_eq!(
        plan.warnings,
        ["services/new: consul has not said which servers it has"]
    );
}

#[test]
fn the_last_document_of_a_kind_is_said_to_stay_in_force() {
    let world = World::of(CONSUL);
    let plan = planned(&world, &live(), &[Kind::Routes], &[]);
    assert_eq!(plan.documents[0].change, Change::Removed);
    assert!(plan.routes.is_empty(), "it is doubted");
    assert_eq!(
        plan.warnings,
        ["kv:rota/p/config/routes: it is empty where documents were; rota accept documents takes it as it is (in force: last good version)"
            .replace("kv:rota/p/config/", "")]
    );
}

#[test]
fn names_that_certificates_would_be_ordered_for_are_told_and_those_that_no_route_knows() {
    let world = World::of(&format!("{CONSUL}{ACME}"));
    let documents = [
        ("routes/a", &*route("a.test", "shop")),
        ("routes/new", &route("new.test", "shop")),
        ("domains/c.test", r#"{"service": "shop"}"#),
        ("domains/d.test", "{}"),
    ];
    let plan = planned(&world, &live(), &[Kind::Routes, Kind::Domains], &documents);
    assert_eq!(plan.certificates, ["c.test", "d.test", "new.test"]);
    let is_warned = |words: &str| plan.warnings.iter().any(|w| w.starts_with(words));
    assert!(
        is_warned("domains/d.test: no route serves d.test"),
        "{:?}",
        plan.warnings
    );
    assert!(!is_warned("domains/c.test"));
}
