//! What an attacker tries by bytes: floods, ambiguities between protocols, and answers that come too early.

use std::io;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::rota::{Place, edge};
use crate::support::{Authority, Origin, Rota};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A rota that speaks HTTP/2 for shop.test.
pub fn secure(authority: &Authority, origin: &Origin, settings: &str) -> Rota {
    let place = Place::new();
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    place.start(&secured(settings, origin))
}

/// The file of [`secure`], which needs a certificate `shop`.
pub fn secured(settings: &str, origin: &Origin) -> String {
    format!(
        "{settings}\n[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\ncertificates = [{{ certificate = \"shop.pem\", key = \"shop.key\" }}]\n{}",
        edge(&[origin.address()])
    )
}

/// An HTTP/2 connection whose frames are written by the test.
pub struct Frames(pub Client);

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frames {
    pub fn open(rota: &Rota, authority: &Authority) -> Frames {
        Frames::try_open(rota, authority).unwrap()
    }

    pub fn try_open(rota: &Rota, authority: &Authority) -> io::Result<Frames> {
        let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
        let mut client = Client::connect_tls(rota.https(), &tls)?;
        client.try_send(PREFACE)?;
        Ok(Frames(client))
    }

    pub fn over(mut client: Client) -> Frames {
        client.send(PREFACE);
        Frames(client)
    }

    /// The next frame that answers a stream or ends the connection; None: it ended.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let head = self.try_read(9)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let payload = self.try_read(length)?;
            if matches!(head[3], DATA | HEADERS | RST_STREAM | GOAWAY) {
                return Some(Frame {
                    kind: head[3],
                    stream,
                    payload,
                });
            }
        }
    }

    fn try_read(&mut self, count: usize) -> Option<Vec<u8>> {
        self.0.try_read_exactly(count).ok()
    }

    /// The stream is refused: answered with `400` or `417`, or reset.
    fn refuses(&mut self) -> bool {
        let frame = self.next().expect("an answer");
        // 0x0d: literal with the name `:status` of the static table; 0x8c: `400` as it stands there.
        frame.kind == RST_STREAM
            || frame.kind == GOAWAY
            || (frame.kind == HEADERS
                && (frame.payload.first() == Some(&0x8c) || frame.payload[0] & 0x0f == 8))
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A header block of literals without Huffman coding (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

pub fn request<'a>(method: &'a str, scheme: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", method),
        (":scheme", scheme),
        (":authority", "shop.test"),
        (":path", "/"),
    ];
    fields.extend_from_slice(more);
    block(&fields)
}

#[test]
fn a_client_that_resets_its_streams_as_fast_as_it_opens_them_is_told_to_calm_down() {
    let authority = Authority::new();
    let origin = Origin::start(|exchange| {
        exchange.is_left_within(Duration::from_secs(10));
        Ok(())
    });
    let rota = secure(&authority, &origin, "");
    let mut client = Frames::open(&rota, &authority);
    let head = request("GET", "https", &[]);
    for number in 0..400u32 {
        let (stream, asked) = (2 * number + 1, origin.count());
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, &head);
        if client.0.try_send(&open).is_err() {
            break;
        }
        // Given up only once the server is asked: no queue of unaccepted streams counts these.
        let patience = Instant::now() + Duration::from_secs(2);
        while origin.count() == asked && Instant::now() < patience {
            std::thread::yield_now();
        }
        let reset = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
        if client.0.try_send(&reset).is_err() || origin.count() == asked {
            break;
        }
    }
    let last = std::iter::from_fn(|| client.next())
        .last()
        .expect("a frame");
    assert_eq!(
        (last.kind, last.payload[7]),
        (GOAWAY, 0x0b),
        "ENHANCE_YOUR_CALM"
    );
    assert!(origin.count() < 400, "{}", origin.count());
}

#[test]
fn what_http_2_forbids_in_a_head_never_reaches_a_server() {
    let (authority, origin) = (Authority::new(), Origin::fixed("never"));
    let rota = secure(&authority, &origin, "");
    for (scheme, field) in [
        ("https", ("x-a", " led by a space")),
        ("https", ("x-a", "\tled by a tab")),
        ("https", ("x-a", "followed by a space ")),
        ("https", ("expect", "something else")),
        ("ftp", ("x-a", "a")),
    ] {
        let mut client = Frames::open(&rota, &authority);
        let head = request("GET", scheme, &[field]);
        client
            .0
            .send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head));
        assert!(client.refuses(), "{scheme} {field:?}");
        assert_eq!(origin.count(), 0, "{scheme} {field:?}");
    }
}

