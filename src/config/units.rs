//! Durations and sizes as people write them.

use std::time::Duration;

/// The largest first; each at most once and in this order.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The largest first.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Takes `10s`, `500ms`, `1h30m`: whole numbers, each with its unit, units falling. None: anything else, or beyond 64 bits.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = DURATION_UNITS.iter();
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let (number, behind) = split_number(rest)?;
        let letters = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(letters);
        let (_, factor) = units.find(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.checked_mul(*factor)?)?;
        rest = next;
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// Takes `64KiB`, `256B`, `10GiB`; gives bytes. None: anything else, or beyond 64 bits.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// A number and what stands behind it. No sign, no fraction, no space.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// A duration as it would be written.
pub(super) fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS {
        if millis >= factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    text
}

/// A size as it would be written: the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let (unit, factor) = SIZE_UNITS
        .into_iter()
        .find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_whole_numbers_with_falling_units() {
        for (text, millis) in [
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("1h", Some(3_600_000)),
            ("2m", Some(120_000)),
            ("1h30m", Some(5_400_000)),
            ("1m1s1ms", Some(61_001)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("1s1m", None),
            ("1s1s", None),
            ("1d", None),
            ("18446744073709551615h", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_count_in_powers_of_two() {
        for (text, bytes) in [
            ("256B", Some(256)),
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1 << 20)),
            ("10GiB", Some(10 << 30)),
            ("1TiB", Some(1 << 40)),
            ("64", None),
            ("64KB", None),
            ("64kib", None),
            ("KiB", None),
            ("1.5MiB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(millis in 0u64..1 << 50, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in ".{0,40}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
