//! What the tables of one file must be to each other: names and addresses once, and nothing that points nowhere.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;

use super::model::{Acme, AdminAddress, Challenge, Config, DomainName};
use super::section::Section;
use crate::routing::{HostPattern, Prefix, ServiceName};

/// Looks at what was written, part by part, so that each mistake names its place. Parts that are wrong by themselves are passed over.
pub(super) fn check(root: &Section<'_>, config: &Config) {
    check_listeners(root, &config.admin.address);
    let services = check_services(root);
    check_routes(root, (!root.has("consul")).then_some(&services));
    check_acme(root, config);
}

/// What `[acme]` and `[[domain]]` need of the other tables.
fn check_acme(root: &Section<'_>, config: &Config) {
    let acme = config.acme.as_ref().and_then(|_| root.free_table("acme"));
    if let Some(acme) = &acme {
        match (&config.consul, &config.node.state_dir) {
            (Some(_), _) => acme.need(
                "key_file",
                "the path of a key file: with [consul], private keys rest in KV, and only sealed",
            ),
            (None, Some(_)) => {}
            (None, None) => acme.blame(
                "needs node.state_dir or [consul]: certificates would be ordered anew at each start",
            ),
        }
    }
    if let (Some(acme), Some(settings)) = (acme, &config.acme) {
        check_directories(&acme, settings);
    }
    let has_hook = config
        .acme
        .as_ref()
        .is_none_or(|acme| acme.dns_hook.is_some());
    let mut names = Once::new("name");
    for domain in root.quiet_tables("domain") {
        if let Some(name) = domain.quiet_text("name").and_then(DomainName::parse) {
            if name.is_wildcard() && !has_hook {
                domain.blame_key(
                    "name",
                    "a wildcard is proven by dns-01: needs acme.dns_hook, a program that sets the record",
                );
            }
            names.see(name, &domain, "name");
        }
        if !root.has("acme") {
            domain.blame("needs an [acme] table: nobody would order its certificate");
        }
    }
}

/// What the keys of `[acme]` need of each other.
fn check_directories(acme: &Section<'_>, settings: &Acme) {
    if settings.challenge == Challenge::Dns01 && !acme.has("dns_hook") {
        let problem = "needs acme.dns_hook, a program that sets the record";
        acme.blame_key("challenge", problem);
    }
    let fallback = settings.fallback.as_ref().map(|fallback| &fallback.url);
    if fallback == Some(&settings.primary.url)
        && acme.has("directory")
        && let Some(table) = acme.free_table("fallback")
    {
        table.blame_key("directory", "the same as acme.directory");
    }
}

fn check_listeners(root: &Section<'_>, admin: &AdminAddress) {
    if !root.has_parts("listener") {
        let problem = "missing: expected at least one [[listener]]";
        root.report().add(None, "listener", None, problem);
    }
    let mut names = Once::new("name");
    let mut addresses = Once::new("address");
    for listener in root.quiet_tables("listener") {
        let address: Option<SocketAddr> = listener
            .quiet_text("address")
            .and_then(|text| text.parse().ok());
        // Port 0 is another port each time.
        let fixed = address.filter(|address| address.port() != 0);
        match fixed {
            Some(fixed) if *admin == AdminAddress::Tcp(fixed) => {
                listener.blame_key("address", "the same address as admin.address");
            }
            Some(fixed) => addresses.see(fixed, &listener, "address"),
            None => {}
        }
        match (listener.quiet_text("name"), address) {
            (Some(name), _) => names.see(name.to_owned(), &listener, "name"),
            (None, Some(address)) if fixed.is_none() => {
                names.see(address.to_string(), &listener, "address");
            }
            (None, _) => {}
        }
    }
}

/// Gives the names of all services that have one, right or wrong in all else.
fn check_services<'a>(root: &Section<'a>) -> Vec<&'a str> {
    let has_consul = root.has("consul");
    let mut names = Once::new("name");
    let mut all = Vec::new();
    for service in root.quiet_tables("service") {
        if let Some(name) = service.quiet_text("name") {
            names.see(name, &service, "name");
            all.push(name);
        }
        if !has_consul && service.has("consul") {
            service.blame_key("consul", "needs a [consul] table: nobody would be asked");
        }
    }
    all
}

/// `services`: all that there can be; None: with Consul the service may come from KV.
fn check_routes(root: &Section<'_>, services: Option<&Vec<&str>>) {
    let mut names = Once::new("name");
    let mut claims = Once::new("host and path");
    for route in root.quiet_tables("route") {
        if let Some(name) = route.quiet_text("name") {
            names.see(name, &route, "name");
        }
        let host = route.quiet_text("host").map(HostPattern::parse);
        let path = Prefix::parse(route.quiet_text("path").unwrap_or("/"));
        if let (Some(Ok(host)), Ok(path)) = (host, path) {
            claims.see((host, path), &route, "host");
        }
        check_service(&route, services);
    }
    for domain in root.quiet_tables("domain") {
        let host = domain.quiet_text("name").map(HostPattern::parse);
        if let (Some(Ok(host)), Ok(path), true) = (host, Prefix::parse("/"), domain.has("service"))
        {
            claims.see((host, path), &domain, "name");
        }
        check_service(&domain, services);
    }
}

fn check_service(table: &Section<'_>, services: Option<&Vec<&str>>) {
    let service = table.quiet_text("service").and_then(ServiceName::parse);
    if let (Some(service), Some(services)) = (service, services)
        && !services.contains(&service.as_str())
    {
        table.blame_unknown("service", "no [[service]] has this name", services);
    }
}

/// What may stand in one table of a list only.
struct Once<K> {
    what: &'static str,
    seen: HashMap<K, String>,
}

impl<K: Eq + Hash> Once<K> {
    fn new(what: &'static str) -> Once<K> {
        Once {
            what,
            seen: HashMap::new(),
        }
    }

    /// A mistake at `key` if an earlier table had the same.
    fn see(&mut self, value: K, table: &Section<'_>, key: &str) {
        match self.seen.get(&value) {
            None => {
                self.seen.insert(value, table.path().to_owned());
            }
            Some(first) => {
                table.blame_key(key, format!("the same {} as {first}", self.what));
            }
        }
    }
}
