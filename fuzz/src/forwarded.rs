//! What a server gets of a request, held against RFC 9112 and 9110 alone: one head, nothing of the client's hop, nobody's word for another's.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use rota::certs::CertStore;
use rota::proxy::http1::body::Framing;
use rota::proxy::http1::head::{RequestHead, field_space, request};
use rota::proxy::plan::{Facts, Peer, Prepared, note, prepare};
use rota::proxy::refusal::Refusal;
use rota::routing::swap::{Reader, channel};
use rota::routing::{
    HostPattern, Limits, ListenerPolicy, Prefix, Protocol, RetryPolicy, Route, RouteTable, Scheme,
    Service, ServiceMeasured, ServiceName, Snapshot, Turn,
};

use crate::{Lines, is_chunked, is_token, length};

const CLIENT: [u8; 4] = [192, 0, 2, 7];

/// Of one hop (RFC 9110 section 7.6.1), or of the proxy; never a server's to see but as rota says them itself.
const OF_THE_HOP: &[&str] = &[
    "keep-alive",
    "proxy-connection",
    "te",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
];

/// Who the client is, in words that servers believe.
const IDENTITY: &[&str] = &[
    "forwarded",
    "x-real-ip",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "forwarded-for",
    "x-original-for",
    "x-original-host",
    "x-host",
    "wl-proxy-client-ip",
    "proxy-client-ip",
    "front-end-https",
    "x-url-scheme",
    "x-remote-ip",
    "x-remote-addr",
    "x-originating-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "cf-connecting-ipv6",
    "x-appengine-user-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
];

/// Orders that servers take from an edge, from whomever they come.
const ORDERS: &[&str] = &["proxy", "x-original-url", "x-rewrite-url"];

/// Those that rota writes itself.
const OURS: &[&str] = &[
    "host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "expect",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "traceparent",
];

/// A client that is believed, and one that is not, before a table with one route for everything.
pub struct Edge {
    snapshot: Snapshot,
    certificates: Reader<CertStore>,
    believed: Peer,
    unknown: Peer,
}

/// Thread-bound by nothing: read alone.
pub static EDGE: LazyLock<Edge> = LazyLock::new(Edge::new);

/// A service without servers.
pub fn service() -> Arc<Service> {
    Arc::new(Service {
        name: ServiceName::parse("s").expect("a name"),
        members: Box::new([]),
        turn: Turn::build(&[]),
        reserve: Turn::build(&[]),
        protocol: Protocol::Http,
        retry: RetryPolicy::default(),
        pool: 1,
        in_flight: None,
        measured: Arc::new(ServiceMeasured::new(1)),
        phase: 0,
        groups: None,
    })
}

impl Edge {
    fn new() -> Edge {
        let route = Route {
            name: "all".into(),
            host: HostPattern::Any,
            path: Prefix::parse("/").expect("the root"),
            service: service(),
            number: 0,
        };
        let (routes, _) = RouteTable::build([Arc::new(route)]);
        let snapshot = Snapshot {
            routes,
            ..Snapshot::default()
        };
        let (_, certificates) = channel(CertStore::default());
        Edge {
            snapshot,
            certificates,
            believed: peer(true),
            unknown: peer(false),
        }
    }

    /// Prepares a request as the data plane does.
    ///
    /// # Panics
    /// What the server would get is not what the client asked for.
    pub fn forward(&self, head: &RequestHead<'_>, is_believed: bool) -> Result<(), Refusal> {
        let peer = if is_believed {
            &self.believed
        } else {
            &self.unknown
        };
        let (mut facts, mut out) = (Facts::default(), Vec::new());
        note(&mut facts, head);
        let prepared = prepare(
            head,
            peer,
            &self.snapshot,
            &self.certificates,
            &mut facts,
            &mut out,
        )?;
        if let Prepared::Carry(plan) = prepared {
            assert_eq!((plan.framing, plan.upgrade), (head.framing, head.upgrade));
            check(head, peer, &facts, &out);
            self.check_again(head, &out);
        }
        Ok(())
    }

