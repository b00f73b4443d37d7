//! Counters of the process itself: one set of cells per worker, written by it alone. Hot path.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use super::fleet::FleetVitals;
use super::noted::Noted;
use super::outcome::Reason;
use crate::routing::measured::Counter;

/// How a TLS handshake ended, by label: version × resumed, and failures by cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Tls13Full,
    Tls13Resumed,
    Tls12Full,
    Tls12Resumed,
    /// The name was unknown (`unrecognized_name`).
    UnknownName,
    /// The name may have a certificate, which did not come in time (`unrecognized_name`).
    NotYet,
    /// The same, refused at once: `limits.waiting_handshakes` waited already.
    TooManyWaiting,
    /// Closed at its ClientHello: `limits.handshakes` or `limits.handshakes_per_client` were under way.
    TooMany,
    /// The client showed no certificate that is believed, where its listener asks for one.
    ClientCertificate,
    /// A CA's, who was shown a proof for a name.
    Proof,
    TimedOut,
    Failed,
}

impl Handshake {
    pub const ALL: [Handshake; 12] = [
        Handshake::Tls13Full,
        Handshake::Tls13Resumed,
        Handshake::Tls12Full,
        Handshake::Tls12Resumed,
        Handshake::UnknownName,
        Handshake::NotYet,
        Handshake::TooManyWaiting,
        Handshake::TooMany,
        Handshake::ClientCertificate,
        Handshake::Proof,
        Handshake::TimedOut,
        Handshake::Failed,
    ];

    /// `(version, resumed, outcome)` as the metric labels them.
    pub fn labels(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Handshake::Tls13Full => ("1.3", "false", "ok"),
            Handshake::Tls13Resumed => ("1.3", "true", "ok"),
            Handshake::Tls12Full => ("1.2", "false", "ok"),
            Handshake::Tls12Resumed => ("1.2", "true", "ok"),
            Handshake::UnknownName => ("", "false", "unrecognized_name"),
            Handshake::NotYet => ("", "false", "no_certificate_yet"),
            Handshake::TooManyWaiting => ("", "false", "too_many_waiting"),
            Handshake::TooMany => ("", "false", "too_many"),
            Handshake::ClientCertificate => ("", "false", "client_certificate"),
            Handshake::Proof => ("", "false", "proof"),
            Handshake::TimedOut => ("", "false", "timeout"),
            Handshake::Failed => ("", "false", "failed"),
        }
    }
}

/// Kinds of HTTP/2 frames (RFC 9113 section 6) that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    Ping,
    WindowUpdate,
    Continuation,
    /// GOAWAY, PRIORITY_UPDATE, and what nobody knows.
    Other,
}

impl FrameKind {
    pub const ALL: [FrameKind; 9] = [
        FrameKind::Data,
        FrameKind::Headers,
        FrameKind::Priority,
        FrameKind::RstStream,
        FrameKind::Settings,
        FrameKind::Ping,
        FrameKind::WindowUpdate,
        FrameKind::Continuation,
        FrameKind::Other,
    ];

    /// By the number on the wire.
    pub fn of(number: u8) -> FrameKind {
        match number {
            0 => FrameKind::Data,
            1 => FrameKind::Headers,
            2 => FrameKind::Priority,
            3 => FrameKind::RstStream,
            4 => FrameKind::Settings,
            6 => FrameKind::Ping,
            8 => FrameKind::WindowUpdate,
            9 => FrameKind::Continuation,
            _ => FrameKind::Other,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            FrameKind::Data => "data",
            FrameKind::Headers => "headers",
            FrameKind::Priority => "priority",
            FrameKind::RstStream => "rst_stream",
            FrameKind::Settings => "settings",
            FrameKind::Ping => "ping",
            FrameKind::WindowUpdate => "window_update",
            FrameKind::Continuation => "continuation",
            FrameKind::Other => "other",
        }
    }
}

/// One listener on one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerCells {
    pub accepted: Counter,
    pub closed: Counter,
    handshakes: [Counter; Handshake::ALL.len()],
}

