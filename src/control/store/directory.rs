//! The store in files below the state directory: keys and values as they would be in KV, for one load balancer alone.
//!
//! Secrets are sealed with the key file's first key, and sealed anew when another one comes first; without a key file they are
//! plain, and only their owner can open them. Files are touched on tokio's threads for blocking work, never on the control thread.

mod beside;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

pub(super) use self::beside::Looking;
use super::{
    Change, Entry, Raw, Seen, StoreError, Watch, Written, broken, checked, is_key, is_secret,
    without_key_file,
};
use crate::control::durable::{
    LOCK, files_below, fresh, locked, make_folder, put_in_place, read_bounded, remove_halves,
    sync_folder, write_fresh,
};
use crate::seal::{Keyring, OpenError, Plain};

/// Of the state directory.
const FOLDER: &str = "kv";
/// A file with more is none that rota wrote.
const MAX_BYTES: usize = 512 * 1024;
/// What names other keys: written after what it names.
const INDEX: &str = "acme/index/";

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Directory(Arc<Files>);

struct Files {
    root: PathBuf,
    keyring: Mutex<Option<Arc<Keyring>>>,
    /// Locked while files are written.
    followers: Mutex<Vec<Follower>>,
    held: Mutex<HashSet<String>>,
    /// None: another process may use the state directory.
    _lock: Option<File>,
}

/// Who watches a prefix.
struct Follower {
    prefix: String,
    says: watch::Sender<Seen>,
}

impl Directory {
    /// Makes the state directory (0700) if it is absent, and locks it. What lies there is sealed anew where that is due. Blocking.
    pub(super) fn open(
        state_dir: &Path,
        keyring: Option<Arc<Keyring>>,
    ) -> Result<Directory, String> {
        let root = state_dir.join(FOLDER);
        let named = |path: &Path, what: &dyn std::fmt::Display| {
            format!("node.state_dir: {}: {what}", path.display())
        };
        make_folder(&root).map_err(|error| named(&root, &error))?;
        let lock = state_dir.join(LOCK);
        let files = Files {
            _lock: Some(locked(&lock).map_err(|what| named(&lock, &what))?),
            root,
            keyring: Mutex::new(keyring.clone()),
            followers: Mutex::default(),
            held: Mutex::default(),
        };
        files.remove_halves().map_err(|error| error.to_string())?;
        if let Some(keyring) = keyring {
            files.seal_anew(&keyring);
        }
        Ok(Directory(Arc::new(files)))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let files = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.map_err(|error| StoreError::Away(error.to_string()))?
    }

    pub(super) async fn exchange(&self, keyring: Option<Arc<Keyring>>) {
        *self.0.keyring.lock().expect("no panic while held") = keyring.clone();
        let Some(keyring) = keyring else {
            return;
        };
        let sealed = self.blocking(move |files| {
            files.seal_anew(&keyring);
            Ok(())
        });
        let _ = sealed.await;
    }

    pub(super) async fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        checked(key)?;
        let key = key.to_owned();
        self.blocking(move |files| files.entry(&key)).await
    }

    pub(super) async fn read_many(
        &self,
        keys: &[String],
    ) -> Result<Vec<Result<Option<Entry>, StoreError>>, StoreError> {
        for key in keys {
            checked(key)?;
        }
        let keys = keys.to_vec();
        self.blocking(move |files| Ok(keys.iter().map(|key| files.entry(key)).collect()))
            .await
    }

    pub(super) async fn write(&self, changes: Vec<Change>) -> Result<Written, StoreError> {
        for change in &changes {
            checked(change.key())?;
        }
        self.blocking(move |files| files.write(&changes)).await
    }

    pub(super) fn open_text(&self, key: &str, text: &[u8]) -> Result<Plain, StoreError> {
        self.0.open(key, text.to_vec().into())
    }

    pub(super) fn place(&self, key: &str) -> String {
        self.0.path(key).display().to_string()
    }

    pub(super) fn lock(&self, key: &str) -> Result<Option<Hold>, StoreError> {
        checked(key)?;
        let mut held = self.0.held.lock().expect("no panic while held");
        Ok(held.insert(key.to_owned()).then(|| Hold {
            files: self.0.clone(),
            key: key.to_owned(),
        }))
    }

    /// What is there is told once it is read; then what is written by this process.
    pub(super) fn watch(&self, prefix: &str) -> Watch {
        let (says, states) = watch::channel(Seen::Unknown);
        let files = self.0.clone();
        let prefix = prefix.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut followers = files.followers.lock().expect("no panic while held");
            says.send_replace(Seen::Is(Arc::new(files.below(&prefix))));
            followers.push(Follower { prefix, says });
        });
        Watch {
            states,
            _following: None,
            _looking: None,
        }
    }
}

