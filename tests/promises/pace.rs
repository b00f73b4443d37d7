//! How slowly a client may send its body: a byte now and then is not alive, and once its answer has begun nobody is in a hurry.

use std::time::{Duration, Instant};

use crate::attack::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, frame, request, secure};
use crate::support::client::Client;
use crate::support::rota::edge;
use crate::support::{Authority, Origin, Rota, eventually};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const LENGTH: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n";

fn start(origin: &Origin, settings: &str) -> Rota {
    Rota::start(&format!("{settings}{}", edge(&[origin.address()])))
}

/// Sends a piece now and then for as long as it may, `span` at most.
fn trickle(span: Duration, mut send: impl FnMut() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < span && send() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_body_of_a_byte_now_and_then_is_408_however_it_is_framed() {
    let origin = Origin::fixed("never");
    let rota = start(&origin, "[timeouts]\nbody = \"1s\"\n");
    for (head, piece) in [(CHUNKED, "1\r\na\r\n"), (LENGTH, "a")] {
        let mut client = Client::connect(rota.http());
        client.send(head);
        let ended = || rota.metric("rota_requests_ended_total", &[("reason", "client_timeout")]);
        let before = ended();
        trickle(Duration::from_secs(20), || {
            client.try_send(piece.as_bytes()).is_ok() && ended() == before
        });
        assert_eq!(client.answer().status, 408, "{head:?}");
        assert!(client.is_closed(), "{head:?}");
    }
    assert!(!origin.requests().iter().any(|request| request.is_complete));
}

#[test]
fn a_slow_body_that_keeps_to_the_rate_arrives_whole() {
    let origin = Origin::digest();
    let settings = "[timeouts]\nbody = \"2s\"\n[limits]\nbody_rate = \"64B\"\n";
    let rota = start(&origin, settings);
    let mut client = Client::connect(rota.http());
    client.send(CHUNKED);
    // 2 KiB a second, for longer than the rate is averaged over.
    trickle(Duration::from_secs(3), || {
        let piece = format!("64\r\n{}\r\n", "x".repeat(100));
        client.try_send(piece.as_bytes()).is_ok()
    });
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
}

/// A server that begins its answer before it reads.
fn eager() -> Origin {
    Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
        exchange.read_body()?;
        exchange.send(" last")
    })
}

#[test]
fn a_body_may_be_slower_than_the_rate_once_its_answer_has_begun() {
    let origin = eager();
    let rota = start(&origin, "[timeouts]\nbody = \"2s\"\n");
    let mut client = Client::connect(rota.http());
    client.send(format!("{CHUNKED}1\r\na\r\n"));
    assert_eq!(client.answer_head().status, 200);
    assert_eq!(client.read_exactly(5), b"first");
    trickle(Duration::from_secs(3), || {
        client.try_send(b"1\r\na\r\n").is_ok()
    });
    client.send("0\r\n\r\n");
    assert_eq!(client.read_exactly(5), b" last");
    eventually("the body arrived", || origin.only_request().is_complete);
}

#[test]
fn a_body_may_be_slower_than_the_rate_once_its_answer_has_begun_over_http_2_too() {
    let (authority, origin) = (Authority::new(), eager());
    let rota = secure(&authority, &origin, "[timeouts]\nbody = \"2s\"\n");
    let mut client = Frames::open(&rota, &authority);
    let head = request("POST", "https", &[]);
    client.0.send(frame(HEADERS, END_HEADERS, 1, &head));
    client.0.send(frame(DATA, 0, 1, b"a"));
    assert_eq!(client.next().unwrap().kind, HEADERS);
    assert_eq!(client.next().unwrap().payload, b"first");
    trickle(Duration::from_secs(3), || {
        client.0.try_send(&frame(DATA, 0, 1, b"a")).is_ok()
    });
    client.0.send(frame(DATA, END_STREAM, 1, b""));
    assert_eq!(client.next().unwrap().payload, b" last");
    eventually("the body arrived", || origin.only_request().is_complete);
}
