//! The pod's account at each CA: one key for all of them, made once under a lock, and opened here when it is first needed.
//!
//! The key is in the store before any CA hears of it: every load balancer knows its thumbprint by then, and who comes after a holder
//! that died finds the account that was made with it rather than makes another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::authority::{Authority, Credentials, Kept};
use super::failure::Failure;
use super::halt::Halt;
use super::jose::AccountKey;
use super::keys;
use crate::config::{Acme, Directory};
use crate::control::store::{Change, Entry, Lease, Raw, Seen, Store, Written};
use crate::dial::tls;
use crate::seal::Plain;

/// Another load balancer that makes the account is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what it does.
const LOOK_EACH: Duration = Duration::from_millis(700);
/// A key that cannot be opened is tried again after so long: perhaps the key file was mended.
const RECONSIDER: Duration = Duration::from_secs(5);

/// All accounts of a pod, by directory.
pub(super) struct Accounts {
    store: Store,
    settings: Arc<Acme>,
    /// Locked while one is opened, so that the others wait for it.
    open: Mutex<BTreeMap<String, Arc<Authority>>>,
    /// Of the key, once it is known here.
    thumbprint: watch::Sender<Option<String>>,
}

impl Accounts {
    pub(super) fn new(
        store: Store,
        settings: Arc<Acme>,
        thumbprint: watch::Sender<Option<String>>,
    ) -> Accounts {
        Accounts {
            store,
            settings,
            open: Mutex::default(),
            thumbprint,
        }
    }

    /// The account at a directory: open already, kept in the store, or made.
    pub(super) async fn at(&self, directory: &Directory) -> Result<Arc<Authority>, Halt> {
        let mut open = self.open.lock().await;
        if let Some(authority) = open.get(&directory.url) {
            // Somebody took the pod's key away, and it has another one: with this one no proof would be answered by the others.
            let known = self.thumbprint.borrow().clone();
            if known.is_none_or(|known| known == authority.thumbprint()) {
                return Ok(authority.clone());
            }
            tracing::warn!(
                directory = directory.url,
                "acme: the pod's account is another one now: it is opened"
            );
            open.remove(&directory.url);
        }
        let authority = Arc::new(self.open(directory).await?);
        tracing::info!(directory = directory.url, "acme: the account is open");
        open.insert(directory.url.clone(), authority.clone());
        Ok(authority)
    }

    /// The CA does not know it any more: it is made anew, with the same key, when it is needed next.
    pub(super) async fn forget(&self, authority: &Authority) -> Result<(), Halt> {
        let mut open = self.open.lock().await;
        open.remove(authority.directory());
        let key = keys::account(authority.directory());
        let Some(entry) = self.store.read(&key).await? else {
            return Ok(());
        };
        // Another one is there if somebody was quicker.
        if *entry.value == *authority.kept().to_text() {
            let version = entry.version;
            self.store.write(Change::Delete { key, version }).await?;
        }
        Ok(())
    }

    /// The pod's key and its accounts that are open here, as they lie in the store; nothing where none is.
    pub(super) async fn known(&self) -> Vec<(String, Plain)> {
        let open = self.open.lock().await;
        let pods = self.thumbprint.borrow().clone();
        let is_the_pods =
            |one: &&Arc<Authority>| pods.as_deref().is_none_or(|pods| pods == one.thumbprint());
        let accounts = open.values().filter(is_the_pods);
        let key = accounts.clone().find_map(|one| one.kept().key());
        let key = key.map(|key| {
            let text = Plain::new(key.to_text().into_bytes());
            (keys::ACCOUNT_KEY.to_owned(), text)
        });
        let account = |one: &Arc<Authority>| (keys::account(one.directory()), one.kept().to_text());
        key.into_iter().chain(accounts.map(account)).collect()
    }

