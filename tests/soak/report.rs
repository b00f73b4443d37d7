//! What is printed at the end, and held against the bar: the ledger, what has to be equal on both sides, what has to be flat.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::books::Books;
use super::chaos;
use super::desk::Desk;
use super::gauge::{Sample, thirds};
use super::ledger::Verdict;
use super::pod::Pod;
use super::support::rota::sum_of;

/// Median memory of the last third may be above that of the first by so much.
const MEMORY_GROWTH: f64 = 0.10;
/// Runs that are shorter are warm-up, as far as memory is concerned.
const FLAT_FROM: Duration = Duration::from_secs(5 * 60);
/// Descriptors that may be open when all clients are gone, beyond those before they came: connections to Consul come and go.
const DESCRIPTORS_LEFT: usize = 8;

/// What was measured before the clients came, or after they went.
pub struct Rest {
    pub sample: Sample,
    pub metrics: String,
}

/// A line of the report, and whether it is as it has to be.
struct Row(String, bool);

pub struct Report {
    rows: Vec<Row>,
    ledger: String,
}

impl Report {
    pub fn of(
        desk: &Desk,
        pod: &Pod,
        books: &Books,
        samples: &[Sample],
        (before, after): (&Rest, &Rest),
    ) -> Report {
        let done = chaos::summary(&desk.done.lock().unwrap());
        let mut rows = vec![
            Row(
                format!(
                    "{} requests a second",
                    books.records / samples.len().max(1) as u64
                ),
                true,
            ),
            Row(format!("done meanwhile: {done}"), true),
        ];
        rows.extend(requests(books, &after.metrics));
        rows.extend(connections(desk, books, before, after));
        rows.extend(posts(pod, books));
        rows.extend(health(&after.metrics));
        rows.extend(flatness(samples, before, after, desk.start.elapsed()));
        let unexplained = books.ledger.unexplained();
        rows.push(Row(format!("unexplained {unexplained}"), unexplained == 0));
        let mut ledger = books.ledger.to_string();
        for example in &books.ledger.examples {
            let _ = writeln!(ledger, "  UNEXPLAINED {example}");
        }
        Report { rows, ledger }
    }

    pub fn is_well(&self) -> bool {
        self.rows.iter().all(|row| row.1)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "soak: the ledger, request by request")?;
        write!(f, "{}", self.ledger)?;
        for Row(text, is_well) in &self.rows {
            let word = if *is_well { "" } else { "NOT WELL: " };
            writeln!(f, "soak: {word}{text}")?;
        }
        Ok(())
    }
}

fn equal(text: String, left: u64, right: u64) -> Row {
    Row(text, left == right)
}

fn count(metrics: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    sum_of(metrics, name, labels) as u64
}

/// How much a counter counted while the clients were there.
fn meanwhile(before: &Rest, after: &Rest, name: &str, labels: &[(&str, &str)]) -> u64 {
    count(&after.metrics, name, labels) - count(&before.metrics, name, labels)
}

fn requests(books: &Books, metrics: &str) -> Vec<Row> {
    let accepted = count(metrics, "rota_requests_accepted_total", &[]);
    let ended = count(metrics, "rota_requests_ended_total", &[]);
    let (proofs, unheard) = (books.proofs, books.unheard);
    let answered = books.ledger.count(|verdict| *verdict == Verdict::Answered);
    let aborted = books.ledger.count(|verdict| *verdict == Verdict::Aborted);
    let failed = books
        .ledger
        .count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let by_reason: BTreeMap<&String, u64> = books
        .lines_by_reason
        .keys()
        .map(|reason| {
            (
                reason,
                count(metrics, "rota_requests_ended_total", &[("reason", reason)]),
            )
        })
        .collect();
    let is_logged = books
        .lines_by_reason
        .iter()
        .all(|(reason, lines)| by_reason[reason] == *lines);
    let words: Vec<String> = by_reason.iter().map(|(r, n)| format!("{r} {n}")).collect();
    vec![
        equal(
            format!("rota: requests accepted {accepted} = ended {ended}"),
            accepted,
            ended,
        ),
        Row(
            format!(
                "rota: ended, counted = logged, each reason: {}",
                words.join(", ")
            ),
            is_logged && ended == books.lines,
        ),
        equal(
            format!(
                "requests that clients sent {} + the ca's {proofs} = accepted by rota {accepted} + never heard of there {unheard}",
                books.records
            ),
            books.records + proofs,
            accepted + unheard,
        ),
        equal(
            format!(
                "clients': {} = answered {answered} + aborted by clients {aborted} + failed with a named cause {failed}",
                books.records
            ),
            books.records,
            answered + aborted + failed,
        ),
    ]
}

