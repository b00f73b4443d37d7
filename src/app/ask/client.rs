//! One request to the admin listener and its answer, over TCP or a Unix socket.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::admin::Address;
use crate::admin::token::Secret;

/// From connecting to the answer's end.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// The same, where documents are compared or written: longer than rota itself takes.
pub const STAGING_TIMEOUT: Duration = Duration::from_secs(100);
/// A longer answer is none of rota's.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

pub struct Question {
    method: Method,
    path: String,
    body: String,
    secret: Option<Secret>,
    patience: Duration,
}

impl Question {
    pub fn get(path: &str) -> Question {
        Question {
            method: Method::GET,
            path: path.to_owned(),
            body: String::new(),
            secret: None,
            patience: TIMEOUT,
        }
    }

    /// `body` is JSON; the secret is sent over TCP and through Unix sockets alike.
    pub fn post(path: &str, body: String, secret: Option<Secret>) -> Question {
        Question {
            method: Method::POST,
            path: path.to_owned(),
            body,
            secret,
            patience: TIMEOUT,
        }
    }

    /// As long as documents may take.
    pub fn patiently(self) -> Question {
        Question {
            patience: STAGING_TIMEOUT,
            ..self
        }
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub body: String,
}

/// Asks and waits. The error is a message that names the address.
pub fn send(to: &Address, question: &Question) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answered = runtime.block_on(async {
        tokio::time::timeout(question.patience, connect_and_exchange(to, question)).await
    });
    match answered {
        Ok(answer) => answer.map_err(|error| format!("{to}: {error}")),
        Err(_) => Err(format!("{to}: no answer within {:?}", question.patience)),
    }
}

async fn connect_and_exchange(to: &Address, question: &Question) -> Result<Answer, String> {
    let refused = |error: std::io::Error| format!("{error} (is rota running there?)");
    match to {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(refused)?;
            exchange(stream, &address.to_string(), question).await
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(refused)?;
            exchange(stream, "localhost", question).await
        }
    }
}

async fn exchange<S>(stream: S, host: &str, question: &Question) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let words = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(words)?;
    let exchanged = async {
        let request = request(host, question)?;
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(words)?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        let body = String::from_utf8(bytes.into()).map_err(|_| "the answer is no text")?;
        Ok(Answer {
            status: head.status,
            body,
        })
    };
    tokio::pin!(exchanged);
    tokio::select! {
        biased;
        answer = &mut exchanged => answer,
        // The connection may end before the answer was read to its end: what it delivered is still there.
        _ = connection => exchanged.await,
    }
}

fn request(host: &str, question: &Question) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(question.method.clone())
        .uri(&question.path)
        .header(HOST, host);
    if question.method == Method::POST {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(secret) = &question.secret {
        request = request.header(AUTHORIZATION, secret.bearer());
    }
    let body = Full::new(Bytes::from(question.body.clone()));
    request.body(body).map_err(|error| error.to_string())
}

/// Everything but RFC 3986's unreserved characters as `%XX`.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