    async fn open(&self, directory: &Directory) -> Result<Authority, Halt> {
        let tls = client_config(directory.ca_file.clone()).await?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(kept) = self.kept(directory).await? {
                return Ok(Authority::open(&self.settings, directory, tls.clone(), kept).await?);
            }
            match self.store.lock(keys::ACCOUNT_LOCK).await? {
                Some(lease) => {
                    let made = self.make(directory, &tls, &lease).await;
                    lease.release().await;
                    return made;
                }
                None if Instant::now() < until => {
                    sleep(LOOK_EACH.mul_f64(0.7 + 0.6 * fastrand::f64())).await;
                }
                None => {
                    let why = "another load balancer does not get its account open";
                    return Err(Halt::Stopped(why.into()));
                }
            }
        }
    }

    async fn kept(&self, directory: &Directory) -> Result<Option<Credentials>, Halt> {
        let key = keys::account(&directory.url);
        let entry = self.store.read(&key).await?;
        let read = |entry: Entry| {
            let kept = Kept::from_text(&entry.value);
            kept.ok_or_else(|| Halt::Stopped(format!("{key}: not what rota writes")))
        };
        let kept = entry.map(read).transpose()?;
        if let Some(key) = kept.as_ref().and_then(Kept::key) {
            self.thumbprint.send_replace(Some(key.thumbprint()));
        }
        Ok(kept.map(Credentials::Kept))
    }

    /// Under the lock nobody else makes one; what somebody made just before is found.
    async fn make(
        &self,
        directory: &Directory,
        tls: &Arc<rustls::ClientConfig>,
        lease: &Lease,
    ) -> Result<Authority, Halt> {
        let credentials = match self.kept(directory).await? {
            Some(kept) => kept,
            None => Credentials::New(self.key(lease).await?),
        };
        let is_new = matches!(credentials, Credentials::New(_));
        let authority =
            Authority::open(&self.settings, directory, tls.clone(), credentials).await?;
        if is_new {
            let (key, value) = (keys::account(&directory.url), authority.kept().to_text());
            let version = 0;
            let put = Change::Put {
                key,
                value,
                version,
            };
            self.transact(lease, put).await?;
            tracing::info!(directory = directory.url, "acme: an account was made");
        }
        Ok(authority)
    }

    /// The key that is there, or a new one that is there from now on.
    async fn key(&self, lease: &Lease) -> Result<AccountKey, Halt> {
        let present = self.store.read(keys::ACCOUNT_KEY).await?;
        let key = match present {
            Some(entry) => {
                let wrong = || format!("{}: not what rota writes", keys::ACCOUNT_KEY);
                key_of(&entry.value).ok_or_else(|| Halt::Stopped(wrong()))?
            }
            None => {
                let made = AccountKey::generate();
                let put = Change::Put {
                    key: keys::ACCOUNT_KEY.into(),
                    value: Plain::new(made.to_text().into_bytes()),
                    version: 0,
                };
                self.transact(lease, put).await?;
                made
            }
        };
        self.thumbprint.send_replace(Some(key.thumbprint()));
        Ok(key)
    }

    async fn transact(&self, lease: &Lease, change: Change) -> Result<(), Halt> {
        match self.store.transact(lease, vec![change]).await? {
            Written::Done => Ok(()),
            Written::Conflict => {
                let why = "another load balancer made the account meanwhile";
                Err(Halt::Stopped(why.into()))
            }
        }
    }
}

/// None: not what rota writes.
pub(super) fn key_of(value: &[u8]) -> Option<AccountKey> {
    AccountKey::from_text(std::str::from_utf8(value).ok()?)
}

async fn client_config(ca_file: Option<PathBuf>) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let read = move || tls::client_config(ca_file.as_deref(), None, &[b"http/1.1"]);
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|panicked| Failure::Local(panicked.to_string()))?
        .map_err(|error| Failure::Local(format!("acme.ca_file: {error}")))
}

/// Whether the pod's account key can be used here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum KeyStanding {
    #[default]
    Unknown,
    /// Open, or there is none yet.
    Fine,
    /// Why it cannot be opened, with its place.
    Unusable(String),
}

/// Follows the key in the store, so that its thumbprint is known here whoever made it.
pub(super) async fn follow_thumbprint(
    store: Store,
    thumbprint: watch::Sender<Option<String>>,
    standing: watch::Sender<KeyStanding>,
) {
    let mut watch = store.watch(keys::ACCOUNT_KEY);
    loop {
        let now = match watch.state() {
            Seen::Unknown => KeyStanding::Unknown,
            Seen::Is(found) => match found.get("").map(|raw| opened(&store, raw)) {
                None => KeyStanding::Fine,
                Some(Ok(key)) => {
                    replace(&thumbprint, Some(key.thumbprint()));
                    KeyStanding::Fine
                }
                Some(Err(why)) => KeyStanding::Unusable(why),
            },
        };
        let is_news = replace(&standing, now.clone());
        match now {
            KeyStanding::Unusable(why) => {
                if is_news {
                    tracing::warn!("acme: the account's key cannot be used: {why}");
                }
                tokio::select! {
                    () = watch.changed() => {}
                    () = sleep(RECONSIDER) => {}
                }
            }
            KeyStanding::Unknown | KeyStanding::Fine => watch.changed().await,
        }
    }
}

fn opened(store: &Store, raw: &Raw) -> Result<AccountKey, String> {
    let opened = store.open(keys::ACCOUNT_KEY, raw);
    let value = opened.map_err(|error| error.to_string())?;
    key_of(&value).ok_or_else(|| format!("{}: not what rota writes", keys::ACCOUNT_KEY))
}

/// Says whether it was another one before.
fn replace<T: PartialEq>(told: &watch::Sender<T>, now: T) -> bool {
    told.send_if_modified(|before| {
        let is_news = *before != now;
        *before = now;
        is_news
    })
}
