//! Entries from the file and KV: who wins, what a wrong one does, what is doubted.

use super::*;

const ROUTE: &str = "host = \"a.example\"\nservice = \"app\"";

fn found(world: &mut World, host: &str) -> Option<String> {
    let table = world.build();
    let route = table.routes.find(host, "/").ok()?;
    Some(route.service.name.to_string())
}

#[test]
fn a_wrong_document_leaves_its_last_good_version_in_force_and_hurts_no_other() {
    let mut world = World::with_consul("");
    let other = ("b", "host = \"b.example\"\nservice = \"app\"", 2);
    world.documents(Subtree::Routes, &[("a", ROUTE, 1), other]);
    assert_eq!(found(&mut world, "a.example").as_deref(), Some("app"));
    let wrong = ("a", "host = 7", 1);
    world.documents(Subtree::Routes, &[wrong, other, ("c", "nonsense", 3)]);
    let mistakes = world.mistakes();
    assert!(mistakes["kv:rota/p/config/routes/a"].ends_with("(last good version)"));
    assert!(mistakes["kv:rota/p/config/routes/c"].ends_with("(ignored)"));
    assert_eq!(found(&mut world, "a.example").as_deref(), Some("app"));
    assert_eq!(found(&mut world, "b.example").as_deref(), Some("app"));
    let since = world.build().mistakes[0].since;
    world.wait(seconds(100));
    assert_eq!(world.build().mistakes[0].since, since);
    world.documents(Subtree::Routes, &[("a", ROUTE, 1), other]);
    assert!(world.mistakes().is_empty());
}

#[test]
fn the_lower_create_index_wins_a_host_and_the_loser_is_named() {
    let mut world = World::with_consul("");
    world.documents(
        Subtree::Services,
        &[("late", "servers = [\"10.0.0.9:80\"]", 9)],
    );
    let late = ("a-late", "host = \"a.example\"\nservice = \"late\"", 8);
    world.documents(Subtree::Routes, &[late, ("z-early", ROUTE, 3)]);
    assert_eq!(found(&mut world, "a.example").as_deref(), Some("app"));
    let mistakes = world.mistakes();
    let loser = &mistakes["kv:rota/p/config/routes/a-late"];
    assert!(loser.contains("z-early"), "{loser}");
}

#[test]
fn the_file_wins_over_kv() {
    let mut world = World::with_consul("");
    world.documents(
        Subtree::Services,
        &[("app", "servers = [\"10.0.0.9:80\"]", 1)],
    );
    let any = ("all", "host = \"*\"\nservice = \"app\"", 2);
    world.documents(Subtree::Routes, &[any]);
    assert!(world.servers().is_empty(), "the file's is in force");
    let mistakes = world.mistakes();
    assert!(mistakes.contains_key("kv:rota/p/config/services/app"));
    assert!(mistakes.contains_key("kv:rota/p/config/routes/all"));
}

#[test]
fn a_route_to_an_unknown_service_is_named_and_has_nobody() {
    let mut world = World::with_consul("");
    let lost = ("lost", "host = \"lost.example\"\nservice = \"nowhere\"", 1);
    world.documents(Subtree::Routes, &[lost]);
    let table = world.build();
    let route = table.routes.find("lost.example", "/").unwrap();
    assert!(route.service.members.is_empty());
    assert!(world.mistakes()["kv:rota/p/config/routes/lost"].contains("nowhere"));
}

#[test]
fn what_nobody_reads_is_named_for_as_long_as_it_is_there() {
    let mut world = World::with_consul("");
    let strays = |names: &[&str]| {
        let names = names.iter().map(ToString::to_string).collect();
        Event::Consul(Observation::Strays(names))
    };
    world.apply(strays(&["service/", "tunign"]));
    let mistakes = world.mistakes();
    assert!(mistakes["kv:rota/p/config/service"].contains("known are services/NAME"));
    assert!(mistakes["kv:rota/p/config/tunign"].ends_with("(ignored)"));
    world.apply(strays(&[]));
    assert!(world.mistakes().is_empty());
}

