//! HTTP/1.1 for ACME over our own connections: every exchange has a deadline and a limit. To the CA, and to a name's own address.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use tokio::time::{Instant, timeout_at};

use super::failure::TOLD_LONGEST;
use crate::dial::{self, Stream, tls};

/// From resolving the CA's name to the last byte of its answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of an answer: a chain of certificates has some thousand.
const BODY_BYTES: usize = 256 * 1024;
/// For a name's own word that it is ours.
const PREFLIGHT_DEADLINE: Duration = Duration::from_secs(5);
const PREFLIGHT_BYTES: usize = 1024;

/// To one CA, verified.
#[derive(Clone)]
pub(super) struct Transport {
    pub(super) tls: Arc<rustls::ClientConfig>,
}

impl Transport {
    /// One exchange over a connection of its own; https alone.
    pub(super) async fn carry<B>(
        &self,
        request: Request<B>,
    ) -> Result<Response<Full<Bytes>>, Unanswered>
    where
        B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
    {
        let uri = request.uri().clone();
        if uri.scheme_str() != Some("https") {
            return Err(Unanswered::Unsent(format!("{uri}: not https")));
        }
        let deadline = Instant::now() + DEADLINE;
        let answered = exchange(request, Some(&self.tls), BODY_BYTES, deadline).await;
        let heard = match answered {
            Ok(answer) => heard(answer).await,
            Err(unanswered) => Err(unanswered),
        };
        let authority = uri.authority().map(ToString::to_string);
        heard.map_err(|error| error.named(authority.as_deref()))
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let transport = self.clone();
        Box::pin(async move {
            let answer = transport.carry(request).await;
            let answer = answer.map_err(|error| Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(answer))
        })
    }
}

/// What instant-acme would say nothing of is an error here: an answer that asks for patience, and an error without words of ACME's.
async fn heard(mut answer: Response<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Unanswered> {
    if retry_after(answer.headers()).is_some_and(|wait| wait > TOLD_LONGEST) {
        let longest = HeaderValue::from(TOLD_LONGEST.as_secs());
        answer.headers_mut().insert(header::RETRY_AFTER, longest);
    }
    if answer.status().as_u16() < 400 {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    let body = body.collect().await;
    let body = body.map_or_else(|never| match never {}, |body| body.to_bytes());
    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
    let status = head.status.as_u16();
    let may_ask = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    let told = retry_after(&head.headers).filter(|_| may_ask.contains(&head.status));
    match (told, problem) {
        (Some(wait), problem) => {
            let why = problem.map_or_else(|| format!("answered {status}"), |one| one.to_string());
            Err(Unanswered::Busy { why, wait })
        }
        (None, Some(_)) => Ok(Response::from_parts(head, Full::new(body))),
        (None, None) => Err(Unanswered::Bare {
            why: format!("answered {status}"),
            status,
        }),
    }
}

/// In seconds, as CAs write it; a date is taken for silence.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Why there is no answer that says anything, in words.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// There is no connection to send it over.
    Unsent(String),
    /// It may have arrived.
    Lost(String),
    /// The CA says to come again.
    Busy { why: String, wait: Duration },
    /// An error, and nothing but its status.
    Bare { why: String, status: u16 },
}

impl Unanswered {
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Unanswered::Unsent(_))
    }

    fn lost(error: impl fmt::Display) -> Unanswered {
        Unanswered::Lost(error.to_string())
    }

    fn named(self, authority: Option<&str>) -> Unanswered {
        let named = |why| format!("{}: {why}", authority.unwrap_or_default());
        match self {
            Unanswered::Unsent(why) => Unanswered::Unsent(named(why)),
            Unanswered::Lost(why) => Unanswered::Lost(named(why)),
            Unanswered::Busy { why, wait } => Unanswered::Busy {
                why: named(why),
                wait,
            },
            Unanswered::Bare { why, status } => Unanswered::Bare {
                why: named(why),
                status,
            },
        }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unanswered::Unsent(why) | Unanswered::Lost(why) | Unanswered::Bare { why, .. } => {
                f.write_str(why)
            }
            Unanswered::Busy { why, wait } => {
                write!(f, "{why} (asked again in {} s)", wait.as_secs())
            }
        }
    }
}

impl std::error::Error for Unanswered {}

