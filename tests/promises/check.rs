//! A wrong file: every mistake named in one run, and nothing started.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Authority;
use crate::support::rota::{Directory, Place, run, said};

fn check(text: &str) -> (Option<i32>, String) {
    let directory = Directory::new();
    let path = directory.path().join("rota.toml");
    fs::write(&path, text).unwrap();
    let output = run(&["check", path.to_str().unwrap()]);
    (output.status.code(), said(&output))
}

const WRONG: &str = r#"
[limits]
conections = 5
head_bytes = "lots"

[timeouts]
head = "soon"

[[listener]]
address = "nowhere"
protocol = "gopher"

[[service]]
name = "app"
servers = ["127.0.0.1"]

[[route]]
host = "a..b"
service = "ap"
"#;

/// Key, and a word of what has to be said about it.
const NAMED: &[(&str, &str)] = &[
    ("conections", "connections"),
    ("head_bytes", "lots"),
    ("head", "soon"),
    ("address", "nowhere"),
    ("protocol", "gopher"),
    ("servers", "127.0.0.1"),
    ("host", "a..b"),
    ("service", "app"),
];

#[test]
fn a_server_that_is_rota_itself_is_a_mistake() {
    for (listener, server, whose) in [
        ("0.0.0.0:8080", "127.0.0.1:8080", "of listener web"),
        ("127.0.0.1:8080", "127.0.0.1:8080", "of listener web"),
        ("127.0.0.1:8080", "127.0.0.1:9900", "of [admin]"),
    ] {
        let (code, text) = check(&format!(
            "[[listener]]\nname = \"web\"\naddress = \"{listener}\"\nprotocol = \"http\"\n[[service]]\nname = \"app\"\nservers = [\"10.0.0.1:80\", \"{server}\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
        ));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(server) && text.contains(whose), "{text}");
    }
}

#[test]
fn every_mistake_is_named_at_once_with_key_value_and_nearest_name() {
    let (code, text) = check(WRONG);
    assert_eq!(code, Some(1), "{text}");
    for (key, word) in NAMED {
        let is_named = text
            .lines()
            .any(|line| line.contains(key) && line.contains(word));
        assert!(is_named, "{key}, {word}: {text}");
    }
}

#[test]
fn a_wrong_file_starts_nothing_and_names_the_same() {
    let rota = Place::new().spawn(WRONG);
    assert_eq!(rota.wait().code(), Some(1));
    let log = rota.log();
    for (key, word) in NAMED {
        assert!(
            log.lines()
                .any(|line| line.contains(key) && line.contains(word)),
            "{key}, {word}: {log}"
        );
    }
}

#[test]
fn a_file_that_is_no_toml_is_named_with_its_line() {
    let (code, text) = check("[node]\nname = \n");
    assert_eq!(code, Some(1));
    assert!(text.contains("rota.toml") && text.contains('2'), "{text}");
}

/// Files that are named and cannot be used: the key, the file, a word of why.
const UNUSABLE: &[(&str, &str, &str)] = &[
    ("admin.token_file", "absent-admin", "no such file"),
    ("consul.token_file", "absent-consul", "no such file"),
    ("consul", "absent-ca.pem", "no such file"),
    ("service app", "empty.pem", "no certificate"),
];

#[test]
fn a_token_or_ca_file_that_cannot_be_used_is_named() {
    let directory = Directory::new();
    let path = directory.path().join("rota.toml");
    fs::write(directory.path().join("empty.pem"), "").unwrap();
    let text = r#"
[[listener]]
address = "127.0.0.1:8080"
protocol = "http"
[admin]
token_file = "absent-admin"
[consul]
address = "https://127.0.0.1:1"
token_file = "absent-consul"
ca_file = "absent-ca.pem"
[[service]]
name = "app"
servers = ["127.0.0.1:1"]
protocol = "https"
tls = { ca = "empty.pem" }
"#;
    fs::write(&path, text).unwrap();
    for form in [&["check"][..], &["check", "--json"]] {
        let output = run(&[form, &[path.to_str().unwrap()]].concat());
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for (key, file, why) in UNUSABLE {
            let is_named = text
                .split(['\n', ','])
                .any(|part| part.contains(key) && part.contains(file) && part.contains(why));
            assert!(is_named, "{key}, {file}, {why}: {text}");
        }
    }
}

