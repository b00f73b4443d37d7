//! What workers measure: one cell per worker, written by that worker alone, read by whoever renders metrics. Hot path.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::admission::Admission;

/// Which worker: 0 to workers − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(pub usize);

/// Milliseconds since the process started, on a clock that never goes back. Never 0 for a real moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

/// A request's method as metrics count it (bounded) and as retry asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Other,
}

impl Method {
    pub const ALL: [Method; 8] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Options,
        Method::Patch,
        Method::Other,
    ];

    pub fn parse(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            _ => Method::Other,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Other => "other",
        }
    }

    /// RFC 9110 section 9.2.2. Unknown methods are not.
    pub fn is_idempotent(self) -> bool {
        match self {
            Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options => true,
            Method::Post | Method::Patch | Method::Other => false,
        }
    }
}

/// A counter with one writer: a plain add, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of `rota_request_duration_seconds`, in microseconds; beyond the last is `+Inf`.
pub const DURATION_BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// How many `(method, code)` pairs a worker counts for one service; more are counted as other methods with code 0.
const CODE_SLOTS: usize = 64;

/// One worker's counts of one service.
#[repr(align(128))]
#[derive(Debug)]
pub struct ServiceCell {
    codes: [(AtomicU32, Counter); CODE_SLOTS],
    surplus: Counter,
    durations: [Counter; DURATION_BOUNDS_US.len() + 1],
    pub duration_sum_us: Counter,
    pub retries: Counter,
    pub retries_denied: Counter,
    turn: AtomicU64,
    budget: RetryBudget,
}

impl ServiceCell {
    fn new(retry_start_tenths: u64) -> ServiceCell {
        ServiceCell {
            codes: std::array::from_fn(|_| (AtomicU32::new(0), Counter::default())),
            surplus: Counter::default(),
            durations: std::array::from_fn(|_| Counter::default()),
            duration_sum_us: Counter::default(),
            retries: Counter::default(),
            retries_denied: Counter::default(),
            turn: AtomicU64::new(0),
            budget: RetryBudget::new(retry_start_tenths),
        }
    }

    /// Counts one request that ended with `code` (0 = no answer was sent) after `duration_us` microseconds.
    pub fn record(&self, method: Method, code: u16, duration_us: u64) {
        let key = (u32::from(code) << 8 | method as u32) + 1;
        let home = (key as usize).wrapping_mul(31) % CODE_SLOTS;
        let slot = (0..CODE_SLOTS)
            .map(|step| &self.codes[(home + step) % CODE_SLOTS])
            .find(|(taken, _)| matches!(taken.load(Relaxed), other if other == key || other == 0));
        match slot {
            Some((taken, count)) => {
                taken.store(key, Relaxed);
                count.add(1);
            }
            None => self.surplus.add(1),
        }
        let bucket = DURATION_BOUNDS_US
            .iter()
            .position(|&bound| duration_us <= bound)
            .unwrap_or(DURATION_BOUNDS_US.len());
        self.durations[bucket].add(1);
        self.duration_sum_us.add(duration_us);
    }

    /// `(method, code, count)` of what was recorded; a pair may come twice.
    pub fn codes(&self) -> impl Iterator<Item = (Method, u16, u64)> + '_ {
        let surplus = self.surplus.value();
        let surplus = (surplus > 0).then_some((Method::Other, 0, surplus));
        let counted = self.codes.iter().filter_map(|(taken, count)| {
            let key = taken.load(Relaxed).checked_sub(1)?;
            Some((
                Method::ALL[(key & 0xff) as usize],
                (key >> 8) as u16,
                count.value(),
            ))
        });
        counted.chain(surplus)
    }

    /// Counts per bucket of [`DURATION_BOUNDS_US`], the last one beyond them; not cumulative.
    pub fn durations(&self) -> impl Iterator<Item = u64> + '_ {
        self.durations.iter().map(Counter::value)
    }

    /// Takes the next position in this worker's walk through the turn order.
    pub fn next_turn(&self) -> u64 {
        let position = self.turn.load(Relaxed);
        self.turn.store(position.wrapping_add(1), Relaxed);
        position
    }

    pub fn budget(&self) -> &RetryBudget {
        &self.budget
    }
}

/// Keeps retries within 20 % of requests over 10 s, starting with 100 (divided among workers): a token bucket that each request
/// fills by a fifth and each retry empties by one, capped at the larger of its start and a fifth of the last window's requests.
#[derive(Debug)]
pub struct RetryBudget {
    fifths: AtomicU64,
    start_fifths: u64,
    window: AtomicU64,
    requests: AtomicU64,
    before: AtomicU64,
}

/// The span over which the retry budget looks back, in milliseconds.
const BUDGET_WINDOW_MS: u64 = 10_000;
/// Retries a service may spend before any request earned one, over all workers.
pub const RETRY_BUDGET_START: u64 = 100;

impl RetryBudget {
    fn new(start: u64) -> RetryBudget {
        let start_fifths = start.max(1) * 5;
        RetryBudget {
            fifths: AtomicU64::new(start_fifths),
            start_fifths,
            window: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            before: AtomicU64::new(0),
        }
    }

