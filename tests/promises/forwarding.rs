//! A request and its answer go through whole, at once, in bounded memory, and end when either side leaves.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::rota::{Place, edge, edge_with};
use crate::support::wire::Hash;
use crate::support::{Authority, Origin, Rota, eventually};

#[test]
fn a_request_and_its_answer_arrive_as_they_were_sent() {
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        exchange.answer(
            201,
            &[("X-Answer", "yes"), ("Content-Type", "text/x")],
            b"made",
        )
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer = rota.ask(
        "PUT /a/b?c=d&e=%20 HTTP/1.1\r\nHost: Shop.Example.com:80\r\nX-Asked: 1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
    );
    assert_eq!((answer.status, answer.text().as_str()), (201, "made"));
    assert_eq!(answer.field("x-answer"), Some("yes"));
    assert_eq!(answer.field("content-type"), Some("text/x"));
    let request = origin.only_request();
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("PUT", "/a/b?c=d&e=%20")
    );
    assert_eq!(
        request.field("host"),
        Some("Shop.Example.com:80"),
        "passed on as the client sent it"
    );
    assert_eq!(
        (request.field("x-asked"), &request.body[..]),
        (Some("1"), &b"body"[..])
    );
}

#[test]
fn trailers_go_both_ways() {
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n")
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer = rota.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Mine\r\n\r\n5\r\nhello\r\n0\r\nX-Mine: 5\r\n\r\n",
    );
    assert_eq!(answer.text(), "abc");
    assert_eq!(answer.trailers, [("X-Sum".into(), "3".into())]);
    let request = origin.only_request();
    assert_eq!(request.body, b"hello");
    assert_eq!(request.trailers, [("X-Mine".into(), "5".into())]);
}

#[test]
fn a_head_request_gets_the_fields_and_no_body() {
    let origin =
        Origin::start(|exchange| exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"));
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    for _ in 0..2 {
        let answer = client
            .send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            .answer_head();
        assert_eq!(
            (answer.status, answer.field("content-length")),
            (200, Some("1000"))
        );
    }
    assert_eq!(
        origin.connections(),
        1,
        "and the connection to the server is used again"
    );
}

#[test]
fn a_client_that_stops_sending_after_its_request_is_answered() {
    let origin = Origin::start(|exchange| {
        std::thread::sleep(Duration::from_millis(100));
        exchange.answer(200, &[], b"still here")
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").finish();
    assert_eq!(client.answer().text(), "still here");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|exchange| {
        let target = exchange.request.target.clone();
        exchange.answer(200, &[], target.as_bytes())
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    let requests: String = (0..20)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    client.send(requests);
    for number in 0..20 {
        assert_eq!(client.answer().text(), format!("/{number}"));
    }
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let (next, go_on) = mpsc::channel::<()>();
    let go_on = std::sync::Mutex::new(go_on);
    let origin = Origin::start(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
        for number in 0..5 {
            exchange.send(format!("data: {number}\n\n"))?;
            go_on.lock().unwrap().recv().unwrap();
        }
        exchange.close()
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    let answer = client
        .send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        .answer_head();
    assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    let is_chunked = answer.field("transfer-encoding") == Some("chunked");
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        let framed = if is_chunked {
            format!("{:x}\r\n{event}\r\n", event.len())
        } else {
            event
        };
        // The next event is only sent when this one was seen: nothing waits in a buffer.
        assert_eq!(
            String::from_utf8(client.read_exactly(framed.len())).unwrap(),
            framed
        );
        next.send(()).unwrap();
    }
    if is_chunked {
        assert_eq!(client.read_exactly(5), b"0\r\n\r\n");
    } else {
        assert!(client.read_to_end().is_empty());
    }
}

#[test]
fn a_websocket_is_a_tunnel_for_bytes_of_both_sides() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst")?;
        exchange.echo()
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    let answer = client.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").answer_head();
    assert_eq!(answer.status, 101);
    assert!(
        answer
            .field("upgrade")
            .unwrap()
            .eq_ignore_ascii_case("websocket")
    );
    assert_eq!(client.read_exactly(5), b"first");
    for size in [1, 1000, 100_000] {
        let message = vec![b'x'; size];
        client.send(&message);
        assert_eq!(client.read_exactly(size), message);
    }
    assert_eq!(rota.metric("rota_connections", &[("listener", "web")]), 1.0);
    client.finish();
    assert!(
        client.read_to_end().is_empty(),
        "the server's end is the client's"
    );
}

#[test]
fn no_other_upgrade_than_websocket_is_passed_on() {
    let origin = Origin::fixed("plain");
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer = rota.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n");
    assert_eq!(answer.text(), "plain");
    let request = origin.only_request();
    for name in ["upgrade", "http2-settings"] {
        assert_eq!(request.field(name), None, "{name}");
    }
}

#[test]
fn connect_and_trace_are_refused() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    assert_eq!(
        rota.ask("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")
            .status,
        405
    );
    assert_eq!(rota.ask("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n").status, 405);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_large_upload_goes_through_bounded_memory() {
    let gib: u64 = std::env::var("UPLOAD_GIB").map_or(1, |gib| gib.parse().unwrap());
    let origin = Origin::digest();
    let rota = Rota::start(&edge(&[origin.address()]));
    let total = gib << 30;
    let mut client = Client::connect(rota.http());
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n"
    ));
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut hash = Hash::default();
    (0..16).for_each(|_| hash.add(&piece));
    for _ in 0..total >> 20 {
        client.send(&piece);
    }
    assert_eq!(client.answer().text(), format!("{total} {:x}", hash.0));
    let most = rota.memory_kib("VmHWM");
    assert!(most < 64 << 10, "{most} KiB");
}

#[test]
fn a_slow_reader_holds_the_server_back_and_not_the_answer_in_memory() {
    let origin = Origin::start(|exchange| {
        let piece = vec![b'x'; 1 << 20];
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            200 << 20
        ))?;
        (0..200).try_for_each(|_| exchange.send(&piece))
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(rota.http())).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.answer_head();
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let now = rota.memory_kib("VmRSS");
        assert!(now < 64 << 10, "{now} KiB for answers that nobody reads");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut first = clients.swap_remove(0);
    assert_eq!(first.read_exactly(200 << 20).len(), 200 << 20);
}

