//! The fleet's session ticket keys: how they follow one another, and how they rest in KV. Pure.
//!
//! Three generations at most: the one before, the one that seals, and the next one, which is written a whole turn before it seals
//! so that it has reached everybody. Who finds that there is no next one makes it; check-and-set lets one of them win.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::certs::tickets::{Generation, TURN, TicketKeys};
use crate::seal::Secret;

/// The key below the pod's prefix.
pub const TICKETS: &str = "keys/tickets";

/// No generation seals that has not been in KV for a minute; the rest is for writing it and for the second that is cut off there.
const SETTLING: Duration = Duration::from_secs(75);
/// Generations that are kept when one is added.
const KEPT: usize = 2;
/// A value with more is none that rota wrote.
const MAX_GENERATIONS: usize = 8;

/// The keys of a fleet that has none.
pub fn first(now: SystemTime, secrets: [Secret; 2]) -> TicketKeys {
    let [current, next] = secrets;
    let from = now + SETTLING;
    TicketKeys::new(vec![
        Generation::new(current, from),
        Generation::new(next, from + TURN),
    ])
}

/// When there has to be another generation: as soon as none is left that does not seal yet.
pub fn due(keys: &TicketKeys, now: SystemTime) -> SystemTime {
    let is_sane = |generation: &&Generation| !is_absurd(generation, now);
    let youngest = keys.generations().iter().rfind(is_sane);
    youngest.map_or(now, Generation::from)
}

/// The keys with another generation of this secret; the oldest go. None: it is not due yet.
pub fn turned(keys: &TicketKeys, now: SystemTime, secret: Secret) -> Option<TicketKeys> {
    let due = due(keys, now);
    if now < due {
        return None;
    }
    let sane: Vec<&Generation> = keys
        .generations()
        .iter()
        .filter(|generation| !is_absurd(generation, now))
        .collect();
    let kept = sane.len().saturating_sub(KEPT);
    let mut generations: Vec<Generation> = sane[kept..].iter().copied().cloned().collect();
    generations.push(Generation::new(secret, (due + TURN).max(now + SETTLING)));
    Some(TicketKeys::new(generations))
}

/// Written by a clock that was far ahead: it would keep all others from turning.
fn is_absurd(generation: &Generation, now: SystemTime) -> bool {
    generation.from() > now + TURN * 2
}

#[derive(Serialize, Deserialize)]
struct Written {
    generations: Vec<WrittenGeneration>,
}

#[derive(Serialize, Deserialize)]
struct WrittenGeneration {
    /// 32 bytes in base64.
    secret: String,
    /// Seconds since 1970.
    from: u64,
}

