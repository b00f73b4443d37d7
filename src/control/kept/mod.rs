//! What a load balancer with Consul keeps on its own disk, so that it serves at its next start whoever is down: the last good table,
//! certificates, session ticket keys. A file each below `state_dir/kept`, [`mod@format`] says how it is written.
//!
//! A [`Keeper`] takes what is to be kept at any moment and never waits for a disk: the newest content of each file stands in for
//! those before, and one task writes. What cannot be read or written is named, and costs nothing else.

pub mod format;
pub mod keeping;
pub mod table;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::{Notify, watch};

use self::format::Seal;
use self::table::Table;
use super::durable::{LOCK, files_below, locked, make_folder, read_bounded, remove_halves};
use super::mistake::{IGNORED, Mistake};
use crate::seal::{Digest, Keyring, Plain};
use crate::telemetry::Vitals;

/// The table's file.
pub const TABLE: &str = "table";
/// Of the state directory.
const FOLDER: &str = "kept";
/// A file with more is neither written nor read.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Whose files they are.
#[derive(Clone, Debug)]
pub struct Owner {
    pub node: String,
    /// The pod's.
    pub prefix: String,
}

/// What one file is to be.
#[derive(Clone)]
pub enum Content {
    /// Written out on the writer's thread: it may be large.
    Table(Box<Table>),
    /// May be a secret.
    Text(Plain),
    /// There is to be none.
    Nothing,
}

/// Names of files, the same as of keys in the store where it is one of those. Cheap to clone.
#[derive(Clone)]
pub struct Keeper(Arc<Shared>);

struct Shared {
    state_dir: PathBuf,
    root: PathBuf,
    owner: Owner,
    keyrings: watch::Receiver<Option<Arc<Keyring>>>,
    /// At most one content a file, with the moment that it is of: a disk that hangs costs the memory of what it has not taken.
    pending: Mutex<BTreeMap<String, (SystemTime, Content)>>,
    /// Rings when something is pending.
    bell: Notify,
    /// What each file holds, as far as it is known and sealed as it should be: the same is not written twice.
    lies: Mutex<BTreeMap<String, Digest>>,
    /// None: another process has it; asked for again before each write.
    lock: Mutex<Option<File>>,
    /// What is wrong, by file.
    troubles: watch::Sender<BTreeMap<PathBuf, Mistake>>,
    vitals: Arc<Vitals>,
}

impl Keeper {
    /// Makes the folder (0700) if it is absent. Runs on the current tokio runtime, as long as there is somebody who gives it keyrings.
    /// Blocking. What goes wrong is among [`Keeper::troubles`]: an LB without a disk serves all the same.
    pub fn start(
        state_dir: &Path,
        owner: Owner,
        keyrings: watch::Receiver<Option<Arc<Keyring>>>,
        vitals: Arc<Vitals>,
    ) -> Keeper {
        let keeper = Keeper::open(state_dir, owner, keyrings.clone(), vitals);
        tokio::spawn(writer::run(keeper.clone(), keyrings));
        keeper
    }

    fn open(
        state_dir: &Path,
        owner: Owner,
        keyrings: watch::Receiver<Option<Arc<Keyring>>>,
        vitals: Arc<Vitals>,
    ) -> Keeper {
        let keeper = Keeper(Arc::new(Shared {
            state_dir: state_dir.to_owned(),
            root: state_dir.join(FOLDER),
            owner,
            keyrings,
            pending: Mutex::default(),
            bell: Notify::new(),
            lies: Mutex::default(),
            lock: Mutex::default(),
            troubles: watch::Sender::default(),
            vitals,
        }));
        if keeper.is_ours() {
            remove_halves(&keeper.0.root);
        }
        keeper
    }

    /// Has the file hold this, soon. Never waits.
    pub fn keep(&self, name: &str, content: Content) {
        let of = match &content {
            Content::Table(table) => table.heard,
            Content::Text(_) | Content::Nothing => SystemTime::now(),
        };
        let mut pending = self.0.pending.lock().expect("no panic while held");
        pending.insert(name.to_owned(), (of, content));
        drop(pending);
        self.0.bell.notify_one();
    }

    /// As [`Keeper::keep`], also if the file holds the same already: it is of another moment.
    fn keep_anew(&self, name: &str, content: Content) {
        let mut lies = self.0.lies.lock().expect("no panic while held");
        lies.remove(name);
        drop(lies);
        self.keep(name, content);
    }

