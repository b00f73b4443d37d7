//! From a parsed head to what is to be done with it: the route, and the head that a server gets. Hot path.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{Known, elements, is_disguised, is_nominated, known, push_decimal, push_field};
use super::http1::body::Framing;
use super::http1::head::{RequestHead, Version};
use super::refusal::Refusal;
use super::tls_facts::TlsFacts;
use super::trace::{Trace, hex};
use crate::certs::CertStore;
use crate::certs::challenge::{HttpProof, is_challenge};
use crate::routing::host::HostBuffer;
use crate::routing::path::{canonical, without_query};
use crate::routing::swap::Reader;
use crate::routing::{ListenerPolicy, Method, Route, Snapshot, Timeouts};
use crate::telemetry::{Outcome, Reason};

/// What is known of a connection before any request on it.
pub struct Peer {
    pub listener: Arc<ListenerPolicy>,
    pub address: IpAddr,
    pub address_text: String,
    /// May say on whose behalf it speaks.
    pub is_trusted: bool,
    pub tls: Option<TlsFacts>,
}

impl Peer {
    /// The outcome of a request, before it is known: the caller fills in how it ended.
    pub fn outcome<'a>(
        &'a self,
        version: Version,
        facts: &'a Facts,
        duration: Duration,
    ) -> Outcome<'a> {
        Outcome {
            listener: &self.listener.name,
            client: self.address,
            version: version.label(),
            tls: self.tls.is_some(),
            method: &facts.method,
            host: &facts.host,
            target: &facts.target,
            request_id: &facts.request_id,
            status: 0,
            reason: Reason::Internal,
            route: None,
            service: None,
            upstream: None,
            attempts: 0,
            duration,
            received: 0,
            sent: 0,
        }
    }
}

/// A request's own words, kept for the log after its head is gone. One per connection, used again and again.
#[derive(Debug, Default)]
pub struct Facts {
    pub method: String,
    pub host: String,
    pub target: String,
    pub request_id: String,
}

impl Facts {
    pub fn clear(&mut self) {
        for text in [
            &mut self.method,
            &mut self.host,
            &mut self.target,
            &mut self.request_id,
        ] {
            text.clear();
        }
    }
}

/// What is to be done with a request.
#[derive(Debug)]
pub struct Plan {
    pub route: Arc<Route>,
    pub method: Method,
    pub is_head: bool,
    pub version: Version,
    pub framing: Framing,
    pub upgrade: bool,
    /// The client wants its connection kept.
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub timeouts: Timeouts,
    pub body_limit: u64,
    pub body_rate: u64,
}

/// A request is carried to a server or answered here.
#[derive(Debug)]
pub enum Prepared {
    Carry(Plan),
    /// 308 to this location.
    Redirect(String),
    /// 200 with this text: a CA asks whether a name is ours.
    Proof(String),
}

/// Keeps what the log needs of a head: to be called before anything can refuse it.
pub fn note(facts: &mut Facts, head: &RequestHead<'_>) {
    let keep = |slot: &mut String, text: &str| {
        slot.clear();
        slot.push_str(text);
    };
    keep(&mut facts.method, head.method);
    keep(&mut facts.host, head.host);
    keep(&mut facts.target, head.target);
    facts.request_id.clear();
}

/// Decides about a request that was [`note`]d, and writes the head that the server gets to `out`.
pub fn prepare(
    head: &RequestHead<'_>,
    peer: &Peer,
    snapshot: &Snapshot,
    certificates: &Reader<CertStore>,
    facts: &mut Facts,
    out: &mut Vec<u8>,
) -> Result<Prepared, Refusal> {
    let mut buffer = HostBuffer::new();
    let host = match head.host {
        "" => "",
        sent => buffer
            .fill(sent.as_bytes())
            .map_err(|_| Refusal::Malformed("the host is malformed"))?,
    };
    check_host_field(head, host)?;
    if is_challenge(&head.path_and_query) {
        match certificates.load().http_proof(host, &head.path_and_query) {
            HttpProof::NotAsked => {}
            HttpProof::Proven(text) if head.method == "GET" => return Ok(Prepared::Proof(text)),
            HttpProof::Proven(_) => return Err(Refusal::MethodNotAllowed),
            HttpProof::Refused => return Err(Refusal::NoRoute),
        }
    }
    if let Some(redirect) = peer.listener.redirect {
        if host.is_empty() {
            return Err(Refusal::Malformed("a request without host"));
        }
        let path = if head.path_and_query == "*" {
            "/"
        } else {
            &head.path_and_query
        };
        let port = redirect
            .port
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        return Ok(Prepared::Redirect(format!("https://{host}{port}{path}")));
    }
    check_scheme(head, peer)?;
    check_direction(peer, host)?;
    let route = find_route(snapshot, host, &head.path_and_query)?;
    let body_limit = snapshot.limits.body_bytes.unwrap_or(u64::MAX);
    if matches!(head.framing, Framing::Length(length) if length > body_limit) {
        return Err(Refusal::BodyTooLarge);
    }
    write_request(out, head, peer, facts);
    Ok(Prepared::Carry(Plan {
        route: route.clone(),
        method: Method::parse(head.method),
        is_head: head.method == "HEAD",
        version: head.version,
        framing: head.framing,
        upgrade: head.upgrade,
        keep_alive: head.keeps_alive(),
        expects_continue: head.expects_continue,
        timeouts: snapshot.timeouts.clone(),
        body_limit,
        body_rate: snapshot.limits.body_rate,
    }))
}

