//! What HTTP/2 forbids at the byte (RFC 9113 section 8) is refused, and never written to a server as HTTP/1.

use crate::attack::{
    DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, block,
    frame, secure,
};
use crate::support::client::Client;
use crate::support::{Authority, Origin, Rota};

type Fields = &'static [(&'static str, &'static str)];

/// The head of a request that is fine.
const GOOD: Fields = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "shop.test"),
    (":path", "/"),
];

/// A rule, and fields that break it behind those of [`GOOD`].
const FORBIDDEN_FIELDS: &[(&str, &[Fields])] = &[
    (
        "section 8.2.1: a name in upper case or of other characters",
        &[
            &[("X-Upper", "1")],
            &[("Host", "shop.test")],
            &[("Transfer-Encoding", "chunked")],
            &[("x a", "1")],
            &[(" x", "1")],
            &[("x ", "1")],
            &[("x\ty", "1")],
            &[("x(y", "1")],
            &[("x\"y", "1")],
            &[("x\0y", "1")],
            &[("x\r\ny", "1")],
            &[("x:y", "1")],
            &[("x\x7f", "1")],
            &[("x\u{e9}", "1")],
            &[("", "1")],
        ],
    ),
    (
        "section 8.2.1: a value with NUL, CR, LF or white space at an end",
        &[
            &[("x-a", "a\0b")],
            &[("x-a", "a\rb")],
            &[("x-a", "a\nb")],
            &[("x-a", "a\r\nx-smuggled: 1")],
            &[("x-a", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")],
            &[("cookie", "a\r\nx-smuggled: 1")],
            &[("x-a", "\x01")],
            &[("x-a", "\x7f")],
            &[("x-a", " a")],
            &[("x-a", "a\t")],
            &[("cookie", " a")],
        ],
    ),
    (
        "section 8.2.2: a field of a connection",
        &[
            &[("connection", "close")],
            &[("connection", "x-a"), ("x-a", "1")],
            &[("keep-alive", "1")],
            &[("proxy-connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("transfer-encoding", "identity")],
            &[("upgrade", "websocket")],
            &[("upgrade", "h2c")],
            &[("te", "gzip")],
            &[("te", "trailers, chunked")],
        ],
    ),
    (
        "section 8.3: a pseudo-header field twice, unknown, of answers, or behind another field",
        &[
            &[(":method", "GET")],
            &[(":path", "/smuggled")],
            &[(":scheme", "https")],
            &[(":authority", "shop.test")],
            &[(":status", "200")],
            &[(":protocol", "websocket")],
            &[(":smuggled", "1")],
            &[("x-a", "1"), (":path", "/smuggled")],
        ],
    ),
    (
        "section 8.3.1: an authority that differs from the host",
        &[
            &[("host", "other.test")],
            &[("host", "")],
            &[("host", "shop.test"), ("host", "shop.test")],
            &[("host", "shop.test"), ("host", "other.test")],
        ],
    ),
    (
        "section 8.1.1: a content-length that is none, or twice, or without a body",
        &[
            &[("content-length", "5")],
            &[("content-length", "+0")],
            &[("content-length", "-1")],
            &[("content-length", "0x0")],
            &[("content-length", "")],
            &[("content-length", "0, 0")],
            &[("content-length", "18446744073709551616")],
            &[("content-length", "0"), ("content-length", "0")],
            &[("content-length", "0"), ("content-length", "5")],
        ],
    ),
];

/// Whole heads, with what is wrong with each.
const FORBIDDEN_HEADS: &[(&str, Fields)] = &[
    (
        "no method",
        &[
            (":scheme", "https"),
            (":authority", "shop.test"),
            (":path", "/"),
        ],
    ),
    (
        "no scheme",
        &[
            (":method", "GET"),
            (":authority", "shop.test"),
            (":path", "/"),
        ],
    ),
    (
        "no path",
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "shop.test"),
        ],
    ),
    (
        "no authority and no host",
        &[(":method", "GET"), (":scheme", "https"), (":path", "/")],
    ),
    (
        "no pseudo-header field",
        &[("host", "shop.test"), ("x-a", "1")],
    ),
    ("a method that is no token", &head("G T", "shop.test", "/")),
    (
        "a method with a line",
        &head("GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "shop.test", "/"),
    ),
    ("an empty method", &head("", "shop.test", "/")),
    ("a connect", &head("CONNECT", "shop.test", "/")),
    ("a trace", &head("TRACE", "shop.test", "/")),
    ("an empty path", &head("GET", "shop.test", "")),
    (
        "a path without a slash",
        &head("GET", "shop.test", "smuggled"),
    ),
    ("an asterisk for a GET", &head("GET", "shop.test", "*")),
    (
        "a path with a space",
        &head("GET", "shop.test", "/ HTTP/1.1"),
    ),
    (
        "a path with a line",
        &head("GET", "shop.test", "/ HTTP/1.1\r\nx-smuggled: 1"),
    ),
    ("a path with NUL", &head("GET", "shop.test", "/\0")),
    (
        "a path with an encoded NUL",
        &head("GET", "shop.test", "/%00"),
    ),
    ("a path with a tab", &head("GET", "shop.test", "/\ta")),
    (
        "a path in absolute form",
        &head("GET", "shop.test", "http://other.test/"),
    ),
    (
        "an authority with a user",
        &head("GET", "user@shop.test", "/"),
    ),
    (
        "an authority with a space",
        &head("GET", "shop.test other.test", "/"),
    ),
    (
        "an authority with a comma",
        &head("GET", "shop.test,other.test", "/"),
    ),
    (
        "an authority with a line",
        &head("GET", "shop.test\r\nx-smuggled: 1", "/"),
    ),
    (
        "an authority with a path",
        &head("GET", "shop.test/smuggled", "/"),
    ),
    ("an empty authority", &head("GET", "", "/")),
    (
        "an authority whose port is none",
        &head("GET", "shop.test:x", "/"),
    ),
];

const fn head(
    method: &'static str,
    authority: &'static str,
    path: &'static str,
) -> [(&'static str, &'static str); 4] {
    [
        (":method", method),
        (":scheme", "https"),
        (":authority", authority),
        (":path", path),
    ]
}

/// What came of stream 1.
fn fate(client: &mut Frames) -> Option<Frame> {
    std::iter::from_fn(|| client.next()).find(|frame| frame.kind != DATA)
}

/// The answer's status is 200: entry 8 of the static table (RFC 7541 appendix A).
fn is_answered(fate: Option<&Frame>) -> bool {
    fate.is_some_and(|frame| frame.kind == HEADERS && frame.payload.first() == Some(&0x88))
}

/// What a head of these fields got that it should not have got; None: it was refused, and no byte of it sent.
fn breach(world: &World, what: &str, fields: &[(&str, &str)]) -> Option<String> {
    let mut client = Frames::open(&world.rota, &world.authority);
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields));
    let sent = client.0.try_send(&head);
    let fate = sent.ok().and_then(|()| fate(&mut client));
    let is_sent = world.origin.count() > 0;
    world.origin.forget();
    let is_refused = !is_answered(fate.as_ref()) && !is_sent;
    (!is_refused).then(|| format!("{what}: {fields:?}"))
}

struct World {
    authority: Authority,
    origin: Origin,
    rota: Rota,
}

impl World {
    fn start() -> World {
        let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
        let rota = secure(&authority, &origin, "");
        World {
            authority,
            origin,
            rota,
        }
    }
}

#[test]
fn a_head_that_http_2_forbids_is_refused_and_no_byte_of_it_reaches_a_server() {
    let world = World::start();
    let behind_good = FORBIDDEN_FIELDS.iter().flat_map(|(rule, breaches)| {
        let with_good = |fields: &Fields| [GOOD, *fields].concat();
        breaches
            .iter()
            .map(move |fields| (*rule, with_good(fields)))
    });
    let whole = FORBIDDEN_HEADS.iter();
    let whole = whole.map(|(what, fields)| (*what, fields.to_vec()));
    let breaches: Vec<String> = behind_good
        .chain(whole)
        .filter_map(|(what, fields)| breach(&world, what, &fields))
        .collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
    let World {
        authority, rota, ..
    } = &world;
    // The same way, with nothing wrong.
    let mut client = Frames::open(rota, authority);
    client
        .0
        .send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(GOOD)));
    assert!(is_answered(fate(&mut client).as_ref()));
    rota.assert_running();
    assert_eq!(rota.metric("rota_panics_total", &[]), 0.0);
}

