//! Requests at a constant rate, whatever the answers take, and the app server that they come to, in one loop of one thread.
//!
//! No coordinated omission: a request counts from when it was due, whether this program was late or no connection was free. How late
//! it was itself is said beside the latencies: they are worth what that is small against them. Load and app server are one thread
//! since as two on one core each waited for the other. It never sleeps while figures are kept: waking a virtual core takes as long as
//! a proxied answer. So that it can be given real-time priority all the same, of which the kernel takes 5 % of each second away
//! (`sched_rt_runtime_us`), in one piece, it rests in each second.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::appserver::{AppServer, BODY};
use crate::{Failure, connect, parsed, request};

/// Answers that are still out this long after the last request are a failure, not forgotten.
const GRACE: Duration = Duration::from_secs(2);
/// A second: requests whose figures are not kept, while the proxy opens its connections and wakes; those that count; nothing.
const WARM_UP: Duration = Duration::from_millis(200);
const KEPT: Duration = Duration::from_millis(600);
const REST: Duration = Duration::from_millis(200);

const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;
/// Set in the tokens of the app server's connections.
const SERVED: u64 = 1 << 32;

/// A connection to the proxy.
struct Link {
    stream: TcpStream,
    buffer: [u8; 4096],
    filled: usize,
    /// When the request was due that is under way.
    due: Instant,
}

#[derive(Clone, Copy)]
enum Pace {
    /// A request for each answer: as many as can be carried.
    Peak,
    Every(Duration),
}

/// What one order asks of a proxy, and what came of it.
struct Round {
    links: Vec<Link>,
    pace: Pace,
    /// When the next request is due.
    due: Instant,
    kept_from: Instant,
    end: Instant,
    /// Numbers of links, the longest idle first.
    idle: VecDeque<usize>,
    /// When those were due that wait for a link.
    waiting: VecDeque<Instant>,
    latencies: Vec<Duration>,
    /// How late each request's turn came here.
    lateness: Vec<Duration>,
    /// How long there was nothing to do.
    spare: Duration,
}

struct Paced {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    app: AppServer,
    has_order: bool,
    request: String,
}

/// Serves at `app`, says so in a line, and obeys standard input until it ends, a line each: what the usage of this program says.
pub fn run(app: SocketAddr) -> Result<String, Failure> {
    let mut paced = Paced::listening(app)?;
    println!("{app}");
    let mut order = String::new();
    loop {
        while !paced.has_order {
            paced.turn(None, None)?;
        }
        paced.has_order = false;
        order.clear();
        if std::io::stdin().read_line(&mut order)? == 0 {
            return Ok("no more orders".to_owned());
        }
        println!("{}", paced.obey(&order)?);
    }
}

impl Paced {
    fn listening(address: SocketAddr) -> Result<Paced, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let input = epoll::EventData::new_u64(INPUT);
        epoll::add(&epoll, std::io::stdin(), input, epoll::EventFlags::IN)?;
        Ok(Paced {
            app: AppServer::listen(address, &epoll, LISTENER)?,
            epoll,
            events: Vec::with_capacity(256),
            has_order: false,
            request: request("localhost"),
        })
    }

    fn obey(&mut self, order: &str) -> Result<String, Failure> {
        let words: Vec<&str> = order.split_whitespace().collect();
        let (address, pace, seconds, links) = match words[..] {
            ["peak", address, seconds, links] => (address, Pace::Peak, seconds, links),
            ["rate", address, rate, seconds, links] => {
                let pause = Duration::from_secs(1) / parsed::<u32>(rate)?;
                (address, Pace::Every(pause), seconds, links)
            }
            _ => return Err(format!("no order: {order:?}").into()),
        };
        let links = self.connect(parsed(address)?, parsed(links)?)?;
        let seconds = parsed(seconds)?;
        let mut round = Round::new(links, pace, KEPT * seconds);
        for _ in 0..seconds {
            round.begin();
            self.drive(&mut round)?;
            std::thread::sleep(REST);
        }
        Ok(round.figures(seconds))
    }

    fn connect(&self, address: SocketAddr, count: usize) -> Result<Vec<Link>, Failure> {
        let open = |number: usize| {
            let stream = connect(address)?;
            stream.set_nonblocking(true)?;
            let token = epoll::EventData::new_u64(number as u64);
            epoll::add(&self.epoll, &stream, token, epoll::EventFlags::IN)?;
            Ok(Link {
                stream,
                buffer: [0; 4096],
                filled: 0,
                due: Instant::now(),
            })
        };
        (0..count).map(open).collect()
    }

    fn drive(&mut self, round: &mut Round) -> Result<(), Failure> {
        loop {
            let now = round.offer_due(&self.request)?;
            if now >= round.end {
                if round.idle.len() == round.links.len() {
                    return Ok(());
                }
                if now >= round.end + GRACE {
                    return Err("answers are missing".into());
                }
            }
            self.turn(Some(Duration::ZERO), Some(&mut *round))?;
            if self.events.is_empty() {
                round.spare += now.elapsed();
            }
        }
    }

    /// Sleeps until something comes or `patience` ends, and does what has come.
    fn turn(
        &mut self,
        patience: Option<Duration>,
        mut round: Option<&mut Round>,
    ) -> Result<(), Failure> {
        self.events.clear();
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            patience.map(TryInto::try_into).transpose()?.as_ref(),
        )?;
        for event in &self.events {
            match (event.data.u64(), &mut round) {
                (LISTENER, _) => self
                    .app
                    .accept(&self.epoll, |number| number as u64 | SERVED)?,
                (INPUT, _) => self.has_order = true,
                (token, _) if token & SERVED != 0 => self.app.serve((token ^ SERVED) as usize)?,
                (token, Some(round)) => round.collect(token as usize, &self.request)?,
                (_, None) => return Err("an answer that nobody waits for".into()),
            }
            // Between any two events, so that no batch of them makes a request late.
            if let Some(round) = &mut round {
                round.offer_due(&self.request)?;
            }
        }
        Ok(())
    }
}

