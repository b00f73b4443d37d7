//! Load: keep-alive connections, a thread each, at a rate or flat out, every answer counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Client;

/// What to send, and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
    pub connections: usize,
    /// Requests a second over all connections; `None`: flat out.
    pub rate: Option<u32>,
    /// Each connection ends after so many.
    pub requests_each: Option<u64>,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub statuses: BTreeMap<u16, u64>,
    /// Requests that got no whole answer, and why.
    pub errors: Vec<String>,
    /// By first words of the body.
    pub bodies: BTreeMap<String, u64>,
    pub latencies: Vec<Duration>,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.errors.len() as u64
    }

    /// Everything that is not a 200.
    pub fn failed(&self) -> u64 {
        self.total() - self.statuses.get(&200).copied().unwrap_or_default()
    }

    /// `share` from 0 to 1.
    pub fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * share) as usize;
        let last = sorted.len().saturating_sub(1);
        sorted.get(at.min(last)).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Tally) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (body, count) in other.bodies {
            *self.bodies.entry(body).or_default() += count;
        }
        self.errors.extend(other.errors);
        self.latencies.extend(other.latencies);
    }
}

/// Load under way.
pub struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub fn new(address: SocketAddr, connections: usize) -> Load {
        Load {
            address,
            host: "load.test".into(),
            path: "/".into(),
            connections,
            rate: None,
            requests_each: None,
        }
    }

    pub fn rate(mut self, a_second: u32) -> Load {
        self.rate = Some(a_second);
        self
    }

    pub fn start(self) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |number| {
            let (load, stop) = (self.clone(), stop.clone());
            std::thread::spawn(move || load.drive(number, &stop))
        };
        Running {
            threads: (0..self.connections).map(spawn).collect(),
            stop,
        }
    }

    /// Runs for `span`.
    pub fn run_for(self, span: Duration) -> Tally {
        let running = self.start();
        std::thread::sleep(span);
        running.finish()
    }

    /// `count` requests in all.
    pub fn run_count(mut self, count: u64) -> Tally {
        self.requests_each = Some(count / self.connections as u64);
        self.start().join()
    }

    fn drive(&self, number: usize, stop: &AtomicBool) -> Tally {
        let mut tally = Tally::default();
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host);
        let pause = self
            .rate
            .map(|rate| Duration::from_secs_f64(self.connections as f64 / f64::from(rate)));
        let offset = pause
            .unwrap_or_default()
            .mul_f64(number as f64 / self.connections as f64);
        let mut due = Instant::now() + offset;
        let mut client = None;
        let mut sent = 0;
        while !stop.load(Relaxed) && self.requests_each.is_none_or(|most| sent < most) {
            if let Some(pause) = pause {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                due += pause;
            }
            sent += 1;
            let begin = Instant::now();
            match ask(&mut client, self.address, &request) {
                Ok((status, body)) => {
                    *tally.statuses.entry(status).or_default() += 1;
                    *tally.bodies.entry(body).or_default() += 1;
                    tally.latencies.push(begin.elapsed());
                }
                Err(error) => {
                    tally.errors.push(error.to_string());
                    client = None;
                }
            }
        }
        tally
    }
}

fn ask(
    client: &mut Option<Client>,
    address: SocketAddr,
    request: &str,
) -> std::io::Result<(u16, String)> {
    let connection = match client {
        Some(connection) => connection,
        None => client.insert(Client::try_connect(address)?),
    };
    connection.try_send(request.as_bytes())?;
    let answer = connection.try_answer()?;
    if answer
        .field("connection")
        .is_some_and(|v| v.eq_ignore_ascii_case("close"))
    {
        *client = None;
    }
    let body = answer.text();
    Ok((answer.status, body.chars().take(16).collect()))
}

impl Running {
    /// Stops after the requests under way.
    pub fn finish(self) -> Tally {
        self.stop.store(true, Relaxed);
        self.join()
    }

    fn join(self) -> Tally {
        let mut sum = Tally::default();
        for thread in self.threads {
            sum.add(thread.join().unwrap());
        }
        sum
    }
}
