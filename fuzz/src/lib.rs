//! What several targets hold the product against: a plain, slow reader of HTTP/1 heads, written from RFC 9112 alone, and hyper.

pub mod codec;
pub mod forwarded;
pub mod memory_file;
pub mod stream;

/// What `framing_for` is asked with.
pub const HEAD: bool = true;
pub const NOT_HEAD: bool = false;

/// A head by lines: the first, then each field's name and value without white space around it.
pub struct Lines<'a> {
    pub first: &'a [u8],
    pub fields: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Lines<'a> {
    /// None: something that two readers could cut into lines and fields in two ways.
    pub fn of(head: &'a [u8]) -> Option<Lines<'a>> {
        let text = head.strip_suffix(b"\r\n\r\n")?;
        let mut lines = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
            lines.push(&rest[..at]);
            rest = &rest[at + 2..];
        }
        lines.push(rest);
        // An empty line may stand before the first one (section 2.2); one among the fields would be the head's end.
        let lines = lines.strip_prefix(&[&b""[..]]).unwrap_or(&lines);
        let is_torn =
            |line: &&[u8]| line.is_empty() || line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
        if lines.iter().any(is_torn) {
            return None;
        }
        let (first, fields) = lines.split_first()?;
        let fields = fields
            .iter()
            .map(|line| field(line))
            .collect::<Option<_>>()?;
        Some(Lines { first, fields })
    }

    /// The values of all fields of a name.
    pub fn all(&self, name: &str) -> Vec<&'a [u8]> {
        let named = self
            .fields
            .iter()
            .filter(|(of, _)| of.eq_ignore_ascii_case(name));
        named.map(|(_, value)| *value).collect()
    }
}

/// `token ":" OWS value OWS`: no white space before the colon, no folded line.
fn field(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&b| b == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let name = is_token(name).then(|| std::str::from_utf8(name).ok())??;
    Some((name, value.trim_ascii()))
}

pub fn is_token(name: &[u8]) -> bool {
    let is_token_byte = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !name.is_empty() && name.iter().all(is_token_byte)
}

/// A Content-Length's number: digits alone.
pub fn length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| text.parse().ok())?
}

/// Whether all the Transfer-Encoding fields together name `chunked`, once, and nothing else.
pub fn is_chunked(values: &[&[u8]]) -> bool {
    let all = values.join(&b',');
    let mut codings = all
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty());
    codings
        .next()
        .is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}
