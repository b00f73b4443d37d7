//! Figures of what others do to rota: ten thousand clients that dawdle, servers that die, hang and reset under load, and a drain in its middle.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::figures::{median, setting};
use crate::support::http2::Http2;
use crate::support::load::{Load, Tally};
use crate::support::rota::{Place, Signal, edge};
use crate::support::{Authority, Origin, Rota};
use crate::{alone, echo_or, still_echoes, websocket};

const SLOW: usize = 10_000;

/// What a client does slowly.
#[derive(Clone, Copy)]
enum Pace {
    Head,
    Body,
    Reading,
}

/// A client that sends or takes a byte now and then, and comes again when it was cut.
struct Slow {
    address: SocketAddr,
    pace: Pace,
    stream: Option<TcpStream>,
}

impl Slow {
    fn connect(&mut self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        let begin: &[u8] = match self.pace {
            Pace::Head => b"GET / HTTP/1.1\r\nX-Slow: ",
            Pace::Body => b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
            Pace::Reading => b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
        };
        stream.write_all(begin)?;
        stream.set_nonblocking(true)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// A byte, or a few; false: it was cut.
    fn step(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let done = match self.pace {
            Pace::Head | Pace::Body => stream.write(b"x"),
            Pace::Reading => stream.read(&mut [0; 512]),
        };
        match done {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

/// All of them on one thread, each stepping every five seconds.
struct Crowd {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Crowd {
    fn start(address: SocketAddr) -> Crowd {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = std::thread::spawn(move || {
            let pace = |n| match n % 10 {
                0 => Pace::Body,
                1 => Pace::Reading,
                _ => Pace::Head,
            };
            let mut clients: Vec<_> = (0..SLOW)
                .map(|n| Slow {
                    address,
                    pace: pace(n),
                    stream: None,
                })
                .collect();
            let mut connects = 0;
            for at in (0..SLOW).cycle() {
                if over.load(Relaxed) {
                    break;
                }
                let client = &mut clients[at];
                if !client.step() {
                    client.stream = None;
                    connects += u64::from(client.connect().is_ok());
                }
                if at % 20 == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            connects
        });
        Crowd { is_over, thread }
    }

    /// How many connections it took.
    fn end(self) -> u64 {
        self.is_over.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

fn sized() -> Origin {
    let large = vec![b'x'; 4 << 20];
    let origin = Origin::start(move |exchange| match &*exchange.request.target {
        "/large" => exchange.answer(200, &[], &large),
        _ => {
            exchange.read_body()?;
            exchange.answer(200, &[], b"ok")
        }
    });
    origin.stop_recording();
    origin
}

fn good(rota: &Rota) -> Tally {
    let span = Duration::from_secs(setting("ROUND_SECONDS", 10));
    Load::new(rota.http(), 16).rate(1000).run_for(span)
}

/// On a machine with other things to do.
fn wait_for_connections(rota: &Rota, is_enough: impl Fn(f64) -> bool) {
    let begun = Instant::now();
    while !is_enough(rota.metric("rota_connections", &[])) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", rota.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn p99(tally: &Tally) -> f64 {
    tally.percentile(0.99).as_secs_f64() * 1000.0
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn ten_thousand_slow_clients_beside_good_ones() {
    let _alone = alone();
    let origin = sized();
    // So that they stay: each comes by once in five seconds.
    let timeouts = "[timeouts]\nhead = \"60s\"\nbody = \"60s\"\n";
    let rota = Rota::start(&format!("{timeouts}{}", edge(&[origin.address()])));
    let before = rota.memory_kib("VmRSS");
    let (mut quiet, mut crowded, mut failed) = (Vec::new(), Vec::new(), 0);
    let mut connects = 0;
    for _ in 0..setting("ROUNDS", 3) {
        let alone = good(&rota);
        let crowd = Crowd::start(rota.http());
        wait_for_connections(&rota, |open| open >= SLOW as f64 * 0.95);
        let beside = good(&rota);
        connects += crowd.end();
        wait_for_connections(&rota, |open| open < 100.0);
        failed += alone.failed() + beside.failed();
        quiet.push(p99(&alone));
        crowded.push(p99(&beside));
    }
    let most = rota.memory_kib("VmHWM").saturating_sub(before) / 1024;
    println!(
        "figure: {SLOW} slow clients: good ones' p99 {:.2} ms, {:.2} ms without them, {failed} failed; {connects} connections, {most} MiB",
        median(crowded.clone()),
        median(quiet.clone())
    );
    assert_eq!(failed, 0);
    assert!(median(crowded) <= 2.0 * median(quiet));
}

/// What a server does from some moment on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Killed,
    Hangs,
    Resets,
}

/// How long a server may take; what hangs is 504 then.
const DEADLINE: Duration = Duration::from_secs(1);

#[test]
#[ignore = "a figure: scripts/figures"]
fn a_server_of_three_killed_hung_or_resetting_under_1000_gets_a_second() {
    let _alone = alone();
    for fault in [Fault::Killed, Fault::Hangs, Fault::Resets] {
        let is_sick = Arc::new(AtomicBool::new(false));
        let servers: Vec<_> = (0..3)
            .map(|number| {
                let is_sick = is_sick.clone();
                let origin = Origin::start(move |exchange| {
                    if number > 0 || !is_sick.load(Relaxed) {
                        return exchange.answer(200, &[], b"ok");
                    }
                    match fault {
                        Fault::Resets => exchange.reset(),
                        Fault::Hangs | Fault::Killed => {
                            exchange.is_left_within(Duration::from_secs(30));
                            Ok(())
                        }
                    }
                });
                origin.stop_recording();
                origin
            })
            .collect();
        let addresses: Vec<_> = servers.iter().map(Origin::address).collect();
        let timeouts = "[timeouts]\nresponse = \"1s\"\n";
        let rota = Rota::start(&format!("{timeouts}{}", edge(&addresses)));
        let load = Load::new(rota.http(), 64).rate(1000).start();
        std::thread::sleep(Duration::from_secs(2));
        match fault {
            Fault::Killed => servers[0].stop(),
            Fault::Hangs | Fault::Resets => is_sick.store(true, Relaxed),
        }
        std::thread::sleep(Duration::from_secs(6));
        let tally = load.finish();
        let longest = tally.latencies.iter().max().unwrap().as_secs_f64();
        println!(
            "figure: {fault:?} under 1000 GET/s: {} of {} failed, {:?}, {} without an answer, the longest took {longest:.2} s",
            tally.failed(),
            tally.total(),
            tally.statuses,
            tally.errors.len()
        );
        assert!(tally.errors.is_empty(), "{:?}", tally.errors);
        assert!(fault == Fault::Hangs || tally.failed() == 0);
        assert!(
            tally
                .statuses
                .keys()
                .all(|status| [200, 504].contains(status))
        );
        assert!(longest < 2.0 * DEADLINE.as_secs_f64());
    }
}

/// Streams asked one after the other until the connection ends; gives how many were answered, and how many were begun and lost.
fn stream_after_stream(client: Http2) -> (u64, u64) {
    let mut answered = 0;
    loop {
        match client.get("load.test", "/") {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                answered += 1;
            }
            // Told to go before it asked.
            Err(error) if error.is_go_away() => return (answered, 0),
            Err(error) => {
                println!("a stream of {answered}: {error:?}");
                return (answered, 1);
            }
        }
    }
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn term_under_load_of_http_1_http_2_and_websockets() {
    let _alone = alone();
    let authority = Authority::new();
    let origin = Origin::start(|exchange| {
        std::thread::sleep(Duration::from_millis(5));
        echo_or(exchange, "ok")
    });
    origin.stop_recording();
    let (mut total, mut lost, mut echoed) = (0, 0, 0);
    let rounds = setting("ROUNDS", 10);
    for _ in 0..rounds {
        let place = Place::new();
        authority.leaf(&["load.test"]).write(place.path(), "load");
        let listener = "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{https}\"\nprotocol = \"https\"\ncertificates = [{ certificate = \"load.pem\", key = \"load.key\" }]\n";
        let rota = place.start(&format!("{listener}{}", edge(&[origin.address()])));
        let mut sockets: Vec<_> = (0..20).map(|_| websocket(&rota)).collect();
        let tls = authority.client_with("load.test", &["h2"], rustls::DEFAULT_VERSIONS);
        let streams: Vec<_> = (0..8)
            .map(|_| {
                let client = Http2::connect(rota.https(), &tls);
                std::thread::spawn(move || stream_after_stream(client))
            })
            .collect();
        let load = Load::new(rota.http(), 32).rate(1000).start();
        std::thread::sleep(Duration::from_millis(700));
        rota.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(300));
        sockets.iter_mut().for_each(still_echoes);
        echoed += sockets.len();
        drop(sockets);
        let tally = load.finish();
        // Who is not let in any more has lost nothing that was asked.
        let refused = |error: &&String| error.contains("Connection refused");
        total += tally.total() - tally.errors.iter().filter(refused).count() as u64;
        lost += tally.failed() - tally.errors.iter().filter(refused).count() as u64;
        for thread in streams {
            let (answered, failed) = thread.join().unwrap();
            total += answered + failed;
            lost += failed;
        }
        assert!(rota.wait().success());
    }
    println!(
        "figure: TERM under load, {rounds} times: {lost} of {total} requests lost over HTTP/1 and HTTP/2; {echoed} WebSockets echoed while it drained"
    );
    assert_eq!(lost, 0);
}
