//! Where a request's body ends, and that what is behind it is never taken for a part of it: RFC 9112 sections 6 and 7.

use super::framing::SMUGGLED;
use crate::support::client::Client;
use crate::support::rota::{Place, edge};
use crate::support::{Origin, Rota};

/// What is wrong, the data that is whole before it, and chunks that are wrong like this.
type BadChunks = (&'static str, &'static str, &'static [&'static str]);

const BAD_CHUNKS: &[BadChunks] = &[
    (
        "a size that is not hex digits alone",
        "",
        &[
            "x\r\nabc\r\n",
            "\r\nabc\r\n",
            ";a\r\nabc\r\n",
            "-3\r\nabc\r\n",
            "+3\r\nabc\r\n",
            "0x3\r\nabc\r\n",
            "3g\r\nabc\r\n",
            "3_0\r\nabc\r\n",
            "3h\r\nabc\r\n",
        ],
    ),
    (
        "a size beyond any body",
        "",
        &[
            "fffffffffffffffff\r\nabc\r\n",
            "10000000000000003\r\nabc\r\n",
            "ffffffffffffffff\r\nabc\r\n",
            "8000000000000000\r\nabc\r\n",
            "0000000000000000000000003\r\nabc\r\n",
        ],
    ),
    (
        "white space around the size",
        "",
        &[
            " 3\r\nabc\r\n",
            "\t3\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "3\t\r\nabc\r\n",
            "0 \r\n\r\n",
        ],
    ),
    (
        "a line that does not end in CR LF",
        "",
        &[
            "3\nabc\r\n",
            "3\rabc\r\n",
            "3\r\rabc\r\n",
            "3;a\nabc\r\n",
            "3;a\rb\r\nabc\r\n",
            "0\n\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\n\rX",
            "0\r\nX: 1\n\r\n",
            "0\r\nX: 1\r\n\n",
            "0\r\nX: 1\n\n",
        ],
    ),
    (
        "data without its CR LF",
        "abc",
        &[
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc\rx0\r\n\r\n",
        ],
    ),
    ("less data than its size", "ab\r", &["3\r\nab\r\n0\r\n\r\n"]),
    (
        "an extension that is none",
        "",
        &[
            "3 a\r\nabc\r\n",
            "3a=b\r\nabc\r\n",
            "3,a\r\nabc\r\n",
            "3;a\0\r\nabc\r\n",
            "3;a\x01\r\nabc\r\n",
            "3;a\x7f\r\nabc\r\n",
        ],
    ),
    (
        "a trailer section that is none",
        "",
        &[
            "0\r\nX : 1\r\n\r\n",
            "0\r\nX Y: 1\r\n\r\n",
            "0\r\nX: 1\r\n folded\r\n\r\n",
            "0\r\nX: a\0\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
];

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A chunked request goes wrong: 400, closed. Its server gets what was whole, `body` behind the head, and the connection's end.
fn assert_never_ends_well(rota: &Rota, origin: &Origin, request: &str, body: &str) {
    let dialled = origin.connections();
    let mut client = Client::connect(rota.http());
    let _ = client.try_send(format!("{request}{SMUGGLED}").as_bytes());
    assert_eq!(client.answer().status, 400, "{request:?}");
    assert!(client.is_closed(), "{request:?}");
    origin.wait_until_left(dialled + 1);
    let seen = origin.received().concat();
    let seen = std::str::from_utf8(&seen).unwrap();
    let sent = seen.split_once("\r\n\r\n").map_or("", |(_, sent)| sent);
    assert_eq!(sent, body, "{request:?}");
    let is_complete = origin.requests().iter().any(|one| one.is_complete);
    assert!(!is_complete, "{request:?}");
    origin.forget();
}

#[test]
fn chunks_that_are_not_chunks_never_end_a_request_well() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    for (what, data, chunks) in BAD_CHUNKS {
        let whole = match data.len() {
            0 => String::new(),
            length => format!("{length}\r\n{data}\r\n"),
        };
        for chunk in *chunks {
            println!("{what}: {chunk:?}");
            assert_never_ends_well(&rota, &origin, &format!("{CHUNKED}{chunk}"), &whole);
            let request = format!("{CHUNKED}5\r\nhello\r\n{chunk}");
            assert_never_ends_well(&rota, &origin, &request, &format!("5\r\nhello\r\n{whole}"));
        }
    }
}

#[test]
fn extensions_are_dropped_and_have_a_limit_a_line_and_in_all() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let most = "x".repeat(255);
    let mut client = Client::connect(rota.http());
    client.send(format!(
        "{CHUNKED}3;{most}\r\nabc\r\n00002 ; a = \"b\" ;c\r\nde\r\n0;last\r\n\r\n"
    ));
    assert_eq!(client.answer().status, 200);
    let request = origin.only_request();
    let bytes = String::from_utf8(origin.received().remove(0)).unwrap();
    let (_, body) = bytes.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(request.body, b"abcde");
    drop(client);

    origin.close_connections();
    origin.forget();
    assert_never_ends_well(
        &rota,
        &origin,
        &format!("{CHUNKED}3;{most}x\r\nabc\r\n"),
        "",
    );
    // 16 KiB in all: the 64th line of 256 bytes is the last.
    let line = format!("1;{most}\r\na\r\n");
    let body = "1\r\na\r\n".repeat(64);
    let request = format!("{CHUNKED}{}", line.repeat(65));
    assert_never_ends_well(&rota, &origin, &request, &body);
}

