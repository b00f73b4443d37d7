//! `[consul]`, with what the environment adds: the file's word wins over the environment's.

use std::path::PathBuf;
use std::time::Duration;

use super::environment::Environment;
use super::listener::read_networks;
use super::model::{Consul, ConsulToken, TagGrammar, Tags};
use super::names::{PLAIN_NAME, plain_name};
use super::route::{HOST, host_pattern};
use super::section::{Part, Section};
use super::written::Value;
use crate::routing::Host;

pub(super) const KEYS: &[&str] = &[
    "address",
    "prefix",
    "token",
    "token_file",
    "ca_file",
    "certificate",
    "key",
    "datacenter",
    "allow_upstreams",
    "connections",
    "wait",
    "tags",
    "tag_hosts",
];

const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8500";
const DEFAULT_PREFIX: &str = "rota";

/// Half of what an agent lets one client address open at once by default (`http_max_conns_per_client` = 200).
const DEFAULT_CONNECTIONS: usize = 100;
const DEFAULT_WAIT: Duration = Duration::from_secs(300);

/// Consul's own limit.
const MAX_WAIT: Duration = Duration::from_secs(600);
const MIN_WAIT: Duration = Duration::from_millis(100);

const ADDRESS: &str = "\"http://HOST:PORT\" or \"https://HOST:PORT\", without a path";
const PREFIX: &str =
    "up to 256 of the characters A-Z a-z 0-9 . _ - in parts divided by single slashes";
const TOKEN: &str = "expected a token of visible ASCII characters without blanks inside";

/// Reads `[consul]`; a mistake leaves a default in its place, since the report refuses the whole.
pub(super) fn read(from: &Section<'_>, environment: &Environment) -> Consul {
    let (certificate, key) = read_certificate(from, environment);
    Consul {
        address: read_address(from, environment),
        prefix: from
            .text("prefix", PREFIX, prefix)
            .unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
        token: read_token(from, environment),
        ca_file: from
            .file("ca_file")
            .or_else(|| environment.consul_cacert.clone()),
        certificate,
        key,
        datacenter: from.text("datacenter", PLAIN_NAME, plain_name),
        allow_upstreams: read_networks(from, "allow_upstreams"),
        connections: from
            .number("connections", 1..=10_000)
            .unwrap_or(DEFAULT_CONNECTIONS),
        wait: from
            .duration("wait", MIN_WAIT..=MAX_WAIT)
            .unwrap_or(DEFAULT_WAIT),
        tags: read_tags(from),
    }
}

const GRAMMARS: [(&str, TagGrammar); 3] = [
    ("off", TagGrammar::Off),
    ("rota", TagGrammar::Rota),
    ("fabio", TagGrammar::Fabio),
];

/// Whoever may register an instance may write its tags: so the file says which hosts these may name.
fn read_tags(from: &Section<'_>) -> Tags {
    let grammar = from.word("tags", &GRAMMARS).unwrap_or_default();
    let parts = from.list("tag_hosts", "a list of hosts");
    let host = |part: &Part<'_>| {
        part.read(HOST, |value| match value {
            Value::Text(text) => host_pattern(text).ok(),
            _ => None,
        })
    };
    if grammar != TagGrammar::Off && !from.has_parts("tag_hosts") {
        let problem = "needs tag_hosts, the hosts that tags may name: [\"*.apps.example.com\"], or [\"*\"] for any";
        from.blame_key("tags", problem);
    }
    Tags {
        grammar,
        hosts: parts.iter().filter_map(host).collect(),
    }
}

fn read_address(from: &Section<'_>, environment: &Environment) -> String {
    let default = || DEFAULT_ADDRESS.to_owned();
    if from.has("address") {
        return from
            .text("address", ADDRESS, address)
            .unwrap_or_else(default);
    }
    let Some(given) = &environment.consul_http_addr else {
        return default();
    };
    // Consul's own tools take the variable without a scheme too.
    let full = match given.contains("://") {
        true => given.clone(),
        false => format!("http://{given}"),
    };
    address(&full).unwrap_or_else(|| {
        let problem = format!("expected {ADDRESS}; \"HOST:PORT\" means http");
        from.report()
            .add_environment("CONSUL_HTTP_ADDR", Some(given), &problem);
        default()
    })
}

