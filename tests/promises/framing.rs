//! What two readers could read differently is refused, on either side, and never repaired.

use crate::support::client::Client;
use crate::support::rota::{Place, edge};
use crate::support::{Origin, Rota};

/// The request is refused with `status`, its connection closed, and no byte of it reaches the server.
fn assert_refused(rota: &Rota, origin: &Origin, request: &str, status: u16) {
    let mut client = Client::connect(rota.http());
    let _ = client.try_send(request.as_bytes());
    let answer = client
        .try_answer()
        .unwrap_or_else(|e| panic!("{request:?}: {e}"));
    assert_eq!(answer.status, status, "{request:?}");
    assert!(client.is_closed(), "{request:?}");
    assert_eq!(origin.count(), 0, "{request:?}");
}

#[test]
fn ambiguous_framing_of_a_request_is_refused() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    let bad_request = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for request in bad_request {
        assert_refused(&rota, &origin, request, 400);
    }
    for (coding, status) in [
        ("gzip, chunked", 501),
        ("chunked, chunked", 400),
        ("chunked\r\nTransfer-Encoding: chunked", 400),
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        assert_refused(&rota, &origin, &request, status);
    }
}

#[test]
fn a_request_names_exactly_one_host() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
    ] {
        assert_refused(&rota, &origin, request, 400);
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
fn a_host_that_differs_from_an_absolute_target_is_refused() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    assert_refused(
        &rota,
        &origin,
        "GET http://real.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
        400,
    );
}

#[test]
fn chunks_that_are_not_chunks_never_end_a_request_well() {
    for body in [
        "x\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "-1\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "3 \r\nabc\r\n0\r\n\r\n\r\n",
    ] {
        let origin = Origin::fixed("ok");
        let rota = Rota::start(&edge(&[origin.address()]));
        let mut client = Client::connect(rota.http());
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        if let Ok(answer) = client.try_answer() {
            assert_eq!(answer.status, 400, "{body:?}");
        }
        assert!(client.is_closed(), "{body:?}");
        assert!(
            !origin.requests().iter().any(|request| request.is_complete),
            "{body:?}"
        );
    }
}

#[test]
fn what_follows_a_body_is_a_request_of_its_own_and_never_smuggled() {
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        let target = exchange.request.target.clone();
        exchange.answer(200, &[], target.as_bytes())
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "/one");
    assert_eq!(client.answer().text(), "/two");
    let bodies: Vec<_> = origin.requests().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies, [b"hello".to_vec(), Vec::new()]);
}

#[test]
fn an_answer_with_ambiguous_framing_is_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ] {
        let origin = Origin::start(move |exchange| {
            exchange.send(answer)?;
            exchange.close()
        });
        let rota = Rota::start(&edge(&[origin.address()]));
        assert_eq!(rota.get("a", "/").status, 502, "{answer:?}");
    }
}

#[test]
fn limits_of_the_head_have_statuses_of_their_own() {
    let origin = Origin::fixed("never");
    let limits = "[limits]\nhead_bytes = \"8KiB\"\nhead_fields = 20\ntarget_bytes = \"1KiB\"\nbody_bytes = \"1KiB\"\n";
    let rota = Place::new().start(&format!("{limits}{}", edge(&[origin.address()])));
    let long = "x".repeat(1100);
    assert_refused(
        &rota,
        &origin,
        &format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        414,
    );
    let big = "x".repeat(9000);
    assert_refused(
        &rota,
        &origin,
        &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {big}\r\n\r\n"),
        431,
    );
    let many: String = (0..30).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_refused(
        &rota,
        &origin,
        &format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        431,
    );
    assert_refused(
        &rota,
        &origin,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n",
        413,
    );
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
