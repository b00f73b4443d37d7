//! A worker's HTTP/2 connections to servers: each carries many requests at once, as many as its server allows.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::header::{HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Uri, Version};
use httparse::Header;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::sink::fields_of;
use crate::dial::Stream;
use crate::proxy::fields::{Known, is_trailer, known};
use crate::proxy::pool::{ByUpstream, Past};
use crate::routing::Timeouts;
use crate::routing::policy::MAX_HEAD_FIELDS;

/// Requests that one connection carries at once, if its server does not ask for fewer; for more, another one is opened.
const STREAMS: u32 = 128;
/// Body bytes that a server may send ahead of what its client takes, for one stream.
const STREAM_WINDOW: u32 = 128 * 1024;
/// For a whole connection: as much as all of its streams, so that clients that take nothing don't hold up the others.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// Bytes of a request that may wait in h2 for the server, for one stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Cancelled streams of one connection that are remembered for a moment: what the server still sends on them is no error.
const CANCELLED: usize = 1024;
/// Fields that rota adds to a client's, at most.
const ADDED_FIELDS: usize = 16;

pub type Sender = SendRequest<Bytes>;

/// The server closed, or sent something that is not HTTP/2, before it said its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHttp2;

/// Agrees on HTTP/2 over `stream`; a task drives the connection until nobody holds its sender and no stream is left.
/// Waits for the server's settings: from then on the number of its streams is known, and that it speaks HTTP/2 at all,
/// before a byte of a request was sent.
pub async fn open(stream: Stream, head_bytes: usize) -> Result<Sender, NotHttp2> {
    let handshake = builder(head_bytes).handshake(stream).await;
    let (sender, mut connection) = handshake.map_err(|_| NotHttp2)?;
    poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(_) => Poll::Ready(Err(NotHttp2)),
        Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    tokio::task::spawn_local(async move {
        // How it ended is what each of its streams is told.
        let _ = connection.await;
    });
    Ok(sender)
}

fn builder(head_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(CANCELLED)
        .enable_push(false);
    builder
}

/// One connection.
struct Lane {
    sender: Sender,
    opened: Instant,
    idle_since: Cell<Instant>,
    streams: Cell<usize>,
    /// Takes no new request.
    is_retired: Cell<bool>,
    /// Idle connections to this server that this worker keeps.
    cap: usize,
}

impl Lane {
    /// False also for a connection that its server ended, or is about to (GOAWAY).
    fn is_usable(&self, now: Instant, timeouts: &Timeouts) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let is_open = !matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)));
        let is_in_use = self.streams.get() > 0 || now - self.idle_since.get() < timeouts.pool_idle;
        is_open && is_in_use && !self.is_retired.get() && now - self.opened < timeouts.pool_age
    }

    fn has_room(&self) -> bool {
        let allowed = self.sender.current_max_send_streams();
        self.streams.get() < allowed.min(STREAMS as usize)
    }
}

/// A place for one request on a connection, until dropped.
#[must_use]
pub struct Lease {
    pub sender: Sender,
    pub past: Past,
    lane: Rc<Lane>,
}

impl Lease {
    fn begin(lane: &Rc<Lane>, past: Past) -> Lease {
        lane.streams.set(lane.streams.get() + 1);
        Lease {
            sender: lane.sender.clone(),
            past,
            lane: lane.clone(),
        }
    }

    /// Lets the connection take no further request; those under way go on.
    pub fn retire(&self) {
        self.lane.is_retired.set(true);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lane.streams.set(self.lane.streams.get() - 1);
        self.lane.idle_since.set(Instant::now());
    }
}

/// Connections by [`crate::routing::Upstream::number`]. One that is dropped here ends with its last stream.
#[derive(Default)]
pub struct Lanes {
    shelves: ByUpstream<Shelf>,
}

#[derive(Default)]
struct Shelf {
    lanes: Vec<Rc<Lane>>,
    opening: Rc<Mutex<()>>,
}

impl Lanes {
    /// A place on the first connection that has one, so that those opened for a rush fall idle behind it.
    pub fn take(&mut self, upstream: u64, now: Instant, timeouts: &Timeouts) -> Option<Lease> {
        let shelf = self.shelves.get_mut(&upstream)?;
        shelf.lanes.retain(|lane| lane.is_usable(now, timeouts));
        let lane = shelf.lanes.iter().find(|lane| lane.has_room())?;
        Some(Lease::begin(lane, Past::Used))
    }

    /// Held by whoever opens a connection to that server, so that requests that come together share it.
    pub fn opening(&mut self, upstream: u64) -> Rc<Mutex<()>> {
        self.shelves.entry(upstream).or_default().opening.clone()
    }

