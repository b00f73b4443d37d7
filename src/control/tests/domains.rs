//! Domains in KV: routes of their own, and names that may have a certificate.

use super::*;
use crate::control::acme::KvNames;

const ACME: &str = "[acme]\ndirectory = \"https://ca.test/dir\"\nkey_file = \"/fleet.key\"\n";

/// A service `shop` beside the `app` that the file's routes go to.
fn world(rest: &str) -> World {
    let text = format!("[[service]]\nname = \"shop\"\nservers = [\"10.0.0.7:80\"]\n{ACME}{rest}");
    World::with_consul(&text)
}

fn service_of(world: &mut World, host: &str) -> String {
    let table = world.build();
    let route = table.routes.find(host, "/").unwrap();
    route.service.name.to_string()
}

fn names(world: &World) -> Vec<String> {
    world
        .model
        .kv_names()
        .iter()
        .map(ToString::to_string)
        .collect()
}

const SHOP: &str = "service = \"shop\"";

#[test]
fn a_domain_with_a_service_is_a_route_for_its_host_and_one_without_is_none() {
    let mut world = world("");
    let domains = [("a.test", SHOP, 1), ("b.test", "{}", 2)];
    world.documents(Subtree::Domains, &domains);
    assert_eq!(service_of(&mut world, "a.test"), "shop");
    assert_eq!(
        service_of(&mut world, "b.test"),
        "app",
        "by the route of all hosts"
    );
    assert_eq!(names(&world), ["a.test", "b.test"]);
    assert!(world.mistakes().is_empty());
}

#[test]
fn a_route_for_its_host_wins_over_a_domain_however_old_and_the_domain_is_named() {
    let mut world = world("[[route]]\nhost = \"file.test\"\nservice = \"app\"\n");
    let domains = [
        ("file.test", SHOP, 1),
        ("kv.test", SHOP, 2),
        ("deep.test", SHOP, 3),
    ];
    world.documents(Subtree::Domains, &domains);
    let routes = [
        ("one", "host = \"kv.test\"\nservice = \"app\"", 8),
        (
            "two",
            "host = \"deep.test\"\npath = \"/api\"\nservice = \"app\"",
            9,
        ),
    ];
    world.documents(Subtree::Routes, &routes);
    assert_eq!(service_of(&mut world, "file.test"), "app");
    assert_eq!(service_of(&mut world, "kv.test"), "app");
    assert_eq!(
        service_of(&mut world, "deep.test"),
        "shop",
        "another path is no conflict"
    );
    let mistakes = world.mistakes();
    assert_eq!(
        mistakes["kv:rota/p/config/domains/file.test"],
        "file.test/ is taken by file:route file.test/ (ignored)"
    );
    assert_eq!(
        mistakes["kv:rota/p/config/domains/kv.test"],
        "kv.test/ is taken by kv:rota/p/config/routes/one (ignored)"
    );
    assert_eq!(mistakes.len(), 2);
    assert_eq!(
        names(&world),
        ["deep.test", "file.test", "kv.test"],
        "they may have certificates all the same"
    );
}

#[test]
fn a_wildcard_takes_a_program_that_proves_it() {
    let wildcards = [("_wildcard.a.test", SHOP, 1), ("*.b.test", "", 2)];
    let mut without = world("");
    without.documents(Subtree::Domains, &wildcards);
    assert!(names(&without).is_empty());
    assert_eq!(service_of(&mut without, "x.a.test"), "app");
    let mistakes = without.mistakes();
    assert!(mistakes["kv:rota/p/config/domains/_wildcard.a.test"].contains("acme.dns_hook"));
    assert_eq!(mistakes.len(), 2);
    let hook = "key_file = \"/fleet.key\"\ndns_hook = [\"/usr/bin/hook\"]\n";
    let text = format!(
        "[[service]]\nname = \"shop\"\nservers = [\"10.0.0.7:80\"]\n{}",
        ACME.replace("key_file = \"/fleet.key\"\n", hook)
    );
    let mut with = World::with_consul(&text);
    with.documents(Subtree::Domains, &wildcards);
    assert_eq!(names(&with), ["*.a.test", "*.b.test"]);
    assert_eq!(service_of(&mut with, "x.a.test"), "shop");
    assert!(with.mistakes().is_empty());
}

#[test]
fn of_two_documents_for_one_domain_the_older_wins_and_the_files_over_both() {
    let mut world = world("[[domain]]\nname = \"own.test\"\nservice = \"app\"\n");
    let domains = [
        ("Twice.test", SHOP, 1),
        ("own.test", SHOP, 2),
        ("twice.test", "service = \"app\"", 3),
    ];
    world.documents(Subtree::Domains, &domains);
    assert_eq!(service_of(&mut world, "twice.test"), "shop");
    assert_eq!(service_of(&mut world, "own.test"), "app");
    let mistakes = world.mistakes();
    assert_eq!(
        mistakes["kv:rota/p/config/domains/twice.test"],
        "twice.test is taken by kv:rota/p/config/domains/Twice.test (ignored)"
    );
    assert_eq!(
        mistakes["kv:rota/p/config/domains/own.test"],
        "the file has this domain, and wins (ignored)"
    );
    assert_eq!(mistakes.len(), 2);
}