impl ListenerCells {
    pub fn handshake(&self, outcome: Handshake) {
        self.handshakes[outcome as usize].add(1);
    }
    pub fn handshakes(&self, outcome: Handshake) -> u64 {
        self.handshakes[outcome as usize].value()
    }
}

/// One worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerVitals {
    /// By listener name; a worker adds a listener when it opens it.
    listeners: Mutex<Vec<(Arc<str>, Arc<ListenerCells>)>>,
    /// Nanoseconds that the worker's thread spent on the CPU.
    pub busy_ns: AtomicU64,
    /// The share of the last sampling window that the thread was busy, in thousandths; written by [`super::busy::Sampler`].
    pub busy_permille: AtomicU64,
    /// Requests that began: each ends with a [`Reason`], what has not yet is under way.
    pub requests: Counter,
    /// Requests that ended by [`Reason`], service or not.
    reasons: [Counter; Reason::ALL.len()],
    /// Those that failed or were sent again.
    pub noted: Noted,
    /// HTTP/2 connections ended with ENHANCE_YOUR_CALM, by the last frame that came.
    calmed: [Counter; FrameKind::ALL.len()],
    /// Heads over HTTP/2 that were refused before they were a request.
    pub heads_refused: Counter,
    pub panics: Counter,
    /// Accept paused: `limits.connections` reached, or as many as there are descriptors for.
    pub accept_paused: Counter,
    /// Connections closed at once: `limits.connections_per_client` reached.
    pub crowded: Counter,
    /// Connections closed at once since the worker did not keep up (`limits.loop_lag`).
    pub shed: Counter,
    /// How late the worker's loop last came to a tick, in microseconds.
    pub lag_us: AtomicU64,
    /// Accept failed for want of descriptors or memory.
    pub accept_failed: Counter,
    /// Connections refused since they began with no PROXY header from a trusted address.
    pub proxy_refused: Counter,
    /// Connections closed at once at their end, since too many others were read from at theirs.
    pub linger_skipped: Counter,
    /// Answers that wait for HTTP/2 clients, and those cut since too many did.
    pub stalled: AtomicI64,
    pub stalled_cut: Counter,
    /// HTTP/2 connections closed since their clients took nothing of what was held for them.
    pub stuck: Counter,
    pub pool_idle: AtomicI64,
    /// Connections to servers taken from the pool, and those found closed in it.
    pub pool_reused: Counter,
    pub pool_stale: Counter,
}

impl WorkerVitals {
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerCells> {
        let mut listeners = self.listeners.lock().expect("no panic while held");
        if let Some((_, cells)) = listeners.iter().find(|(known, _)| known == name) {
            return cells.clone();
        }
        let cells = Arc::new(ListenerCells::default());
        listeners.push((name.clone(), cells.clone()));
        cells
    }

    pub fn listeners(&self) -> Vec<(Arc<str>, Arc<ListenerCells>)> {
        self.listeners.lock().expect("no panic while held").clone()
    }

    pub fn ended(&self, reason: Reason) {
        self.reasons[reason as usize].add(1);
    }
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize].value()
    }

    pub fn calm(&self, frame: FrameKind) {
        self.calmed[frame as usize].add(1);
    }
    pub fn calmed(&self, frame: FrameKind) -> u64 {
        self.calmed[frame as usize].value()
    }
}

/// What operators ask about documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    Plan,
    Apply,
    Rollback,
    Shift,
}

impl Staged {
    pub const ALL: [Staged; 4] = [Staged::Plan, Staged::Apply, Staged::Rollback, Staged::Shift];

    pub fn label(self) -> &'static str {
        match self {
            Staged::Plan => "plan",
            Staged::Apply => "apply",
            Staged::Rollback => "rollback",
            Staged::Shift => "shift",
        }
    }
}

