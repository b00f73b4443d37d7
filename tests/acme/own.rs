//! Promises about certificates of one's own that an operator imports: into Consul's KV for a pod, or into a state directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use super::consul_agent::Agent;
use super::fleet::{Front, PREFIX, allow, at_the_ca, file, place, within_a_minute};
use super::pebble::Pebble;
use super::support::rota::{Place, binary, run, said};
use super::support::{Authority, Origin, Rota, eventually};
use super::{HOURS, KEY, SECOND_KEY, is_served, leaf, reloads, write_key_file};

/// What a pod has around it.
pub(super) struct World {
    pub(super) agent: Agent,
    origin: Origin,
    pub(super) front: Front,
    pebble: Pebble,
    /// Whose certificates are imported.
    pub(super) authority: Authority,
}

impl World {
    pub(super) fn start() -> World {
        let front = Front::new();
        World {
            agent: Agent::start(),
            origin: Origin::fixed("ok"),
            pebble: Pebble::start(front.port, HOURS),
            front,
            authority: Authority::new(),
        }
    }

    pub(super) fn file(&self, node: &str) -> String {
        file(node, &self.agent, &self.pebble, &self.origin)
    }

    pub(super) fn load_balancers<const N: usize>(&self, nodes: [&str; N]) -> [Rota; N] {
        let rotas = nodes.map(|node| place().start(&self.file(node)));
        self.front.send_to(&rotas.iter().collect::<Vec<_>>());
        rotas
    }

    /// A certificate of one's own for these names.
    pub(super) fn import(&self, rota: &Rota, names: &[&str]) -> Output {
        self.authority.leaf(names).write(rota.directory(), "own");
        import(rota.directory(), &["own.pem", "own.key"])
    }

    pub(super) fn is_own(&self, rota: &Rota, name: &str) -> bool {
        is_served(rota, &self.authority.client(name))
    }

    fn is_ordered(&self, rota: &Rota, name: &str) -> bool {
        is_served(rota, &self.pebble.client(name))
    }

    /// As it lies in KV; None: there is none.
    pub(super) fn kept(&self, name: &str) -> Option<String> {
        let path = format!("/v1/kv/{PREFIX}/certs/own/{name}?raw");
        let answer = self.agent.try_call("GET", &path, b"").unwrap();
        (answer.status == 200).then_some(answer.body)
    }
}

/// `rota certs import`, paths below the place's folder.
pub(super) fn import(folder: &Path, arguments: &[&str]) -> Output {
    certs(folder, "import", arguments)
}

pub(super) fn certs(folder: &Path, verb: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.current_dir(folder);
    command
        .args(["certs", verb, "--config", "rota.toml"])
        .args(arguments);
    command.output().unwrap()
}

pub(super) fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    said(output)
}

/// The line of `rota certs` about a domain.
fn line(rota: &Rota, domain: &str) -> String {
    let shown = said(&rota.command(&["certs"]));
    let found = shown.lines().find(|line| line.starts_with(domain));
    found.unwrap_or_default().to_owned()
}

#[test]
fn an_imported_certificate_is_served_by_all_before_the_cas_until_it_is_forgotten() {
    let world = World::start();
    allow(&world.agent, "shop.test");
    let rotas = world.load_balancers(["lb-1", "lb-2"]);
    for rota in &rotas {
        within_a_minute("the ca's", || world.is_ordered(rota, "shop.test"));
    }
    let shown = succeeded(&world.import(&rotas[0], &["shop.test", "www.shop.test"]));
    assert!(
        shown.starts_with("shop.test: imported; for shop.test, www.shop.test, valid until "),
        "{shown}"
    );
    allow(&world.agent, "www.shop.test");
    for rota in &rotas {
        for name in ["shop.test", "www.shop.test"] {
            eventually(name, || world.is_own(rota, name));
        }
        let line = line(rota, "www.shop.test");
        assert!(line.contains("kv:shop.test"), "{line}");
        let ends = rota.metric(
            "rota_certificate_not_after_seconds",
            &[("domain", "www.shop.test")],
        );
        assert!(ends > 1.8e9, "{ends}");
    }
    let kept = world.kept("shop.test").unwrap();
    assert!(
        kept.starts_with("rota1:") && !kept.contains("PRIVATE"),
        "{kept}"
    );
    assert_eq!(
        at_the_ca(&world.pebble),
        (1, 1),
        "nothing is ordered beside it"
    );

    let shown = succeeded(&world.import(&rotas[1], &["shop.test"]));
    assert!(
        shown.contains("in place of one that is valid until"),
        "{shown}"
    );
    // Its other name is the CA's now.
    for rota in &rotas {
        within_a_minute("www", || world.is_ordered(rota, "www.shop.test"));
        eventually("shop", || world.is_own(rota, "shop.test"));
    }
    let shown = succeeded(&certs(rotas[0].directory(), "forget", &["Shop.test"]));
    assert!(shown.contains("shop.test: forgotten"), "{shown}");
    for rota in &rotas {
        within_a_minute("the ca's again", || world.is_ordered(rota, "shop.test"));
    }
    let again = certs(rotas[0].directory(), "forget", &["shop.test"]);
    assert!(!again.status.success());
    assert!(said(&again).contains("there is no certificate of one's own under shop.test"));
}

