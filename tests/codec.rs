//! rota's HTTP/1 codec against hyper's, and against itself under any split into reads: the checks that `fuzz/` runs for longer.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

use std::cell::Cell;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/src/codec/mod.rs"]
mod codec;

use codec::{AnswerCase, Asked, Read, RequestCase, Verdict};

const CASES: u32 = 3000;

const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n",
    "GET /x?y=z HTTP/1.1\r\nHost: a\r\n",
    "POST /a/../b HTTP/1.1\r\nhost: A.b:80\r\n",
    "PUT http://a/p?q HTTP/1.1\r\nHost: a\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
    "HEAD //x HTTP/1.0\r\n",
    "\r\n\r\nDELETE / HTTP/1.0\r\nHost: a\r\n",
];

const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 Fine\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 404\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 \r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n",
];

const FIELDS: &[&str] = &[
    "Content-Length: 5\r\n",
    "content-length: 0\r\n",
    "Content-Length: 00005\r\n",
    "Content-Length: 5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding: CHUNKED \r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: keep-alive , Close\r\n",
    "Connection: x\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\n",
    "Trailer: X\r\n",
    "X: \t a  b \r\n",
    "X:\r\n",
    "x: \u{e9}\r\n",
    "X : 1\r\n",
    " X: folded\r\n",
    "X: 1\n",
];

const BODIES: &[&str] = &[
    "",
    "hello",
    "hello, and more",
    "5\r\nhello\r\n0\r\n\r\n",
    "05;a=b ;c=\"d\"\r\nhello\r\nA\r\n0123456789\r\n000\r\nX: 1\r\nx: 2\r\nY: 3\r\n\r\n",
    "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
    "0\r\n\r\n",
    "0\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "fffffffffffffff\r\nhello",
    "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
];

/// A message of parts that stand for each rule, in any order, and sometimes one byte that spoils it.
fn messages(lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(select(FIELDS), 0..4);
    let bodies = prop::collection::vec(select(BODIES), 1..3);
    let spoiled = prop::option::weighted(0.2, (any::<Index>(), any::<u8>()));
    (select(lines), fields, bodies, spoiled).prop_map(|(line, fields, bodies, spoiled)| {
        let mut bytes = [line, &fields.concat(), "\r\n", &bodies.concat()]
            .concat()
            .into_bytes();
        if let Some((at, byte)) = spoiled {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// Runs `check` over many messages; it says whether one of them was accepted, of which there must be some.
fn run<T: std::fmt::Debug>(messages: impl Strategy<Value = T>, check: impl Fn(T) -> bool) {
    let accepted = Cell::new(0);
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&messages, |message| {
            accepted.set(accepted.get() + u32::from(check(message)));
            Ok(())
        })
        .unwrap();
    assert!(accepted.get() > CASES / 20, "{} of {CASES}", accepted.get());
}

fn asked() -> impl Strategy<Value = Asked> {
    select(&[Asked::Get, Asked::Head])
}

#[test]
fn a_request_that_hyper_accepts_too_means_the_same_to_it() {
    run(
        (messages(REQUEST_LINES), any::<[u8; 3]>()),
        |(sent, reads)| codec::compare_requests(&sent, reads) == Verdict::Agreed,
    );
}

#[test]
fn an_answer_that_hyper_accepts_too_means_the_same_to_it() {
    let cases = (messages(STATUS_LINES), asked(), any::<[u8; 3]>());
    run(cases, |(sent, asked, reads)| {
        codec::compare_answers(&sent, asked, reads) == Verdict::Agreed
    });
}

#[test]
fn no_split_of_a_request_into_reads_changes_what_it_means() {
    run(
        (messages(REQUEST_LINES), any::<[u8; 3]>()),
        |(sent, reads)| matches!(codec::split_request(&sent, reads), Read::Whole { .. }),
    );
}

#[test]
fn no_split_of_an_answer_into_reads_changes_what_it_means() {
    let cases = (messages(STATUS_LINES), asked(), any::<[u8; 3]>());
    run(cases, |(sent, asked, reads)| {
        matches!(codec::split_answer(&sent, asked, reads), Read::Whole { .. })
    });
}

/// The seeds of a fuzz target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn the_seeds_of_the_fuzz_targets_are_messages_that_both_codecs_accept() {
    for (name, seed) in seeds("request_peer") {
        let case = RequestCase::of(&seed).unwrap();
        assert!(
            matches!(
                codec::split_request(case.sent, case.reads),
                Read::Whole { .. }
            ),
            "{name}"
        );
        let verdict = codec::compare_requests(case.sent, case.reads);
        assert_eq!(verdict, Verdict::Agreed, "{name}");
    }
    for (name, seed) in seeds("answer_peer") {
        let case = AnswerCase::of(&seed).unwrap();
        let read = codec::split_answer(case.sent, case.asked, case.reads);
        assert!(matches!(read, Read::Whole { .. }), "{name}");
        let verdict = codec::compare_answers(case.sent, case.asked, case.reads);
        assert_eq!(verdict, Verdict::Agreed, "{name}");
    }
}
