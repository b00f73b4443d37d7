//! Heads over HTTP/2 that are too large, too slow or none at all: what h2 answers by itself is counted, forgiven, and has its time.

use std::time::{Duration, Instant};

use crate::attack::{
    DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, frame, request,
    secure,
};
use crate::floods::repeated;
use crate::support::client::Client;
use crate::support::{Authority, Origin, Rota, eventually};

const CONTINUATION: u8 = 9;
const WHOLE: u8 = END_STREAM | END_HEADERS;

fn get(stream: u32, path: &str) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "shop.test"),
        (":path", path),
    ];
    frame(HEADERS, WHOLE, stream, &crate::attack::block(&fields))
}

fn refused(rota: &Rota) -> f64 {
    rota.metric("rota_http2_heads_refused_total", &[])
}

#[test]
fn a_header_list_beyond_the_limit_is_431_over_http_2_and_is_counted() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let mut client = Frames::open(&rota, &authority);
    // 18 × 4,035 bytes: more than head_bytes, no bomb.
    client.0.send(frame(HEADERS, WHOLE, 1, &repeated(17)));
    let answer = client.next().expect("an answer");
    assert_eq!((answer.kind, answer.stream), (HEADERS, 1));
    // 0x48: literal with the name `:status` of the static table; 0x82: two bytes by Huffman's code or three plain ones follow.
    assert_eq!(answer.payload[0], 0x48, "{answer:?}");
    eventually("it is counted", || refused(&rota) == 1.0);
    client.0.send(get(3, "/"));
    let answer = client.next().expect("an answer");
    assert_eq!((answer.kind, answer.stream), (HEADERS, 3));
    assert_eq!(origin.count(), 1);
}

#[test]
fn header_lists_beyond_the_limit_one_after_the_other_end_with_enhance_your_calm() {
    let (authority, origin) = (Authority::new(), Origin::fixed("never"));
    let rota = secure(&authority, &origin, "");
    let mut client = Frames::open(&rota, &authority);
    let mut last = None;
    // Few enough at once that none of them is refused for being too many.
    for round in 0..100 {
        let streams = (round * 50..(round + 1) * 50).map(|n| 2 * n + 1);
        let heads = streams.map(|stream| frame(HEADERS, WHOLE, stream, &repeated(17)));
        if client
            .0
            .try_send(&heads.collect::<Vec<_>>().concat())
            .is_err()
        {
            break;
        }
        for _ in 0..50 {
            last = client.next().or(last.take());
        }
        if last.as_ref().is_some_and(|last| last.kind == GOAWAY) {
            break;
        }
    }
    let last = last.expect("a frame");
    assert_eq!((last.kind, last.payload.get(7)), (GOAWAY, Some(&0x0b)));
    let calmed = || rota.metric("rota_http2_calmed_total", &[("frame", "headers")]);
    eventually("it is counted", || calmed() == 1.0);
}

#[test]
fn paths_that_are_none_end_no_connection_whose_other_requests_are_answered() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let mut client = Frames::open(&rota, &authority);
    for round in 0..400u32 {
        let (bad, good) = (4 * round + 1, 4 * round + 3);
        client.0.send([get(bad, "/<a>"), get(good, "/")].concat());
        let answer = loop {
            let frame = client.next().expect("the connection goes on");
            assert_ne!(frame.kind, GOAWAY, "round {round}");
            if frame.kind == HEADERS {
                break frame;
            }
            assert!(frame.kind != RST_STREAM || frame.stream < good, "{frame:?}");
        };
        assert_eq!(answer.stream, good);
    }
    eventually("all are counted", || refused(&rota) == 400.0);
}

/// A head in which nothing is wrong.
fn head() -> Vec<u8> {
    request("GET", "https", &[])
}

/// The frame's first bytes without its last one.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.pop();
    bytes
}

