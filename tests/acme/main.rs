//! Promises about certificates by ACME, kept with a real CA: what may have one gets one, keeps it, and has another in time.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod choices;
mod clock;
#[path = "../support/consul.rs"]
mod consul_agent;
mod orders;

mod faults;
mod fleet;
mod healing;
mod kept;
mod lost;
mod own;
mod own_kept;
mod pebble;
mod swept;
mod walk;
mod zones;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pebble::{BLOCKED, Pebble};
use support::client::handshake;
use support::rota::{Place, said};
use support::{Client, Origin, Rota, Tls, eventually, stays};

/// Longer than any test.
const HOURS: u64 = 5 * 3600;

const LISTENERS: &str = r#"
[node]
state_dir = "state"
[[listener]]
name = "web"
address = "127.0.0.1:{http}"
protocol = "http"
redirect_to_https = true
[[listener]]
name = "web-tls"
address = "127.0.0.1:{https}"
protocol = "https"
"#;

/// Both listeners, these routes to an app server, and what the CA wants.
fn file(pebble: &Pebble, origin: &Origin, hosts: &[&str]) -> String {
    let route = |host: &&str| format!("[[route]]\nhost = \"{host}\"\nservice = \"app\"\n");
    let routes: String = hosts.iter().map(route).collect();
    format!(
        "{LISTENERS}{}[[service]]\nname = \"app\"\nservers = [\"{}\"]\n{routes}",
        pebble.table(),
        origin.address()
    )
}

/// A handshake that a client finds valid for its name.
fn is_served(rota: &Rota, tls: &Tls) -> bool {
    handshake(rota.https(), tls).is_ok()
}

fn eventually_served(rota: &Rota, tls: &Tls) {
    eventually(&format!("{} has a certificate", tls.name), || {
        rota.assert_running();
        is_served(rota, tls)
    });
}

/// The leaf that is served.
fn leaf(rota: &Rota, tls: &Tls) -> Vec<u8> {
    let wire = handshake(rota.https(), tls).unwrap();
    wire.conn.peer_certificates().unwrap()[0].to_vec()
}

fn orders(rota: &Rota, outcome: &str) -> f64 {
    rota.metric("rota_acme_orders_total", &[("outcome", outcome)])
}

fn reloads(rota: &Rota, outcome: &str) -> f64 {
    rota.metric("rota_reloads_total", &[("outcome", outcome)])
}

#[test]
fn names_of_routes_and_domains_get_certificates_without_a_reload_one_order_each() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let text = file(&pebble, &origin, &["shop.test", "*.wild.test", "localhost"]);
    let rota = place.start(&format!("{text}[[domain]]\nname = \"Customer.test\"\n"));
    for name in ["shop.test", "customer.test"] {
        eventually_served(&rota, &pebble.client(name));
    }
    let mut client = Client::connect_tls(rota.https(), &pebble.client("shop.test")).unwrap();
    assert_eq!(client.get("shop.test", "/").text(), "ok");
    assert_eq!((orders(&rota, "ok"), orders(&rota, "failed")), (2.0, 0.0));
    let shown = said(&rota.command(&["certs"]));
    let line = shown.lines().find(|line| line.starts_with("shop.test"));
    let line = line.unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("web-tls") && line.contains("acme"), "{shown}");
    assert!(
        !shown.contains("wild.test") && !shown.contains("localhost"),
        "{shown}"
    );
}

#[test]
fn what_was_issued_outlives_the_process_sealed_and_is_not_ordered_again() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let mut pebble = Pebble::start(place.http, HOURS);
    let key = place.path().join("fleet.key");
    write_key_file(&key, &[KEY]);
    let table = pebble.table();
    let sealed = format!("{table}key_file = \"fleet.key\"\n");
    let text = file(&pebble, &origin, &["shop.test"]).replace(&table, &sealed);
    let rota = place.start(&text);
    let client = pebble.client("shop.test");
    eventually_served(&rota, &client);
    let before = leaf(&rota, &client);
    let kept = rota.directory().join("state/kv/acme");
    for folder in ["account", "certs"] {
        assert_sealed(&kept.join(folder));
    }
    assert!(rota.stop().success());

    pebble.kill();
    let again = Place::new();
    copy_folder(&rota.directory().join("state"), &again.path().join("state"));
    fs::copy(&key, again.path().join("fleet.key")).unwrap();
    let again = again.start(&text);
    // Ready means that it is there.
    assert_eq!(leaf(&again, &client), before);
    assert_eq!(orders(&again, "ok") + orders(&again, "failed"), 0.0);
}

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

