//! Clients that read slowly, from sockets that hold much for them: nobody takes them for such as read nothing.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::attack::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, block, frame, secure};
use crate::support::client::{Client, Tls};
use crate::support::rota::edge;
use crate::support::{Authority, Origin, Rota};

const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// Streams that one connection may have open.
const STREAMS: u32 = 128;
const LARGE: usize = 16 << 20;
/// More than the socket takes at once waits in h2 for so many.
const LARGE_ONES: u32 = 24;

/// `/large` is 16 MiB, all else is small.
fn origin() -> Origin {
    let large = vec![b'x'; LARGE];
    let origin = Origin::start(move |exchange| {
        let is_large = exchange.request.target == "/large";
        exchange.answer(200, &[], if is_large { &large } else { b"small" })
    });
    origin.stop_recording();
    origin
}

/// A connection of which our kernel holds little.
fn connect(address: SocketAddr, segment: Option<u32>) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    if let Some(bytes) = segment {
        socket.set_tcp_mss(bytes).unwrap();
    }
    socket.connect(&address.into()).unwrap();
    socket
}

fn tls(authority: &Authority) -> Tls {
    authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS)
}

/// All windows are wide open.
fn frames(rota: &Rota, authority: &Authority, socket: Socket) -> Frames {
    let client = Client::on_tls(TcpStream::from(socket), &tls(authority)).unwrap();
    let mut client = Frames::over(client);
    let widest = 0x7fff_0000u32.to_be_bytes();
    let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &widest].concat());
    let window = frame(WINDOW_UPDATE, 0, 0, &widest);
    client.0.send([settings, window].concat());
    assert_eq!(stuck(rota), 0.0);
    client
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    let head = block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "shop.test"),
        (":path", path),
    ]);
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)
}

fn stuck(rota: &Rota) -> f64 {
    rota.metric("rota_http2_stuck_total", &[])
}

#[test]
fn answers_that_went_out_count_no_more_though_the_socket_is_never_without_more_to_take() {
    let (authority, origin) = (Authority::new(), origin());
    let rota = secure(&authority, &origin, "[node]\nworkers = 1\n");
    // Segments as on a real network: rota's kernel holds little for this client, so that there is always more to take.
    let socket = connect(rota.https(), Some(1400));
    let mut client = frames(&rota, &authority, socket);
    let asked = (0..LARGE_ONES).flat_map(|n| get(2 * n + 1, "/large"));
    client.0.send(asked.collect::<Vec<u8>>());
    let (mut next, mut open, mut answered, mut most) = (2 * LARGE_ONES + 1, 0u32, 0, 0.0f64);
    while answered < 3000 {
        if open == 0 {
            let asked = (0..100).flat_map(|n| get(next + 2 * n, "/"));
            client.0.send(asked.collect::<Vec<u8>>());
            (next, open) = (next + 200, 100);
            most = most.max(rota.metric("rota_http2_stalled_answers", &[]));
        }
        let frame = client.next().expect("it goes on");
        if frame.kind == DATA && frame.stream < 2 * LARGE_ONES {
            std::thread::sleep(Duration::from_millis(1));
        } else if frame.kind == DATA && !frame.payload.is_empty() {
            (open, answered) = (open - 1, answered + 1);
        }
    }
    println!("{most} waited at most");
    assert!(most <= f64::from(STREAMS), "{most} wait");
}

/// How long a client may take nothing here, and for how long the slow ones go on taking little: much less than lets rota write more.
const BODY: &str = "[timeouts]\nbody = \"3s\"\n";
const SLOWLY: Duration = Duration::from_secs(12);
/// After each 16 KiB.
const REST: Duration = Duration::from_millis(250);

#[test]
fn an_http2_client_that_reads_slowly_what_the_kernel_holds_is_not_stuck() {
    let (authority, origin) = (Authority::new(), origin());
    let rota = secure(&authority, &origin, BODY);
    let socket = connect(rota.https(), None);
    let mut client = frames(&rota, &authority, socket);
    client.0.send([get(1, "/large"), get(3, "/large")].concat());
    let (begun, mut data) = (Instant::now(), 0);
    while data < 2 * LARGE {
        let frame = client.next().expect("it goes on");
        if frame.kind == DATA {
            data += frame.payload.len();
        } else {
            assert_eq!(frame.kind, HEADERS, "{data} bytes came");
        }
        if begun.elapsed() < SLOWLY {
            std::thread::sleep(REST);
        }
    }
    assert_eq!(stuck(&rota), 0.0);
}

#[test]
fn an_http1_client_that_reads_slowly_what_the_kernel_holds_gets_all_of_it() {
    let origin = origin();
    let rota = Rota::start(&format!("{BODY}{}", edge(&[origin.address()])));
    let mut client = Client::on(TcpStream::from(connect(rota.http(), None)));
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    let (begun, mut left) = (Instant::now(), LARGE);
    client.try_answer_head().unwrap();
    while left > 0 {
        let piece = left.min(16 << 10);
        client.read_exactly(piece);
        left -= piece;
        if begun.elapsed() < SLOWLY {
            std::thread::sleep(REST);
        }
    }
}
