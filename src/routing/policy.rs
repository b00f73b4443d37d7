//! The numbers that tune the data plane, with their defaults: limits, timeouts, retry, and what a listener is told.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

const KIB: u64 = 1024;

/// `[limits]`: what is refused or made to wait, in bytes and counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections; accept pauses there.
    pub connections: usize,
    /// Those of one client address (IPv4) or network of 64 bits (IPv6): closed at once beyond; 0: no limit.
    pub connections_per_client: usize,
    /// A request head: 431 beyond; an answer's head: 502 beyond.
    pub head_bytes: usize,
    /// Fields of a head: 431 beyond.
    pub head_fields: usize,
    /// A request target: 414 beyond.
    pub target_bytes: usize,
    /// A request body: 413 beyond; None: no limit.
    pub body_bytes: Option<u64>,
    /// Bytes a second of a request body, averaged over `timeouts.body`; slower: 408.
    pub body_rate: u64,
    /// Idle connections to servers in the whole process; beyond it the oldest is closed.
    pub pool: usize,
    /// TLS handshakes that wait for a certificate that is being ordered; beyond it they are refused at once.
    pub waiting_handshakes: usize,
    /// TLS handshakes under way at once on one worker, from their ClientHello on: closed at once beyond; 0: no limit.
    pub handshakes: usize,
    /// Those of one client, as in `connections_per_client`.
    pub handshakes_per_client: usize,
    /// Answers that wait for HTTP/2 clients to take more; beyond it those are cut that have waited for a second.
    pub stalled_answers: usize,
    /// Requests that failed or were sent again, held for `rota why ID`; beyond it the oldest go. 0: none.
    pub noted_requests: usize,
    /// How late a worker's loop may be, thrice in a row, before it refuses new connections; zero: as late as it likes.
    pub loop_lag: Duration,
}

/// The most fields a head may have, whatever `head_fields` says.
pub const MAX_HEAD_FIELDS: usize = 256;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 20_000,
            // Three quarters of the above: one address takes not all of it, and the largest NATs have as many behind them.
            connections_per_client: 15_000,
            head_bytes: (64 * KIB) as usize,
            head_fields: 100,
            target_bytes: (16 * KIB) as usize,
            body_bytes: None,
            body_rate: 256,
            pool: 4096,
            waiting_handshakes: 256,
            // A third of a second of a core's work.
            handshakes: 1000,
            handshakes_per_client: 500,
            stalled_answers: 4096,
            noted_requests: 4096,
            loop_lag: Duration::from_millis(500),
        }
    }
}

/// `[timeouts]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept (TLS included) or a request's first byte to the end of its head: 408.
    pub head: Duration,
    /// Without a byte of the client's body, or of progress in sending to the client.
    pub body: Duration,
    /// An idle client connection.
    pub keep_alive: Duration,
    /// Connecting to a server (TLS included).
    pub connect: Duration,
    /// From request sent to response head, over all attempts: 504; between bytes of its body: cut.
    pub response: Duration,
    /// Without a byte either way, for WebSockets and streams whose answer has begun.
    pub tunnel: Duration,
    /// An idle connection to a server is closed after this.
    pub pool_idle: Duration,
    /// A connection to a server is not used again past this age.
    pub pool_age: Duration,
    /// Readiness false, still accepting.
    pub drain_delay: Duration,
    /// Then finish what is in flight.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            tunnel: Duration::from_secs(3600),
            pool_idle: Duration::from_secs(60),
            pool_age: Duration::from_secs(3600),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}

/// `[retry]` and `[service.retry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// On other servers, beyond the first; 0: never.
    pub attempts: u32,
    /// Statuses of idempotent requests' answers that count as a failure and are tried elsewhere.
    pub statuses: Box<[u16]>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 2,
            statuses: Box::new([]),
        }
    }
}

/// `service.max_in_flight`, `service.queue`, `service.queue_wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlightLimit {
    /// Requests under way at once, over all workers.
    pub most: usize,
    /// Those that wait for one of them to end: 503 beyond.
    pub queue: usize,
    /// How long one waits: then 503.
    pub wait: Duration,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Answer everything with 308 to HTTPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The port that the Location names; None: no port.
    pub port: Option<u16>,
}

/// What a listener does with its connections. Read anew for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPolicy {
    /// Its name, or its address where it has none: the metric label and the key by which workers find it.
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub scheme: Scheme,
    pub redirect: Option<Redirect>,
    /// Whose X-Forwarded-* and X-Request-Id are believed.
    pub trusted_proxies: Arc<[IpNet]>,
    pub proxy_protocol: bool,
}

impl ListenerPolicy {
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies
            .iter()
            .any(|net| net.contains(&peer.to_canonical()))
    }
}
