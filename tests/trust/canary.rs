//! A change that is tried on one of three load balancers, with load on all of them.

use std::process::Output;

use super::alone;
use super::consul_agent::Agent;
use super::support::load::{Load, Running, Tally};
use super::support::rota::{Directory, PLAIN, Place, said};
use super::support::{Origin, Rota, eventually};

mod promotions;

const HOST: &str = "shop.test";

/// Three load balancers of one pod that take orders through their Unix sockets, and what they serve.
struct Fleet {
    agent: Agent,
    rotas: Vec<Rota>,
    good: Origin,
    other: Origin,
    _alone: std::sync::MutexGuard<'static, ()>,
}

fn one(agent: &Agent, token: Option<&str>, number: usize) -> Rota {
    let place = match token {
        Some(token) => Place::new().with_variable("CONSUL_HTTP_TOKEN", token),
        None => Place::new(),
    };
    place.start_unready(&format!(
        "[node]\nname = \"lb-{number}\"\n[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n[consul]\naddress = \"{}\"\nprefix = \"rota/trust\"\nallow_upstreams = [\"127.0.0.0/8\"]\n{PLAIN}",
        agent.http_address()
    ))
}

impl Fleet {
    fn start() -> Fleet {
        let alone = alone();
        Fleet::with(Agent::start(), None, alone)
    }

    /// `token` is the load balancers'.
    fn with(agent: Agent, token: Option<&str>, alone: std::sync::MutexGuard<'static, ()>) -> Fleet {
        let rotas: Vec<Rota> = (0..3).map(|number| one(&agent, token, number)).collect();
        rotas.iter().for_each(Rota::wait_until_ready);
        let fleet = Fleet {
            agent,
            rotas,
            good: Origin::fixed("good"),
            other: Origin::fixed("other"),
            _alone: alone,
        };
        fleet.good.stop_recording();
        fleet.other.stop_recording();
        let first = fleet.apply(0, &fleet.serving(&fleet.good), &[]);
        assert_eq!(first.status.code(), Some(0), "{}", said(&first));
        for number in 0..3 {
            fleet.eventually_says(number, "good");
        }
        eventually("all load balancers are known", || {
            let nodes = fleet
                .agent
                .try_call("GET", "/v1/kv/rota/trust/nodes?keys", b"");
            (0..3).all(|number| {
                nodes
                    .as_ref()
                    .is_ok_and(|it| it.body.contains(&format!("lb-{number}")))
            })
        });
        fleet
    }

