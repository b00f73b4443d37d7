//! Certificates of one's own in the store: an operator imports them there, and every load balancer serves them before what a CA issues.

pub mod change;
pub(super) mod follow;
pub(super) mod kept;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::records;
use super::sync::Extent;
use crate::certs::Certificate;
use crate::seal::Plain;

/// Watched as one prefix; what follows it is an [`OwnName`], or [`MARK`].
pub(super) const OWN: &str = "certs/own/";
/// An id that the first import writes and that stays: where it is missing, or is another, the store has lost what it had.
const MARK: &str = "_mark";
/// So many at most, and each so large, that one answer of Consul (64 MiB) has them all, sealed and in base64 twice.
pub const MOST: usize = 1000;
/// Of a chain and its key, as JSON.
pub const LARGEST_BYTES: usize = 32 * 1024;
/// The longest part of a key.
const LONGEST: usize = 253;
/// What stands for a file's path, before the name.
const SOURCE: &str = "kv:";

/// What a certificate lies under: usually the first of its names, `*.z` as `_wildcard.z`; any other word does as well. In lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnName(Box<str>);

impl OwnName {
    /// Letters, digits and `.-_:`, none of `.` and `_` at the beginning but that of `_wildcard.`; or `*.` and such a name.
    pub fn parse(text: &str) -> Option<OwnName> {
        const WILDCARD: &str = "_wildcard.";
        let text = text.to_ascii_lowercase();
        let name = match text.strip_prefix("*.") {
            Some(zone) => format!("{WILDCARD}{zone}"),
            None => text,
        };
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        let word = name.strip_prefix(WILDCARD).unwrap_or(&name);
        let is_fine = !word.is_empty()
            && !word.starts_with(['.', '_'])
            && name.len() <= LONGEST
            && name.bytes().all(plain);
        is_fine.then(|| OwnName(name.into()))
    }

    /// The first of a certificate's names.
    pub fn of(certificate: &Certificate) -> Option<OwnName> {
        certificate.names().find_map(|name| OwnName::parse(&name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn key_of(name: &str) -> String {
    format!("{OWN}{name}")
}

/// `certs/own/<name>`, PEM texts.
#[derive(Serialize, Deserialize)]
struct OwnRecord {
    chain: String,
    key: String,
    /// When it was imported: of two certificates that have a name the later one serves it.
    at: u64,
}

/// One that can be served.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) certificate: Arc<Certificate>,
    at: u64,
}

impl PartialEq for Own {
    fn eq(&self, other: &Own) -> bool {
        Arc::ptr_eq(&self.certificate, &other.certificate)
    }
}

/// Takes an opened value. Blocking.
fn read(name: &str, value: &Plain) -> Result<Own, String> {
    let record: OwnRecord = records::read(&key_of(name), value)?;
    let source = source_of(name);
    let source = Path::new(&source);
    let (chain, key) = (record.chain.as_bytes(), record.key.as_bytes());
    let certificate = Certificate::from_pem(chain, key, source, source);
    Ok(Own {
        certificate: Arc::new(certificate.map_err(|mistake| mistake.to_string())?),
        at: record.at,
    })
}

/// What the store has, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Imported {
    /// Served: the last good one of each name.
    pub(super) certificates: BTreeMap<String, Own>,
    /// Why what lies there now is not what is served.
    pub(super) refused: BTreeMap<String, String>,
    /// Whether the store has answered.
    pub(super) extent: Extent,
    /// Not even the mark can be opened, for this reason: it is the key file that is wrong here.
    trouble: Option<String>,
}

impl Imported {
    /// The latest first: it wins its names.
    pub(super) fn in_order(&self) -> Vec<&Arc<Certificate>> {
        let mut all: Vec<_> = self.certificates.values().collect();
        all.sort_by_key(|own| Reverse(own.at));
        all.into_iter().map(|own| &own.certificate).collect()
    }

    /// The names of those that have ended.
    pub(super) fn ended(&self, now: SystemTime) -> BTreeSet<String> {
        let all = self.certificates.iter();
        let ended = all.filter(|(_, own)| own.certificate.not_after() < now);
        ended.map(|(name, _)| name.clone()).collect()
    }

    /// What one of them lies under that is valid for this name.
    pub(super) fn name_for(&self, host: &str) -> Option<&str> {
        let mut all = self.certificates.iter();
        let found = all.find(|(_, own)| {
            let certificate = &own.certificate;
            certificate.covers(host) || certificate.names().any(|name| name == host)
        });
        found.map(|(name, _)| name.as_str())
    }

    /// Why none of them can be served here, where all that is wrong is the key file.
    pub(super) fn locked_out(&self) -> Option<&str> {
        let has_none = self.certificates.is_empty() && !self.refused.is_empty();
        self.trouble.as_deref().filter(|_| has_none)
    }
}

/// What stands for a file's path where a certificate lies under this name.
pub fn source_of(name: &str) -> String {
    format!("{SOURCE}{name}")
}

/// The name that [`source_of`] made this of.
pub fn name_of(source: &str) -> Option<&str> {
    source.strip_prefix(SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_part_of_a_key_and_never_the_mark() {
        for (text, name) in [
            ("Shop.Example.com", "shop.example.com"),
            ("*.example.com", "_wildcard.example.com"),
            ("_wildcard.example.com", "_wildcard.example.com"),
            ("customer-7_2027", "customer-7_2027"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(OwnName::parse(text).unwrap().as_str(), name);
        }
        let long = "a".repeat(LONGEST + 1);
        let beyond_with_its_star = format!("*.{}", "a".repeat(LONGEST - 5));
        for text in [
            "",
            "_mark",
            ".",
            "..",
            "a/b",
            "*",
            "*.",
            "*.*.a",
            "_a",
            "a b",
            "ä",
            &long,
            &beyond_with_its_star,
        ] {
            assert!(OwnName::parse(text).is_none(), "{text}");
        }
    }
}