#[test]
fn a_trailer_section_has_a_limit_of_bytes_and_of_fields() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let large = format!("X: {}\r\n", "x".repeat(8 << 10));
    assert_never_ends_well(&rota, &origin, &format!("{CHUNKED}0\r\n{large}\r\n"), "");
    let many: String = (0..65).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_never_ends_well(&rota, &origin, &format!("{CHUNKED}0\r\n{many}\r\n"), "");
}

/// Messages on one connection: what the client sends, what its server gets as (method, target, body).
type Conversation = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str, &'static str)],
);

const BODIES: &[Conversation] = &[
    (
        "what follows a body is the next request",
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[("POST", "/1", "hello"), ("GET", "/2", "")],
    ),
    (
        "a length of 0 is no body, whatever the method",
        "GET /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[("GET", "/1", ""), ("POST", "/2", ""), ("GET", "/3", "")],
    ),
    (
        "no length and no coding is no body, whatever the method",
        "POST /1 HTTP/1.1\r\nHost: a\r\n\r\nPUT /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[("POST", "/1", ""), ("PUT", "/2", ""), ("GET", "/3", "")],
    ),
    (
        "a body is one on any method",
        "GET /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabDELETE /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[
            ("GET", "/1", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("OPTIONS", "/2", "ab"),
            ("DELETE", "/3", "cd"),
            ("GET", "/4", ""),
        ],
    ),
    (
        "a last chunk ends a body, with trailers or without",
        "GET /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tCHUNKED \r\n\r\nA\r\n0123456789\r\n000\r\nX: 1\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[
            ("GET", "/1", ""),
            ("POST", "/2", "0123456789"),
            ("GET", "/3", ""),
        ],
    ),
    (
        "an asterisk is the target of OPTIONS",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[("OPTIONS", "*", ""), ("OPTIONS", "/2", "")],
    ),
];

#[test]
fn each_message_ends_where_its_framing_says_and_the_next_begins_there() {
    for (what, sent, expected) in BODIES {
        let origin = Origin::start(|exchange| {
            exchange.read_body()?;
            let target = exchange.request.target.clone();
            exchange.answer(200, &[], target.as_bytes())
        });
        let rota = Rota::start(&edge(&[origin.address()]));
        let mut client = Client::connect(rota.http());
        client.send(sent);
        for (_, target, _) in *expected {
            assert_eq!(client.answer().text(), *target, "{what}");
        }
        let requests = origin.requests();
        let got: Vec<_> = requests
            .iter()
            .map(|one| {
                let body = std::str::from_utf8(&one.body).unwrap();
                (one.method.as_str(), one.target.as_str(), body)
            })
            .collect();
        assert_eq!(got, *expected, "{what}");
    }
}

#[test]
fn more_bytes_than_a_message_has_are_no_part_of_it() {
    for request in [
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc12345",
        "GET /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n12345",
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n{\"a\":1}",
        "POST /1 HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n",
        "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n0\r\n\r\n",
    ] {
        let origin = Origin::fixed("ok");
        let rota = Rota::start(&edge(&[origin.address()]));
        let mut client = Client::connect(rota.http());
        client.send(format!("{request}{SMUGGLED}"));
        assert_eq!(client.answer().status, 200, "{request:?}");
        assert_eq!(client.answer().status, 400, "{request:?}");
        assert!(client.is_closed(), "{request:?}");
        let one = origin.only_request();
        assert!(one.is_complete && one.target == "/1", "{request:?}");
        let bytes: usize = origin.received().iter().map(Vec::len).sum();
        let framing = match request.contains("chunked") {
            true => "0\r\n\r\n".len(),
            false => one.body.len(),
        };
        assert_eq!(bytes, one.head.raw.len() + framing, "{request:?}");
    }
}

#[test]
fn a_chunked_body_beyond_the_limit_is_413() {
    let origin = Origin::fixed("ok");
    let rota = Place::new().start(&format!(
        "[limits]\nbody_bytes = \"1KiB\"\n{}",
        edge(&[origin.address()])
    ));
    let mut client = Client::connect(rota.http());
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let _ = client.try_send(chunk.repeat(2).as_bytes());
    assert_eq!(client.answer().status, 413);
    assert!(!origin.requests().iter().any(|request| request.is_complete));
}
