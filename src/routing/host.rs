//! Host names as routes and requests mean them: lower case, no port, no trailing dot. Hot path.

use std::fmt;
use std::net::Ipv6Addr;

/// The longest name DNS can carry (RFC 1035 section 2.3.4), in octets.
pub const MAX_HOST_LEN: usize = 253;

/// A host name or IP address literal: lower case, without port, without trailing dot, by construction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Box<str>);

/// What a route's `host` may be. `*.example.com` has every name below `example.com`, at any depth, not itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Exact(Host),
    /// Holds the part after `*.`.
    Wildcard(Host),
    Any,
}

/// Why a text is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    Empty,
    TooLong,
    /// A character no host may have (user info, comma, space, control characters, `_` is allowed).
    Character,
    /// Two dots in a row, a leading dot, or a bracket without its partner.
    Shape,
    Port,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostError::Empty => "a host is empty",
            HostError::TooLong => "a host is longer than 253 octets",
            HostError::Character => "a host holds a character that no host may have",
            HostError::Shape => "a host has an empty label or a broken address literal",
            HostError::Port => "a host's port is not a number from 0 to 65535",
        })
    }
}

impl std::error::Error for HostError {}

impl Host {
    /// Takes `name` or `name:port`, in any case; gives the name alone.
    pub fn parse(text: &str) -> Result<Host, HostError> {
        let mut scratch = HostBuffer::new();
        Ok(Host(scratch.fill(text.as_bytes())?.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HostPattern {
    /// Takes `name`, `*.name` or `*`. A port is refused here: routes ignore ports.
    pub fn parse(text: &str) -> Result<HostPattern, HostError> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let host = Host::parse(name)?;
        let has_port =
            !name.starts_with('[') && name.contains(':') && name.parse::<Ipv6Addr>().is_err();
        if has_port {
            return Err(HostError::Port);
        }
        Ok(if wildcard {
            HostPattern::Wildcard(host)
        } else {
            HostPattern::Exact(host)
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => write!(f, "{host}"),
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

/// What a host name may hold, in lower case; 0 for all else.
const FOLDED: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// Scratch space on the stack in which a request's Host becomes comparable without an allocation.
pub struct HostBuffer {
    bytes: [u8; MAX_HOST_LEN],
    len: usize,
}

impl Default for HostBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl HostBuffer {
    pub fn new() -> HostBuffer {
        HostBuffer {
            bytes: [0; MAX_HOST_LEN],
            len: 0,
        }
    }

    /// Takes a Host field or authority as sent (RFC 9110 section 7.2); gives it in lower case without port and trailing dot.
    /// User info, lists and anything else that two parsers could read differently are errors.
    pub fn fill(&mut self, sent: &[u8]) -> Result<&str, HostError> {
        let name = split_port(sent)?;
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if name.len() > MAX_HOST_LEN {
            return Err(HostError::TooLong);
        }
        let mut before = b'.';
        let literal = name[0] == b'[';
        for (to, &from) in self.bytes.iter_mut().zip(name) {
            let byte = FOLDED[usize::from(from)];
            match byte {
                0 if literal && matches!(from, b'[' | b']' | b':') => *to = from,
                0 => return Err(HostError::Character),
                b'.' if before == b'.' => return Err(HostError::Shape),
                _ => *to = byte,
            }
            before = byte;
        }
        // A second dot at the end.
        if before == b'.' {
            return Err(HostError::Shape);
        }
        self.len = name.len();
        Ok(self.as_str())
    }

    /// What the last successful [`HostBuffer::fill`] gave; empty before it.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("only ASCII is ever stored")
    }
}

/// Cuts `:port`; an IPv6 literal keeps its brackets.
fn split_port(sent: &[u8]) -> Result<&[u8], HostError> {
    if sent.first() == Some(&b'[') {
        let end = sent
            .iter()
            .position(|&b| b == b']')
            .ok_or(HostError::Shape)?;
        let inside = std::str::from_utf8(&sent[1..end]).map_err(|_| HostError::Character)?;
        inside.parse::<Ipv6Addr>().map_err(|_| HostError::Shape)?;
        return match &sent[end + 1..] {
            [] => Ok(&sent[..=end]),
            [b':', port @ ..] => check_port(port).map(|()| &sent[..=end]),
            _ => Err(HostError::Shape),
        };
    }
    match sent.iter().position(|&b| b == b':') {
        None => Ok(sent),
        Some(colon) => check_port(&sent[colon + 1..]).map(|()| &sent[..colon]),
    }
}

fn check_port(port: &[u8]) -> Result<(), HostError> {
    if port.is_empty() {
        return Ok(());
    }
    if port.len() > 5 || !port.iter().all(u8::is_ascii_digit) {
        return Err(HostError::Port);
    }
    let value = port
        .iter()
        .fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    if value > 65_535 {
        Err(HostError::Port)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_loses_case_port_and_trailing_dot() {
        for sent in [
            "Shop.Example.COM",
            "shop.example.com:8443",
            "shop.example.com.",
            "SHOP.example.com.:80",
        ] {
            assert_eq!(
                Host::parse(sent).unwrap().as_str(),
                "shop.example.com",
                "{sent}"
            );
        }
        assert_eq!(Host::parse("[::1]:80").unwrap().as_str(), "[::1]");
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_no_host() {
        for sent in [
            "", ".", "..", "a..", "a..:80", "a..b", ".a", "a@b", "a,b", "a b", "a\0", "a/b", "a:b",
            "a:99999", "[::1", "[::1]x", "[zz]", "a:80:90",
        ] {
            assert!(Host::parse(sent).is_err(), "{sent:?}");
        }
    }

    #[test]
    fn a_pattern_is_exact_wildcard_or_any() {
        assert_eq!(HostPattern::parse("*").unwrap(), HostPattern::Any);
        assert_eq!(
            HostPattern::parse("*.Example.com").unwrap().to_string(),
            "*.example.com"
        );
        assert!(HostPattern::parse("a.*.com").is_err());
        assert_eq!(HostPattern::parse("a.com:80"), Err(HostError::Port));
    }
}
