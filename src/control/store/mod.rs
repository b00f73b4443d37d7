//! What a pod's load balancers share, and what outlives them: keys and values, in Consul's KV or in the state directory.
//!
//! Both are one door: what is secret is sealed and opened in here, by key, so that no caller can store a secret in the clear.
//! Who holds a [`Lease`] writes by [`Store::transact`], which is taken as a whole or not at all, and not at all once the lease has
//! passed to somebody else, whatever the holder still believes.

mod consul;
mod damage;
mod directory;
mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

pub use self::damage::Present;
use self::damage::Told;
use self::directory::Directory;
use super::consul::{Client, PrefixWatch};
use crate::seal::{Keyring, OpenError, Plain};

/// What begins so is a secret.
const SEALED: [&str; 5] = [
    "acme/account/",
    "acme/orders/",
    "acme/certs/",
    "acme/proofs/",
    "certs/own/",
];
/// And this.
const TICKETS: &str = "keys/tickets";

/// Keys and values; keys are given without the pod's prefix, in parts divided by slashes. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    /// Which damage was named.
    told: Arc<Told>,
}

#[derive(Clone)]
enum Backend {
    Consul(Arc<consul::Shared>),
    Directory(Directory),
}

/// One value, opened.
pub struct Entry {
    pub value: Plain,
    /// What it is to be changed by; never 0.
    pub version: u64,
}

/// One value as it rests: sealed where that is due.
#[derive(Clone, PartialEq, Eq)]
pub struct Raw {
    pub bytes: Arc<[u8]>,
    pub version: u64,
    /// Goes with a session, so that it does not outlive who wrote it for long. In a directory nothing does.
    pub is_locked: bool,
}

/// One key to be changed; `version` is what was read, 0: there was none.
pub enum Change {
    Put {
        key: String,
        value: Plain,
        version: u64,
    },
    /// To delete what is gone already is done.
    Delete { key: String, version: u64 },
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Done,
    /// The lease has passed on, or something was changed since it was read: nothing was written.
    Conflict,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// It may be there again later. Of a change nobody knows whether it was taken.
    Away(String),
    /// There is a value that cannot be opened: `key` is where it lies, `version` what it is to be changed by.
    Broken {
        key: String,
        why: String,
        flaw: Flaw,
        version: u64,
    },
    /// It will not be until somebody changes something: rights, the key file, a value that is too large. Nothing was written.
    Refused(String),
}

/// Why a value cannot be opened here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nobody can open it.
    Damaged,
    /// Sealed with a key that is not here, or by another version: others may open it.
    Foreign,
}

impl Flaw {
    pub fn of(error: &OpenError) -> Flaw {
        match error.may_open_elsewhere() {
            true => Flaw::Foreign,
            false => Flaw::Damaged,
        }
    }
}

/// What is known of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nobody has answered yet.
    Unknown,
    /// All keys below it, by what follows it; as last heard.
    Is(Arc<BTreeMap<String, Raw>>),
}

impl Store {
    /// In Consul's KV below `prefix`, the pod's. `name` is this load balancer's in its pod. Runs on the current tokio runtime; a
    /// session is made once something needs it.
    pub fn in_consul(
        client: Client,
        prefix: &str,
        name: &str,
        keyring: Option<Arc<Keyring>>,
    ) -> Store {
        let shared = consul::Shared::start(client, prefix, name, keyring);
        Store {
            backend: Backend::Consul(shared),
            told: Arc::default(),
        }
    }

    /// In files below the state directory, which no other process may use meanwhile. Blocking: it seals anew what is sealed with
    /// another key than the key file's first.
    ///
    /// # Errors
    /// Names the setting and the path.
    pub fn in_directory(state_dir: &Path, keyring: Option<Arc<Keyring>>) -> Result<Store, String> {
        let directory = Directory::open(state_dir, keyring)?;
        Ok(Store {
            backend: Backend::Directory(directory),
            told: Arc::default(),
        })
    }

    /// The same files beside the process that uses them, or while none does: what is written here takes turns with it.
    ///
    /// # Errors
    /// Names the setting and the path.
    pub fn beside_directory(
        state_dir: &Path,
        keyring: Option<Arc<Keyring>>,
    ) -> Result<Store, String> {
        let directory = Directory::open_beside(state_dir, keyring)?;
        Ok(Store {
            backend: Backend::Directory(directory),
            told: Arc::default(),
        })
    }

