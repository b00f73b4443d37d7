//! Which certificates there are: the index in the store, by shard, and what of it is news. Pure.
//!
//! The index is watched, certificates are not: of five thousand, a renewal moves one shard of some sixty KiB, and one certificate is
//! fetched. An entry and its certificate are written in one transaction.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::keys;
use super::records::seconds;
use super::sync::Held;
use crate::config::DomainName;
use crate::seal::{Digest, Plain};

/// Of a chain, so that it tells nothing of the key.
pub type Hash = String;

/// What is known of a certificate without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub hash: Hash,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) issuer: String,
    /// When it was written.
    pub(super) at: u64,
    /// An operator asked for another one, and does not have it yet: it is due for all load balancers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_asked: bool,
}

/// A part of the index.
pub type Shard = BTreeMap<DomainName, Entry>;

pub(super) fn hash_of(chain: &str) -> Hash {
    Digest::of(chain.as_bytes()).to_hex()
}

impl Entry {
    /// Of a certificate that is written now.
    pub(super) fn of(held: &Held) -> Entry {
        Entry {
            hash: held.hash.clone(),
            not_before: seconds(held.certificate.not_before()),
            not_after: seconds(held.certificate.not_after()),
            issuer: held.certificate.issuer().to_owned(),
            at: seconds(SystemTime::now()),
            is_asked: false,
        }
    }
}

/// What cannot be read, entry by entry, and entries under names that are none or that belong elsewhere, are passed over: what they
/// stood for is found by the certificates, and written anew.
pub fn read(key: &str, text: &[u8]) -> Shard {
    let written: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(text).unwrap_or_default();
    let named = |(name, entry): (String, serde_json::Value)| {
        let name = DomainName::parse(&name).filter(|name| keys::shard(name) == key)?;
        Some((name, serde_json::from_value(entry).ok()?))
    };
    written.into_iter().filter_map(named).collect()
}

pub fn write(shard: &Shard) -> Plain {
    let written: BTreeMap<&str, &Entry> = shard
        .iter()
        .map(|(name, entry)| (name.as_str(), entry))
        .collect();
    Plain::new(serde_json::to_vec(&written).expect("texts and numbers are json"))
}

/// What is to be done after the index moved.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    pub fetch: Vec<(DomainName, Hash)>,
    /// Known, and not in the index: gone if their certificates are, too.
    pub unnamed: Vec<DomainName>,
}

/// Compares what is known with the index, shard by shard.
pub fn news(shards: &BTreeMap<char, Shard>, known: &BTreeMap<DomainName, Hash>) -> News {
    let mut news = News::default();
    for (name, entry) in shards.values().flatten() {
        if known.get(name) != Some(&entry.hash) {
            news.fetch.push((name.clone(), entry.hash.clone()));
        }
    }
    let is_unnamed = |name: &&DomainName| {
        let shard = shards.get(&keys::shard_digit(name));
        shard.is_none_or(|shard| !shard.contains_key(*name))
    };
    news.unnamed = known.keys().filter(is_unnamed).cloned().collect();
    news
}

/// Why those are refused that were not before, in one line: behind a restart of Consul the older index names other certificates than the
/// store has, all of them at once.
pub(super) fn refusal_words(refused: &[String]) -> Option<String> {
    match refused {
        [] => None,
        [why] => Some(format!("a certificate of the store is refused: {why}")),
        [first, ..] => Some(format!(
            "{} certificates of the store are refused, the first: {first}",
            refused.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    fn entry(hash: &str) -> Entry {
        Entry {
            hash: hash.into(),
            not_before: 1,
            not_after: 2,
            issuer: "CN=ca".into(),
            at: 3,
            is_asked: false,
        }
    }

    fn shards(entries: &[(&str, &str)]) -> BTreeMap<char, Shard> {
        let mut shards: BTreeMap<char, Shard> = BTreeMap::new();
        for (text, hash) in entries {
            let shard = shards.entry(keys::shard_digit(&name(text))).or_default();
            shard.insert(name(text), entry(hash));
        }
        shards
    }

    fn known(entries: &[(&str, &str)]) -> BTreeMap<DomainName, Hash> {
        let one = |(text, hash): &(&str, &str)| (name(text), (*hash).to_owned());
        entries.iter().map(one).collect()
    }

    #[test]
    fn what_is_written_is_read_as_the_same_and_names_of_other_shards_are_passed_over() {
        let mine = name("a.test");
        let key = keys::shard(&mine);
        let elsewhere = (0..)
            .map(|n| name(&format!("n{n}.test")))
            .find(|other| keys::shard(other) != key);
        let shard = Shard::from([(mine.clone(), entry("h")), (elsewhere.unwrap(), entry("h"))]);
        let found = read(&key, &write(&shard));
        assert_eq!(found, Shard::from([(mine, entry("h"))]));
    }

    #[test]
    fn a_wrong_entry_costs_itself_alone() {
        let mine = name("a.test");
        let mut shard: serde_json::Value =
            serde_json::from_slice(&write(&Shard::from([(mine.clone(), entry("h"))]))).unwrap();
        shard["evil.test"] = serde_json::json!({});
        shard["worse.test"] = serde_json::json!(7);
        let key = keys::shard(&mine);
        let found = read(&key, shard.to_string().as_bytes());
        assert_eq!(found, Shard::from([(mine, entry("h"))]));
        for text in ["", "[]", "{\"a.test\":{}}", "{\"a.test\":7}"] {
            assert_eq!(read(&key, text.as_bytes()), Shard::new(), "{text}");
        }
    }

    #[test]
    fn what_changed_is_fetched_what_is_not_named_is_doubted_and_the_rest_is_left_alone() {
        let index = shards(&[("a.test", "1"), ("b.test", "2"), ("c.test", "3")]);
        let known = known(&[("a.test", "1"), ("b.test", "old"), ("d.test", "4")]);
        let found = news(&index, &known);
        let mut fetch = found.fetch;
        fetch.sort();
        assert_eq!(
            fetch,
            [
                (name("b.test"), "2".to_owned()),
                (name("c.test"), "3".to_owned())
            ]
        );
        assert_eq!(found.unnamed, [name("d.test")]);
        assert_eq!(news(&BTreeMap::new(), &known).unnamed.len(), 3);
    }
}