const SECOND_KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

fn write_key_file(path: &Path, keys: &[&str]) {
    fs::write(path, keys.join("\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// All files of a folder, at least one, can be opened by their owner alone and say nothing.
fn assert_sealed(folder: &Path) {
    let files: Vec<_> = fs::read_dir(folder).unwrap().collect();
    assert!(!files.is_empty());
    for file in files {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("rota1:") && !text.contains("PRIVATE"),
            "{text}"
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let there = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &there),
            false => drop(fs::copy(&path, there).unwrap()),
        }
    }
}

#[test]
fn a_ca_that_is_down_at_the_start_is_named_and_asked_again_by_itself() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let mut pebble = Pebble::prepare(place.http, HOURS);
    let rota = place.start(&file(&pebble, &origin, &["shop.test"]));
    eventually("the error is shown", || {
        let shown = said(&rota.command(&["certs"]));
        shown.contains("shop.test") && shown.contains("none yet") && shown.contains("refused")
    });
    pebble.launch();
    eventually_served(&rota, &pebble.client("shop.test"));
    let shown = said(&rota.command(&["certs"]));
    assert!(!shown.contains("refused"), "{shown}");
}

#[test]
fn a_name_that_the_ca_refuses_is_named_and_hurts_no_other() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let rota = place.start(&file(&pebble, &origin, &[BLOCKED, "shop.test"]));
    eventually_served(&rota, &pebble.client("shop.test"));
    eventually("the refusal is counted", || orders(&rota, "failed") == 1.0);
    let shown = said(&rota.command(&["certs"]));
    let line = shown
        .lines()
        .find(|line| line.starts_with(BLOCKED))
        .unwrap();
    assert!(
        line.contains("none yet") && line.contains("rejectedIdentifier"),
        "{line}"
    );
    stays(
        "it is not asked again at once",
        Duration::from_secs(3),
        || orders(&rota, "failed") == 1.0,
    );
}

#[test]
fn a_ca_that_forgot_the_account_gets_another_one() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let mut pebble = Pebble::start(place.http, HOURS);
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.start(&text);
    eventually_served(&rota, &pebble.client("shop.test"));
    pebble.kill();
    pebble.launch();
    rota.reload(&format!("{text}[[domain]]\nname = \"late.test\"\n"));
    eventually_served(&rota, &pebble.client("late.test"));
    assert_eq!(orders(&rota, "ok"), 2.0);
}

#[test]
fn the_path_of_challenges_is_answered_for_wanted_names_alone_and_never_by_an_app_server() {
    let (place, origin) = (Place::new(), Origin::fixed("app"));
    let pebble = Pebble::start(place.http, HOURS);
    let text = file(&pebble, &origin, &["shop.test", "*"]);
    let rota = place.start(&text.replace("redirect_to_https = true", ""));
    eventually_served(&rota, &pebble.client("shop.test"));
    origin.forget();
    let ask = |host: &str, path: &str| {
        let answer = rota.get(host, path);
        (answer.status, answer.text())
    };
    let (status, proof) = ask("shop.test", "/.well-known/acme-challenge/some-token_1");
    assert_eq!(status, 200);
    assert!(
        proof.starts_with("some-token_1.") && proof.trim_end().len() == 13 + 43,
        "{proof}"
    );
    for (host, path) in [
        ("other.test", "/.well-known/acme-challenge/some-token"),
        ("shop.test", "/.well-known/acme-challenge/"),
        ("shop.test", "/.well-known/acme-challenge/a/b"),
        ("shop.test", "/.well-known/acme-challenge/a%2fb"),
    ] {
        assert_eq!(ask(host, path).0, 404, "{host} {path}");
    }
    assert_eq!(origin.requests().len(), 0);
    assert_eq!(ask("shop.test", "/.well-known/other").1, "app");
}

#[test]
fn a_certificate_of_seconds_is_renewed_without_a_failed_handshake() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, 15);
    let rota = place.start(&file(&pebble, &origin, &["short.test"]));
    let client = pebble.client("short.test");
    eventually_served(&rota, &client);
    let first = leaf(&rota, &client);
    let start = Instant::now();
    let mut handshakes = 0;
    while leaf(&rota, &client) == first {
        handshakes += 1;
        assert!(start.elapsed() < Duration::from_secs(20), "not renewed");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(handshakes > 20, "{handshakes}");
    assert!(
        pebble.log().contains("ARI: order"),
        "it says what it replaces"
    );
}