    /// What is there now, as the leader has it and not merely some server.
    pub async fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match &self.backend {
            Backend::Consul(shared) => shared.read(key).await,
            Backend::Directory(directory) => directory.read(key).await,
        }
    }

    /// Each as [`Store::read`] has it, in the order of `keys`: one that cannot be opened costs itself alone. They are not all of
    /// one moment.
    pub async fn read_many(
        &self,
        keys: &[String],
    ) -> Result<Vec<Result<Option<Entry>, StoreError>>, StoreError> {
        match &self.backend {
            Backend::Consul(shared) => shared.read_many(keys).await,
            Backend::Directory(directory) => directory.read_many(keys).await,
        }
    }

    /// Nobody else has the lock `key` while this lease is held. None: somebody has it, in this process or another, or had it until
    /// just now (in Consul, for a second after a holder that vanished).
    pub async fn lock(&self, key: &str) -> Result<Option<Lease>, StoreError> {
        let hold = match &self.backend {
            Backend::Consul(shared) => shared.lock(key).await?.map(Hold::Consul),
            Backend::Directory(directory) => directory.lock(key)?.map(Hold::Directory),
        };
        Ok(hold.map(|hold| Lease { hold }))
    }

    /// All changes or none, if the lease is still held and each key is as it was read. At most 63.
    ///
    /// In a directory a crash in the middle leaves a part: what is put in the order given, but what is below `acme/index/` after
    /// everything else, and deletions last.
    ///
    /// # Errors
    /// With [`StoreError::Away`] nobody knows whether they were taken: the answer may have been lost. Read again, consistently,
    /// before anything that depends on it.
    pub async fn transact(
        &self,
        lease: &Lease,
        changes: Vec<Change>,
    ) -> Result<Written, StoreError> {
        match (&self.backend, &lease.hold) {
            (Backend::Consul(shared), Hold::Consul(hold)) => shared.transact(hold, &changes).await,
            (Backend::Directory(directory), Hold::Directory(_)) => directory.write(changes).await,
            // A lease of another store is none of this one.
            (Backend::Consul(_), Hold::Directory(_)) | (Backend::Directory(_), Hold::Consul(_)) => {
                Ok(Written::Conflict)
            }
        }
    }

    /// One change without a lease, if the key is as it was read. Errors as those of [`Store::transact`].
    pub async fn write(&self, change: Change) -> Result<Written, StoreError> {
        match &self.backend {
            Backend::Consul(shared) => shared.write(&[change]).await,
            Backend::Directory(directory) => directory.write(vec![change]).await,
        }
    }

    /// All changes or none without a lease, if each key is as it was read: of keys that operators write, too. At most 64.
    pub async fn write_all(&self, changes: Vec<Change>) -> Result<Written, StoreError> {
        match &self.backend {
            Backend::Consul(shared) => shared.write(&changes).await,
            Backend::Directory(directory) => directory.write(changes).await,
        }
    }

    /// Follows all keys that begin with `prefix`, on the current tokio runtime. Not consistent: what is seen may be a moment old; and
    /// Consul does not tell a prefix that the token may not read from one without keys.
    pub fn watch(&self, prefix: &str) -> Watch {
        match &self.backend {
            Backend::Consul(shared) => shared.watch(prefix),
            Backend::Directory(directory) => directory.watch(prefix),
        }
    }

    /// As [`Store::watch`], of a prefix that ends with a slash; in a directory what other processes write there is seen, too, within some
    /// seconds.
    pub fn watch_with_others(&self, prefix: &str) -> Watch {
        match &self.backend {
            Backend::Consul(shared) => shared.watch(prefix),
            Backend::Directory(directory) => directory.watch_with_others(prefix),
        }
    }

    /// Opens what a watch saw; `key` is whole, with the watch's prefix.
    pub fn open(&self, key: &str, raw: &Raw) -> Result<Plain, StoreError> {
        match &self.backend {
            Backend::Consul(shared) => shared.open(key, &raw.bytes, raw.version),
            Backend::Directory(directory) => directory.open_text(key, &raw.bytes),
        }
    }

    /// Where a key lies, as an operator names it.
    fn place(&self, key: &str) -> String {
        match &self.backend {
            Backend::Consul(shared) => format!("kv:{}", shared.place(key)),
            Backend::Directory(directory) => directory.place(key),
        }
    }

    /// What stands in `nodes/<name>` as long as this process lives, for the others of its pod. In a directory there are no others.
    pub fn announce(&self, value: Vec<u8>) {
        match &self.backend {
            Backend::Consul(shared) => shared.announce(value),
            Backend::Directory(_) => {}
        }
    }

    /// Writes what was announced, and gives back what goes with this process, so that nobody waits for its end. Locks are nobody's
    /// afterwards.
    pub async fn leave(&self) {
        match &self.backend {
            Backend::Consul(shared) => shared.leave().await,
            Backend::Directory(_) => {}
        }
    }

    /// Takes another key file. In a directory, what lies there is sealed with its first key when this ends; in Consul all load
    /// balancers share what lies there, and none does it by itself.
    pub async fn exchange(&self, keyring: Option<Arc<Keyring>>) {
        match &self.backend {
            Backend::Consul(shared) => shared.exchange(keyring),
            Backend::Directory(directory) => directory.exchange(keyring).await,
        }
    }
}

/// A lock that is held until this is dropped, or until it is lost.
#[must_use]
pub struct Lease {
    hold: Hold,
}