/// A Host field that differs from an absolute-form target's authority is refused (RFC 9112 section 3.2.2 would let the target win; a
/// server behind us may not).
fn check_host_field(head: &RequestHead<'_>, host: &str) -> Result<(), Refusal> {
    if head.target == head.path_and_query {
        return Ok(());
    }
    for field in head
        .fields
        .iter()
        .filter(|field| known(field.name) == Known::Host)
    {
        let mut buffer = HostBuffer::new();
        if buffer.fill(field.value).ok() != Some(host) {
            return Err(Refusal::Malformed(
                "the host differs from the target's authority",
            ));
        }
    }
    Ok(())
}

/// What is meant for a secured connection is not taken from another one (RFC 9110 section 7.4), unless a trusted proxy's was secured.
fn check_scheme(head: &RequestHead<'_>, peer: &Peer) -> Result<(), Refusal> {
    let scheme = head.target.as_bytes().first_chunk::<6>();
    let is_https = scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https:"));
    if is_https && peer.tls.is_none() && !peer.is_trusted {
        return Err(Refusal::Malformed(
            "a target of https on a connection without tls",
        ));
    }
    Ok(())
}

/// 421 (RFC 9110 section 15.5.20) when the client named one host in its handshake and asks for another that the
/// certificate does not cover. Who names none (HTTP/1.0 alone) asks for any: routed by `*`, as without TLS.
fn check_direction(peer: &Peer, host: &str) -> Result<(), Refusal> {
    let Some(TlsFacts {
        sni: Some(sni),
        certificate,
        ..
    }) = &peer.tls
    else {
        return Ok(());
    };
    let is_covered = host.is_empty()
        || sni.eq_ignore_ascii_case(host)
        || certificate.as_ref().is_some_and(|one| one.covers(host));
    if is_covered {
        Ok(())
    } else {
        Err(Refusal::Misdirected)
    }
}

/// The path decides as it stands and in canonical form; if the two lead to different routes, the request is ambiguous.
fn find_route<'s>(
    snapshot: &'s Snapshot,
    host: &str,
    path_and_query: &str,
) -> Result<&'s Arc<Route>, Refusal> {
    if path_and_query == "*" {
        return snapshot
            .routes
            .find(host, "/")
            .map_err(|_| Refusal::NoRoute);
    }
    let path = without_query(path_and_query);
    let meant = canonical(path).map_err(|_| Refusal::Malformed("the path is malformed"))?;
    let as_sent = snapshot.routes.find(host, path);
    if *meant == *path {
        return as_sent.map_err(|_| Refusal::NoRoute);
    }
    if is_challenge(&meant) {
        return Err(Refusal::Malformed("a challenge's path that is not plain"));
    }
    match (as_sent, snapshot.routes.find(host, &meant)) {
        (Ok(one), Ok(other)) if Arc::ptr_eq(one, other) => Ok(one),
        (Err(_), Err(_)) => Err(Refusal::NoRoute),
        _ => Err(Refusal::Malformed(
            "the path leads to different routes as it stands and in canonical form",
        )),
    }
}

