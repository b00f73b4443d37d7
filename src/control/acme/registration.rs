//! How an account comes to be at a CA: a key that is there already, whom the CA may write to, and whose customer it is.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use serde_json::json;

use super::failure::Failure;
use super::jose::{AccountKey, Binding};
use super::problem::{self, cut, of_unanswered};
use super::transport::{Transport, Unanswered};

/// A CA may refuse a nonce at will; each refusal brings another.
const NONCES: usize = 5;

/// What of a directory an account needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    external_account_required: bool,
}

/// Who wants an account.
pub(super) struct Applicant<'a> {
    pub(super) key: &'a AccountKey,
    pub(super) contact: &'a [String],
    pub(super) binding: Option<&'a Binding>,
}

/// Makes the account at a directory, or finds the one that this key has there already; gives its URL.
pub(super) async fn register(
    transport: &Transport,
    directory: &str,
    applicant: &Applicant<'_>,
) -> Result<String, Failure> {
    let found = read_directory(transport, directory).await?;
    if found.meta.external_account_required && applicant.binding.is_none() {
        return Err(Failure::Settings(format!(
            "{directory}: takes no account without external account binding: set eab"
        )));
    }
    let mut nonce = fresh_nonce(transport, &found.new_nonce).await?;
    for _ in 1..NONCES {
        match apply(transport, &found.new_account, &nonce, applicant).await? {
            Applied::Account(url) => return Ok(url),
            Applied::AnotherNonce(another) => nonce = another,
        }
    }
    Err(Failure::Faltered(format!(
        "{directory}: refused {NONCES} nonces of its own"
    )))
}

async fn read_directory(transport: &Transport, url: &str) -> Result<Directory, Failure> {
    let answer = transport
        .carry(request(Method::GET, url, String::new())?)
        .await;
    let answer = answer.map_err(unreached)?;
    if answer.status() != StatusCode::OK {
        let status = answer.status().as_u16();
        return Err(Failure::Unreached(format!("{url}: answered {status}")));
    }
    serde_json::from_slice(&body(answer).await)
        .map_err(|error| Failure::Unreached(cut(format!("{url}: not a directory: {error}"))))
}

async fn fresh_nonce(transport: &Transport, url: &str) -> Result<String, Failure> {
    let answer = transport
        .carry(request(Method::HEAD, url, String::new())?)
        .await;
    let answer = answer.map_err(unreached)?;
    nonce_of(&answer).ok_or_else(|| Failure::Unreached(cut(format!("{url}: gave no nonce"))))
}

enum Applied {
    /// Its URL.
    Account(String),
    AnotherNonce(String),
}

async fn apply(
    transport: &Transport,
    url: &str,
    nonce: &str,
    applicant: &Applicant<'_>,
) -> Result<Applied, Failure> {
    let mut payload = json!({ "termsOfServiceAgreed": true, "contact": applicant.contact });
    if let Some(binding) = applicant.binding {
        payload["externalAccountBinding"] = binding.bind(url, applicant.key);
    }
    let signed = applicant.key.sign_registration(url, nonce, &payload);
    let answer = transport.carry(request(Method::POST, url, signed)?).await;
    let answer = answer.map_err(of_unanswered)?;
    if answer.status().is_success() {
        let place = answer.headers().get(header::LOCATION);
        let place = place.and_then(|place| place.to_str().ok());
        let place = place.ok_or_else(|| Failure::Faltered("the account has no URL".into()))?;
        return Ok(Applied::Account(place.to_owned()));
    }
    let another = nonce_of(&answer);
    let problem = problem::read(&body(answer).await);
    let problem = problem.map_err(|error| Failure::Faltered(cut(format!("{url}: {error}"))))?;
    match another.filter(|_| problem::is_bad_nonce(&problem)) {
        Some(another) => Ok(Applied::AnotherNonce(another)),
        None => Err(problem::of_problem(&problem)),
    }
}

fn request(method: Method, url: &str, body: String) -> Result<Request<Full<Bytes>>, Failure> {
    let request = Request::builder().method(method).uri(url);
    let request = request
        .header(
            header::USER_AGENT,
            concat!("rota/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::CONTENT_TYPE, "application/jose+json");
    let request = request.body(Full::new(Bytes::from(body)));
    request.map_err(|error| Failure::Faltered(cut(format!("{url}: {error}"))))
}

/// Nothing reached the CA that it would count.
fn unreached(unanswered: Unanswered) -> Failure {
    match of_unanswered(unanswered) {
        Failure::Faltered(text) => Failure::Unreached(text),
        failure => failure,
    }
}

fn nonce_of(answer: &Response<Full<Bytes>>) -> Option<String> {
    let nonce = answer.headers().get("replay-nonce");
    let nonce = nonce.map(HeaderValue::to_str);
    nonce?.ok().map(str::to_owned)
}

async fn body(answer: Response<Full<Bytes>>) -> Bytes {
    let body = answer.into_body().collect().await;
    body.map_or_else(|never| match never {}, |body| body.to_bytes())
}
