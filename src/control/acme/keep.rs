//! What has to outlive the process without Consul: the account and the certificates, in files below the state directory. Blocking.
//!
//! Keys and values are as they would be in KV, sealed with the key file's first key; without a key file they are plain, and only
//! their owner can open them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::seal::{Keyring, OpenError, Plain};

/// Of the state directory.
const FOLDER: &str = "kv";
/// A file with more is none that rota wrote.
const MAX_BYTES: u64 = 512 * 1024;

/// Files by key; keys are parts divided by slashes, as in KV.
#[derive(Clone, Debug)]
pub(super) struct Keep {
    root: PathBuf,
    keyring: Option<Arc<Keyring>>,
}

impl Keep {
    /// Makes the state directory (0700) if it is absent. The error names it.
    pub(super) fn open(state_dir: &Path, keyring: Option<Arc<Keyring>>) -> Result<Keep, String> {
        let keep = Keep {
            root: state_dir.join(FOLDER),
            keyring,
        };
        make_folder(&keep.root)
            .map_err(|error| format!("node.state_dir: {}: {error}", keep.root.display()))?;
        Ok(keep)
    }

    /// None: there is no such key.
    pub(super) fn read(&self, key: &str) -> Result<Option<Plain>, String> {
        let path = self.root.join(key);
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(&error)),
        };
        let mut text = Plain::default();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|error| named(&error))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(named(&format!("longer than {MAX_BYTES} bytes")));
        }
        match &self.keyring {
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
        let sealed = self.keyring.as_ref().map(|ring| ring.seal(key, plain));
        let text = sealed.as_deref().map_or(plain, str::as_bytes);
        replace(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Keep {
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
        Some(Arc::new(Keyring::of(&[Secret::from_bytes([byte; 32])])))
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
