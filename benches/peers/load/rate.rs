//! Requests at a constant rate, whatever the answers take, on one thread; each answer's time is kept.
//!
//! No coordinated omission: a request that finds no free connection, since all wait for answers, counts from when it was due.
//! What this program itself was late, sharing its core with the app server, is nobody's latency and isn't counted.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::{Failure, answer_length, connect, request};

/// Answers that are still out this long after the last request are a failure, not forgotten.
const GRACE: Duration = Duration::from_secs(2);

struct Connection {
    stream: TcpStream,
    buffer: [u8; 8192],
    filled: usize,
    /// When the request counts from; of the last one while none is under way.
    since: Instant,
}

struct Generator {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Numbers of connections, the longest idle first.
    idle: VecDeque<usize>,
    /// When those were due that wait for a connection.
    waiting: VecDeque<Instant>,
    latencies: Vec<Duration>,
    /// How late each request was noticed to be due.
    lateness: Vec<Duration>,
    request: String,
}

/// A line: answered; p50, p99, p99.9 and the longest of latencies, p99 of this program's own lateness, all in µs.
pub fn run(
    address: SocketAddr,
    rate: u32,
    seconds: u32,
    connections: usize,
) -> Result<String, Failure> {
    // 50 µs by default: more than half of an answer's time.
    rustix::thread::set_current_timer_slack(NonZero::new(1))?;
    let mut generator = Generator::connected(address, connections)?;
    generator.drive(
        Duration::from_secs(1) / rate,
        Duration::from_secs(seconds.into()),
    )?;
    let answered = generator.latencies.len();
    let latencies = percentiles(generator.latencies, &[0.5, 0.99, 0.999, 1.0]);
    let lateness = percentiles(generator.lateness, &[0.99]);
    Ok(format!("{answered} {latencies} {lateness}"))
}

impl Generator {
    fn connected(address: SocketAddr, count: usize) -> Result<Generator, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            let stream = connect(address)?;
            stream.set_nonblocking(true)?;
            let token = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &stream, token, epoll::EventFlags::IN)?;
            connections.push(Connection {
                stream,
                buffer: [0; 8192],
                filled: 0,
                since: Instant::now(),
            });
        }
        Ok(Generator {
            epoll,
            connections,
            idle: (0..count).collect(),
            waiting: VecDeque::new(),
            latencies: Vec::new(),
            lateness: Vec::new(),
            request: request("localhost"),
        })
    }

    fn drive(&mut self, pause: Duration, span: Duration) -> Result<(), Failure> {
        let mut due = Instant::now();
        let end = due + span;
        loop {
            let now = Instant::now();
            while due <= now && due < end {
                self.offer(due)?;
                due += pause;
            }
            if due >= end {
                if self.idle.len() == self.connections.len() {
                    return Ok(());
                }
                if now >= end + GRACE {
                    return Err("answers are missing".into());
                }
            }
            let wake = if due < end { due } else { end + GRACE };
            self.collect(wake.saturating_duration_since(Instant::now()))?;
        }
    }

    fn offer(&mut self, due: Instant) -> Result<(), Failure> {
        self.lateness.push(due.elapsed());
        match self.idle.pop_front() {
            Some(number) => self.send(number, Instant::now()),
            None => {
                self.waiting.push_back(due);
                Ok(())
            }
        }
    }

    fn send(&mut self, number: usize, since: Instant) -> Result<(), Failure> {
        let connection = &mut self.connections[number];
        connection.since = since;
        connection.filled = 0;
        // The socket's buffer is empty: what went before was answered.
        Ok(connection.stream.write_all(self.request.as_bytes())?)
    }

    /// Takes the answers that come until `patience` ends or some have come.
    fn collect(&mut self, patience: Duration) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(256);
        let timeout = patience.try_into()?;
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        )?;
        for event in events {
            let number = usize::try_from(event.data.u64())?;
            if self.connections[number].is_answered()? {
                self.latencies
                    .push(self.connections[number].since.elapsed());
                match self.waiting.pop_front() {
                    Some(due) => self.send(number, due)?,
                    None => self.idle.push_back(number),
                }
            }
        }
        Ok(())
    }
}

impl Connection {
    /// Whether what there is to read completes the answer.
    fn is_answered(&mut self) -> Result<bool, Failure> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => Err("closed by the proxy".into()),
            Ok(read) => {
                self.filled += read;
                let length = answer_length(&self.buffer[..self.filled])?;
                Ok(length.is_some_and(|length| self.filled >= length))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn percentiles(mut times: Vec<Duration>, shares: &[f64]) -> String {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = |share: &f64| {
        let place = (times.len() as f64 * share) as usize;
        format!("{:.1}", times[place.min(last)].as_secs_f64() * 1e6)
    };
    shares.iter().map(at).collect::<Vec<_>>().join(" ")
}
