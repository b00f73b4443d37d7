//! The high form: checked values, paths made absolute, defaults filled in. Nothing here can be invalid.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::routing::{
    GroupName, Groups, HostPattern, InFlightLimit, Limits, ListenerPolicy, Prefix, RetryPolicy,
    ServiceName, Timeouts,
};

/// A whole `rota.toml`.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: Node,
    pub admin: Admin,
    pub consul: Option<Consul>,
    pub acme: Option<Acme>,
    pub access_log: Option<AccessLog>,
    pub listeners: Vec<Listener>,
    pub services: Vec<ServiceEntry>,
    /// Those of domains with a service of their own are at the end.
    pub routes: Vec<RouteEntry>,
    pub domains: Vec<DomainEntry>,
    pub tuning: Tuning,
    /// Empty where there was no file.
    pub source: Arc<Source>,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub pod: Option<String>,
    pub workers: NonZeroUsize,
    pub state_dir: Option<PathBuf>,
    /// What all files of the journal may come to, in bytes; 0: there is none.
    pub journal: u64,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub address: AdminAddress,
    pub token_file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// `[consul]`, with what the environment adds. `Debug` never shows the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Consul {
    /// `http` or `https` and an authority: `http://127.0.0.1:8500`; or `unix:PATH` is not supported.
    pub address: String,
    /// No slash at either end.
    pub prefix: String,
    pub token: Option<ConsulToken>,
    pub ca_file: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub allow_upstreams: Vec<IpNet>,
    /// Blocking queries open at once to the agent; beyond it one watch over all services.
    pub connections: usize,
    /// How long a blocking query may hang.
    pub wait: Duration,
    pub tags: Tags,
}

/// Where the token comes from; a file is read again at each use, so that it can be rotated.
#[derive(Clone, PartialEq, Eq)]
pub enum ConsulToken {
    Value(String),
    File(PathBuf),
}

impl std::fmt::Debug for Consul {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consul")
            .field("address", &self.address)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// `[acme]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    pub primary: Directory,
    /// Asked in turn with the first one while that one fails by its own fault.
    pub fallback: Option<Directory>,
    /// `mailto:` URLs.
    pub contact: Vec<String>,
    /// Seals what rests in KV and in the state directory; there whenever there is `[consul]`.
    pub key_file: Option<PathBuf>,
    pub preflight: Preflight,
    /// Of names; wildcards are always proven by dns-01.
    pub challenge: Challenge,
    /// There whenever a name is proven by dns-01.
    pub dns_hook: Option<DnsHook>,
    pub key_type: KeyType,
    /// Orders that one registered domain may begin within a week; None: any number.
    pub domain_orders: Option<NonZeroUsize>,
    /// Orders that the account may begin within three hours; None: any number.
    pub account_orders: Option<NonZeroUsize>,
    /// How long a handshake waits for the certificate of a name that may have one; 0: not at all.
    pub wait: Duration,
}

/// One CA, `[acme]` or `[acme.fallback]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// `https`.
    pub url: String,
    /// None: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Which of the CA's kinds of certificates; None: its usual one.
    pub profile: Option<String>,
    pub eab: Option<Eab>,
}

/// `[acme.eab]`, external account binding (RFC 8555 section 7.3.4): the CA knows its customer by this key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eab {
    pub kid: String,
    pub hmac_file: PathBuf,
}

/// How a CA is shown that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Challenge {
    Http01,
    TlsAlpn01,
    Dns01,
}

/// The program that puts records into the DNS and takes them out again, and its first arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHook {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// Of certificates that are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    P256,
    P384,
    Rsa2048,
    Rsa4096,
}

/// Whether a name has to reach this pod before its certificate is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preflight {
    Require,
    Warn,
    Off,
}

/// A name that may have a certificate: lower case, without trailing dot, by construction; or a wildcard, `*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(pub(super) Box<str>);

