//! HTTP/2 from clients: framing by h2, one task a stream, the same story as HTTP/1. Hot path.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection, SendResponse};
use http::Request;
use tokio::time::Instant;

use self::conduct::{Conduct, Working};
use self::heads::Heads;
use self::meter::{Budget, Metered};
use self::outflow::Outflow;
use self::sink::StreamSink;
use self::source::StreamSource;
use super::answer::{Then, refusal_fields};
use super::exchange::{Sink, Source};
use super::http1::head::Version;
use super::io::Io;
use super::linger::linger;
use super::plan::{self, Facts, Peer, Plan, Prepared};
use super::refusal::Refusal;
use super::scratch::Scratch;
use super::story;
use super::timer::Timer;
use super::under_way::UnderWay;
use super::worker::{Watched, Worker};
use crate::dial::Stream;
use crate::drain::Phase;
use crate::routing::{Client, Limits};
use crate::telemetry::Reason;

mod conduct;
pub mod head;
pub mod heads;
pub mod meter;
mod outflow;
mod sink;
mod source;
pub mod upstream;

/// Streams that a client may have open at once.
pub const STREAMS: u32 = 128;
/// Body bytes that a client may send ahead, for one stream and for all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that may wait in h2 for the client, for one stream.
const SEND_BUFFER: usize = 32 * 1024;

/// Heads of streams that the client reset before they were accepted, kept by h2 until then: as many as a page may cancel in one go.
const UNACCEPTED_RESETS: usize = 100;
/// Errors that make h2 reset a stream, in a connection's life: what it holds at most for a client that reads none of them. What they
/// cost is counted here, and forgiven (`conduct`, `meter`).
const STREAM_ERRORS: usize = 10_000;
/// How long a client that was told why its connection ends may take to read it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves a connection until it ends. `deadline`: for the client's first head.
pub async fn serve(worker: Rc<Worker>, peer: Peer, stream: Stream, deadline: Instant) {
    let peer = Rc::new(peer);
    let timer = Timer::default();
    let budget = Budget::new(Instant::now(), deadline);
    let io = Rc::new(Io::new(stream));
    // Proxies that are trusted stand for many clients.
    let client = (!peer.is_trusted).then(|| Client::at(peer.address));
    let outflow = Outflow::new(&worker, client);
    let metered = Metered::new(io.clone(), budget.clone(), outflow.clone());
    let handshake = builder(&worker.table.load().limits).handshake(metered);
    let Ok(Ok(mut connection)) = timer.within(deadline, handshake).await else {
        return;
    };
    let conduct = Conduct::new(Instant::now());
    let mut idle_since = Instant::now();
    let mut is_leaving = false;
    let event = loop {
        if worker.phase.get() >= Phase::Draining && !is_leaving {
            is_leaving = true;
            connection.graceful_shutdown();
        }
        let (keep_alive, body, head) = {
            let timeouts = &worker.table.load().timeouts;
            (timeouts.keep_alive, timeouts.body, timeouts.head)
        };
        let idle_until = match is_leaving {
            false => idle_since + keep_alive,
            // It has nothing more to ask: what h2 may still hold for it is not held for long.
            true => idle_since + body.min(keep_alive),
        };
        let looks = [outflow.next_look(body), budget.heads().due(head)];
        let deadline = looks.into_iter().flatten().fold(idle_until, Instant::min);
        let state = (&*budget, &*conduct, &*outflow);
        let next = next(&mut connection, &worker, state, is_leaving);
        match timer.within(deadline, next).await {
            Ok(Event::Stream(request, respond)) => {
                idle_since = Instant::now();
                budget.heads().accepted();
                let task = serve_stream(
                    worker.clone(),
                    peer.clone(),
                    *request,
                    respond,
                    (Working::begin(&conduct), outflow.clone()),
                );
                tokio::task::spawn_local(task);
                if conduct.is_abusive() {
                    break Event::Breach(h2::Reason::ENHANCE_YOUR_CALM);
                }
            }
            Ok(Event::Drain | Event::Look) => {}
            Ok(end @ (Event::Breach(_) | Event::Calmed | Event::End)) => break end,
            Err(_) if outflow.is_stuck(Instant::now(), body, || io.acknowledged()) => {
                worker.vitals.workers[worker.id.0].stuck.add(1);
                // Nor would it take a farewell; and what the kernel holds for it goes, too.
                return io.reset_on_close();
            }
            Err(_) if budget.heads().is_late(Instant::now(), head) => {
                note_late(&worker, &peer, budget.heads());
                break Event::Breach(h2::Reason::NO_ERROR);
            }
            Err(_) if Instant::now() < idle_until => {}
            Err(_) if !conduct.is_idle() => idle_since = Instant::now(),
            Err(_) if is_leaving => break Event::End,
            Err(_) => {
                is_leaving = true;
                idle_since = Instant::now();
                connection.graceful_shutdown();
            }
        }
    };
    if matches!(
        event,
        Event::Breach(h2::Reason::ENHANCE_YOUR_CALM) | Event::Calmed
    ) {
        worker.vitals.workers[worker.id.0].calm(budget.last());
    }
    if let Event::Breach(reason) = event {
        connection.abrupt_shutdown(reason);
        let said = poll_fn(|cx| connection.poll_closed(cx));
        // Whether it was read or not: the connection ends here.
        let _ = timer.within(Instant::now() + FAREWELL, said).await;
    }
    drop(connection);
    linger(&worker, &io, &timer, CONNECTION_WINDOW as usize).await;
}

