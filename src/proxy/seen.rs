//! What the fields of one head add up to: host, body and connection, by rules that both protocols share. Hot path.

use httparse::Header;

use super::fields::{self, ConnectionOptions, Known};
use super::http1::body::Framing;
use super::http1::head::Version;
use super::refusal::Refusal;

const HTTP1_ALONE: &str = "a connection field in http/2";

/// The fields that decide something, each by the first rule that it breaks or keeps.
#[derive(Default)]
pub struct Seen<'a> {
    pub host: Option<&'a str>,
    pub connection: ConnectionOptions,
    pub expects_continue: bool,
    /// `Upgrade: websocket`.
    pub websocket: bool,
    /// An answer's body is a stream without an end in sight.
    pub is_stream: bool,
    length: Option<u64>,
    coding: Coding,
    /// A field that HTTP/2 does not have (RFC 9113 section 8.2.2).
    is_of_http1: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    Chunked,
    /// `chunked` more than once.
    Repeated,
    Unknown,
}

impl<'a> Seen<'a> {
    /// Takes the next field of a request, which is `known` as this.
    pub fn request_field(&mut self, known: Known, field: &Header<'a>) -> Result<(), Refusal> {
        match known {
            Known::Host => {
                if self.host.is_some() {
                    return Err(Refusal::Malformed("a request with two hosts"));
                }
                let host = std::str::from_utf8(field.value)
                    .map_err(|_| Refusal::Malformed("the host is malformed"))?;
                self.host = Some(host.trim_ascii());
            }
            Known::Expect => {
                if !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.expects_continue = true;
            }
            _ => self
                .shared_field(known, field)
                .map_err(Refusal::Malformed)?,
        }
        Ok(())
    }

    /// Takes the next field of an answer.
    pub fn answer_field(&mut self, known: Known, field: &Header<'a>) -> Result<(), &'static str> {
        match known {
            Known::ContentType => {
                let value = field.value.trim_ascii_start();
                let begins = |kind: &[u8]| {
                    value.len() >= kind.len() && value[..kind.len()].eq_ignore_ascii_case(kind)
                };
                self.is_stream = begins(b"text/event-stream") || begins(b"application/grpc");
                Ok(())
            }
            _ => self.shared_field(known, field),
        }
    }

    fn shared_field(&mut self, known: Known, field: &Header<'a>) -> Result<(), &'static str> {
        match known {
            Known::ContentLength => return self.length(field.value),
            Known::TransferEncoding => self.coding(field.value),
            Known::Connection => self.connection.add(field.value)?,
            Known::Upgrade => {
                self.websocket = field.value.trim_ascii().eq_ignore_ascii_case(b"websocket")
            }
            _ => return Ok(()),
        }
        self.is_of_http1 = true;
        Ok(())
    }

    fn length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        let length = fields::content_length(value).ok_or("the content-length is malformed")?;
        if self.length.is_some() {
            return Err("more than one content-length");
        }
        self.length = Some(length);
        Ok(())
    }

    /// Only exactly one `chunked` is understood; an element that is empty is none.
    fn coding(&mut self, value: &[u8]) {
        for element in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            self.coding = match (self.coding, element.eq_ignore_ascii_case(b"chunked")) {
                (Coding::None, true) => Coding::Chunked,
                (Coding::Chunked | Coding::Repeated, true) => Coding::Repeated,
                (_, false) | (Coding::Unknown, true) => Coding::Unknown,
            };
        }
    }

    /// RFC 9112 section 6.3, without its leniencies.
    pub fn request_framing(&self, version: Version) -> Result<Framing, Refusal> {
        match (self.coding, self.length) {
            (Coding::None, None | Some(0)) => Ok(Framing::None),
            (Coding::None, Some(length)) => Ok(Framing::Length(length)),
            (_, Some(_)) => Err(Refusal::Malformed(
                "content-length and transfer-encoding in one request",
            )),
            (_, None) if version == Version::Http10 => {
                Err(Refusal::Malformed("transfer-encoding in http/1.0"))
            }
            (Coding::Chunked, None) => Ok(Framing::Chunked),
            (Coding::Repeated, None) => Err(Refusal::Malformed("a body that is chunked twice")),
            (Coding::Unknown, None) => Err(Refusal::UnknownCoding),
        }
    }

    /// The same for an answer; None: it says nothing.
    pub fn answer_framing(&self, version: Version) -> Result<Option<Framing>, &'static str> {
        match (self.coding, self.length) {
            (Coding::None, None) => Ok(None),
            (Coding::None, Some(length)) => Ok(Some(Framing::Length(length))),
            (Coding::Chunked, None) if version == Version::Http11 => Ok(Some(Framing::Chunked)),
            (_, Some(_)) => Err("content-length and transfer-encoding in one answer"),
            _ => Err("a transfer coding that is not known"),
        }
    }

    /// A request's framing in HTTP/2 (RFC 9113 section 8.1.1). `is_end`: its stream ends with its head.
    pub fn stream_request_framing(&self, is_end: bool) -> Result<Framing, Refusal> {
        if self.is_of_http1 {
            return Err(Refusal::Malformed(HTTP1_ALONE));
        }
        match (is_end, self.length) {
            (true, None | Some(0)) => Ok(Framing::None),
            (true, Some(_)) => Err(Refusal::Malformed("a content-length without a body")),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::Chunked),
        }
    }

    /// An answer's framing in HTTP/2: without a length, its body ends with its stream.
    pub fn stream_answer_framing(&self) -> Result<Framing, &'static str> {
        if self.is_of_http1 {
            return Err(HTTP1_ALONE);
        }
        Ok(self.length.map_or(Framing::Chunked, Framing::Length))
    }

    /// `:authority`, or Host where it is absent; both only if they are the same (RFC 9113 section 8.3.1).
    pub fn authority(&self, authority: Option<&'a str>) -> Result<&'a str, Refusal> {
        match (authority, self.host) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                Err(Refusal::Malformed("the host differs from the authority"))
            }
            (Some(host), _) | (None, Some(host)) => Ok(host),
            (None, None) => Err(Refusal::Malformed("a request without host")),
        }
    }
}
