//! Moments as logs and the admin API write them: `2026-11-20T20:59:04.123Z`. Hot path: nothing is allocated to write one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The length of a moment with milliseconds.
pub const LEN: usize = 24;

/// Writes moments; keeps the text of the last second, since a log's lines share theirs.
#[derive(Clone, Debug)]
pub struct Writer {
    second: Option<u64>,
    text: [u8; LEN],
}

impl Default for Writer {
    fn default() -> Self {
        Writer {
            second: None,
            text: *b"0000-00-00T00:00:00.000Z",
        }
    }
}

impl Writer {
    /// The moment as ASCII, in UTC; before 1970 is 1970, after 9999 is nonsense.
    pub fn write(&mut self, at: SystemTime) -> &str {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        if self.second != Some(since.as_secs()) {
            self.write_second(since.as_secs());
            self.second = Some(since.as_secs());
        }
        digits(&mut self.text[20..23], u64::from(since.subsec_millis()));
        std::str::from_utf8(&self.text).expect("only ASCII is ever stored")
    }

    fn write_second(&mut self, unix: u64) {
        let (year, month, day) = civil_from_days(unix / 86_400);
        let of_day = unix % 86_400;
        digits(&mut self.text[0..4], year);
        digits(&mut self.text[5..7], month);
        digits(&mut self.text[8..10], day);
        digits(&mut self.text[11..13], of_day / 3600);
        digits(&mut self.text[14..16], of_day / 60 % 60);
        digits(&mut self.text[17..19], of_day % 60);
    }
}

/// One moment as a text of its own, to the second.
pub fn text(at: SystemTime) -> String {
    let mut writer = Writer::default();
    format!("{}Z", &writer.write(at)[..19])
}

/// A moment in UTC with or without a fraction of the second: what [`Writer`] writes. None: anything else.
pub fn parse(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = match text.strip_suffix('Z')?.split_once('.') {
        None => (text.strip_suffix('Z')?, ""),
        Some((whole, fraction)) => (whole, fraction),
    };
    let is_shaped = whole.len() == 19
        && whole.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            10 => byte == b'T',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        });
    if !is_shaped || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |at: std::ops::Range<usize>| whole[at].parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let days = days_from_civil(year, month, day)?;
    // A day that its month does not have comes back as another one.
    if civil_from_days(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// The other way round (Howard Hinnant's `days_from_civil`); None before 1970.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 {
        year.checked_sub(1)?
    } else {
        year
    };
    let era = year / 400;
    let of_era = year % 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

fn digits(to: &mut [u8], mut value: u64) {
    for place in to.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month, day of a day counted from 1970-01-01, for days not before it (Howard Hinnant's `civil_from_days`).
pub(super) fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(unix_ms: u64) -> String {
        Writer::default()
            .write(UNIX_EPOCH + Duration::from_millis(unix_ms))
            .to_owned()
    }

    #[test]
    fn a_moment_is_written_in_utc_with_milliseconds() {
        assert_eq!(written(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(written(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(written(1_795_208_344_123), "2026-11-20T20:59:04.123Z");
        assert_eq!(written(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(written(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for unix_ms in [0, 951_782_400_007, 1_795_208_344_123, 4_107_542_400_000] {
            let at = UNIX_EPOCH + Duration::from_millis(unix_ms);
            assert_eq!(parse(&written(unix_ms)), Some(at));
        }
        assert_eq!(
            parse("2026-11-20T20:59:04Z"),
            parse("2026-11-20T20:59:04.000Z")
        );
        for text in [
            "2026-11-20",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T20:59:04",
            "2026-11-20T20:59:04.Z1",
            "1969-12-31T23:59:59Z",
            "2026-11-20T20:59:\u{e9}Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_cached_second_gives_way_to_the_next() {
        let mut writer = Writer::default();
        let at = UNIX_EPOCH + Duration::from_millis(1_999);
        assert_eq!(writer.write(at), "1970-01-01T00:00:01.999Z");
        let next = at + Duration::from_millis(1);
        assert_eq!(writer.write(next), "1970-01-01T00:00:02.000Z");
        assert_eq!(text(next), "1970-01-01T00:00:02Z");
    }
}
