//! What has to outlive the process without Consul: the account and the certificates, in files below the state directory. Blocking.
//!
//! Keys and values are as they would be in KV, sealed with the key file's first key, and sealed anew when another one comes first;
//! without a key file they are plain, and only their owner can open them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::seal::{Keyring, OpenError, Plain};

/// Of the state directory.
const FOLDER: &str = "kv";
/// A file with more is none that rota wrote.
const MAX_BYTES: u64 = 512 * 1024;

/// Files by key; keys are parts divided by slashes, as in KV.
#[derive(Clone, Debug)]
pub(super) struct Keep {
    root: PathBuf,
    /// Locked while a file is written, so that what an order brings is sealed with the keys of that moment.
    keyring: Arc<Mutex<Option<Arc<Keyring>>>>,
}

impl Keep {
    /// Makes the state directory (0700) if it is absent. The error names it. What lies there is sealed anew where that is due.
    pub(super) fn open(state_dir: &Path, keyring: Option<Arc<Keyring>>) -> Result<Keep, String> {
        let keep = Keep {
            root: state_dir.join(FOLDER),
            keyring: Arc::default(),
        };
        make_folder(&keep.root)
            .map_err(|error| format!("node.state_dir: {}: {error}", keep.root.display()))?;
        keep.exchange(keyring);
        Ok(keep)
    }

    /// Takes another key file. If another key comes first, all that lies there is sealed with it; what can't be is named.
    pub(super) fn exchange(&self, keyring: Option<Arc<Keyring>>) {
        let mut present = self.keyring();
        let before = std::mem::replace(&mut *present, keyring);
        let Some(keyring) = present.as_ref() else {
            return;
        };
        if before.is_some_and(|before| before.seals_like(keyring)) {
            return;
        }
        let is_whole = |path: &PathBuf| !path.to_string_lossy().ends_with(FRESH);
        for path in files_below(&self.root).into_iter().filter(is_whole) {
            if let Err(error) = self.seal_anew(&path, keyring) {
                let path = path.display();
                tracing::warn!("acme: {path}: not sealed with the key file's first key: {error}");
            }
        }
    }

