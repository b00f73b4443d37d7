//! Probes: rota asks servers by itself whether they are well. One task a server; what it finds goes out as [`Event::Probed`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::event::Event;
use crate::config::ActiveCheck;
use crate::dial;
use crate::routing::{Protocol, ServiceName, TlsToServer, UpstreamKey};

/// How far an interval may be from the one configured, either way.
const JITTER: f64 = 0.1;
/// How long a single connection may take that decides whether a refused server comes back.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// `host` if a server has no better name.
type Body = Empty<bytes::Bytes>;

/// What to probe, and how.
#[derive(Clone, Debug)]
pub struct Spec {
    pub key: UpstreamKey,
    pub check: ActiveCheck,
    pub host_name: Option<Arc<str>>,
    pub protocol: Protocol,
}

impl Spec {
    fn is_the_same(&self, other: &Spec) -> bool {
        self.key == other.key
            && self.check == other.check
            && self.host_name == other.host_name
            && is_same_protocol(&self.protocol, &other.protocol)
    }

    fn address(&self) -> SocketAddr {
        let port = self.check.port.unwrap_or(self.key.address.port());
        SocketAddr::new(self.key.address.ip(), port)
    }

    fn tls(&self) -> Option<&TlsToServer> {
        match &self.protocol {
            Protocol::Http | Protocol::H2c => None,
            Protocol::Https(tls) | Protocol::H2(tls) => Some(tls),
        }
    }

    fn is_http2(&self) -> bool {
        match self.protocol {
            Protocol::Http | Protocol::Https(_) => false,
            Protocol::H2c | Protocol::H2(_) => true,
        }
    }

    fn authority(&self) -> String {
        let address = self.address();
        match (&self.check.host, &self.host_name) {
            (Some(host), _) => host.clone(),
            (None, Some(name)) => format!("{name}:{}", address.port()),
            (None, None) => address.to_string(),
        }
    }
}

fn is_same_protocol(one: &Protocol, other: &Protocol) -> bool {
    match (one, other) {
        (Protocol::Http, Protocol::Http) | (Protocol::H2c, Protocol::H2c) => true,
        (Protocol::Https(a), Protocol::Https(b)) | (Protocol::H2(a), Protocol::H2(b)) => {
            Arc::ptr_eq(&a.config, &b.config) && a.server_name == b.server_name
        }
        (Protocol::Http | Protocol::Https(_) | Protocol::H2c | Protocol::H2(_), _) => false,
    }
}

/// All probes that run, by service.
pub struct Probes {
    events: mpsc::Sender<Event>,
    running: HashMap<ServiceName, HashMap<SocketAddr, Running>>,
}

