//! `[limits]`, `[timeouts]`, `[guard]`, `[retry]`: each key with the range it may have; what is absent keeps the base's value.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::model::{Guard, Tuning};
use super::section::{Section, number_in};
use super::written::Value;
use crate::routing::policy::MAX_HEAD_FIELDS;
use crate::routing::{Limits, RetryPolicy, Timeouts};

pub(super) const KEYS: &[&str] = &["limits", "timeouts", "guard", "retry"];

pub(super) const LIMITS: &[&str] = &[
    "connections",
    "connections_per_client",
    "head_bytes",
    "head_fields",
    "target_bytes",
    "body_bytes",
    "body_rate",
    "pool",
    "waiting_handshakes",
    "handshakes",
    "handshakes_per_client",
    "stalled_answers",
    "noted_requests",
    "loop_lag",
];

pub(super) const TIMEOUTS: &[&str] = &[
    "head",
    "body",
    "keep_alive",
    "connect",
    "response",
    "tunnel",
    "pool_idle",
    "pool_age",
    "drain_delay",
    "drain",
];

pub(super) const GUARD: &[&str] = &["window", "max_loss", "deadline"];

pub(super) const RETRY: &[&str] = &["attempts", "statuses"];

/// More than this many attempts only make an outage worse.
const MAX_ATTEMPTS: u32 = 10;

/// A server's own failures. 429 is not among them: it is an answer to the client, and another server would be made to
/// serve what the first one rightly refused.
const RETRY_STATUSES: RangeInclusive<u16> = 500..=599;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Nobody waits longer for a loop to come round.
const LONGEST_LAG: Duration = Duration::from_secs(60);
/// Below it a timeout only breaks what it should guard.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads the four tables below `root`.
pub(super) fn read(root: &Section<'_>, base: &Tuning) -> Tuning {
    let limits = root.table("limits", LIMITS);
    let timeouts = root.table("timeouts", TIMEOUTS);
    let guard = root.table("guard", GUARD);
    let retry = root.table("retry", RETRY);
    Tuning {
        limits: limits.map_or_else(|| base.limits.clone(), |s| read_limits(&s, &base.limits)),
        timeouts: timeouts.map_or_else(
            || base.timeouts.clone(),
            |s| read_timeouts(&s, &base.timeouts),
        ),
        guard: guard.map_or_else(|| base.guard.clone(), |s| read_guard(&s, &base.guard)),
        retry: retry.map_or_else(|| base.retry.clone(), |s| read_retry(&s, &base.retry)),
    }
}

fn read_limits(from: &Section<'_>, base: &Limits) -> Limits {
    let bytes = |key, allowed: RangeInclusive<u64>, base: usize| {
        let size = from.size(key, allowed);
        size.map_or(base, |size| usize::try_from(size).expect("at most 1 MiB"))
    };
    Limits {
        connections: from
            .number("connections", 1..=10_000_000)
            .unwrap_or(base.connections),
        connections_per_client: from
            .number("connections_per_client", 0..=10_000_000)
            .unwrap_or(base.connections_per_client),
        head_bytes: bytes("head_bytes", KIB..=MIB, base.head_bytes),
        head_fields: from
            .number("head_fields", 1..=MAX_HEAD_FIELDS)
            .unwrap_or(base.head_fields),
        target_bytes: bytes("target_bytes", 64..=MIB, base.target_bytes),
        body_bytes: from.size("body_bytes", 1..=1 << 60).or(base.body_bytes),
        body_rate: from
            .size("body_rate", 0..=1 << 30)
            .unwrap_or(base.body_rate),
        pool: from.number("pool", 0..=1_000_000).unwrap_or(base.pool),
        waiting_handshakes: from
            .number("waiting_handshakes", 0..=100_000)
            .unwrap_or(base.waiting_handshakes),
        handshakes: from
            .number("handshakes", 0..=1_000_000)
            .unwrap_or(base.handshakes),
        handshakes_per_client: from
            .number("handshakes_per_client", 0..=1_000_000)
            .unwrap_or(base.handshakes_per_client),
        stalled_answers: from
            .number("stalled_answers", 0..=10_000_000)
            .unwrap_or(base.stalled_answers),
        noted_requests: from
            .number("noted_requests", 0..=1_000_000)
            .unwrap_or(base.noted_requests),
        loop_lag: from
            .duration("loop_lag", Duration::ZERO..=LONGEST_LAG)
            .unwrap_or(base.loop_lag),
    }
}

