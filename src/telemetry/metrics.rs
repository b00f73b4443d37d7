//! `/metrics`, rendered by walking the snapshot and the vitals at scrape time. The only door to the prometheus crate.
//!
//! Nothing is registered and nothing is kept between scrapes: the counters live in the cells that workers write, so a series
//! ends with its server and goes on over table swaps.

pub mod families;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use self::families::{Family, Kind};
use super::fleet::FleetFault;
use super::outcome::Reason;
use super::process;
use super::vitals::{FrameKind, Handshake, Staged, Vitals};
use crate::routing::measured::{AttemptOutcome, DURATION_BOUNDS_US};
use crate::routing::{Member, Service, Signal, Snapshot, Verdict};

/// The Content-Type of what [`render`] gives.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The text exposition format. `certificates` gives a name and when its certificate ends (Unix seconds). Takes milliseconds
/// with thousands of servers: to be called on a blocking thread.
pub fn render(
    snapshot: &Snapshot,
    certificates: impl Iterator<Item = (String, i64)>,
    vitals: &Vitals,
) -> String {
    let mut page = Page::default();
    for service in snapshot.services.values() {
        service_samples(&mut page, service);
        for member in &service.members {
            member_samples(&mut page, service.name.as_str(), member);
        }
    }
    table_samples(&mut page, snapshot);
    certificate_samples(&mut page, certificates);
    worker_samples(&mut page, vitals);
    listener_samples(&mut page, vitals);
    discovery_samples(&mut page, vitals, vitals.now());
    fleet_samples(&mut page, vitals, vitals.now());
    process_samples(&mut page, vitals);
    page.text()
}

/// Samples by family, in the order of [`families::ALL`].
#[derive(Default)]
struct Page {
    samples: BTreeMap<usize, Vec<Metric>>,
}

impl Page {
    fn add(&mut self, family: Family, labels: &[&str], value: f64) {
        let mut metric = labelled(family, labels);
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.push(family, metric);
    }

    fn count(&mut self, family: Family, labels: &[&str], value: u64) {
        self.add(family, labels, value as f64);
    }

    fn push(&mut self, family: Family, metric: Metric) {
        let place = families::ALL
            .iter()
            .position(|known| known.name == family.name)
            .expect("each family is in the list that defines it");
        self.samples.entry(place).or_default().push(metric);
    }

    fn text(self) -> String {
        let families: Vec<MetricFamily> = self
            .samples
            .into_iter()
            .map(|(place, samples)| with_head(families::ALL[place], samples))
            .collect();
        TextEncoder::new()
            .encode_to_string(&families)
            .expect("each family has a name and at least one sample")
    }
}

fn with_head(family: Family, samples: Vec<Metric>) -> MetricFamily {
    let mut head = MetricFamily::default();
    head.set_name(family.name.into());
    head.set_help(family.meaning.into());
    head.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    head.set_metric(samples);
    head
}

fn labelled(family: Family, values: &[&str]) -> Metric {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pairs = family.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    });
    Metric::from_label(pairs.collect())
}

fn service_samples(page: &mut Page, service: &Service) {
    let name = service.name.as_str();
    let cells = service.measured.cells();
    let mut codes: BTreeMap<(u16, &str), u64> = BTreeMap::new();
    for (method, code, count) in cells.iter().flat_map(|cell| cell.codes()) {
        *codes.entry((code, method.label())).or_default() += count;
    }
    for ((code, method), count) in codes {
        page.count(
            families::REQUESTS,
            &[name, &code.to_string(), method],
            count,
        );
    }
    let retries = cells.iter().map(|cell| cell.retries.value()).sum();
    page.count(families::RETRIES, &[name], retries);
    let denied = cells.iter().map(|cell| cell.retries_denied.value()).sum();
    page.count(families::RETRIES_DENIED, &[name], denied);
    let guard = service
        .members
        .iter()
        .any(|member| member.standing.doubt.is_some());
    page.count(families::DISCOVERY_GUARD, &[name], u64::from(guard));
    for group in service.group_shares() {
        let labels = [name, group.name.as_str()];
        page.add(families::GROUP_SHARE, &labels, group.share);
    }
    page.push(families::REQUEST_DURATION, durations(service));
    if service.in_flight.is_some() {
        let admission = &service.measured.admission;
        let in_flight = admission.in_flight() as u64;
        page.count(families::SERVICE_IN_FLIGHT, &[name], in_flight);
        let waiting = admission.waiting() as u64;
        page.count(families::SERVICE_WAITING, &[name], waiting);
        let refused = admission.refused();
        page.count(families::SERVICE_OVERLOADED, &[name], refused);
    }
}

