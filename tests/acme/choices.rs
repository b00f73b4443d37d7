//! Promises about what `[acme]` lets one choose, kept with a real CA: its customer, its kind of certificate, keys, and how names are proven.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::fleet::within_a_minute;
use super::pebble::Pebble;
use super::support::client::handshake;
use super::support::rota::{Place, Rota, run, said};
use super::support::{Client, Origin, eventually};
use super::{HOURS, eventually_served, file, is_served, leaf, orders};

/// `[acme]` with more keys in it.
fn with(pebble: &Pebble, text: &str, keys: &str) -> String {
    let table = pebble.table();
    text.replace(&table, &format!("{table}{keys}"))
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Until `rota certs` says so of a name.
fn eventually_told(rota: &Rota, name: &str, words: &[&str]) {
    let mut last = String::new();
    eventually(&format!("{name}: {words:?}"), || {
        last = said(&rota.command(&["certs"]));
        let line = last.lines().find(|line| line.starts_with(name));
        line.is_some_and(|line| words.iter().all(|word| line.contains(word)))
    });
}

const HMAC: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

fn start_for_customers(http: u16) -> Pebble {
    let words = serde_json::json!({
        "externalAccountBindingRequired": true,
        "externalAccountMACKeys": { "customer-1": HMAC },
    });
    Pebble::start_with(http, HOURS, words)
}

#[test]
fn a_ca_that_knows_its_customers_issues_to_who_is_bound_to_one() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = start_for_customers(place.http);
    write_secret(&place.path().join("eab.key"), &format!("{HMAC}\n"));
    let eab = "eab = { kid = \"customer-1\", hmac_file = \"eab.key\" }\n";
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.start(&with(&pebble, &text, eab));
    eventually_served(&rota, &pebble.client("shop.test"));
}

#[test]
fn who_is_bound_to_no_customer_is_told_so_without_an_order() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = start_for_customers(place.http);
    let rota = place.start(&file(&pebble, &origin, &["shop.test"]));
    eventually_told(&rota, "shop.test", &["external account binding: set eab"]);
    assert_eq!(orders(&rota, "ok") + orders(&rota, "failed"), 0.0);
}

#[test]
fn a_binding_with_a_wrong_key_is_told_as_the_ca_says_it() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = start_for_customers(place.http);
    write_secret(
        &place.path().join("eab.key"),
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    );
    let eab = "eab = { kid = \"customer-1\", hmac_file = \"eab.key\" }\n";
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.start(&with(&pebble, &text, eab));
    eventually_told(&rota, "shop.test", &["none yet", "external account"]);
}

#[test]
fn a_profile_is_ordered_if_the_ca_has_it_and_told_with_those_it_has_if_not() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let profiles = [("classic", 90 * 86400), ("shortlived", 6 * 86400)];
    let pebble = Pebble::start_with_profiles(place.http, &profiles);
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.start(&with(&pebble, &text, "profile = \"tiny\"\n"));
    let words = ["no profile \"tiny\"", "the ca has: classic, shortlived"];
    eventually_told(&rota, "shop.test", &words);
    rota.reload(&with(&pebble, &text, "profile = \"shortlived\"\n"));
    let client = pebble.client("shop.test");
    eventually_served(&rota, &client);
    let leaf = leaf(&rota, &client);
    let (_, read) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let validity = read.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert!(
        (6 * 86400 - 60..=6 * 86400 + 60).contains(&seconds),
        "{seconds}"
    );
}

#[test]
fn a_ca_without_profiles_is_told_to_have_none() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let text = file(&pebble, &origin, &["shop.test"]);
    let rota = place.start(&with(&pebble, &text, "profile = \"tiny\"\n"));
    eventually_told(
        &rota,
        "shop.test",
        &["no profile \"tiny\"; the ca has: none"],
    );
    assert_eq!(orders(&rota, "ok"), 0.0);
}

#[test]
fn certificates_have_the_type_of_key_that_the_file_says() {
    for (key_type, algorithm) in [
        ("rsa2048", "1.2.840.113549.1.1.1"),
        ("p384", "1.2.840.10045.2.1"),
    ] {
        let (place, origin) = (Place::new(), Origin::fixed("ok"));
        let pebble = Pebble::start(place.http, HOURS);
        let text = file(&pebble, &origin, &["shop.test"]);
        let key = format!("key_type = \"{key_type}\"\n");
        let rota = place.start(&with(&pebble, &text, &key));
        let client = pebble.client("shop.test");
        eventually_served(&rota, &client);
        let leaf = leaf(&rota, &client);
        let (_, read) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let found = read.public_key().algorithm.algorithm.to_id_string();
        assert_eq!(found, algorithm);
    }
}

#[test]
fn a_wildcard_zone_is_one_certificate_by_dns_01_with_the_operators_program() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    // Nobody answers http-01 there.
    let pebble = Pebble::start(1, HOURS);
    let hook = place.path().join("hook");
    pebble.write_dns_hook(&hook);
    let text = with(
        &pebble,
        &file(&pebble, &origin, &["*.pod.test"]),
        "dns_hook = [\"./hook\"]\n",
    );
    let rota = place.start(&format!("{text}[[domain]]\nname = \"*.pod.test\"\n"));
    for name in ["a.pod.test", "b.pod.test"] {
        eventually_served(&rota, &pebble.client(name));
    }
    let mut client = Client::connect_tls(rota.https(), &pebble.client("a.pod.test")).unwrap();
    assert_eq!(client.get("a.pod.test", "/").text(), "ok");
    assert!(handshake(rota.https(), &pebble.client("a.b.pod.test")).is_err());
    assert_eq!(orders(&rota, "ok"), 1.0);
    let kept = rota
        .directory()
        .join("state/kv/acme/certs/_wildcard.pod.test");
    assert!(kept.exists());
    assert_calls(&hook);
}

