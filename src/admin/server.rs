//! Serves the admin API on the control runtime: connections within their limits, requests to their answers.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use self::staging::StagingVerb;
use super::access::{Refusal, Via, check_change, check_reading};
use super::canary::CanaryStatus;
use super::listener::{AdminListener, SocketFile};
use super::orders::{self, CertificateVerb, Verb};
use super::shift::{self, ShiftRequest};
use super::state::{State, missing};
use super::{page, views, why};
use crate::drain::Phase;
use crate::telemetry::{busy, metrics};

/// Connections at once; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 64;
/// A request's head; 431 beyond.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// A request's body; 413 beyond.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// A head that takes longer, and a connection idle for longer, is closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that takes longer: 408.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// An order that takes longer: 503; it may yet be carried out.
pub const ORDER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is closed at this age, whatever it does: nobody holds a place by reading slowly.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// How long accepting rests after it failed (no descriptors).
const ACCEPT_REST: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// Serves until the gate is at `Stopped` or the task is aborted, when a Unix socket's file is removed, and keeps `rota_worker_busy_ratio` up to date meanwhile. To be called
/// within the control runtime; the error is the listener's.
pub fn start(state: Arc<State>, listener: AdminListener) -> io::Result<JoinHandle<()>> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let listener = match listener {
        AdminListener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            Listening::Tcp(TcpListener::from_std(listener)?)
        }
        AdminListener::Unix(file, listener) => {
            listener.set_nonblocking(true)?;
            Listening::Unix {
                _file: file,
                listener: UnixListener::from_std(listener)?,
            }
        }
    };
    Ok(tokio::spawn(async move {
        let mut gate = state.gate.clone();
        tokio::select! {
            () = gate.reached(Phase::Stopped) => {}
            () = accept(&state, &listener, &places) => {}
            () = sample_busy(&state) => {}
        }
    }))
}

enum Listening {
    Tcp(TcpListener),
    Unix {
        /// Dropped before the listener.
        _file: SocketFile,
        listener: UnixListener,
    },
}

async fn sample_busy(state: &State) {
    let mut sampler = busy::Sampler::new(&state.vitals, Instant::now());
    loop {
        tokio::time::sleep(busy::WINDOW).await;
        sampler.sample(&state.vitals, Instant::now());
    }
}

async fn accept(state: &Arc<State>, listener: &Listening, places: &Arc<Semaphore>) {
    loop {
        let place = places.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let accepted = match listener {
            Listening::Tcp(listener) => listener.accept().await.and_then(|(stream, peer)| {
                let local = stream.local_addr()?;
                let via = Via::Tcp { peer, local };
                tokio::spawn(serve(state.clone(), stream, via, place));
                Ok(())
            }),
            Listening::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(serve(state.clone(), stream, Via::Unix, place));
            }),
        };
        if accepted.is_err() {
            tokio::time::sleep(ACCEPT_REST).await;
        }
    }
}

