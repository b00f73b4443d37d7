//! What a request allocates in the steady state of plain HTTP/1: the data plane runs inside this process, whose allocator counts.
#![allow(
    clippy::unwrap_used,
    reason = "this is a test: what cannot be unwrapped has failed"
)]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rota::app::run::{Launch, run};
use rota::app::signals::Signals;
use rota::certs::CertStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations of the whole process that don't come from requests: the control plane's, in one round.
const OTHERS: usize = REQUESTS / 100;
const REQUESTS: usize = 2000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: test\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody";

/// An app server that allocates nothing once a connection is open.
fn app_server() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer_all(stream.unwrap()));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while read_until(&mut stream, &mut buffer, b"\r\n\r\n") {
        stream.write_all(ANSWER).unwrap();
    }
}

/// False: the other side closed.
fn read_until(stream: &mut TcpStream, buffer: &mut [u8], end: &[u8]) -> bool {
    let mut filled = 0;
    while !buffer[..filled].ends_with(end) {
        match stream.read(&mut buffer[filled..]).unwrap() {
            0 => return false,
            count => filled += count,
        }
    }
    true
}

fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("rota-allocations-{}", std::process::id()))
}

/// rota with one worker in threads of this process; they end with it.
fn start(app: SocketAddr) -> SocketAddr {
    let directory = directory();
    std::fs::create_dir_all(&directory).unwrap();
    let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = held.local_addr().unwrap();
    let file = directory.join("rota.toml");
    let admin = directory.join("admin.sock");
    let text = format!(
        "[node]\nworkers = 1\n[admin]\naddress = \"unix:{}\"\n[[listener]]\naddress = \"{address}\"\n[[service]]\nname = \"app\"\nservers = [\"{app}\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
        admin.display()
    );
    std::fs::write(&file, text).unwrap();
    let config = rota::config::load(&file).unwrap();
    drop(held);
    let opened = rota::app::sockets::open_all(&config).unwrap();
    std::thread::spawn(move || {
        run(Launch {
            signals: Signals::watch().unwrap(),
            config,
            opened,
            file: None,
            certificates: CertStore::default(),
            keyring: None,
            opening: None,
        })
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) if begin.elapsed() > Duration::from_secs(10) => panic!("{error}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn exchange(client: &mut TcpStream, count: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..count {
        client.write_all(REQUEST).unwrap();
        assert!(read_until(client, &mut buffer, b"body"));
    }
}

#[test]
fn a_request_in_the_steady_state_of_plain_http1_allocates_nothing() {
    let address = start(app_server());
    let mut client = connect(address);
    exchange(&mut client, 200);
    // The control plane's timers allocate too, now and then: the quietest of three rounds.
    let rounds = (0..3).map(|_| {
        let region = Region::new(ALLOCATOR);
        exchange(&mut client, REQUESTS);
        let change = region.change();
        change.allocations + change.reallocations
    });
    let fewest = rounds.min().unwrap();
    std::fs::remove_dir_all(directory()).unwrap();
    println!(
        "figure: {:.3} allocations a request",
        fewest as f64 / REQUESTS as f64
    );
    assert!(
        fewest <= OTHERS,
        "{fewest} allocations in {REQUESTS} requests"
    );
}
