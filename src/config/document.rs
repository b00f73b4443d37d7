//! A document in KV: the keys of one table without its header, as JSON if it begins with `{`, else as TOML.

use super::acme;
use super::json::read_json;
use super::mistake::{Mistakes, Report};
use super::model::{DomainEntry, RouteEntry, ServiceEntry, Tuning};
use super::names::{LABEL, PLAIN_NAME, label};
use super::section::{Author, Reading, Section};
use super::syntax::read_toml;
use super::{route as route_table, service as service_table, tuning as tuning_tables};
use crate::routing::ServiceName;

/// Consul's own limit on a value; a longer document is refused unread.
pub const MAX_DOCUMENT_BYTES: usize = 512 * 1024;

/// Reads `config/services/<name>`: the keys of a `[[service]]`, of which `name` may be left out. A document names no files.
pub fn service(name: &str, bytes: &[u8]) -> Result<ServiceEntry, Mistakes> {
    let source = format!("services/{name}");
    let named = ServiceName::parse(name).ok_or_else(|| bad_name("services", name, PLAIN_NAME))?;
    read(&source, bytes, service_table::KEYS, |root| {
        service_table::read(root, Some(&named))
    })
}

/// Reads `config/routes/<name>`: the keys of a `[[route]]`. Whether its service exists is not asked here.
pub fn route(name: &str, bytes: &[u8]) -> Result<RouteEntry, Mistakes> {
    let source = format!("routes/{name}");
    label(name).ok_or_else(|| bad_name("routes", name, LABEL))?;
    read(&source, bytes, route_table::KEYS, |root| {
        route_table::read(root, Some(name))
    })
}

/// Reads `config/domains/<name>`: the keys of a `[[domain]]`, of which `name` may be left out. Whether its service exists is not
/// asked here.
pub fn domain(name: &str, bytes: &[u8]) -> Result<DomainEntry, Mistakes> {
    let source = format!("domains/{name}");
    let named = acme::name_of_key(name).map_err(|why| no_name("domains", name, &why))?;
    read(&source, bytes, acme::DOMAIN, |root| {
        acme::read_domain(root, Some(&named))
    })
}

/// Reads `config/tuning`: the tables `limits`, `timeouts`, `guard`, `retry`; what it leaves out keeps the base's value.
pub fn tuning(bytes: &[u8], base: &Tuning) -> Result<Tuning, Mistakes> {
    read("tuning", bytes, tuning_tables::KEYS, |root| {
        Some(tuning_tables::read(root, base))
    })
}

fn bad_name(kind: &str, name: &str, expected: &str) -> Mistakes {
    no_name(kind, name, &format!("expected {expected}"))
}

fn no_name(kind: &str, name: &str, why: &str) -> Mistakes {
    let shown = super::mistake::shown(name);
    Mistakes::whole(kind, format!("no name for a document: {shown}: {why}"))
}