#[test]
fn a_head_that_does_not_come_over_http_2_ends_the_connection_at_its_deadline() {
    let (authority, origin) = (Authority::new(), Origin::fixed("never"));
    let rota = secure(&authority, &origin, "[timeouts]\nhead = \"1s\"\n");
    let settings_missing = &PREFACE[..24];
    for (name, bytes) in [
        ("no settings", settings_missing.to_vec()),
        ("no head", PREFACE.to_vec()),
        (
            "a frame's head alone",
            [PREFACE, &frame(HEADERS, WHOLE, 1, &head())[..9]].concat(),
        ),
        (
            "all but a byte",
            [PREFACE, &cut(frame(HEADERS, WHOLE, 1, &head()))].concat(),
        ),
        (
            "no continuation",
            [PREFACE, &frame(HEADERS, END_STREAM, 1, &head())].concat(),
        ),
    ] {
        let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
        let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
        let begun = Instant::now();
        client.send(bytes);
        let mut client = Frames(client);
        let last = std::iter::from_fn(|| client.next()).last().expect(name);
        assert_eq!((last.kind, last.payload[7]), (GOAWAY, 0), "{name}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}");
    }
    let ended = || rota.metric("rota_requests_ended_total", &[("reason", "client_timeout")]);
    eventually("heads that began are accounted for", || ended() == 3.0);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_byte_of_a_head_now_and_then_does_not_outlast_its_time_though_another_stream_works() {
    let authority = Authority::new();
    let origin = Origin::start(|exchange| {
        exchange.is_left_within(Duration::from_secs(60));
        Ok(())
    });
    let rota = secure(&authority, &origin, "[timeouts]\nhead = \"1s\"\n");
    let mut client = Frames::open(&rota, &authority);
    client.0.send(get(1, "/"));
    eventually("a server is asked", || origin.count() == 1);
    let slow = frame(
        HEADERS,
        WHOLE,
        3,
        &request("GET", "https", &[("x-a", &"a".repeat(100))]),
    );
    let begun = Instant::now();
    let mut sent = 0;
    for byte in &slow {
        if client.0.try_send(&[*byte]).is_err() || origin.open_connections() == 0 {
            break;
        }
        sent += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(sent < slow.len(), "the whole head was taken");
    let last = std::iter::from_fn(|| client.next())
        .last()
        .expect("a frame");
    assert_eq!(last.kind, GOAWAY);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_head_in_pieces_is_taken_within_its_time_and_whoever_has_asked_may_rest() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "[timeouts]\nhead = \"2s\"\n");
    let mut client = Frames::open(&rota, &authority);
    let whole = head();
    let (first, rest) = whole.split_at(5);
    for stream in [1, 3] {
        let pieces = [
            frame(HEADERS, END_STREAM, stream, first),
            frame(CONTINUATION, END_HEADERS, stream, rest),
        ];
        for piece in pieces.concat().chunks(4) {
            client.0.send(piece);
            std::thread::sleep(Duration::from_millis(5));
        }
        let answer = client.next().expect("an answer");
        assert_eq!((answer.kind, answer.stream), (HEADERS, stream));
        assert_eq!(client.next().expect("its body").stream, stream);
        if stream == 1 {
            // Longer than a head may take: nothing is under way.
            std::thread::sleep(Duration::from_secs(3));
        }
    }
}

#[test]
fn an_upload_whose_reads_end_in_the_heads_of_its_frames_is_no_head_that_is_late() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "[timeouts]\nhead = \"1s\"\n");
    let mut client = Frames::open(&rota, &authority);
    let begun = frame(HEADERS, END_HEADERS, 1, &request("POST", "https", &[]));
    let piece = frame(DATA, 0, 1, &[b'x'; 1000]);
    client.0.send([&begun, &piece[..4]].concat());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(200));
        client.0.send([&piece[4..], &piece[..4]].concat());
    }
    client.0.send(&piece[4..]);
    client.0.send(frame(DATA, END_STREAM, 1, b""));
    let answer = loop {
        let frame = client.next().expect("the connection goes on");
        assert_ne!(frame.kind, GOAWAY);
        if frame.kind == HEADERS {
            break frame;
        }
    };
    assert_eq!(answer.stream, 1);
    assert_eq!(origin.count(), 1);
}