#[test]
fn a_subtree_that_becomes_empty_is_doubted_as_a_whole() {
    let mut world = World::with_consul("");
    world.documents(Subtree::Routes, &[("a", ROUTE, 1)]);
    world.documents(Subtree::Routes, &[]);
    assert_eq!(found(&mut world, "a.example").as_deref(), Some("app"));
    assert!(world.mistakes()["kv:rota/p/config/routes"].contains("empty"));
    let other = ("b", "host = \"b.example\"\nservice = \"app\"", 2);
    world.documents(Subtree::Routes, &[other]);
    assert!(world.mistakes().is_empty());
    assert_ne!(
        world.build().routes.find("a.example", "/").unwrap().host,
        crate::routing::HostPattern::parse("a.example").unwrap()
    );
}

#[test]
fn tuning_in_kv_takes_effect_and_a_wrong_one_changes_nothing() {
    let mut world = World::with_consul("");
    world.documents(Subtree::Tuning, &[("", "[limits]\nconnections = 77", 1)]);
    assert_eq!(world.build().limits.connections, 77);
    world.documents(
        Subtree::Tuning,
        &[("", "[limits]\nconnections = \"many\"", 1)],
    );
    assert_eq!(world.build().limits.connections, 77);
    assert!(world.mistakes()["kv:rota/p/config/tuning"].ends_with("(last good version)"));
    world.documents(Subtree::Tuning, &[("", "[retry]\nattempts = 5", 1)]);
    assert_eq!(world.service("app").retry.attempts, 5);
}

#[test]
fn readiness_says_what_is_missing_and_never_goes_back() {
    let mut world = World::with_consul("");
    assert_eq!(world.build().missing.len(), 7);
    for subtree in [
        Subtree::Services,
        Subtree::Routes,
        Subtree::Domains,
        Subtree::Tuning,
        Subtree::OperatorDrain,
        Subtree::Pod,
    ] {
        world.documents(subtree, &[]);
    }
    assert_eq!(world.build().missing, ["consul:app: not read yet"]);
    world.apply(Event::Consul(Observation::Failing {
        watch: "consul:app".into(),
        error: "refused".into(),
        blame: crate::control::consul::Blame::Agent,
    }));
    assert_eq!(world.build().missing[1], "consul:app: refused");
    world.answer(vec![]);
    assert!(world.build().missing.is_empty());
    let more = ("more", "consul = { service = \"more\" }", 2);
    world.documents(Subtree::Services, &[more]);
    assert!(world.build().missing.is_empty());
}

#[test]
fn a_datacenter_that_fails_does_not_hold_readiness_once_consul_answers() {
    let mut world = World::with_consul("");
    let elsewhere = "consul = { service = \"far\", datacenter = \"dc9\" }";
    world.documents(Subtree::Services, &[("far", elsewhere, 1)]);
    world.apply(Event::Consul(Observation::Failing {
        watch: "service far in dc9".into(),
        error: "no path to datacenter".into(),
        blame: crate::control::consul::Blame::Servers,
    }));
    assert!(
        world
            .build()
            .missing
            .iter()
            .any(|what| what == "consul:far: not read yet")
    );
    for subtree in [
        Subtree::Routes,
        Subtree::Domains,
        Subtree::Tuning,
        Subtree::OperatorDrain,
        Subtree::Pod,
    ] {
        world.documents(subtree, &[]);
    }
    assert_eq!(world.build().missing[0], "consul:app: not read yet");
    world.answer(vec![]);
    assert!(world.build().missing.is_empty());
}

