//! `config/` held to the readers: every file there is accepted, `full.toml` has every key and no other, its defaults are the defaults.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::environment::Environment;
use super::mistake::Report;
use super::written::{Table, Value};
use super::{
    Config, Preflight, ServerSource, Tuning, acme, active, agent, file, listener, parse, route,
    service, syntax, tuning,
};

const FULL: &str = include_str!("../../config/full.toml");
const EDGE: &str = include_str!("../../config/edge.toml");
const POD: &str = include_str!("../../config/pod.toml");

/// Tables whose keys are the operator's own.
const FREE: [&str; 2] = ["service[].health.active.headers", "service[].groups"];

/// Every key path that a reader knows; `[]` stands for any part of a list.
fn known_keys() -> BTreeSet<String> {
    let sections = [
        ("", file::KEYS),
        ("node", file::NODE),
        ("admin", file::ADMIN),
        ("consul", agent::KEYS),
        ("acme", acme::KEYS),
        ("acme.eab", acme::EAB),
        ("acme.fallback", acme::DIRECTORY_KEYS),
        ("acme.fallback.eab", acme::EAB),
        ("access_log", file::ACCESS_LOG),
        ("limits", tuning::LIMITS),
        ("timeouts", tuning::TIMEOUTS),
        ("guard", tuning::GUARD),
        ("retry", tuning::RETRY),
        ("listener[]", listener::KEYS),
        ("listener[].certificates[]", listener::CERTIFICATE),
        ("service[]", service::KEYS),
        ("service[].servers[]", service::SERVER),
        ("service[].consul", service::CONSUL),
        ("service[].health", active::HEALTH),
        ("service[].health.active", active::KEYS),
        ("service[].retry", tuning::RETRY),
        ("service[].tls", service::TLS),
        ("route[]", route::KEYS),
        ("domain[]", acme::DOMAIN),
    ];
    sections
        .iter()
        .flat_map(|(path, keys)| keys.iter().map(move |key| join(path, key)))
        .collect()
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

fn collect(table: &Table, path: &str, found: &mut BTreeSet<String>) {
    for (key, written) in table {
        let path = join(path, key);
        match &written.value {
            Value::Table(below) if !FREE.contains(&path.as_str()) => collect(below, &path, found),
            Value::List(parts) => {
                for part in parts {
                    if let Value::Table(below) = &part.value {
                        collect(below, &format!("{path}[]"), found);
                    }
                }
            }
            _ => {}
        }
        found.insert(path);
    }
}

/// The key of a line such as `#key = "value"`.
fn sleeping_key(line: &str) -> Option<&str> {
    let (key, _) = line.strip_prefix('#')?.split_once(" = ")?;
    (key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).then_some(key)
}

/// The text with its `#key = …` lines awake; one that follows a line with the same key replaces it.
fn awake(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some(key) = sleeping_key(line) else {
            lines.push(line);
            continue;
        };
        let replaces = |last: &&str| last.starts_with(&format!("{key} = "));
        if lines.last().is_some_and(replaces) {
            lines.pop();
        }
        lines.push(&line[1..]);
    }
    lines.join("\n")
}

fn accepted(text: &str) -> Config {
    match parse(
        text,
        Path::new("/etc/rota/rota.toml"),
        &Environment::bare("lb-1"),
    ) {
        Ok(config) => config,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

#[test]
fn every_file_in_config_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        accepted(&std::fs::read_to_string(&path).unwrap());
        super::load(&path, &Environment::bare("lb-1"))
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        count += 1;
    }
    assert!(count >= 4, "only {count} files");
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let report = Report::new("full.toml");
    let table = syntax::read_toml(&awake(FULL), &report).unwrap();
    let mut found = BTreeSet::new();
    collect(&table, "", &mut found);
    let known = known_keys();
    let missing: Vec<_> = known.difference(&found).collect();
    let foreign: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "not in config/full.toml: {missing:?}");
    assert!(foreign.is_empty(), "in config/full.toml only: {foreign:?}");
}

#[test]
fn the_reference_is_accepted_with_its_examples_awake() {
    let text = awake(FULL)
        .lines()
        .filter(|line| !line.starts_with("token = "))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("redirect_to_https = false", "redirect_to_https = true");
    let config = accepted(&text);
    assert_eq!(
        config.listeners[0].policy.redirect.unwrap().port,
        Some(8443)
    );
    assert!(config.services[1].tls.ca.is_some());
}

/// What is left of the reference when only the lines marked "required" speak must mean the same.
#[test]
fn the_defaults_in_the_reference_are_the_defaults() {
    let is_value = |line: &&str| !line.starts_with(['#', '[']) && line.contains(" = ");
    let required: String = FULL
        .lines()
        .filter(|line| !is_value(line) || line.contains("# required"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(required.lines().filter(is_value).count() < 20);
    let (written, left_out) = (accepted(FULL), accepted(&required));
    assert_eq!(written.node, left_out.node);
    assert_eq!(written.admin, left_out.admin);
    assert!(written.consul == left_out.consul);
    assert_eq!(written.access_log, left_out.access_log);
    assert_eq!(written.listeners, left_out.listeners);
    assert_eq!(written.acme, left_out.acme);
    assert_eq!(written.services, left_out.services);
    assert_eq!(written.domains, left_out.domains);
    assert_eq!(written.routes, left_out.routes);
    assert_eq!(written.tuning, left_out.tuning);
    assert_eq!(written.tuning, Tuning::default());
}

#[test]
fn the_static_edge_means_what_it_says() {
    let config = accepted(EDGE);
    assert!(config.consul.is_none());
    assert_eq!(config.tuning.limits.body_bytes, Some(64 << 20));
    assert_eq!(config.tuning.timeouts.keep_alive, Duration::from_secs(75));
    let key = &config.listeners[1].certificates[1].key;
    assert_eq!(key, Path::new("/etc/rota/tls/blog.key"));
    let ServerSource::Servers(servers) = &config.services[0].source else {
        panic!("servers")
    };
    assert_eq!(
        servers.iter().map(|s| s.weight).collect::<Vec<_>>(),
        [1, 1, 2]
    );
    let check = config.services[0].active.as_ref().unwrap();
    assert_eq!(
        (check.fall, check.rise, &check.status[..]),
        (3, 2, &[(200, 399)][..])
    );
    assert_eq!(config.routes[1].name, "shop.example.com/news");
    let awake = accepted(&awake(EDGE));
    assert!(awake.listeners[0].policy.proxy_protocol);
    assert_eq!(
        awake.services[1].tls.server_name.as_deref(),
        Some("blog.internal")
    );
}

#[test]
fn the_load_balancer_of_a_pod_means_what_it_says() {
    let config = accepted(POD);
    let acme = config.acme.unwrap();
    assert_eq!(acme.primary.url, "https://127.0.0.1:14000/dir");
    assert_eq!(acme.contact, ["mailto:ops@example.com"]);
    assert_eq!(acme.preflight, Preflight::Off);
    let key_file = acme.key_file.unwrap();
    assert_eq!(key_file, Path::new("/etc/rota/tls/fleet.key"));
    let consul = config.consul.unwrap();
    assert_eq!(
        (consul.address.as_str(), consul.prefix.as_str()),
        ("http://127.0.0.1:8500", "rota/pod-1")
    );
    assert_eq!(consul.allow_upstreams[0].to_string(), "127.0.0.0/8");
}
