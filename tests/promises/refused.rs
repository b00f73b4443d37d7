//! What a refusal is in form, and what is no reason for one: HEAD, HTTP/1.0, and the statuses of HTTP/2's limits.

use crate::attack::{END_HEADERS, Frames, HEADERS, frame, request, secure, secured};
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::rota::{Place, edge};
use crate::support::{Authority, Origin, Rota};

#[test]
fn a_head_that_is_refused_gets_the_fields_and_no_body() {
    let origin = Origin::fixed("never");
    let text = format!("[timeouts]\nhead = \"2s\"\n{}", edge(&[origin.address()]));
    let rota = Rota::start(&text);
    let many: String = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect();
    let head = |fields: &str| format!("HEAD / HTTP/1.1\r\n{fields}\r\n");
    for (request, status) in [
        (head("Host: a\r\nHost: b\r\n"), 400),
        (head(""), 400),
        (head("Host: a\r\nX : 1\r\n"), 400),
        (head("Host: a\r\nTransfer-Encoding: gzip\r\n"), 501),
        (head("Host: a\r\nExpect: x\r\n"), 417),
        (head(&format!("Host: a\r\n{many}")), 431),
        (
            head(&format!("Host: a\r\nX: {}\r\n", "x".repeat(100_000))),
            431,
        ),
        ("HEAD / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        (
            format!("HEAD /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000)),
            414,
        ),
        (format!("HEAD /{}", "x".repeat(100_000)), 414),
        ("HEAD / HTTP/1.1\r\nHost: ".to_owned(), 408),
        ("\r\nHEAD /\r\n".to_owned(), 400),
    ] {
        let mut client = Client::connect(rota.http());
        let _ = client.try_send(request.as_bytes());
        let what = &request[..request.len().min(60)];
        assert_eq!(client.answer_head().status, status, "{what:?}");
        assert!(client.read_to_end().is_empty(), "{what:?}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_request_of_http_1_0_without_a_host_is_no_misdirection() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
    let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
    client.send("GET / HTTP/1.0\r\nHost: other.test\r\n\r\n");
    assert_eq!(client.answer().status, 421);
}

#[test]
fn what_a_request_of_http_1_0_expects_is_ignored() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    for expected in ["x", "100-continue, x", ""] {
        let request = format!("GET / HTTP/1.0\r\nHost: a\r\nExpect: {expected}\r\n\r\n");
        assert_eq!(rota.ask(&request).status, 200, "{expected:?}");
        let got = origin.requests().pop().unwrap();
        assert_eq!(got.field("expect"), None, "{expected:?}");
    }
}

#[test]
fn limits_have_their_statuses_over_http_2_too() {
    let (authority, origin, place) = (Authority::new(), Origin::fixed("ok"), Place::new());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let settings = "[limits]\nbody_bytes = 8\n[timeouts]\nbody = \"2s\"\n";
    let rota = place.start(&secured(settings, &origin));
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    let get = |path: &str| http::Request::get(format!("https://shop.test{path}"));
    let ask = |head: http::request::Builder, body: &[u8]| {
        let answer = client.ask(head.body(()).unwrap(), body.to_vec(), None);
        answer.unwrap().status
    };
    assert_eq!(ask(get(&format!("/{}", "x".repeat(20_000))), b""), 414);
    let many = (0..101).fold(get("/"), |head, n| head.header(format!("x-{n}"), "1"));
    assert_eq!(ask(many, b""), 431);
    let declared = http::Request::post("https://shop.test/").header("content-length", "9");
    assert_eq!(ask(declared, b"123456789"), 413);
    assert_eq!(
        ask(http::Request::post("https://shop.test/"), b"123456789"),
        413
    );
    assert_eq!(ask(get("/"), b""), 200);
    let mut late = Frames::open(&rota, &authority);
    let head = request("POST", "https", &[("content-length", "8")]);
    late.0.send(frame(HEADERS, END_HEADERS, 1, &head));
    let answer = late.next().expect("an answer");
    assert_eq!(answer.kind, HEADERS);
    // A literal with the name `:status` of the static table, its value in Huffman's code or as it stands.
    let status = &answer.payload[..6];
    let said = [b"\x03408", b"\x83\x68\x0f\x7f"];
    let is_408 = said
        .iter()
        .any(|said| status.windows(4).any(|part| part == *said));
    assert!(is_408, "{status:02x?}");
}