    /// Documents by which this server has all requests.
    fn serving(&self, origin: &Origin) -> Directory {
        let folder = Directory::new();
        for (name, text) in [
            (
                "services/shop.toml",
                format!("servers = [\"{}\"]\n", origin.address()),
            ),
            (
                "routes/shop.toml",
                format!("host = \"{HOST}\"\nservice = \"shop\"\n"),
            ),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn apply(&self, at: usize, folder: &Directory, arguments: &[&str]) -> Output {
        let path = folder.path().to_str().unwrap();
        self.rotas[at].command(&[&["apply", path], arguments].concat())
    }

    fn says(&self, number: usize) -> String {
        self.rotas[number].get(HOST, "/").text()
    }

    fn eventually_says(&self, number: usize, body: &str) {
        eventually(&format!("lb-{number} says {body}"), || {
            self.says(number) == body
        });
    }
}

#[test]
fn what_is_tried_is_served_by_those_that_are_named_alone_and_nothing_else_changes_meanwhile() {
    let fleet = Fleet::start();
    let other = fleet.serving(&fleet.other);
    let begun = fleet.apply(
        0,
        &other,
        &[
            "--canary", "lb-1", "--for", "1h", "--detach", "--note", "why",
        ],
    );
    let told = said(&begun);
    assert_eq!(begun.status.code(), Some(0), "{told}");
    assert!(told.contains("1 document is tried on lb-1"), "{told}");
    fleet.eventually_says(1, "other");
    assert_eq!(
        (fleet.says(0), fleet.says(2)),
        ("good".into(), "good".into())
    );
    for (number, rota) in fleet.rotas.iter().enumerate() {
        let place = match number {
            1 => "in force here",
            _ => "in force on lb-1, not here",
        };
        eventually("it is told", || {
            said(&rota.command(&["status"])).contains(place)
        });
        assert!(said(&rota.command(&["why", "shop.test"])).contains(place));
        let refused = fleet.apply(number, &other, &[]);
        let told = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{told}");
        assert!(told.contains("is under way on lb-1 until"), "{told}");
        assert!(told.contains("rota canary abort"), "{told}");
        let shifted = rota.command(&["shift", "shop", "green=100"]);
        let told = said(&shifted);
        assert_eq!(shifted.status.code(), Some(1), "{told}");
        assert!(told.contains("is under way on lb-1"), "{told}");
    }
    let plan = said(&fleet.rotas[1].command(&["plan", other.path().to_str().unwrap()]));
    assert!(
        plan.contains("~ services/shop") && plan.contains("is under way on lb-1"),
        "it is compared with what the pod has: {plan}"
    );
    let aborted = fleet.rotas[2].command(&["canary", "abort", "--note", "enough"]);
    assert!(
        said(&aborted).contains("rolled back, by hand of"),
        "{}",
        said(&aborted)
    );
    fleet.eventually_says(1, "good");
    let history = said(&fleet.rotas[0].command(&["history"]));
    assert!(
        history.contains("why; canary rolled back: by hand of"),
        "{history}"
    );
}

#[test]
fn a_canary_that_is_promoted_by_hand_is_everybodys() {
    let fleet = Fleet::start();
    let other = fleet.serving(&fleet.other);
    let begun = fleet.apply(0, &other, &["--canary", "33%", "--for", "1h", "--detach"]);
    assert_eq!(begun.status.code(), Some(0), "{}", said(&begun));
    eventually("one of three serves it", || {
        (0..3)
            .filter(|&number| fleet.says(number) == "other")
            .count()
            == 1
    });
    let promoted = fleet.rotas[0].command(&["canary", "promote"]);
    assert!(
        said(&promoted).contains("promoted, by hand of"),
        "{}",
        said(&promoted)
    );
    for number in 0..3 {
        fleet.eventually_says(number, "other");
    }
    eventually("history has it", || {
        said(&fleet.rotas[1].command(&["history"])).contains("promoted, by hand of")
    });
    assert!(said(&fleet.rotas[1].command(&["canary"])).contains("no canary is under way"));
    let again = fleet.apply(0, &fleet.serving(&fleet.good), &[]);
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
}

/// A server that fails each request.
fn broken() -> Origin {
    let origin = Origin::start(|exchange| exchange.answer(500, &[], b"broken"));
    origin.stop_recording();
    origin
}

impl Fleet {
    /// Load on each load balancer while something is tried; gives what came of it and what each one served.
    fn under_load(&self, work: impl FnOnce(&Fleet) -> Output) -> (Output, Vec<Tally>) {
        let start = |rota: &Rota| {
            let mut load = Load::new(rota.http(), 4).rate(100);
            load.host = HOST.to_owned();
            load.start()
        };
        let loads: Vec<_> = self.rotas.iter().map(start).collect();
        let output = work(self);
        (output, loads.into_iter().map(Running::finish).collect())
    }

    fn history(&self) -> String {
        said(&self.rotas[2].command(&["history"]))
    }
}

#[test]
fn a_change_that_breaks_a_service_is_rolled_back_by_itself_and_the_others_never_have_it() {
    let fleet = Fleet::start();
    let broken = broken();
    let change = fleet.serving(&broken);
    let (output, tallies) = fleet.under_load(|fleet| {
        // Something to compare with.
        eventually("there were requests", || {
            fleet
                .rotas
                .iter()
                .all(|rota| rota.metric("rota_requests_total", &[]) > 200.0)
        });
        let options = ["--canary", "lb-1", "--for", "10m", "--note", "new servers"];
        fleet.apply(0, &change, &options)
    });
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("rolled back: canary on lb-1"), "{told}");
    assert!(
        told.contains("service shop on lb-1: ") && told.contains("failed, "),
        "{told}"
    );
    for (number, tally) in tallies.iter().enumerate() {
        match number {
            1 => assert!(tally.statuses.contains_key(&500), "it was tried"),
            _ => assert_eq!(
                tally.failed(),
                0,
                "lb-{number}: {:?} {:?}",
                tally.statuses,
                tally.errors
            ),
        }
    }
    fleet.eventually_says(1, "good");
    let history = fleet.history();
    assert!(
        history.contains("new servers; canary rolled back: service shop on lb-1"),
        "{history}"
    );
    let ended: f64 = fleet
        .rotas
        .iter()
        .map(|rota| rota.metric("rota_canaries_total", &[("outcome", "rolled_back")]))
        .sum();
    assert_eq!(ended, 1.0, "one load balancer judged, once");
    fleet.rotas.iter().for_each(|rota| {
        eventually("nothing is left of it", || {
            rota.metric("rota_canary_active", &[]) == 0.0
        });
    });
}

#[test]
fn a_change_that_is_no_worse_is_promoted_to_all_of_them() {
    let fleet = Fleet::start();
    let other = fleet.serving(&fleet.other);
    let (output, tallies) =
        fleet.under_load(|fleet| fleet.apply(0, &other, &["--canary", "33%", "--for", "8s"]));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(
        told.contains("promoted: canary on") && told.contains("no worse: service shop"),
        "{told}"
    );
    for number in 0..3 {
        fleet.eventually_says(number, "other");
    }
    for tally in tallies {
        assert_eq!(tally.failed(), 0, "{:?} {:?}", tally.statuses, tally.errors);
    }
    eventually("history has it", || {
        fleet.history().contains("promoted, no worse: service shop")
    });
}

#[test]
fn too_few_requests_are_no_evidence_so_it_is_rolled_back_and_says_so() {
    let fleet = Fleet::start();
    let output = fleet.apply(
        0,
        &fleet.serving(&fleet.other),
        &["--canary", "lb-2", "--for", "2s", "--json"],
    );
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let ended: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ended["outcome"], "rolled_back");
    let reason = ended["reason"].as_str().unwrap();
    assert!(reason.contains("too few requests of shop"), "{reason}");
    fleet.eventually_says(2, "good");
}

