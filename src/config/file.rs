//! A whole `rota.toml`: its tables one after the other, then what they must be to each other.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::environment::Environment;
use super::model::{AccessLog, Admin, AdminAddress, Config, Node, RouteEntry, Tuning};
use super::names::{PLAIN_NAME, plain_name};
use super::section::{Section, path_in};
use super::{acme, agent, listener, relations, route, service, tuning};

pub(super) const KEYS: &[&str] = &[
    "node",
    "admin",
    "consul",
    "access_log",
    "limits",
    "timeouts",
    "guard",
    "retry",
    "listener",
    "service",
    "route",
    "domain",
    "acme",
];

pub(super) const NODE: &[&str] = &["name", "pod", "workers", "state_dir", "journal"];

pub(super) const ADMIN: &[&str] = &["address", "token_file"];

pub(super) const ACCESS_LOG: &[&str] = &["path"];

/// More threads than this help nobody, and each has its own pool and sockets.
pub const MAX_WORKERS: usize = 256;

const DEFAULT_ADMIN: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    9900,
));

const DEFAULT_JOURNAL: u64 = 64 << 20;
const MOST_JOURNAL: u64 = 64 << 30;

/// What a Unix socket's path may have at most (`sun_path`, less its end).
const MAX_SOCKET_PATH: usize = 107;

/// Reads the whole file; None (and a mistake): a part without which there is no configuration is wrong.
pub(super) fn read(root: &Section<'_>, environment: &Environment) -> Option<Config> {
    let domains = read_each(root, "domain", acme::DOMAIN, |from| {
        acme::read_domain(from, None)
    });
    let mut routes = read_each(root, "route", route::KEYS, |from| route::read(from, None));
    routes.extend(domains.iter().filter_map(RouteEntry::of_domain));
    let config = Config {
        node: read_node(root, environment),
        admin: read_admin(root),
        consul: root
            .table("consul", agent::KEYS)
            .map(|consul| agent::read(&consul, environment)),
        acme: root
            .table("acme", acme::KEYS)
            .map(|table| acme::read(&table)),
        access_log: read_access_log(root),
        listeners: read_each(root, "listener", listener::KEYS, listener::read),
        services: read_each(root, "service", service::KEYS, |from| {
            service::read(from, None)
        }),
        routes,
        domains,
        tuning: tuning::read(root, &Tuning::default()),
        source: Arc::default(),
    };
    relations::check(root, &config);
    Some(config)
}

fn read_each<T>(
    root: &Section<'_>,
    key: &str,
    keys: &[&str],
    read: impl Fn(&Section<'_>) -> Option<T>,
) -> Vec<T> {
    root.list(key, &format!("tables, each below its [[{key}]]"))
        .iter()
        .filter_map(|part| read(&part.table(keys)?))
        .collect()
}

fn read_node(root: &Section<'_>, environment: &Environment) -> Node {
    let node = root.table("node", NODE);
    let node = node.as_ref();
    let written = node.is_some_and(|node| node.has("name"));
    let name = match written {
        true => node.and_then(|node| node.text("name", PLAIN_NAME, plain_name)),
        false => plain_name(&environment.host_name),
    };
    if !written && name.is_none() {
        let problem = format!("the host's name is no name: set node.name to {PLAIN_NAME}");
        root.report()
            .add_environment("host name", Some(&environment.host_name), &problem);
    }
    let workers = node.and_then(|node| node.number("workers", 1..=MAX_WORKERS));
    Node {
        name: name.unwrap_or_default(),
        pod: node.and_then(|node| node.text("pod", PLAIN_NAME, plain_name)),
        workers: workers
            .and_then(NonZeroUsize::new)
            .unwrap_or_else(|| environment.cores.min(most_workers())),
        state_dir: node.and_then(|node| node.file("state_dir")),
        journal: node
            .and_then(|node| node.size("journal", 0..=MOST_JOURNAL))
            .unwrap_or(DEFAULT_JOURNAL),
    }
}

fn most_workers() -> NonZeroUsize {
    NonZeroUsize::new(MAX_WORKERS).expect("the limit is not zero")
}

fn read_admin(root: &Section<'_>) -> Admin {
    let admin = root.table("admin", ADMIN);
    let admin = admin.as_ref();
    let expected = "an IP address with a port, such as \"127.0.0.1:9900\", or \"unix:PATH\" with a path of up to 107 bytes";
    let address = admin.and_then(|admin| {
        admin.text("address", expected, |text| {
            admin_address(text, admin.directory()?)
        })
    });
    Admin {
        address: address.unwrap_or(AdminAddress::Tcp(DEFAULT_ADMIN)),
        token_file: admin.and_then(|admin| admin.file("token_file")),
    }
}

fn admin_address(text: &str, directory: &Path) -> Option<AdminAddress> {
    let Some(path) = text.strip_prefix("unix:") else {
        return text.parse().ok().map(AdminAddress::Tcp);
    };
    let path: PathBuf = path_in(directory, path)?;
    (path.as_os_str().len() <= MAX_SOCKET_PATH).then_some(AdminAddress::Unix(path))
}

fn read_access_log(root: &Section<'_>) -> Option<AccessLog> {
    let log = root.table("access_log", ACCESS_LOG)?;
    let path = log.text(
        "path",
        "\"-\" for standard output, or a file's path",
        |text| match text {
            "-" => Some(AccessLog::Stdout),
            path => path_in(log.directory()?, path).map(AccessLog::File),
        },
    );
    Some(path.unwrap_or(AccessLog::Stdout))
}
