//! Which certificates there are: the index in the store, by shard, and what of it is news. Pure.
//!
//! The index is watched, certificates are not: of five thousand, a renewal moves one shard of some sixty KiB, and one certificate is
//! fetched. An entry and its certificate are written in one transaction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::keys;
use crate::config::DomainName;
use crate::seal::{Digest, Plain};

/// Of a chain, so that it tells nothing of the key.
pub(super) type Hash = String;

/// What is known of a certificate without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) hash: Hash,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) issuer: String,
    /// When it was written.
    pub(super) at: u64,
}

/// A part of the index.
pub(super) type Shard = BTreeMap<DomainName, Entry>;

pub(super) fn hash_of(chain: &str) -> Hash {
    Digest::of(chain.as_bytes()).to_hex()
}

/// Entries under names that are none, or that belong elsewhere, are passed over: nobody would look for them here.
pub(super) fn read(key: &str, text: &[u8]) -> Result<Shard, String> {
    let written: BTreeMap<String, Entry> =
        serde_json::from_slice(text).map_err(|_| format!("{key}: not what rota writes"))?;
    let named = |(name, entry): (String, Entry)| Some((DomainName::parse(&name)?, entry));
    let belongs = |(name, _): &(DomainName, Entry)| keys::shard(name) == key;
    Ok(written
        .into_iter()
        .filter_map(named)
        .filter(belongs)
        .collect())
}

pub(super) fn write(shard: &Shard) -> Plain {
    let written: BTreeMap<&str, &Entry> = shard
        .iter()
        .map(|(name, entry)| (name.as_str(), entry))
        .collect();
    Plain::new(serde_json::to_vec(&written).expect("texts and numbers are json"))
}

/// What is to be done after the index moved.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) fetch: Vec<(DomainName, Hash)>,
    pub(super) gone: Vec<DomainName>,
}

/// Compares what is known with the index, shard by shard; `None`: a shard that cannot be read, of which all stays as it was.
pub(super) fn news(
    shards: &BTreeMap<char, Option<Shard>>,
    known: &BTreeMap<DomainName, Hash>,
) -> News {
    let mut news = News::default();
    for (name, entry) in shards.values().flatten().flatten() {
        if known.get(name) != Some(&entry.hash) {
            news.fetch.push((name.clone(), entry.hash.clone()));
        }
    }
    let is_gone = |name: &&DomainName| match shards.get(&keys::shard_digit(name)) {
        Some(Some(shard)) => !shard.contains_key(*name),
        Some(None) => false,
        None => true,
    };
    news.gone = known.keys().filter(is_gone).cloned().collect();
    news
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
        }
    }

    fn shards(entries: &[(&str, &str)]) -> BTreeMap<char, Option<Shard>> {
        let mut shards: BTreeMap<char, Option<Shard>> = BTreeMap::new();
        for (text, hash) in entries {
            let shard = shards.entry(keys::shard_digit(&name(text))).or_default();
            let shard = shard.get_or_insert_default();
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
        let found = read(&key, &write(&shard)).unwrap();
        assert_eq!(found, Shard::from([(mine, entry("h"))]));
        for text in ["", "[]", "{\"a.test\":{}}", "{\"a.test\":7}"] {
            let error = read(&key, text.as_bytes()).unwrap_err();
            assert!(error.starts_with(&key), "{error}");
        }
    }

    #[test]
    fn what_changed_is_fetched_what_is_gone_goes_and_the_rest_is_left_alone() {
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
        assert_eq!(found.gone, [name("d.test")]);
    }

    #[test]
    fn of_a_shard_that_cannot_be_read_all_stays() {
        let known = known(&[("a.test", "1")]);
        let digit = keys::shard_digit(&name("a.test"));
        let found = news(&BTreeMap::from([(digit, None)]), &known);
        assert_eq!(found, News::default());
        assert_eq!(news(&BTreeMap::new(), &known).gone, [name("a.test")]);
    }
}