fn durations(service: &Service) -> Metric {
    let mut counts = [0u64; DURATION_BOUNDS_US.len() + 1];
    let mut sum_us = 0u64;
    for cell in service.measured.cells() {
        sum_us += cell.duration_sum_us.value();
        for (total, count) in counts.iter_mut().zip(cell.durations()) {
            *total += count;
        }
    }
    let mut below = 0;
    let buckets = DURATION_BOUNDS_US
        .iter()
        .zip(counts)
        .map(|(&bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound as f64 / 1e6);
            bucket.set_cumulative_count(below);
            bucket
        });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum_us as f64 / 1e6);
    let mut metric = labelled(families::REQUEST_DURATION, &[service.name.as_str()]);
    metric.set_histogram(histogram);
    metric
}

fn member_samples(page: &mut Page, service: &str, member: &Member) {
    let upstream = &member.upstream;
    let both = [service, &**upstream.label()];
    let cells = upstream.cells();
    for outcome in AttemptOutcome::ALL {
        let count = cells.iter().map(|cell| cell.outcome(outcome)).sum();
        let labels = [both[0], both[1], outcome.label()];
        page.count(families::UPSTREAM_REQUESTS, &labels, count);
    }
    page.count(families::UPSTREAM_UP, &both, u64::from(upstream.is_fit()));
    let doubted = u64::from(member.standing.doubt.is_some());
    page.count(families::UPSTREAM_DOUBTED, &both, doubted);
    page.count(families::UPSTREAM_WEIGHT, &both, u64::from(member.weight));
    let in_flight = cells.iter().map(|cell| u64::from(cell.in_flight())).sum();
    page.count(families::UPSTREAM_IN_FLIGHT, &both, in_flight);
    let connects = cells.iter().map(|cell| cell.connects.value()).sum();
    page.count(families::UPSTREAM_CONNECTS, &both, connects);
    for (name, signal) in member.standing.signals() {
        let Signal {
            verdict, reason, ..
        } = signal;
        let labels = [both[0], both[1], name, verdict_label(*verdict), reason];
        page.count(families::UPSTREAM_STATE, &labels, 1);
    }
}

/// The word by which metrics and the admin API name a verdict.
pub fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fit => "fit",
        Verdict::Warning => "warning",
        Verdict::Unknown => "unknown",
        Verdict::Unfit => "unfit",
    }
}

fn table_samples(page: &mut Page, snapshot: &Snapshot) {
    page.count(families::SNAPSHOT_GENERATION, &[], snapshot.generation);
    let ready = snapshot.generation > 0 && snapshot.missing.is_empty() && !snapshot.node_drained;
    page.count(families::READY, &[], u64::from(ready));
    let is_tried = u64::from(snapshot.canary.is_some());
    page.count(families::CANARY, &[], is_tried);
    let entries: std::collections::BTreeSet<&str> =
        snapshot.mistakes.iter().map(|m| m.entry.as_str()).collect();
    for entry in entries {
        page.count(families::CONFIG_ERRORS, &[entry], 1);
    }
    if let Some(trouble) = &snapshot.discovery.trouble {
        page.count(families::DISCOVERY_TROUBLE, &[trouble.reason], 1);
    }
}

fn certificate_samples(page: &mut Page, certificates: impl Iterator<Item = (String, i64)>) {
    let mut earliest: BTreeMap<String, i64> = BTreeMap::new();
    for (domain, not_after) in certificates {
        let known = earliest.entry(domain).or_insert(not_after);
        *known = not_after.min(*known);
    }
    for (domain, not_after) in earliest {
        page.add(
            families::CERTIFICATE_NOT_AFTER,
            &[&domain],
            not_after as f64,
        );
    }
}

