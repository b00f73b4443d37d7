//! `[service.health.active]`: how a server is asked whether it is well.

use std::time::Duration;

use super::model::ActiveCheck;
use super::section::{Section, number_in};
use super::written::Value;
use crate::routing::Host;

pub(super) const HEALTH: &[&str] = &["active"];

pub(super) const KEYS: &[&str] = &[
    "path", "host", "port", "interval", "timeout", "fall", "rise", "status", "headers",
];

pub(super) const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_FALL: u32 = 3;
const DEFAULT_RISE: u32 = 2;
const DEFAULT_STATUS: (u16, u16) = (200, 399);

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// So many answers in a row, at most, make a verdict.
const MAX_STREAK: u32 = 1000;

/// A request's path and each header's value are at most so long.
const MAX_TEXT: usize = 4096;

/// What a probe sends of its own accord, or what would change where its head ends.
const OWN_HEADERS: [&str; 6] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
];

const STATUS: &str = "a status from 200 to 599, a range such as \"200-399\", or a list of either";

/// Reads `health` of a service: None without an `active` table.
pub(super) fn read_health(service: &Section<'_>) -> Option<ActiveCheck> {
    let health = service.table("health", HEALTH)?;
    Some(read(&health.table("active", KEYS)?))
}

fn read(from: &Section<'_>) -> ActiveCheck {
    let interval = from
        .duration("interval", SHORTEST..=LONGEST)
        .unwrap_or(DEFAULT_INTERVAL);
    ActiveCheck {
        path: from.text("path", "a path such as \"/healthz\"", request_path),
        host: from.text("host", "a host, with or without port", |text| {
            Host::parse(text).ok().map(|_| text.to_owned())
        }),
        port: from.number("port", 1..=u16::MAX),
        interval,
        timeout: read_timeout(from, interval),
        fall: from.number("fall", 1..=MAX_STREAK).unwrap_or(DEFAULT_FALL),
        rise: from.number("rise", 1..=MAX_STREAK).unwrap_or(DEFAULT_RISE),
        status: read_status(from),
        headers: read_headers(from),
    }
}

fn read_timeout(from: &Section<'_>, interval: Duration) -> Duration {
    // May be longer than the interval: a probe waits for the one before it.
    from.duration("timeout", SHORTEST..=LONGEST)
        .unwrap_or(DEFAULT_TIMEOUT.min(interval))
}

/// A request target in origin form: it goes onto the wire as it stands.
fn request_path(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    (text.starts_with('/') && text.len() <= MAX_TEXT && text.bytes().all(plain))
        .then(|| text.to_owned())
}

fn read_status(from: &Section<'_>) -> Vec<(u16, u16)> {
    let read = |value: &Value| match value {
        Value::List(parts) if !parts.is_empty() => {
            parts.iter().map(|part| status_range(&part.value)).collect()
        }
        single => status_range(single).map(|range| vec![range]),
    };
    from.read("status", STATUS, read)
        .unwrap_or_else(|| vec![DEFAULT_STATUS])
}

/// Takes `204`, `"204"` or `"200-399"`.
fn status_range(value: &Value) -> Option<(u16, u16)> {
    let allowed = 200..=599;
    let Value::Text(text) = value else {
        return number_in(value, &allowed).map(|status| (status, status));
    };
    let status = |text: &str| {
        let plain = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|s| plain && allowed.contains(s))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = (status(first)?, status(last)?);
    (range.0 <= range.1).then_some(range)
}

fn read_headers(from: &Section<'_>) -> Vec<(String, String)> {
    let Some(headers) = from.free_table("headers") else {
        return Vec::new();
    };
    headers
        .keys()
        .filter_map(|name| read_header(&headers, name))
        .collect()
}

fn read_header(headers: &Section<'_>, name: &str) -> Option<(String, String)> {
    if !is_token(name) {
        headers.blame_key(name, "no header's name: expected letters, digits and -");
        return None;
    }
    if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        headers.blame_key(
            name,
            "a probe sets this header itself (\"host\" is a key of its own)",
        );
        return None;
    }
    let expected = "a header's value: visible ASCII, blanks only inside";
    let value = headers.text(name, expected, header_value)?;
    Some((name.to_owned(), value))
}

/// A field name (RFC 9110 section 5.6.2).
fn is_token(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(letter)
}

/// A field value (RFC 9110 section 5.5) without obsolete octets.
fn header_value(text: &str) -> Option<String> {
    let letter = |b: u8| b.is_ascii_graphic() || b == b' ' || b == b'\t';
    let fits = text.len() <= MAX_TEXT && text.bytes().all(letter) && text.trim() == text;
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_or_a_range() {
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(status_range(&Value::Integer(204)), Some((204, 204)));
        assert_eq!(status_range(&text("204")), Some((204, 204)));
        assert_eq!(status_range(&text("200-399")), Some((200, 399)));
        for wrong in [
            "",
            "-",
            "200-",
            "399-200",
            "2xx",
            "100",
            "200-600",
            "+20-300",
            "200 - 399",
        ] {
            assert_eq!(status_range(&text(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_that_could_end_a_line_gets_into_a_probe() {
        for wrong in ["", "healthz", "/a b", "/a\r\nx: y", "/ü", "/a#b"] {
            assert_eq!(request_path(wrong), None, "{wrong:?}");
        }
        for wrong in [" a", "a ", "a\r\nb", "a\0", "ü"] {
            assert_eq!(header_value(wrong), None, "{wrong:?}");
        }
        assert!(is_token("X-Probe") && !is_token("x probe") && !is_token("") && !is_token("x:"));
    }
}
