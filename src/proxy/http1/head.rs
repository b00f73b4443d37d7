//! HTTP/1 heads: found, parsed by httparse, and held against the rules that it leaves open (RFC 9112). Hot path.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig};

use super::body::Framing;
use crate::proxy::fields::{ConnectionOptions, check_http2_field, known};
use crate::proxy::refusal::Refusal;
use crate::proxy::seen::Seen;
use crate::routing::Limits;
use crate::routing::policy::MAX_HEAD_FIELDS;

const UNENDED_LINE: &str = "a line does not end in cr lf";

/// Space on the stack for a head's fields.
pub type FieldSpace<'b> = [MaybeUninit<Header<'b>>; MAX_HEAD_FIELDS];

/// Fresh, uninitialised [`FieldSpace`].
pub const fn field_space<'b>() -> FieldSpace<'b> {
    [const { MaybeUninit::uninit() }; MAX_HEAD_FIELDS]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    H2,
}

impl Version {
    pub fn label(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::H2 => "HTTP/2",
        }
    }
}

/// A request's head, of either protocol, borrowed from where it was received.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// Bytes that it took, over HTTP/1.
    pub length: usize,
    pub method: &'a str,
    /// As sent, for the log.
    pub target: &'a str,
    /// In origin form, or `*`.
    pub path_and_query: Cow<'a, str>,
    /// The authority of an absolute-form target, else the Host field; empty: HTTP/1.0 without one.
    pub host: &'a str,
    pub version: Version,
    pub fields: &'a [Header<'a>],
    pub framing: Framing,
    pub connection: ConnectionOptions,
    pub expects_continue: bool,
    /// Asks for WebSocket (RFC 6455 section 4.1: a GET without a body).
    pub upgrade: bool,
}

impl RequestHead<'_> {
    /// Whether the client wants its connection kept (RFC 9112 section 9.3).
    pub fn keeps_alive(&self) -> bool {
        match self.version {
            Version::Http10 => self.connection.keep_alive && !self.connection.close,
            Version::Http11 | Version::H2 => !self.connection.close,
        }
    }
}

/// A server's answer's head.
#[derive(Debug)]
pub struct AnswerHead<'a> {
    pub status: u16,
    pub phrase: &'a str,
    pub version: Version,
    pub fields: &'a [Header<'a>],
    /// Not yet corrected for HEAD, 1xx, 204, 304: [`AnswerHead::framing_for`].
    framing: Option<Framing>,
    pub connection: ConnectionOptions,
    /// `Upgrade: websocket`.
    pub upgrade: bool,
    /// Its body is a stream without an end in sight: SSE, gRPC.
    pub is_stream: bool,
}

/// What a buffer holds of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// So many bytes, the empty line included.
    Whole(usize),
    Part,
}

/// Looks for the empty line that ends a head. `seen` bytes were looked at before.
pub fn find_end(bytes: &[u8], seen: usize) -> Found {
    let from = seen.saturating_sub(3);
    for at in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let next = from + at + 1;
        match &bytes[next..] {
            [b'\r', b'\n', ..] => return Found::Whole(next + 2),
            // Not an end that this parser accepts, but one where another would see it: to be refused, not waited for.
            [b'\n', ..] => return Found::Whole(next + 1),
            _ => {}
        }
    }
    Found::Part
}

/// How many bytes of empty lines stand before a request line: RFC 9112 section 2.2 lets a server skip them.
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    2 * bytes
        .chunks_exact(2)
        .take_while(|pair| pair == b"\r\n")
        .count()
}

/// Refuses what can't become a request line, before its end has come.
pub fn check_beginning(bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.first() {
        None | Some(b'\r' | b'A'..=b'Z' | b'a'..=b'z') => Ok(()),
        Some(_) => Err(Refusal::Malformed(
            "the request line does not begin with a method",
        )),
    }
}