impl DomainName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for DomainName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[[domain]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainEntry {
    pub name: DomainName,
    /// Gets all of the domain's requests, by a route of its own; None: routes say.
    pub service: Option<ServiceName>,
}

/// `[access_log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Stdout,
    File(PathBuf),
}

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub policy: Arc<ListenerPolicy>,
    /// The first one is for clients without SNI.
    pub certificates: Vec<CertificateFiles>,
    pub tls: ListenerTls,
}

/// What a listener asks of its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTls {
    pub policy: TlsPolicy,
    /// None: no certificate is asked for.
    pub clients: Option<ClientCertificates>,
}

/// `tls_policy`, by the names that Mozilla's recommendations have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsPolicy {
    /// TLS 1.2 with forward secrecy and AEAD, and 1.3.
    #[default]
    Intermediate,
    /// TLS 1.3 alone.
    Modern,
}

/// `client_ca` and `client_certificate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    pub ca: PathBuf,
    pub demand: Demand,
}

/// What becomes of a client that shows no certificate; one that shows a wrong one is refused in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It is refused.
    Require,
    /// It is served without a name.
    Request,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// `[[service]]`, or `config/services/<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub name: ServiceName,
    pub source: ServerSource,
    pub active: Option<ActiveCheck>,
    /// None: the pod-wide `[retry]`.
    pub retry: Option<RetryPolicy>,
    pub protocol: ServiceProtocol,
    pub tls: ServiceTls,
    pub pool: usize,
    pub in_flight: Option<InFlightLimit>,
    /// None: it is not divided, whatever groups its servers name.
    pub groups: Option<Groups>,
}

/// Where a service's servers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSource {
    Servers(Vec<ServerEntry>),
    Consul(ConsulService),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    pub host: ServerHost,
    pub port: u16,
    /// 1 to 65,535; 0: takes no turn.
    pub weight: u32,
    pub group: Option<GroupName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerHost {
    Ip(std::net::IpAddr),
    /// Resolved again on its TTL.
    Name(String),
}

/// `[consul]` `tags` and `tag_hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    pub grammar: TagGrammar,
    /// What tags may name: these, or what lies below a wildcard.
    pub hosts: Vec<HostPattern>,
}

/// Which tags of Consul's services make routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagGrammar {
    #[default]
    Off,
    /// `rota.host=…` and its kin.
    Rota,
    /// Those, and fabio's `urlprefix-…`.
    Fabio,
}

/// `consul = { service = "app", tag = "v2", datacenter = "dc1" }`: also the key of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConsulService {
    pub service: String,
    pub tag: Option<String>,
    pub datacenter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceProtocol {
    Http,
    Https,
    H2c,
    H2,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTls {
    pub ca: Option<PathBuf>,
    pub server_name: Option<String>,
}

/// `[service.health.active]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveCheck {
    /// None: a TCP connect.
    pub path: Option<String>,
    /// None: the server's own address.
    pub host: Option<String>,
    /// None: the server's port.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    pub fall: u32,
    pub rise: u32,
    /// Statuses that count as well, inclusive ranges; default 200 to 399.
    pub status: Vec<(u16, u16)>,
    pub headers: Vec<(String, String)>,
}

/// `[[route]]`, or `config/routes/<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// `name`, the document's name, or `host` + `path`.
    pub name: String,
    pub host: HostPattern,
    pub path: Prefix,
    pub service: ServiceName,
}

/// `[limits]`, `[timeouts]`, `[guard]`, `[retry]`: what `config/tuning` may set for the whole pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub guard: Guard,
    pub retry: RetryPolicy,
}

/// `[guard]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    pub window: Duration,
    /// A share from 0 to 1.
    pub max_loss: f64,
    pub deadline: Duration,
}

impl Eq for Guard {}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            window: Duration::from_secs(60),
            max_loss: 0.5,
            deadline: Duration::from_secs(600),
        }
    }
}