fn read_timeouts(from: &Section<'_>, base: &Timeouts) -> Timeouts {
    let within = |key, longest: Duration, base: Duration| {
        from.duration(key, SHORTEST..=longest).unwrap_or(base)
    };
    let from_zero = |key, longest: Duration, base: Duration| {
        from.duration(key, Duration::ZERO..=longest).unwrap_or(base)
    };
    Timeouts {
        head: within("head", HOUR, base.head),
        body: within("body", HOUR, base.body),
        keep_alive: within("keep_alive", DAY, base.keep_alive),
        connect: within("connect", HOUR, base.connect),
        response: within("response", DAY, base.response),
        tunnel: within("tunnel", MONTH, base.tunnel),
        pool_idle: within("pool_idle", DAY, base.pool_idle),
        pool_age: within("pool_age", MONTH, base.pool_age),
        drain_delay: from_zero("drain_delay", HOUR, base.drain_delay),
        drain: from_zero("drain", DAY, base.drain),
    }
}

fn read_guard(from: &Section<'_>, base: &Guard) -> Guard {
    Guard {
        window: from
            .duration("window", SHORTEST..=DAY)
            .unwrap_or(base.window),
        max_loss: from
            .read(
                "max_loss",
                "a share from 0 to 1, or from \"0%\" to \"100%\"",
                share,
            )
            .unwrap_or(base.max_loss),
        deadline: from
            .duration("deadline", SHORTEST..=DAY)
            .unwrap_or(base.deadline),
    }
}

/// Takes `0.5`, `1`, or `"50%"`.
fn share(value: &Value) -> Option<f64> {
    let share = match value {
        Value::Float(share) => *share,
        Value::Integer(number @ 0..=1) => f64::from(*number == 1),
        Value::Text(text) => {
            let digits = text.strip_suffix('%')?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            digits.parse::<f64>().ok().filter(|_| plain)? / 100.0
        }
        _ => return None,
    };
    (0.0..=1.0).contains(&share).then_some(share)
}

/// Reads `[retry]` or `[service.retry]`. Statuses come out sorted, each once.
pub(super) fn read_retry(from: &Section<'_>, base: &RetryPolicy) -> RetryPolicy {
    RetryPolicy {
        attempts: from
            .number("attempts", 0..=MAX_ATTEMPTS)
            .unwrap_or(base.attempts),
        statuses: if from.has("statuses") {
            read_statuses(from)
        } else {
            base.statuses.clone()
        },
    }
}

fn read_statuses(from: &Section<'_>) -> Box<[u16]> {
    let mut statuses: Vec<u16> = from
        .list("statuses", "a list of statuses from 500 to 599")
        .iter()
        .filter_map(|part| {
            part.read("a status from 500 to 599", |value| {
                number_in(value, &RETRY_STATUSES)
            })
        })
        .collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_fraction_or_a_percentage() {
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(share(&Value::Float(0.25)), Some(0.25));
        assert_eq!(share(&Value::Integer(1)), Some(1.0));
        assert_eq!(share(&text("50%")), Some(0.5));
        assert_eq!(share(&text("12.5%")), Some(0.125));
        for wrong in [
            text("50"),
            text("%"),
            text("101%"),
            text("-1%"),
            text("NaN%"),
            text("inf%"),
            Value::Float(1.5),
            Value::Float(f64::NAN),
            Value::Integer(50),
        ] {
            assert_eq!(share(&wrong), None, "{wrong:?}");
        }
    }
}
