//! Floods over HTTP/2: frames that cost the edge something and give nobody anything, and windows that are never opened.
//! Long because it is a table: each flood with its bytes.

use std::io::{self, Read as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::attack::{
    DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, frame, request,
    secure,
};
use crate::support::client;
use crate::support::http2::Http2;
use crate::support::load::{Load, Tally};
use crate::support::{Authority, Origin, Rota, eventually};

const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u8 = 0x0b;

/// The bar: what one client's flood may add to rota's memory.
const GROWTH_KIB: u64 = 50 * 1024;

/// A way to keep an edge busy.
struct Flood {
    name: &'static str,
    /// The first bytes of a connection.
    opening: fn() -> Vec<u8>,
    /// The n-th round of it.
    round: fn(u32) -> Vec<u8>,
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

fn get(stream: u32) -> Vec<u8> {
    let head = request("GET", "https", &[]);
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", "https", &[]))
}

/// A stream that is over.
fn post_and_reset() -> Vec<u8> {
    [post(1), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())].concat()
}

fn odd(number: u32) -> u32 {
    2 * number + 1
}

/// 62: the newest entry of the dynamic table.
const NEWEST: u8 = 0xbe;
const LARGEST: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

/// Floods of frames that h2 would answer or pass over for ever, and those that it ends by itself.
const FLOODS: &[Flood] = &[
    Flood {
        name: "ping",
        opening: nothing,
        round: |_| frame(PING, 0, 0, &[0; 8]),
    },
    Flood {
        name: "answers to no ping",
        opening: nothing,
        round: |_| frame(PING, ACK, 0, &[0; 8]),
    },
    Flood {
        name: "settings",
        opening: nothing,
        round: |n| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, n as u8, 0xff]),
    },
    Flood {
        name: "priority",
        opening: nothing,
        round: |n| frame(PRIORITY, 0, odd(n % 1000), &[0, 0, 0, 0, 16]),
    },
    Flood {
        name: "window_update",
        opening: nothing,
        round: |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    },
    Flood {
        name: "window_update of a stream",
        opening: || post(1),
        round: |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
    },
    Flood {
        name: "resets of a stream long gone",
        opening: post_and_reset,
        round: |_| frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()),
    },
    Flood {
        name: "frames of a kind that nobody knows",
        opening: nothing,
        round: |_| frame(0x42, 0, 0, &[0; 100]),
    },
    Flood {
        name: "empty data",
        opening: || post(1),
        round: |_| frame(DATA, 0, 1, &[]),
    },
    Flood {
        name: "nothing but padding",
        opening: || post(1),
        round: |_| frame(DATA, 0x8, 1, &[3, 0, 0, 0]),
    },
    Flood {
        name: "continuation",
        opening: || frame(HEADERS, END_STREAM, 1, &request("GET", "https", &[])),
        round: |_| frame(CONTINUATION, 0, 1, &[]),
    },
    Flood {
        name: "hpack bomb",
        opening: nothing,
        round: |n| frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &bomb()),
    },
    Flood {
        name: "header lists beyond their limit",
        opening: || frame(HEADERS, END_STREAM | END_HEADERS, 1, &repeated(0)),
        round: |n| frame(HEADERS, END_STREAM | END_HEADERS, odd(n + 1), &again(20)),
    },
    Flood {
        name: "heads that are none",
        opening: nothing,
        round: |n| {
            let head = request("GET", "https", &[(":path", "/again")]);
            frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &head)
        },
    },
    Flood {
        name: "rapid reset",
        opening: nothing,
        round: |n| {
            let reset = frame(RST_STREAM, 0, odd(n), &8u32.to_be_bytes());
            [get(odd(n)), reset].concat()
        },
    },
    Flood {
        name: "made you reset: a window that overflows",
        opening: nothing,
        round: |n| {
            let more = frame(WINDOW_UPDATE, 0, odd(n), &LARGEST);
            [get(odd(n)), more].concat()
        },
    },
    Flood {
        name: "made you reset: priority over itself",
        opening: nothing,
        round: |n| {
            let own = [&odd(n).to_be_bytes()[..], &[16]].concat();
            [get(odd(n)), frame(PRIORITY, 0, odd(n), &own)].concat()
        },
    },
];

