//! Header fields by what a proxy has to do with them. Hot path.

use httparse::Header;

/// What a field's name means to a proxy; everything else is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Expect,
    Upgrade,
    /// Fixed hop-by-hop fields (RFC 9110 section 7.6.1): Keep-Alive, Proxy-Connection, TE, Proxy-Authenticate, ….
    HopByHop,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// Says who the client is or what it asked for, in ways that servers believe: X-Real-IP, X-Forwarded-Port, and what other
    /// edges call the client's address: CF-Connecting-IP, True-Client-IP, Fastly-Client-IP, ….
    Identity,
    /// RFC 7239.
    Forwarded,
    /// What servers take for an edge's order: another target (X-Original-URL, X-Rewrite-URL), a proxy for requests of their own (Proxy).
    /// Nobody's to give: the route was chosen without it.
    Order,
    /// Whom a client's certificate names, in our words or in RFC 9440's: ours alone to say.
    ClientCertificate,
    XRequestId,
    Traceparent,
    Tracestate,
    ContentType,
    Other,
}

/// Classifies a name, whatever its case. By length and first letter first: of the names that pass through, few get further.
pub fn known(name: &str) -> Known {
    let bytes = name.as_bytes();
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match (bytes.len(), bytes.first().map_or(0, |first| first | 0x20)) {
        (2, b't') if is("te") => Known::HopByHop,
        (4, b'h') if is("host") => Known::Host,
        (5, b'p') if is("proxy") => Known::Order,
        (6, b'e') if is("expect") => Known::Expect,
        (7, b'u') if is("upgrade") => Known::Upgrade,
        (6, b'x') if is("x-host") => Known::Identity,
        (9, b'f') if is("forwarded") => Known::Forwarded,
        (9, b'x') if is("x-real-ip") => Known::Identity,
        (9, b'c') if is("client-ip") => Known::Identity,
        (10, b'c') if is("connection") => Known::Connection,
        (10, b'k') if is("keep-alive") => Known::HopByHop,
        (10, b't') if is("tracestate") => Known::Tracestate,
        (11, b't') if is("traceparent") => Known::Traceparent,
        (11, b'c') if is("client-cert") => Known::ClientCertificate,
        (11, b'x') if is("x-client-ip") || is("x-remote-ip") => Known::Identity,
        (11, b'x') if is("x-forwarded") => Known::Identity,
        (12, b'c') if is("content-type") => Known::ContentType,
        (12, b'x') if is("x-request-id") => Known::XRequestId,
        (12, b'x') if is("x-url-scheme") => Known::Identity,
        (13, b'f') if is("forwarded-for") => Known::Identity,
        (13, b'x') if is("x-rewrite-url") => Known::Order,
        (13, b'x') if is("x-remote-addr") => Known::Identity,
        (14, b'c') if is("content-length") => Known::ContentLength,
        (14, b'h') if is("http2-settings") => Known::HopByHop,
        (14, b'x') if is("x-original-url") => Known::Order,
        (14, b'x') if is("x-original-for") => Known::Identity,
        (14, b't') if is("true-client-ip") => Known::Identity,
        (15, b'f') if is("front-end-https") => Known::Identity,
        (15, b'p') if is("proxy-client-ip") => Known::Identity,
        (15, b'x') if is("x-forwarded-for") => Known::XForwardedFor,
        (15, b'x') if is("x-original-host") => Known::Identity,
        (16, b'c') if is("cf-connecting-ip") => Known::Identity,
        (16, b'f') if is("fastly-client-ip") => Known::Identity,
        (16, b'x') if is("x-originating-ip") || is("x-azure-clientip") => Known::Identity,
        (16, b'x') if is("x-azure-socketip") => Known::Identity,
        (16, b'p') if is("proxy-connection") => Known::HopByHop,
        (16, b'x') if is("x-forwarded-host") => Known::XForwardedHost,
        (17, b'c') if is("client-cert-chain") => Known::ClientCertificate,
        (17, b't') if is("transfer-encoding") => Known::TransferEncoding,
        (17, b'x') if is("x-forwarded-proto") => Known::XForwardedProto,
        (18, b'c') if is("cf-connecting-ipv6") => Known::Identity,
        (18, b'p') if is("proxy-authenticate") => Known::HopByHop,
        (18, b'w') if is("wl-proxy-client-ip") => Known::Identity,
        (19, b'x') if is("x-cluster-client-ip") || is("x-appengine-user-ip") => Known::Identity,
        (19, b'p') if is("proxy-authorization") => Known::HopByHop,
        (24, b'x') if is("x-envoy-external-address") => Known::Identity,
        (24, b'x') if is("x-original-forwarded-for") => Known::Identity,
        (25, b'p') if is("proxy-authentication-info") => Known::HopByHop,
        (20.., b'x') if bytes[..20].eq_ignore_ascii_case(b"x-client-certificate") => {
            Known::ClientCertificate
        }
        (12.., b'x') if bytes[..12].eq_ignore_ascii_case(b"x-forwarded-") => Known::Identity,
        _ => Known::Other,
    }
}

/// Whether a server may take a name for another one. `_` stands for `-` to many, and could stand for it in any name; all that is neither
/// letter nor digit is the same character to those that follow CGI (RFC 3875 section 4.1.18), which matters for the names above.
pub fn is_disguised(name: &str) -> bool {
    // Without an early exit: names are short.
    let is_odd = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-';
    name.bytes().fold(false, |seen, byte| seen | is_odd(byte)) && is_odd_one_known(name)
}

