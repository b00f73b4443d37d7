//! How connections end that rota ends: its last word is read, and nobody holds the rest open.

use std::time::Duration;

use crate::attack::{Frames, GOAWAY, frame, secure};
use crate::support::{Authority, Origin, Rota, eventually};

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