#[test]
fn a_consul_token_that_others_can_read_is_warned_of_and_taken() {
    let directory = Directory::new();
    let path = directory.path().join("rota.toml");
    let token = directory.path().join("consul.token");
    fs::write(&token, "a-token").unwrap();
    let text =
        "[[listener]]\naddress = \"127.0.0.1:8080\"\n[consul]\ntoken_file = \"consul.token\"\n";
    fs::write(&path, text).unwrap();
    for (mode, is_warned) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let output = run(&["check", path.to_str().unwrap()]);
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        assert_eq!(text.contains("others can read it"), is_warned, "{text}");
    }
}

#[test]
fn a_good_file_is_said_to_be_good() {
    let good = "[[listener]]\naddress = \"127.0.0.1:8080\"\nprotocol = \"http\"\n[[service]]\nname = \"app\"\nservers = [\"127.0.0.1:1\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n";
    let (code, text) = check(good);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn every_file_in_config_is_accepted() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    for entry in fs::read_dir(root).expect("config/ holds the examples") {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let output = run(&["check", path.to_str().unwrap()]);
            let text = said(&output);
            // A certificate or key that the example names and nobody has made yet is the one thing that may be missing.
            let other: Vec<_> = text
                .lines()
                .filter(|l| l.contains("rota.toml") && !l.contains(".pem") && !l.contains(".key"))
                .collect();
            assert!(
                output.status.success() || other.is_empty(),
                "{}: {text}",
                path.display()
            );
        }
    }
}

/// `[acme]` with a key file of this text and mode.
fn with_key_file(text: &str, mode: u32) -> (Directory, std::path::PathBuf) {
    let directory = Directory::new();
    let (file, key) = (
        directory.path().join("rota.toml"),
        directory.path().join("fleet.key"),
    );
    let config = "[node]\nstate_dir = \"state\"\n[acme]\ndirectory = \"https://ca.test/dir\"\nkey_file = \"fleet.key\"\n\
                  [[listener]]\naddress = \"127.0.0.1:0\"\n";
    fs::write(&file, config).unwrap();
    fs::write(&key, text).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    (directory, file)
}

#[test]
fn a_key_file_that_others_can_open_or_that_holds_no_key_is_refused_by_check_and_by_run() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    for (text, mode, told) in [
        (key, 0o640, "others can open it (mode 0640)"),
        ("secret\n", 0o600, "fleet.key:1: not a key"),
        ("", 0o600, "no key in it"),
    ] {
        let (_directory, file) = with_key_file(text, mode);
        let file = file.to_str().unwrap();
        for arguments in [&["check", file][..], &["run", "--config", file]] {
            let output = run(arguments);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains("acme.key_file: ") && said.contains(told),
                "{said}"
            );
            assert!(!said.contains("secret"), "{said}");
        }
    }
    let (_directory, file) = with_key_file(key, 0o600);
    let output = run(&["check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

const ACME: &str = r#"
[node]
state_dir = "state"
[acme]
directory = "https://ca.test/dir"
key_file = "fleet.key"
[[listener]]
address = "127.0.0.1:8443"
protocol = "https"
[[service]]
name = "app"
servers = ["127.0.0.1:1"]
[[route]]
host = "shop.test"
service = "app"
"#;

#[test]
fn a_listener_whose_certificates_come_by_acme_is_fine_and_one_where_none_can_come_is_warned_of() {
    let refused = "every handshake is refused";
    let without_names = ACME.replace("shop.test", "*.shop.test");
    for (text, is_warned) in [
        (ACME.to_owned(), false),
        (without_names.clone(), true),
        // Names may come from KV.
        (format!("{without_names}[consul]\n"), false),
    ] {
        let directory = Directory::new();
        let path = directory.path().join("rota.toml");
        let key = directory.path().join("fleet.key");
        fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, &text).unwrap();
        let output = run(&["check", path.to_str().unwrap()]);
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains(refused), is_warned, "{text}: {said}");
    }
}