struct Running {
    spec: Spec,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probes {
    pub fn new(events: mpsc::Sender<Event>) -> Probes {
        Probes {
            events,
            running: HashMap::new(),
        }
    }

    /// From now on this is what is probed of a service; probes that stay the same go on undisturbed.
    pub fn want(&mut self, service: &ServiceName, specs: Vec<Spec>) {
        let mut before = self.running.remove(service).unwrap_or_default();
        let mut after = HashMap::with_capacity(specs.len());
        for spec in specs {
            let address = spec.key.address;
            let known = before
                .remove(&address)
                .filter(|running| running.spec.is_the_same(&spec));
            let running = known.unwrap_or_else(|| Running {
                task: tokio::spawn(probe_for_ever(spec.clone(), self.events.clone())),
                spec,
            });
            after.insert(address, running);
        }
        if !after.is_empty() {
            self.running.insert(service.clone(), after);
        }
    }

    /// Services that are probed now.
    pub fn services(&self) -> Vec<ServiceName> {
        self.running.keys().cloned().collect()
    }
}

async fn probe_for_ever(spec: Spec, events: mpsc::Sender<Event>) {
    loop {
        let deadline = Instant::now() + spec.check.timeout;
        let event = Event::Probed {
            key: spec.key.clone(),
            result: probe(&spec, deadline).await,
        };
        if events.send(event).await.is_err() {
            return;
        }
        let jitter = 1.0 - JITTER + 2.0 * JITTER * fastrand::f64();
        sleep(spec.check.interval.mul_f64(jitter)).await;
    }
}

/// One probe, over by its deadline. The error is its evidence.
pub async fn probe(spec: &Spec, deadline: Instant) -> Result<(), String> {
    let Some(path) = &spec.check.path else {
        return connect(spec.address(), deadline).await;
    };
    match timeout_at(deadline, ask(spec, path, deadline)).await {
        Ok(result) => judge(&spec.check, result?),
        Err(_) => Err("no answer in time".into()),
    }
}

/// A TCP connection, closed at once.
async fn connect(address: SocketAddr, deadline: Instant) -> Result<(), String> {
    match dial::connect(address, None, deadline).await {
        Ok(_) => Ok(()),
        // Ours, not the server's fault.
        Err(dial::DialError::Local(error)) => {
            tracing::warn!(%address, %error, "a probe could not be sent");
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Connects once to find out whether a server that refused takes connections again.
pub async fn try_connect(key: UpstreamKey, events: mpsc::Sender<Event>) {
    let result = connect(key.address, Instant::now() + TRIAL_TIMEOUT).await;
    // Nobody listens any more only when rota stops.
    let _ = events.send(Event::Tried { key, result }).await;
}

fn judge(check: &ActiveCheck, status: u16) -> Result<(), String> {
    let is_expected = if check.status.is_empty() {
        (200..400).contains(&status)
    } else {
        check
            .status
            .iter()
            .any(|&(first, last)| (first..=last).contains(&status))
    };
    if is_expected {
        Ok(())
    } else {
        Err(format!("HTTP {status}"))
    }
}

/// Sends a GET, gives the answer's status.
async fn ask(spec: &Spec, path: &str, deadline: Instant) -> Result<u16, String> {
    let tls = match spec.tls() {
        Some(tls) => Some((&tls.config, server_name(spec, tls)?)),
        None => None,
    };
    let stream = dial::connect(spec.address(), tls, deadline)
        .await
        .map_err(|error| error.to_string())?;
    if spec.is_http2() {
        ask_http2(stream, spec, path).await
    } else {
        ask_http1(stream, spec, path).await
    }
}

fn server_name(
    spec: &Spec,
    tls: &TlsToServer,
) -> Result<rustls::pki_types::ServerName<'static>, String> {
    match (&tls.server_name, &spec.host_name) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(name)) => dial::tls::server_name(name),
        (None, None) => dial::tls::server_name(&spec.key.address.ip().to_string()),
    }
}

fn request<B: Default>(
    spec: &Spec,
    uri: String,
    version: http::Version,
) -> Result<http::Request<B>, String> {
    let mut request = http::Request::get(uri).version(version);
    request = request.header(
        http::header::USER_AGENT,
        concat!("rota/", env!("CARGO_PKG_VERSION"), " probe"),
    );
    for (name, value) in &spec.check.headers {
        request = request.header(name, value);
    }
    request
        .body(B::default())
        .map_err(|error| format!("the probe's request: {error}"))
}

async fn ask_http1(stream: dial::Stream, spec: &Spec, path: &str) -> Result<u16, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = request::<Body>(spec, path.to_owned(), http::Version::HTTP_11)?;
    let host = http::HeaderValue::from_str(&spec.authority())
        .map_err(|error| format!("the probe's host: {error}"))?;
    request.headers_mut().insert(http::header::HOST, host);
    request.headers_mut().insert(
        http::header::CONNECTION,
        http::HeaderValue::from_static("close"),
    );
    tokio::select! {
        answer = sender.send_request(request) => {
            answer.map(|answer| answer.status().as_u16()).map_err(|error| words(&error))
        }
        // The connection ends only after the answer, or with an error that the sender has as well.
        () = async { let _ = connection.await; std::future::pending().await } => Err("closed".into()),
    }
}

async fn ask_http2(stream: dial::Stream, spec: &Spec, path: &str) -> Result<u16, String> {
    let said = |error: h2::Error| error.to_string();
    let (sender, connection) = h2::client::handshake(stream).await.map_err(said)?;
    let scheme = if spec.tls().is_some() {
        "https"
    } else {
        "http"
    };
    let uri = format!("{scheme}://{}{path}", spec.authority());
    let request = request::<()>(spec, uri, http::Version::HTTP_2)?;
    let exchange = async {
        let mut sender = sender.ready().await.map_err(said)?;
        let (answer, _) = sender.send_request(request, true).map_err(said)?;
        answer
            .await
            .map(|answer| answer.status().as_u16())
            .map_err(said)
    };
    tokio::select! {
        status = exchange => status,
        () = async { let _ = connection.await; std::future::pending().await } => Err("closed".into()),
    }
}

/// The innermost cause says most.
fn words(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
