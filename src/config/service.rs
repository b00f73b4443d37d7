//! `[[service]]`, in the file or as a document: servers, probes, retry, what is spoken to them.

use std::collections::HashSet;
use std::time::Duration;

use super::active::read_health;
use super::groups;
use super::model::{
    ConsulService, ServerEntry, ServerSource, ServiceEntry, ServiceProtocol, ServiceTls,
};
use super::names::{PLAIN_NAME, SERVER_ADDRESS, certificate_name, plain_name, server_address};
use super::section::{Part, Section};
use super::tuning::{RETRY, SHORTEST, read_retry};
use super::written::Value;
use crate::routing::{InFlightLimit, RetryPolicy, ServiceName};

pub(super) const KEYS: &[&str] = &[
    "name",
    "servers",
    "consul",
    "health",
    "retry",
    "protocol",
    "tls",
    "pool",
    "max_in_flight",
    "queue",
    "queue_wait",
    "groups",
];

pub(super) const SERVER: &[&str] = &["address", "weight", "group"];

pub(super) const CONSUL: &[&str] = &["service", "tag", "datacenter"];

pub(super) const TLS: &[&str] = &["ca", "server_name"];

/// Idle connections to one server, over all workers.
pub(super) const DEFAULT_POOL: usize = 128;

const MAX_POOL: usize = 65_536;

/// Requests that wait for another one's end, and how long, where a service has a limit.
pub(super) const DEFAULT_QUEUE: usize = 100;
pub(super) const DEFAULT_QUEUE_WAIT: Duration = Duration::from_secs(1);

/// A queue that is longer in time only answers those who have given up.
const LONGEST_QUEUE_WAIT: Duration = Duration::from_secs(60);
const LONGEST_QUEUE: usize = 100_000;
const MAX_IN_FLIGHT: usize = 10_000_000;

/// A service has at most so many servers of its own.
pub const MAX_SERVERS: usize = 10_000;

/// Consul's own limit.
const MAX_WEIGHT: u32 = 65_535;

const PROTOCOLS: [(&str, ServiceProtocol); 4] = [
    ("http", ServiceProtocol::Http),
    ("https", ServiceProtocol::Https),
    ("h2c", ServiceProtocol::H2c),
    ("h2", ServiceProtocol::H2),
];

/// Reads a service; None (and a mistake): it has no name or no servers. `name` is the document's.
pub(super) fn read(from: &Section<'_>, name: Option<&ServiceName>) -> Option<ServiceEntry> {
    let name = read_name(from, name);
    let source = read_source(from);
    let active = read_health(from);
    let retry = from
        .table("retry", RETRY)
        .map(|retry| read_retry(&retry, &RetryPolicy::default()));
    let protocol = from
        .word("protocol", &PROTOCOLS)
        .unwrap_or(ServiceProtocol::Http);
    let tls = read_tls(from, protocol);
    let pool = from.number("pool", 0..=MAX_POOL).unwrap_or(DEFAULT_POOL);
    let groups = groups::read(from, source.as_ref());
    Some(ServiceEntry {
        name: name?,
        source: source?,
        active,
        retry,
        protocol,
        tls,
        pool,
        in_flight: read_in_flight(from),
        groups,
    })
}

/// None: no limit, whatever is said of the queue.
fn read_in_flight(from: &Section<'_>) -> Option<InFlightLimit> {
    let most = from.number("max_in_flight", 1..=MAX_IN_FLIGHT);
    let queue = from.number("queue", 0..=LONGEST_QUEUE);
    let wait = from.duration("queue_wait", SHORTEST..=LONGEST_QUEUE_WAIT);
    Some(InFlightLimit {
        most: most?,
        queue: queue.unwrap_or(DEFAULT_QUEUE),
        wait: wait.unwrap_or(DEFAULT_QUEUE_WAIT),
    })
}

