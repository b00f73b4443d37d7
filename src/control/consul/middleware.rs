//! What every question to the agent carries: version, token, features, and a path that is encoded once.

use consulrs::api::features::{Blocking, ConsistencyMode, Features};
use http_02::{HeaderValue, Request, Response, Uri};
use rustify::endpoint::{Endpoint, MiddleWare};
use rustify::errors::ClientError;

use super::error::ConsulError;
use super::transport::Terms;

/// Bytes of a path and query before the features: the http crate refuses 64 KiB, and consulrs would panic on it.
const TARGET_BYTES: usize = 16 * 1024;

/// How new an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Any server answers, leader or not, as of what it knows.
    Stale,
    /// The leader answers.
    Leader,
    /// The leader answers after a majority confirmed that it still is one.
    Consistent,
}

/// One question's envelope.
pub struct Envelope {
    pub token: Option<String>,
    pub consistency: Consistency,
    /// Wait (in Consul's words) and index to wait beyond; None: answer at once.
    pub blocking: Option<Blocking>,
    pub terms: Terms,
}

impl Envelope {
    fn features(&self) -> Features {
        Features {
            blocking: self.blocking.clone(),
            mode: match self.consistency {
                Consistency::Stale => Some(ConsistencyMode::STALE),
                Consistency::Leader => None,
                Consistency::Consistent => Some(ConsistencyMode::CONSISTENT),
            },
            ..Features::default()
        }
    }
}

impl MiddleWare for Envelope {
    fn request<E: Endpoint>(
        &self,
        endpoint: &E,
        request: &mut Request<Vec<u8>>,
    ) -> Result<(), ClientError> {
        let length = request.uri().path().len() + request.uri().query().map_or(0, str::len);
        if length > TARGET_BYTES {
            return Err(ours(format!(
                "a question of {length} bytes, at most {TARGET_BYTES} are asked"
            )));
        }
        self.features().process(request);
        // rustify has encoded the path by rules that lose `.` segments, and what follows re-encodes it: begin again from the plain text.
        let mut target = format!("/v1/{}", encode(&endpoint.path()));
        if let Some(query) = request.uri().query() {
            target.push('?');
            target.push_str(query);
        }
        *request.uri_mut() = Uri::try_from(target).map_err(|error| {
            ours(format!(
                "{:?} cannot be asked for: {error}",
                endpoint.path()
            ))
        })?;
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(token)
                .map_err(|_| ours("the token holds characters that no header can carry".into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert("x-consul-token", value);
        }
        request.extensions_mut().insert(self.terms);
        Ok(())
    }

    fn response<E: Endpoint>(&self, _: &E, _: &mut Response<Vec<u8>>) -> Result<(), ClientError> {
        Ok(())
    }
}

fn ours(what: String) -> ClientError {
    ClientError::GenericError {
        source: ConsulError::Local(what).into(),
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters and the slash.
fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(byte.into());
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_encoded_once_and_keeps_its_slashes() {
        assert_eq!(encode("kv/a b/100%/ü?#"), "kv/a%20b/100%25/%C3%BC%3F%23");
    }
}
