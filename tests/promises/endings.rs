//! How connections begin and end in time: who does not come to the point is closed, and rota's last word is read.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::attack::{END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, frame, request, secure};
use crate::support::client::Client;
use crate::support::{Authority, Origin, PATIENCE, Rota, Signal, eventually};

const PING: u8 = 6;
const DATA: u8 = 0;
const ENHANCE_YOUR_CALM: u8 = 0x0b;

/// A client that pinged until it was told to calm down, and read all that it was told.
fn told_to_calm_down(rota: &Rota, authority: &Authority) -> Frames {
    let mut client = Frames::open(rota, authority);
    let _ = client.0.try_send(&frame(PING, 0, 0, &[0; 8]).repeat(1100));
    let last = std::iter::from_fn(|| client.next())
        .last()
        .expect("a frame");
    assert_eq!((last.kind, last.payload[7]), (GOAWAY, ENHANCE_YOUR_CALM));
    client
}

fn open(rota: &Rota) -> f64 {
    rota.metric("rota_connections", &[("listener", "tls")])
}

/// More than a socket takes at once, less than two of them hold: rota has written it all while its client has read little of it.
const LARGE: usize = 1 << 20;

/// Reads a large answer, and sends `more` again and again meanwhile; gives what came of its body.
fn read_and_send(client: &mut Client, more: &[u8]) -> usize {
    client.answer_head();
    let mut read = 0;
    while let Ok(piece) = client.try_read_exactly(LARGE / 32) {
        read += piece.len();
        if read == LARGE {
            break;
        }
        let _ = client.try_send(more);
    }
    read
}

#[test]
fn a_client_that_sends_more_behind_its_last_request_gets_the_answer_to_its_end() {
    let (authority, body) = (Authority::new(), vec![b'x'; LARGE]);
    let origin = Origin::start(move |exchange| exchange.answer(200, &[], &body));
    let rota = secure(&authority, &origin, "");
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let next = b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let upload = [b'x'; LARGE / 32];
    for (request, more) in [
        (
            "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n",
            &next[..],
        ),
        ("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n", b"\r\n"),
        (
            "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000000000\r\n\r\n",
            &upload,
        ),
    ] {
        let mut plain = Client::connect(rota.http());
        let mut encrypted = Client::connect_tls(rota.https(), &tls).unwrap();
        for client in [&mut plain, &mut encrypted] {
            let read = read_and_send(client.send(request), more);
            assert_eq!(read, LARGE, "{request:?}");
        }
    }
}

#[test]
fn an_http_2_client_that_still_sends_when_its_connection_is_ended_meets_no_reset() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let mut client = told_to_calm_down(&rota, &authority);
    for _ in 0..5 {
        let sent = client.0.try_send(&frame(PING, 0, 0, &[0; 8]));
        assert!(sent.is_ok(), "{sent:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_http_2_connection_that_was_ended_is_closed_though_its_client_leaves_it_open() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let client = told_to_calm_down(&rota, &authority);
    eventually("it is closed", || open(&rota) == 0.0);
    drop(client);
    assert_eq!(rota.metric("rota_linger_skipped_total", &[]), 0.0);
}

#[test]
fn an_http_2_client_that_floods_on_behind_the_end_of_its_connection_is_cut() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let mut client = told_to_calm_down(&rota, &authority);
    let piece = frame(DATA, 0, 1, &[0; 16 * 1024]);
    // Far more than what its window would let any client have on its way.
    let sent = (0..1024).take_while(|_| client.0.try_send(&piece).is_ok());
    assert!(sent.count() < 1024, "16 MiB were taken");
}

#[test]
fn a_handshake_or_preface_that_does_not_come_is_closed_in_time() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "[timeouts]\nhead = \"1s\"\n");
    let silent = TcpStream::connect(rota.https()).unwrap();
    let mut slow = TcpStream::connect(rota.https()).unwrap();
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let agreed = Client::connect_tls(rota.https(), &tls).unwrap();
    // The head of a record of 512 bytes, and some of them: each keeps the connection from being idle.
    let _ = slow.write_all(&[22, 3, 1, 2, 0]);
    let begun = Instant::now();
    while open(&rota) > 0.0 {
        assert!(begun.elapsed() < PATIENCE, "{} are open", open(&rota));
        let _ = slow.write_all(&[0]);
        std::thread::sleep(Duration::from_millis(20));
    }
    let timed_out = [("outcome", "timeout")];
    assert_eq!(rota.metric("rota_tls_handshakes_total", &timed_out), 2.0);
    drop((silent, agreed));
}

#[test]
fn a_large_client_hello_in_small_pieces_is_understood() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let names: Vec<String> = (0..60).map(|n| format!("{n:0>200}")).collect();
    let mut protocols: Vec<&str> = names.iter().map(String::as_str).collect();
    protocols.push("http/1.1");
    let tls = authority.client_with("shop.test", &protocols, rustls::DEFAULT_VERSIONS);
    let name = rustls_pki_types::ServerName::try_from(tls.name.clone()).unwrap();
    let mut client = rustls::ClientConnection::new(tls.config.clone(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert!(hello.len() > 12_000, "{}", hello.len());
    let mut tcp = TcpStream::connect(rota.https()).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    for piece in hello.chunks(1000) {
        tcp.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    while client.is_handshaking() {
        client.complete_io(&mut tcp).unwrap();
    }
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn an_http_2_client_is_told_twice_that_its_connection_drains_and_a_request_on_its_way_is_answered()
{
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let mut client = Frames::open(&rota, &authority);
    let get = |stream| {
        let head = request("GET", "https", &[]);
        frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)
    };
    client.0.send(get(1));
    rota.signal(Signal::TERM);
    let (mut last_streams, mut answered) = (Vec::new(), Vec::new());
    while let Ok(head) = client.0.try_read_exactly(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = client.0.read_exactly(length);
        match (head[3], head[4]) {
            // On its way before the client can know that the first word was not the last.
            (GOAWAY, _) if last_streams.is_empty() => {
                client.0.send(get(3));
                last_streams.push(payload[..4].to_vec());
            }
            (GOAWAY, _) => last_streams.push(payload[..4].to_vec()),
            (HEADERS, _) => answered.push(head[8]),
            // Bit 0: it is the answer to one of ours.
            (PING, flags) if flags & 1 == 0 => {
                client.0.send(frame(PING, 1, 0, &payload));
            }
            _ => {}
        }
    }
    assert_eq!(answered, [1, 3]);
    assert_eq!(last_streams, [[0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 3]]);
    drop(client);
    assert!(rota.wait().success());
}
