//! Nobody waits for ever: each wait has its own time and its own answer.

use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::rota::{Place, edge, edge_with};
use crate::support::{Origin, Rota, eventually};

fn start(timeouts: &str, origin: &Origin) -> Rota {
    Place::new().start(&format!(
        "[timeouts]\n{timeouts}\n{}",
        edge(&[origin.address()])
    ))
}

/// The time it takes, which has to be between the timeout and a generous multiple.
fn assert_about(timeout: Duration, begin: Instant) {
    let took = begin.elapsed();
    assert!(took >= timeout.mul_f64(0.8), "too early: {took:?}");
    assert!(
        took < timeout * 6 + Duration::from_secs(1),
        "too late: {took:?}"
    );
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_head_that_does_not_end_is_408() {
    let origin = Origin::fixed("never");
    let rota = start("head = \"300ms\"", &origin);
    let begin = Instant::now();
    let mut client = Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\nHost: ");
    assert_eq!(client.answer().status, 408);
    assert_about(SHORT, begin);
    assert!(client.is_closed());
}

#[test]
fn a_connection_that_never_says_anything_is_closed() {
    let origin = Origin::fixed("never");
    let rota = start("head = \"300ms\"", &origin);
    let begin = Instant::now();
    Client::connect(rota.http()).read_to_end();
    assert_about(SHORT, begin);
}

#[test]
fn a_trickle_of_a_head_does_not_outlast_its_time() {
    let origin = Origin::fixed("never");
    let rota = start("head = \"300ms\"", &origin);
    let begin = Instant::now();
    let mut client = Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\n");
    while client.try_send(b"X: 1\r\n").is_ok() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_about(SHORT, begin);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_body_that_stops_coming_is_408() {
    let origin = Origin::fixed("never");
    let rota = start("body = \"300ms\"", &origin);
    let begin = Instant::now();
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome");
    assert_eq!(client.answer().status, 408);
    assert_about(SHORT, begin);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_owes_its_body_makes_no_server_late() {
    let origin = Origin::fixed("ok");
    let rota = start("body = \"2s\"\nresponse = \"300ms\"", &origin);
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nsome");
    std::thread::sleep(Duration::from_secs(1));
    client.send("more");
    assert_eq!(client.answer().status, 200);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nsome");
    assert_eq!(client.answer().status, 408);
    let timeouts = [("outcome", "timeout")];
    assert_eq!(rota.metric("rota_upstream_requests_total", &timeouts), 0.0);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::fixed("ok");
    let rota = start("keep_alive = \"300ms\"", &origin);
    let mut client = Client::connect(rota.http());
    assert_eq!(client.get("a", "/").status, 200);
    let begin = Instant::now();
    assert!(client.read_to_end().is_empty());
    assert_about(SHORT, begin);
}

#[test]
fn a_server_that_does_not_answer_is_504_in_time() {
    let origin = Origin::start(|exchange| {
        exchange.is_left_within(Duration::from_secs(10));
        Ok(())
    });
    let rota = start("response = \"300ms\"", &origin);
    let begin = Instant::now();
    assert_eq!(rota.get("a", "/").status, 504);
    assert_about(SHORT, begin);
    eventually("the server's connection is closed", || {
        origin.open_connections() == 0
    });
}

#[test]
fn an_answer_that_stops_in_its_middle_is_cut() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
        exchange.is_left_within(Duration::from_secs(10));
        Ok(())
    });
    let rota = start("response = \"300ms\"\ntunnel = \"300ms\"", &origin);
    let mut client = Client::connect(rota.http());
    let begin = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer_head().status, 200);
    assert_eq!(client.read_to_end(), b"half");
    assert_about(SHORT, begin);
}

#[test]
fn a_server_that_cannot_be_reached_costs_no_more_than_the_connect_timeout() {
    // A listener whose queue is full drops what comes: a connect there hangs.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let local: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    full.bind(&local.into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        fillers.push(filler);
    }
    let well = Origin::fixed("well");
    let config = edge_with(&format!(
        "servers = [\"{address}\", \"{}\"]",
        well.address()
    ));
    let rota = Place::new().start(&format!("[timeouts]\nconnect = \"300ms\"\n{config}"));
    let begin = Instant::now();
    for _ in 0..2 {
        assert_eq!(rota.get("a", "/").text(), "well");
    }
    assert_about(SHORT, begin);
}

#[test]
fn a_silent_tunnel_is_closed() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
        exchange.echo()
    });
    let rota = start(
        "tunnel = \"300ms\"\nkeep_alive = \"100ms\"\nbody = \"100ms\"",
        &origin,
    );
    let mut client = Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(client.answer_head().status, 101);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(120));
        client.send("x");
        assert_eq!(client.read_exactly(1), b"x", "a tunnel in use stays");
    }
    let begin = Instant::now();
    assert!(client.read_to_end().is_empty());
    assert_about(SHORT, begin);
}