fn worker_samples(page: &mut Page, vitals: &Vitals) {
    let workers = &vitals.workers;
    page.count(
        families::REQUESTS_ACCEPTED,
        &[],
        workers.iter().map(|worker| worker.requests.value()).sum(),
    );
    for reason in Reason::ALL {
        let count = workers.iter().map(|worker| worker.reason(reason)).sum();
        page.count(families::REQUESTS_ENDED, &[reason.label()], count);
    }
    for frame in FrameKind::ALL {
        let count = workers.iter().map(|worker| worker.calmed(frame)).sum();
        page.count(families::HTTP2_CALMED, &[frame.label()], count);
    }
    for (number, worker) in workers.iter().enumerate() {
        let label = number.to_string();
        let busy = worker.busy_ns.load(Relaxed) as f64 / 1e9;
        page.add(families::WORKER_BUSY, &[&label], busy);
        let ratio = worker.busy_permille.load(Relaxed) as f64 / 1e3;
        page.add(families::WORKER_BUSY_RATIO, &[&label], ratio);
        let lag = worker.lag_us.load(Relaxed) as f64 / 1e6;
        page.add(families::WORKER_LAG, &[&label], lag);
    }
    let idle: i64 = workers.iter().map(|w| w.pool_idle.load(Relaxed)).sum();
    page.add(families::POOL_IDLE, &[], idle as f64);
    let stalled: i64 = workers.iter().map(|w| w.stalled.load(Relaxed)).sum();
    page.add(families::STALLED, &[], stalled as f64);
    let sums = [
        (
            families::PROXY_REFUSED,
            workers.iter().map(|w| w.proxy_refused.value()).sum(),
        ),
        (
            families::POOL_REUSED,
            workers.iter().map(|w| w.pool_reused.value()).sum(),
        ),
        (
            families::POOL_STALE,
            workers.iter().map(|w| w.pool_stale.value()).sum(),
        ),
        (
            families::NOTED_DROPPED,
            workers.iter().map(|w| w.noted.dropped.value()).sum(),
        ),
        (
            families::NOTED,
            workers.iter().map(|w| w.noted.held() as u64).sum(),
        ),
        (
            families::PANICS,
            workers.iter().map(|w| w.panics.value()).sum(),
        ),
        (
            families::ACCEPT_PAUSED,
            workers.iter().map(|w| w.accept_paused.value()).sum(),
        ),
        (
            families::STALLED_CUT,
            workers.iter().map(|w| w.stalled_cut.value()).sum(),
        ),
        (
            families::HEADS_REFUSED,
            workers.iter().map(|w| w.heads_refused.value()).sum(),
        ),
        (
            families::STUCK,
            workers.iter().map(|w| w.stuck.value()).sum(),
        ),
        (families::SHED, workers.iter().map(|w| w.shed.value()).sum()),
        (
            families::LINGER_SKIPPED,
            workers.iter().map(|w| w.linger_skipped.value()).sum(),
        ),
        (
            families::CROWDED,
            workers.iter().map(|w| w.crowded.value()).sum(),
        ),
        (
            families::ACCEPT_FAILED,
            workers.iter().map(|w| w.accept_failed.value()).sum::<u64>(),
        ),
    ];
    for (family, sum) in sums {
        page.count(family, &[], sum);
    }
}

#[derive(Default)]
struct ListenerSums {
    accepted: u64,
    closed: u64,
    handshakes: [u64; Handshake::ALL.len()],
}

fn listener_samples(page: &mut Page, vitals: &Vitals) {
    let mut sums: BTreeMap<String, ListenerSums> = BTreeMap::new();
    for (name, cells) in vitals.workers.iter().flat_map(|w| w.listeners()) {
        let sum = sums.entry(name.to_string()).or_default();
        // Closed is read first: a connection that ends in between must not make the difference negative.
        sum.closed += cells.closed.value();
        sum.accepted += cells.accepted.value();
        for outcome in Handshake::ALL {
            sum.handshakes[outcome as usize] += cells.handshakes(outcome);
        }
    }
    for (name, sum) in sums {
        let open = sum.accepted.saturating_sub(sum.closed);
        page.count(families::CONNECTIONS, &[&name], open);
        page.count(families::CONNECTIONS_ACCEPTED, &[&name], sum.accepted);
        for outcome in Handshake::ALL {
            let count = sum.handshakes[outcome as usize];
            let (version, resumed, outcome) = outcome.labels();
            let labels = [&*name, version, resumed, outcome];
            page.count(families::TLS_HANDSHAKES, &labels, count);
        }
    }
}