/// What `http://HOST PATH` answers, for whoever resolves the host as this machine does. The error is in words.
pub(super) async fn fetch(host: &str, path: &str) -> Result<Vec<u8>, String> {
    let request = Request::builder()
        .uri(format!("http://{host}{path}"))
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PREFLIGHT_DEADLINE;
    let answer = exchange(request, None, PREFLIGHT_BYTES, deadline)
        .await
        .map_err(|error| error.to_string())?;
    match answer.status().as_u16() {
        200 => Ok(answer
            .into_body()
            .collect()
            .await
            .map_or_else(|never| match never {}, |body| body.to_bytes().to_vec())),
        status => Err(format!("answered {status}")),
    }
}

/// Opens a connection to `host`, at port 443 unless it names another, does the handshake, and closes. The error is in words.
pub(super) async fn shake_hands(host: &str, tls: &Arc<rustls::ClientConfig>) -> Result<(), String> {
    let uri: Uri = format!("https://{host}/")
        .parse()
        .map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let deadline = Instant::now() + PREFLIGHT_DEADLINE;
    match timeout_at(deadline, open(&uri, Some(tls), deadline)).await {
        Ok(opened) => opened.map(drop),
        Err(_) => Err("no answer in time".into()),
    }
}

async fn exchange<B>(
    request: Request<B>,
    tls: Option<&Arc<rustls::ClientConfig>>,
    limit: usize,
    deadline: Instant,
) -> Result<Response<Full<Bytes>>, Unanswered>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    timeout_at(deadline, carry(request, tls, limit, deadline))
        .await
        .unwrap_or_else(|_| Err(Unanswered::lost("no whole answer in time")))
}

async fn carry<B>(
    request: Request<B>,
    tls: Option<&Arc<rustls::ClientConfig>>,
    limit: usize,
    deadline: Instant,
) -> Result<Response<Full<Bytes>>, Unanswered>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let stream = open(request.uri(), tls, deadline)
        .await
        .map_err(Unanswered::Unsent)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Unanswered::lost)?;
    let answered = async {
        let answer = sender
            .send_request(in_origin_form(request).map_err(Unanswered::Unsent)?)
            .await
            .map_err(Unanswered::lost)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(Unanswered::lost)?.to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // The connection may end in the moment in which the answer is whole.
        _ = connection => answered.await,
    }
}

/// The first of the host's addresses that accepts.
async fn open(
    uri: &Uri,
    tls: Option<&Arc<rustls::ClientConfig>>,
    deadline: Instant,
) -> Result<Stream, String> {
    let host = uri.host().ok_or("names no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(match tls {
        Some(_) => 443,
        None => 80,
    });
    let tls = match tls {
        Some(config) => Some((config, tls::server_name(host)?)),
        None => None,
    };
    let addresses = tokio::net::lookup_host((bare, port))
        .await
        .map_err(|error| error.to_string())?;
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match dial::connect(address, tls.clone(), deadline).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

fn in_origin_form<B>(mut request: Request<B>) -> Result<Request<B>, String> {
    let uri = request.uri();
    let authority = uri.authority().ok_or("names no host")?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = Uri::try_from(target).map_err(|error| error.to_string())?;
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(status: u16, wait: &str, body: &'static str) -> Result<u16, Unanswered> {
        let answer = Response::builder()
            .status(status)
            .header("retry-after", wait)
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap();
        heard(answer).await.map(|answer| answer.status().as_u16())
    }

    const LIMITED: &str =
        "{\"type\":\"urn:ietf:params:acme:error:rateLimited\",\"detail\":\"too many\"}";

    #[tokio::test]
    async fn a_ca_that_asks_for_patience_is_heard_in_seconds() {
        for (status, body, why) in [
            (429, LIMITED, "API error: too many"),
            (503, "<html>", "answered 503"),
        ] {
            let Err(Unanswered::Busy { why: said, wait }) = of(status, " 120", body).await else {
                panic!("{status}")
            };
            assert_eq!(wait, Duration::from_secs(120));
            assert!(said.starts_with(why), "{said}");
        }
        // Of any other answer it means something else.
        assert_eq!(of(200, "3", "").await.unwrap(), 200);
        assert_eq!(of(400, "3", LIMITED).await.unwrap(), 400);
        // instant-acme adds what it is told to the present moment.
        let endless = u64::MAX.to_string();
        let answer = Response::builder().header("retry-after", &endless);
        let answer = heard(answer.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(retry_after(answer.headers()), Some(TOLD_LONGEST));
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        assert_eq!(of(429, date, LIMITED).await.unwrap(), 429);
    }

    #[tokio::test]
    async fn an_error_without_words_of_acme_is_told_by_its_status() {
        for body in ["", "<html>bad gateway</html>"] {
            let error = of(502, "", body).await.unwrap_err();
            let error = error.named(Some("ca.test"));
            assert_eq!(error.to_string(), "ca.test: answered 502");
        }
    }
}