#[test]
fn documents_that_somebody_writes_by_hand_meanwhile_end_it() {
    let fleet = Fleet::start();
    let begun = fleet.apply(
        0,
        &fleet.serving(&fleet.other),
        &["--canary", "lb-2", "--for", "1h", "--detach"],
    );
    assert_eq!(begun.status.code(), Some(0), "{}", said(&begun));
    fleet.eventually_says(2, "other");
    let route = "host = \"late.test\"\nservice = \"shop\"\n".to_owned();
    fleet
        .agent
        .put("rota/trust/config/routes/late", route.as_bytes());
    fleet.eventually_says(2, "good");
    eventually("history says why", || {
        fleet
            .history()
            .contains("rolled back: documents were changed by others meanwhile")
    });
    for number in 0..3 {
        eventually("what was written by hand stays", || {
            fleet.rotas[number].get("late.test", "/").text() == "good"
        });
    }
}

#[test]
fn a_judge_that_dies_is_followed_by_another() {
    let mut fleet = Fleet::start();
    let begun = fleet.apply(
        0,
        &fleet.serving(&fleet.other),
        &["--canary", "lb-2", "--for", "5s", "--detach"],
    );
    assert_eq!(begun.status.code(), Some(0), "{}", said(&begun));
    fleet.eventually_says(2, "other");
    let holder = || {
        let lock = fleet
            .agent
            .try_call("GET", "/v1/kv/rota/trust/canaries/lock?raw", b"");
        let name = lock.ok().filter(|it| it.status == 200)?.body;
        (0..3).find(|number| name == format!("lb-{number}"))
    };
    eventually("somebody judges", || holder().is_some());
    let judge = holder().unwrap();
    drop(fleet.rotas.remove(judge));
    let rest = &fleet.rotas[0];
    // Consul frees the lock of a process that was killed when its session ends.
    within_two_minutes("another one ends it", || {
        said(&rest.command(&["history"])).contains("canary rolled back: ")
    });
}