#[test]
fn a_client_that_leaves_ends_its_request_at_the_server() {
    let (left, seen) = mpsc::channel();
    let origin = Origin::start(move |exchange| {
        left.send(None).unwrap();
        left.send(Some(exchange.is_left_within(Duration::from_secs(10))))
            .unwrap();
        Ok(())
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome");
    assert_eq!(seen.recv().unwrap(), None);
    drop(client);
    assert_eq!(seen.recv().unwrap(), Some(true));
    rota.assert_running();
}

#[test]
fn connections_to_servers_are_kept_and_used_again() {
    let origin = Origin::fixed("again");
    let rota = Place::new().start(&format!(
        "[node]\nworkers = 1\n{}",
        edge(&[origin.address()])
    ));
    for _ in 0..50 {
        assert_eq!(rota.get("a", "/").text(), "again");
    }
    assert_eq!(
        origin.connections(),
        1,
        "50 clients, one connection to the server"
    );
}

#[test]
fn no_more_idle_connections_are_kept_than_the_pool_may_hold() {
    let gate = std::sync::Arc::new(std::sync::Barrier::new(8));
    let origin = Origin::start(move |exchange| {
        gate.wait();
        exchange.answer(200, &[], b"ok")
    });
    let config = edge_with(&format!("servers = [\"{}\"]\npool = 2", origin.address()));
    let rota = Place::new().start(&format!("[node]\nworkers = 1\n{config}"));
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(rota.http())).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    eventually("two idle connections are left", || {
        origin.open_connections() == 2
    });
}

#[test]
fn servers_are_asked_over_verified_tls() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["app.internal"]);
    let origin = Origin::start_tls(leaf.server(), |exchange| {
        exchange.answer(200, &[], b"sealed")
    });
    let place = Place::new();
    std::fs::write(place.path().join("ca.pem"), &authority.pem).unwrap();
    let service = format!(
        "servers = [\"{}\"]\nprotocol = \"https\"\ntls = {{ ca = \"ca.pem\", server_name = \"app.internal\" }}",
        origin.address()
    );
    let rota = place.start(&edge_with(&service));
    assert_eq!(rota.get("a", "/").text(), "sealed");
}

#[test]
fn a_server_whose_certificate_is_not_trusted_is_never_asked() {
    let authority = Authority::new();
    let cases = [
        (
            Authority::new().leaf(&["app.internal"]),
            "a stranger signed it",
        ),
        (
            authority.leaf(&["other.internal"]),
            "it is for another name",
        ),
    ];
    for (leaf, why) in cases {
        let origin = Origin::start_tls(leaf.server(), |exchange| exchange.answer(200, &[], b"no"));
        let place = Place::new();
        std::fs::write(place.path().join("ca.pem"), &authority.pem).unwrap();
        let service = format!(
            "servers = [\"{}\"]\nprotocol = \"https\"\ntls = {{ ca = \"ca.pem\", server_name = \"app.internal\" }}",
            origin.address()
        );
        let rota = place.start(&edge_with(&service));
        assert_eq!(rota.get("a", "/").status, 502, "{why}");
        assert_eq!(origin.count(), 0, "{why}");
    }
}

#[test]
fn a_server_may_be_a_host_name() {
    let origin = Origin::fixed("by name");
    let service = format!("servers = [\"localhost:{}\"]", origin.address().port());
    let rota = Rota::start(&edge_with(&service));
    eventually("the name is resolved", || {
        rota.get("a", "/").text() == "by name"
    });
}