/// Far beyond the limit, which h2 ends at once.
fn bomb() -> Vec<u8> {
    repeated(12_000)
}

/// A field of 4,000 bytes, put into the table and taken from it again and again.
pub fn repeated(times: usize) -> Vec<u8> {
    let mut block = request("GET", "https", &[]);
    block.extend_from_slice(&[0x40, 3]);
    block.extend_from_slice(b"x-a");
    // 4000 = 127 + 3873: RFC 7541 section 5.1.
    block.extend_from_slice(&[0x7f, 0xa1, 0x1e]);
    block.extend(std::iter::repeat_n(b'a', 4000));
    block.extend(std::iter::repeat_n(NEWEST, times));
    block
}

/// What [`repeated`] put into the table, so many times.
fn again(times: usize) -> Vec<u8> {
    let mut block = request("GET", "https", &[]);
    block.extend(std::iter::repeat_n(NEWEST, times));
    block
}

/// A client that goes on reading when it can't write any more.
struct Flooder(client::TlsWire);

impl Flooder {
    fn open(rota: &Rota, authority: &Authority) -> io::Result<Flooder> {
        let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
        let mut flooder = Flooder(client::handshake(rota.https(), &tls)?);
        flooder.send(PREFACE)?;
        Ok(flooder)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(16 * 1024) {
            self.0.conn.writer().write_all(piece)?;
            while self.0.conn.wants_write() {
                self.0.conn.write_tls(&mut self.0.sock)?;
            }
        }
        Ok(())
    }

    /// All that still comes, as frames: what kind, and the payload.
    fn rest(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut bytes = Vec::new();
        while let Ok(1..) = self.0.conn.read_tls(&mut self.0.sock)
            && self.0.conn.process_new_packets().is_ok()
        {
            let _ = self.0.conn.reader().read_to_end(&mut bytes);
        }
        let mut frames = Vec::new();
        let mut left = &bytes[..];
        while let [a, b, c, kind, _, _, _, _, _, behind @ ..] = left {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let length = length.min(behind.len());
            frames.push((*kind, behind[..length].to_vec()));
            left = &behind[length..];
        }
        frames
    }
}

impl Flood {
    /// Floods one connection until it ends or `until`; gives the code of its GOAWAY.
    fn pour(&self, rota: &Rota, authority: &Authority, until: Instant) -> Option<u8> {
        let mut client = Flooder::open(rota, authority).ok()?;
        let mut sending = client.send(&(self.opening)());
        let mut number = 0;
        while sending.is_ok() && Instant::now() < until {
            let rounds = number..number + 50;
            number = rounds.end;
            sending = client.send(&rounds.flat_map(self.round).collect::<Vec<u8>>());
        }
        // What nobody ended is left: it would be waited for.
        sending.err()?;
        let (kind, payload) = client.rest().pop()?;
        (kind == GOAWAY).then(|| payload.get(7).copied())?
    }
}

fn calmed(rota: &Rota) -> f64 {
    rota.metric("rota_http2_calmed_total", &[])
}

fn slow_origin() -> Origin {
    let origin = Origin::start(|exchange| {
        exchange.is_left_within(Duration::from_millis(200));
        exchange.answer(200, &[], b"ok")
    });
    origin.stop_recording();
    origin
}

#[test]
fn every_flood_of_frames_ends_with_enhance_your_calm_and_is_counted() {
    let authority = Authority::new();
    let origin = slow_origin();
    let rota = secure(&authority, &origin, "");
    for (number, flood) in FLOODS.iter().enumerate() {
        let until = Instant::now() + Duration::from_secs(10);
        let code = flood.pour(&rota, &authority, until);
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{}", flood.name);
        let counted = number as f64 + 1.0;
        eventually(flood.name, || calmed(&rota) >= counted);
    }
    let ping = rota.metric("rota_http2_calmed_total", &[("frame", "ping")]);
    assert_eq!(ping, 2.0);
}