#[test]
fn one_that_is_killed_while_it_tries_a_change_ends_it_by_coming_back() {
    let mut fleet = Fleet::start();
    let begun = fleet.apply(
        0,
        &fleet.serving(&fleet.other),
        &["--canary", "lb-2", "--for", "1h", "--detach"],
    );
    assert_eq!(begun.status.code(), Some(0), "{}", said(&begun));
    fleet.eventually_says(2, "other");
    let has = |key: &str, word: &str| {
        let path = format!("/v1/kv/rota/trust/{key}?raw");
        let value = fleet.agent.try_call("GET", &path, b"");
        value.is_ok_and(|it| it.status == 200 && it.body.contains(word))
    };
    eventually("it has counted", || has("canaries/counts/lb-2", "process"));
    eventually("the pod is told why its table is another one", || {
        has("nodes/lb-2", "\"trying\":")
    });
    drop(fleet.rotas.remove(2));
    let again = one(&fleet.agent, None, 2);
    within_two_minutes("it is rolled back and says why", || {
        said(&fleet.rotas[0].command(&["history"]))
            .contains("canary rolled back: restarted meanwhile, or crashed: lb-2")
    });
    eventually("the change is gone", || {
        again.get(HOST, "/").text() == "good"
    });
}

fn within_two_minutes(what: &str, is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed().as_secs() < 120,
            "not within two minutes: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_canary_does_not_outlive_consul() {
    let mut fleet = Fleet::start();
    let begun = fleet.apply(
        0,
        &fleet.serving(&fleet.other),
        &["--canary", "lb-1", "--for", "1h", "--detach"],
    );
    assert_eq!(begun.status.code(), Some(0), "{}", said(&begun));
    fleet.eventually_says(1, "other");
    fleet.agent.kill();
    within_two_minutes("it is taken off without a word of consul", || {
        fleet.says(1) == "good"
    });
    let told = said(&fleet.rotas[1].command(&["status"]));
    assert!(
        told.contains("taken off here") && told.contains("in force on lb-1, not here"),
        "{told}"
    );
    fleet.agent.spawn_again();
    assert!(fleet.agent.wait_until_ready());
    within_two_minutes("it is over for all of them", || {
        let history = said(&fleet.rotas[0].command(&["history"]));
        history.contains("canary rolled back: consul was away, and it was taken off on lb-1")
    });
}

#[test]
fn a_head_that_nobody_can_read_is_named_and_taken_away_by_an_abort() {
    let fleet = Fleet::start();
    fleet.agent.put("rota/trust/canary/head", b"nonsense");
    let change = fleet.serving(&fleet.other);
    let refused = fleet.apply(0, &change, &[]);
    let told = said(&refused);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(
        told.contains("canary/head cannot be read") && told.contains("rota canary abort"),
        "{told}"
    );
    let plan = fleet.rotas[1].command(&["plan", change.path().to_str().unwrap()]);
    assert!(said(&plan).contains("rota canary abort"), "{}", said(&plan));
    let aborted = fleet.rotas[2].command(&["canary", "abort"]);
    let told = said(&aborted);
    assert_eq!(aborted.status.code(), Some(0), "{told}");
    assert!(told.contains("could not be read and is deleted"), "{told}");
    let applied = fleet.apply(0, &change, &[]);
    assert_eq!(applied.status.code(), Some(0), "{}", said(&applied));
}