#[test]
fn what_takes_a_restart_costs_no_certificate_and_makes_no_folder_at_hup() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let table = format!("{}key_file = \"fleet.key\"\n", pebble.table());
    write_key_file(&place.path().join("fleet.key"), &[KEY]);
    let text = file(&pebble, &origin, &["shop.test"]).replace(&pebble.table(), &table);
    let rota = place.start(&text);
    let client = pebble.client("shop.test");
    eventually_served(&rota, &client);
    let before = leaf(&rota, &client);
    let moved = text.replace("state_dir = \"state\"", "state_dir = \"elsewhere\"");
    rota.reload(&format!(
        "{moved}[consul]\naddress = \"http://127.0.0.1:1\"\n"
    ));
    eventually("the file is read", || reloads(&rota, "ok") == 1.0);
    assert!(
        rota.log().contains("[consul] is another now"),
        "{}",
        rota.log()
    );
    assert_eq!(leaf(&rota, &client), before);
    assert!(!rota.directory().join("elsewhere").exists());
    assert!(!rota.log().contains("not ordered"), "{}", rota.log());
}

#[test]
fn hup_names_every_mistake_of_key_and_certificate_files() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::prepare(place.http, HOURS);
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.start(&text);
    let table = format!("{}key_file = \"absent.key\"\n", pebble.table());
    let pair = "protocol = \"https\"\ncertificates = [{ certificate = \"absent.pem\", key = \"absent-tls.key\" }]";
    let wrong = text.replace(&pebble.table(), &table);
    rota.reload(&wrong.replace("protocol = \"https\"", pair));
    eventually("the file is refused", || reloads(&rota, "failed") == 1.0);
    let log = rota.log();
    let line = log
        .lines()
        .find(|line| line.contains("nothing changed"))
        .unwrap();
    for part in [
        "acme.key_file",
        "absent.key",
        "absent.pem",
        "absent-tls.key",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn a_key_that_is_moved_up_seals_what_was_kept_so_that_the_old_one_can_go() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let key = place.path().join("fleet.key");
    write_key_file(&key, &[KEY]);
    let table = format!("{}key_file = \"fleet.key\"\n", pebble.table());
    let text = file(&pebble, &origin, &["shop.test"]).replace(&pebble.table(), &table);
    let rota = place.start(&text);
    let client = pebble.client("shop.test");
    eventually_served(&rota, &client);
    let before = leaf(&rota, &client);
    write_key_file(&key, &[SECOND_KEY, KEY]);
    rota.reload(&text);
    eventually("the file is read", || reloads(&rota, "ok") == 1.0);
    assert!(rota.stop().success());

    let again = Place::new();
    copy_folder(&rota.directory().join("state"), &again.path().join("state"));
    write_key_file(&again.path().join("fleet.key"), &[SECOND_KEY]);
    let again = again.start(&text);
    assert_eq!(leaf(&again, &client), before);
    assert!(!again.log().contains("cannot be used"), "{}", again.log());
}

#[test]
fn a_first_handshake_for_a_new_name_waits_while_its_certificate_is_ordered() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.start(&text);
    eventually_served(&rota, &pebble.client("shop.test"));
    let client = pebble.client("late.test");
    assert!(!is_served(&rota, &client), "a stranger's name is refused");
    rota.reload(&format!("{text}[[domain]]\nname = \"late.test\"\n"));
    eventually("the file is read", || reloads(&rota, "ok") == 1.0);
    assert!(is_served(&rota, &client), "the first one after it");
    assert_eq!(orders(&rota, "ok"), 2.0);
}

#[test]
fn a_second_ca_issues_while_the_first_one_is_dead() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let (dead, pebble) = (
        Pebble::prepare(place.http, HOURS),
        Pebble::start(place.http, HOURS),
    );
    let fallback = format!(
        "[acme.fallback]\ndirectory = {:?}\nca_file = {:?}\n",
        pebble.directory(),
        pebble.ca_file()
    );
    let text = file(&dead, &origin, &["shop.test"]);
    let rota = place.start(&text.replace("[[service]]", &format!("{fallback}[[service]]")));
    let client = pebble.client("shop.test");
    let start = Instant::now();
    while !is_served(&rota, &client) {
        rota.assert_running();
        // Three failures of the account and three of the order, after 2, 4 and 8 s each, the last ones jittered.
        assert!(start.elapsed() < Duration::from_secs(90), "never");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_operator_has_a_certificate_renewed_and_revoked_and_another_one_serves() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.spawn(&format!(
        "[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{text}"
    ));
    let client = pebble.client("shop.test");
    eventually("it is served", || is_served(&rota, &client));
    let first = leaf(&rota, &client);
    let shown = said(&rota.command(&["certs", "renew", "shop.test"]));
    assert!(shown.contains("shop.test is being ordered"), "{shown}");
    eventually("another one serves", || leaf(&rota, &client) != first);
    let second = leaf(&rota, &client);
    let shown = said(&rota.command(&["certs", "revoke", "shop.test"]));
    assert!(shown.contains("revoked"), "{shown}");
    eventually("a third one serves", || {
        handshake(rota.https(), &client)
            .is_ok_and(|wire| wire.conn.peer_certificates().unwrap()[0].as_ref() != second)
    });
    assert!(pebble.log().contains("POST /revoke-cert"), "the ca knows");
    let shown = said(&rota.command(&["certs", "renew", "other.test"]));
    assert!(
        shown.contains("no name that certificates are ordered for"),
        "{shown}"
    );
}