    fn keyring(&self) -> MutexGuard<'_, Option<Arc<Keyring>>> {
        self.keyring.lock().expect("no panic while held")
    }

    /// If it is sealed with another key.
    fn seal_anew(&self, path: &Path, keyring: &Keyring) -> Result<(), String> {
        let text = read_bounded(path).map_err(|e| e.to_string())?;
        let key = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        let Some(key) = key.filter(|_| keyring.is_outdated(&text)) else {
            return Ok(());
        };
        let plain = keyring.open(key, &text).map_err(|e| e.to_string())?;
        replace(path, keyring.seal(key, &plain).as_bytes()).map_err(|e| e.to_string())
    }

    /// None: there is no such key.
    pub(super) fn read(&self, key: &str) -> Result<Option<Plain>, String> {
        let path = self.root.join(key);
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(&error)),
        };
        let keyring = self.keyring().clone();
        match &keyring {
            None if Keyring::is_sealed(&text) => Err(named(&"sealed, and there is no key file")),
            None => Ok(Some(text)),
            Some(keyring) => match keyring.open(key, &text) {
                Ok(plain) => Ok(Some(plain)),
                // Written before there was a key file.
                Err(OpenError::NotSealed { .. }) => Ok(Some(text)),
                Err(error) => Err(named(&error)),
            },
        }
    }

    /// Writes the whole of it or nothing, and has it on disk when it returns.
    pub(super) fn write(&self, key: &str, plain: &[u8]) -> Result<(), String> {
        let path = self.root.join(key);
        let keyring = self.keyring();
        let sealed = keyring.as_ref().map(|ring| ring.seal(key, plain));
        let text = sealed.as_deref().map_or(plain, str::as_bytes);
        replace(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Removes a key, there or not.
    pub(super) fn remove(&self, key: &str) -> Result<(), String> {
        let path = self.root.join(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What is being written is called so until it is whole.
const FRESH: &str = ".new";

/// Files of a folder and of those in it; what cannot be listed has none.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            Ok(_) | Err(_) => vec![entry.path()],
        })
        .collect()
}

fn read_bounded(path: &Path) -> io::Result<Plain> {
    let mut text = Plain::default();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut text)?;
    match text.len() as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!("longer than {MAX_BYTES} bytes"))),
        false => Ok(text),
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("a key lies in a folder");
    make_folder(folder)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(FRESH);
    let fresh = PathBuf::from(fresh);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    // The rename itself has to be on disk too.
    File::open(folder)?.sync_all()
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::seal::Secret;

    /// A folder of its own, gone with the value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("rota-keep-{name}-{}", std::process::id()));
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn keyring(byte: u8) -> Option<Arc<Keyring>> {
        keyrings(&[byte])
    }

    fn keyrings(bytes: &[u8]) -> Option<Arc<Keyring>> {
        let secrets: Vec<Secret> = bytes.iter().map(|b| Secret::from_bytes([*b; 32])).collect();
        Some(Arc::new(Keyring::of(&secrets)))
    }

    const KEY: &str = "acme/certs/a.test";

    #[test]
    fn what_is_written_is_read_and_lies_sealed_where_only_its_owner_looks() {
        let folder = Folder::new("sealed");
        let keep = Keep::open(&folder.0, keyring(1)).unwrap();
        assert!(keep.read(KEY).unwrap().is_none());
        keep.write(KEY, b"secret").unwrap();
        keep.write(KEY, b"secret too").unwrap();
        assert_eq!(keep.read(KEY).unwrap().unwrap().as_slice(), b"secret too");
        let path = folder.0.join("kv").join(KEY);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("rota1:") && !text.contains("secret"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.0)), (0o600, 0o700));
    }

    #[test]
    fn what_cannot_be_opened_is_named_with_its_path() {
        let folder = Folder::new("foreign");
        let path = folder.0.join("kv").join(KEY);
        let keep = |ring| Keep::open(&folder.0, ring).unwrap();
        keep(keyring(1)).write(KEY, b"secret").unwrap();
        for ring in [None, keyring(2)] {
            let error = keep(ring).read(KEY).unwrap_err();
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
        fs::copy(&path, path.with_file_name("b.test")).unwrap();
        let error = keep(keyring(1)).read("acme/certs/b.test").unwrap_err();
        assert!(error.contains("sealed for another place"), "{error}");
    }

    #[test]
    fn what_lies_there_is_sealed_anew_once_another_key_comes_first_so_that_the_old_one_can_go() {
        let folder = Folder::new("exchange");
        let keep = Keep::open(&folder.0, keyrings(&[1])).unwrap();
        keep.write(KEY, b"secret").unwrap();
        let under_way = keep.clone();
        keep.exchange(keyrings(&[1, 2]));
        keep.exchange(keyrings(&[2, 1]));
        under_way.write("acme/certs/b.test", b"late").unwrap();
        let opened = Keep::open(&folder.0, keyrings(&[2])).unwrap();
        assert_eq!(opened.read(KEY).unwrap().unwrap().as_slice(), b"secret");
        let late = opened.read("acme/certs/b.test").unwrap().unwrap();
        assert_eq!(late.as_slice(), b"late");
        // At a start too.
        Keep::open(&folder.0, keyrings(&[3, 2])).unwrap();
        let started = Keep::open(&folder.0, keyrings(&[3])).unwrap();
        assert_eq!(started.read(KEY).unwrap().unwrap().as_slice(), b"secret");
    }

    #[test]
    fn without_a_key_file_it_is_plain_and_stays_readable_when_there_is_one() {
        let folder = Folder::new("plain");
        Keep::open(&folder.0, None)
            .unwrap()
            .write(KEY, b"secret")
            .unwrap();
        let sealed = Keep::open(&folder.0, keyring(1)).unwrap();
        assert_eq!(sealed.read(KEY).unwrap().unwrap().as_slice(), b"secret");
    }
}
