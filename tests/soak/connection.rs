//! One client's HTTP/1 connection: it never panics, but says how each request ended.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::content::Content;
use super::desk::{Desk, Tally};
use super::ledger::{Seen, Turn};
use super::support::client::handshake;
use super::support::wire::{self, Framing, Head, Wire};
use super::support::{PATIENCE, Tls};

/// The longest that a client waits for a byte: longer than whatever rota waits for.
pub const GENEROUS: Duration = Duration::from_secs(90);

/// Where rota is reached.
#[derive(Clone)]
pub struct Door {
    pub plain: SocketAddr,
    pub secure: SocketAddr,
    /// Of each name, offering HTTP/1.1 alone.
    pub names: Vec<Tls>,
    /// The same, offering HTTP/2 alone.
    pub names2: Vec<Tls>,
}

/// What an answer of 200 has to be.
pub enum Expected {
    /// The bytes of this id.
    Content {
        id: u64,
        length: u64,
    },
    Text(String),
}

pub struct Connection {
    reader: BufReader<Box<dyn Wire>>,
    pub host: String,
    pub turn: Turn,
    is_over: bool,
}

impl Connection {
    pub fn plain(desk: &Desk, door: &Door, host: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&door.plain, PATIENCE)?;
        Tally::count(&desk.connections.opened);
        stream.set_nodelay(true)?;
        Connection::over(Box::new(stream), host)
    }

    pub fn secure(desk: &Desk, door: &Door, tls: &Tls) -> io::Result<Connection> {
        let wire = handshake(door.secure, tls)?;
        Tally::count(&desk.connections.opened);
        Tally::count(&desk.connections.shaken);
        Connection::over(Box::new(wire), &tls.name)
    }

    fn over(wire: Box<dyn Wire>, host: &str) -> io::Result<Connection> {
        wire.tcp().set_read_timeout(Some(GENEROUS))?;
        wire.tcp().set_write_timeout(Some(GENEROUS))?;
        Ok(Connection {
            reader: BufReader::with_capacity(64 << 10, wire),
            host: host.to_owned(),
            turn: Turn::First,
            is_over: false,
        })
    }

    /// Whether another request may be sent.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)?;
        self.reader.get_mut().flush()
    }

    pub fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }

    pub fn read_exactly(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(into)
    }

    /// Sends what `request` writes, and reads the answer to its end, `each` time some of it came.
    pub fn exchange(
        &mut self,
        request: impl FnOnce(&mut Connection) -> io::Result<()>,
        expected: &Expected,
        each: impl FnMut(usize),
    ) -> Seen {
        // Who was refused in the middle of his request has an answer all the same.
        let sent = request(self);
        let seen = self.answer(expected, each);
        self.turn = Turn::Later;
        let is_answered = matches!(seen, Seen::Whole { .. } | Seen::Garbled { .. });
        self.is_over |= sent.is_err() || !is_answered;
        seen
    }

    pub fn get(&mut self, target: &str, expected: &Expected) -> Seen {
        let head = self.head("GET", target, "");
        self.exchange(|line| line.send(head.as_bytes()), expected, |_| {})
    }

    pub fn head(&self, method: &str, target: &str, fields: &str) -> String {
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n",
            self.host
        )
    }

    /// The head of the final answer.
    pub fn answer_head(&mut self) -> Result<(u16, Head), Seen> {
        let nothing = |why: String| Seen::Nothing { why };
        loop {
            let head = match wire::read_head(&mut self.reader) {
                Ok(Some(head)) => head,
                Ok(None) => return Err(nothing("closed before a byte".into())),
                Err(error) => return Err(nothing(error.to_string())),
            };
            let status = head.start.split(' ').nth(1).and_then(|s| s.parse().ok());
            match status {
                Some(100 | 103) => {}
                Some(status) => return Ok((status, head)),
                None => return Err(nothing(head.start)),
            }
        }
    }

    fn answer(&mut self, expected: &Expected, mut each: impl FnMut(usize)) -> Seen {
        let (status, head) = match self.answer_head() {
            Ok(answer) => answer,
            Err(seen) => return seen,
        };
        let closes = head
            .field("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"));
        self.is_over |= closes;
        let (mut content, mut text) = (expected.content(), Vec::new());
        let framing = wire::framing(&head.fields, Framing::UntilClose);
        let read = wire::read_body(&mut self.reader, framing, |piece| {
            content.compare(piece);
            text.extend_from_slice(&piece[..piece.len().min(64)]);
            each(piece.len());
        });
        match read {
            Err(error) => Seen::Truncated {
                status,
                why: error.to_string(),
            },
            Ok(_) if framing == Framing::UntilClose => Seen::Truncated {
                status,
                why: "without a length".into(),
            },
            Ok(_) if status != 200 || expected.is(&content, &text) => Seen::Whole { status },
            Ok(_) => Seen::Garbled { status },
        }
    }
}

impl Expected {
    pub fn content(&self) -> Content {
        match self {
            Expected::Content { id, .. } => Content::of(*id),
            Expected::Text(_) => Content::of(0),
        }
    }

    pub fn is(&self, content: &Content, text: &[u8]) -> bool {
        match self {
            Expected::Content { length, .. } => content.is_whole(*length),
            Expected::Text(expected) => expected.as_bytes() == text,
        }
    }
}

type Opening = dyn Fn(&Desk) -> io::Result<Connection> + Send;

/// Opens a connection again and again, as far as it is needed.
pub struct Kept {
    open: Box<Opening>,
    connection: Option<Connection>,
    /// Left after so many requests.
    requests: u32,
    most: u32,
}

impl Kept {
    pub fn new(most: u32, open: impl Fn(&Desk) -> io::Result<Connection> + Send + 'static) -> Kept {
        Kept {
            open: Box::new(open),
            connection: None,
            requests: 0,
            most,
        }
    }

    /// One to send a request on; or why there is none.
    pub fn line(&mut self, desk: &Desk) -> Result<&mut Connection, Seen> {
        let is_spent = self.requests >= self.most;
        if is_spent || self.connection.as_ref().is_none_or(Connection::is_over) {
            self.requests = 0;
            self.connection = None;
            let opened = (self.open)(desk).map_err(|error| Seen::Nothing {
                why: format!("no connection: {error}"),
            })?;
            self.connection = Some(opened);
        }
        self.requests += 1;
        Ok(self.connection.as_mut().expect("it was opened"))
    }
}
