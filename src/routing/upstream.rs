//! One server of one service: who it is, whether it is fit, what was measured of it. It outlives snapshots. Hot path.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::measured::{Moment, UpstreamCell, WorkerId};
use super::service::ServiceName;

/// What makes two upstreams the same one.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct UpstreamKey {
    pub service: ServiceName,
    pub address: SocketAddr,
}

/// The reasons for being off the rota, one bit each; none overwrites another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Unfit {
    /// Consul's checks say critical.
    Check = 1,
    /// Our own probe fails.
    Probe = 2,
    /// Connections were refused. Set by the data plane at once.
    Refused = 4,
    /// Bad answers or timeouts in a row. Set by the data plane, at most for half of a service.
    Failing = 8,
    /// Drained by the operator, or in maintenance in Consul.
    Operator = 16,
    /// No longer in the newest table.
    Gone = 32,
}

/// What a worker saw of an upstream that passive health has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassiveFault {
    /// A connection was refused or unreachable.
    Refused,
    /// TLS could not be agreed on, or the certificate is not valid.
    Tls,
    /// Connecting took too long.
    ConnectTimeout,
    /// No answer within the deadline.
    Timeout,
    /// Reset or closed before an answer, cut in the middle, or not HTTP.
    Broken,
    /// An answer whose status the service's retry policy counts as a failure.
    Status(u16),
}

/// Sent to the control plane when the data plane ejected an upstream.
#[derive(Clone, Debug)]
pub struct PassiveReport {
    pub upstream: Arc<Upstream>,
    pub unfit: Unfit,
    pub fault: PassiveFault,
    /// Failures in a row at that moment.
    pub failures: u32,
}

/// Bad answers or timeouts in a row that eject.
pub const FAILURES_TO_EJECT: u32 = 5;
/// How long another route's success speaks for a server, in milliseconds.
const OTHERS_FIND_WELL_MS: u64 = 10_000;

/// What a request touches lies in its first cache line: of a thousand servers each is asked for once in a thousand requests.
#[repr(C, align(64))]
pub struct Upstream {
    /// Unique in the process; keys the workers' pools.
    number: u64,
    /// The two routes whose last success is the most recent: `route << 40 | (moment in ms)`; 0 = none.
    successes: [AtomicU64; 2],
    /// `address:port` as people and metrics name it; with the host name in front if it was given as one.
    label: Arc<str>,
    cells: Box<[UpstreamCell]>,
    failures: AtomicU32,
    unfit: AtomicU8,
    key: UpstreamKey,
}

impl Upstream {
    pub fn new(key: UpstreamKey, number: u64, label: Arc<str>, workers: usize) -> Upstream {
        let cells = (0..workers).map(|_| UpstreamCell::default()).collect();
        Upstream {
            key,
            number,
            label,
            unfit: AtomicU8::new(0),
            failures: AtomicU32::new(0),
            successes: [AtomicU64::new(0), AtomicU64::new(0)],
            cells,
        }
    }

