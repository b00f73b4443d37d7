//! One outcome as one line of JSON (RFC 8259), whatever a client put into it. Hot path: writes into the batch, allocates nothing.

use std::io::Write;

use crate::telemetry::outcome::Outcome;

/// A client's text is cut there, in bytes: a target of 16 KiB is the router's business, not the log's.
pub const MAX_FIELD_BYTES: usize = 2048;

/// Appends the object and a line feed.
pub fn write(out: &mut Vec<u8>, time: &str, outcome: &Outcome<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.push(b'"');
    text(out, ",\"listener\":", outcome.listener);
    number(out, format_args!(",\"client\":\"{}\"", outcome.client));
    text(out, ",\"version\":", outcome.version);
    number(out, format_args!(",\"tls\":{}", outcome.tls));
    text(out, ",\"method\":", outcome.method);
    text(out, ",\"host\":", outcome.host);
    text(out, ",\"target\":", outcome.target);
    number(out, format_args!(",\"status\":{}", outcome.status));
    text(out, ",\"reason\":", outcome.reason.label());
    text_or_null(out, ",\"route\":", outcome.route);
    text_or_null(out, ",\"service\":", outcome.service);
    text_or_null(out, ",\"upstream\":", outcome.upstream);
    let micros = outcome.duration.as_micros();
    number(
        out,
        format_args!(
            ",\"attempts\":{},\"duration_ms\":{}.{:03},\"received\":{},\"sent\":{}",
            outcome.attempts,
            micros / 1000,
            micros % 1000,
            outcome.received,
            outcome.sent
        ),
    );
    text(out, ",\"request_id\":", outcome.request_id);
    out.extend_from_slice(b"}\n");
}

fn number(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a Vec takes every byte");
}

fn text_or_null(out: &mut Vec<u8>, key: &str, value: Option<&str>) {
    match value {
        Some(value) => text(out, key, value),
        None => {
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"null");
        }
    }
}

fn text(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'"');
    let kept = cut(value);
    escape(out, kept);
    if kept.len() < value.len() {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

fn cut(value: &str) -> &str {
    if value.len() <= MAX_FIELD_BYTES {
        return value;
    }
    let mut end = MAX_FIELD_BYTES;
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// Copies runs that need nothing at once; escapes quotes, backslashes and control characters, DEL and the C1 set (U+0080 to U+009F) among
/// them: a terminal that shows the log must not obey it.
fn escape(out: &mut Vec<u8>, value: &str) {
    let bytes = value.as_bytes();
    let mut plain_from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let is_c1 = byte == 0xc2 && bytes.get(at + 1).is_some_and(|&next| next < 0xa0);
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7f && !is_c1 {
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0xc2 => {
                unicode_escape(out, bytes[at + 1]);
                plain_from = at + 2;
            }
            control => unicode_escape(out, control),
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

fn unicode_escape(out: &mut Vec<u8>, code: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = [HEX[usize::from(code >> 4)], HEX[usize::from(code & 15)]];
    out.extend_from_slice(b"\\u00");
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Reason;
    use proptest::prelude::*;
    use std::time::Duration;

    fn outcome<'a>(host: &'a str, target: &'a str) -> Outcome<'a> {
        Outcome {
            listener: "web",
            client: "2001:db8::1".parse().unwrap(),
            version: "HTTP/1.1",
            tls: true,
            method: "GET",
            host,
            target,
            request_id: "r-1",
            status: 200,
            reason: Reason::Answered,
            route: Some("shop"),
            service: None,
            upstream: None,
            attempts: 2,
            duration: Duration::from_micros(1_020),
            received: 5,
            sent: 7,
        }
    }

    fn written(outcome: &Outcome<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, "2026-11-20T20:59:04.123Z", outcome);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_object_with_every_field_in_order() {
        assert_eq!(
            written(&outcome("a.example", "/x?y=1")),
            concat!(
                r#"{"time":"2026-11-20T20:59:04.123Z","listener":"web","client":"2001:db8::1","version":"HTTP/1.1","tls":true,"#,
                r#""method":"GET","host":"a.example","target":"/x?y=1","status":200,"reason":"answered","route":"shop","service":null,"#,
                r#""upstream":null,"attempts":2,"duration_ms":1.020,"received":5,"sent":7,"request_id":"r-1"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character() {
        let long = "é".repeat(MAX_FIELD_BYTES);
        let line: serde_json::Value = serde_json::from_str(&written(&outcome("a", &long))).unwrap();
        let target = line["target"].as_str().unwrap();
        assert!(target.ends_with("é…") && target.len() <= MAX_FIELD_BYTES + 3);
    }

    #[test]
    fn nothing_that_a_terminal_obeys_stays_in_a_line() {
        let line = written(&outcome("a\x1b[2J\u{9b}31m\x7f", "/\r\n{\"time\":1}"));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(
            line.chars().all(|c| c == '\n' || !c.is_control()),
            "{line:?}"
        );
    }

    proptest! {
        #[test]
        fn a_json_reader_gets_back_what_the_client_sent(host in any::<String>(), target in "\\PC{0,40}|[\\x00-\\xff\u{80}-\u{9f}\"\\\\]{0,40}") {
            let line = written(&outcome(&host, &target));
            prop_assert_eq!(line.matches('\n').count(), 1);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read["host"].as_str().unwrap(), &host);
            prop_assert_eq!(read["target"].as_str().unwrap(), &target);
        }
    }
}