/// As they are sealed.
pub fn write(keys: &TicketKeys) -> Vec<u8> {
    let written = |generation: &Generation| WrittenGeneration {
        secret: generation.secret().to_base64().to_string(),
        from: generation
            .from()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    let generations = keys.generations().iter().map(written).collect();
    serde_json::to_vec(&Written { generations }).expect("texts and numbers are json")
}

/// What [`write()`] wrote; the error shows nothing of it.
pub fn read(bytes: &[u8]) -> Result<TicketKeys, &'static str> {
    let written: Written =
        serde_json::from_slice(bytes).map_err(|_| "what it holds is not session ticket keys")?;
    if written.generations.len() > MAX_GENERATIONS {
        return Err("it holds more session ticket keys than rota writes");
    }
    let generation = |written: &WrittenGeneration| {
        let secret = Secret::from_base64(&written.secret)?;
        let from = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(written.from))?;
        // Times that end with the type: sums with them would not be times any more.
        from.checked_add(TURN * 8)?;
        Some(Generation::new(secret, from))
    };
    let generations: Option<Vec<Generation>> = written.generations.iter().map(generation).collect();
    let generations = generations.ok_or("one of its session ticket keys is none")?;
    Ok(TicketKeys::new(generations))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn secret(byte: u8) -> Secret {
        Secret::from_bytes([byte; 32])
    }

    fn shown(keys: &TicketKeys) -> Vec<(u8, i64)> {
        let at = |from: SystemTime| match from.duration_since(start()) {
            Ok(after) => after.as_secs() as i64,
            Err(before) => -(before.duration().as_secs() as i64),
        };
        let one = |generation: &Generation| (generation.secret().bytes()[0], at(generation.from()));
        keys.generations().iter().map(one).collect()
    }

    const TURN_SECONDS: i64 = TURN.as_secs() as i64;

    #[test]
    fn the_first_keys_rest_a_minute_and_each_later_one_a_turn() {
        let keys = first(start(), [secret(1), secret(2)]);
        assert_eq!(shown(&keys), [(1, 75), (2, 75 + TURN_SECONDS)]);
        let due_at = due(&keys, start());
        assert_eq!(due_at, start() + SETTLING + TURN);
        let early = due_at - Duration::from_secs(1);
        assert_eq!(turned(&keys, early, secret(3)), None);
        let keys = turned(&keys, due_at, secret(3)).unwrap();
        let expected = [(1, 75), (2, 75 + TURN_SECONDS), (3, 75 + 2 * TURN_SECONDS)];
        assert_eq!(shown(&keys), expected);
        assert_eq!(turned(&keys, due_at, secret(4)), None);
        let keys = turned(&keys, due_at + TURN, secret(4)).unwrap();
        let names: Vec<u8> = shown(&keys).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [2, 3, 4]);
    }

    #[test]
    fn after_a_long_silence_the_next_key_still_rests_a_minute() {
        let keys = first(start(), [secret(1), secret(2)]);
        let late = start() + TURN * 9;
        let keys = turned(&keys, late, secret(3)).unwrap();
        assert_eq!(shown(&keys).last().unwrap(), &(3, 9 * TURN_SECONDS + 75));
    }

    #[test]
    fn a_clock_that_was_far_ahead_keeps_nobody_from_turning() {
        let ahead = TicketKeys::new(vec![
            Generation::new(secret(1), start()),
            Generation::new(secret(2), start() + TURN * 100),
        ]);
        assert_eq!(due(&ahead, start()), start());
        let keys = turned(&ahead, start(), secret(3)).unwrap();
        assert_eq!(shown(&keys), [(1, 0), (3, TURN_SECONDS)]);
        let only = TicketKeys::new(vec![Generation::new(secret(2), start() + TURN * 100)]);
        let keys = turned(&only, start(), secret(3)).unwrap();
        assert_eq!(shown(&keys), [(3, TURN_SECONDS)]);
    }

    #[test]
    fn what_is_written_is_read_as_the_same_and_nothing_else_is() {
        let keys = first(start(), [secret(1), secret(2)]);
        assert_eq!(read(&write(&keys)).unwrap(), keys);
        let with = |secret: &str, from: u64| {
            format!("{{\"generations\":[{{\"secret\":\"{secret}\",\"from\":{from}}}]}}")
        };
        let good = secret(1).to_base64();
        assert!(read(with(&good, 1).as_bytes()).is_ok());
        for text in [
            with("AAAA", 1),
            with(&good, u64::MAX),
            "{}".into(),
            String::new(),
        ] {
            let mistake = read(text.as_bytes()).unwrap_err();
            assert!(!mistake.contains("AAAA"), "{mistake}");
        }
    }

    proptest! {
        /// A fleet of any number of load balancers whose clocks differ by up to a minute, each acting when it finds it due.
        #[test]
        fn there_is_always_a_key_that_seals_and_none_seals_unsettled(
            steps in prop::collection::vec((0u64..7200, 0u64..60), 1..60),
        ) {
            let mut keys = first(start(), [secret(0), secret(1)]);
            let mut now = start() + SETTLING;
            for (number, (later, skew)) in steps.into_iter().enumerate() {
                now += Duration::from_secs(later);
                let before = keys.clone();
                if let Some(turned) = turned(&keys, now + Duration::from_secs(skew), secret(number as u8 + 2)) {
                    keys = turned;
                    let fresh = keys.generations().last().unwrap();
                    prop_assert!(fresh.from() >= now + SETTLING);
                    prop_assert!(before.generations().contains(&keys.generations()[0]));
                }
                prop_assert!(keys.generations().len() <= KEPT + 1);
                let seals = keys.generations().iter().any(|g| g.from() <= now + SETTLING);
                prop_assert!(seals);
            }
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
