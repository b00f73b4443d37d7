//! A way to an agent of Consul that can be told to swallow what is asked and answered about some keys.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes on whole exchanges of HTTP/1.1, each over connections of its own, until it is dropped.
pub struct Between {
    pub address: SocketAddr,
    world: Arc<World>,
}

struct World {
    agent: String,
    /// Exchanges whose target or body holds this get no answer; None: all do.
    frozen: Mutex<Option<String>>,
    /// Targets, in the order in which they were asked for.
    asked: Mutex<Vec<String>>,
    is_over: std::sync::atomic::AtomicBool,
}

impl Between {
    /// `agent` is `IP:PORT`.
    pub fn start(agent: &str) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(World {
            agent: agent.to_owned(),
            frozen: Mutex::new(None),
            asked: Mutex::default(),
            is_over: false.into(),
        });
        let serving = world.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.is_over() {
                    return;
                }
                let world = serving.clone();
                std::thread::spawn(move || world.carry(&stream.unwrap()));
            }
        });
        Between { address, world }
    }

    /// How many exchanges so far had all of these words in their target.
    pub fn asked(&self, words: &[&str]) -> usize {
        let asked = self.world.asked.lock().unwrap();
        let has_all = |target: &&String| words.iter().all(|word| target.contains(word));
        asked.iter().filter(has_all).count()
    }

    /// From now on nobody is answered whose target or body holds this.
    pub fn freeze(&self, target: &str) {
        *self.world.frozen.lock().unwrap() = Some(target.to_owned());
    }

    pub fn thaw(&self) {
        *self.world.frozen.lock().unwrap() = None;
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.world
            .is_over
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // Wakes the listener, so that it sees its end.
    }
}

impl World {
    fn is_over(&self) -> bool {
        self.is_over.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn is_frozen(&self, asked: &str) -> bool {
        let frozen = self.frozen.lock().unwrap();
        frozen.as_ref().is_some_and(|frozen| asked.contains(frozen))
    }

    fn rest_while_frozen(&self, asked: &str) {
        while self.is_frozen(asked) && !self.is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One exchange; whoever of both goes away first ends it.
    fn carry(&self, asker: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(asker.try_clone().ok()?);
        let (head, length) = head_of(&mut reader)?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let target = head.split(' ').nth(1)?.to_owned();
        let asked = format!("{target}\n{}", String::from_utf8_lossy(&body));
        self.asked.lock().unwrap().push(target);
        self.rest_while_frozen(&asked);
        let mut agent = TcpStream::connect(&self.agent).ok()?;
        agent.write_all(head.as_bytes()).ok()?;
        agent.write_all(&body).ok()?;
        let mut answer = Vec::new();
        agent.read_to_end(&mut answer).ok()?;
        self.rest_while_frozen(&asked);
        let mut asker = asker;
        asker.write_all(&answer).ok()
    }
}

/// The request's head, which asks for the connection's end, and its body's length.
fn head_of(reader: &mut impl BufRead) -> Option<(String, usize)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            head.push_str("Connection: close\r\n\r\n");
            return Some((head, length));
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
}
