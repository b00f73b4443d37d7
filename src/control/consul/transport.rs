//! HTTP/1.1 to the agent over our own connections: carries the requests that rustify's endpoints build.
//!
//! Every request has a deadline and a limit on its answer, given by the middleware as [`Terms`]. A connection carries one
//! request at a time (a long poll keeps its own for as long as it hangs) and is kept afterwards for the next one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::error::ConsulError;
use crate::dial::{self, Stream};

/// Opening a connection, name resolution and TLS included. A SYN lost while the agent restarts is repeated after 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes sent that the agent's host does not acknowledge for so long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// A silent connection is probed after so long, and again each [`KEEPALIVE_INTERVAL`]: a host that vanished is noticed.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// What is read at once of an answer; its head has to fit. Each watch has a connection, which keeps what it has grown to: by itself hyper
/// goes on to 400 KiB.
const READ_BUFFER: usize = 64 * 1024;
/// Idle connections kept; further ones are closed after use.
const IDLE_CONNECTIONS: usize = 32;
/// An idle connection older than this is not used again.
const IDLE_AGE: Duration = Duration::from_secs(30);

/// How one request may be carried; the middleware puts it among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// From now to the last byte of the answer.
    pub deadline: Duration,
    /// Bytes of an answer; a longer one is an error.
    pub body_limit: usize,
    pub missing: Missing,
}

/// What a 404 that carries an index means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// An error like any other status.
    IsAnError,
    /// An empty list: KV says so of a prefix without keys, and the index is one to wait on.
    IsAnEmptyList,
}

/// A way to one agent; cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Agent>);

struct Agent {
    /// `http://host:port`, without a slash at its end.
    base: String,
    host: String,
    port: u16,
    tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
    idle: Mutex<VecDeque<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection; its task ends with it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Transport {
    /// `address` is `http://` or `https://` and an authority; `tls` is used by the latter.
    pub fn new(
        address: &str,
        tls: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, String>,
    ) -> Result<Transport, String> {
        let wrong = |what: &str| format!("consul address {address:?}: {what}");
        let uri: http::Uri = address
            .trim_end_matches('/')
            .parse()
            .map_err(|_| wrong("is no url"))?;
        let host = uri.host().ok_or_else(|| wrong("names no host"))?;
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let (tls, usual_port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let name = ServerName::try_from(bare.clone())
                    .map_err(|_| wrong("no certificate can be valid for this host"))?;
                (Some((tls()?, name)), 443)
            }
            _ => return Err(wrong("begins with neither http:// nor https://")),
        };
        let port = uri.port_u16().unwrap_or(usual_port);
        Ok(Transport(Arc::new(Agent {
            base: format!("{}://{host}:{port}", uri.scheme_str().unwrap_or("http")),
            host: bare,
            port,
            tls,
            idle: Mutex::default(),
        })))
    }

    /// `http://host:port`: what requests are built upon.
    pub fn base(&self) -> &str {
        &self.0.base
    }

    /// The answer, whatever its status, whole and by the deadline of the request's [`Terms`].
    pub async fn send(
        &self,
        request: &http_02::Request<Vec<u8>>,
    ) -> Result<http_02::Response<Vec<u8>>, ConsulError> {
        let terms = *request
            .extensions()
            .get::<Terms>()
            .expect("the middleware puts the terms into each request");
        tokio::time::timeout(terms.deadline, self.carry(request, terms))
            .await
            .unwrap_or(Err(ConsulError::TimedOut))
    }