async fn serve<S>(state: Arc<State>, stream: S, via: Via, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (state, via) = (state.clone(), via.clone());
        async move { Ok::<_, Infallible>(answer(state, via, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    // How a connection ends is its client's business.
    let _ = tokio::time::timeout(MAX_CONNECTION_AGE, connection).await;
    drop(place);
}

async fn answer(state: Arc<State>, via: Via, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let answered = match check_reading(&via, &head) {
        Ok(()) => dispatch(state, &via, head, body).await,
        Err(refusal) => Err(refusal),
    };
    let mut answer = answered.unwrap_or_else(|refusal| refused(&refusal));
    let fields = answer.headers_mut();
    let fixed = HeaderValue::from_static;
    fields.insert(CACHE_CONTROL, fixed("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    fields.insert(
        CONTENT_SECURITY_POLICY,
        fixed(page::CONTENT_SECURITY_POLICY),
    );
    answer
}

async fn dispatch(
    state: Arc<State>,
    via: &Via,
    head: Parts,
    body: Incoming,
) -> Result<Answer, Refusal> {
    let verb = match head.uri.path() {
        "/v1/drain" => Some(Change::Rota(Verb::Drain)),
        "/v1/undrain" => Some(Change::Rota(Verb::Undrain)),
        "/v1/shift" => Some(Change::Shift),
        "/v1/accept" => Some(Change::Rota(Verb::Accept)),
        "/v1/certificates/renew" => Some(Change::Certificates(CertificateVerb::Renew)),
        "/v1/certificates/revoke" => Some(Change::Certificates(CertificateVerb::Revoke)),
        "/v1/certificates/rekey" => Some(Change::Certificates(CertificateVerb::Rekey)),
        _ => None,
    };
    let staging = StagingVerb::of(head.uri.path());
    let is_post = verb.is_some() || staging.is_some();
    let allowed = if is_post { "POST" } else { "GET, HEAD" };
    if head.uri.path() == "/v1/history" && matches!(head.method, Method::GET | Method::HEAD) {
        return staging::history(&state, via).await;
    }
    if head.uri.path() == "/v1/canary" && matches!(head.method, Method::GET | Method::HEAD) {
        return staging::canary(&state, via).await;
    }
    if let (&Method::POST, Some(verb)) = (&head.method, staging) {
        return staging::answer(state, via, head, body, verb).await;
    }
    match (&head.method, verb) {
        (&Method::POST, Some(verb)) => change(state, via, head, body, verb).await,
        (&Method::GET | &Method::HEAD, None) if !is_post => {
            // Rendering can take milliseconds with thousands of servers: no watch and no probe waits for it.
            tokio::task::spawn_blocking(move || read(&state, &head))
                .await
                .unwrap_or_else(|_| {
                    let message = "the answer could not be made";
                    Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message))
                })
        }
        _ => {
            let message = format!("allowed here: {allowed}");
            let mut answer = refused(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(allowed));
            Ok(answer)
        }
    }
}

fn read(state: &State, head: &Parts) -> Result<Answer, Refusal> {
    let snapshot = state.table.full();
    let now = state.vitals.now();
    let all_services = || -> Vec<views::ServiceView> {
        let services = snapshot.services.values();
        services
            .map(|service| views::service(service, now))
            .collect()
    };
    match head.uri.path() {
        "/" => {
            let status = views::status(state, &snapshot, now);
            let page = page::render(&status, &all_services());
            Ok(with_type(StatusCode::OK, "text/html; charset=utf-8", page))
        }
        "/metrics" => {
            let rows = (state.certificates)();
            let ends = rows.into_iter().map(|row| (row.domain, row.not_after));
            let text = metrics::render(&snapshot, ends, &state.vitals);
            Ok(with_type(StatusCode::OK, metrics::CONTENT_TYPE, text))
        }
        "/healthz" => Ok(plain(StatusCode::OK, "alive\n".into())),
        "/readyz" => Ok(readiness(missing(&snapshot, state.gate.phase()))),
        "/v1/status" => Ok(json(&views::status(state, &snapshot, now))),
        "/v1/services" => Ok(json(&all_services())),
        "/v1/routes" => Ok(json(&views::routes(&snapshot))),
        "/v1/fleet" => Ok(json(&(state.fleet)())),
        "/v1/certificates" => Ok(json(&(state.certificates)())),
        "/v1/why" => {
            let question = question(head.uri.query().unwrap_or_default())?;
            Ok(json(&why::Explained {
                canary: CanaryStatus::of(&snapshot, now),
                ..why::explain_live(&snapshot, &state.vitals, &question, now)
            }))
        }
        path => {
            let named = path.strip_prefix("/v1/services/");
            match named.and_then(|name| snapshot.services.get(name)) {
                Some(service) => Ok(json(&views::service(service, now))),
                None => Err(Refusal::new(
                    StatusCode::NOT_FOUND,
                    "there is no such thing here",
                )),
            }
        }
    }
}

fn readiness(missing: Vec<String>) -> Answer {
    if missing.is_empty() {
        return plain(StatusCode::OK, "ready\n".into());
    }
    let lines = missing.iter().map(|what| format!("{what}\n")).collect();
    plain(StatusCode::SERVICE_UNAVAILABLE, lines)
}

/// The query's `q`, decoded as forms write it (`+` is a space).
fn question(query: &str) -> Result<String, Refusal> {
    let bad = |message| Refusal::new(StatusCode::BAD_REQUEST, message);
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("q="))
        .ok_or_else(|| {
            bad("/v1/why needs ?q=, with a service, a server, a host, a URL or a request's id")
        })?;
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        (rest, _) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| (*byte as char).to_digit(16);
                let pair = digit(high).zip(digit(low));
                let (high, low) = pair.ok_or_else(|| bad("q holds a malformed escape"))?;
                (after, decoded.push((high * 16 + low) as u8))
            }
            (b'%', _) => return Err(bad("q holds a malformed escape")),
            (b'+', after) => (after, decoded.push(b' ')),
            (byte, after) => (after, decoded.push(*byte)),
        };
    }
    String::from_utf8(decoded).map_err(|_| bad("q is no UTF-8"))
}