#[test]
fn an_error_of_the_whole_connection_ends_it_at_once() {
    let authority = Authority::new();
    let origin = slow_origin();
    let rota = secure(&authority, &origin, "");
    let empty = frame(WINDOW_UPDATE, 0, 1, &[0; 4]);
    let short = frame(PRIORITY, 0, 1, &[0; 4]);
    for (name, bytes) in [
        ("an empty window", empty),
        ("a priority of the wrong length", short),
        ("a head behind the end", get(1)),
        ("data behind the end", frame(DATA, 0, 1, b"more")),
    ] {
        let mut client = Frames::open(&rota, &authority);
        let _ = client.0.try_send(&[get(1), bytes].concat());
        let last = std::iter::from_fn(|| client.next()).last().expect(name);
        assert_eq!(last.kind, GOAWAY, "{name}");
    }
}

/// Large answers over HTTP/2, 4 MiB each, and small ones for others.
fn large_origin() -> Origin {
    let origin = Origin::start(|exchange| {
        let is_flood = exchange.request.field("host") == Some("shop.test");
        let length = if is_flood { 4 << 20 } else { 2 };
        exchange.answer(200, &[], &vec![b'x'; length])
    });
    origin.stop_recording();
    origin
}

/// 128 streams that ask for large answers, of which each may send `window` bytes and no more. What comes is read, or not.
fn stall(rota: &Rota, authority: &Authority, window: u32, reads: Reads) -> Frames {
    let mut client = Frames::open(rota, authority);
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    let wide = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
    client
        .0
        .send([frame(SETTINGS, 0, 0, &settings), wide].concat());
    client
        .0
        .send((0..128).flat_map(|n| get(odd(n))).collect::<Vec<u8>>());
    if matches!(reads, Reads::All) {
        let mut left = 128 * u64::from(window);
        while left > 0
            && let Some(frame) = client.next()
        {
            if frame.kind == DATA {
                left -= frame.payload.len() as u64;
            }
        }
    }
    client
}

/// Four such connections, one after the other: all at once would overflow the server's queue of connections.
fn stall_four(
    rota: &Rota,
    authority: &Authority,
    origin: &Origin,
    (window, reads): (u32, Reads),
) -> Vec<Frames> {
    let before = origin.connections();
    let one = |number: usize| {
        let client = stall(rota, authority, window, reads);
        let asked = before + 128 * number;
        eventually("the servers are asked", || origin.connections() >= asked);
        client
    };
    (1..=4).map(one).collect()
}

#[derive(Clone, Copy, Debug)]
enum Reads {
    All,
    Nothing,
}

const STALLS: [(u32, Reads); 3] = [
    (0, Reads::All),
    (300_000, Reads::All),
    (0x7fff_ffff, Reads::Nothing),
];

