//! Half an hour of all at once: mixed load while servers die and return, tables swap, certificates renew and Consul's leader changes.
//! It ends with a ledger: each request that a client sent is beside what rota says of it, and nothing is left over.
//!
//! `scripts/soak` runs it; `SOAK_MINUTES` (default 30) makes it shorter, `SOAK_SEED` runs one again. What clients may see of harm that
//! was really done, and rota names as its cause, counts as failed; anything else as unexplained, of which there may be none.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

#[path = "../support/consul.rs"]
mod consul_agent;
#[path = "../acme/pebble.rs"]
#[allow(dead_code, reason = "a part of it is enough here")]
mod pebble;
#[path = "../support/mod.rs"]
mod support;

mod books;
mod chaos;
mod clients;
mod connection;
mod content;
mod desk;
mod difficult;
mod gauge;
mod ledger;
mod pod;
mod report;
mod servers;
mod sockets;
mod streams;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use desk::Desk;
use ledger::Record;
use pod::Pod;
use report::{Report, Rest, is_at_rest};

/// How long rota has to come to rest once all clients are gone; what is pooled, and a session that nobody resumes, takes its time.
const TO_REST: Duration = Duration::from_secs(90);

#[test]
#[ignore = "it takes SOAK_MINUTES; scripts/soak runs it"]
fn whatever_happens_every_request_is_answered_or_has_a_named_cause() {
    let span = Duration::from_secs_f64(variable("SOAK_MINUTES", 30.0) * 60.0);
    let seed = variable("SOAK_SEED", fastrand::u64(..1_000_000));
    println!("soak: {span:?}, SOAK_SEED={seed}");
    let pod = Arc::new(Pod::start());
    std::thread::sleep(Duration::from_secs(2));
    let before = rest(&pod);
    let (send, records) = sync_channel::<Record>(10_000);
    let desk = Arc::new(Desk::new(send, seed));
    let books = books::keep(&desk, records, pod.rota.directory().join("access.log"));
    let samples = gauge::start(&desk, &pod);
    let clients = everybody(&desk, &pod, span);
    while desk.start.elapsed() < span && !clients.iter().any(JoinHandle::is_finished) {
        pod.rota.assert_running();
        desk.rest(Duration::from_secs(1));
    }
    desk.end();
    let died = clients.into_iter().map(JoinHandle::join);
    let died = died.filter(Result::is_err).count();
    desk.clients_are_gone();
    let samples = samples.join().expect("rota was there to be measured");
    let mut books = books.join().expect("the books were kept");
    books.settle();
    let after = at_rest(&pod, &before);
    let report = Report::of(&desk, &pod, &books, &samples, (&before, &after));
    if !report.is_well() {
        println!("{}", pod.rota.log());
    }
    println!("{report}");
    // Before what follows may fail: of all that runs here nothing has more to say.
    drop(Arc::into_inner(pod));
    assert_eq!(died, 0, "threads of the soak's own");
    assert!(report.is_well(), "the ledger is not balanced");
}

fn everybody(desk: &Arc<Desk>, pod: &Arc<Pod>, span: Duration) -> Vec<JoinHandle<()>> {
    let door = pod.door();
    let mut all = clients::start(desk, &door);
    all.extend(difficult::start(desk, &door));
    all.extend(sockets::start(desk, &door));
    all.push(streams::start(desk, &door));
    all.extend(chaos::start(desk, pod, span));
    all
}

fn rest(pod: &Pod) -> Rest {
    Rest {
        metrics: pod.metrics().expect("rota says its metrics"),
        sample: gauge::sample(pod),
    }
}

/// As soon as it is at rest, or what there is after a while.
fn at_rest(pod: &Pod, before: &Rest) -> Rest {
    let begun = Instant::now();
    loop {
        let now = rest(pod);
        if is_at_rest(&now, before) || begun.elapsed() > TO_REST {
            return now;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A number in the environment.
fn variable<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().map_or(otherwise, |text| {
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}