    /// Keeps a fresh connection, and takes its first place.
    pub fn put(&mut self, upstream: u64, sender: Sender, now: Instant, cap: usize) -> Lease {
        let lane = Rc::new(Lane {
            sender,
            opened: now,
            idle_since: Cell::new(now),
            streams: Cell::new(0),
            is_retired: Cell::new(false),
            cap,
        });
        let lease = Lease::begin(&lane, Past::New);
        self.shelves.entry(upstream).or_default().lanes.push(lane);
        lease
    }

    /// Connections without a request.
    pub fn idle(&self) -> usize {
        let lanes = self.shelves.values().flat_map(|shelf| &shelf.lanes);
        lanes.filter(|lane| lane.streams.get() == 0).count()
    }

    /// Ends what is too old, idle for too long, closed by its server, or idle beyond the caps for its server and for the worker.
    pub fn sweep(&mut self, now: Instant, timeouts: &Timeouts, total: usize) {
        let mut idle_in_all = 0;
        self.shelves.retain(|_, shelf| {
            let mut idle = 0;
            shelf.lanes.retain(|lane| {
                if !lane.is_usable(now, timeouts) {
                    return false;
                }
                if lane.streams.get() > 0 {
                    return true;
                }
                idle += 1;
                idle_in_all += 1;
                idle <= lane.cap && idle_in_all <= total
            });
            !shelf.lanes.is_empty() || Rc::strong_count(&shelf.opening) > 1
        });
    }

    pub fn clear(&mut self) {
        self.shelves.clear();
    }
}

/// The head that [`crate::proxy::plan::prepare`] wrote, as HTTP/2 has it. `te: trailers` is always said: rota relays them,
/// and gRPC's servers ask for it. `authority` stands in where an HTTP/1.0 client named no host.
pub fn request_of(
    written: &[u8],
    scheme: &'static str,
    authority: &str,
) -> Result<Request<()>, &'static str> {
    const MALFORMED: &str = "the request can't be said in http/2";
    let mut space = vec![httparse::EMPTY_HEADER; MAX_HEAD_FIELDS + ADDED_FIELDS];
    let mut parsed = httparse::Request::new(&mut space);
    parsed.parse(written).map_err(|_| MALFORMED)?;
    let mut fields = HeaderMap::with_capacity(parsed.headers.len() + 1);
    let mut host: &[u8] = &[];
    for field in parsed.headers.iter() {
        match known(field.name) {
            Known::Host => host = field.value,
            Known::Connection | Known::TransferEncoding | Known::Upgrade | Known::HopByHop => {}
            _ => {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MALFORMED)?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| MALFORMED)?;
                fields.append(name, value);
            }
        }
    }
    fields.insert(TE, HeaderValue::from_static("trailers"));
    let uri = Uri::builder().scheme(scheme);
    let uri = match host {
        b"" => uri.authority(authority),
        host => uri.authority(host),
    };
    let uri = uri.path_and_query(parsed.path.unwrap_or("/")).build();
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(parsed.method.unwrap_or("").as_bytes()).map_err(|_| MALFORMED)?;
    *request.uri_mut() = uri.map_err(|_| MALFORMED)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(request)
}

/// The trailer fields that may be passed on.
pub fn trailers_of(fields: &[Header<'_>]) -> HeaderMap {
    let allowed = fields.iter().filter(|field| is_trailer(field.name));
    fields_of(&allowed.copied().collect::<Vec<_>>())
}

/// The same fields as the rest of the data plane sees them.
pub fn headers_of(fields: &HeaderMap) -> Vec<Header<'_>> {
    let pairs = fields.iter().map(|(name, value)| Header {
        name: name.as_str(),
        value: value.as_bytes(),
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_head_is_said_in_http2() {
        let written = b"POST /a?b=%20c HTTP/1.1\r\nHost: Shop.test:8080\r\nX-Twice: 1\r\nX-Twice: 2\r\nTransfer-Encoding: chunked\r\n\r\n";
        let request = request_of(written, "http", "127.0.0.1:1").unwrap();
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri(), "http://Shop.test:8080/a?b=%20c");
        let fields = request.headers();
        assert_eq!(fields.get_all("x-twice").iter().count(), 2);
        assert_eq!(fields["te"], "trailers");
        assert!(!fields.contains_key("host") && !fields.contains_key("transfer-encoding"));
    }

    #[test]
    fn a_request_without_a_host_names_the_server() {
        let written = b"OPTIONS * HTTP/1.1\r\nHost: \r\nContent-Length: 3\r\n\r\n";
        let request = request_of(written, "https", "127.0.0.1:1").unwrap();
        assert_eq!(request.uri().authority().unwrap(), "127.0.0.1:1");
        assert_eq!(request.uri().path(), "*");
        assert_eq!(request.headers()["content-length"], "3");
    }
}