fn read<T>(
    source: &str,
    bytes: &[u8],
    keys: &[&str],
    take: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Mistakes> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        let problem = format!(
            "{} bytes: expected at most {MAX_DOCUMENT_BYTES}",
            bytes.len()
        );
        return Err(Mistakes::whole(source, problem));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Mistakes::whole(source, format!("no UTF-8 at byte {at}"))
    })?;
    let report = Report::new(source);
    let table = match text.trim_start().starts_with('{') {
        true => read_json(text, &report),
        false => read_toml(text, &report),
    };
    let value = table.and_then(|table| {
        let reading = Reading {
            report: &report,
            author: Author::Document,
        };
        take(&Section::root(&table, keys, &reading))
    });
    report.finish(value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ServerHost, ServerSource};

    fn complaint<T>(result: Result<T, Mistakes>) -> String {
        result.err().expect("a mistake").to_string()
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = b"servers = [\"127.0.0.1:80\", { address = \"app:81\", weight = 0 }]\n[health.active]\ninterval = \"5s\"\n";
        let json = br#"
            {"servers": ["127.0.0.1:80", {"address": "app:81", "weight": 0}], "health": {"active": {"interval": "5s"}}}"#;
        let entry = service("shop", toml).unwrap();
        assert_eq!(entry, service("shop", json).unwrap());
        assert_eq!(entry.name.as_str(), "shop");
        let ServerSource::Servers(servers) = entry.source else {
            panic!("servers")
        };
        assert_eq!(servers[1].host, ServerHost::Name("app".to_owned()));
        assert_eq!((servers[0].weight, servers[1].weight), (1, 0));
    }

    #[test]
    fn a_route_is_named_after_its_document() {
        let entry = route("shop", b"host = \"Shop.example.com\"\nservice = \"shop\"\n").unwrap();
        assert_eq!(
            (entry.name.as_str(), entry.path.to_string().as_str()),
            ("shop", "/")
        );
        assert_eq!(
            complaint(route(
                "shop",
                b"name = \"other\"\nhost = \"*\"\nservice = \"a\""
            )),
            "routes/shop:1: name = \"other\": expected \"shop\", the document's own name, or nothing"
        );
    }

    #[test]
    fn a_domain_is_named_by_its_key() {
        for text in ["", "{}", "name = \"Shop.example.com.\""] {
            let entry = domain("Shop.Example.com", text.as_bytes()).unwrap();
            assert_eq!(
                (entry.name.as_str(), &entry.service),
                ("shop.example.com", &None)
            );
        }
        let entry = domain("a.test", br#"{"service": "shop"}"#).unwrap();
        assert_eq!(entry.service, ServiceName::parse("shop"));
        assert_eq!(
            complaint(domain("a.test", b"name = \"b.test\"\nservices = \"x\"")),
            "domains/a.test:1: name = \"b.test\": expected \"a.test\", the document's own name, or nothing\n\
             domains/a.test:2: services: no such key; nearest: \"service\""
        );
        assert_eq!(
            complaint(domain("localhost", b"")),
            "domains: no name for a document: \"localhost\": expected a host name of two labels or more, such as \"shop.example.com\""
        );
        for key in ["*.a.test", "_wildcard.a.test"] {
            let entry = domain(key, b"").unwrap();
            assert_eq!(entry.name.as_str(), "*.a.test");
        }
    }

    #[test]
    fn a_tuning_document_keeps_what_it_does_not_name() {
        let base = tuning(b"[timeouts]\nhead = \"3s\"\n", &Tuning::default()).unwrap();
        let text = br#"{"limits": {"pool": 7}, "guard": {"max_loss": "25%"}, "retry": {"statuses": [503, 502, 503]}}"#;
        let tuned = tuning(text, &base).unwrap();
        assert_eq!(tuned.timeouts.head, Duration::from_secs(3));
        assert_eq!(tuned.timeouts.body, Duration::from_secs(30));
        assert_eq!((tuned.limits.pool, tuned.guard.max_loss), (7, 0.25));
        assert_eq!(
            (tuned.retry.attempts, &*tuned.retry.statuses),
            (2, &[502, 503][..])
        );
        for empty in [&b""[..], b"{}", b" \n{ }", b"# nothing\n", b"[limits]\n"] {
            assert_eq!(tuning(empty, &base).unwrap(), base);
        }
    }

    #[test]
    fn each_mistake_in_a_document_is_told() {
        for (told, expected) in [
            (
                complaint(service("shop", b"{}")),
                "services/shop: neither servers nor consul: expected one of them",
            ),
            (
                complaint(service(
                    "shop",
                    b"protocol = \"h2\"\nservers = [\"a:1\"]\ntls = { ca = \"/etc/passwd\" }",
                )),
                "services/shop:3: tls.ca = \"/etc/passwd\": a document can't name files: only the file of each load balancer may",
            ),
            (
                complaint(tuning(b"[node]\nname = \"x\"\n", &Tuning::default())),
                "tuning:1: node: no such key; known: limits, timeouts, guard, retry",
            ),
            (
                complaint(tuning(
                    br#"{"limits": {"conections": 1, "pool": -1}}"#,
                    &Tuning::default(),
                )),
                "tuning: limits.conections: no such key; nearest: \"connections\"\n\
                 tuning: limits.pool = -1: expected a whole number from 0 to 1000000",
            ),
            (
                complaint(tuning(b"{\"limits\": null}", &Tuning::default())),
                "tuning: limits = null: expected a table",
            ),
            (
                complaint(route(
                    "r",
                    b"host = \"a:80\"\npath = \"x\"\nservice = \"a b\"",
                )),
                "routes/r:1: host = \"a:80\": a route's host has no scheme and no port: expected a host such as \"shop.example.com\", \"*.example.com\" or \"*\"\n\
                 routes/r:2: path = \"x\": a path has to begin with \"/\": expected a path such as \"/news\"\n\
                 routes/r:3: service = \"a b\": expected 1 to 128 of the characters A-Z a-z 0-9 . _ -",
            ),
            (
                complaint(service("a/b", b"")),
                "services: no name for a document: \"a/b\": expected 1 to 128 of the characters A-Z a-z 0-9 . _ -",
            ),
            (
                complaint(service("shop", b"\xff")),
                "services/shop: no UTF-8 at byte 0",
            ),
            (
                complaint(service("shop", &[b' '; MAX_DOCUMENT_BYTES + 1])),
                "services/shop: 524289 bytes: expected at most 524288",
            ),
        ] {
            assert_eq!(told, expected);
        }
    }
}