/// A body whose end is not where its content-length says, by every frame that can end a stream; or trailers that are none.
fn broken_bodies() -> Vec<(&'static str, Fields, Vec<u8>)> {
    const FIVE: Fields = &[("content-length", "5")];
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    let trailers =
        |flags, fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | flags, 1, &block(fields));
    let ended = |fields: &[(&str, &str)]| trailers(END_STREAM, fields);
    let three = data(0, b"abc");
    vec![
        ("short, in DATA", FIVE, data(END_STREAM, b"abc")),
        (
            "short, in an empty DATA",
            FIVE,
            [three.clone(), data(END_STREAM, b"")].concat(),
        ),
        (
            "short, in trailers",
            FIVE,
            [three.clone(), ended(&[("x-a", "1")])].concat(),
        ),
        ("nothing, in an empty DATA", FIVE, data(END_STREAM, b"")),
        ("nothing, in trailers", FIVE, ended(&[("x-a", "1")])),
        ("long, in one DATA", FIVE, data(END_STREAM, b"abcdef")),
        (
            "long, in two",
            FIVE,
            [three.clone(), data(END_STREAM, b"def")].concat(),
        ),
        (
            "something where nothing was said",
            &[("content-length", "0")],
            data(END_STREAM, b"a"),
        ),
        (
            "an upper-case name in trailers",
            &[],
            [three.clone(), ended(&[("X-A", "1")])].concat(),
        ),
        (
            "a line in trailers",
            &[],
            [three.clone(), ended(&[("x-a", "a\r\nx-smuggled: 1")])].concat(),
        ),
        (
            "trailers that do not end the stream",
            &[],
            [three, trailers(0, &[("x-a", "1")]), data(END_STREAM, b"d")].concat(),
        ),
    ]
}