#[test]
fn a_name_is_a_server_for_each_of_its_addresses_and_failure_keeps_the_last_answer() {
    let mut world = World::of(
        "[[service]]\nname = \"app\"\nservers = [\"app.internal:80\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
    );
    assert_eq!(
        world.build().missing,
        ["dns:app.internal: not resolved yet"]
    );
    let resolved = |answer| Event::Resolved {
        name: "app.internal".into(),
        answer,
    };
    let addresses = ["10.0.0.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    world.apply(resolved(Ok(addresses.into())));
    let both = ["app.internal@10.0.0.1:80", "app.internal@[2001:db8::1]:80"];
    assert_eq!(world.servers(), both);
    assert!(world.build().missing.is_empty());
    world.apply(resolved(Err("no answer".into())));
    assert_eq!(world.servers(), both);
    assert!(world.mistakes()["dns:app.internal"].starts_with("no answer"));
    world.apply(resolved(Ok(addresses[..1].into())));
    assert_eq!(world.servers(), both[..1]);
    assert!(world.mistakes().is_empty());
}

#[test]
fn a_reload_shares_what_did_not_change_and_an_upstream_keeps_its_identity() {
    let text = |weight: u32| {
        format!(
            "[[service]]\nname = \"app\"\nservers = [\"10.0.0.1:80\", {{ address = \"10.0.0.2:80\", weight = {weight} }}]\n\
             [[service]]\nname = \"other\"\nservers = [\"10.0.0.3:80\"]\n\
             [[route]]\nhost = \"a.example\"\nservice = \"app\"\n[[route]]\nhost = \"b.example\"\nservice = \"other\"\n"
        )
    };
    let mut world = World::of(&text(1));
    let before = world.build();
    world.apply(Event::File(file(&text(3))));
    let after = world.build();
    let pair = |name: &str| (before.services[name].clone(), after.services[name].clone());
    let (old, new) = pair("other");
    assert!(Arc::ptr_eq(&old, &new));
    let (old, new) = pair("app");
    assert_eq!(new.members[1].weight, 3);
    for (old, new) in old.members.iter().zip(&new.members) {
        assert!(Arc::ptr_eq(&old.upstream, &new.upstream));
    }
    assert!(Arc::ptr_eq(&old.measured, &new.measured));
    let route = |table: &Snapshot, host| table.routes.find(host, "/").unwrap().clone();
    assert!(Arc::ptr_eq(
        &route(&before, "b.example"),
        &route(&after, "b.example")
    ));
    assert_eq!(
        route(&before, "a.example").number,
        route(&after, "a.example").number
    );
}

#[test]
fn a_server_that_left_the_file_is_marked_as_gone() {
    let text = |servers: &str| {
        format!(
            "[[service]]\nname = \"app\"\nservers = {servers}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
        )
    };
    let mut world = World::of(&text("[\"10.0.0.1:80\", \"10.0.0.2:80\"]"));
    let left = world.service("app").members[1].upstream.clone();
    world.apply(Event::File(file(&text("[\"10.0.0.1:80\"]"))));
    assert_eq!(world.servers(), ["10.0.0.1:80"]);
    assert!(left.has(Unfit::Gone));
}

#[test]
fn a_server_that_leaves_is_marked_once_the_table_without_it_is_out() {
    let text = |server: &str| {
        format!(
            "[[service]]\nname = \"app\"\nservers = [\"{server}\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
        )
    };
    let mut world = World::of(&text("10.0.0.1:80"));
    let before = world.service("app");
    let left = before.members[0].upstream.clone();
    world.apply(Event::File(file(&text("10.0.0.2:80"))));
    drop(world.assembly.build(&world.model, world.now));
    assert!(
        !left.has(Unfit::Gone),
        "requests still go by the table before"
    );
    world.assembly.mark_gone();
    assert!(left.has(Unfit::Gone));
    let picked = |tried: &[u64]| before.pick(crate::routing::WorkerId(0), 1, tried);
    assert_eq!(picked(&[]), Some(0), "who looked at that table goes by it");
    assert_eq!(picked(&[left.number()]), None);
}

#[test]
fn a_listener_of_rotas_own_is_never_a_server() {
    let mut world = World::of(
        "[[service]]\nname = \"app\"\nservers = [\"127.0.0.1:8080\", \"127.0.0.1:9\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
    );
    assert_eq!(world.servers(), ["127.0.0.1:9"]);
    assert!(world.mistakes()["file:service app/127.0.0.1:8080"].contains("own"));
}

#[test]
fn servers_that_a_document_lists_are_bound_by_allow_upstreams_as_consuls_own() {
    let mut world = World::with_consul("");
    let listed = "servers = [\"127.0.0.1:9\", \"169.254.169.254:80\", \"10.0.0.9:80\"]";
    world.documents(Subtree::Services, &[("more", listed, 1)]);
    assert_eq!(world.service("more").members.len(), 1);
    let mistakes = world.mistakes();
    assert!(mistakes["kv:service more/127.0.0.1:9"].contains("allow_upstreams"));
    assert!(mistakes["kv:service more/169.254.169.254:80"].contains("link-local"));
}

#[test]
fn a_service_of_which_consul_never_named_an_instance_is_a_mistake_until_it_does() {
    let mut world = World::with_consul("");
    assert!(world.mistakes().is_empty(), "not heard of yet");
    world.answer(vec![]);
    assert_eq!(
        world.mistakes()["consul:app"],
        "consul names no instance: is the name right, and may the token read the service? (503)"
    );
    world.answer(passing(&["10.0.0.1:80"]));
    assert!(world.mistakes().is_empty());
    world.answer(vec![]);
    let doubt = &world.mistakes()["consul:app"];
    assert!(
        doubt.ends_with("rota accept app lets them go (last good version)"),
        "the guard's: {doubt}"
    );
}

#[test]
fn a_tag_that_no_instance_has_is_named_in_the_mistake() {
    let mut world = World::of(&format!(
        "{CONSUL}[[service]]\nname = \"app\"\nconsul = {{ service = \"app\", tag = \"blue\" }}\n"
    ));
    world.apply(Event::Consul(Observation::Instances {
        watch: ConsulService {
            tag: Some("blue".into()),
            ..watch()
        },
        instances: vec![],
    }));
    assert!(world.mistakes()["consul:app"].starts_with("consul names no instance with tag blue: "));
}

#[test]
fn what_a_watch_said_is_not_forgotten_while_the_watch_goes_on() {
    let mut world = World::with_consul("");
    let more = ("more", "consul = { service = \"more\" }", 2);
    let routes = ("r", "host = \"r.example\"\nservice = \"more\"", 3);
    world.documents(
        Subtree::Services,
        &[more, ("other", "servers = [\"10.0.0.9:80\"]", 4)],
    );
    world.documents(Subtree::Routes, &[routes]);
    let watch = ConsulService {
        service: "more".into(),
        ..watch()
    };
    world.apply(Event::Consul(Observation::Instances {
        watch,
        instances: passing(&["10.0.0.1:80"]),
    }));
    let other = ("other", "servers = [\"10.0.0.9:80\"]", 4);
    world.documents(Subtree::Services, &[other]);
    world.documents(Subtree::Services, &[more, other]);
    assert_eq!(world.service("more").members.len(), 1);
}

#[test]
fn a_new_name_for_an_ejected_server_leaves_it_ejected() {
    let text = |server: &str| {
        format!(
            "[[service]]\nname = \"app\"\nservers = [\"{server}\", \"10.0.0.2:80\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
        )
    };
    let mut world = World::of(&text("10.0.0.1:80"));
    world.eject("10.0.0.1:80", Unfit::Refused);
    let old = world.service("app").members[0].upstream.clone();
    world.apply(Event::Resolved {
        name: "app.internal".into(),
        answer: Ok(vec!["10.0.0.1".parse().unwrap()]),
    });
    world.apply(Event::File(file(&text("app.internal:80"))));
    assert_eq!(world.servers()[0], "app.internal@10.0.0.1:80");
    assert_eq!(world.fit(), ["10.0.0.2:80"]);
    assert!(old.has(Unfit::Gone));
}