    /// Read by the next rota, it is the same request.
    fn check_again(&self, head: &RequestHead<'_>, out: &[u8]) {
        let mut space = field_space();
        let limits = Limits {
            head_fields: space.len(),
            target_bytes: usize::MAX,
            ..Limits::default()
        };
        let again = match request(out, &mut space, &limits) {
            Ok(again) => again,
            Err(Refusal::TooManyFields) => return,
            // HTTP/1.0 without one: there is none to be made up.
            Err(Refusal::Malformed(_)) if head.host.is_empty() => return,
            Err(why) => panic!("{why:?}: {}", out.escape_ascii()),
        };
        assert_eq!(again.length, out.len());
        assert_eq!(
            (again.method, &again.path_and_query, again.host),
            (head.method, &head.path_and_query, head.host)
        );
        // Over HTTP/2 it says no more than that no body will come yet.
        let framing = match head.framing {
            Framing::Length(0) => Framing::None,
            framing => framing,
        };
        assert_eq!((again.framing, again.upgrade), (framing, head.upgrade));
        let is_awaited = head.expects_continue && head.framing != Framing::None;
        assert_eq!(again.expects_continue, is_awaited);
        let mut facts = Facts::default();
        let mut second = Vec::new();
        let prepared = prepare(
            &again,
            &self.believed,
            &self.snapshot,
            &self.certificates,
            &mut facts,
            &mut second,
        );
        assert!(matches!(prepared, Ok(Prepared::Carry(_))), "{prepared:?}");
    }
}

fn peer(is_trusted: bool) -> Peer {
    let address = IpAddr::from(CLIENT);
    Peer {
        listener: Arc::new(ListenerPolicy {
            name: "fuzz".into(),
            address: ([0, 0, 0, 0], 80).into(),
            scheme: Scheme::Http,
            redirect: None,
            trusted_proxies: Arc::new([]),
            proxy_protocol: false,
        }),
        address,
        address_text: address.to_string(),
        is_trusted,
        tls: None,
    }
}

fn check(head: &RequestHead<'_>, peer: &Peer, facts: &Facts, out: &[u8]) {
    let lines = Lines::of(out).expect("what a server gets is made of lines and fields");
    let first = format!("{} {} HTTP/1.1", head.method, head.path_and_query);
    assert_eq!(lines.first, first.as_bytes());
    assert!(is_token(head.method.as_bytes()));
    assert_eq!(lines.all("host"), [head.host.as_bytes()]);
    check_framing(head, &lines);
    check_passed_on(head, peer, &lines);
    check_identity(head, peer, &lines);
    let ids = lines.all("x-request-id");
    assert_eq!(ids, [facts.request_id.as_bytes()]);
    assert!(
        matches!(ids[0].len(), 1..=128)
            && ids[0]
                .iter()
                .all(|b| b.is_ascii_graphic() && !b"\"\\".contains(b))
    );
    let [trace] = lines.all("traceparent")[..] else {
        panic!("one traceparent");
    };
    let parts: Vec<&[u8]> = trace.split(|&b| b == b'-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert!(
        lengths.starts_with(&[2, 32, 16, 2]),
        "{}",
        trace.escape_ascii()
    );
    let parents = head.fields.iter();
    let mut parents = parents.filter(|field| field.name.eq_ignore_ascii_case("traceparent"));
    let is_kept = parents
        .next()
        .is_some_and(|first| first.value.trim_ascii() == trace)
        && parents.next().is_none();
    assert!(is_kept || lines.all("tracestate").is_empty());
}

fn check_framing(head: &RequestHead<'_>, lines: &Lines<'_>) {
    let (lengths, codings) = (lines.all("content-length"), lines.all("transfer-encoding"));
    match head.framing {
        Framing::None => assert!(
            codings.is_empty() && lengths.iter().all(|it| *it == b"0") && lengths.len() <= 1
        ),
        Framing::Length(bytes) => {
            assert!(codings.is_empty() && lengths.len() == 1 && length(lengths[0]) == Some(bytes));
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings.len() == 1 && is_chunked(&codings))
        }
        Framing::UntilClose => panic!("a request does not end with its connection"),
    }
    let (options, upgrades) = (lines.all("connection"), lines.all("upgrade"));
    match head.upgrade {
        true => assert!(options == [b"upgrade"] && upgrades == [b"websocket"]),
        false => assert!(options.is_empty() && upgrades.is_empty()),
    }
}

