//! HTTP/2 clients that stop reading when their answers have ended: what h2 holds for them is held for no longer than `timeouts.body`.

use std::time::{Duration, Instant};

use crate::attack::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, frame, request, secure};
use crate::support::{Authority, Origin, Rota, eventually};

const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const STREAMS: u32 = 128;
/// Each answer is given to h2 whole, at once: nobody waits for the client with it.
const ANSWER: usize = 30_000;

fn origin() -> Origin {
    let origin = Origin::start(|exchange| exchange.answer(200, &[], &[b'x'; ANSWER]));
    origin.stop_recording();
    origin
}

/// A client whose windows are wide open, and who reads nothing.
struct Silent {
    client: Frames,
    rounds: u32,
}

impl Silent {
    fn open(rota: &Rota, authority: &Authority) -> Silent {
        let mut client = Frames::open(rota, authority);
        let widest = 0x7fff_0000u32.to_be_bytes();
        let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &widest].concat());
        client
            .0
            .send([settings, frame(WINDOW_UPDATE, 0, 0, &widest)].concat());
        Silent { client, rounds: 0 }
    }

    /// As many streams as may be ask, again and again until the socket takes no more for the moment.
    fn ask_until_full(&mut self, rota: &Rota) {
        let head = request("GET", "https", &[]);
        let get = |n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &head);
        while !is_full(rota) {
            assert!(self.rounds < 20, "the socket takes everything");
            let streams = self.rounds * STREAMS..(self.rounds + 1) * STREAMS;
            self.rounds += 1;
            let asked = f64::from(streams.end);
            // None takes it whose connection was reset meanwhile.
            let _ = self
                .client
                .0
                .try_send(&streams.flat_map(get).collect::<Vec<u8>>());
            eventually(
                "all of them are answered, as far as a server is concerned",
                || {
                    ended(rota, "answered") + ended(rota, "client_aborted") >= asked
                        || stuck(rota) > 0.0
                },
            );
        }
    }

    /// Until it is reset. What the kernels take after all, and late where the machine is busy, is asked for again.
    fn wait_for_reset(&mut self, rota: &Rota) {
        let begun = Instant::now();
        while stuck(rota) == 0.0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", told(rota));
            self.ask_until_full(rota);
        }
        eventually("it is reset", || stuck(rota) == 1.0 && open(rota) == 0.0);
    }
}

/// What is held is told by each worker ten times a second.
fn is_full(rota: &Rota) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        if rota.metric("rota_http2_stalled_answers", &[]) > 0.0 || stuck(rota) > 0.0 {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

fn told(rota: &Rota) -> String {
    let held = rota.metric("rota_http2_stalled_answers", &[]);
    format!("{held} held, {} stuck, {} open", stuck(rota), open(rota))
}

fn stuck(rota: &Rota) -> f64 {
    rota.metric("rota_http2_stuck_total", &[])
}

fn open(rota: &Rota) -> f64 {
    rota.metric("rota_connections", &[("listener", "tls")])
}

fn ended(rota: &Rota, reason: &str) -> f64 {
    rota.metric("rota_requests_ended_total", &[("reason", reason)])
}

#[test]
fn who_takes_nothing_any_more_is_reset_after_timeouts_body_though_its_answers_have_ended() {
    let (authority, origin) = (Authority::new(), origin());
    let rota = secure(&authority, &origin, "[timeouts]\nbody = \"3s\"\n");
    let mut client = Silent::open(&rota, &authority);
    client.ask_until_full(&rota);
    let begun = Instant::now();
    // Long before an idle connection's end: 75 s, and as long again.
    client.wait_for_reset(&rota);
    println!(
        "reset after {:?}, {} rounds",
        begun.elapsed(),
        client.rounds
    );
    let mut frames = 0;
    while client.client.next().is_some() {
        frames += 1;
    }
    println!("{frames} frames came");
}

#[test]
fn while_too_many_answers_wait_whoever_takes_nothing_is_reset_within_seconds() {
    let (authority, origin) = (Authority::new(), origin());
    let settings =
        "[node]\nworkers = 1\n[limits]\nstalled_answers = 4\n[timeouts]\nbody = \"10m\"\n";
    let rota = secure(&authority, &origin, settings);
    let mut client = Silent::open(&rota, &authority);
    client.wait_for_reset(&rota);
    eventually("none is counted any more", || {
        rota.metric("rota_http2_stalled_answers", &[]) == 0.0
    });
    drop(client);
}

#[test]
fn who_goes_on_reading_slowly_gets_all_of_it() {
    let (authority, origin) = (Authority::new(), origin());
    let rota = secure(&authority, &origin, "[timeouts]\nbody = \"5s\"\n");
    let mut client = Silent::open(&rota, &authority);
    client.ask_until_full(&rota);
    let mut client = client.client;
    let all = ended(&rota, "answered") as usize * ANSWER;
    // Longer than that in all.
    let (mut data, mut next_rest) = (0, all / 12);
    while data < all {
        let frame = client.next().expect("it goes on");
        if frame.kind == DATA {
            data += frame.payload.len();
        }
        if data >= next_rest {
            next_rest += all / 12;
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    assert_eq!(stuck(&rota), 0.0);
}
