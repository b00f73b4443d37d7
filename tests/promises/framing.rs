//! What two readers could read differently in a request is refused, and never repaired: RFC 9112 clause by clause.
//!
//! Every refused head is followed by [`SMUGGLED`], a request that nobody sent; no byte of either may reach the server.

use crate::support::client::Client;
use crate::support::rota::{Place, edge};
use crate::support::{Origin, Rota};

/// Stands behind what is refused. A reader that ends the refused message elsewhere than another would take it for a request.
pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A clause, the status that answers its breach, and requests that breach it.
type Clause = (&'static str, u16, &'static [&'static str]);

const LENGTH_AND_CODING: &[Clause] = &[
    (
        "a length with a coding",
        400,
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: identity\r\n\r\nabc",
        ],
    ),
    (
        "more than one length, different or equal",
        400,
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\ncontent-length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nabcde",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\nabcde",
        ],
    ),
    (
        "a length that is not digits alone, or too large",
        400,
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3.0\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"3\"\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551619\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        ],
    ),
    (
        "chunked more than once",
        400,
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "a coding that is not exactly chunked",
        501,
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun ked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "a coding in HTTP/1.0",
        400,
        &[
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: identity\r\n\r\n",
        ],
    ),
];

const LINES_AND_FIELDS: &[Clause] = &[
    (
        "a folded line",
        400,
        &[
            "GET / HTTP/1.1\r\n X: folded\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tfolded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n \r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "more connection options than anyone has use for",
        400,
        &[
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\nConnection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\n\r\n",
        ],
    ),
    (
        "a carriage return or line feed that ends no line",
        400,
        &[
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
            "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "a name that is no token right before its colon",
        400,
        &[
            "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\t: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX(Y): 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: 1\r\n\r\n",
        ],
    ),
    (
        "a NUL or another control character",
        400,
        &[
            "GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\x0b: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7f\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\x0c\r\n\r\nabc",
        ],
    ),
];

const REQUEST_LINE_AND_HOST: &[Clause] = &[
    (
        "a request line that is not three words",
        400,
        &[
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\r\nHost: a\r\n\r\n",
            "GET\r\nHost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
            "GET / HTTP/01.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "another version",
        505,
        &[
            "GET / HTTP/0.9\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "a target in no form that its method has",
        400,
        &[
            "GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#fragment HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://?x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET //a@b/../x HTTP/1.1\r\nHost: \r\n\r\n",
        ],
    ),
    (
        "no Host",
        400,
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n\r\n",
        ],
    ),
    (
        "more than one Host, different or equal",
        400,
        &[
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ],
    ),
    (
        "a Host that is none",
        400,
        &[
            "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a..b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n",
        ],
    ),
    (
        "a target of https on a connection without TLS",
        400,
        &["GET https://real.test/ HTTP/1.1\r\nHost: real.test\r\n\r\n"],
    ),
    (
        "a Host that differs from an absolute target",
        400,
        &[
            "GET http://real.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
            "GET http://real.test/ HTTP/1.1\r\nHost: real.test.other.test\r\n\r\n",
            "GET http://u@real.test/ HTTP/1.1\r\nHost: real.test\r\n\r\n",
            "GET http://u@real.test/ HTTP/1.1\r\nHost: u@real.test\r\n\r\n",
            "GET http://real.test/ HTTP/1.0\r\nHost: other.test\r\n\r\n",
        ],
    ),
];

/// The request is refused with `status`, its connection closed, and no byte of it reaches a server.
fn assert_refused(rota: &Rota, origin: &Origin, request: &str, status: u16) {
    let mut client = Client::connect(rota.http());
    let _ = client.try_send(format!("{request}{SMUGGLED}").as_bytes());
    let answer = client
        .try_answer()
        .unwrap_or_else(|e| panic!("{request:?}: {e}"));
    assert_eq!(answer.status, status, "{request:?}");
    assert!(client.is_closed(), "{request:?}");
    assert_eq!(origin.connections(), 0, "{request:?}");
}

fn assert_clauses(clauses: &[Clause]) {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    for (clause, status, requests) in clauses {
        for request in *requests {
            println!("{clause}: {request:?}");
            assert_refused(&rota, &origin, request, *status);
        }
    }
}

#[test]
fn ambiguous_framing_of_a_request_is_refused() {
    assert_clauses(LENGTH_AND_CODING);
}

#[test]
fn a_line_or_field_that_two_readers_could_cut_differently_is_refused() {
    assert_clauses(LINES_AND_FIELDS);
}

#[test]
fn a_request_line_is_three_words_and_names_exactly_one_host() {
    assert_clauses(REQUEST_LINE_AND_HOST);
}

/// Lines behind which nothing comes: whoever sent them waits for an answer.
const LINES_ALONE: &[(&str, u16)] = &[
    ("GET /\r\n", 400),
    ("GET / HTTP/1.1\n", 400),
    ("GET / HTTP/0.9\r\n", 505),
    ("PRI * HTTP/2.0\r\n", 505),
    ("SSH-2.0-OpenSSH_9.2\r\n", 400),
    ("EHLO shop.test\r\n", 400),
    ("HTTP/1.1 200 OK\r\n", 400),
];

#[test]
fn a_request_line_that_is_none_is_refused_before_the_rest_of_its_head_comes() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    for (line, status) in LINES_ALONE {
        for pieces in [vec![*line], line.split_inclusive(' ').collect()] {
            let mut client = Client::connect(rota.http());
            for piece in pieces {
                client.send(piece);
            }
            assert_eq!(client.answer().status, *status, "{line:?}");
            assert!(client.is_closed(), "{line:?}");
        }
    }
}

#[test]
fn an_absolute_target_becomes_origin_form() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer = rota
        .ask("GET http://Real.test/a?b HTTP/1.1\r\nHost: real.test\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.status, 200);
    let request = origin.only_request();
    assert_eq!(request.target, "/a?b");
    assert_eq!(request.fields("host"), ["Real.test"]);
}

#[test]
fn an_absolute_target_without_a_path_is_one_for_the_root() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    for (sent, received) in [
        ("http://a", "/"),
        ("http://a?b=/c", "/?b=/c"),
        ("http://a:80?", "/?"),
    ] {
        let host = sent
            .trim_start_matches("http://")
            .split('?')
            .next()
            .unwrap();
        let answer = rota.ask(&format!("GET {sent} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(origin.requests().last().unwrap().target, received);
    }
}

#[test]
fn limits_of_the_head_have_statuses_of_their_own() {
    let origin = Origin::fixed("never");
    let limits = "[limits]\nhead_bytes = \"8KiB\"\nhead_fields = 20\ntarget_bytes = \"1KiB\"\nbody_bytes = \"1KiB\"\n";
    let rota = Place::new().start(&format!("{limits}{}", edge(&[origin.address()])));
    let long = "x".repeat(1100);
    let big = "x".repeat(9000);
    let many: String = (0..30).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {big}\r\n\r\n"),
            431,
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n".into(),
            413,
        ),
    ] {
        assert_refused(&rota, &origin, &request, status);
    }
}