#[test]
fn an_imported_certificate_that_has_ended_gives_way_to_the_cas() {
    let world = World::start();
    allow(&world.agent, "shop.test");
    let rotas = world.load_balancers(["lb-1", "lb-2"]);
    for rota in &rotas {
        within_a_minute("the ca's", || world.is_ordered(rota, "shop.test"));
    }
    let names = ["shop.test", "late.test"];
    let short = world.authority.short_leaf(&names, Duration::from_secs(30));
    short.write(rotas[0].directory(), "own");
    succeeded(&import(rotas[0].directory(), &["own.pem", "own.key"]));
    for rota in &rotas {
        eventually("one's own", || world.is_own(rota, "shop.test"));
    }
    allow(&world.agent, "late.test");
    for rota in &rotas {
        for name in names {
            within_a_minute("the ca's again", || world.is_ordered(rota, name));
        }
        let log = rota.log();
        let told = log.matches("a certificate of one's own has ended").count();
        assert_eq!(told, 1, "{log}");
    }
    // The one that was held all along was good for it.
    assert_eq!(at_the_ca(&world.pebble), (2, 2));
}

#[test]
fn who_joins_has_imported_certificates_when_it_is_ready_and_a_broken_one_keeps_the_last_good() {
    let world = World::start();
    for name in ["a.test", "b.test"] {
        allow(&world.agent, name);
    }
    let home = place();
    succeeded_in(&world, &home, "a.test");
    succeeded_in(&world, &home, "b.test");
    let [first] = world.load_balancers(["lb-1"]);
    for name in ["a.test", "b.test"] {
        assert!(
            world.is_own(&first, name),
            "{name}: it is ready, so it has it"
        );
    }
    let before = leaf(&first, &world.authority.client("a.test"));
    let moved = world.kept("b.test").unwrap();
    world
        .agent
        .put(&format!("{PREFIX}/certs/own/a.test"), moved.as_bytes());
    eventually("it is named", || {
        let line = line(&first, "a.test");
        line.contains("kv:a.test") && line.contains("changed since it was sealed")
    });
    assert_eq!(leaf(&first, &world.authority.client("a.test")), before);
    // Who never had the good one has the CA's, and says why.
    let [second] = world.load_balancers(["lb-2"]);
    within_a_minute("the ca's", || world.is_ordered(&second, "a.test"));
    assert!(world.is_own(&second, "b.test"));
    let shown = said(&second.command(&["certs"]));
    assert!(shown.contains("changed since it was sealed"), "{shown}");
}

/// Imports before there is a load balancer: the file alone is needed.
fn succeeded_in(world: &World, home: &Place, name: &str) {
    let text = home.fill(&world.file("operator"));
    fs::write(home.path().join("rota.toml"), text).unwrap();
    world.authority.leaf(&[name]).write(home.path(), "own");
    succeeded(&import(home.path(), &["own.pem", "own.key"]));
}

