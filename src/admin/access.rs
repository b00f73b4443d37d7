//! Who may ask: the rules that keep other people's web pages and other people out.
//!
//! A page of another site can make a browser send requests to an address that the browser can reach. It can't read the answers, unless a
//! name of its own resolves to that address (DNS rebinding): hence the `Host` must be no such name. It can't see or set
//! the token: hence it can change nothing either way.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use super::token::Token;
use crate::routing::Host;

/// How a connection came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over TCP, from and to these addresses.
    Tcp { peer: SocketAddr, local: SocketAddr },
    /// Through the Unix socket: its file's mode has already said who may.
    Unix,
}

/// A request turned away, with the reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            message: message.into(),
        }
    }
}

/// Whether a request may be read at all. Browsers don't reach Unix sockets: nothing is asked of those.
pub fn check_reading(via: &Via, head: &Parts) -> Result<(), Refusal> {
    let Via::Tcp { local, .. } = via else {
        return Ok(());
    };
    let forbidden = |message: &str| Err(Refusal::new(StatusCode::FORBIDDEN, message));
    let host = only(&head.headers, HOST).unwrap_or_default();
    let authority = head.uri.authority().map(|authority| authority.as_str());
    for named in [Some(host), authority].into_iter().flatten() {
        if !is_ours(named, local.ip()) {
            return forbidden(
                "the Host of a request to the admin listener is localhost or the address it came to",
            );
        }
    }
    if !head.headers.contains_key(ORIGIN) {
        return Ok(());
    }
    match only(&head.headers, ORIGIN).and_then(|origin| origin.strip_prefix("http://")) {
        Some(origin) if origin.eq_ignore_ascii_case(host) => Ok(()),
        _ => forbidden("requests that pages of another origin make are refused"),
    }
}

/// Whether a request may change anything; to be asked after [`check_reading`]. Reads the token's file: off the worker threads.
pub fn check_change(via: &Via, head: &Parts, token: Option<&Token>) -> Result<(), Refusal> {
    check_json(head)?;
    match via {
        Via::Unix => Ok(()),
        Via::Tcp { .. } => check_token(&head.headers, token),
    }
}

/// Whether a body is what forms of web pages can't send without asking first.
pub fn check_json(head: &Parts) -> Result<(), Refusal> {
    let is_json = only(&head.headers, CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    match is_json {
        true => Ok(()),
        false => {
            let message = "the body has to be application/json";
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

fn check_token(headers: &HeaderMap, token: Option<&Token>) -> Result<(), Refusal> {
    let Some(token) = token else {
        let message = "changes over TCP need a token: name its file as admin.token_file, or let admin.address be a unix socket";
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    };
    let secret = token.read().map_err(|error| {
        // The path and the reason are the log's: whoever asks has shown nothing yet.
        tracing::error!("{error}: changes over TCP are refused");
        let message = "the configured token cannot be used; the log says why";
        Refusal::new(StatusCode::FORBIDDEN, message)
    })?;
    let given = only(headers, AUTHORIZATION)
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match given {
        Some((_, given)) if secret.is(given.trim().as_bytes()) => Ok(()),
        Some(_) => Err(Refusal::new(StatusCode::UNAUTHORIZED, "the token is wrong")),
        None => Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "a change needs the token: Authorization: Bearer …",
        )),
    }
}

/// The field's value if there is exactly one and it is text.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// `localhost`, a loopback address, or the address that the connection came to: names that nobody can make point elsewhere.
fn is_ours(named: &str, local: IpAddr) -> bool {
    let Ok(host) = Host::parse(named) else {
        return false;
    };
    let literal = host.as_str().trim_matches(['[', ']']);
    match literal.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            address.is_loopback() || address == local.to_canonical()
        }
        Err(_) => host.as_str() == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(local: &str) -> Via {
        Via::Tcp {
            peer: "127.0.0.1:40000".parse().unwrap(),
            local: local.parse().unwrap(),
        }
    }

    fn head(fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("/metrics");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_host_is_localhost_a_loopback_address_or_the_connections_own() {
        let local = via("10.0.0.7:9900");
        for host in [
            "localhost",
            "LOCALHOST:9900",
            "127.0.0.1:9900",
            "127.8.9.1",
            "[::1]:9900",
            "10.0.0.7",
            "10.0.0.7:9900",
            "[::ffff:10.0.0.7]:9900",
        ] {
            assert_eq!(
                check_reading(&local, &head(&[("host", host)])),
                Ok(()),
                "{host}"
            );
        }
        for host in [
            "rebound.example",
            "localhost.evil.example",
            "10.0.0.8",
            "127.0.0.1.nip.io",
            "x@localhost",
            "",
        ] {
            let refused = check_reading(&local, &head(&[("host", host)])).unwrap_err();
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{host}");
        }
    }

    #[test]
    fn no_host_two_hosts_and_another_authority_are_refused() {
        let local = via("127.0.0.1:9900");
        assert!(check_reading(&local, &head(&[])).is_err());
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert!(check_reading(&local, &head(&twice)).is_err());
        let mut absolute = head(&[("host", "localhost")]);
        absolute.uri = "http://evil.example/metrics".parse().unwrap();
        assert!(check_reading(&local, &absolute).is_err());
    }

    #[test]
    fn only_the_listeners_own_pages_may_send_an_origin() {
        let local = via("127.0.0.1:9900");
        let with = |origin| head(&[("host", "localhost:9900"), ("origin", origin)]);
        assert_eq!(
            check_reading(&local, &with("http://localhost:9900")),
            Ok(())
        );
        for origin in [
            "null",
            "http://evil.example",
            "https://localhost:9900",
            "http://localhost:9901",
            "http://127.0.0.1:9900",
        ] {
            assert!(check_reading(&local, &with(origin)).is_err(), "{origin}");
        }
    }

    #[test]
    fn without_a_token_nothing_changes_over_tcp() {
        let json = [("host", "localhost"), ("content-type", "application/json")];
        let refused = check_change(&via("127.0.0.1:1"), &head(&json), None).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert_eq!(check_change(&Via::Unix, &head(&json), None), Ok(()));
        let refused = check_change(&Via::Unix, &head(&[]), None).unwrap_err();
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
