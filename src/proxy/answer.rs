//! The head that a client gets over HTTP/1, from a server's answer or from rota itself. Hot path.

use std::io::Write as _;

use super::fields::{Known, is_nominated, known, push_decimal, push_field};
use super::http1::head::{AnswerHead, Version};
use super::refusal::Refusal;
use crate::telemetry::date;

/// How the body goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOut {
    /// None follows; a length may still be declared (HEAD, 304).
    None,
    Length(u64),
    Chunked,
    /// Ends with the connection: HTTP/1.0 clients.
    UntilClose,
}

/// What becomes of the client's connection behind this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    KeepAlive,
    Close,
}

/// How long a client should wait before it tries again, in seconds.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// Whether a field of an answer is passed on to the client.
pub fn is_passed_on(name: &str, head: &AnswerHead<'_>) -> bool {
    match known(name) {
        Known::Connection
        | Known::ContentLength
        | Known::TransferEncoding
        | Known::Upgrade
        | Known::HopByHop => false,
        Known::Host
        | Known::Expect
        | Known::XForwardedFor
        | Known::XForwardedHost
        | Known::XForwardedProto
        | Known::Identity
        | Known::Forwarded
        | Known::Order
        | Known::ClientCertificate
        | Known::XRequestId
        | Known::Traceparent
        | Known::Tracestate
        | Known::ContentType
        | Known::Other => !(head.connection.nominates() && is_nominated(name, head.fields)),
    }
}

/// Appends the head of a server's answer, as the client gets it.
pub fn write_answer(
    out: &mut Vec<u8>,
    head: &AnswerHead<'_>,
    version: Version,
    body: BodyOut,
    then: Then,
) {
    write_status_line(out, head.status, head.phrase);
    write_fields(out, head);
    match body {
        BodyOut::None => match head.declared_length() {
            Some(length) if head.status != 204 => write_length(out, length),
            _ => {}
        },
        BodyOut::Length(length) => write_length(out, length),
        BodyOut::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyOut::UntilClose => {}
    }
    match (then, version) {
        (Then::Close, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (Then::KeepAlive, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (Then::KeepAlive, Version::Http11 | Version::H2) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a 1xx head; 101 with its Upgrade.
pub fn write_interim(out: &mut Vec<u8>, head: &AnswerHead<'_>) {
    write_status_line(out, head.status, head.phrase);
    if head.status == 101 {
        out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n");
    }
    write_fields(out, head);
    out.extend_from_slice(b"\r\n");
}

fn write_status_line(out: &mut Vec<u8>, status: u16, phrase: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(phrase.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

fn write_fields(out: &mut Vec<u8>, head: &AnswerHead<'_>) {
    for field in head.fields {
        if is_passed_on(field.name, head) {
            push_field(out, field.name, field.value);
        }
    }
}

/// The fields of an answer of rota's own, beside its length.
pub fn refusal_fields(refusal: Refusal) -> impl Iterator<Item = (&'static str, String)> {
    let retry_after =
        (refusal.status() == 503).then(|| ("retry-after", RETRY_AFTER_SECONDS.to_string()));
    let allow = matches!(refusal, Refusal::MethodNotAllowed).then(|| {
        (
            "allow",
            "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH".to_owned(),
        )
    });
    [("content-type", "text/plain; charset=utf-8".to_owned())]
        .into_iter()
        .chain(retry_after)
        .chain(allow)
}

/// Appends a whole answer of rota's own.
pub fn write_refusal(out: &mut Vec<u8>, refusal: Refusal, is_head: bool, then: Then) {
    let status = refusal.status();
    let text = refusal.text();
    write_status_line(out, status, phrase(status));
    for (name, value) in refusal_fields(refusal) {
        push_field(out, name, value.as_bytes());
    }
    write!(out, "content-length: {}\r\n", text.len() + 1).expect("a vector takes all");
    finish(out, then, (!is_head).then_some(text));
}

/// Appends a 308 (RFC 9110 section 15.4.9).
pub fn write_redirect(out: &mut Vec<u8>, location: &str, then: Then) {
    write!(
        out,
        "HTTP/1.1 308 Permanent Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n"
    )
    .expect("a vector takes all");
    finish(out, then, None);
}

/// Appends the 200 that a CA asked for (RFC 8555 section 8.3).
pub fn write_proof(out: &mut Vec<u8>, text: &str, then: Then) {
    write!(
        out,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n",
        text.len() + 1
    )
    .expect("a vector takes all");
    finish(out, then, Some(text));
}

/// Of an answer of its own rota is the origin: it says when it was given (RFC 9110 section 6.6.1).
fn finish(out: &mut Vec<u8>, then: Then, text: Option<&str>) {
    push_field(out, "date", &date::now());
    out.extend_from_slice(match then {
        Then::Close => b"connection: close\r\n".as_slice(),
        // To a client of HTTP/1.0 it has to be said; to any other it does no harm.
        Then::KeepAlive => b"connection: keep-alive\r\n",
    });
    out.extend_from_slice(b"\r\n");
    if let Some(text) = text {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("")
}