enum Hold {
    Consul(consul::Hold),
    Directory(directory::Hold),
}

impl Lease {
    /// Whether nobody else can have it yet, by this process's own clock: said without asking anybody.
    pub fn is_held(&self) -> bool {
        match &self.hold {
            Hold::Consul(hold) => hold.is_held(),
            Hold::Directory(_) => true,
        }
    }

    /// Ends once it is no longer held.
    pub async fn lost(&self) {
        match &self.hold {
            Hold::Consul(hold) => hold.lost().await,
            Hold::Directory(_) => std::future::pending().await,
        }
    }

    /// Gives it back, so that somebody else can have it at once. Dropping does the same in the background.
    pub async fn release(self) {
        match self.hold {
            Hold::Consul(hold) => hold.release().await,
            Hold::Directory(hold) => drop(hold),
        }
    }
}

/// A prefix that is followed until this is dropped.
pub struct Watch {
    states: watch::Receiver<Seen>,
    /// In Consul; what is in the directory is told by who writes it.
    _following: Option<Arc<PrefixWatch>>,
    /// In the directory, where others write to it.
    _looking: Option<directory::Looking>,
}

impl Watch {
    /// Waits until there is a state that [`Watch::state`] has not given yet.
    pub async fn changed(&mut self) {
        if self.states.changed().await.is_err() {
            // Nobody is left who could change anything.
            std::future::pending().await
        }
    }

    /// What was last heard. It stays while nobody answers.
    pub fn state(&mut self) -> Seen {
        self.states.borrow_and_update().clone()
    }
}

/// Whether a key's value is a secret.
fn is_secret(key: &str) -> bool {
    key == TICKETS || SEALED.iter().any(|prefix| key.starts_with(prefix))
}

/// A key names a file in a directory, so it has no part that means something there.
pub(super) fn is_key(key: &str) -> bool {
    const LONGEST_PART: usize = 253;
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':');
    let is_part = |part: &str| {
        !part.is_empty()
            && part.len() <= LONGEST_PART
            && !part.starts_with('.')
            && part.bytes().all(is_plain)
    };
    key.split('/').all(is_part)
}

fn checked(key: &str) -> Result<(), StoreError> {
    match is_key(key) {
        true => Ok(()),
        false => Err(StoreError::Refused(format!(
            "{key:?} is no key: expected parts of A-Z a-z 0-9 . _ - : divided by slashes, none beginning with a dot"
        ))),
    }
}

/// `place` is where it lies as an operator names it; `error` names the place it was sealed for.
fn broken(place: String, error: &OpenError, version: u64) -> StoreError {
    let why = match error {
        OpenError::NotSealed { .. } => "not sealed by rota".to_owned(),
        OpenError::OtherVersion { .. } => "sealed by another version of rota".to_owned(),
        OpenError::UnknownKey { key, .. } => {
            format!("sealed with the key {key}, which the key file does not have")
        }
        OpenError::Tampered { .. } => {
            "changed since it was sealed, or sealed for another place".to_owned()
        }
    };
    StoreError::Broken {
        key: place,
        why,
        flaw: Flaw::of(error),
        version,
    }
}

/// As [`broken`], of what is sealed where nothing can be opened.
fn without_key_file(place: String, version: u64) -> StoreError {
    StoreError::Broken {
        key: place,
        why: "sealed, and there is no acme.key_file".to_owned(),
        flaw: Flaw::Foreign,
        version,
    }
}

impl Change {
    /// Changes nothing, and is a conflict where there is such a key: a condition of what is written with it.
    pub fn none_at(key: &str) -> Change {
        Change::Delete {
            key: key.to_owned(),
            version: 0,
        }
    }

    pub fn key(&self) -> &str {
        match self {
            Change::Put { key, .. } | Change::Delete { key, .. } => key,
        }
    }
}

/// Never a value: in a directory without a key file it may be a secret.
impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.bytes.len(), self.version)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.value.len(), self.version)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("is_held", &self.is_held())
            .finish()
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Away(what) | StoreError::Refused(what) => f.write_str(what),
            StoreError::Broken { key, why, .. } => write!(f, "{key}: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_holds_a_key_is_secret_and_what_all_must_read_is_not() {
        for key in [
            "acme/account/0123",
            "acme/orders/a.test",
            "acme/certs/_wildcard.a.test",
            "acme/proofs/a.test",
            "certs/own/a",
            "keys/tickets",
        ] {
            assert!(is_secret(key) && is_key(key), "{key}");
        }
        for key in ["nodes/lb-1", "acme/index/f", "acme/attempts/a.test"] {
            assert!(!is_secret(key) && is_key(key), "{key}");
        }
    }

    #[test]
    fn a_key_cannot_leave_its_folder() {
        for key in [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", "a/.b", "a b", "a\0", "a\\b", "ä",
        ] {
            assert!(!is_key(key), "{key}");
        }
    }
}