#[test]
fn streams_whose_windows_stay_shut_hold_bounded_memory_and_end_at_a_deadline() {
    let authority = Authority::new();
    let origin = large_origin();
    for (window, reads) in STALLS {
        // 512 large answers at once make a loop late where the machine is busy: nobody is refused for it here.
        let settings = "[limits]\nloop_lag = \"0s\"\n[timeouts]\nbody = \"5s\"\n";
        let rota = secure(&authority, &origin, settings);
        drop(stall(&rota, &authority, 0, Reads::All));
        let before = rota.memory_kib("VmRSS");
        let clients = stall_four(&rota, &authority, &origin, (window, reads));
        assert_eq!(rota.get("a", "/").status, 200);
        let growth = rota.memory_kib("VmHWM").saturating_sub(before);
        println!("{window} {reads:?}: {growth} KiB");
        assert!(growth < GROWTH_KIB, "{window} {reads:?}: {growth} KiB");
        let begun = Instant::now();
        while origin.open_connections() > 1 {
            let left = origin.open_connections();
            assert!(
                begun.elapsed() < 5 * BODY,
                "{window} {reads:?}: {left} go on"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("{window} {reads:?}: cut after {:?}", begun.elapsed());
        drop(clients);
    }
}

/// As the file of that test says it: how long a window may stay shut.
const BODY: Duration = Duration::from_secs(5);

#[test]
fn beyond_limits_stalled_answers_the_slow_are_cut_and_who_reads_is_served() {
    let authority = Authority::new();
    let origin = large_origin();
    let settings = "[node]\nworkers = 1\n[limits]\nstalled_answers = 64\n";
    let rota = secure(&authority, &origin, settings);
    let before = rota.memory_kib("VmRSS");
    let clients = stall_four(&rota, &authority, &origin, (300_000, Reads::All));
    // Long before timeouts.body: 30 s.
    eventually("no more than the limit wait", || {
        rota.metric("rota_http2_stalled_cut_total", &[]) >= 448.0
            && rota.metric("rota_http2_stalled_answers", &[]) <= 64.0
    });
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let good = Http2::connect(rota.https(), &tls);
    let answer = good.get("shop.test", "/").unwrap();
    assert_eq!(answer.body.len(), 4 << 20);
    let growth = rota.memory_kib("VmHWM").saturating_sub(before);
    assert!(growth < GROWTH_KIB, "{growth} KiB");
    drop(clients);
}

/// What a flood did: memory at most, CPU time, and how others fared.
struct Harm {
    growth_kib: u64,
    cpu: Duration,
    others: Tally,
    connections: u64,
}

/// Floods for `span`, over a new connection whenever one has ended, beside clients that ask 200 times a second.
fn harm(rota: &Rota, span: Duration, mut flood: impl FnMut(Instant)) -> Harm {
    let before = rota.memory_kib("VmRSS");
    let cpu = rota.cpu_time();
    let load = Load::new(rota.http(), 4).rate(200).start();
    let (most, is_over) = (Mutex::new(before), AtomicBool::new(false));
    let until = Instant::now() + span;
    let mut connections = 0;
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Relaxed) {
                let now = rota.memory_kib("VmRSS");
                let mut most = most.lock().unwrap();
                *most = now.max(*most);
                drop(most);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        while Instant::now() < until {
            flood(until);
            connections += 1;
        }
        is_over.store(true, Relaxed);
    });
    let most = *most.lock().unwrap();
    Harm {
        growth_kib: most.saturating_sub(before),
        cpu: rota.cpu_time() - cpu,
        others: load.finish(),
        connections,
    }
}

fn held_to_its_bar(name: &str, harm: &Harm) {
    println!(
        "figure: flood {name}: {:.1} MiB more, {:.2} s of CPU, {} connections; others: {} of {} failed, p99 {:?}",
        harm.growth_kib as f64 / 1024.0,
        harm.cpu.as_secs_f64(),
        harm.connections,
        harm.others.failed(),
        harm.others.total(),
        harm.others.percentile(0.99),
    );
    assert!(
        harm.growth_kib < GROWTH_KIB,
        "{name}: {} KiB",
        harm.growth_kib
    );
    let Tally {
        statuses, errors, ..
    } = &harm.others;
    assert_eq!(harm.others.failed(), 0, "{name}: {statuses:?} {errors:?}");
}

/// All floods for `span` each, or those that `FLOOD` names, and those beside them.
fn flood_all(span: Duration) {
    let authority = Authority::new();
    let quick = Origin::fixed("ok");
    quick.stop_recording();
    let only = std::env::var("FLOOD").unwrap_or_default();
    for flood in FLOODS.iter().filter(|flood| flood.name.contains(&only)) {
        let rota = secure(&authority, &quick, "");
        rota.get("a", "/");
        let harm = harm(&rota, span, |until| {
            flood.pour(&rota, &authority, until);
        });
        held_to_its_bar(flood.name, &harm);
    }
    let large = large_origin();
    for (window, reads) in STALLS {
        let rota = secure(&authority, &large, "");
        rota.get("a", "/");
        let harm = harm(&rota, span, |until| {
            let held = stall_four(&rota, &authority, &large, (window, reads));
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            drop(held);
        });
        held_to_its_bar(&format!("stalled at {window}, {reads:?} read"), &harm);
    }
}

#[test]
fn a_flood_that_begins_anew_whenever_it_is_ended_costs_other_clients_nothing() {
    flood_all(Duration::from_millis(300));
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn each_flood_for_ten_seconds() {
    flood_all(Duration::from_secs(10));
}
