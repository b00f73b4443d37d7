//! Following a store whose index and certificates somebody else writes to, over a real directory.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;

/// Gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("rota-sync-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn following(folder: &Folder) -> (Following, mpsc::Receiver<Found>) {
    let (sender, found) = mpsc::channel(FOUND);
    let following = Following {
        store: Store::in_directory(&folder.0, None).unwrap(),
        kept: Kept::default(),
        known: BTreeMap::new(),
        refused: BTreeMap::new(),
        shards: BTreeMap::new(),
        raw: BTreeMap::new(),
        pod: Pod::default(),
        told_lost: None,
        sender,
    };
    (following, found)
}

fn naming(name: &DomainName, hash: &str) -> BTreeMap<String, Raw> {
    let entry =
        serde_json::json!({"hash": hash, "not_before": 1, "not_after": 2, "issuer": "", "at": 3});
    let shard = serde_json::json!({ name.as_str(): entry }).to_string();
    let raw = Raw {
        bytes: shard.into_bytes().into(),
        version: 1,
        is_locked: false,
    };
    BTreeMap::from([(keys::shard_digit(name).to_string(), raw)])
}

async fn takes(following: &mut Following, raw: &BTreeMap<String, Raw>) {
    assert!(matches!(following.take(raw).await, Ok(Ok(()))));
}

#[tokio::test]
async fn what_was_refused_is_looked_at_again_only_while_the_index_names_it() {
    let folder = Folder::new();
    let (mut following, _found) = following(&folder);
    let name = DomainName::parse("a.test").unwrap();
    takes(&mut following, &naming(&name, "one")).await;
    assert!(
        following
            .reconsiders()
            .is_some_and(|at| at > Instant::now())
    );
    // Past, as after a minute.
    let past = Instant::now();
    following.refused.insert(name.clone(), ("one".into(), past));
    following.known.insert(name.clone(), "two".into());
    takes(&mut following, &naming(&name, "two")).await;
    assert_eq!(
        following.reconsiders(),
        None,
        "the index went back to what is known"
    );
    following.known.clear();
    following.refused.insert(name, ("one".into(), past));
    takes(&mut following, &BTreeMap::new()).await;
    assert_eq!(following.reconsiders(), None, "the index names it no more");
}

#[tokio::test]
async fn certificates_that_an_index_names_otherwise_are_told_of_in_one_line_and_once() {
    let folder = Folder::new();
    let (mut following, _found) = following(&folder);
    let looked = |hash: &str| -> Vec<Looked> {
        let name = |n| DomainName::parse(&format!("{n}.test")).unwrap();
        let why = |n| Err(format!("acme/certs/{n}.test: another one"));
        (0..5000).map(|n| (name(n), hash.into(), why(n))).collect()
    };
    let mut refused = Vec::new();
    assert_eq!(
        following.sort(looked("one"), &mut refused).refused.len(),
        5000
    );
    assert_eq!(
        index::refusal_words(&refused).unwrap(),
        "5000 certificates of the store are refused, the first: acme/certs/0.test: another one"
    );
    refused.clear();
    following.sort(looked("one"), &mut refused);
    assert_eq!(index::refusal_words(&refused), None, "told before");
}
