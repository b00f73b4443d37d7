//! An answer that has begun and is not finished ends in a reset, whoever is at fault: no client takes half of it for the whole.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::attack::{DATA, END_HEADERS, Frames, HEADERS, frame, request, secured};
use crate::support::client::Client;
use crate::support::origin::Exchange;
use crate::support::rota::{Place, Signal, edge, edge_with};
use crate::support::{Authority, Origin, PATIENCE, Rota, eventually};

/// More than the sockets of both sides hold.
const LARGE: usize = 20 << 20;

/// A client that takes little ahead of its reader.
fn connect(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// How a connection ends that is read to its end.
fn end_of(stream: &mut TcpStream) -> (usize, Option<io::ErrorKind>) {
    let (mut piece, mut read) = ([0; 64 << 10], 0);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (read, None),
            Ok(count) => read += count,
            Err(error) => return (read, Some(error.kind())),
        }
    }
}

/// The client reads `half`, then that its connection was reset.
fn assert_reset_behind_half(client: &mut Client, what: &str) {
    let mut bytes = Vec::new();
    let end = loop {
        match client.try_read_exactly(1) {
            Ok(byte) => bytes.extend(byte),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(end, io::ErrorKind::ConnectionReset, "{what}");
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("half"), "{what}: {text:?}");
    assert!(!text.ends_with("0\r\n\r\n"), "{what}: {text:?}");
}

#[test]
fn an_answer_that_its_client_does_not_take_ends_in_a_reset_and_never_looks_whole() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\n\r\n")?;
        exchange.send(vec![b'x'; LARGE])?;
        exchange.close()
    });
    let settings = "[timeouts]\nbody = \"300ms\"\n";
    let rota = Rota::start(&format!("{settings}{}", edge(&[origin.address()])));
    for version in ["1.0", "1.1"] {
        let mut stream = connect(rota.http());
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
        io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        eventually("rota gives it up", || {
            origin.connections() > 0 && origin.open_connections() == 0
        });
        eventually("its connection is over", || {
            rota.metric("rota_connections", &[("listener", "web")]) == 0.0
        });
        let (read, end) = end_of(&mut stream);
        assert_eq!(end, Some(io::ErrorKind::ConnectionReset), "{version}");
        assert!(read < LARGE, "{version}: {read}");
        origin.wait_until_left(origin.connections());
    }
}

/// Answers at once with the first half, and waits for what its client still owes.
fn half() -> Origin {
    Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")?;
        exchange.is_left_within(PATIENCE);
        Ok(())
    })
}

/// Over both kinds of listeners: a client that owes its body reads the answer's head, then sends `more`.
fn assert_reset_by_the_client_s_fault(settings: &str, request: &str, more: &str) {
    let (authority, origin, place) = (Authority::new(), half(), Place::new());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let rota = place.start(&secured(settings, &origin));
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let mut plain = Client::connect(rota.http());
    let mut encrypted = Client::connect_tls(rota.https(), &tls).unwrap();
    for client in [&mut plain, &mut encrypted] {
        client.send(request);
        assert_eq!(client.answer_head().status, 200, "{request:?}");
        client.send(more);
        assert_reset_behind_half(client, request);
    }
}

#[test]
fn an_answer_whose_request_breaks_off_behind_its_beginning_ends_in_a_reset() {
    let chunked =
        "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    assert_reset_by_the_client_s_fault("", chunked, "x\r\n");
    assert_reset_by_the_client_s_fault("[limits]\nbody_bytes = 8\n", chunked, "5\r\nworld\r\n");
    let times = "[timeouts]\nresponse = \"1s\"\n";
    assert_reset_by_the_client_s_fault(times, chunked, "");
    let old = "POST / HTTP/1.0\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\nhello";
    assert_reset_by_the_client_s_fault(times, old, "");
}

#[test]
fn an_answer_that_a_drain_does_not_wait_for_ends_in_a_reset() {
    for version in ["1.0", "1.1"] {
        let (authority, origin, place) = (Authority::new(), half(), Place::new());
        authority.leaf(&["shop.test"]).write(place.path(), "shop");
        let rota = place.start(&secured("[timeouts]\ndrain = \"300ms\"\n", &origin));
        let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
        let mut plain = Client::connect(rota.http());
        let mut encrypted = Client::connect_tls(rota.https(), &tls).unwrap();
        for client in [&mut plain, &mut encrypted] {
            client.send(format!("GET / HTTP/{version}\r\nHost: shop.test\r\n\r\n"));
            assert_eq!(client.answer_head().status, 200, "{version}");
        }
        rota.signal(Signal::TERM);
        for client in [&mut plain, &mut encrypted] {
            assert_reset_behind_half(client, version);
        }
        rota.wait();
    }
}