/// Once each, with the same name and value.
fn assert_calls(hook: &Path) {
    let text = fs::read_to_string(hook.with_extension("calls")).unwrap();
    let calls: Vec<&str> = text.lines().collect();
    let [present, cleanup] = calls[..] else {
        panic!("{text}")
    };
    let rest = present
        .strip_prefix("present _acme-challenge.pod.test ")
        .unwrap();
    assert_eq!(rest.len(), 43);
    assert_eq!(cleanup, format!("cleanup _acme-challenge.pod.test {rest}"));
}

#[test]
fn a_hook_that_fails_is_named_with_its_last_words_and_hurts_no_other_name() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let hook = place.path().join("hook");
    fs::write(&hook, "#!/bin/sh\necho 'the zone is locked' >&2\nexit 4\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).unwrap();
    let text = with(
        &pebble,
        &file(&pebble, &origin, &["shop.test"]),
        "dns_hook = [\"./hook\"]\n",
    );
    let rota = place.start(&format!("{text}[[domain]]\nname = \"*.pod.test\"\n"));
    eventually_served(&rota, &pebble.client("shop.test"));
    let words = ["exit status: 4", "the zone is locked"];
    eventually_told(&rota, "*.pod.test", &words);
    assert!(rota.log().contains("cleanup"), "{}", rota.log());
}

#[test]
fn a_name_below_a_zone_keeps_being_renewed_until_the_zone_has_a_certificate() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, 30);
    let hook = place.path().join("hook");
    fs::write(&hook, "#!/bin/sh\nexit 4\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).unwrap();
    let text = with(
        &pebble,
        &file(&pebble, &origin, &["a.pod.test"]),
        "dns_hook = [\"./hook\"]\n",
    );
    let text = format!("[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{text}");
    let rota = place.spawn(&text);
    let (client, other) = (pebble.client("a.pod.test"), pebble.client("b.pod.test"));
    within_a_minute("it is served", || is_served(&rota, &client));
    let first = leaf(&rota, &client);
    rota.reload(&format!("{text}[[domain]]\nname = \"*.pod.test\"\n"));
    eventually_told(&rota, "*.pod.test", &["exit status: 4"]);
    within_a_minute("it is renewed", || {
        assert!(is_served(&rota, &client));
        leaf(&rota, &client) != first
    });
    assert!(!is_served(&rota, &other), "the zone has none");
    pebble.write_dns_hook(&hook);
    let shown = said(&rota.command(&["certs", "renew", "*.pod.test"]));
    assert!(shown.contains("is being ordered"), "{shown}");
    within_a_minute("the zone's serves both", || {
        is_served(&rota, &other) && leaf(&rota, &other) == leaf(&rota, &client)
    });
}

#[test]
fn a_check_names_every_file_of_the_acme_table_that_cannot_be_used() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::prepare(place.http, HOURS);
    let keys = "eab = { kid = \"k\", hmac_file = \"eab.key\" }\n\
                dns_hook = [\"./hook\"]\n\
                fallback = { directory = \"https://ca.test/dir\", ca_file = \"absent.pem\", eab = { kid = \"k\", hmac_file = \"absent.key\" } }\n";
    fs::write(place.path().join("eab.key"), "c2VjcmV0").unwrap();
    fs::set_permissions(
        place.path().join("eab.key"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    fs::write(place.path().join("hook"), "").unwrap();
    let text = with(&pebble, &file(&pebble, &origin, &["shop.test"]), keys);
    let path = place.path().join("rota.toml");
    fs::write(&path, place.fill(&text)).unwrap();
    let shown = run(&["check", path.to_str().unwrap()]);
    assert_eq!(shown.status.code(), Some(1));
    let shown = said(&shown);
    for line in [
        "acme.eab.hmac_file: ",
        "others can open it (mode 0644): expected 0600",
        "acme.fallback.ca_file: ",
        "acme.fallback.eab.hmac_file: ",
        "hook: not a program that can be run",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}

#[test]
fn a_client_without_sni_gets_the_certificate_of_the_files_first_name_and_nobodys_by_the_alphabet() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let rota = place.start(&file(&pebble, &origin, &["shop.test", "000.test"]));
    for name in ["shop.test", "000.test"] {
        eventually_served(&rota, &pebble.client(name));
    }
    // An address is no SNI: the certificate is refused by its name, and named.
    let refused = handshake(rota.https(), &pebble.client("127.0.0.1")).err();
    let why = refused.unwrap().to_string();
    assert!(
        why.contains("shop.test") && !why.contains("000.test"),
        "{why}"
    );
}

#[test]
fn an_operator_has_all_certificates_renewed_at_once() {
    let (place, origin) = (Place::new(), Origin::fixed("ok"));
    let pebble = Pebble::start(place.http, HOURS);
    let names = ["a.test", "b.test", "c.test"];
    let text = file(&pebble, &origin, &names);
    let rota = place.spawn(&format!(
        "[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n{text}"
    ));
    let clients = names.map(|name| pebble.client(name));
    eventually("all are served", || {
        clients.iter().all(|client| is_served(&rota, client))
    });
    let before = clients.each_ref().map(|client| leaf(&rota, client));
    let shown = said(&rota.command(&["certs", "renew", "--all"]));
    assert!(shown.contains("3 are ordered"), "{shown}");
    eventually("others are served", || {
        let mut both = clients.iter().zip(&before);
        both.all(|(client, before)| leaf(&rota, client) != *before)
    });
    let output = rota.command(&["certs", "renew", "--all", "a.test"]);
    assert_eq!(output.status.code(), Some(2), "all, or one");
}