    pub fn key(&self) -> &UpstreamKey {
        &self.key
    }
    pub fn address(&self) -> SocketAddr {
        self.key.address
    }
    pub fn number(&self) -> u64 {
        self.number
    }
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }
    pub fn cell(&self, worker: WorkerId) -> &UpstreamCell {
        &self.cells[worker.0]
    }
    pub fn cells(&self) -> &[UpstreamCell] {
        &self.cells
    }

    /// On the rota: nothing speaks against it.
    pub fn is_fit(&self) -> bool {
        self.unfit.load(Relaxed) == 0
    }

    /// Fit but for a check's word (Consul's or our probe's): serves when nobody is fit.
    pub fn is_fit_in_panic(&self) -> bool {
        self.unfit.load(Relaxed) & !(Unfit::Check as u8 | Unfit::Probe as u8) == 0
    }

    /// Fit but for having left the newest table: a request that goes by an older one may still go there.
    pub fn is_fit_but_gone(&self) -> bool {
        self.unfit.load(Relaxed) == Unfit::Gone as u8
    }

    pub fn has(&self, reason: Unfit) -> bool {
        self.unfit.load(Relaxed) & reason as u8 != 0
    }

    /// Sets one reason; true if it was not set before.
    pub fn set(&self, reason: Unfit) -> bool {
        self.unfit.fetch_or(reason as u8, Relaxed) & reason as u8 == 0
    }

    /// Clears one reason; true if it was set before.
    pub fn clear(&self, reason: Unfit) -> bool {
        self.unfit.fetch_and(!(reason as u8), Relaxed) & reason as u8 != 0
    }

    /// A whole answer came that is no failure. `route` is [`super::Route::number`].
    pub fn succeeded(&self, route: u32, now: Moment) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        let entry = success(route, now);
        let [first, second] = &self.successes;
        let slot = match (first.load(Relaxed), second.load(Relaxed)) {
            (a, _) if a == entry => return,
            (a, _) if route_of(a) == Some(route) => first,
            (_, b) if route_of(b) == Some(route) => second,
            (a, b) if moment_of(a) <= moment_of(b) => first,
            _ => second,
        };
        slot.store(entry, Relaxed);
    }

    /// One more failure in a row: true when there are enough of them, and no other route found the server well of late.
    pub fn failed(&self, route: u32, now: Moment) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        failures >= FAILURES_TO_EJECT && !self.others_find_well(route, now)
    }

    /// Failures in a row, since the last success.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// Back from an ejection: the count begins anew.
    pub fn forgive(&self) {
        self.failures.store(0, Relaxed);
    }

    fn others_find_well(&self, route: u32, now: Moment) -> bool {
        self.successes
            .iter()
            .map(|slot| slot.load(Relaxed))
            .any(|entry| {
                route_of(entry).is_some_and(|other| other != route & ROUTE_MASK)
                    && now.0.saturating_sub(moment_of(entry)) < OTHERS_FIND_WELL_MS
            })
    }
}

const MOMENT_BITS: u32 = 40;
const ROUTE_MASK: u32 = (1 << 23) - 1;

/// One word: a set bit, the route's number (23 bits), the moment (40 bits of milliseconds, 34 years).
fn success(route: u32, now: Moment) -> u64 {
    1 << 63 | u64::from(route & ROUTE_MASK) << MOMENT_BITS | (now.0 & ((1 << MOMENT_BITS) - 1))
}

fn route_of(entry: u64) -> Option<u32> {
    (entry != 0).then_some((entry >> MOMENT_BITS) as u32 & ROUTE_MASK)
}

fn moment_of(entry: u64) -> u64 {
    entry & ((1 << MOMENT_BITS) - 1)
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({}/{})", self.key.service, self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> Upstream {
        let key = UpstreamKey {
            service: "app".into(),
            address: "127.0.0.1:1".parse().unwrap(),
        };
        Upstream::new(key, 1, "127.0.0.1:1".into(), 1)
    }

    #[test]
    fn signals_do_not_overwrite_one_another() {
        let upstream = upstream();
        assert!(
            upstream.set(Unfit::Check)
                && upstream.set(Unfit::Refused)
                && !upstream.set(Unfit::Refused)
        );
        assert!(!upstream.is_fit_in_panic());
        upstream.clear(Unfit::Refused);
        assert!(!upstream.is_fit() && upstream.is_fit_in_panic());
        upstream.clear(Unfit::Check);
        assert!(upstream.is_fit());
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let upstream = upstream();
        assert!((1..FAILURES_TO_EJECT).all(|_| !upstream.failed(7, Moment(50))));
        assert!(upstream.failed(7, Moment(50)));
        upstream.succeeded(7, Moment(51));
        assert!(!upstream.failed(7, Moment(52)));
    }

    #[test]
    fn one_routes_failures_do_not_eject_what_another_route_finds_well() {
        let upstream = upstream();
        upstream.succeeded(1, Moment(1_000));
        assert!((0..100).all(|_| !upstream.failed(2, Moment(2_000))));
        assert!(
            upstream.failed(2, Moment(12_000)),
            "the other route's word is too old"
        );
        assert!(
            upstream.failed(1, Moment(2_000)),
            "a route does not speak for itself"
        );
    }
}