#[test]
fn a_body_longer_than_its_content_length_never_completes_a_request_whichever_frame_it_comes_in() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    for (first, fields) in [
        ("hello", &[("content-length", "5")][..]),
        ("", &[("content-length", "0")]),
        ("", &[("content-length", "0"), ("expect", "100-continue")]),
    ] {
        let mut client = Frames::open(&rota, &authority);
        let head = request("POST", "https", fields);
        client.0.send(frame(HEADERS, END_HEADERS, 1, &head));
        client.0.send(frame(DATA, 0, 1, first.as_bytes()));
        // In a read of its own: a request of another client is answered in between.
        rota.get("a", "/between");
        client.0.send(frame(DATA, END_STREAM, 1, b"!"));
        assert!(client.refuses(), "{fields:?}");
    }
    let complete =
        |request: &crate::support::origin::Request| request.method == "POST" && request.is_complete;
    assert!(!origin.requests().iter().any(complete));
}

#[test]
fn a_body_of_a_byte_now_and_then_is_too_slow_over_http_2_too() {
    let (authority, origin) = (Authority::new(), Origin::fixed("never"));
    let rota = secure(&authority, &origin, "[timeouts]\nbody = \"1s\"\n");
    let mut client = Frames::open(&rota, &authority);
    let head = request("POST", "https", &[]);
    client.0.send(frame(HEADERS, END_HEADERS, 1, &head));
    let is_cut = || origin.count() > 0 && origin.open_connections() == 0;
    let begun = Instant::now();
    while !is_cut() && begun.elapsed() < Duration::from_secs(8) {
        let _ = client.0.try_send(&frame(DATA, 0, 1, b"a"));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(is_cut(), "while bytes still came");
    let answer = client.next().expect("an answer");
    assert_eq!((answer.kind, answer.stream), (HEADERS, 1));
    assert!(!origin.requests().iter().any(|request| request.is_complete));
}

#[test]
fn a_body_whose_server_answers_instead_of_saying_100_is_never_sent_as_its_next_request() {
    let origin = Origin::start(|exchange| exchange.answer(200, &[], b"no"));
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let _ = client.try_send(b"hello");
    assert!(client.is_closed());
    assert_eq!(rota.get("a", "/next").status, 200);
    let requests = origin.requests();
    let connections: Vec<_> = requests.iter().map(|r| r.connection).collect();
    assert_eq!(connections, [0, 1]);
    assert!(!requests[0].is_complete && requests[0].body.is_empty());
}

#[test]
fn a_body_that_comes_with_its_head_needs_no_100() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer = rota.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    );
    assert_eq!(answer.status, 200);
    let request = origin.only_request();
    assert_eq!(
        (request.field("expect"), &request.body[..]),
        (None, &b"hello"[..])
    );
}

#[test]
fn a_body_is_sent_after_a_moment_to_a_server_that_never_says_100() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));
    client.send("hello");
    assert_eq!(client.answer().text(), "ok");
    assert_eq!(origin.only_request().body, b"hello");
}

#[test]
fn a_request_is_not_sent_again_once_an_interim_answer_has_come() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")?;
        std::thread::sleep(Duration::from_millis(50));
        exchange.close()
    });
    let other = Origin::fixed("other");
    let rota = Rota::start(&edge(&[origin.address(), other.address()]));
    for _ in 0..2 {
        rota.get("a", "/");
    }
    assert_eq!((origin.count(), other.count()), (1, 1));
}

#[test]
fn only_a_get_becomes_a_websocket() {
    let origin = Origin::start(|exchange| {
        exchange.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer =
        rota.ask("POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(answer.status, 502);
    assert_eq!(origin.only_request().field("upgrade"), None);
}

#[test]
fn empty_lines_before_a_request_are_skipped_however_they_are_split() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    for pieces in [
        &["\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"][..],
        &["\r", "\n\r\n\r", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"],
        &["\r\n\r", "\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"],
    ] {
        let mut client = Client::connect(rota.http());
        for piece in pieces {
            client.send(piece);
            // A request of another client, so that the pieces are read one by one.
            rota.get("a", "/between");
        }
        assert_eq!(client.answer().status, 200, "{pieces:?}");
    }
}

#[test]
fn a_target_with_a_space_is_malformed_whatever_the_version_says() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    for line in ["GET /a b HTTP/1.1", "GET /  HTTP/1.1"] {
        let answer = rota.ask(&format!("{line}\r\nHost: a\r\n\r\n"));
        assert_eq!(answer.status, 400, "{line}");
    }
    assert_eq!(rota.ask("GET / HTTP/2.0\r\n\r\n").status, 505);
    assert_eq!(origin.count(), 0);
}

#[test]
fn cookies_in_more_crumbs_than_any_browser_sends_are_431_and_never_joined() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    for (crumbs, status) in [(180, 200), (300, 431)] {
        let mut head = http::Request::get("https://shop.test/");
        for number in 0..crumbs {
            head = head.header("cookie", format!("c{number}=1"));
        }
        let answer = client.ask(head.body(()).unwrap(), Vec::new(), None);
        assert_eq!(answer.unwrap().status, status, "{crumbs}");
    }
    assert_eq!(origin.only_request().fields("cookie").len(), 1);
}