#[test]
fn a_consul_that_lost_its_state_takes_no_imported_certificate_and_gets_them_back() {
    let mut world = World::start();
    let rotas = world.load_balancers(["lb-1", "lb-2"]);
    for name in ["a.test", "b.test"] {
        succeeded(&world.import(&rotas[0], &[name]));
        for rota in &rotas {
            eventually(name, || world.is_own(rota, name));
        }
    }
    world.agent.restart_empty();
    within_a_minute("they are written again", || {
        for rota in &rotas {
            for name in ["a.test", "b.test"] {
                assert!(world.is_own(rota, name), "{name}");
            }
        }
        world.kept("a.test").is_some() && world.kept("b.test").is_some()
    });
    within_a_minute("the mark, too", || world.kept("_mark").is_some());
    let late = place().start(&world.file("late"));
    for name in ["a.test", "b.test"] {
        assert!(world.is_own(&late, name), "{name}");
    }
    within_a_minute("an operator is believed again", || {
        certs(late.directory(), "forget", &["a.test"])
            .status
            .success()
    });
    for rota in rotas.iter().chain([&late]) {
        within_a_minute("a.test is gone", || !world.is_own(rota, "a.test"));
        assert!(world.is_own(rota, "b.test"));
    }
    assert_eq!(world.kept("a.test"), None);
}

#[test]
fn of_imports_at_the_same_moment_each_is_done_as_a_whole_or_says_that_it_was_not() {
    let world = World::start();
    let [rota] = world.load_balancers(["lb-1"]);
    let leaves = ["one", "two", "three"].map(|file| {
        let leaf = world.authority.leaf(&["shop.test"]);
        leaf.write(rota.directory(), file);
        leaf.der()
    });
    let folder = rota.directory();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let imports = ["one", "two", "three"].map(|file| {
            let (chain, key) = (format!("{file}.pem"), format!("{file}.key"));
            scope.spawn(move || import(folder, &[&chain, &key]))
        });
        imports.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(outputs.iter().any(|output| output.status.success()));
    for refused in outputs.iter().filter(|output| !output.status.success()) {
        let text = said(refused);
        assert!(text.contains("nothing was written"), "{text}");
    }
    eventually("one of them is served", || world.is_own(&rota, "shop.test"));
    let served = leaf(&rota, &world.authority.client("shop.test"));
    assert!(leaves.iter().any(|leaf| leaf.as_ref() == served));
}

#[test]
fn the_files_own_goes_first_and_a_client_without_sni_is_never_shown_a_name_that_only_kv_has() {
    let world = World::start();
    let filed = Authority::new();
    let home = place();
    filed.leaf(&["filed.test"]).write(home.path(), "filed");
    let pair = "protocol = \"https\"\ncertificates = [{ certificate = \"filed.pem\", key = \"filed.key\" }]";
    let second =
        "[[listener]]\nname = \"bare\"\naddress = \"127.0.0.1:{bare}\"\nprotocol = \"https\"\n";
    let bare = super::support::rota::free_port();
    let text = world.file("lb-1").replace("protocol = \"https\"", pair);
    let rota = home.start(&format!(
        "{text}{}",
        second.replace("{bare}", &bare.to_string())
    ));
    world.front.send_to(&[&rota]);
    succeeded(&world.import(&rota, &["filed.test", "also.test"]));
    eventually("the other name", || world.is_own(&rota, "also.test"));
    assert!(
        is_served(&rota, &filed.client("filed.test")),
        "the file's own"
    );
    let bare = std::net::SocketAddr::from(([127, 0, 0, 1], bare));
    let handshake = super::support::client::handshake;
    assert!(handshake(bare, &world.authority.client("also.test")).is_ok());
    for name in ["filed.test", "also.test"] {
        let nameless = world.authority.client_without_sni(name);
        assert!(handshake(bare, &nameless).is_err(), "{name}");
    }
}

#[test]
fn who_joins_with_a_key_that_opens_no_imported_certificate_is_not_ready_and_says_why() {
    let world = World::start();
    let home = place();
    succeeded_in(&world, &home, "a.test");
    let stranger = Place::new();
    write_key_file(&stranger.path().join("fleet.key"), &[SECOND_KEY]);
    let text = world.file("lb-1");
    let rota = stranger.start_unready(&text);
    eventually("it says why", || {
        let answer = rota.admin_get("/readyz");
        let why = "certs/own/_mark: sealed with the key";
        answer.status == 503 && answer.text().contains(why)
    });
    write_key_file(&rota.directory().join("fleet.key"), &[SECOND_KEY, KEY]);
    rota.reload(&text);
    within_a_minute("it is ready", || rota.readiness() == Some(200));
    assert!(world.is_own(&rota, "a.test"));
}

