//! `[[route]]`, in the file or as a document: which host and path go to which service.

use std::net::Ipv6Addr;

use super::model::{DomainEntry, RouteEntry};
use super::names::{LABEL, PLAIN_NAME, label};
use super::section::Section;
use super::written::Value;
use crate::routing::{HostPattern, Prefix, ServiceName};

pub(super) const KEYS: &[&str] = &["name", "host", "path", "service"];

pub(super) const HOST: &str = "a host such as \"shop.example.com\", \"*.example.com\" or \"*\"";

/// Reads a route; None (and a mistake): it lacks its host or service, or one of its keys is wrong. `name` is the document's.
pub(super) fn read(from: &Section<'_>, name: Option<&str>) -> Option<RouteEntry> {
    from.need("host", HOST);
    from.need("service", "the name of a service");
    let given = from.text("name", LABEL, label);
    let host = explained(from, "host", HOST, host_pattern);
    let path = match from.has("path") {
        false => Some(Prefix::parse("/").expect("the root is a prefix")),
        true => explained(from, "path", "a path such as \"/news\"", prefix),
    };
    let service = from.text("service", PLAIN_NAME, ServiceName::parse);
    if let (Some(document), Some(given)) = (name, &given)
        && document != given
    {
        from.blame_key(
            "name",
            format!("expected \"{document}\", the document's own name, or nothing"),
        );
    }
    let (host, path) = (host?, path?);
    Some(RouteEntry {
        name: name
            .map(str::to_owned)
            .or(given)
            .unwrap_or_else(|| format!("{host}{path}")),
        host,
        path,
        service: service?,
    })
}

impl RouteEntry {
    /// A domain with a service of its own is a route for the whole host.
    pub fn of_domain(domain: &DomainEntry) -> Option<RouteEntry> {
        let service = domain.service.clone()?;
        let host = HostPattern::parse(domain.name.as_str()).expect("a domain's name is a host");
        let path = Prefix::parse("/").expect("the root is a prefix");
        Some(RouteEntry {
            name: format!("{host}{path}"),
            host,
            path,
            service,
        })
    }
}

/// What people write who know another balancer gets an answer of its own.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, String> {
    let is_ipv6 = text.parse::<Ipv6Addr>().is_ok();
    let after_literal = text.rsplit(']').next().unwrap_or_default();
    if text.contains("://") || (after_literal.contains(':') && !is_ipv6) {
        return Err("a route's host has no scheme and no port".into());
    }
    if text.contains('/') {
        return Err("a route's host has no path, that is a key of its own".into());
    }
    if text != "*" && text.strip_prefix("*.").unwrap_or(text).contains('*') {
        return Err("`*` stands alone, or first as `*.`".into());
    }
    HostPattern::parse(text).map_err(|error| error.to_string())
}

pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    if text.contains('*') {
        let message =
            "`*` has no meaning here, a path is a prefix anyway (\"/news\" has \"/news/x\")";
        return Err(message.into());
    }
    Prefix::parse(text).map_err(|error| error.to_string())
}

/// Reads a text whose parser says itself what is wrong with it.
fn explained<T>(
    from: &Section<'_>,
    key: &str,
    expected: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let text = from.read(key, expected, |value| match value {
        Value::Text(text) => Some(text),
        _ => None,
    })?;
    match parse(text) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            from.blame_key(key, format!("{error}: expected {expected}"));
            None
        }
    }
}