    async fn carry(
        &self,
        request: &http_02::Request<Vec<u8>>,
        terms: Terms,
    ) -> Result<http_02::Response<Vec<u8>>, ConsulError> {
        // A kept connection may have been closed by the agent while it was idle: that is no news about the agent, and a question
        // is asked again on a new one. A change is not (it may have been taken), so it begins with a new one.
        let kept = match request.method() == http_02::Method::GET {
            true => self.take_idle(),
            false => None,
        };
        if let Some(connection) = kept {
            match self.exchange(connection, request, terms).await {
                Err(ConsulError::Unreachable(_)) => {}
                result => return result,
            }
        }
        self.exchange(self.open().await?, request, terms).await
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: &http_02::Request<Vec<u8>>,
        terms: Terms,
    ) -> Result<http_02::Response<Vec<u8>>, ConsulError> {
        let broken = |error: hyper::Error| ConsulError::Unreachable(with_causes(&error));
        connection.sender.ready().await.map_err(broken)?;
        let answer = connection
            .sender
            .send_request(self.outgoing(request)?)
            .await
            .map_err(broken)?;
        let (head, mut body) = answer.into_parts();
        let mut content = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            if content.len() + bytes.len() > terms.body_limit {
                return Err(ConsulError::TooLong(terms.body_limit));
            }
            content.extend_from_slice(&bytes);
        }
        self.keep(connection);
        Ok(incoming(&head, content, terms.missing))
    }

    fn outgoing(
        &self,
        request: &http_02::Request<Vec<u8>>,
    ) -> Result<http::Request<Full<Bytes>>, ConsulError> {
        let target = request
            .uri()
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let mut outgoing = http::Request::builder()
            .method(request.method().as_str())
            .uri(target)
            .header(
                http::header::HOST,
                format!("{}:{}", self.0.host_of_url(), self.0.port),
            )
            .header(http::header::USER_AGENT, "rota");
        for (name, value) in request.headers() {
            let mut copy = http::HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| ConsulError::Local(format!("{name}: not a header's value")))?;
            copy.set_sensitive(value.is_sensitive());
            outgoing = outgoing.header(name.as_str(), copy);
        }
        outgoing
            .body(Full::new(Bytes::copy_from_slice(request.body())))
            .map_err(|error| ConsulError::Local(error.to_string()))
    }

    async fn open(&self) -> Result<Connection, ConsulError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let stream = tokio::time::timeout_at(deadline, self.dial(deadline))
            .await
            .map_err(|_| ConsulError::Unreachable("connecting took too long".into()))??;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConsulError::Unreachable(with_causes(&error)))?;
        let driver = tokio::spawn(driver).abort_handle();
        Ok(Connection { sender, driver })
    }

    /// The first of the host's addresses that accepts.
    async fn dial(&self, deadline: Instant) -> Result<Stream, ConsulError> {
        let Agent {
            host, port, tls, ..
        } = &*self.0;
        let named = |what: String| ConsulError::Unreachable(format!("{host}:{port}: {what}"));
        let addresses = tokio::net::lookup_host((host.as_str(), *port))
            .await
            .map_err(|error| named(error.to_string()))?;
        let mut last = named("the name has no address".into());
        for address in addresses {
            let tls = tls.as_ref().map(|(config, name)| (config, name.clone()));
            match dial::connect(address, tls, deadline).await {
                Ok(stream) => {
                    guard_against_silence(&stream).map_err(|error| named(error.to_string()))?;
                    return Ok(stream);
                }
                Err(error) => last = named(error.to_string()),
            }
        }
        Err(last)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.0.idle.lock().expect("no panic while held");
        idle.retain(|kept| !kept.connection.sender.is_closed() && kept.since.elapsed() < IDLE_AGE);
        idle.pop_back().map(|kept| kept.connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.0.idle.lock().expect("no panic while held");
        if idle.len() >= IDLE_CONNECTIONS {
            idle.pop_front();
        }
        idle.push_back(Idle {
            connection,
            since: Instant::now(),
        });
    }
}

impl Agent {
    fn host_of_url(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }
}

/// Back into the terms of rustify, with the index of a missing prefix saved from being thrown away with its 404.
fn incoming(
    head: &http::response::Parts,
    mut content: Vec<u8>,
    missing: Missing,
) -> http_02::Response<Vec<u8>> {
    let mut status = head.status.as_u16();
    let has_index = head.headers.contains_key("x-consul-index");
    if status == 404 && has_index && missing == Missing::IsAnEmptyList {
        status = 200;
        content = b"[]".to_vec();
    }
    let mut answer = http_02::Response::new(content);
    *answer.status_mut() =
        http_02::StatusCode::from_u16(status).expect("the same number was a status before");
    for (name, value) in &head.headers {
        let name = http_02::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = http_02::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}

fn guard_against_silence(stream: &Stream) -> std::io::Result<()> {
    let socket = SockRef::from(stream.tcp());
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_INTERVAL),
    )
}

/// hyper's own message says only which step broke.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
