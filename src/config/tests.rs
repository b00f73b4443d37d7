//! What a file may not say, and how it is told. Long because it is tables: one line a mistake, with all of its words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:80\"\n";

fn read_with(text: &str, environment: &Environment) -> Result<Config, Mistakes> {
    parse(text, Path::new("rota.toml"), environment)
}

fn told(text: &str) -> String {
    match read_with(text, &Environment::bare("lb-1")) {
        Ok(_) => "accepted".to_owned(),
        Err(mistakes) => mistakes.to_string(),
    }
}

fn accepted(text: &str) -> Config {
    read_with(text, &Environment::bare("lb-1")).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Each text follows a listener of two lines.
fn assert_told(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(
            told(&format!("{LISTENER}{text}")),
            *expected,
            "for:\n{text}"
        );
    }
}

#[test]
fn a_wrong_listener_is_told() {
    for (text, expected) in [
        (
            "",
            "rota.toml: listener: missing: expected at least one [[listener]]",
        ),
        (
            "listener = []",
            "rota.toml: listener: missing: expected at least one [[listener]]",
        ),
        (
            "listener = 1",
            "rota.toml:1: listener = 1: expected tables, each below its [[listener]]",
        ),
        (
            "[[listener]]",
            "rota.toml:1: listener[0].address: missing: expected an IP address with a port, such as \"0.0.0.0:80\" or \"[::]:443\"",
        ),
        (
            "[[listener]]\naddress = \"localhost:80\"",
            "rota.toml:2: listener[0].address = \"localhost:80\": expected an IP address with a port, such as \"0.0.0.0:80\" or \"[::]:443\"",
        ),
        ("[[listener]]\naddress = \"[::1]:80\"", "accepted"),
        (
            "[[listener]]\naddress = \"[::1]:80\"\nprotocol = \"h2\"",
            "rota.toml:3: listener[0].protocol = \"h2\": expected one of \"http\", \"https\"",
        ),
        (
            "[[listener]]\naddress = \"[::1]:80\"\nname = \"a b\"",
            "rota.toml:3: listener[0].name = \"a b\": expected 1 to 128 visible ASCII characters without quotes and backslashes",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:9900\"",
            "rota.toml:2: listener[0].address = \"127.0.0.1:9900\": the same address as admin.address",
        ),
    ] {
        assert_eq!(told(text), expected, "for:\n{text}");
    }
    assert_told(&[
        (
            "redirect_port = 443",
            "rota.toml:3: listener[0].redirect_port = 443: needs redirect_to_https = true",
        ),
        (
            "redirect_to_https = true\nredirect_port = 0",
            "rota.toml:4: listener[0].redirect_port = 0: expected a whole number from 1 to 65535",
        ),
        (
            "protocol = \"https\"\nredirect_to_https = true",
            "rota.toml:4: listener[0].redirect_to_https = true: only for protocol \"http\"",
        ),
        ("protocol = \"https\"", "accepted"),
        (
            "certificates = [{ certificate = \"a\", key = \"b\" }]",
            "rota.toml:3: listener[0].certificates = […]: only for protocol \"https\"",
        ),
        (
            "protocol = \"https\"\ncertificates = [{ certificate = \"a\" }]",
            "rota.toml:4: listener[0].certificates[0].key: missing: expected the path of a PEM file",
        ),
        (
            "proxy_protocol = true",
            "rota.toml:3: listener[0].proxy_protocol = true: needs trusted_proxies: nobody would be let in",
        ),
        (
            "proxy_protocol = 1",
            "rota.toml:3: listener[0].proxy_protocol = 1: expected true or false",
        ),
        (
            "trusted_proxies = [\"10.0.0.0/8\", \"::1\", \"ten\"]",
            "rota.toml:3: listener[0].trusted_proxies[2] = \"ten\": expected a network such as \"10.0.0.0/8\" or an address such as \"10.0.0.1\"",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:80\"",
            "rota.toml:4: listener[1].address = \"127.0.0.1:80\": the same address as listener[0]",
        ),
        (
            "name = \"web\"\n[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:81\"",
            "rota.toml:5: listener[1].name = \"web\": the same name as listener[0]",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"",
            "rota.toml:6: listener[2].address = \"127.0.0.1:0\": the same name as listener[1]",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\nname = \"b\"\naddress = \"127.0.0.1:0\"",
            "accepted",
        ),
        (
            "client_ca = \"ca.pem\"",
            "rota.toml:3: listener[0].client_ca = \"ca.pem\": only for protocol \"https\"",
        ),
        (
            "protocol = \"https\"\nclient_certificate = \"request\"",
            "rota.toml:4: listener[0].client_certificate = \"request\": needs client_ca: nobody's certificate would be believed",
        ),
        (
            "certs = []",
            "rota.toml:3: listener[0].certs: no such key; known: name, address, protocol, redirect_to_https, redirect_port, trusted_proxies, proxy_protocol, certificates, tls_policy, client_ca, client_certificate",
        ),
    ]);
}