/// Each field is one of ours or came from the client like this, and none that came is missing without a reason.
fn check_passed_on(head: &RequestHead<'_>, peer: &Peer, lines: &Lines<'_>) {
    let nominated: Vec<Vec<u8>> = head
        .fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .flat_map(|field| field.value.split(|&b| b == b','))
        .map(|option| option.trim_ascii().to_ascii_lowercase())
        .collect();
    let is_identity = |name: &str| IDENTITY.contains(&name) || name.starts_with("x-forwarded-");
    let is_of_a_certificate = |name: &str| {
        ["client-cert", "client-cert-chain"].contains(&name)
            || name.starts_with("x-client-certificate")
    };
    // As a server that follows CGI reads it.
    let is_disguised = |name: &str| {
        let fold = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let folded: String = name.chars().map(fold).collect();
        let meant = &*folded;
        let is_ours = [OURS, OF_THE_HOP, ORDERS, &["content-type", "tracestate"]].concat();
        let is_told = is_ours.contains(&meant) || is_identity(meant) || is_of_a_certificate(meant);
        name.contains('_') || (meant != name && is_told)
    };
    let is_kept = |name: &str| {
        let is_sacred = ["authorization", "cookie", "set-cookie", "cache-control"].contains(&name);
        let is_taken_away = nominated.iter().any(|option| option == name.as_bytes()) && !is_sacred;
        !OF_THE_HOP.contains(&name)
            && !ORDERS.contains(&name)
            && !is_disguised(name)
            && !is_of_a_certificate(name)
            && if is_identity(name) {
                peer.is_trusted
            } else {
                !is_taken_away
            }
    };
    let is_theirs = |name: &&str| !OURS.contains(name);
    for (name, value) in &lines.fields {
        let name = name.to_ascii_lowercase();
        if is_theirs(&&*name) {
            assert!(is_kept(&name), "{name}");
            let came = |field: &httparse::Header<'_>| {
                field.name.eq_ignore_ascii_case(&name) && field.value.trim_ascii() == *value
            };
            let hop = format!("for={};proto=http", peer.address_text);
            let is_our_hop = name == "forwarded" && *value == hop.as_bytes();
            assert!(is_our_hop || head.fields.iter().any(came), "{name}");
        }
    }
    for field in head.fields {
        let name = field.name.to_ascii_lowercase();
        if is_theirs(&&*name) && is_kept(&name) && name != "tracestate" {
            assert!(
                lines.all(&name).contains(&field.value.trim_ascii()),
                "{name} is lost"
            );
        }
    }
}

fn check_identity(head: &RequestHead<'_>, peer: &Peer, lines: &Lines<'_>) {
    let [hops] = lines.all("x-forwarded-for")[..] else {
        panic!("one X-Forwarded-For");
    };
    let said = head
        .fields
        .iter()
        .filter(|field| peer.is_trusted && field.name.eq_ignore_ascii_case("x-forwarded-for"));
    let elements = |value: &[u8]| -> Vec<Vec<u8>> {
        let all = value
            .split(|&b| b == b',')
            .map(|it| it.trim_ascii().to_vec());
        all.filter(|it| !it.is_empty()).collect()
    };
    let mut expected: Vec<Vec<u8>> = said.flat_map(|field| elements(field.value)).collect();
    expected.push(peer.address_text.clone().into_bytes());
    assert_eq!(elements(hops), expected);
    for (name, ours) in [
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", head.host),
    ] {
        let [value] = lines.all(name)[..] else {
            panic!("one {name}");
        };
        let said = head
            .fields
            .iter()
            .rfind(|field| field.name.eq_ignore_ascii_case(name));
        let said = said
            .filter(|_| peer.is_trusted)
            .map_or(ours.as_bytes(), |field| field.value.trim_ascii());
        assert_eq!(value, said, "{name}");
    }
}
