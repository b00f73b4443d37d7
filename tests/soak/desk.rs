//! Where clients take their requests' ids and leave what became of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::ledger::{Harm, Kind, Record, Seen, Trouble, Turn};

/// `timeouts.head`, by default.
const HEAD: Duration = Duration::from_secs(10);

/// Shared by all that happens in a run.
pub struct Desk {
    next: AtomicU64,
    records: SyncSender<Record>,
    is_over: AtomicBool,
    are_clients_gone: AtomicBool,
    pub connections: Tally,
    troubles: Mutex<Vec<Trouble>>,
    /// What was done, by name.
    pub done: Mutex<BTreeMap<&'static str, u32>>,
    pub start: Instant,
    pub seed: u64,
}

/// Connections as their clients count them.
#[derive(Default)]
pub struct Tally {
    pub opened: AtomicU64,
    /// Handshakes that were completed, and those that were refused for an unknown name as they had to be.
    pub shaken: AtomicU64,
    pub unknown: AtomicU64,
}

impl Tally {
    pub fn count(of: &AtomicU64) {
        of.fetch_add(1, Relaxed);
    }
}

/// One request under way, as its client holds it.
pub struct Ticket {
    pub id: u64,
    kind: Kind,
    from: Instant,
}

impl Desk {
    pub fn new(records: SyncSender<Record>, seed: u64) -> Desk {
        Desk {
            next: AtomicU64::new(1),
            records,
            is_over: AtomicBool::new(false),
            are_clients_gone: AtomicBool::new(false),
            connections: Tally::default(),
            troubles: Mutex::default(),
            done: Mutex::default(),
            start: Instant::now(),
            seed,
        }
    }

    pub fn ticket(&self, kind: Kind) -> Ticket {
        Ticket {
            id: self.next.fetch_add(1, Relaxed),
            kind,
            from: Instant::now(),
        }
    }

    pub fn close(&self, ticket: Ticket, seen: Seen, turn: Turn) {
        // A machine with other things to do makes some of the slow as late as the endless.
        let is_late = ticket.kind == Kind::SlowHead
            && seen == Seen::Whole { status: 408 }
            && ticket.from.elapsed() >= HEAD;
        // Rota never hears its target.
        let is_headless = ticket.kind == Kind::EndlessHead || is_late;
        let id = (!is_headless).then_some(ticket.id);
        let record = Record {
            id,
            kind: ticket.kind,
            seen,
            turn,
            from: ticket.from,
            until: Instant::now(),
        };
        self.records
            .send(record)
            .expect("the books are kept to the end");
    }

    /// A source of chance of its own for each `whose`.
    pub fn random(&self, whose: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(1_000_003) ^ whose)
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// No more records will come.
    pub fn clients_are_gone(&self) {
        self.are_clients_gone.store(true, Relaxed);
    }

    pub fn are_clients_gone(&self) -> bool {
        self.are_clients_gone.load(Relaxed)
    }

    /// Rests so long, or until all is over.
    pub fn rest(&self, span: Duration) {
        let until = Instant::now() + span;
        while !self.is_over() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// Tells, with the time since the start.
    pub fn tell(&self, what: &str) {
        let seconds = self.start.elapsed().as_secs();
        println!("soak: {:02}:{:02} {what}", seconds / 60, seconds % 60);
    }

    pub fn begin_trouble(&self, upstream: String, harm: Harm) {
        self.troubles.lock().unwrap().push(Trouble {
            upstream,
            harm,
            from: Instant::now(),
            until: None,
        });
    }

    pub fn end_trouble(&self, upstream: &str) {
        let mut troubles = self.troubles.lock().unwrap();
        let of_it = troubles.iter_mut().filter(|t| t.upstream == upstream);
        for trouble in of_it.filter(|trouble| trouble.until.is_none()) {
            trouble.until = Some(Instant::now());
        }
    }

    pub fn troubles(&self) -> Vec<Trouble> {
        self.troubles.lock().unwrap().clone()
    }

    pub fn note(&self, what: &'static str) {
        *self.done.lock().unwrap().entry(what).or_default() += 1;
    }
}

/// What drives a client at a pace: due again and again, without a burst after a delay.
pub struct Pace {
    every: Duration,
    due: Instant,
}

impl Pace {
    pub fn of(a_second: f64, random: &mut fastrand::Rng) -> Pace {
        let every = Duration::from_secs_f64(1.0 / a_second);
        Pace {
            every,
            due: Instant::now() + every.mul_f64(random.f64()),
        }
    }

    /// Waits for its turn; false: all is over.
    pub fn wait(&mut self, desk: &Desk) -> bool {
        desk.rest(self.until_due());
        !desk.is_over()
    }

    /// How long until the next turn, which is then taken.
    pub fn until_due(&mut self) -> Duration {
        let now = Instant::now();
        let left = self.due.saturating_duration_since(now);
        self.due = (self.due + self.every).max(now);
        left
    }
}

/// Runs `client` on a thread of its own, until all is over.
pub fn spawn(
    desk: &Arc<Desk>,
    whose: u64,
    client: impl FnOnce(&Desk, fastrand::Rng) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let desk = desk.clone();
    std::thread::spawn(move || client(&desk, desk.random(whose)))
}