#[test]
fn a_body_that_ends_elsewhere_than_its_content_length_says_never_completes_a_request() {
    let world = World::start();
    let mut breaches = Vec::new();
    for (what, fields, frames) in broken_bodies() {
        let mut client = Frames::open(&world.rota, &world.authority);
        let head = [&head("POST", "shop.test", "/")[..], fields].concat();
        let head = frame(HEADERS, END_HEADERS, 1, &block(&head));
        let sent = client.0.try_send(&[head, frames].concat());
        let fate = sent.ok().and_then(|()| fate(&mut client));
        drop(client);
        let mut requests = world.origin.requests().into_iter();
        if is_answered(fate.as_ref()) || requests.any(|one| one.is_complete) {
            breaches.push(what);
        }
        let bytes = world.origin.received().concat();
        if String::from_utf8_lossy(&bytes).contains("smuggled") {
            breaches.push("smuggled");
        }
        world.origin.forget();
    }
    assert!(breaches.is_empty(), "{breaches:?}");
}

#[test]
fn fields_that_frame_or_route_a_request_are_no_trailers() {
    let World {
        authority,
        origin,
        rota,
    } = World::start();
    for name in [
        "content-length",
        "host",
        "transfer-encoding",
        "connection",
        "te",
        ":path",
        ":smuggled",
    ] {
        let mut client = Frames::open(&rota, &authority);
        let head = block(&head("POST", "shop.test", "/"));
        let frames = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, 0, 1, b"abc"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(name, "3")])),
        ];
        client.0.send(frames.concat());
        let _ = fate(&mut client);
        let named = |(field, _): &(String, String)| field.eq_ignore_ascii_case(name);
        let requests = origin.requests();
        let is_sent = requests.iter().any(|one| one.trailers.iter().any(named));
        assert!(!is_sent, "{name}");
        origin.forget();
    }
}

#[test]
fn a_fragment_is_no_part_of_the_path_that_a_server_gets() {
    let world = World::start();
    let mut client = Frames::open(&world.rota, &world.authority);
    let head = block(&head("GET", "shop.test", "/a#/smuggled"));
    client
        .0
        .send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head));
    let _ = fate(&mut client);
    let requests = world.origin.requests();
    assert!(
        requests.iter().all(|one| one.target == "/a"),
        "{requests:?}"
    );
}

const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const PROTOCOL_ERROR: u8 = 1;
const FRAME_SIZE_ERROR: u8 = 6;

/// The error that the connection ends with, behind frames of its client; a request that follows them is not served.
fn ends_with(client: &mut Frames, frames: &[u8]) -> Option<u8> {
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(GOOD));
    let _ = client.0.try_send(&[frames, &head].concat());
    let last = std::iter::from_fn(|| client.next()).last()?;
    (last.kind == GOAWAY).then(|| last.payload[7])
}

#[test]
fn a_frame_whose_size_is_not_its_kind_s_ends_its_connection_with_frame_size_error() {
    let world = World::start();
    for (kind, flags, stream, size) in [
        (PRIORITY, 0, 1, 4),
        (PRIORITY, 0, 1, 6),
        (RST_STREAM, 0, 1, 3),
        (SETTINGS, 0, 0, 5),
        (SETTINGS, ACK, 0, 6),
        (PING, 0, 0, 7),
        (PING, ACK, 0, 9),
        (GOAWAY, 0, 0, 7),
        (WINDOW_UPDATE, 0, 0, 3),
        (WINDOW_UPDATE, 0, 0, 5),
    ] {
        let mut client = Frames::open(&world.rota, &world.authority);
        let sent = frame(kind, flags, stream, &vec![0; size]);
        let ended = ends_with(&mut client, &sent);
        assert_eq!(ended, Some(FRAME_SIZE_ERROR), "{kind} of {size} bytes");
    }
    assert_eq!(world.origin.count(), 0);
}

#[test]
fn a_connection_that_does_not_begin_with_its_client_s_settings_is_ended() {
    let world = World::start();
    let (preface, _settings) = PREFACE.split_at(24);
    for first in [
        Vec::new(),
        frame(SETTINGS, ACK, 0, b""),
        frame(PING, 0, 0, &[0; 8]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ] {
        let tls = (world.authority).client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
        let mut client = Frames(Client::connect_tls(world.rota.https(), &tls).unwrap());
        let ended = ends_with(&mut client, &[preface, &first].concat());
        assert_eq!(ended, Some(PROTOCOL_ERROR), "{first:?}");
    }
    assert_eq!(world.origin.count(), 0);
}