    /// A request came: earns a fifth of a retry.
    pub fn earn(&self, now: Moment) {
        let window = now.0 / BUDGET_WINDOW_MS;
        let known = self.window.load(Relaxed);
        if window != known {
            let last = if window == known + 1 {
                self.requests.load(Relaxed)
            } else {
                0
            };
            self.before.store(last, Relaxed);
            self.requests.store(0, Relaxed);
            self.window.store(window, Relaxed);
        }
        let requests = self.requests.load(Relaxed) + 1;
        self.requests.store(requests, Relaxed);
        let cap = self
            .start_fifths
            .max(requests.max(self.before.load(Relaxed)));
        self.fifths
            .store((self.fifths.load(Relaxed) + 1).min(cap), Relaxed);
    }

    /// Spends one retry; false when there is none left.
    pub fn spend(&self) -> bool {
        let fifths = self.fifths.load(Relaxed);
        if fifths < 5 {
            return false;
        }
        self.fifths.store(fifths - 5, Relaxed);
        true
    }
}

/// All workers' counts of one service; outlives snapshots.
#[derive(Debug)]
pub struct ServiceMeasured {
    cells: Box<[ServiceCell]>,
    /// Of a service with a limit; the only count of a service that all workers write.
    pub admission: Admission,
}

impl ServiceMeasured {
    pub fn new(workers: usize) -> ServiceMeasured {
        let start = RETRY_BUDGET_START / workers.max(1) as u64;
        ServiceMeasured {
            cells: (0..workers).map(|_| ServiceCell::new(start)).collect(),
            admission: Admission::default(),
        }
    }
    pub fn of(&self, worker: WorkerId) -> &ServiceCell {
        &self.cells[worker.0]
    }
    pub fn cells(&self) -> &[ServiceCell] {
        &self.cells
    }
}

/// How one attempt at an upstream ended, as `rota_upstream_requests_total{outcome}` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// An answer came whole, its status below 500.
    Ok,
    /// An answer came whole, its status 500 or above.
    ServerError,
    ConnectRefused,
    ConnectTimeout,
    /// Reset, closed before the answer, or not HTTP.
    Broken,
    /// No answer within the deadline.
    Timeout,
    /// Cut in the middle of the answer's body.
    Truncated,
    /// The client went away first.
    Aborted,
}

impl AttemptOutcome {
    pub const ALL: [AttemptOutcome; 8] = [
        AttemptOutcome::Ok,
        AttemptOutcome::ServerError,
        AttemptOutcome::ConnectRefused,
        AttemptOutcome::ConnectTimeout,
        AttemptOutcome::Broken,
        AttemptOutcome::Timeout,
        AttemptOutcome::Truncated,
        AttemptOutcome::Aborted,
    ];

    pub fn label(self) -> &'static str {
        match self {
            AttemptOutcome::Ok => "ok",
            AttemptOutcome::ServerError => "server_error",
            AttemptOutcome::ConnectRefused => "connect_refused",
            AttemptOutcome::ConnectTimeout => "connect_timeout",
            AttemptOutcome::Broken => "broken",
            AttemptOutcome::Timeout => "timeout",
            AttemptOutcome::Truncated => "truncated",
            AttemptOutcome::Aborted => "aborted",
        }
    }
}

/// One worker's counts of one upstream.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct UpstreamCell {
    outcomes: [Counter; AttemptOutcome::ALL.len()],
    in_flight: AtomicU32,
    pub connects: Counter,
}

impl UpstreamCell {
    pub fn record(&self, outcome: AttemptOutcome) {
        self.outcomes[outcome as usize].add(1);
    }
    pub fn outcome(&self, outcome: AttemptOutcome) -> u64 {
        self.outcomes[outcome as usize].value()
    }
    pub fn begin(&self) {
        self.in_flight
            .store(self.in_flight.load(Relaxed) + 1, Relaxed);
    }
    pub fn end(&self) {
        self.in_flight
            .store(self.in_flight.load(Relaxed).saturating_sub(1), Relaxed);
    }
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_by_method_and_code() {
        let measured = ServiceMeasured::new(1);
        let cell = measured.of(WorkerId(0));
        cell.record(Method::Get, 200, 900);
        cell.record(Method::Get, 200, 700_000_000);
        cell.record(Method::Post, 503, 10);
        let mut codes: Vec<_> = cell.codes().map(|(m, c, n)| (m.label(), c, n)).collect();
        codes.sort();
        assert_eq!(codes, [("GET", 200, 2), ("POST", 503, 1)]);
        assert_eq!(cell.durations().sum::<u64>(), 3);
    }

    #[test]
    fn no_request_is_lost_whatever_codes_its_servers_invent() {
        let measured = ServiceMeasured::new(1);
        let cell = measured.of(WorkerId(0));
        (100..600).for_each(|code| cell.record(Method::Get, code, 1));
        assert_eq!(cell.codes().map(|(_, _, count)| count).sum::<u64>(), 500);
    }

    #[test]
    fn retries_stay_within_a_fifth_of_requests_after_the_start() {
        let budget = RetryBudget::new(100);
        assert_eq!((0..1000).filter(|_| budget.spend()).count(), 100);
        (0..1000).for_each(|_| budget.earn(Moment(1)));
        assert_eq!((0..1000).filter(|_| budget.spend()).count(), 200);
    }
}