/// Scheme and authority, without a slash at the end. User info is refused: it would be a secret in the wrong place.
fn address(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    Host::parse(authority).ok()?;
    Some(format!("{scheme}://{authority}"))
}

/// Slashes at either end mean nothing and are cut.
fn prefix(text: &str) -> Option<String> {
    let text = text.trim_matches('/');
    let is_fine = text.len() <= 256 && text.split('/').all(|part| plain_name(part).is_some());
    is_fine.then(|| text.to_owned())
}

fn read_token(from: &Section<'_>, environment: &Environment) -> Option<ConsulToken> {
    if from.has("token") && from.has("token_file") {
        from.blame_secret(
            "token",
            "both token and token_file: expected at most one of them",
        );
    }
    if let Some(file) = from.file("token_file") {
        return Some(ConsulToken::File(file));
    }
    if from.has("token") {
        let token = from.quiet_text("token").and_then(token);
        if token.is_none() {
            from.blame_secret("token", TOKEN);
        }
        return token.map(ConsulToken::Value);
    }
    // As in Consul's own client: the file wins over the value.
    if let Some(file) = &environment.consul_http_token_file {
        return Some(ConsulToken::File(file.clone()));
    }
    let given = environment.consul_http_token.as_deref()?;
    let token = token(given);
    if token.is_none() {
        from.report()
            .add_environment("CONSUL_HTTP_TOKEN", None, TOKEN);
    }
    token.map(ConsulToken::Value)
}

/// A line's end behind a token is cut; anything else that can't stand in a header is refused.
fn token(text: &str) -> Option<String> {
    let text = text.trim_end();
    let fits = (1..=4096).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

/// The client certificate and its key come as a pair, from the file or from the environment.
fn read_certificate(
    from: &Section<'_>,
    environment: &Environment,
) -> (Option<PathBuf>, Option<PathBuf>) {
    match (from.has("certificate"), from.has("key")) {
        (true, true) => (from.file("certificate"), from.file("key")),
        (true, false) => {
            from.blame_key("certificate", "needs key, the file of its private key");
            (None, None)
        }
        (false, true) => {
            from.blame_key("key", "needs certificate, the file it belongs to");
            (None, None)
        }
        (false, false) => {
            let certificate = environment.consul_client_cert.clone();
            let key = environment.consul_client_key.clone();
            if certificate.is_some() != key.is_some() {
                let problem = "expected CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY together";
                let variable = match certificate {
                    Some(_) => "CONSUL_CLIENT_CERT",
                    None => "CONSUL_CLIENT_KEY",
                };
                from.report().add_environment(variable, None, problem);
            }
            (certificate, key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_and_an_authority() {
        for (text, meant) in [
            ("http://127.0.0.1:8500", Some("http://127.0.0.1:8500")),
            ("https://consul.internal/", Some("https://consul.internal")),
            ("http://[::1]:8500", Some("http://[::1]:8500")),
            ("127.0.0.1:8500", None),
            ("unix:///run/consul.sock", None),
            ("http://user:word@consul", None),
            ("http://consul/v1", None),
            ("http://", None),
        ] {
            assert_eq!(address(text).as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn a_prefix_loses_its_outer_slashes_only() {
        assert_eq!(prefix("/rota/pod-1/").as_deref(), Some("rota/pod-1"));
        for text in ["", "/", "a//b", "a b", "a/?"] {
            assert_eq!(prefix(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_is_cut_at_its_end_and_refused_with_blanks_inside() {
        assert_eq!(token("secret\n").as_deref(), Some("secret"));
        for text in ["", "\n", "a b", "a\nb", " a", "ä"] {
            assert_eq!(token(text), None, "{text:?}");
        }
    }
}
