//! A message as hyper reads it, over a connection in memory that is polled by hand: no runtime, no clock, the same each time.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{HeaderMap, Request, Response, Version};

use super::{Asked, Fields, Message, NEXT_ANSWER, Next, Reads, sizes};

/// Polls without an end in sight, before a connection counts as waiting for more.
const POLLS: usize = 256;

/// hyper's end of a connection: reads what the other side gave, in pieces of the sizes; what it writes is dropped.
#[derive(Clone)]
struct Pipe(Rc<RefCell<Given>>);

struct Given {
    bytes: Vec<u8>,
    read: usize,
    is_ended: bool,
    sizes: Box<dyn Iterator<Item = usize>>,
}

impl Pipe {
    fn new(reads: Reads) -> Pipe {
        Pipe(Rc::new(RefCell::new(Given {
            bytes: Vec::new(),
            read: 0,
            is_ended: false,
            sizes: Box::new(sizes(reads)),
        })))
    }

    fn give(&self, bytes: &[u8]) {
        self.0.borrow_mut().bytes.extend_from_slice(bytes);
    }

    fn end(&self) {
        self.0.borrow_mut().is_ended = true;
    }
}

impl Read for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut given = self.0.borrow_mut();
        let left = given.bytes.len() - given.read;
        if left == 0 {
            return match given.is_ended {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
        }
        let size = given.sizes.next().expect("sizes go on");
        let count = size.min(left).min(into.remaining());
        let from = given.read;
        into.put_slice(&given.bytes[from..from + count]);
        given.read += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that hyper's server takes from a connection: those whose bodies came whole.
pub(super) fn requests(sent: &[u8], reads: Reads) -> Vec<Message> {
    let pipe = Pipe::new(reads);
    pipe.give(sent);
    pipe.end();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let uri = &parts.uri;
                let query = uri
                    .query()
                    .map_or(String::new(), |query| format!("?{query}"));
                seen.borrow_mut().push(Message {
                    start: format!("{} {}{query}", parts.method, uri.path()),
                    authority: uri.authority().map(|authority| authority.to_string()),
                    minor_version: minor(parts.version),
                    fields: collect(&parts.headers),
                    trailers: body.trailers().map(collect).unwrap_or_default(),
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(pipe, service);
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    // It wakes itself between messages and after many reads: each poll moves on.
    for _ in 0..sent.len() + POLLS {
        if connection.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    seen.take()
}

/// The answer that hyper's client takes from a connection, and whether it takes another one behind it. None: it refuses, or waits.
pub(super) fn answer(
    sent: &[u8],
    asked: Asked,
    next: Next,
    reads: Reads,
) -> Option<(Message, bool)> {
    let pipe = Pipe::new(reads);
    let handshake = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(pipe.clone());
    let mut handshake = pin!(handshake);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok((mut sender, connection))) = handshake.as_mut().poll(&mut context) else {
        panic!("a connection needs no answer to open");
    };
    let mut connection = pin!(connection);
    let mut response = pin!(sender.send_request(request_for(asked)));
    let polls = sent.len() + POLLS;
    // The request goes out before its answer comes.
    let early = drive(connection.as_mut(), response.as_mut(), 2);
    assert!(early.is_none(), "nothing was answered yet");
    pipe.give(sent);
    if next == Next::Ended {
        pipe.end();
    }
    let response = drive(connection.as_mut(), response, polls)?.ok()?;
    let (parts, body) = response.into_parts();
    let body = drive(connection.as_mut(), pin!(body.collect()), polls)?.ok()?;
    let phrase = parts.extensions.get::<hyper::ext::ReasonPhrase>();
    let phrase = match phrase {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => parts.status.canonical_reason().unwrap_or("").to_owned(),
    };
    let message = Message {
        start: format!("{} {phrase}", parts.status.as_u16()),
        authority: None,
        minor_version: minor(parts.version),
        fields: collect(&parts.headers),
        trailers: body.trailers().map(collect).unwrap_or_default(),
        body: body.to_bytes().to_vec(),
    };
    if next != Next::Message {
        return Some((message, false));
    }
    let is_ready = matches!(
        drive(connection.as_mut(), pin!(sender.ready()), polls),
        Some(Ok(()))
    );
    if !is_ready {
        return Some((message, false));
    }
    let mut second = pin!(sender.send_request(request_for(Asked::Get)));
    let early = drive(connection.as_mut(), second.as_mut(), 2);
    pipe.give(NEXT_ANSWER);
    let second = early.or_else(|| drive(connection, second, polls));
    let goes_on = matches!(second, Some(Ok(answer)) if answer.status().as_u16() == 299);
    Some((message, goes_on))
}

fn request_for(asked: Asked) -> Request<Empty<Bytes>> {
    let method = match asked {
        Asked::Get => "GET",
        Asked::Head => "HEAD",
    };
    Request::builder()
        .method(method)
        .uri("/")
        .header("host", "a")
        .body(Empty::new())
        .expect("a plain request")
}

/// Polls a connection and what waits for it, in turns. None: it still waits.
fn drive<C: Future, F: Future>(
    mut connection: Pin<&mut C>,
    mut waiting: Pin<&mut F>,
    polls: usize,
) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    let mut is_open = true;
    for _ in 0..polls {
        if let Poll::Ready(output) = waiting.as_mut().poll(&mut context) {
            return Some(output);
        }
        if is_open {
            is_open = connection.as_mut().poll(&mut context).is_pending();
        } else {
            return match waiting.as_mut().poll(&mut context) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            };
        }
    }
    None
}

fn collect(headers: &HeaderMap) -> Fields {
    let mut all = Fields::new();
    for (name, value) in headers {
        let values = all.entry(name.as_str().to_owned()).or_default();
        values.push(value.as_bytes().to_vec());
    }
    all
}

fn minor(version: Version) -> u8 {
    match version {
        Version::HTTP_10 => 0,
        Version::HTTP_11 => 1,
        other => panic!("{other:?} in HTTP/1"),
    }
}