#[test]
fn a_wrong_service_is_told() {
    assert_told(&[
        (
            "[[service]]\nservers = [\"a:1\"]",
            "rota.toml:3: service[0].name: missing: expected 1 to 128 of the characters A-Z a-z 0-9 . _ -",
        ),
        (
            "[[service]]\nname = \"a\"",
            "rota.toml:3: service[0]: neither servers nor consul: expected one of them",
        ),
        (
            "[consul]\n[[service]]\nname = \"a\"\nservers = [\"a:1\"]\nconsul = { service = \"a\" }",
            "rota.toml:4: service[0]: both servers and consul: expected one of them",
        ),
        (
            "[[service]]\nname = \"a\"\nconsul = { service = \"a\" }",
            "rota.toml:5: service[0].consul = {…}: needs a [consul] table: nobody would be asked",
        ),
        (
            "[consul]\ntags = \"rota\"",
            "rota.toml:4: consul.tags = \"rota\": needs tag_hosts, the hosts that tags may name: [\"*.apps.example.com\"], or [\"*\"] for any",
        ),
        (
            "[consul]\ntags = \"traefik\"\ntag_hosts = [\"a b\"]",
            "rota.toml:4: consul.tags = \"traefik\": expected one of \"off\", \"rota\", \"fabio\"\nrota.toml:5: consul.tag_hosts[0] = \"a b\": expected a host such as \"shop.example.com\", \"*.example.com\" or \"*\"",
        ),
        (
            "[consul]\n[[service]]\nname = \"a\"\nconsul = { tag = \"x\" }",
            "rota.toml:6: service[0].consul.service: missing: expected the name of a service in Consul",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\n[[service]]\nname = \"a\"\nservers = [\"a:1\"]",
            "rota.toml:7: service[1].name = \"a\": the same name as service[0]",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = []",
            "rota.toml:5: service[0].servers = []: expected 1 to 10000 servers",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = \"a:1\"",
            "rota.toml:5: service[0].servers = \"a:1\": expected a list of servers",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:0\"]",
            "rota.toml:5: service[0].servers[0] = \"a:0\": expected \"host:port\", \"ip:port\" or \"[ipv6]:port\" with a port from 1 to 65535",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\n\"a:1\",\n\"A:1\",\n]",
            "rota.toml:7: service[0].servers[1] = \"A:1\": the same server twice: expected one with a weight",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [{ address = \"a:1\", weight = 65536 }]",
            "rota.toml:5: service[0].servers[0].weight = 65536: expected a whole number from 0 to 65535",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [{ address = \"a:1\", weight = 0 }]",
            "accepted",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [{ address = \"a:1\", group = \"b l\" }]",
            "rota.toml:5: service[0].servers[0].group = \"b l\": expected 1 to 64 of the characters A-Z a-z 0-9 . _ -",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [{ address = \"a:1\", group = \"b\" }, \"a:2\"]\ngroups = { b = 1, c = 0 }",
            "accepted",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [{ address = \"a:1\", group = \"b\" }]\ngroups = { b = 0, c = 1 }",
            "rota.toml:6: service[0].groups = {…}: no server is of a group with a weight above 0: nobody would serve",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\ngroups = {}",
            "rota.toml:6: service[0].groups = {…}: expected 1 to 32 groups, one of a weight above 0",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\n[service.groups]\nb = 65536",
            "rota.toml:7: service[0].groups.b = 65536: expected a whole number from 0 to 65535",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\n[service.groups]\n\"b l\" = 1",
            "rota.toml:7: service[0].groups.\"b l\" = 1: no name of a group: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\ntls = { server_name = \"b\" }",
            "rota.toml:6: service[0].tls = {…}: only for protocol \"https\" or \"h2\"",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\nprotocol = \"https\"\ntls = { server_name = \"b:1\" }",
            "rota.toml:7: service[0].tls.server_name = \"b:1\": expected a host name or an IP address, without port",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\npool = 70000",
            "rota.toml:6: service[0].pool = 70000: expected a whole number from 0 to 65536",
        ),
        (
            "[[service]]\nname = \"a\"\nservers = [\"a:1\"]\nretry = { attempts = 11, statuses = [500, 429] }",
            "rota.toml:6: service[0].retry.attempts = 11: expected a whole number from 0 to 10\nrota.toml:6: service[0].retry.statuses[1] = 429: expected a status from 500 to 599",
        ),
    ]);
}

#[test]
fn a_wrong_probe_is_told() {
    for (line, expected) in [
        (
            "interval = \"2x\"",
            ".interval = \"2x\": expected a duration from 10ms to 24h, such as \"500ms\", \"10s\" or \"1h30m\"",
        ),
        (
            "interval = \"0s\"",
            ".interval = \"0s\": expected a duration from 10ms to 24h, such as \"500ms\", \"10s\" or \"1h30m\"",
        ),
        (
            "interval = 2",
            ".interval = 2: expected a duration from 10ms to 24h, such as \"500ms\", \"10s\" or \"1h30m\"",
        ),
        (
            "fall = 0",
            ".fall = 0: expected a whole number from 1 to 1000",
        ),
        (
            "path = \"healthz\"",
            ".path = \"healthz\": expected a path such as \"/healthz\"",
        ),
        (
            "port = 0",
            ".port = 0: expected a whole number from 1 to 65535",
        ),
        (
            "host = \"a b\"",
            ".host = \"a b\": expected a host, with or without port",
        ),
        (
            "status = [200, \"399-200\"]",
            ".status = […]: expected a status from 200 to 599, a range such as \"200-399\", or a list of either",
        ),
        (
            "status = []",
            ".status = []: expected a status from 200 to 599, a range such as \"200-399\", or a list of either",
        ),
        (
            "headers = { \"x y\" = \"1\" }",
            ".headers.\"x y\" = \"1\": no header's name: expected letters, digits and -",
        ),
        (
            "headers = { X-Probe = \"a\\r\\nb\" }",
            ".headers.X-Probe = \"a\\r\\nb\": expected a header's value: visible ASCII, blanks only inside",
        ),
        (
            "headers = { Host = \"a\" }",
            ".headers.Host = \"a\": a probe sets this header itself (\"host\" is a key of its own)",
        ),
        (
            "intervall = \"2s\"",
            ".intervall: no such key; nearest: \"interval\"",
        ),
    ] {
        let text = format!(
            "{LISTENER}[[service]]\nname = \"a\"\nservers = [\"a:1\"]\n[service.health.active]\n{line}"
        );
        let expected = format!("rota.toml:7: service[0].health.active{expected}");
        assert_eq!(told(&text), expected);
    }
}

#[test]
fn a_wrong_route_is_told() {
    let service = "[[service]]\nname = \"shop\"\nservers = [\"a:1\"]\n";
    for (text, expected) in [
        (
            "[[route]]\nhost = \"*\"\nservice = \"shpo\"",
            "rota.toml:8: route[0].service = \"shpo\": no [[service]] has this name; nearest: \"shop\"",
        ),
        (
            "[[route]]\nhost = \"*\"\nservice = \"elephant\"",
            "rota.toml:8: route[0].service = \"elephant\": no [[service]] has this name; known: shop",
        ),
        (
            "[[route]]\nhost = \"*\"\nservice = \"elephant\"\n[consul]",
            "accepted",
        ),
        (
            "[[route]]\nservice = \"shop\"",
            "rota.toml:6: route[0].host: missing: expected a host such as \"shop.example.com\", \"*.example.com\" or \"*\"",
        ),
        (
            "[[route]]\nhost = \"*\"",
            "rota.toml:6: route[0].service: missing: expected the name of a service",
        ),
        (
            "[[route]]\nhost = \"A.example\"\npath = \"/x/\"\nservice = \"shop\"\n[[route]]\nhost = \"a.example.\"\npath = \"/x\"\nservice = \"shop\"",
            "rota.toml:11: route[1].host = \"a.example.\": the same host and path as route[0]",
        ),
        (
            "[[route]]\nhost = \"shop.example.com:8443\"\nservice = \"shop\"",
            "rota.toml:7: route[0].host = \"shop.example.com:8443\": a route's host has no scheme and no port: expected a host such as \"shop.example.com\", \"*.example.com\" or \"*\"",
        ),
        (
            "[[route]]\nhost = \"https://shop.example.com\"\nservice = \"shop\"",
            "rota.toml:7: route[0].host = \"https://shop.example.com\": a route's host has no scheme and no port: expected a host such as \"shop.example.com\", \"*.example.com\" or \"*\"",
        ),
        (
            "[[route]]\nhost = \"shop.*.com\"\nservice = \"shop\"",
            "rota.toml:7: route[0].host = \"shop.*.com\": `*` stands alone, or first as `*.`: expected a host such as \"shop.example.com\", \"*.example.com\" or \"*\"",
        ),
        (
            "[[route]]\nhost = \"*\"\npath = \"/news/*\"\nservice = \"shop\"",
            "rota.toml:8: route[0].path = \"/news/*\": `*` has no meaning here, a path is a prefix anyway (\"/news\" has \"/news/x\"): expected a path such as \"/news\"",
        ),
        (
            "[[route]]\nname = \"r\"\nhost = \"a\"\nservice = \"shop\"\n[[route]]\nname = \"r\"\nhost = \"b\"\nservice = \"shop\"",
            "rota.toml:11: route[1].name = \"r\": the same name as route[0]",
        ),
        (
            "[[route]]\nhost = \"*\"\npath = \"/a/../b\"\nservice = \"shop\"",
            "rota.toml:8: route[0].path = \"/a/../b\": a route's path has to be plain: no escapes, parameters, backslashes, dots as segments, empty segments or query: expected a path such as \"/news\"",
        ),
    ] {
        assert_eq!(told(&format!("{LISTENER}{service}{text}")), expected);
    }
}

#[test]
fn wrong_numbers_are_told_with_their_range() {
    assert_told(&[
        (
            "[limits]\nhead_fields = 257",
            "rota.toml:4: limits.head_fields = 257: expected a whole number from 1 to 256",
        ),
        (
            "[limits]\nhead_bytes = \"64KB\"",
            "rota.toml:4: limits.head_bytes = \"64KB\": expected a size from 1KiB to 1MiB, such as \"256B\", \"64KiB\" or \"10MiB\"",
        ),
        (
            "[limits]\nhead_bytes = 4096\nbody_bytes = \"10GiB\"",
            "accepted",
        ),
        (
            "[limits]\nconnections = 1e3",
            "rota.toml:4: limits.connections = 1000: expected a whole number from 1 to 10000000",
        ),
        (
            "[limits]\npool = 99999999999999999999",
            "rota.toml:4: limits.pool = 99999999999999999999: expected a whole number from 0 to 1000000",
        ),
        (
            "[timeouts]\nhead = \"0s\"",
            "rota.toml:4: timeouts.head = \"0s\": expected a duration from 10ms to 1h, such as \"500ms\", \"10s\" or \"1h30m\"",
        ),
        ("[timeouts]\ndrain = \"0s\"", "accepted"),
        (
            "[guard]\nmax_loss = 50",
            "rota.toml:4: guard.max_loss = 50: expected a share from 0 to 1, or from \"0%\" to \"100%\"",
        ),
        (
            "[retry]\nstatuses = 502",
            "rota.toml:4: retry.statuses = 502: expected a list of statuses from 500 to 599",
        ),
        (
            "[node]\nworkers = 257",
            "rota.toml:4: node.workers = 257: expected a whole number from 1 to 256",
        ),
        (
            "[admin]\naddress = \"localhost\"",
            "rota.toml:4: admin.address = \"localhost\": expected an IP address with a port, such as \"127.0.0.1:9900\", or \"unix:PATH\" with a path of up to 107 bytes",
        ),
        (
            "[consul]\nwait = \"11m\"",
            "rota.toml:4: consul.wait = \"11m\": expected a duration from 100ms to 10m, such as \"500ms\", \"10s\" or \"1h30m\"",
        ),
        (
            "[consul]\naddress = \"unix:///run/consul.sock\"",
            "rota.toml:4: consul.address = \"unix:///run/consul.sock\": expected \"http://HOST:PORT\" or \"https://HOST:PORT\", without a path",
        ),
        (
            "[consul]\ncertificate = \"a\"",
            "rota.toml:4: consul.certificate = \"a\": needs key, the file of its private key",
        ),
        (
            "[node]\nstarted = 2026-01-01",
            "rota.toml:4: node.started: no such key; known: name, pod, workers, state_dir, journal",
        ),
        (
            "[node]\nname = 2026-01-01",
            "rota.toml:4: node.name = 2026-01-01: expected 1 to 128 of the characters A-Z a-z 0-9 . _ -",
        ),
        (
            "[limit]",
            "rota.toml:3: limit: no such key; nearest: \"limits\"",
        ),
    ]);
}

#[test]
fn no_mistake_shows_a_token() {
    for (line, expected) in [
        (
            "token = \"hunter2 hunter2\"",
            "consul.token: expected a token of visible ASCII characters without blanks inside",
        ),
        (
            "token = 1234567",
            "consul.token: expected a token of visible ASCII characters without blanks inside",
        ),
        (
            "token = \"hunter2\"\ntoken_file = \"t\"",
            "consul.token: both token and token_file: expected at most one of them",
        ),
    ] {
        let told = told(&format!("{LISTENER}[consul]\n{line}"));
        assert_eq!(told, format!("rota.toml:4: {expected}"));
    }
    let mut environment = Environment::bare("lb-1");
    environment.consul_http_token = Some("hunter2\nhunter2".to_owned());
    let told = read_with(&format!("{LISTENER}[consul]"), &environment).unwrap_err();
    assert_eq!(
        told.to_string(),
        "environment: CONSUL_HTTP_TOKEN: expected a token of visible ASCII characters without blanks inside"
    );
    environment.consul_http_token = Some("hunter2\n".to_owned());
    let config = read_with(&format!("{LISTENER}[consul]"), &environment).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_environment_fills_what_the_file_leaves_out_and_never_switches_consul_on() {
    let mut environment = Environment::bare("lb-7");
    environment.consul_http_addr = Some("10.0.0.5:8500".to_owned());
    environment.consul_http_token = Some("word".to_owned());
    environment.consul_cacert = Some(PathBuf::from("/ca.pem"));
    let without = read_with(LISTENER, &environment).unwrap();
    assert!(without.consul.is_none());
    assert_eq!(without.node.name, "lb-7");
    let consul = |text: &str, environment: &Environment| {
        let text = format!("{LISTENER}[consul]\n{text}");
        read_with(&text, environment).unwrap().consul.unwrap()
    };
    let filled = consul("", &environment);
    assert_eq!(filled.address, "http://10.0.0.5:8500");
    assert!(filled.token == Some(ConsulToken::Value("word".to_owned())));
    assert_eq!(filled.ca_file, Some(PathBuf::from("/ca.pem")));
    let own = "address = \"https://c\"\ntoken = \"own\"\nca_file = \"own.pem\"";
    let written = consul(own, &environment);
    assert_eq!(written.address, "https://c");
    assert!(written.token == Some(ConsulToken::Value("own".to_owned())));
    assert_eq!(written.ca_file, Some(PathBuf::from("own.pem")));
    environment.consul_http_token_file = Some(PathBuf::from("/token"));
    let token = consul("", &environment).token;
    assert!(token == Some(ConsulToken::File(PathBuf::from("/token"))));
    environment.consul_http_addr = Some("unix:///x".to_owned());
    environment.consul_client_key = Some(PathBuf::from("/k"));
    environment.host_name = "(none)".to_owned();
    let told = read_with(&format!("{LISTENER}[consul]"), &environment).unwrap_err();
    assert_eq!(told.0.len(), 3, "{told}");
    assert!(told.0.iter().all(|mistake| mistake.source == "environment"));
}

#[test]
fn every_mistake_is_told_in_one_run_in_the_order_of_lines() {
    let text =
        "[limits]\nconections = 1\npool = -1\n[[listener]]\naddress = \"x\"\n[[service]]\n[nod]\n";
    assert_eq!(
        told(text)
            .lines()
            .map(|line| line.split(':').nth(1).unwrap())
            .collect::<Vec<_>>(),
        ["2", "3", "5", "6", "6", "7"]
    );
    let many: String = (0..300).map(|n| format!("key{n} = 1\n")).collect();
    let Mistakes(found) = read_with(&many, &Environment::bare("lb-1")).unwrap_err();
    assert_eq!(found.len(), MAX_MISTAKES + 1);
    assert_eq!(
        found[MAX_MISTAKES].to_string(),
        "rota.toml: and 101 more mistakes"
    );
}

#[test]
fn a_value_cannot_flood_or_forge_a_log() {
    let long = format!("{LISTENER}[node]\nname = \"\\n{}\"", "x".repeat(1000));
    let told = told(&long);
    assert!(told.len() < 300 && told.lines().count() == 1, "{told}");
}

#[test]
fn a_file_that_is_absent_or_too_long_is_refused_with_its_path() {
    let told = load(
        Path::new("/nonexistent/rota.toml"),
        &Environment::bare("lb-1"),
    )
    .unwrap_err()
    .to_string();
    assert_eq!(
        told,
        "/nonexistent/rota.toml: unreadable: No such file or directory (os error 2)"
    );
    let long = " ".repeat(MAX_FILE_BYTES + 1);
    let told = read_with(&long, &Environment::bare("lb-1"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "rota.toml: longer than 4194304 bytes: expected at most that"
    );
}

#[test]
fn paths_are_relative_to_the_file_and_defaults_come_from_the_host() {
    let text = format!(
        "{LISTENER}[admin]\naddress = \"unix:admin.sock\"\n[node]\nstate_dir = \"/var/s\"\n[access_log]\npath = \"a.log\"\n"
    );
    let config = parse(
        &text,
        Path::new("/etc/rota/rota.toml"),
        &Environment::bare("h"),
    )
    .unwrap();
    assert_eq!(
        config.admin.address,
        AdminAddress::Unix(PathBuf::from("/etc/rota/admin.sock"))
    );
    assert_eq!(config.node.state_dir, Some(PathBuf::from("/var/s")));
    assert_eq!(
        config.access_log,
        Some(AccessLog::File(PathBuf::from("/etc/rota/a.log")))
    );
    assert_eq!(config.node.workers.get(), 1);
    assert!(!Environment::of_this_process().host_name.is_empty());
}

#[test]
fn a_probe_has_the_shorter_of_a_second_and_its_interval() {
    for (interval, timeout) in [("200ms", 200), ("5s", 1000)] {
        let text = format!(
            "{LISTENER}[[service]]\nname = \"a\"\nservers = [\"a:1\"]\nhealth.active = {{ interval = \"{interval}\" }}"
        );
        let check = accepted(&text).services[0].active.clone().unwrap();
        assert_eq!(check.timeout, Duration::from_millis(timeout));
    }
}

#[test]
fn a_wrong_acme_table_or_domain_is_told() {
    const DIRECTORY: &str = "directory = \"https://ca.test/dir\"\n";
    let with = |text: &str| told(&format!("{LISTENER}{text}"));
    for (text, expected) in [
        (
            "[acme]\n",
            "rota.toml:3: acme.directory: missing: expected \"https://HOST/PATH\", the URL of an ACME directory\n\
             rota.toml:3: acme: needs node.state_dir or [consul]: certificates would be ordered anew at each start",
        ),
        (
            "[node]\nstate_dir = \"state\"\n[acme]\ndirectory = \"http://ca.test/dir\"\ncontact = [\"ops@example.com\"]\npreflight = \"on\"\nkeyfile = \"k\"\n",
            "rota.toml:6: acme.directory = \"http://ca.test/dir\": expected \"https://HOST/PATH\", the URL of an ACME directory\n\
             rota.toml:7: acme.contact[0] = \"ops@example.com\": expected \"mailto:NAME@HOST\"\n\
             rota.toml:8: acme.preflight = \"on\": expected one of \"require\", \"warn\", \"off\"\n\
             rota.toml:9: acme.keyfile: no such key; nearest: \"key_file\"",
        ),
        (
            "[[domain]]\nname = \"a.test\"\n",
            "rota.toml:3: domain[0]: needs an [acme] table: nobody would order its certificate",
        ),
    ] {
        assert_eq!(with(text), expected, "for:\n{text}");
    }
    let consul = format!("[consul]\n[acme]\n{DIRECTORY}");
    assert_eq!(
        with(&consul),
        "rota.toml:4: acme.key_file: missing: expected the path of a key file: with [consul], private keys rest in KV, and only sealed"
    );
    let acme = format!("[node]\nstate_dir = \"state\"\n[acme]\n{DIRECTORY}");
    assert_eq!(with(&acme), "accepted");
    for (domains, expected) in [
        (
            "[[domain]]\nname = \"*.a.test\"\n[[domain]]\nname = \"a\"\n[[domain]]\nname = \"a.test\"\nservice = \"shop\"\n[[domain]]\nname = \"A.test.\"",
            "rota.toml:8: domain[0].name = \"*.a.test\": a wildcard is proven by dns-01: needs acme.dns_hook, a program that sets the record\n\
             rota.toml:10: domain[1].name = \"a\": expected a host name of two labels or more, such as \"shop.example.com\"\n\
             rota.toml:13: domain[2].service = \"shop\": no [[service]] has this name; known: none\n\
             rota.toml:15: domain[3].name = \"A.test.\": the same name as domain[2]",
        ),
        (
            "[[service]]\nname = \"shop\"\nservers = [\"127.0.0.1:1\"]\n[[route]]\nhost = \"a.test\"\nservice = \"shop\"\n[[domain]]\nname = \"a.test\"\nservice = \"shop\"",
            "rota.toml:14: domain[0].name = \"a.test\": the same host and path as route[0]",
        ),
    ] {
        assert_eq!(
            with(&format!("{acme}{domains}")),
            expected,
            "for:\n{domains}"
        );
    }
}

#[test]
fn what_an_acme_table_says_of_directories_proofs_and_limits_is_told_if_it_is_wrong() {
    const HEAD: &str =
        "[node]\nstate_dir = \"state\"\n[acme]\ndirectory = \"https://ca.test/dir\"\n";
    for (text, expected) in [
        (
            "challenge = \"dns-01\"\nkey_type = \"ed25519\"\ndomain_orders = -1\n",
            "rota.toml:7: acme.challenge = \"dns-01\": needs acme.dns_hook, a program that sets the record\n\
             rota.toml:8: acme.key_type = \"ed25519\": expected one of \"p256\", \"p384\", \"rsa2048\", \"rsa4096\"\n\
             rota.toml:9: acme.domain_orders = -1: expected a whole number from 0 to 1000000",
        ),
        (
            "challenge = \"dns\"\ndns_hook = []\nprofile = \"a b\"\n",
            "rota.toml:7: acme.challenge = \"dns\": expected one of \"http-01\", \"tls-alpn-01\", \"dns-01\"\n\
             rota.toml:8: acme.dns_hook = []: expected a list of texts: a program's path and its arguments\n\
             rota.toml:9: acme.profile = \"a b\": expected 1 to 128 visible ASCII characters without quotes and backslashes",
        ),
        (
            "eab = {}\nfallback = { directory = \"https://ca.test/dir\", contact = [] }\n",
            "rota.toml:7: acme.eab.kid: missing: expected the key's name, as the CA gave it\n\
             rota.toml:7: acme.eab.hmac_file: missing: expected the path of a file with the key in base64url\n\
             rota.toml:8: acme.fallback.contact: no such key; known: directory, ca_file, profile, eab\n\
             rota.toml:8: acme.fallback.directory = \"https://ca.test/dir\": the same as acme.directory",
        ),
        (
            "dns_hook = [\"hook\", 1]\n",
            "rota.toml:7: acme.dns_hook[1] = 1: expected a text",
        ),
    ] {
        let text = format!("{LISTENER}{HEAD}{text}");
        assert_eq!(told(&text), expected, "for:\n{text}");
    }
    let said = accepted(&format!(
        "{LISTENER}{HEAD}dns_hook = [\"./hook\", \"a\"]\nchallenge = \"dns-01\"\ndomain_orders = 0\n\
         [acme.fallback]\ndirectory = \"https://other.test/\"\neab = {{ kid = \"k\", hmac_file = \"h\" }}\n\
         [[service]]\nname = \"shop\"\nservers = [\"127.0.0.1:1\"]\n\
         [[domain]]\nname = \"*.A.test\"\nservice = \"shop\"\n"
    ));
    let acme = said.acme.unwrap();
    let hook = acme.dns_hook.unwrap();
    assert_eq!(hook.program.file_name().unwrap(), "hook");
    assert_eq!(hook.arguments, ["a"]);
    assert_eq!(acme.domain_orders, None);
    assert_eq!(acme.account_orders.map(|orders| orders.get()), Some(250));
    assert_eq!(acme.fallback.unwrap().eab.unwrap().kid, "k");
    assert!(said.domains[0].name.is_wildcard());
    assert_eq!(said.routes[0].name, "*.a.test/");
}

#[test]
fn a_domain_with_a_service_is_a_route_for_its_host() {
    let config = accepted(&format!(
        "{LISTENER}[node]\nstate_dir = \"state\"\n[acme]\ndirectory = \"https://ca.test/dir\"\n\
         [[service]]\nname = \"shop\"\nservers = [\"127.0.0.1:1\"]\n\
         [[domain]]\nname = \"Shop.test\"\nservice = \"shop\"\n[[domain]]\nname = \"b.test\"\n"
    ));
    let names: Vec<&str> = config.domains.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["shop.test", "b.test"]);
    let [route] = &config.routes[..] else {
        panic!("{:?}", config.routes)
    };
    assert_eq!(
        (route.name.as_str(), route.service.as_str()),
        ("shop.test/", "shop")
    );
}