impl Round {
    fn new(links: Vec<Link>, pace: Pace, span: Duration) -> Round {
        let now = Instant::now();
        let room = match pace {
            Pace::Peak => 0,
            Pace::Every(pause) => (span.as_nanos() / pause.as_nanos()) as usize + 1,
        };
        Round {
            pace,
            due: now,
            kept_from: now,
            end: now,
            idle: (0..links.len()).collect(),
            links,
            waiting: VecDeque::with_capacity(room),
            latencies: Vec::with_capacity(room),
            lateness: Vec::with_capacity(room),
            spare: Duration::ZERO,
        }
    }

    fn begin(&mut self) {
        self.due = Instant::now();
        self.kept_from = self.due + WARM_UP;
        self.end = self.kept_from + KEPT;
    }

    /// Sends what is due, and tells until when that holds.
    fn offer_due(&mut self, request: &str) -> Result<Instant, Failure> {
        let mut now = Instant::now();
        while self.due <= now && self.due < self.end {
            match self.pace {
                Pace::Peak => {
                    let Some(number) = self.idle.pop_front() else {
                        break;
                    };
                    self.send(number, now, request)?;
                    self.due = now;
                }
                Pace::Every(pause) => {
                    if self.due >= self.kept_from {
                        self.lateness.push(now - self.due);
                    }
                    match self.idle.pop_front() {
                        Some(number) => self.send(number, self.due, request)?,
                        None => self.waiting.push_back(self.due),
                    }
                    self.due += pause;
                }
            }
            now = Instant::now();
        }
        Ok(now)
    }

    fn send(&mut self, number: usize, due: Instant, request: &str) -> Result<(), Failure> {
        let link = &mut self.links[number];
        link.due = due;
        link.filled = 0;
        // The socket's buffer is empty: what went before was answered.
        Ok(link.stream.write_all(request.as_bytes())?)
    }

    /// Reads what has come on a link; the time of a whole answer is kept.
    fn collect(&mut self, number: usize, request: &str) -> Result<(), Failure> {
        let link = &mut self.links[number];
        if !link.is_answered()? {
            return Ok(());
        }
        if link.due >= self.kept_from {
            self.latencies.push(link.due.elapsed());
        }
        match self.waiting.pop_front() {
            Some(due) => self.send(number, due, request),
            None => {
                self.idle.push_back(number);
                Ok(())
            }
        }
    }

    fn figures(self, seconds: u32) -> String {
        let a_second = self.latencies.len() as f64 / (KEPT * seconds).as_secs_f64();
        let latencies = percentiles(self.latencies, &[0.5, 0.99, 0.999, 1.0]);
        let lateness = percentiles(self.lateness, &[0.99]);
        let spare = self.spare.as_secs_f64() / ((WARM_UP + KEPT) * seconds).as_secs_f64();
        format!("{a_second:.0} {latencies} {lateness} {:.0}", spare * 100.0)
    }
}

impl Link {
    /// Whether what there is to read completes the answer: 200, with the app server's body.
    fn is_answered(&mut self) -> Result<bool, Failure> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err("closed by the proxy".into()),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let answer = &self.buffer[..self.filled];
        let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else {
            return Ok(false);
        };
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(answer).into());
        }
        Ok(answer.len() >= head + 4 + BODY)
    }
}

/// In µs; 0 of no times.
fn percentiles(mut times: Vec<Duration>, shares: &[f64]) -> String {
    times.sort_unstable();
    let at = |share: &f64| {
        let place = (times.len() as f64 * share) as usize;
        let time = times.get(place).or(times.last()).copied();
        format!("{:.1}", time.unwrap_or_default().as_secs_f64() * 1e6)
    };
    shares.iter().map(at).collect::<Vec<_>>().join(" ")
}