/// What a POST asks for.
#[derive(Clone, Copy)]
enum Change {
    Rota(Verb),
    Shift,
    Certificates(CertificateVerb),
}

async fn change(
    state: Arc<State>,
    via: &Via,
    head: Parts,
    body: Incoming,
    change: Change,
) -> Result<Answer, Refusal> {
    may_change(state.clone(), via.clone(), head).await?;
    let body = whole(body, MAX_BODY_BYTES, BODY_TIMEOUT).await?;
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let malformed = |error: serde_json::Error| bad(error.to_string());
    let (carried, said) = match change {
        Change::Rota(verb) => {
            let request: orders::Request = serde_json::from_slice(&body).map_err(malformed)?;
            let order = request.into_order(verb).map_err(bad)?;
            let said = orders::described(&order);
            (state.control.order(order), said)
        }
        Change::Shift => {
            let request: ShiftRequest = serde_json::from_slice(&body).map_err(malformed)?;
            let order = request.into_order().map_err(bad)?;
            let said = shift::described(&order);
            (state.control.shift(order), said)
        }
        Change::Certificates(verb) => {
            let request: orders::CertificateRequest =
                serde_json::from_slice(&body).map_err(malformed)?;
            let (order, said) = request.into_order(verb).map_err(bad)?;
            (state.control.order_certificate(order), said)
        }
    };
    let said = format!("{said} from {}", caller(via));
    let carried = tokio::time::timeout(ORDER_TIMEOUT, carried).await;
    match carried {
        Ok(Ok(message)) => {
            tracing::info!("{said}: {message}");
            Ok(json(&serde_json::json!({ "message": message })))
        }
        Ok(Err(error)) => {
            tracing::warn!("{said}: not carried out: {error}");
            Err(orders::refusal(&error))
        }
        Err(_) => {
            tracing::warn!("{said}: no word within {ORDER_TIMEOUT:?}");
            let message = "the order was given, but nobody said in time that it was carried out";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message))
        }
    }
}

async fn may_change(state: Arc<State>, via: Via, head: Parts) -> Result<(), Refusal> {
    let who = caller(&via);
    let checked = tokio::task::spawn_blocking(move || {
        let checked = check_change(&via, &head, state.token.as_ref());
        (checked, head.uri.path().to_owned())
    });
    let Ok((checked, path)) = checked.await else {
        let message = "the token could not be checked";
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    checked.inspect_err(|refusal| {
        tracing::warn!("{path} refused to {who}: {}", refusal.message);
    })
}

async fn whole(body: Incoming, limit: usize, patience: Duration) -> Result<Bytes, Refusal> {
    let reading = Limited::new(body, limit).collect();
    match tokio::time::timeout(patience, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("a body is at most {limit} bytes here");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(error)) => Err(Refusal::new(StatusCode::BAD_REQUEST, error.to_string())),
        Err(_) => {
            let message = "the body came too slowly";
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

fn caller(via: &Via) -> String {
    match via {
        Via::Tcp { peer, .. } => peer.to_string(),
        Via::Unix => "the unix socket".to_owned(),
    }
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn plain(status: StatusCode, body: String) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn json(value: &impl Serialize) -> Answer {
    json_with(StatusCode::OK, value)
}

fn json_with(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut body = serde_json::to_string(value).expect("views have text keys alone");
    body.push('\n');
    with_type(status, "application/json", body)
}

fn refused(refusal: &Refusal) -> Answer {
    let body = serde_json::json!({ "error": refusal.message });
    let mut answer = json_with(refusal.status, &body);
    if refusal.status == StatusCode::UNAUTHORIZED {
        let fields = answer.headers_mut();
        fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

mod staging;

#[cfg(test)]
mod tests;