    /// The table that was kept last. Blocking.
    pub fn recall_table(&self) -> Option<Table> {
        let (of, text) = self.recall(TABLE)?;
        let read = Table::read(&text, of);
        read.map_err(|why| self.trouble(TABLE, why.to_owned(), IGNORED))
            .ok()
    }

    /// What a file holds, and the moment that it is of. None: there is none, or it is not usable. Blocking.
    pub fn recall(&self, name: &str) -> Option<(SystemTime, Plain)> {
        let path = self.path(name);
        let text = match read_bounded(&path, MAX_BYTES) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.trouble(name, error.to_string(), IGNORED);
                }
                return None;
            }
        };
        let keyring = self.0.keyrings.borrow().clone();
        match format::read(name, &self.0.owner.prefix, &text, keyring.as_deref()) {
            Ok((head, content, seal)) => {
                let of = format::moment(head.of_ms);
                self.note(name, of, &content, seal);
                Some((of, content))
            }
            Err(why) => {
                self.trouble(name, why.to_string(), IGNORED);
                None
            }
        }
    }

    /// All usable files of a folder (`acme/certs/`), by name. Blocking.
    pub fn recall_below(&self, folder: &str) -> Vec<(String, Plain)> {
        let files = files_below(&self.path(folder)).into_iter();
        let names = files.filter_map(|path| self.name_of(&path));
        let recalled = names.filter_map(|name| {
            let (_, content) = self.recall(&name)?;
            Some((name, content))
        });
        recalled.collect()
    }

    /// A content that is no use to whoever read it.
    pub fn blame(&self, name: &str, why: String) {
        self.trouble(name, why, IGNORED);
    }

    /// What is wrong now, by file; a file that is written well is not among them any more.
    pub fn troubles(&self) -> watch::Receiver<BTreeMap<PathBuf, Mistake>> {
        self.0.troubles.subscribe()
    }

    /// A file that was read well; one whose seal is outdated is to be written anew.
    fn note(&self, name: &str, of: SystemTime, content: &Plain, seal: Seal) {
        let mut lies = self.0.lies.lock().expect("no panic while held");
        match seal {
            Seal::Current => drop(lies.insert(name.to_owned(), Digest::of(content))),
            Seal::Outdated => {
                lies.remove(name);
                let mut pending = self.0.pending.lock().expect("no panic while held");
                let anew = || (of, Content::Text(content.clone()));
                pending.entry(name.to_owned()).or_insert_with(anew);
                self.0.bell.notify_one();
            }
        }
    }

    /// Whether the folder is there and this process's; what speaks against it is named.
    fn is_ours(&self) -> bool {
        let mut lock = self.0.lock.lock().expect("no panic while held");
        if lock.is_some() {
            return true;
        }
        let path = self.0.state_dir.join(LOCK);
        let taken = make_folder(&self.0.root)
            .map_err(|error| (self.0.root.clone(), error.to_string()))
            .and_then(|()| locked(&path).map_err(|why| (path.clone(), why)));
        match taken {
            Ok(file) => {
                *lock = Some(file);
                self.mended(&path);
                self.mended(&self.0.root);
                true
            }
            Err((path, why)) => {
                self.trouble_at(path, format!("nothing is kept: {why}"), IGNORED);
                false
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.root.join(name)
    }

    /// Of files that can be rota's.
    fn name_of(&self, path: &Path) -> Option<String> {
        let name = path.strip_prefix(&self.0.root).ok()?.to_str()?;
        super::store::is_key(name).then(|| name.to_owned())
    }

    fn trouble(&self, name: &str, why: String, in_force: &'static str) {
        self.trouble_at(self.path(name), why, in_force);
    }

    fn trouble_at(&self, path: PathBuf, why: String, in_force: &'static str) {
        let mistake = Mistake::new(format!("state:{}", path.display()), why, in_force);
        self.0.troubles.send_if_modified(|troubles| {
            let before = troubles.insert(path, mistake.clone());
            before != Some(mistake)
        });
    }

    fn mended(&self, path: &Path) {
        self.0
            .troubles
            .send_if_modified(|troubles| troubles.remove(path).is_some());
    }
}

/// Never a content: it may be a secret.
impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keeper({})", self.0.root.display())
    }
}

#[cfg(test)]
mod tests;
