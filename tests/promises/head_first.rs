//! A request's head that goes to its server before its body has come: what may follow it, whose time it takes, and what becomes of the connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::rota::{Place, Rota, edge};
use crate::support::{Origin, PATIENCE};

/// A server that reads when it is told to, and for which the kernel takes little until then.
struct Reluctant(TcpListener);

impl Reluctant {
    fn listen() -> Reluctant {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
        // Short segments: the sender's side, too, would hold megabytes of those that a loopback has.
        socket.set_tcp_mss(536).unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).unwrap();
        socket.listen(8).unwrap();
        Reluctant(socket.into())
    }

    fn start(&self, options: &str) -> Rota {
        let address = self.0.local_addr().unwrap();
        let limits = "[node]\nworkers = 1\n[limits]\nhead_bytes = \"1MiB\"\n";
        Place::new().start(&format!("{limits}{options}{}", edge(&[address])))
    }

    fn accept(&self) -> TcpStream {
        let stream = self.0.accept().unwrap().0;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// The head of a POST that no socket takes whole.
fn large_head(length: usize) -> String {
    let padding = "a".repeat(900 << 10);
    format!(
        "POST / HTTP/1.1\r\nHost: a\r\nX-Padding: {padding}\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// What comes of a request's head at a server that takes a part of it within `timeouts.response`, and the rest once the body has come.
/// Meanwhile the server says `answer`, a byte after the other.
fn taken_late(answer: &str) -> (Vec<u8>, Client) {
    let server = Reluctant::listen();
    let rota = server.start("[timeouts]\nresponse = \"1s\"\n");
    let mut client = Client::connect(rota.http());
    let body = "B".repeat(1000);
    client.send(large_head(body.len()));
    let mut stream = server.accept();
    let begun = Instant::now();
    let mut answer = answer.bytes();
    while begun.elapsed() < Duration::from_secs(2) {
        let _ = stream.write_all(answer.next().as_slice());
        sleep(Duration::from_millis(20));
    }
    let _ = client.try_send(body.as_bytes());
    let mut came = Vec::new();
    // Ended, reset or nothing for a while: as long as nothing else comes.
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let _ = stream.read_to_end(&mut came);
    assert!(came.starts_with(b"POST / HTTP/1.1\r\n"));
    (came, client)
}

#[test]
fn nothing_follows_a_head_of_which_its_server_took_a_part() {
    let (came, mut client) = taken_late("");
    assert!(!came.contains(&b'B'), "{} bytes came", came.len());
    assert_eq!(client.answer().status, 504);
}

#[test]
fn nothing_follows_a_part_of_a_head_that_is_answered_meanwhile() {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{:1000}", "");
    let (came, mut client) = taken_late(&answer);
    assert!(!came.contains(&b'B'), "{} bytes came", came.len());
    assert_eq!(client.answer_head().status, 200);
}

#[test]
fn the_time_that_a_server_takes_for_a_head_is_not_its_client_s() {
    let server = Reluctant::listen();
    let rota = server.start("[timeouts]\nbody = \"1s\"\n");
    let mut client = Client::connect(rota.http());
    client.send(large_head(5));
    let mut stream = server.accept();
    // Longer than a client may take for its body.
    sleep(Duration::from_millis(1500));
    client.send("hello");
    let mut came = Vec::new();
    let mut piece = [0; 64 << 10];
    while !came.ends_with(b"hello") {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "only {} bytes came", came.len());
        came.extend_from_slice(&piece[..count]);
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(answer).unwrap();
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_server_that_answered_before_it_had_the_body_is_asked_for_nothing_else_on_that_connection() {
    let origin = Origin::start(|exchange| {
        if exchange.request.method == "GET" {
            return exchange.answer(200, &[], b"mine");
        }
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegun")?;
        exchange.read_body()?;
        exchange.send("end")
    });
    let config = format!("[node]\nworkers = 1\n{}", edge(&[origin.address()]));
    let rota = Rota::start(&config);
    let mut client = Client::connect(rota.http());
    let body = "GET /admin HTTP/1.1\r\nHost: a\r\nX-Swallowed: ";
    client.send(format!(
        "POST /image HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.answer_head().status, 200);
    assert_eq!(client.read_exactly(5), b"begun");
    client.send(body);
    assert_eq!(client.read_exactly(3), b"end");
    assert_eq!(rota.get("a", "/").text(), "mine");
    let requests = origin.requests();
    assert_eq!(requests[0].body, body.as_bytes());
    assert_ne!(requests[0].connection, requests[1].connection);
}