/// A lock among the tasks of this process.
pub(super) struct Hold {
    files: Arc<Files>,
    key: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.files.held.lock().expect("no panic while held");
        held.remove(&self.key);
    }
}

impl Files {
    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keyring.lock().expect("no panic while held").clone()
    }

    fn entry(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        Ok(Some(Entry {
            version: version(&text),
            value: self.open(key, text)?,
        }))
    }

    /// As it lies there.
    fn text(&self, key: &str) -> Result<Option<Plain>, StoreError> {
        let path = self.path(key);
        match read_bounded(&path, MAX_BYTES) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(away(&path, &error)),
        }
    }

    fn open(&self, key: &str, text: Plain) -> Result<Plain, StoreError> {
        if !is_secret(key) {
            return Ok(text);
        }
        let path = || self.path(key).display().to_string();
        match self.keyring() {
            None if Keyring::is_sealed(&text) => Err(without_key_file(path(), version(&text))),
            None => Ok(text),
            Some(keyring) => match keyring.open(key, &text) {
                Ok(plain) => Ok(plain),
                // Written before there was a key file.
                Err(OpenError::NotSealed { .. }) => Ok(text),
                Err(error) => Err(broken(path(), &error, version(&text))),
            },
        }
    }

    fn sealed(&self, key: &str, value: &Plain) -> Result<Plain, StoreError> {
        let text = match self.keyring().filter(|_| is_secret(key)) {
            Some(keyring) => keyring.seal(key, value).into_bytes().into(),
            None => value.clone(),
        };
        match text.len() > MAX_BYTES {
            true => Err(StoreError::Refused(format!(
                "{}: {} bytes, at most {MAX_BYTES} are kept",
                self.path(key).display(),
                text.len()
            ))),
            false => Ok(text),
        }
    }

    /// All or none, unless the machine fails in the middle: then what is named by the index is there before the index names it.
    fn write(&self, changes: &[Change]) -> Result<Written, StoreError> {
        let mut followers = self.followers.lock().expect("no panic while held");
        let _turn = self.turn()?;
        for change in changes {
            let version = self.text(change.key())?.map_or(0, |text| version(&text));
            let is_as_read = match change {
                Change::Put { version: read, .. } => *read == version,
                Change::Delete { version: read, .. } => version == 0 || *read == version,
            };
            if !is_as_read {
                return Ok(Written::Conflict);
            }
        }
        let written = self.put(changes).and_then(|()| self.delete(changes));
        // Also after an error: a part of it may be there.
        let keys: Vec<&str> = changes.iter().map(Change::key).collect();
        self.tell(&mut followers, &keys);
        written.map(|()| Written::Done)
    }

    fn put(&self, changes: &[Change]) -> Result<(), StoreError> {
        let puts = changes.iter().filter_map(|change| match change {
            Change::Put { key, value, .. } => Some((key, value)),
            Change::Delete { .. } => None,
        });
        let mut halves = Vec::new();
        let mut written = Ok(());
        for (key, value) in puts {
            let path = self.path(key);
            written = self.sealed(key, value).and_then(|text| {
                halves.push((key, path.clone()));
                write_fresh(&path, &text).map_err(|error| away(&path, &error))
            });
            if written.is_err() {
                break;
            }
        }
        // From here on there is room for all of it.
        halves.sort_by_key(|(key, _)| key.starts_with(INDEX));
        for (_, path) in &halves {
            written = written.and_then(|()| put_in_place(path).map_err(|error| away(path, &error)));
        }
        if written.is_err() {
            for (_, path) in &halves {
                let _ = fs::remove_file(fresh(path));
            }
        }
        written
    }

    fn delete(&self, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            let Change::Delete { key, .. } = change else {
                continue;
            };
            let path = self.path(key);
            match fs::remove_file(&path).and_then(|()| sync_folder(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(away(&path, &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn tell(&self, followers: &mut Vec<Follower>, keys: &[&str]) {
        followers.retain(|follower| !follower.says.is_closed());
        for Follower { prefix, says } in followers {
            let concerned = keys
                .iter()
                .filter_map(|key| Some((*key, key.strip_prefix(prefix.as_str())?)));
            let concerned: Vec<(&str, &str)> = concerned.collect();
            if concerned.is_empty() {
                continue;
            }
            let mut known = match &*says.borrow() {
                Seen::Is(known) => BTreeMap::clone(known),
                Seen::Unknown => BTreeMap::new(),
            };
            for (key, name) in concerned {
                match self.text(key) {
                    Ok(Some(text)) => known.insert(name.to_owned(), raw(&text)),
                    Ok(None) => known.remove(name),
                    // The last good one stays.
                    Err(_) => None,
                };
            }
            says.send_replace(Seen::Is(Arc::new(known)));
        }
    }

    /// All keys that begin with `prefix`, by what follows it.
    fn below(&self, prefix: &str) -> BTreeMap<String, Raw> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let keys = files_below(&self.path(folder)).into_iter();
        let keys = keys.filter_map(|path| self.key_of(&path));
        let below = keys.filter_map(|key| {
            let name = key.strip_prefix(prefix)?.to_owned();
            let text = self.text(&key).ok().flatten()?;
            Some((name, raw(&text)))
        });
        below.collect()
    }

    fn key_of(&self, path: &Path) -> Option<String> {
        let key = path.strip_prefix(&self.root).ok()?.to_str()?;
        is_key(key).then(|| key.to_owned())
    }

    /// What was being written when a process ended.
    fn remove_halves(&self) -> Result<(), StoreError> {
        let _turn = self.turn()?;
        remove_halves(&self.root);
        Ok(())
    }

    /// All secrets that are sealed with another key than the first, or not sealed; what can't be is named.
    fn seal_anew(&self, keyring: &Keyring) {
        let mut followers = self.followers.lock().expect("no panic while held");
        let _turn = match self.turn() {
            Ok(turn) => turn,
            Err(error) => return tracing::warn!("nothing is sealed anew: {error}"),
        };
        let mut sealed = Vec::new();
        for path in files_below(&self.root) {
            let Some(key) = self.key_of(&path).filter(|key| is_secret(key)) else {
                continue;
            };
            match seal_file_anew(&path, &key, keyring) {
                Ok(IsNew::Yes) => sealed.push(key),
                Ok(IsNew::No) => {}
                Err(error) => tracing::warn!(
                    "{}: not sealed with the key file's first key: {error}",
                    path.display()
                ),
            }
        }
        let keys: Vec<&str> = sealed.iter().map(String::as_str).collect();
        self.tell(&mut followers, &keys);
    }
}

enum IsNew {
    Yes,
    No,
}

fn seal_file_anew(path: &Path, key: &str, keyring: &Keyring) -> Result<IsNew, String> {
    let text = read_bounded(path, MAX_BYTES).map_err(|error| error.to_string())?;
    let plain = match Keyring::is_sealed(&text) {
        true if !keyring.is_outdated(&text) => return Ok(IsNew::No),
        true => keyring
            .open(key, &text)
            .map_err(|error| error.to_string())?,
        false => text,
    };
    write_fresh(path, keyring.seal(key, &plain).as_bytes())
        .and_then(|()| put_in_place(path))
        .map_err(|error| error.to_string())?;
    Ok(IsNew::Yes)
}

fn away(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Away(format!("{}: {error}", path.display()))
}

fn raw(text: &[u8]) -> Raw {
    Raw {
        bytes: text.into(),
        version: version(text),
        is_locked: false,
    }
}

/// What lies there is its own version: who comes back to an earlier text has changed nothing.
fn version(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests;