#[cold]
fn is_odd_one_known(name: &str) -> bool {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    name.contains('_') || known(&name.chars().map(fold).collect::<String>()) != Known::Other
}

/// Refuses what `http` takes for a field of HTTP/2 though it is none (RFC 9113 section 8.2.1): a quotation mark is of all that it lets
/// pass in a name the only character of no token, and white space at a value's end would be taken for padding over HTTP/1.
pub fn check_http2_field(name: &str, value: &[u8]) -> Result<(), &'static str> {
    if is_quoted(name) {
        return Err("a header field's name is malformed");
    }
    if value.trim_ascii().len() != value.len() {
        return Err("a field's value begins or ends with white space");
    }
    Ok(())
}

fn is_quoted(name: &str) -> bool {
    memchr::memchr(b'"', name.as_bytes()).is_some()
}

/// The elements of a comma-separated field value, without surrounding white space; empty ones are left out.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Fields that the `Connection` fields of a message may name beside its own options; the message is refused beyond, since each of its fields
/// is compared with all of them.
const NOMINATED: u8 = 32;

/// What the `Connection` fields of a message say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Fields that are named beyond these, for this hop alone.
    nominated: u8,
}

impl ConnectionOptions {
    /// Bytes that no text has may hide a `close` from one reader and not from another: the connection ends behind the message.
    ///
    /// # Errors
    /// More fields are named than may be.
    pub fn add(&mut self, value: &[u8]) -> Result<(), &'static str> {
        self.close |= !value.is_ascii();
        for element in elements(value) {
            match element.len() {
                5 if element.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if element.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if element.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ if self.nominated == NOMINATED => return Err("too many connection options"),
                _ => self.nominated += 1,
            }
        }
        Ok(())
    }

    /// Whether fields are named that are for this hop alone.
    pub fn nominates(self) -> bool {
        self.nominated > 0
    }
}

/// Whether a `Connection` field nominates `name` as hop-by-hop. What routing, framing and identity rest on can't be taken
/// away like this.
pub fn is_nominated(name: &str, fields: &[Header<'_>]) -> bool {
    const KEPT: [&str; 4] = ["authorization", "cookie", "set-cookie", "cache-control"];
    if KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
        return false;
    }
    fields
        .iter()
        .filter(|field| known(field.name) == Known::Connection)
        .flat_map(|field| elements(field.value))
        .any(|element| element.eq_ignore_ascii_case(name.as_bytes()))
}

/// A Content-Length (RFC 9110 section 8.6): digits alone, at most 2^63 − 1.
pub fn content_length(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = value
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (number < 1 << 63).then_some(number)
}

/// Appends one field's line.
pub fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits.
pub fn push_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Whether a trailer field may be passed on: nothing that frames, routes, modifies, controls, authenticates or says who the client is
/// (RFC 9110 section 6.5.1).
pub fn is_trailer(name: &str) -> bool {
    const NEVER: [&str; 23] = [
        "age",
        "authentication-info",
        "date",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "pragma",
        "range",
        "retry-after",
        "vary",
        "www-authenticate",
        "authorization",
        "cookie",
        "set-cookie",
        "trailer",
        "content-encoding",
        "content-range",
        "cache-control",
        "max-forwards",
    ];
    matches!(known(name), Known::Other)
        && !is_disguised(name)
        && !is_quoted(name)
        && !NEVER.iter().any(|never| name.eq_ignore_ascii_case(never))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        assert_eq!(known("CONTENT-length"), Known::ContentLength);
        assert_eq!(known("X-Forwarded-Prefix"), Known::Identity);
        assert_eq!(known("X-Forwarded-"), Known::Identity);
        assert_eq!(known("http2-Settings"), Known::HopByHop);
        assert!(known("X_Forwarded_For") == Known::Other && is_disguised("X_Forwarded_For"));
        assert!(is_disguised("X.Real~IP") && is_disguised("content.Length") && is_disguised("a_b"));
        assert!(!is_disguised("X.App.Version") && !is_disguised("X-Real-IP"));
        assert_eq!(known("Accept"), Known::Other);
        for name in [
            "X-Client-Certificate",
            "x-client-certificate-Subject",
            "Client-Cert",
            "client-cert-Chain",
        ] {
            assert_eq!(known(name), Known::ClientCertificate);
            assert!(!is_trailer(name));
        }
    }

    #[test]
    fn numbers_are_written_in_decimal_digits() {
        for number in [0, 7, 10, 1024, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_length_is_digits_alone() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"9223372036854775807"), Some((1 << 63) - 1));
        for bad in [
            "",
            "+1",
            "-1",
            "1,1",
            "0x1",
            "1 1",
            "9223372036854775808",
            "99999999999999999999",
            "1_000",
        ] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_connection_field_nominates_but_not_what_the_edge_rests_on() {
        let fields = [Header {
            name: "Connection",
            value: b"close, X-Foo ,cookie",
        }];
        let mut options = ConnectionOptions::default();
        options.add(fields[0].value).unwrap();
        assert!(options.close && options.nominates() && !options.upgrade);
        let mut unclear = ConnectionOptions::default();
        unclear.add(b"keep-alive, \x80close").unwrap();
        assert!(unclear.close);
        assert!(is_nominated("x-foo", &fields) && !is_nominated("Cookie", &fields));
    }

    #[test]
    fn connection_fields_nominate_no_more_than_a_few_together() {
        let mut options = ConnectionOptions::default();
        for _ in 0..NOMINATED {
            assert_eq!(options.add(b"x, , close, keep-alive"), Ok(()));
        }
        assert!(options.add(b"close").is_ok() && options.add(b"x").is_err());
    }
}
