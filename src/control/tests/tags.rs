//! Routes in tags: what the decision core makes of them, and for how long.

use super::*;
use crate::routing::Verdict;
use proptest::prelude::*;

const TAGGED: &str = "tags = \"rota\"\ntag_hosts = [\"*\"]\n";
const ACME: &str = "[acme]\ndirectory = \"https://ca.test/dir\"\nkey_file = \"k\"\n";

fn world(rest: &str) -> World {
    World::of(&format!("{CONSUL}{TAGGED}{rest}"))
}

fn watch_of(service: &str) -> ConsulService {
    ConsulService {
        service: service.into(),
        tag: None,
        datacenter: None,
    }
}

impl World {
    fn catalogue(&mut self, services: &[&str]) -> &mut Self {
        let services = services.iter().map(|name| (*name).to_owned()).collect();
        let beyond = 0;
        self.apply(Event::Consul(Observation::Tagged { services, beyond }));
        self.wait(Duration::from_millis(100))
    }

    fn says(&mut self, service: &str, instances: Vec<Instance>) -> &mut Self {
        self.apply(Event::Consul(Observation::Instances {
            watch: watch_of(service),
            instances,
        }));
        self.wait(Duration::from_millis(100))
    }

    /// `host/path service`, sorted.
    fn routes(&mut self) -> Vec<String> {
        let snapshot = self.build();
        let line = |route: &Arc<crate::routing::Route>| {
            format!("{}{} {}", route.host, route.path, route.service.name)
        };
        let mut lines: Vec<String> = snapshot.routes.routes().map(line).collect();
        lines.sort();
        lines
    }
}

fn tagged(address: &str, created: u64, tags: &[&str]) -> Instance {
    Instance {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        create_index: created,
        ..instance(address, CheckStatus::Passing)
    }
}

#[test]
fn services_with_tags_are_watched_routed_and_dropped_when_their_tags_are() {
    let mut world = world("");
    world.catalogue(&["shop"]);
    assert!(world.model.watches().contains(&watch_of("shop")));
    world.says(
        "shop",
        vec![tagged(
            "10.0.0.1:80",
            1,
            &["rota.host=a.test", "rota.weight=7"],
        )],
    );
    assert_eq!(world.routes(), ["a.test/ shop"]);
    assert_eq!(world.service("shop").members[0].weight, 7);
    world.says(
        "shop",
        vec![tagged("10.0.0.1:80", 1, &["rota.host=b.test", "v2"])],
    );
    assert_eq!(world.routes(), ["b.test/ shop"]);
    world.says("shop", vec![tagged("10.0.0.1:80", 1, &["v2"])]);
    assert!(world.routes().is_empty());
    world.catalogue(&[]);
    assert!(world.model.watches().is_empty());
}

#[test]
fn without_the_switch_tags_are_words() {
    let mut world = World::with_consul("");
    world.answer(vec![tagged(
        "10.0.0.1:80",
        1,
        &["rota.host=a.test", "rota.weight=7", "rota.x"],
    )]);
    assert_eq!(world.routes(), ["*/ app"]);
    assert_eq!(world.service("app").members[0].weight, 1);
    assert!(world.mistakes().is_empty());
}

#[test]
fn a_route_stays_while_its_vanished_servers_are_well_and_goes_with_the_last_of_them() {
    let mut world = world("");
    let one = tagged("10.0.0.1:80", 1, &["rota.host=a.test"]);
    world.catalogue(&["shop"]).says("shop", vec![one.clone()]);
    world.says("shop", vec![]).catalogue(&[]);
    world.wait(seconds(3600));
    assert_eq!(world.routes(), ["a.test/ shop"]);
    let doubted = world.service("shop").members[0].standing.clone();
    assert!(doubted.doubt.is_some() && doubted.consul.verdict == Verdict::Fit);
    let key = UpstreamKey {
        service: "shop".into(),
        address: "10.0.0.1:80".parse().unwrap(),
    };
    for _ in 0..2 {
        let result = Err("refused".to_owned());
        world.apply(Event::Probed {
            key: key.clone(),
            result,
        });
    }
    assert!(world.routes().is_empty());
    assert!(world.model.services().is_empty() && world.model.watches().is_empty());
    // And it comes back.
    world.catalogue(&["shop"]).says("shop", vec![one]);
    assert_eq!(world.routes(), ["a.test/ shop"]);
}