#[test]
fn a_wrong_domain_leaves_its_last_good_version_in_force_and_hurts_no_other() {
    let mut world = world("");
    world.documents(
        Subtree::Domains,
        &[("a.test", SHOP, 1), ("b.test", SHOP, 2)],
    );
    let wrong = ("a.test", "servise = \"shop\"", 1);
    let lost = ("lost.test", "service = \"nowhere\"", 4);
    let none = ("localhost", "", 3);
    world.documents(Subtree::Domains, &[wrong, ("b.test", SHOP, 2), none, lost]);
    for host in ["a.test", "b.test"] {
        assert_eq!(service_of(&mut world, host), "shop");
    }
    assert_eq!(names(&world), ["a.test", "b.test", "lost.test"]);
    let mistakes = world.mistakes();
    let told = |name: &str| &mistakes[&format!("kv:rota/p/config/domains/{name}")];
    assert!(
        told("a.test").contains("nearest: \"service\"")
            && told("a.test").ends_with("(last good version)")
    );
    assert!(told("localhost").ends_with("(ignored)"));
    assert!(told("lost.test").contains("no service nowhere"));
    assert_eq!(mistakes.len(), 3);
}

#[test]
fn what_is_known_of_names_grows_until_kv_has_said_all_and_loses_none_to_doubt() {
    let mut world = world("[[route]]\nhost = \"file.test\"\nservice = \"app\"\n");
    let is_whole = |world: &World| world.model.kv_names().is_whole();
    assert_eq!((names(&world), is_whole(&world)), (vec![], false));
    let all = ("all", "host = \"*.wild.test\"\nservice = \"app\"", 1);
    let address = ("ip", "host = \"10.0.0.1\"\nservice = \"app\"", 2);
    let route = (
        "r",
        "host = \"R.test\"\npath = \"/x\"\nservice = \"app\"",
        3,
    );
    world.documents(Subtree::Routes, &[all, address, route]);
    assert_eq!(
        (names(&world), is_whole(&world)),
        (vec!["r.test".into()], false)
    );
    world.documents(Subtree::Domains, &[("a.test", "", 4), ("b.test", "", 5)]);
    assert_eq!(names(&world), ["a.test", "b.test", "r.test"]);
    assert!(is_whole(&world));
    world.documents(Subtree::Domains, &[]);
    assert_eq!(names(&world).len(), 3, "all at once: doubted");
    world
        .documents(Subtree::Pod, &[("", "an-id", 1)])
        .documents(Subtree::Pod, &[]);
    world.documents(Subtree::Domains, &[("b.test", "", 5)]);
    assert_eq!(names(&world).len(), 3, "without the pod's id: held");
    world.documents(Subtree::Pod, &[("", "an-id", 9)]);
    assert_eq!(names(&world), ["b.test", "r.test"]);
}

#[test]
fn names_are_the_same_value_while_no_host_and_no_domain_changes() {
    let mut world = world("");
    world.documents(Subtree::Domains, &[("a.test", "", 1)]);
    let before = world.model.kv_names().clone();
    world.documents(Subtree::Domains, &[("a.test", SHOP, 1)]);
    world.documents(Subtree::Tuning, &[("", "[retry]\nattempts = 5", 1)]);
    world.answer(passing(&["10.0.0.1:80"]));
    assert!(Arc::ptr_eq(&before, world.model.kv_names()));
    let routes = [("r", "host = \"a.test\"\nservice = \"app\"", 2)];
    world.documents(Subtree::Routes, &routes);
    let after = world.model.kv_names();
    assert!(!Arc::ptr_eq(&before, after) && after.is_whole());
}

#[test]
fn hosts_in_the_tags_of_consuls_instances_are_no_names() {
    let mut world = world("");
    world.documents(Subtree::Domains, &[("a.test", "", 1)]);
    let tags = vec!["rota.host=tag.test".into(), "urlprefix-tag.test/".into()];
    let tagged = Instance {
        tags,
        ..instance("10.0.0.1:80", CheckStatus::Passing)
    };
    world.answer(vec![tagged]);
    assert_eq!(names(&world), ["a.test"]);
}

#[test]
fn without_acme_no_names_are_kept_and_domains_are_named_once() {
    let mut world = World::with_consul("");
    world.documents(
        Subtree::Domains,
        &[("a.test", "service = \"app\"", 1), ("b.test", "", 2)],
    );
    assert_eq!(**world.model.kv_names(), KvNames::default());
    assert_eq!(service_of(&mut world, "a.test"), "app");
    let mistakes = world.mistakes();
    assert!(mistakes["kv:rota/p/config/domains"].contains("no [acme] table"));
    assert_eq!(mistakes.len(), 1);
}