/// How a server ends its connection in the middle of an answer that ends with it.
#[derive(Clone, Copy, Debug)]
enum Breach {
    Resets,
    Hangs,
    /// Over TLS, without a close_notify.
    Closes,
}

#[test]
fn an_answer_that_ends_with_its_connection_is_cut_where_that_did_not_end_well() {
    for breach in [Breach::Resets, Breach::Hangs, Breach::Closes] {
        let (authority, place) = (Authority::new(), Place::new());
        std::fs::write(place.path().join("ca.pem"), &authority.pem).unwrap();
        let (go_on, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let behaviour = move |exchange: &mut Exchange| {
            exchange.send("HTTP/1.1 200 OK\r\n\r\nhalf")?;
            let _ = waits.lock().unwrap().recv();
            match breach {
                Breach::Resets => exchange.reset(),
                Breach::Closes => exchange.close(),
                Breach::Hangs => {
                    exchange.is_left_within(PATIENCE);
                    Ok(())
                }
            }
        };
        let (origin, tls) = match breach {
            Breach::Resets | Breach::Hangs => (Origin::start(behaviour), ""),
            Breach::Closes => (
                Origin::start_tls(authority.leaf(&["app.internal"]).server(), behaviour),
                "protocol = \"https\"\ntls = { ca = \"ca.pem\", server_name = \"app.internal\" }",
            ),
        };
        let service = format!("servers = [\"{}\"]\n{tls}", origin.address());
        let times = "[timeouts]\nresponse = \"3s\"\n";
        let rota = place.start(&format!("{times}{}", edge_with(&service)));
        let mut clients = ["1.0", "1.1"].map(|version| {
            let mut client = Client::connect(rota.http());
            client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
            client
        });
        // Both answers have begun; the first of them holds the lock that the second waits for.
        for client in &mut clients {
            assert_eq!(client.answer_head().status, 200, "{breach:?}");
        }
        drop(go_on);
        for client in &mut clients {
            assert_reset_behind_half(client, &format!("{breach:?}"));
        }
        let cut = [("outcome", "truncated")];
        assert_eq!(rota.metric("rota_upstream_requests_total", &cut), 2.0);
    }
}

#[test]
fn a_client_that_says_no_more_while_its_answer_flows_gets_it_to_its_end() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(300));
            exchange.send("4\r\nmore\r\n")?;
        }
        exchange.send("0\r\n\r\n")?;
        exchange.is_left_within(PATIENCE);
        Ok(())
    });
    let times = "[timeouts]\nbody = \"2s\"\n";
    let (authority, place) = (Authority::new(), Place::new());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let rota = place.start(&secured(times, &origin));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    let mut frames = Frames::open(&rota, &authority);
    let head = request("POST", "https", &[("content-length", "10")]);
    let headers = frame(HEADERS, END_HEADERS, 1, &head);
    let data = frame(DATA, 0, 1, b"hello");
    frames.0.send([headers, data].concat());
    assert_eq!(client.answer().text(), "more".repeat(10));
    assert!(client.is_closed());
    let mut body = Vec::new();
    while body.len() < 40 {
        let frame = frames.next().expect("it goes on");
        match frame.kind {
            HEADERS => {}
            DATA => body.extend(frame.payload),
            kind => panic!("a frame of kind {kind} behind {} bytes", body.len()),
        }
    }
}

#[test]
fn a_server_that_waits_for_what_its_client_owes_is_not_to_blame_for_a_cut_answer() {
    let origin = half();
    let times = "[timeouts]\nresponse = \"1s\"\n";
    let rota = Rota::start(&format!("{times}{}", edge(&[origin.address()])));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    assert_reset_behind_half(&mut client, "silent");
    let outcome = |outcome| rota.metric("rota_upstream_requests_total", &[("outcome", outcome)]);
    assert_eq!((outcome("truncated"), outcome("aborted")), (0.0, 1.0));
}