#[test]
fn the_file_wins_over_kv_kv_over_tags_and_of_tags_the_oldest_then_the_first_name() {
    let fixed = "[[service]]\nname = \"fixed\"\nservers = [\"10.0.0.9:80\"]\n[[route]]\nhost = \"a.test\"\nservice = \"fixed\"\n";
    let mut world = world(fixed);
    world.documents(
        Subtree::Routes,
        &[("b", "host = \"b.test\"\nservice = \"fixed\"", 1)],
    );
    world.catalogue(&["new", "old", "twin"]);
    let all = ["rota.host=a.test", "rota.host=b.test", "rota.host=c.test"];
    world.says("new", vec![tagged("10.0.0.1:80", 9, &all)]);
    world.says(
        "twin",
        vec![tagged("10.0.0.3:80", 5, &["rota.host=c.test"])],
    );
    world.says("old", vec![tagged("10.0.0.2:80", 5, &["rota.host=c.test"])]);
    assert_eq!(
        world.routes(),
        ["a.test/ fixed", "b.test/ fixed", "c.test/ old"]
    );
    let snapshot = world.build();
    let told: Vec<String> = snapshot
        .mistakes
        .iter()
        .map(|mistake| format!("{}: {}", mistake.entry, mistake.message))
        .collect();
    for expected in [
        "consul:new: a.test/ is taken by file:route a.test/",
        "consul:new: b.test/ is taken by kv:rota/p/config/routes/b",
        "consul:new: c.test/ is taken by consul:old",
        "consul:twin: c.test/ is taken by consul:old",
    ] {
        assert!(
            told.iter().any(|line| line == expected),
            "{expected}: {told:?}"
        );
    }
}

#[test]
fn a_document_of_the_same_instances_sets_and_one_with_other_servers_wins() {
    let mut world = world("");
    world.catalogue(&["shop"]);
    world.says(
        "shop",
        vec![tagged("10.0.0.1:80", 1, &["rota.host=a.test"])],
    );
    world.documents(
        Subtree::Services,
        &[("shop", "consul = { service = \"shop\" }\npool = 3", 1)],
    );
    assert_eq!(world.routes(), ["a.test/ shop"]);
    assert_eq!(world.service("shop").pool, 3);
    world.documents(
        Subtree::Services,
        &[("shop", "servers = [\"10.0.0.9:80\"]", 1)],
    );
    assert!(world.routes().is_empty());
    assert!(world.mistakes()["consul:shop"].contains("a document has a service of this name"));
}

#[test]
fn what_is_spoken_follows_fabios_tag() {
    let mut world = World::of(&format!("{CONSUL}tags = \"fabio\"\ntag_hosts = [\"*\"]\n"));
    world.catalogue(&["shop"]);
    world.says(
        "shop",
        vec![tagged("10.0.0.1:80", 1, &["urlprefix-/ proto=grpc"])],
    );
    assert!(matches!(
        world.service("shop").protocol,
        crate::routing::Protocol::H2c
    ));
    let plain = tagged("10.0.0.2:80", 1, &["urlprefix-/"]);
    world.says(
        "shop",
        vec![tagged("10.0.0.1:80", 1, &["urlprefix-/ proto=grpc"]), plain],
    );
    assert!(world.mistakes()["consul:shop"].contains("different protocols"));
}

#[test]
fn a_host_that_only_a_tag_names_never_gets_a_certificate() {
    let mut world = world(ACME);
    world.documents(
        Subtree::Routes,
        &[("k", "host = \"kv.test\"\nservice = \"shop\"", 1)],
    );
    world.catalogue(&["shop"]);
    world.says(
        "shop",
        vec![tagged("10.0.0.1:80", 1, &["rota.host=tag.test"])],
    );
    assert_eq!(world.routes(), ["kv.test/ shop", "tag.test/ shop"]);
    let names = format!("{:?}", world.model.kv_names());
    assert!(
        names.contains("kv.test") && !names.contains("tag.test"),
        "{names}"
    );
}

#[test]
fn the_catalogue_is_read_before_this_load_balancer_is_ready() {
    let mut world = world("");
    let missing = |world: &World| world.model.missing().join("\n");
    assert!(missing(&world).contains("consul:tags: not read yet"));
    world.catalogue(&["a b", "shop"]);
    assert!(missing(&world).contains("consul:shop: not read yet"));
    assert!(world.mistakes()["consul:a b"].contains("name"));
}

#[test]
fn a_service_that_claims_what_others_have_is_told_of_a_few_times_and_counted() {
    let mut world = world("");
    world.catalogue(&["shop", "thief"]);
    let hosts: Vec<String> = (0..30).map(|at| format!("rota.host=h{at}.test")).collect();
    let mut tags: Vec<&str> = hosts.iter().map(String::as_str).collect();
    world.says("shop", vec![tagged("10.0.0.1:80", 1, &tags)]);
    let wrong: Vec<String> = (0..30).map(|at| format!("rota.host=h{at}:80")).collect();
    tags.extend(wrong.iter().map(String::as_str));
    world.says("thief", vec![tagged("10.0.0.2:80", 2, &tags)]);
    assert!(world.routes().iter().all(|route| route.ends_with(" shop")));
    let told = world.build().mistakes;
    let told: Vec<String> = told
        .iter()
        .map(|one| format!("{}: {}", one.entry, one.message))
        .collect();
    assert_eq!(told.len(), 18, "{told:?}");
    for counted in [
        "22 more of its tags could not be taken",
        "22 more of the routes in its tags are taken",
    ] {
        assert!(told.iter().any(|one| one.contains(counted)), "{told:?}");
    }
}

