//! What went wrong with a question to Consul, sorted by whose fault it is.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of an answer that an error may quote.
pub const EXCERPT_BYTES: usize = 200;

/// Never holds the token, and never more than 200 bytes of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsulError {
    /// Ours: a token file that cannot be read, a key that cannot be asked for.
    Local(String),
    /// The agent: no connection, or it broke before an answer was whole.
    Unreachable(String),
    /// The agent: no whole answer by the deadline.
    TimedOut,
    /// 401 or 403: the token's rights.
    Denied(String),
    /// The servers: an answer of what they knew when they last had a leader.
    NoLeader,
    /// The servers: the one that answered last heard of its leader so long ago.
    Behind(Duration),
    /// Any other status but success: the servers have no leader, an unknown datacenter.
    Server { status: u16, excerpt: String },
    /// A success whose content is not what its endpoint promises.
    Unreadable(String),
    /// A success that goes on beyond this limit, in bytes: there is too much below what was asked for.
    TooLong(usize),
}

/// Who has to mend it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    Us,
    #[default]
    Agent,
    Token,
    /// The servers: they have no leader.
    Leader,
    Servers,
    Content,
}

impl ConsulError {
    pub fn blame(&self) -> Blame {
        match self {
            ConsulError::Local(_) => Blame::Us,
            ConsulError::Unreachable(_) | ConsulError::TimedOut => Blame::Agent,
            ConsulError::Denied(_) => Blame::Token,
            ConsulError::NoLeader => Blame::Leader,
            ConsulError::Server { excerpt, .. } if excerpt.contains("leader") => Blame::Leader,
            ConsulError::Behind(_) | ConsulError::Server { .. } => Blame::Servers,
            ConsulError::Unreadable(_) | ConsulError::TooLong(_) => Blame::Content,
        }
    }
}

impl fmt::Display for ConsulError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConsulError::Local(what) => f.write_str(what),
            ConsulError::Unreachable(what) => write!(f, "agent unreachable: {what}"),
            ConsulError::TimedOut => f.write_str("agent unreachable: no answer in time"),
            ConsulError::Denied(what) => write!(f, "refused by acl: {what}"),
            ConsulError::NoLeader => f.write_str("the servers have no leader"),
            ConsulError::Behind(since) => write!(
                f,
                "the server that answered last heard of its leader {} ms ago: it is far behind",
                since.as_millis()
            ),
            ConsulError::Server { status, excerpt } => write!(f, "answered {status}: {excerpt}"),
            ConsulError::Unreadable(what) => write!(f, "unreadable answer: {what}"),
            ConsulError::TooLong(limit) => write!(
                f,
                "unreadable answer: longer than {limit} bytes, so that what it was before stays: there is too much below this key"
            ),
        }
    }
}

impl std::error::Error for ConsulError {}

/// The beginning of a foreign text, fit for a log line: control characters replaced, the secret taken out, cut.
pub fn excerpt(text: &[u8], secret: Option<&str>) -> String {
    // A secret that begins inside the excerpt ends inside this.
    let reach = EXCERPT_BYTES + secret.map_or(0, str::len);
    let text = String::from_utf8_lossy(&text[..text.len().min(reach)]);
    let mut text = match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "[token]"),
        _ => text.into_owned(),
    };
    text = text.trim().replace(|c: char| c.is_control(), " ");
    cut(&mut text, EXCERPT_BYTES);
    text
}

/// Cuts a text to at most `bytes`, between characters.
pub fn cut(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_holds_neither_control_characters_nor_the_token() {
        let text = format!("no\r\nACL for s3cret {}", "é".repeat(300));
        let excerpt = excerpt(text.as_bytes(), Some("s3cret"));
        assert!(excerpt.len() <= EXCERPT_BYTES);
        assert!(excerpt.starts_with("no  ACL for [token] é"), "{excerpt}");
    }

    #[test]
    fn a_token_across_the_cut_is_not_shown_in_part() {
        let text = format!("{}s3cret", "x".repeat(EXCERPT_BYTES - 3));
        assert!(!excerpt(text.as_bytes(), Some("s3cret")).contains("s3c"));
    }
}
