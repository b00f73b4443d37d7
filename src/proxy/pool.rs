//! A worker's connections to servers: lent to one request at a time, kept while idle. Hot path.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::buffer::Buf;
use super::io::Io;
use crate::routing::Timeouts;

/// Whether a connection carried a request before: then its server may have been ending it while it was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    New,
    Used,
}

/// An HTTP/1 connection to a server.
pub struct ServerConnection {
    pub io: Io,
    pub buf: RefCell<Buf>,
    opened: Instant,
    idle_since: Instant,
    pub past: Past,
}

impl ServerConnection {
    pub fn new(io: Io, buf: Buf, now: Instant) -> ServerConnection {
        ServerConnection {
            io,
            buf: RefCell::new(buf),
            opened: now,
            idle_since: now,
            past: Past::New,
        }
    }
}

/// Hashes [`crate::routing::Upstream::number`]: numbers that rota counts up itself, spread by Fibonacci's multiplier (Knuth,
/// TAOCP 6.4), since the table looks at a hash's upper and lower bits.
#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed")
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What a worker keeps by the number of its upstream.
pub type ByUpstream<T> = HashMap<u64, T, BuildHasherDefault<NumberHasher>>;

/// Idle connections; the last one given back is the first one taken.
#[derive(Default)]
pub struct Pool {
    idle: ByUpstream<Vec<ServerConnection>>,
    count: usize,
}

/// What taking from the pool found.
pub struct Taken {
    pub connection: Option<ServerConnection>,
    /// Connections that were closed while idle.
    pub stale: u64,
}

impl Pool {
    /// Idle connections in all.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn pop(&mut self, upstream: u64) -> Option<ServerConnection> {
        let connection = self.idle.get_mut(&upstream)?.pop()?;
        self.count -= 1;
        Some(connection)
    }

    /// Keeps a connection, unless `cap` for its server or `total` for the worker is reached: then the oldest goes.
    pub fn put(
        &mut self,
        upstream: u64,
        mut connection: ServerConnection,
        now: Instant,
        cap: usize,
        total: usize,
    ) {
        connection.idle_since = now;
        connection.past = Past::Used;
        let buf = connection.buf.get_mut();
        buf.end_body();
        buf.rest();
        let shelf = self.idle.entry(upstream).or_default();
        if shelf.len() >= cap || self.count >= total {
            if shelf.is_empty() {
                return;
            }
            shelf.remove(0);
            self.count -= 1;
        }
        shelf.push(connection);
        self.count += 1;
    }

    /// Closes what is too old, idle for too long, or closed by its server.
    pub fn sweep(&mut self, now: Instant, timeouts: &Timeouts) {
        let mut cx = Context::from_waker(Waker::noop());
        self.idle.retain(|_, shelf| {
            shelf.retain(|connection| {
                is_usable(connection, now, timeouts) && !connection.io.has_news(&mut cx)
            });
            !shelf.is_empty()
        });
        self.count = self.idle.values().map(Vec::len).sum();
    }

    /// Closes one idle connection, the oldest of some server's; false: there is none.
    pub fn shed(&mut self) -> bool {
        let Some(shelf) = self.idle.values_mut().find(|shelf| !shelf.is_empty()) else {
            return false;
        };
        shelf.remove(0);
        self.count -= 1;
        true
    }

    pub fn clear(&mut self) {
        self.idle.clear();
        self.count = 0;
    }
}

fn is_usable(connection: &ServerConnection, now: Instant, timeouts: &Timeouts) -> bool {
    now - connection.idle_since < timeouts.pool_idle && now - connection.opened < timeouts.pool_age
}

/// Takes an idle connection that its server has not closed; costs no system call.
pub async fn take(pool: &RefCell<Pool>, upstream: u64, now: Instant, timeouts: &Timeouts) -> Taken {
    let mut stale = 0;
    loop {
        let Some(connection) = pool.borrow_mut().pop(upstream) else {
            return Taken {
                connection: None,
                stale,
            };
        };
        let has_news = poll_fn(|cx| Poll::Ready(connection.io.has_news(cx))).await;
        if !has_news && is_usable(&connection, now, timeouts) {
            return Taken {
                connection: Some(connection),
                stale,
            };
        }
        stale += 1;
    }
}