#[test]
fn a_rehearsal_knows_what_tags_ask_for() {
    let mut world = world("");
    world.catalogue(&["shop"]);
    world.says(
        "shop",
        vec![tagged(
            "10.0.0.1:80",
            1,
            &["rota.host=a.test", "rota.host=b.test"],
        )],
    );
    let document = |name: &str, text: &str| Document {
        name: name.into(),
        value: text.as_bytes().into(),
        create_index: 1,
        modify_index: 1,
        is_locked: false,
    };
    let services = vec![document("fixed", "servers = [\"10.0.0.9:80\"]")];
    let routes = vec![document("a", "host = \"a.test\"\nservice = \"fixed\"")];
    let heard = vec![(Subtree::Services, services), (Subtree::Routes, routes)];
    let rehearsal = world.model.rehearsal();
    let routes = |model: &Model| -> Vec<String> {
        let line =
            |route: &Arc<crate::config::RouteEntry>| format!("{} {}", route.host, route.service);
        model.routes().iter().map(line).collect()
    };
    assert_eq!(
        routes(&rehearsal.after(vec![], world.now)),
        ["a.test shop", "b.test shop"]
    );
    assert_eq!(
        routes(&rehearsal.after(heard, world.now)),
        ["a.test fixed", "b.test shop"]
    );
}

#[test]
fn a_thousand_services_that_come_together_are_merged_a_few_times_and_ready_only_then() {
    let mut world = world("");
    world.documents(Subtree::Pod, &[("", "id", 1)]);
    for subtree in Subtree::ALL {
        world.documents(subtree, &[]);
    }
    let names: Vec<String> = (0..1_000).map(|at| format!("s{at}")).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    world.catalogue(&known);
    let begin = std::time::Instant::now();
    for (at, name) in names.iter().enumerate() {
        let hosts: Vec<String> = (0..10)
            .map(|host| format!("rota.host=h{host}.{name}.test"))
            .collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let address = format!("10.0.{}.{}:80", at / 250, at % 250);
        world.apply(Event::Consul(Observation::Instances {
            watch: watch_of(name),
            instances: vec![tagged(&address, 1, &hosts)],
        }));
    }
    assert_eq!(world.model.missing(), ["consul:tags: not read yet"]);
    let revision = world.model.revision();
    world.wait(Duration::from_millis(100));
    assert_eq!(world.routes().len(), 10_000);
    assert!(world.model.missing().is_empty() && world.model.revision() > revision);
    // A merge for each of them would take minutes.
    assert!(begin.elapsed() < seconds(20), "{:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    world.says(
        "s7",
        vec![tagged("10.0.0.7:80", 1, &["rota.host=other.test"])],
    );
    world.build();
    eprintln!("one changed tag: {:?}", begin.elapsed());
    assert_eq!(world.routes().len(), 9_991);
}

/// One thing that Consul may say of a service whose servers are all well, or time that passes.
#[derive(Clone, Debug)]
enum Step {
    Listed,
    Unlisted,
    /// Of three instances.
    Answer([bool; 3]),
    Seconds(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Listed),
        Just(Step::Unlisted),
        any::<[bool; 3]>().prop_map(Step::Answer),
        (1u64..2_000).prop_map(Step::Seconds),
    ]
}

proptest! {
    #[test]
    fn no_silence_of_consuls_takes_a_route_whose_servers_are_well(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = world("");
        world.catalogue(&["shop"]);
        let all = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
        let mut was_there = false;
        for step in steps {
            match step {
                Step::Listed => drop(world.catalogue(&["shop"])),
                Step::Unlisted => drop(world.catalogue(&[])),
                Step::Seconds(count) => drop(world.wait(seconds(count))),
                Step::Answer(which) => {
                    let named = all.iter().zip(which).filter(|(_, is_named)| *is_named);
                    let instances = named.map(|(address, _)| tagged(address, 1, &["rota.host=a.test"]));
                    let instances = instances.collect();
                    // Nobody hears of what nobody watches.
                    if world.model.watches().contains(&watch_of("shop")) {
                        world.says("shop", instances);
                    }
                }
            }
            let is_there = !world.routes().is_empty();
            prop_assert!(is_there || !was_there);
            was_there |= is_there;
        }
    }
}

#[test]
fn what_tags_ask_for_outlives_a_restart_without_consul() {
    let mut before = world("");
    for subtree in Subtree::ALL {
        before.documents(subtree, &[]);
    }
    assert!(
        before.model.kept(before.now).is_none(),
        "the catalogue may have more"
    );
    before.catalogue(&["shop"]);
    let tags = ["rota.host=a.test", "rota.weight=7"];
    before.says("shop", vec![tagged("10.0.0.1:80", 1, &tags)]);
    let kept = before.model.kept(before.now).unwrap();
    let mut after = world("");
    after.apply(Event::Remembered(Box::new(kept.clone())));
    assert_eq!(after.routes(), ["a.test/ shop"]);
    assert_eq!(after.service("shop").members[0].weight, 7);
    assert_eq!(after.model.kept(before.now).unwrap(), kept);
    assert!(!after.model.missing().is_empty());
    after.wait(seconds(1));
    assert_eq!(after.model.missing(), [""; 0]);
    after.says("shop", vec![tagged("10.0.0.1:80", 1, &["v2"])]);
    after.catalogue(&[]);
    assert!(after.routes().is_empty());
}
