//! A stream's pseudo-header and header fields (RFC 9113 section 8.3) as the same head that HTTP/1 gives. Hot path.

use http::request::Parts;
use httparse::Header;

use crate::proxy::fields::{ConnectionOptions, Known, check_http2_field, known};
use crate::proxy::http1::body::Framing;
use crate::proxy::http1::head::{RequestHead, Version};
use crate::proxy::refusal::Refusal;
use crate::proxy::seen::Seen;
use crate::routing::Limits;

/// Fields that a client may split its cookies into; browsers keep at most 180 for a host. 431 beyond.
const COOKIE_CRUMBS: usize = 256;

/// Reads what h2 gave of a stream. `cookies`: [`joined_cookies`] of the same; `list`: empty, for the fields.
pub fn request<'a>(
    parts: &'a Parts,
    is_end: bool,
    cookies: &'a [u8],
    list: &'a mut Vec<Header<'a>>,
) -> Result<RequestHead<'a>, Refusal> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut seen = Seen::default();
    if let Some(scheme) = parts.uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return Err(Refusal::Malformed("a scheme that is not http or https"));
    }
    for (name, value) in &parts.headers {
        check_http2_field(name.as_str(), value.as_bytes()).map_err(Refusal::Malformed)?;
        let field = Header {
            name: name.as_str(),
            value: value.as_bytes(),
        };
        let known = known(field.name);
        seen.request_field(known, &field)?;
        match known {
            Known::Host | Known::ContentLength | Known::Expect => {}
            _ if name == http::header::COOKIE => {}
            _ => list.push(field),
        }
    }
    if !cookies.is_empty() {
        list.push(Header {
            name: "cookie",
            value: cookies,
        });
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let host = seen.authority(authority)?;
    let framing = seen.stream_request_framing(is_end)?;
    Ok(RequestHead {
        length: 0,
        method: parts.method.as_str(),
        target: path,
        path_and_query: path.into(),
        host,
        version: Version::H2,
        fields: list,
        framing,
        connection: ConnectionOptions::default(),
        // Over HTTP/1 the head alone would be a whole request where the body is to have no bytes.
        expects_continue: seen.expects_continue
            && !matches!(framing, Framing::None | Framing::Length(0)),
        upgrade: false,
    })
}

pub fn check_limits(head: &RequestHead<'_>, limits: &Limits) -> Result<(), Refusal> {
    if head.method == "CONNECT" || head.method == "TRACE" {
        return Err(Refusal::MethodNotAllowed);
    }
    if head.path_and_query.len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if head.fields.len() > limits.head_fields {
        return Err(Refusal::TooManyFields);
    }
    if head.path_and_query == "*" && head.method != "OPTIONS" {
        return Err(Refusal::Malformed(
            "an asterisk is no target of this method",
        ));
    }
    let is_plain = |b: u8| b > b' ' && b < 0x7f && b != b'#';
    if !head.path_and_query.bytes().all(is_plain) {
        return Err(Refusal::Malformed("the request target is malformed"));
    }
    Ok(())
}

/// Cookie crumbs become one field again (RFC 9113 section 8.2.3).
pub fn joined_cookies(parts: &Parts) -> Result<Vec<u8>, Refusal> {
    let crumbs: Vec<&[u8]> = parts
        .headers
        .get_all(http::header::COOKIE)
        .iter()
        .map(|crumb| crumb.as_bytes())
        .collect();
    if crumbs.len() > COOKIE_CRUMBS {
        return Err(Refusal::TooManyFields);
    }
    Ok(crumbs.join(&b"; "[..]))
}
