//! What load balancers share in KV is read or refused, never half: what is read is written as the same, and its times can be reckoned with.
#![no_main]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use rota::config::DomainName;
use rota::control::acme::records::{
    self, Attempts, CertificateRecord, NodeRecord, OrderRecord, ProofRecord,
};
use rota::control::acme::{index, keys};
use rota::control::fleet::tickets;
use rota::control::staged::revision::{Entry, Head, Last, Pending, State, counts, follow, hash};
use rota::control::word::Word;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const NOW: Duration = Duration::from_secs(1_800_000_000);

/// A record that is read is written as the same.
fn round<T: DeserializeOwned + Serialize>(text: &[u8]) -> Option<T> {
    let read: T = records::parse(text).ok()?;
    let written = records::write(&read);
    let again: T = records::parse(&written).expect("what was written is read");
    assert_eq!(*records::write(&again), *written);
    Some(read)
}

/// Entry by entry, of whatever is an object: those that are whole, under names that belong to this shard.
fn shard(key: &str, text: &[u8]) {
    let found = index::read(key, text);
    let written: BTreeMap<String, Value> = serde_json::from_slice(text).unwrap_or_default();
    for (name, entry) in &found {
        assert_eq!(keys::shard(name), key);
        let texts = written
            .iter()
            .filter(|(text, _)| DomainName::parse(text).as_ref() == Some(name));
        let mut hashes = texts.map(|(_, value)| value["hash"].as_str().unwrap_or_default());
        assert!(hashes.any(|hash| hash == entry.hash), "what stands there");
    }
    let is_whole = |entry: &Value| {
        let numbers = ["not_before", "not_after", "at"];
        let is_asked = entry.get("is_asked").is_none_or(Value::is_boolean);
        is_asked
            && entry["hash"].is_string()
            && entry["issuer"].is_string()
            && numbers.iter().all(|key| entry[*key].is_u64())
    };
    for (text, _) in written.iter().filter(|(_, entry)| is_whole(entry)) {
        if let Some(name) = DomainName::parse(text).filter(|name| keys::shard(name) == key) {
            assert!(
                found.contains_key(&name),
                "one that is whole is passed over: {name}"
            );
        }
    }
    assert_eq!(index::read(key, &index::write(&found)), found);
    let shards = BTreeMap::from([(key.chars().last().expect("a digit"), found.clone())]);
    let known = found
        .iter()
        .map(|(name, entry)| (name.clone(), entry.hash.clone()))
        .collect();
    assert_eq!(
        index::news(&shards, &known),
        index::News::default(),
        "nothing is news"
    );
    assert_eq!(
        index::news(&shards, &BTreeMap::new()).fetch.len(),
        found.len()
    );
    assert_eq!(
        index::news(&BTreeMap::new(), &known).unnamed.len(),
        found.len()
    );
}

fn ticket_keys(text: &[u8], now: SystemTime) {
    let Ok(keys) = tickets::read(text) else {
        return;
    };
    assert_eq!(tickets::read(&tickets::write(&keys)).as_ref(), Ok(&keys));
    let due = tickets::due(&keys, now);
    let secret = rota::seal::Secret::from_bytes([7; 32]);
    let turned = tickets::turned(&keys, now, secret);
    assert_eq!(turned.is_some(), due <= now, "as soon as it is due");
    if let Some(turned) = turned {
        assert!(turned.generations().len() <= 3 && tickets::due(&turned, now) > now);
        assert_eq!(
            tickets::read(&tickets::write(&turned)).as_ref(),
            Ok(&turned)
        );
    }
}

fn word(text: &[u8]) {
    let Ok(word) = Word::from_json(text) else {
        return;
    };
    assert_eq!(Word::from_json(&word.to_json()).as_ref(), Ok(&word));
    assert!(word.evidence().starts_with("by "));
}

fn entries(text: &[u8], now: u64) {
    let Some(entries) = round::<Vec<Entry>>(text) else {
        return;
    };
    let (added, changed, removed) = counts(&entries);
    assert!(added + changed + removed <= entries.len());
    let head = |is_checkpoint| Head {
        n: 1,
        at: now,
        by: String::new(),
        note: String::new(),
        added,
        changed,
        removed,
        parts: 1,
        bytes: text.len(),
        is_checkpoint,
        state: String::new(),
    };
    let (mut one, mut other) = (State::new(), State::new());
    follow(&mut one, &head(false), entries.clone());
    follow(&mut other, &head(false), entries.clone());
    follow(&mut other, &head(true), entries);
    assert_eq!(hash(&one), hash(&other), "a checkpoint holds all");
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else {
        return;
    };
    let now = SystemTime::UNIX_EPOCH + NOW;
    match kind {
        b'0'..=b'9' | b'a'..=b'f' => shard(&format!("{}{}", keys::INDEX, *kind as char), text),
        b'C' => drop(round::<CertificateRecord>(text)),
        b'O' => drop(round::<OrderRecord>(text)),
        b'P' => drop(round::<ProofRecord>(text)),
        b'N' => drop(round::<NodeRecord>(text)),
        b'A' => {
            let rest = round::<Attempts>(text).and_then(|attempts| attempts.rest(now));
            assert!(rest.is_none_or(|until| until > now && until.checked_add(NOW).is_some()));
        }
        b'T' => ticket_keys(text, now),
        b'W' => word(text),
        b'E' => entries(text, NOW.as_secs()),
        b'H' => drop(round::<Head>(text)),
        b'L' => drop((round::<Last>(text), round::<Pending>(text))),
        _ => {}
    }
});