/// Refuses a request line that is none as soon as it is whole: who sends it may wait for an answer and send no more. `seen` bytes were
/// looked at before.
pub fn check_line(begun: &[u8], seen: usize) -> Result<(), Refusal> {
    let Some(end) = memchr::memchr(b'\n', &begun[seen..]) else {
        return Ok(());
    };
    let line = &begun[..=seen + end];
    if memchr::memchr(b'\n', &begun[..seen]).is_some() {
        return Ok(());
    }
    if !line.ends_with(b"\r\n") {
        return Err(Refusal::Malformed(UNENDED_LINE));
    }
    match httparse::Request::new(&mut []).parse(line) {
        Ok(_) => Ok(()),
        Err(error) => Err(parse_refusal(error, line)),
    }
}

/// Whether every line ends in CR LF (RFC 9112 section 2.2) in a head that httparse took: it takes LF alone, but CR only
/// before LF, so that as many of one as of the other leave no LF alone.
fn are_line_ends_whole(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\r', head).count() == memchr::memchr_iter(b'\n', head).count()
}

/// Parses the request head at the beginning of `bytes`, which hold all of it.
pub fn request<'a>(
    bytes: &'a [u8],
    space: &'a mut FieldSpace<'a>,
    limits: &Limits,
) -> Result<RequestHead<'a>, Refusal> {
    let mut parsed = httparse::Request::new(&mut []);
    let parser = ParserConfig::default();
    let length = match parser.parse_request_with_uninit_headers(&mut parsed, bytes, space) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(Refusal::Malformed("the head is incomplete")),
        Err(error) => return Err(parse_refusal(error, bytes)),
    };
    if !are_line_ends_whole(&bytes[..length]) {
        return Err(Refusal::Malformed(UNENDED_LINE));
    }
    let version = match parsed.version {
        Some(0) => Version::Http10,
        _ => Version::Http11,
    };
    let (method, target) = (parsed.method.unwrap_or(""), parsed.path.unwrap_or(""));
    let fields: &'a [Header<'a>] = parsed.headers;
    if target.len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if fields.len() > limits.head_fields {
        return Err(Refusal::TooManyFields);
    }
    let mut seen = Seen::default();
    for field in fields {
        match seen.request_field(known(field.name), field) {
            // RFC 9110 section 10.1.1: HTTP/1.0 knows no expectations.
            Err(Refusal::Expectation) if version == Version::Http10 => {}
            taken => taken?,
        }
    }
    let framing = seen.request_framing(version)?;
    if method == "CONNECT" || method == "TRACE" {
        return Err(Refusal::MethodNotAllowed);
    }
    let (authority, path_and_query) = split_target(target)?;
    if path_and_query == "*" && method != "OPTIONS" {
        return Err(Refusal::Malformed(
            "an asterisk is no target of this method",
        ));
    }
    let host = match (authority, seen.host) {
        (Some(authority), _) if !authority.is_empty() => authority,
        (_, Some(host)) => host,
        _ if version == Version::Http10 => "",
        _ => return Err(Refusal::Malformed("a request without host")),
    };
    if version == Version::Http11 && seen.host.is_none_or(str::is_empty) {
        return Err(Refusal::Malformed("a request without host"));
    }
    Ok(RequestHead {
        length,
        method,
        target,
        path_and_query,
        host,
        version,
        fields,
        framing,
        connection: seen.connection,
        expects_continue: seen.expects_continue && version == Version::Http11,
        upgrade: seen.websocket
            && seen.connection.upgrade
            && version == Version::Http11
            && method == "GET"
            && framing == Framing::None,
    })
}

fn parse_refusal(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooManyFields,
        httparse::Error::Version if is_other_version(head) => Refusal::Version,
        httparse::Error::HeaderName => Refusal::Malformed("a header field's name is malformed"),
        httparse::Error::HeaderValue => Refusal::Malformed("a header field's value is malformed"),
        httparse::Error::NewLine => Refusal::Malformed(UNENDED_LINE),
        _ => Refusal::Malformed("the request line is malformed"),
    }
}