/// The `name` key; in a document it may only repeat the document's name.
fn read_name(from: &Section<'_>, document: Option<&ServiceName>) -> Option<ServiceName> {
    let Some(document) = document else {
        from.need("name", PLAIN_NAME);
        return from.text("name", PLAIN_NAME, ServiceName::parse);
    };
    let expected = format!("\"{document}\", the document's own name, or nothing");
    from.text("name", &expected, |text| {
        (text == document.as_str()).then_some(())
    });
    Some(document.clone())
}

fn read_source(from: &Section<'_>) -> Option<ServerSource> {
    match (from.has("servers"), from.has("consul")) {
        (true, false) => read_servers(from).map(ServerSource::Servers),
        (false, true) => read_consul(from).map(ServerSource::Consul),
        (true, true) => {
            from.blame("both servers and consul: expected one of them");
            None
        }
        (false, false) => {
            from.blame("neither servers nor consul: expected one of them");
            None
        }
    }
}

/// None (and a mistake): no list, or an empty one.
fn read_servers(from: &Section<'_>) -> Option<Vec<ServerEntry>> {
    let parts = from.list("servers", "a list of servers");
    let is_empty_list = !from.has_parts("servers");
    if is_empty_list || parts.len() > MAX_SERVERS {
        from.blame_key("servers", format!("expected 1 to {MAX_SERVERS} servers"));
        return None;
    }
    let mut servers: Vec<ServerEntry> = Vec::with_capacity(parts.len());
    let mut seen = HashSet::with_capacity(parts.len());
    for part in &parts {
        let Some(server) = read_server(part) else {
            continue;
        };
        if seen.insert((server.host.clone(), server.port)) {
            servers.push(server);
        } else {
            part.blame("the same server twice: expected one with a weight");
        }
    }
    Some(servers)
}

/// `"host:port"` or `{ address = "host:port", weight = 2, group = "blue" }`.
fn read_server(part: &Part<'_>) -> Option<ServerEntry> {
    let ((host, port), weight, group) = match part.value() {
        Value::Table(_) => {
            let table = part.table(SERVER)?;
            table.need("address", SERVER_ADDRESS);
            let address = table.text("address", SERVER_ADDRESS, server_address);
            let weight = table.number("weight", 0..=MAX_WEIGHT).unwrap_or(1);
            (address?, weight, groups::read_group(&table))
        }
        Value::Text(text) => (
            part.read(SERVER_ADDRESS, |_| server_address(text))?,
            1,
            None,
        ),
        Value::Integer(_)
        | Value::Float(_)
        | Value::Flag(_)
        | Value::List(_)
        | Value::Foreign(_) => {
            part.blame(format!(
                "expected {SERVER_ADDRESS}, or {{ address, weight, group }}"
            ));
            return None;
        }
    };
    Some(ServerEntry {
        host,
        port,
        weight,
        group,
    })
}

fn read_consul(from: &Section<'_>) -> Option<ConsulService> {
    let consul = from.table("consul", CONSUL)?;
    consul.need("service", "the name of a service in Consul");
    let tag = |text: &str| {
        ((1..=256).contains(&text.len()) && !text.contains(char::is_control))
            .then(|| text.to_owned())
    };
    let tag = consul.text("tag", "1 to 256 characters", tag);
    let datacenter = consul.text("datacenter", PLAIN_NAME, plain_name);
    Some(ConsulService {
        service: consul.text("service", PLAIN_NAME, plain_name)?,
        tag,
        datacenter,
    })
}

fn read_tls(from: &Section<'_>, protocol: ServiceProtocol) -> ServiceTls {
    let Some(tls) = from.table("tls", TLS) else {
        return ServiceTls::default();
    };
    match protocol {
        ServiceProtocol::Https | ServiceProtocol::H2 => {}
        ServiceProtocol::Http | ServiceProtocol::H2c => {
            from.blame_key("tls", "only for protocol \"https\" or \"h2\"");
        }
    }
    ServiceTls {
        ca: tls.file("ca"),
        server_name: tls.text(
            "server_name",
            "a host name or an IP address, without port",
            certificate_name,
        ),
    }
}