#[test]
fn an_operators_renewal_for_which_there_is_no_room_is_refused_with_the_reason_and_begins_nothing() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let table = format!("{}domain_orders = 1\n", pebble.table());
    let text = file(&pebble, &origin, &["shop.test"]).replace(&pebble.table(), &table);
    let rota = place.spawn(&format!(
        "[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{text}"
    ));
    let client = pebble.client("shop.test");
    eventually("it is served", || is_served(&rota, &client));
    let renewal = || {
        let shown = said(&rota.command(&["certs", "--json"]));
        let rows: serde_json::Value = serde_json::from_str(&shown).unwrap();
        rows[0]["renewal"].as_u64()
    };
    eventually("it has a time", || renewal().is_some());
    let before = renewal().unwrap();
    let output = rota.command(&["certs", "renew", "shop.test"]);
    let shown = said(&output);
    assert!(!output.status.success(), "{shown}");
    let why = "nothing was begun: 1 orders of shop.test began within 168 h";
    assert!(shown.contains(why), "{shown}");
    // The CA may have said meanwhile when it wants it; there is room again only in a week.
    let after = renewal().unwrap();
    assert!(after < before + HOURS, "{before} {after}");
}

#[test]
fn nothing_is_revoked_while_there_is_no_room_for_the_order_that_is_to_follow() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let table = format!("{}domain_orders = 1\n", pebble.table());
    let text = file(&pebble, &origin, &["shop.test"]).replace(&pebble.table(), &table);
    let text = format!("[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{text}");
    let rota = place.spawn(&text);
    let client = pebble.client("shop.test");
    eventually("it is served", || is_served(&rota, &client));
    let before = leaf(&rota, &client);
    let output = rota.command(&["certs", "revoke", "shop.test"]);
    let shown = said(&output);
    assert!(!output.status.success(), "{shown}");
    let why = "not revoked, since no other one could be ordered: 1 orders of shop.test began within 168 h: the next one waits until 2";
    assert!(shown.contains(why), "{shown}");
    assert_eq!(leaf(&rota, &client), before);
    assert!(!pebble.log().contains("POST /revoke-cert"));
    // What nobody wants any more needs no room.
    rota.reload(&text.replace("host = \"shop.test\"", "host = \"other.example\""));
    eventually("it is served no more", || !is_served(&rota, &client));
    let shown = said(&rota.command(&["certs", "revoke", "shop.test"]));
    assert!(shown.contains("shop.test: revoked"), "{shown}");
    assert!(pebble.log().contains("POST /revoke-cert"), "the ca knows");
}

#[test]
fn what_a_customer_had_who_left_can_be_revoked_and_is_not_ordered_again() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let text = format!(
        "[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{}",
        file(&pebble, &origin, &["shop.test"])
    );
    let rota = place.spawn(&format!("{text}[[domain]]\nname = \"left.test\"\n"));
    for name in ["shop.test", "left.test"] {
        eventually(name, || is_served(&rota, &pebble.client(name)));
    }
    rota.reload(&text);
    eventually("it is served no more", || {
        !is_served(&rota, &pebble.client("left.test"))
    });
    let shown = said(&rota.command(&["certs", "revoke", "left.test"]));
    assert!(shown.contains("left.test: revoked"), "{shown}");
    assert!(!shown.contains("is ordered"), "{shown}");
    assert!(pebble.log().contains("POST /revoke-cert"), "the ca knows");
    eventually("it is gone", || {
        let shown = said(&rota.command(&["certs", "revoke", "left.test"]));
        shown.contains("no name that certificates are ordered for")
    });
    assert_eq!(orders(&rota, "ok"), 2.0);
}