fn discovery_samples(page: &mut Page, vitals: &Vitals, now: SystemTime) {
    if !vitals.discovery_configured.load(Relaxed) {
        return;
    }
    let age = discovery_age_seconds(vitals, now);
    let age = age.unwrap_or_else(|| vitals.started.elapsed().as_secs_f64());
    page.add(families::DISCOVERY_AGE, &[], age);
    let failing = vitals.discovery_failing.load(Relaxed).max(0);
    page.add(families::DISCOVERY_FAILING, &[], failing as f64);
    let remembered = vitals.discovery_remembered_ms().is_some();
    page.count(families::DISCOVERY_REMEMBERED, &[], u64::from(remembered));
    let held = vitals.documents_held.load(Relaxed).max(0);
    page.add(families::DOCUMENTS_HELD, &[], held as f64);
    for staged in Staged::ALL {
        let (ok, refused) = vitals.staged(staged);
        page.count(families::STAGED, &[staged.label(), "ok"], ok);
        page.count(families::STAGED, &[staged.label(), "refused"], refused);
    }
}

/// Seconds since Consul's last good answer; None: there was none yet.
pub fn discovery_age_seconds(vitals: &Vitals, now: SystemTime) -> Option<f64> {
    age_seconds(vitals.discovery_contact_ms.load(Relaxed), now)
}

/// Since a moment in Unix milliseconds; None: there was none.
fn age_seconds(at_ms: i64, now: SystemTime) -> Option<f64> {
    let now_ms = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64);
    (at_ms > 0).then(|| (now_ms - at_ms).max(0) as f64 / 1e3)
}

fn fleet_samples(page: &mut Page, vitals: &Vitals, now: SystemTime) {
    if !vitals.discovery_configured.load(Relaxed) {
        return;
    }
    let fleet = &vitals.fleet;
    page.count(families::FLEET_NODES, &["live"], fleet.live.load(Relaxed));
    page.count(families::FLEET_NODES, &["gone"], fleet.gone.load(Relaxed));
    page.count(
        families::FLEET_DIVERGING,
        &[],
        fleet.count(FleetFault::Diverging),
    );
    for fault in FleetFault::ALL {
        page.count(
            families::FLEET_FINDINGS,
            &[fault.label()],
            fleet.count(fault),
        );
    }
    if let Some(age) = age_seconds(fleet.heard_ms.load(Relaxed), now) {
        page.add(families::FLEET_AGE, &[], age);
    }
}

fn process_samples(page: &mut Page, vitals: &Vitals) {
    let count = |page: &mut Page, family, cell: &std::sync::atomic::AtomicU64| {
        page.count(family, &[], cell.load(Relaxed));
    };
    count(
        page,
        families::ACCESS_LOG_DROPPED,
        &vitals.access_log_dropped,
    );
    count(page, families::ACCESS_LOG_FAILED, &vitals.access_log_failed);
    count(page, families::JOURNAL_LOST, &vitals.journal_lost);
    let (ok, failed) = (&vitals.reloads, &vitals.reloads_failed);
    page.count(families::RELOADS, &["ok"], ok.load(Relaxed));
    page.count(families::RELOADS, &["failed"], failed.load(Relaxed));
    let ended = [
        ("promoted", &vitals.canaries_promoted),
        ("rolled_back", &vitals.canaries_rolled_back),
    ];
    for (outcome, count) in ended {
        page.count(families::CANARIES, &[outcome], count.load(Relaxed));
    }
    let (ok, failed) = (&vitals.acme_issued, &vitals.acme_failed);
    page.count(families::ACME_ORDERS, &["ok"], ok.load(Relaxed));
    page.count(families::ACME_ORDERS, &["failed"], failed.load(Relaxed));
    count(page, families::STATE_FAILED, &vitals.state_failed);
    page.count(families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    let reading = process::read();
    page.add(families::PROCESS_CPU, &[], reading.cpu_seconds);
    for (family, value) in [
        (families::PROCESS_RESIDENT, reading.resident_bytes),
        (families::PROCESS_OPEN_FDS, reading.open_fds),
        (families::PROCESS_MAX_FDS, reading.max_fds),
    ] {
        if let Some(value) = value {
            page.count(family, &[], value);
        }
    }
    let started = vitals.started_at.duration_since(UNIX_EPOCH);
    let started = started.map_or(0.0, |since| since.as_secs_f64());
    page.add(families::PROCESS_START, &[], started);
}

#[cfg(test)]
mod tests;
