//! Following a store that others import into, over a real directory: a store beside it is another process's view.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::time::timeout;

use super::super::change::{forget, import};
use super::*;
use crate::certs::Certificate;
use crate::certs::load::Pair;
use crate::seal::{Keyring, Secret};

/// A state directory of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("rota-own-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }

    fn own(&self, name: &str) -> PathBuf {
        self.0.join("kv/certs/own").join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn keyring() -> Option<Arc<Keyring>> {
    Some(Arc::new(Keyring::of(&[Secret::from_bytes([1; 32])])))
}

/// What follows, and a store of another process over the same directory.
fn followed(folder: &Folder) -> (watch::Receiver<Imported>, Store) {
    let store = Store::in_directory(&folder.0, keyring()).unwrap();
    let (says, told) = watch::channel(Imported::default());
    tokio::spawn(follow(store, (Recalled::default(), None), says));
    (told, Store::beside_directory(&folder.0, keyring()).unwrap())
}

fn pair(names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let here = Path::new("made");
    Pair {
        certificate: Certificate::from_pem(chain.as_bytes(), key.as_bytes(), here, here).unwrap(),
        chain: chain.into_bytes(),
        key: key.into_bytes().into(),
    }
}

fn name(text: &str) -> OwnName {
    OwnName::parse(text).unwrap()
}

async fn until(told: &mut watch::Receiver<Imported>, what: impl Fn(&Imported) -> bool) -> Imported {
    let waited = timeout(Duration::from_secs(60), told.wait_for(what)).await;
    waited.expect("within a minute").unwrap().clone()
}

fn serves(told: &Imported, name: &str, pair: &Pair) -> bool {
    let served = told.certificates.get(name);
    served.is_some_and(|own| own.certificate.served().cert == pair.certificate.served().cert)
}

#[tokio::test]
async fn what_another_process_imports_replaces_and_forgets_is_followed() {
    let folder = Folder::new();
    let (mut told, beside) = followed(&folder);
    until(&mut told, |told| told.extent == Extent::Whole).await;
    let (first, second) = (pair(&["a.test"]), pair(&["a.test", "*.a.test"]));
    let said = import(&beside, &name("a.test"), &first).await.unwrap();
    assert!(
        said.starts_with("a.test: imported; for a.test, valid until "),
        "{said}"
    );
    until(&mut told, |told| serves(told, "a.test", &first)).await;
    let rests = std::fs::read_to_string(folder.own("a.test")).unwrap();
    assert!(rests.starts_with("rota1:"), "{rests}");
    let said = import(&beside, &name("a.test"), &second).await.unwrap();
    assert!(
        said.contains("in place of one that is valid until "),
        "{said}"
    );
    until(&mut told, |told| serves(told, "a.test", &second)).await;

    let error = forget(&beside, &name("b.test")).await.unwrap_err();
    assert!(error.ends_with("the nearest known: a.test"), "{error}");
    forget(&beside, &name("a.test")).await.unwrap();
    let left = until(&mut told, |told| told.certificates.is_empty()).await;
    assert_eq!(left.refused.len(), 0);
    let error = forget(&beside, &name("a.test")).await.unwrap_err();
    assert!(error.ends_with("none is known"), "{error}");
}

#[tokio::test]
async fn of_two_that_have_a_name_the_later_one_goes_first_whatever_they_lie_under() {
    let folder = Folder::new();
    let (mut told, beside) = followed(&folder);
    let older = pair(&["a.test"]);
    import(&beside, &name("a"), &older).await.unwrap();
    // Moments are whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let later = pair(&["a.test"]);
    import(&beside, &name("z"), &later).await.unwrap();
    let told = until(&mut told, |told| told.certificates.len() == 2).await;
    let first = told.in_order()[0].served().cert.clone();
    assert_eq!(first, later.certificate.served().cert);
    assert_eq!(told.name_for("A.test"), Some("a"));
    assert_eq!(told.name_for("b.test"), None);
}

#[tokio::test]
async fn what_cannot_be_used_is_named_and_the_last_good_one_stays_until_another_is_imported() {
    let folder = Folder::new();
    let (mut told, beside) = followed(&folder);
    let (good, better) = (pair(&["a.test"]), pair(&["a.test"]));
    import(&beside, &name("a.test"), &good).await.unwrap();
    import(&beside, &name("b.test"), &pair(&["b.test"]))
        .await
        .unwrap();
    until(&mut told, |told| told.certificates.len() == 2).await;
    std::fs::copy(folder.own("b.test"), folder.own("moved")).unwrap();
    std::fs::rename(folder.own("moved"), folder.own("a.test")).unwrap();
    let now = until(&mut told, |told| told.refused.contains_key("a.test")).await;
    assert!(
        now.refused["a.test"].contains("sealed for another place"),
        "{now:?}"
    );
    assert!(serves(&now, "a.test", &good) && now.locked_out().is_none());
    let said = import(&beside, &name("a.test"), &better).await.unwrap();
    assert!(
        said.contains("in place of one that could not be opened"),
        "{said}"
    );
    let now = until(&mut told, |told| told.refused.is_empty()).await;
    assert!(serves(&now, "a.test", &better));
}

#[tokio::test]
async fn what_one_removes_by_hand_is_gone_and_what_a_store_lost_with_its_mark_is_written_again() {
    let folder = Folder::new();
    let (mut told, beside) = followed(&folder);
    let kept = pair(&["a.test"]);
    import(&beside, &name("a.test"), &kept).await.unwrap();
    import(&beside, &name("b.test"), &pair(&["b.test"]))
        .await
        .unwrap();
    until(&mut told, |told| told.certificates.len() == 2).await;
    std::fs::remove_file(folder.own("b.test")).unwrap();
    until(&mut told, |told| told.certificates.len() == 1).await;

    let read = |name: &str| std::fs::read(folder.own(name));
    std::fs::remove_dir_all(folder.own("")).unwrap();
    let waited = timeout(Duration::from_secs(60), async {
        while read("a.test").is_err() || read(MARK).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it is written again");
    assert!(serves(&told.borrow(), "a.test", &kept));
    assert!(read("b.test").is_err(), "what was removed before stays so");
    // From here on a word of an operator's is believed again.
    forget(&beside, &name("a.test")).await.unwrap();
    until(&mut told, |told| told.certificates.is_empty()).await;
    assert!(read("a.test").is_err());
}

#[tokio::test]
async fn a_store_that_was_lost_and_begun_anew_by_an_import_gets_back_the_others() {
    let folder = Folder::new();
    let (mut told, beside) = followed(&folder);
    let (a, b, c) = (pair(&["a.test"]), pair(&["b.test"]), pair(&["a.test"]));
    import(&beside, &name("a.test"), &a).await.unwrap();
    import(&beside, &name("b.test"), &b).await.unwrap();
    until(&mut told, |told| told.certificates.len() == 2).await;
    // Another store, with a mark of its own, in its place: nobody writes in between.
    let other = Folder::new();
    let elsewhere = Store::beside_directory(&other.0, keyring()).unwrap();
    import(&elsewhere, &name("a.test"), &c).await.unwrap();
    let turn = std::fs::File::create(folder.0.join("writing")).unwrap();
    turn.lock().unwrap();
    let away = folder.0.join("away");
    std::fs::rename(folder.own(""), &away).unwrap();
    std::fs::rename(other.own(""), folder.own("")).unwrap();
    drop(turn);
    let now = until(&mut told, |told| serves(told, "a.test", &c)).await;
    assert!(serves(&now, "b.test", &b));
    let waited = timeout(Duration::from_secs(60), async {
        while !folder.own("b.test").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it is written again");
    forget(&beside, &name("b.test")).await.unwrap();
    until(&mut told, |told| told.certificates.len() == 1).await;
}

#[tokio::test]
async fn with_a_key_file_that_opens_nothing_it_is_the_key_file_that_is_named() {
    let folder = Folder::new();
    let beside = Store::beside_directory(&folder.0, keyring()).unwrap();
    import(&beside, &name("a.test"), &pair(&["a.test"]))
        .await
        .unwrap();
    let other = Some(Arc::new(Keyring::of(&[Secret::from_bytes([2; 32])])));
    let store = Store::beside_directory(&folder.0, other).unwrap();
    let (says, mut told) = watch::channel(Imported::default());
    tokio::spawn(follow(store.clone(), (Recalled::default(), None), says));
    let now = until(&mut told, |told| told.extent == Extent::Whole).await;
    assert!(
        now.locked_out()
            .is_some_and(|why| why.contains("sealed with the key"))
    );
    let error = import(&store, &name("b.test"), &pair(&["b.test"])).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("the key file here is not the pod's"),
        "{error}"
    );
    store.exchange(keyring()).await;
    let now = until(&mut told, |told| told.certificates.len() == 1).await;
    assert_eq!(now.locked_out(), None);
}

#[tokio::test]
async fn what_is_too_large_or_one_too_many_is_refused_with_the_limit() {
    let folder = Folder::new();
    let beside = Store::beside_directory(&folder.0, keyring()).unwrap();
    let mut large = pair(&["a.test"]);
    large.chain = large
        .chain
        .repeat(super::super::LARGEST_BYTES / large.chain.len() + 1);
    let error = import(&beside, &name("a.test"), &large).await.unwrap_err();
    assert!(error.contains("at most 32768 are kept"), "{error}");
    let small = pair(&["a.test"]);
    import(&beside, &name("a.test"), &small).await.unwrap();
    for number in 1..super::super::MOST {
        std::fs::write(folder.own(&format!("n{number}")), "").unwrap();
    }
    let error = import(&beside, &name("b.test"), &small).await.unwrap_err();
    assert!(error.contains("there are 1000"), "{error}");
    import(&beside, &name("a.test"), &small).await.unwrap();
}

#[tokio::test]
async fn of_many_imports_at_once_each_is_done_as_a_whole_or_says_that_it_was_not() {
    let folder = Folder::new();
    let pairs: Vec<Arc<Pair>> = (0..8).map(|_| Arc::new(pair(&["a.test"]))).collect();
    let mut imports = tokio::task::JoinSet::new();
    for pair in pairs.clone() {
        // Each is a process of its own.
        let store = Store::beside_directory(&folder.0, keyring()).unwrap();
        imports.spawn(async move { import(&store, &name("a.test"), &pair).await });
    }
    let said = imports.join_all().await;
    let done = said.iter().filter(|said| said.is_ok()).count();
    assert!(done >= 1, "{said:?}");
    for refused in said.iter().filter_map(|said| said.as_ref().err()) {
        assert!(refused.contains("nothing was written"), "{refused}");
    }
    let (mut told, _beside) = followed(&folder);
    let told = until(&mut told, |told| told.extent == Extent::Whole).await;
    assert_eq!(told.refused.len(), 0);
    assert!(pairs.iter().any(|pair| serves(&told, "a.test", pair)));
}
