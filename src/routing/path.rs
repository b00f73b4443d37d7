//! Path prefixes by whole segments, and the canonical form that a path is compared with. Hot path.

use std::borrow::Cow;
use std::fmt;

/// A route's path: begins with `/`, no trailing slash (`/` itself is the empty prefix), canonical by construction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Box<str>);

/// Why a text is no path or prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Does not begin with `/`.
    Relative,
    /// `%` without two hex digits behind it.
    Escape,
    /// `%00`.
    Nul,
    /// A prefix that isn't its own canonical form could never be matched by both forms of a path.
    NotCanonical,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::Relative => "a path has to begin with \"/\"",
            PathError::Escape => "a path holds a \"%\" without two hex digits behind it",
            PathError::Nul => "a path holds \"%00\"",
            PathError::NotCanonical => {
                "a route's path has to be plain: no escapes, parameters, backslashes, dots as segments, empty segments or query"
            }
        })
    }
}

impl std::error::Error for PathError {}

impl Prefix {
    /// Takes `/`, `/news` or `/news/` (which is the same as `/news`).
    pub fn parse(text: &str) -> Result<Prefix, PathError> {
        if !text.starts_with('/') {
            return Err(PathError::Relative);
        }
        if text
            .bytes()
            .any(|b| matches!(b, b'?' | b'#' | b'%') || b <= b' ' || b == 0x7f)
            || canonical(text)? != text
        {
            return Err(PathError::NotCanonical);
        }
        Ok(Prefix(text.strip_suffix('/').unwrap_or(text).into()))
    }

    /// The prefix without a trailing slash: empty for the root.
    pub fn as_key(&self) -> &str {
        &self.0
    }

    /// How many segments it has: 0 for the root.
    pub fn depth(&self) -> usize {
        self.0.bytes().filter(|&b| b == b'/').count()
    }

    /// Whether a path (without query) lies under this prefix, by whole segments.
    pub fn has(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// The path of a request target in origin form: what stands before `?`.
pub fn without_query(target: &str) -> &str {
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(at) => &target[..at],
        None => target,
    }
}

/// Gives the canonical form of a path without query: escapes decoded once, `\` read as `/`, slashes merged, `.` and `..`
/// resolved (RFC 3986 section 5.2.4; above the root is the root), parameters (`;…`) cut. Borrows when nothing had to change.
/// Bytes that are no UTF-8 once decoded become U+FFFD, which no prefix can hold.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if !needs_work(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path.as_bytes())?;
    let mut kept: Vec<&[u8]> = Vec::new();
    let ends_in_directory = decoded.last().is_some_and(|&b| b == b'/') || ends_in_dots(&decoded);
    for segment in decoded.split(|&b| b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let mut joined = Vec::with_capacity(decoded.len() + 1);
    for segment in &kept {
        joined.push(b'/');
        joined.extend_from_slice(segment);
    }
    if kept.is_empty() || ends_in_directory {
        joined.push(b'/');
    }
    Ok(Cow::Owned(String::from_utf8_lossy(&joined).into_owned()))
}

fn ends_in_dots(path: &[u8]) -> bool {
    path.ends_with(b"/.") || path.ends_with(b"/..")
}

/// Whether a path holds anything that could make its canonical form differ: `%`, `\`, `;`, `//` or `/.`.
fn needs_work(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        let pair = before == b'/' && (byte == b'/' || byte == b'.');
        if pair || matches!(byte, b'%' | b'\\' | b';') {
            return true;
        }
        before = byte;
    }
    false
}

/// Decodes escapes once, reads `\` as `/` in either form, and cuts parameters up to the next slash.
fn decode(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut in_parameter = false;
    let mut at = 0;
    while at < path.len() {
        let (byte, taken) = match path[at] {
            b'%' => (escape(&path[at..])?, 3),
            plain => (plain, 1),
        };
        let byte = if byte == b'\\' { b'/' } else { byte };
        let opens_parameter = taken == 1 && byte == b';';
        in_parameter = (in_parameter || opens_parameter) && byte != b'/';
        if !in_parameter {
            out.push(byte);
        }
        at += taken;
    }
    Ok(out)
}

fn escape(from: &[u8]) -> Result<u8, PathError> {
    let digit = |at: usize| {
        from.get(at)
            .and_then(|&b| (b as char).to_digit(16))
            .ok_or(PathError::Escape)
    };
    match digit(1)? * 16 + digit(2)? {
        0 => Err(PathError::Nul),
        value => Ok(u8::try_from(value).expect("two hex digits are at most 255")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_borrowed_as_it_stands() {
        assert!(matches!(
            canonical("/a/b.c/d-e").unwrap(),
            Cow::Borrowed("/a/b.c/d-e")
        ));
    }

    #[test]
    fn escapes_dots_slashes_and_parameters_are_resolved() {
        for (sent, meant) in [
            ("/a/../b", "/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/..;x=1/b", "/b"),
            ("/a%2f..%2fb", "/b"),
            ("/a\\..\\b", "/b"),
            ("/a%5c..%5cb", "/b"),
            ("//a///b", "/a/b"),
            ("/a;v=1/b;w", "/a/b"),
            ("/../../a", "/a"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/%61", "/a"),
            ("/%2561", "/%61"),
        ] {
            assert_eq!(canonical(sent).unwrap(), meant, "{sent}");
        }
    }

    #[test]
    fn nul_and_malformed_escapes_are_refused() {
        assert_eq!(canonical("/%00"), Err(PathError::Nul));
        for sent in ["/%", "/%4", "/%zz", "/a%2"] {
            assert_eq!(canonical(sent), Err(PathError::Escape), "{sent}");
        }
    }

    #[test]
    fn a_prefix_matches_by_whole_segments() {
        let news = Prefix::parse("/news/").unwrap();
        assert!(news.has("/news") && news.has("/news/x") && news.has("/news/"));
        assert!(!news.has("/newsletter") && !news.has("/"));
        assert!(Prefix::parse("/").unwrap().has("/anything"));
        for bad in ["news", "/a/../b", "/a%20b", "/a?x", "/a;b", "/a b"] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }
}