#[test]
fn orders_about_an_imported_certificate_say_what_it_is_and_rekey_seals_it_anew() {
    let world = World::start();
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    let text = format!("{socket}{}", world.file("lb-1"));
    let rota = place().spawn(&text);
    eventually("it is ready", || {
        rota.directory().join("admin.sock").exists() && rota.readiness() == Some(200)
    });
    succeeded(&world.import(&rota, &["shop.test"]));
    eventually("it is served", || world.is_own(&rota, "shop.test"));
    for verb in ["renew", "revoke"] {
        let output = rota.command(&["certs", verb, "shop.test"]);
        let text = said(&output);
        assert!(!output.status.success(), "{text}");
        assert!(
            text.contains("`rota certs forget shop.test` takes out"),
            "{text}"
        );
    }
    let key_of = |sealed: Option<String>| sealed.unwrap().split(':').nth(1).unwrap().to_owned();
    let before = key_of(world.kept("shop.test"));
    write_key_file(&rota.directory().join("fleet.key"), &[SECOND_KEY, KEY]);
    rota.reload(&text);
    eventually("the file is read", || reloads(&rota, "ok") == 1.0);
    let shown = succeeded(&rota.command(&["certs", "rekey"]));
    assert!(shown.contains("sealed anew"), "{shown}");
    assert_ne!(key_of(world.kept("shop.test")), before);
    assert!(world.is_own(&rota, "shop.test"));
    let _ = fs::remove_file(rota.directory().join("admin.sock"));
}

/// No CA is ever asked: the file names nothing that is to be ordered.
const ALONE: &str = r#"
[node]
state_dir = "state"
[acme]
directory = "https://127.0.0.1:1/dir"
key_file = "fleet.key"
[[listener]]
name = "web-tls"
address = "127.0.0.1:{https}"
protocol = "https"
"#;

#[test]
fn an_import_into_a_state_directory_takes_effect_beside_the_process_that_uses_it() {
    let (home, authority) = (place(), Authority::new());
    let rota = home.start(ALONE);
    authority
        .leaf(&["*.shop.test"])
        .write(rota.directory(), "own");
    let shown = succeeded(&import(rota.directory(), &["own.pem", "own.key", "--json"]));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let message = shown["message"].as_str().unwrap();
    assert!(
        message.starts_with("_wildcard.shop.test: imported"),
        "{message}"
    );
    let client = authority.client("a.shop.test");
    eventually("it is served", || is_served(&rota, &client));
    super::assert_sealed(&rota.directory().join("state/kv/certs/own"));
    assert!(rota.stop().success());

    let again = Place::new();
    super::copy_folder(&rota.directory().join("state"), &again.path().join("state"));
    fs::copy(
        rota.directory().join("fleet.key"),
        again.path().join("fleet.key"),
    )
    .unwrap();
    let again = again.start(ALONE);
    assert!(is_served(&again, &client), "it is ready, so it has it");
    succeeded(&certs(again.directory(), "forget", &["*.shop.test"]));
    eventually("it is gone", || !is_served(&again, &client));
}

#[test]
fn an_import_names_all_that_is_wrong_at_once_and_writes_nothing() {
    let (home, authority) = (place(), Authority::new());
    let folder = home.path();
    fs::write(folder.join("rota.toml"), home.fill(ALONE)).unwrap();
    authority.leaf(&["a.test"]).write(folder, "a");
    authority.leaf(&["b.test"]).write(folder, "b");
    let refused = |arguments: &[&str]| {
        let output = import(folder, arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    };
    let text = refused(&["a.pem", "b.key"]);
    assert!(
        text.contains("b.key: the key does not belong to the certificate in"),
        "{text}"
    );
    let text = refused(&["absent.pem", "absent.key", "--name", "a/b"]);
    for part in [
        "absent.pem: no such file",
        "absent.key: no such file",
        "\"a/b\" is no name",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let expired = authority.expired_leaf(&["old.test"]);
    expired.write(folder, "old");
    let without_key = home.fill(&ALONE.replace("key_file = \"fleet.key\"\n", ""));
    fs::write(folder.join("rota.toml"), without_key).unwrap();
    let text = refused(&["old.pem", "old.key"]);
    for part in [
        "old.pem: expired",
        "acme.key_file: missing: a private key is kept sealed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!folder.join("state/kv/certs").exists());
    let usage = run(&["certs", "import", "a.pem", "a.key"]);
    assert_eq!(usage.status.code(), Some(2));
}