#[test]
fn an_absent_ca_file_of_acme_is_named() {
    let text = ACME.replace("key_file = \"fleet.key\"", "ca_file = \"absent-ca.pem\"");
    let (code, said) = check(&text);
    assert_eq!(code, Some(1), "{said}");
    let is_named = |line: &str| line.contains("acme.ca_file") && line.contains("absent-ca.pem");
    assert!(said.lines().any(is_named), "{said}");
}

#[test]
fn every_missing_file_is_named_at_once_in_one_wording() {
    let text = ACME.replace(
        "key_file = \"fleet.key\"",
        "key_file = \"fleet.key\"\nca_file = \"absent-ca.pem\"\ndns_hook = [\"./absent-hook\"]\n\
         eab = { kid = \"k\", hmac_file = \"absent-eab.key\" }",
    );
    let text = text.replace(
        "protocol = \"https\"\n",
        "protocol = \"https\"\ncertificates = [{ certificate = \"a.pem\", key = \"a.key\" }]\n",
    );
    let (code, said) = check(&text);
    assert_eq!(code, Some(1), "{said}");
    for file in [
        "fleet.key",
        "absent-ca.pem",
        "absent-hook",
        "absent-eab.key",
        "a.pem",
    ] {
        let named = |line: &&str| line.ends_with(&format!("/{file}: no such file"));
        assert_eq!(said.lines().filter(named).count(), 1, "{file}: {said}");
    }
}

#[test]
fn the_examples_with_consul_are_fine_and_warn_of_nothing() {
    let config = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let output = run(&["check", config.join("consul.toml").to_str().unwrap()]);
    let plain = said(&output);
    assert!(plain.trim_end().ends_with("consul.toml: fine"), "{plain}");
    assert_eq!(plain.lines().count(), 1, "{plain}");

    let directory = Directory::new();
    let place = |name: &str| directory.path().join("config").join(name);
    fs::create_dir_all(place("tls")).unwrap();
    fs::copy(config.join("pod.toml"), place("pod.toml")).unwrap();
    let pod = place("pod.toml");
    let missing = said(&run(&["check", pod.to_str().unwrap()]));
    assert!(
        missing.contains("acme.key_file") && missing.contains("acme.ca_file"),
        "{missing}"
    );
    fs::create_dir(directory.path().join("pebble")).unwrap();
    fs::write(
        directory.path().join("pebble/api-ca.pem"),
        Authority::new().pem,
    )
    .unwrap();
    fs::write(
        place("tls/fleet.key"),
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    )
    .unwrap();
    fs::set_permissions(place("tls/fleet.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let fine = said(&run(&["check", pod.to_str().unwrap()]));
    assert!(fine.trim_end().ends_with("pod.toml: fine"), "{fine}");
    assert_eq!(fine.lines().count(), 1, "{fine}");
}

#[test]
fn a_challenge_that_no_listener_can_answer_is_warned_of() {
    let plain = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";
    let as_tls = |text: &str| text.replace("[acme]", "[acme]\nchallenge = \"tls-alpn-01\"");
    let without_tls = ACME.replace("protocol = \"https\"", "");
    for (text, is_warned) in [
        (ACME.to_owned(), true),
        (format!("{ACME}{plain}"), false),
        (as_tls(ACME), false),
        (as_tls(&without_tls), true),
    ] {
        let text = text.replace("key_file = \"fleet.key\"", "");
        let (code, said) = check(&text);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.contains("answers the CA"), is_warned, "{text}: {said}");
    }
}