/// The limits that h2 holds clients to by itself; what it has none for is metered below it (`meter`) and above it (`conduct`).
fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(UNACCEPTED_RESETS)
        .max_local_error_reset_streams(Some(STREAM_ERRORS));
    builder
}

enum Event {
    Stream(Box<Request<RecvStream>>, SendResponse<Bytes>),
    Drain,
    /// There is a deadline more: the client's socket takes nothing now, or of a head there is a part.
    Look,
    /// The client has to be told that its connection ends, and why.
    Breach(h2::Reason),
    /// h2 told it so already.
    Calmed,
    End,
}

/// The connection's next stream, driving it meanwhile; or what else happens to it: the worker drains, the client floods.
async fn next(
    connection: &mut Connection<Metered, Bytes>,
    worker: &Worker,
    (budget, conduct, outflow): (&Budget, &Conduct, &Outflow),
    is_leaving: bool,
) -> Event {
    let was_blocked = outflow.is_blocked();
    let was_part = budget.heads().is_part();
    poll_fn(|cx| {
        let accepted = connection.poll_accept(cx);
        outflow.settle();
        if accepted.is_pending() {
            note_refused(worker, budget.heads(), conduct);
        }
        if let Some(reason) = budget.verdict() {
            return Poll::Ready(Event::Breach(reason));
        }
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => {
                Poll::Ready(Event::Stream(Box::new(request), respond))
            }
            Poll::Ready(Some(Err(error))) if is_calming(&error) => Poll::Ready(Event::Calmed),
            Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Event::End),
            Poll::Pending if !is_leaving && worker.phase.get() >= Phase::Draining => {
                Poll::Ready(Event::Drain)
            }
            Poll::Pending if conduct.is_abusive() => {
                Poll::Ready(Event::Breach(h2::Reason::ENHANCE_YOUR_CALM))
            }
            Poll::Pending if !was_blocked && outflow.is_blocked() => Poll::Ready(Event::Look),
            Poll::Pending if !was_part && budget.heads().is_part() => Poll::Ready(Event::Look),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A request that began and can't be answered, since its head never ended.
fn note_late(worker: &Worker, peer: &Peer, heads: &Heads) {
    if let Some(began) = heads.part_since() {
        worker.accepted();
        let facts = Facts::default();
        record(worker, peer, &facts, 0, Reason::ClientTimeout, began);
    }
}

/// Heads that h2 answered or reset by itself are no request of anybody's: nothing else tells of them.
fn note_refused(worker: &Worker, heads: &Heads, conduct: &Conduct) {
    let count = heads.refused();
    if count > 0 {
        let vitals = &worker.vitals.workers[worker.id.0];
        vitals.heads_refused.add(count as u64);
        conduct.abandoned(count, Instant::now());
    }
}

fn is_calming(error: &h2::Error) -> bool {
    error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
}

async fn serve_stream(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    (working, outflow): (Working, Rc<Outflow>),
) {
    let _watched = Watched::begin(&worker);
    worker.accepted();
    let began = Instant::now();
    let mut scratch = worker.scratches.take();
    let (parts, body) = request.into_parts();
    let is_head = parts.method == http::Method::HEAD;
    let mut sink = StreamSink::new(&worker, outflow, respond, worker.table.load().timeouts.body);
    let prepared = prepare(&worker, &peer, &parts, body.is_end_stream(), &mut scratch);
    // What the server gets is written down: a stream that stalls holds no fields.
    drop(parts);
    let reason = match prepared {
        // Reset with the bytes that opened it: no server is asked for nothing.
        Ok(Prepared::Carry(_)) if is_given_up(&mut sink) => {
            let facts = &scratch.facts;
            record(&worker, &peer, facts, 0, Reason::ClientAborted, began);
            Reason::ClientAborted
        }
        Ok(Prepared::Carry(plan)) => {
            carry(&worker, &peer, &plan, &mut scratch, body, &mut sink, began).await
        }
        Ok(Prepared::Redirect(location)) => {
            sink.answer(308, [("location", location)].into_iter(), None);
            record(
                &worker,
                &peer,
                &scratch.facts,
                308,
                Reason::Redirected,
                began,
            );
            Reason::Redirected
        }
        Ok(Prepared::Proof(text)) => {
            let kind = ("content-type", "text/plain".to_owned());
            sink.answer(200, [kind].into_iter(), Some(text.into()));
            record(&worker, &peer, &scratch.facts, 200, Reason::Proven, began);
            Reason::Proven
        }
        Err(refusal) => {
            // Nobody to tell if the client is gone.
            let _ = sink.refuse(refusal, is_head, Then::KeepAlive).await;
            record(
                &worker,
                &peer,
                &scratch.facts,
                refusal.status(),
                refusal.reason(),
                began,
            );
            refusal.reason()
        }
    };
    worker.scratches.give(scratch);
    working.conduct().ended(reason);
}

/// Whether a stream is over before anything was done for it.
fn is_given_up(sink: &mut StreamSink) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    sink.poll_aborted(&mut cx).is_ready()
}

fn record(
    worker: &Worker,
    peer: &Peer,
    facts: &Facts,
    status: u16,
    reason: Reason,
    began: Instant,
) {
    let mut outcome = peer.outcome(Version::H2, facts, began.elapsed());
    outcome.status = status;
    outcome.reason = reason;
    worker.record(&outcome, None);
}

async fn carry(
    worker: &Rc<Worker>,
    peer: &Peer,
    plan: &Plan,
    scratch: &mut Scratch,
    body: RecvStream,
    sink: &mut StreamSink,
    began: Instant,
) -> Reason {
    let Scratch {
        facts,
        request,
        server_timer,
        ..
    } = scratch;
    let mut under_way = UnderWay::begin(worker, peer, facts, plan, began);
    let mut source = StreamSource::new(body, plan, sink.answered()).await;
    let mut end = story::carry(
        worker,
        plan,
        request,
        began,
        server_timer,
        &mut source,
        sink,
    )
    .await;
    under_way.ended(&mut end);
    under_way.moved(source.received(), sink.sent());
    end.reason
}

/// What is to be done with a stream, and the head that the server gets.
fn prepare(
    worker: &Worker,
    peer: &Peer,
    parts: &http::request::Parts,
    is_end: bool,
    scratch: &mut Scratch,
) -> Result<Prepared, Refusal> {
    scratch.facts.clear();
    let snapshot = worker.table.load();
    let cookies = head::joined_cookies(parts)?;
    let mut list = Vec::with_capacity(parts.headers.len() + 1);
    let head = head::request(parts, is_end, &cookies, &mut list)?;
    plan::note(&mut scratch.facts, &head);
    head::check_limits(&head, &snapshot.limits)?;
    plan::prepare(
        &head,
        peer,
        &snapshot,
        &worker.certificates,
        &mut scratch.facts,
        &mut scratch.request,
    )
}

/// A text answer's fields and body.
fn refusal_text(refusal: Refusal) -> (impl Iterator<Item = (&'static str, String)>, Bytes) {
    let text = refusal.text();
    (
        refusal_fields(refusal),
        Bytes::from([text.as_bytes(), b"\n"].concat()),
    )
}
