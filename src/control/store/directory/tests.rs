//! Files below a state directory of the test's own: what lies there, who may read it, and what a failure in the middle leaves.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::seal::Secret;

/// A folder of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("rota-directory-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.0.join(FOLDER).join(key)
    }

    fn open(&self, keyring: Option<Arc<Keyring>>) -> Directory {
        Directory::open(&self.0, keyring).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The first seals.
fn keys(bytes: &[u8]) -> Option<Arc<Keyring>> {
    let secrets: Vec<Secret> = bytes.iter().map(|b| Secret::from_bytes([*b; 32])).collect();
    Some(Arc::new(Keyring::of(&secrets)))
}

const KEY: &str = "acme/certs/a.test";
const OTHER: &str = "acme/certs/b.test";
const NAMED: &str = "acme/index/0";

fn put(key: &str, value: &[u8], version: u64) -> Change {
    Change::Put {
        key: key.into(),
        value: value.to_vec().into(),
        version,
    }
}

async fn must(directory: &Directory, change: Change) {
    let written = directory.write(vec![change]).await;
    assert_eq!(written, Ok(Written::Done));
}

async fn value(directory: &Directory, key: &str) -> Vec<u8> {
    let entry = directory.read(key).await.unwrap().unwrap();
    entry.value.to_vec()
}

#[tokio::test]
async fn what_is_written_is_read_and_lies_sealed_where_only_its_owner_looks() {
    let folder = Folder::new();
    let directory = folder.open(keys(&[1]));
    assert!(directory.read(KEY).await.unwrap().is_none());
    must(&directory, put(KEY, b"secret", 0)).await;
    let first = directory.read(KEY).await.unwrap().unwrap();
    must(&directory, put(KEY, b"secret too", first.version)).await;
    assert_eq!(value(&directory, KEY).await, b"secret too");
    let text = fs::read_to_string(folder.file(KEY)).unwrap();
    assert!(text.starts_with("rota1:") && !text.contains("secret"));
    must(&directory, put(NAMED, b"{}", 0)).await;
    assert_eq!(fs::read(folder.file(NAMED)).unwrap(), b"{}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in [folder.file(KEY), folder.file(NAMED), folder.0.join(LOCK)] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    for inner in [folder.0.clone(), folder.file(""), folder.file("acme/certs")] {
        assert_eq!(mode(&inner), 0o700, "{}", inner.display());
    }
}

#[tokio::test]
async fn a_second_process_is_refused_the_state_directory_by_name() {
    let folder = Folder::new();
    let directory = folder.open(None);
    let error = Directory::open(&folder.0, None).err().unwrap();
    let lock = folder.0.join("lock").display().to_string();
    assert!(
        error.starts_with(&format!("node.state_dir: {lock}: another rota")),
        "{error}"
    );
    drop(directory);
    folder.open(None);
}

#[tokio::test]
async fn what_cannot_be_opened_is_named_with_its_path() {
    let folder = Folder::new();
    must(&folder.open(keys(&[1])), put(KEY, b"secret", 0)).await;
    for ring in [None, keys(&[2])] {
        let error = folder.open(ring).read(KEY).await.unwrap_err();
        assert!(matches!(error, StoreError::Broken { .. }), "{error:?}");
        let path = folder.file(KEY).display().to_string();
        assert!(error.to_string().starts_with(&path), "{error}");
    }
    fs::copy(folder.file(KEY), folder.file(OTHER)).unwrap();
    let directory = folder.open(keys(&[1]));
    let error = directory.read(OTHER).await.unwrap_err();
    assert!(
        error.to_string().contains("sealed for another place"),
        "{error}"
    );
    let both = directory
        .read_many(&[KEY.into(), OTHER.into()])
        .await
        .unwrap();
    assert!(both[0].is_ok() && both[1].is_err());
}

#[tokio::test]
async fn what_lies_there_is_sealed_anew_once_another_key_comes_first_so_that_the_old_one_can_go() {
    let folder = Folder::new();
    let directory = folder.open(keys(&[1]));
    // A name that ends as a half of a file once did.
    for key in [KEY, "acme/certs/a.new"] {
        must(&directory, put(key, b"secret", 0)).await;
    }
    let before = directory.read(KEY).await.unwrap().unwrap().version;
    let mut watch = directory.watch("acme/certs/");
    watch.changed().await;
    directory.exchange(keys(&[1, 2])).await;
    assert_eq!(directory.read(KEY).await.unwrap().unwrap().version, before);
    directory.exchange(keys(&[2, 1])).await;
    assert_ne!(directory.read(KEY).await.unwrap().unwrap().version, before);
    must(&directory, put(OTHER, b"late", 0)).await;
    directory.exchange(keys(&[2])).await;
    let Seen::Is(seen) = watch.state() else {
        panic!("it was read")
    };
    let opened = directory.open_text(KEY, &seen["a.test"].bytes).unwrap();
    assert_eq!(opened.as_slice(), b"secret");
    drop((directory, watch));
    let directory = folder.open(keys(&[2]));
    for (key, is) in [
        (KEY, &b"secret"[..]),
        ("acme/certs/a.new", b"secret"),
        (OTHER, b"late"),
    ] {
        assert_eq!(value(&directory, key).await, is, "{key}");
    }
    drop(directory);
    // At a start too.
    drop(folder.open(keys(&[3, 2])));
    assert_eq!(value(&folder.open(keys(&[3])), KEY).await, b"secret");
}

#[tokio::test]
async fn without_a_key_file_it_is_plain_and_is_sealed_as_soon_as_there_is_one() {
    let folder = Folder::new();
    let directory = folder.open(None);
    must(&directory, put(KEY, b"secret", 0)).await;
    assert_eq!(fs::read(folder.file(KEY)).unwrap(), b"secret");
    assert_eq!(value(&directory, KEY).await, b"secret");
    directory.exchange(keys(&[1])).await;
    assert!(fs::read(folder.file(KEY)).unwrap().starts_with(b"rota1:"));
    assert_eq!(value(&directory, KEY).await, b"secret");
}

#[tokio::test]
async fn what_there_is_no_room_for_as_a_whole_is_not_begun() {
    let folder = Folder::new();
    let directory = folder.open(keys(&[1]));
    let order = "acme/orders/a.test";
    must(&directory, put(order, b"order", 0)).await;
    let order_read = directory.read(order).await.unwrap().unwrap();
    let changes = || {
        let deleted = Change::Delete {
            key: order.into(),
            version: order_read.version,
        };
        vec![deleted, put(NAMED, b"{}", 0), put(KEY, b"certificate", 0)]
    };
    // One of its files cannot be written.
    let index = folder.file("acme/index");
    make_folder(&index).unwrap();
    fs::create_dir(index.join(".0~")).unwrap();
    let failed = directory.write(changes()).await.unwrap_err();
    assert!(matches!(failed, StoreError::Away(_)), "{failed:?}");
    assert!(directory.read(KEY).await.unwrap().is_none());
    assert_eq!(value(&directory, order).await, b"order");
    assert!(!fresh(&folder.file(KEY)).exists());

    fs::remove_dir(index.join(".0~")).unwrap();
    assert_eq!(directory.write(changes()).await, Ok(Written::Done));
    assert!(directory.read(order).await.unwrap().is_none());
    assert_eq!(value(&directory, KEY).await, b"certificate");

    // What was put in place before the machine failed is whole; the next start removes what was not.
    fs::write(fresh(&folder.file(OTHER)), b"hal").unwrap();
    drop(directory);
    let directory = folder.open(keys(&[1]));
    assert!(!fresh(&folder.file(OTHER)).exists());
    assert!(directory.read(OTHER).await.unwrap().is_none());
}

#[tokio::test]
async fn the_index_is_put_in_place_after_what_it_names() {
    let folder = Folder::new();
    let directory = folder.open(keys(&[1]));
    // Its place is taken, as by a machine that fails at that moment.
    fs::create_dir_all(folder.file(NAMED)).unwrap();
    let changes = [put(NAMED, b"{}", 0), put(KEY, b"certificate", 0)];
    let failed = directory.0.put(&changes).unwrap_err();
    assert!(matches!(failed, StoreError::Away(_)), "{failed:?}");
    assert_eq!(value(&directory, KEY).await, b"certificate");
    assert!(!fresh(&folder.file(NAMED)).exists());
}