/// Whether the request line ends in `HTTP/d.d` that isn't 1.0 or 1.1.
fn is_other_version(head: &[u8]) -> bool {
    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ');
    let (Some(_), Some(_), Some(last), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    matches!(last, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Splits a request target (RFC 9112 section 3.2) into authority and origin form.
fn split_target(target: &str) -> Result<(Option<&str>, Cow<'_, str>), Refusal> {
    const MALFORMED: Refusal = Refusal::Malformed("the request target is malformed");
    if target.bytes().any(|b| b <= b' ' || b >= 0x7f || b == b'#') {
        return Err(MALFORMED);
    }
    if target.starts_with('/') || target == "*" {
        return Ok((None, target.into()));
    }
    let (scheme, rest) = target.split_once("://").ok_or(MALFORMED)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(MALFORMED);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(MALFORMED);
    }
    // A path that is empty is `/` (RFC 9112 section 3.2.1), also before a query.
    let path = match path.starts_with('/') {
        true => path.into(),
        false => format!("/{path}").into(),
    };
    Ok((Some(authority), path))
}

/// Parses a whole answer head. The error says what is wrong with it.
pub fn answer<'a>(
    head: &'a [u8],
    space: &'a mut FieldSpace<'a>,
) -> Result<AnswerHead<'a>, &'static str> {
    // Where httparse would skip empty lines: a server has nothing to say before its answer.
    if !head.starts_with(b"HTTP/1.") {
        return Err("the status line is malformed");
    }
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, space) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err("the head is malformed"),
    }
    if !are_line_ends_whole(head) {
        return Err(UNENDED_LINE);
    }
    let version = match parsed.version {
        Some(0) => Version::Http10,
        _ => Version::Http11,
    };
    let status = parsed
        .code
        .filter(|code| (100..600).contains(code))
        .ok_or("the status is malformed")?;
    let mut seen = Seen::default();
    for field in parsed.headers.iter() {
        seen.answer_field(known(field.name), field)?;
    }
    let framing = seen.answer_framing(version)?;
    Ok(AnswerHead {
        status,
        phrase: parsed.reason.unwrap_or(""),
        version,
        fields: parsed.headers,
        framing,
        connection: seen.connection,
        upgrade: seen.websocket && seen.connection.upgrade,
        is_stream: seen.is_stream,
    })
}

/// The head of an answer that came over HTTP/2, held against the same rules. Its body ends with its stream, where it
/// declares no length.
pub fn framed_answer<'a>(
    status: http::StatusCode,
    fields: &'a [Header<'a>],
) -> Result<AnswerHead<'a>, &'static str> {
    if !(200..600).contains(&status.as_u16()) {
        return Err("the status is malformed");
    }
    let mut seen = Seen::default();
    for field in fields {
        check_http2_field(field.name, field.value)?;
        seen.answer_field(known(field.name), field)?;
    }
    Ok(AnswerHead {
        status: status.as_u16(),
        phrase: status.canonical_reason().unwrap_or(""),
        version: Version::H2,
        fields,
        framing: Some(seen.stream_answer_framing()?),
        connection: seen.connection,
        upgrade: false,
        is_stream: seen.is_stream,
    })
}

impl AnswerHead<'_> {
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// How the body is framed on the server's connection (RFC 9112 section 6.3).
    pub fn framing_for(&self, request_is_head: bool) -> Framing {
        if request_is_head || self.status < 200 || self.status == 204 || self.status == 304 {
            return Framing::None;
        }
        match self.framing {
            Some(Framing::Length(0)) => Framing::None,
            Some(framing) => framing,
            None => Framing::UntilClose,
        }
    }

    /// What a Content-Length field says, also where no body follows (HEAD, 304).
    pub fn declared_length(&self) -> Option<u64> {
        match self.framing {
            Some(Framing::Length(length)) => Some(length),
            _ => None,
        }
    }

    /// Whether it declares a body that its status does not have (RFC 9110 section 8.6, RFC 9112 section 6.1): who says so may send it,
    /// as well, and it would be taken for the next answer.
    pub fn has_undue_body(&self) -> bool {
        let declares = !matches!(self.framing, None | Some(Framing::Length(0)));
        declares && (self.is_interim() || self.status == 204)
    }

    /// Whether the server keeps its connection open, and leaves it as it should be.
    pub fn keeps_alive(&self) -> bool {
        self.version == Version::Http11 && !self.connection.close && !self.has_undue_body()
    }
}