/// The whole process: shared by planes that never import one another.
#[derive(Debug)]
pub struct Vitals {
    pub started: std::time::Instant,
    /// The same moment by the wall clock.
    pub started_at: std::time::SystemTime,
    pub workers: Box<[WorkerVitals]>,
    /// Unix milliseconds of the last good answer from Consul; 0: never, or no Consul configured.
    pub discovery_contact_ms: AtomicI64,
    /// The same of what was kept before the start; 0: nothing was.
    discovery_remembered_ms: AtomicI64,
    pub discovery_configured: AtomicBool,
    /// Watches that are failing now.
    pub discovery_failing: AtomicI64,
    pub fleet: FleetVitals,
    /// Kinds of documents that were heard and wait.
    pub documents_held: AtomicI64,
    /// What was asked about documents, carried out and refused.
    staged: [[AtomicU64; 2]; Staged::ALL.len()],
    pub access_log_dropped: AtomicU64,
    /// Records that did not come into the journal.
    pub journal_lost: AtomicU64,
    pub access_log_failed: AtomicU64,
    /// Certificates that a CA issued, and orders that came to nothing.
    pub acme_issued: AtomicU64,
    pub acme_failed: AtomicU64,
    /// Canaries that this load balancer ended.
    pub canaries_promoted: AtomicU64,
    pub canaries_rolled_back: AtomicU64,
    pub reloads: AtomicU64,
    pub reloads_failed: AtomicU64,
    /// Files of the state directory that could not be written.
    pub state_failed: AtomicU64,
}

impl Vitals {
    pub fn new(workers: usize) -> Vitals {
        Vitals {
            started: std::time::Instant::now(),
            started_at: std::time::SystemTime::now(),
            workers: (0..workers).map(|_| WorkerVitals::default()).collect(),
            discovery_contact_ms: AtomicI64::new(0),
            discovery_remembered_ms: AtomicI64::new(0),
            discovery_configured: AtomicBool::new(false),
            discovery_failing: AtomicI64::new(0),
            fleet: FleetVitals::default(),
            documents_held: AtomicI64::new(0),
            staged: Default::default(),
            access_log_dropped: AtomicU64::new(0),
            journal_lost: AtomicU64::new(0),
            access_log_failed: AtomicU64::new(0),
            acme_issued: AtomicU64::new(0),
            acme_failed: AtomicU64::new(0),
            canaries_promoted: AtomicU64::new(0),
            canaries_rolled_back: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            state_failed: AtomicU64::new(0),
        }
    }

    /// The time of day as this process counts it: by the wall clock at its start and what went by since. What has a since or an age
    /// goes by it, so that a wall clock that is set while rota runs makes nothing older or younger.
    pub fn now(&self) -> std::time::SystemTime {
        self.started_at + self.started.elapsed()
    }

    /// Milliseconds from the process's start to `at`, plus one: never 0.
    pub fn moment(&self, at: std::time::Instant) -> crate::routing::Moment {
        let since = at.saturating_duration_since(self.started);
        crate::routing::Moment(since.as_millis() as u64 + 1)
    }

    /// One was carried out, or not.
    pub fn was_staged<T, E>(&self, staged: Staged, result: &Result<T, E>) {
        self.staged[staged as usize][usize::from(result.is_err())].fetch_add(1, Relaxed);
    }

    /// How many were carried out, and how many refused.
    pub fn staged(&self, staged: Staged) -> (u64, u64) {
        let [done, refused] = &self.staged[staged as usize];
        (done.load(Relaxed), refused.load(Relaxed))
    }

    pub fn set_discovery_contact(&self, unix_ms: i64) {
        self.discovery_contact_ms.store(unix_ms, Relaxed);
    }

    /// What is known is of this moment, until Consul answers.
    pub fn remember_discovery(&self, unix_ms: i64) {
        self.discovery_remembered_ms.store(unix_ms, Relaxed);
        self.set_discovery_contact(unix_ms);
    }

    /// Unix milliseconds of what is remembered, while Consul has not answered since the start.
    pub fn discovery_remembered_ms(&self) -> Option<i64> {
        let remembered = self.discovery_remembered_ms.load(Relaxed);
        let is_all = remembered == self.discovery_contact_ms.load(Relaxed);
        (remembered > 0 && is_all).then_some(remembered)
    }
}