fn connections(desk: &Desk, books: &Books, before: &Rest, after: &Rest) -> Vec<Row> {
    let own = &desk.connections;
    let read = |of: &std::sync::atomic::AtomicU64| of.load(Relaxed);
    let (opened, shaken, unknown) = (read(&own.opened), read(&own.shaken), read(&own.unknown));
    let proven = [("reason", "proven")];
    let proofs = books.proofs - count(&before.metrics, "rota_requests_ended_total", &proven);
    let accepted = meanwhile(before, after, "rota_connections_accepted_total", &[]);
    let refused = meanwhile(before, after, "rota_connections_shed_total", &[])
        + meanwhile(before, after, "rota_client_connections_refused_total", &[]);
    let open = count(&after.metrics, "rota_connections", &[]);
    let handshakes = |outcome: &str| {
        meanwhile(
            before,
            after,
            "rota_tls_handshakes_total",
            &[("outcome", outcome)],
        )
    };
    let (ok, unrecognized) = (handshakes("ok"), handshakes("unrecognized_name"));
    vec![
        equal(
            format!(
                "connections: clients' {} + the ca's {proofs} = accepted {accepted} + not admitted {refused}",
                opened + unknown
            ),
            opened + unknown + proofs,
            accepted + refused,
        ),
        equal(format!("connections: open at the end {open}"), open, 0),
        equal(
            format!(
                "requests on connections that were not admitted {} within {refused}",
                books.unadmitted
            ),
            books.unadmitted.min(refused),
            books.unadmitted,
        ),
        equal(
            format!("handshakes: clients' {shaken} = rota's {ok}"),
            shaken,
            ok,
        ),
        equal(
            format!(
                "handshakes for a name that nobody has: clients' {unknown} = rota's {unrecognized}"
            ),
            unknown,
            unrecognized,
        ),
    ]
}

/// What must not come twice, by what the servers noted.
fn posts(pod: &Pod, books: &Books) -> Vec<Row> {
    let mut came: BTreeMap<u64, u32> = BTreeMap::new();
    for id in pod.servers.iter().flat_map(|server| server.posts()) {
        *came.entry(id).or_default() += 1;
    }
    let twice = came.values().filter(|times| **times > 1).count() as u64;
    let lost = books
        .receipts
        .iter()
        .filter(|id| !came.contains_key(id))
        .count() as u64;
    vec![
        equal(
            format!("posts that came to servers {}, twice {twice}", came.len()),
            twice,
            0,
        ),
        equal(
            format!(
                "posts with a receipt {}, of which no server knows {lost}",
                books.receipts.len()
            ),
            lost,
            0,
        ),
    ]
}

fn health(metrics: &str) -> Vec<Row> {
    let none = [
        "rota_panics_total",
        "rota_access_log_dropped_total",
        "rota_access_log_failed_total",
        "rota_journal_lost_total",
        "rota_state_failed_total",
        "rota_config_errors",
    ];
    let mut rows: Vec<Row> = none
        .map(|name| {
            let many = count(metrics, name, &[]);
            equal(format!("{name} {many}"), many, 0)
        })
        .into();
    let told = |name: &str, labels: &[(&str, &str)]| count(metrics, name, labels);
    let orders = |outcome: &str| told("rota_acme_orders_total", &[("outcome", outcome)]);
    rows.push(Row(
        format!(
            "certificates issued {}, orders that came to nothing {}; tables {}, retries {}, of which denied {}",
            orders("ok"),
            orders("failed"),
            told("rota_snapshot_generation", &[]),
            told("rota_retries_total", &[]),
            told("rota_retries_denied_total", &[]),
        ),
        true,
    ));
    rows
}

fn flatness(samples: &[Sample], before: &Rest, after: &Rest, span: Duration) -> Vec<Row> {
    let (first, last) = thirds(samples);
    let growth = last.memory_kib as f64 / first.memory_kib as f64 - 1.0;
    let is_flat = growth < MEMORY_GROWTH || span < FLAT_FROM;
    let left = after
        .sample
        .descriptors
        .saturating_sub(before.sample.descriptors);
    vec![
        Row(
            format!(
                "memory, median of the first third {} KiB, of the last {} KiB ({:+.1} %, bar {:.0} %); before the clients {} KiB, after them {} KiB",
                first.memory_kib,
                last.memory_kib,
                growth * 100.0,
                MEMORY_GROWTH * 100.0,
                before.sample.memory_kib,
                after.sample.memory_kib,
            ),
            is_flat,
        ),
        Row(
            format!(
                "descriptors, median of the first third {}, of the last {}; before the clients {}, after them {}",
                first.descriptors,
                last.descriptors,
                before.sample.descriptors,
                after.sample.descriptors,
            ),
            left <= DESCRIPTORS_LEFT,
        ),
    ]
}

/// Whether rota is at rest again: nobody connected, as many descriptors as before.
pub fn is_at_rest(now: &Rest, before: &Rest) -> bool {
    count(&now.metrics, "rota_connections", &[]) == 0
        && now.sample.descriptors <= before.sample.descriptors + DESCRIPTORS_LEFT
}