/// Writes the head for the server: nothing is passed on as it came, our own fields come after the hop-by-hop ones are gone.
fn write_request(out: &mut Vec<u8>, head: &RequestHead<'_>, peer: &Peer, facts: &mut Facts) {
    out.clear();
    for part in [
        head.method,
        " ",
        &head.path_and_query,
        " HTTP/1.1\r\nHost: ",
        head.host,
        "\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut kept = KeptIdentity::default();
    let mut trace = Trace::default();
    for field in head.fields {
        match known(field.name) {
            Known::Other | Known::ContentType => {
                let is_dropped = is_disguised(field.name)
                    || (head.connection.nominates() && is_nominated(field.name, head.fields));
                if !is_dropped {
                    push_field(out, field.name, field.value);
                }
            }
            Known::XForwardedFor if peer.is_trusted => kept.add_for(field.value),
            Known::XForwardedHost if peer.is_trusted => kept.host = Some(field.value),
            Known::XForwardedProto if peer.is_trusted => kept.proto = Some(field.value),
            Known::XRequestId if peer.is_trusted => kept.request_id = request_id(field.value),
            // A proxy that says it itself need not know the same name with `_` or `.`: that one may be its client's.
            Known::Identity if peer.is_trusted && !is_disguised(field.name) => {
                push_field(out, field.name, field.value)
            }
            Known::Forwarded if peer.is_trusted => {
                kept.is_forwarded = true;
                push_field(out, field.name, field.value);
            }
            Known::Traceparent => trace.add_parent(field.value),
            Known::Tracestate => trace.add_state(),
            Known::Host
            | Known::Connection
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Expect
            | Known::Upgrade
            | Known::HopByHop
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedProto
            | Known::Identity
            | Known::Forwarded
            | Known::Order
            // From nobody, a trusted proxy included: a server could not tell whose word it is.
            | Known::ClientCertificate
            | Known::XRequestId => {}
        }
    }
    write_identity(out, &kept, head, peer, facts);
    trace.write(out, head.fields);
    match head.framing {
        // A method that is defined to have a body says that it has none (RFC 9110 section 8.6).
        Framing::None if matches!(head.method, "POST" | "PUT" | "PATCH") => {
            out.extend_from_slice(b"Content-Length: 0\r\n")
        }
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if head.expects_continue && head.framing != Framing::None {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    if head.upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What a trusted proxy said of the client.
#[derive(Default)]
struct KeptIdentity<'a> {
    forwarded_for: Vec<&'a [u8]>,
    host: Option<&'a [u8]>,
    proto: Option<&'a [u8]>,
    request_id: Option<&'a str>,
    is_forwarded: bool,
}

impl<'a> KeptIdentity<'a> {
    fn add_for(&mut self, value: &'a [u8]) {
        self.forwarded_for.extend(elements(value));
    }
}

fn write_identity(
    out: &mut Vec<u8>,
    kept: &KeptIdentity<'_>,
    head: &RequestHead<'_>,
    peer: &Peer,
    facts: &mut Facts,
) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    for hop in &kept.forwarded_for {
        out.extend_from_slice(hop);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(peer.address_text.as_bytes());
    let scheme = if peer.tls.is_some() { "https" } else { "http" };
    out.extend_from_slice(b"\r\n");
    if kept.is_forwarded {
        write_forwarded(out, peer, scheme);
    }
    push_field(
        out,
        "X-Forwarded-Proto",
        kept.proto.unwrap_or(scheme.as_bytes()),
    );
    push_field(
        out,
        "X-Forwarded-Host",
        kept.host.unwrap_or(head.host.as_bytes()),
    );
    if let Some(tls) = &peer.tls {
        out.extend_from_slice(tls.client_fields());
    }
    match kept.request_id {
        Some(id) => facts.request_id.push_str(id),
        None => {
            let id = hex(fastrand::u128(..));
            facts
                .request_id
                .push_str(std::str::from_utf8(&id).expect("hex digits are ASCII"));
        }
    }
    push_field(out, "X-Request-Id", facts.request_id.as_bytes());
}

/// Our own hop behind those that `Forwarded` names (RFC 7239 section 4).
fn write_forwarded(out: &mut Vec<u8>, peer: &Peer, scheme: &str) {
    let node = match peer.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let hop = format!("for={node};proto={scheme}");
    push_field(out, "Forwarded", hop.as_bytes());
}

/// A request id is kept if it is of 1 to 128 visible characters that no log has to escape.
fn request_id(value: &[u8]) -> Option<&str> {
    let allowed = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=')
    };
    let fits = (1..=128).contains(&value.len()) && value.iter().copied().all(allowed);
    if fits {
        std::str::from_utf8(value).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_that_a_log_would_have_to_escape_is_not_kept() {
        assert_eq!(request_id(b"ab-1"), Some("ab-1"));
        assert_eq!(request_id(b"a\"b"), None);
        assert_eq!(request_id(&[b'a'; 129]), None);
    }
}
