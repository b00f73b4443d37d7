//! Certificates as they come to and go from the store: the index is followed, what is news is fetched, opened and checked, and told.
//!
//! What cannot be used (sealed with a foreign key, tampered with, not for its name or key) is named and passed over: the last
//! good certificate of the name stays.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::kept::{Kept, Known};

use self::pod::{Pod, Whole};
use super::give_back::KeyPem;
use super::index::{self, Hash, Shard};
use super::keys::{self, INDEX};
use super::records::{self, CertificateRecord};
use super::task::SOURCE;
use crate::certs::Certificate;
use crate::config::DomainName;
use crate::control::store::{Change, Entry, Raw, Seen, Store, StoreError, Written};
use crate::seal::Plain;

pub(super) mod kept;
mod pod;
#[cfg(test)]
mod tests;

/// Certificates fetched by one question.
const BATCH: usize = 64;
/// Questions at once: while one batch is read, others are opened.
const AT_ONCE: usize = 4;
/// A store that is away is asked again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// What was refused is looked at again after so long: perhaps the key file was mended.
const RECONSIDER: Duration = Duration::from_secs(60);
/// What a store that lost its state has not yet again is told again after so long.
const LOST: Duration = Duration::from_secs(5);
/// What was found and nobody has taken yet; more make the fetching wait.
const FOUND: usize = 16;

/// A certificate of the store.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) hash: Hash,
    pub(super) certificate: Arc<Certificate>,
    /// Of the CA that issued it.
    pub(super) directory: Arc<str>,
    pub(super) key: Arc<KeyPem>,
}

/// What the store has that was not known.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) came: Vec<(DomainName, Held)>,
    pub(super) refused: Vec<(DomainName, String)>,
    pub(super) gone: Vec<DomainName>,
    /// Held, and not there any more because the store lost its state.
    pub(super) lost: Vec<DomainName>,
    /// Of these certificates an operator asked for others; of the whole index, once that has been told.
    pub(super) asked: Vec<(DomainName, Hash)>,
    pub(super) extent: Extent,
}

/// Whether all that the index named has been told by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Extent {
    #[default]
    Part,
    Whole,
}

/// Followed until this is dropped.
pub(super) struct Sync {
    found: mpsc::Receiver<Found>,
    following: AbortHandle,
}

impl Sync {
    /// Begins on the current tokio runtime, knowing this already; what comes is kept.
    pub(super) fn follow(store: &Store, known: Known) -> Sync {
        let (sender, found) = mpsc::channel(FOUND);
        let following = Following {
            store: store.clone(),
            kept: known.kept,
            known: known.certificates,
            refused: BTreeMap::new(),
            shards: BTreeMap::new(),
            raw: BTreeMap::new(),
            pod: known.pod_id.map_or(Pod::Unknown, Pod::Is),
            told_lost: None,
            sender,
        };
        Sync {
            found,
            following: tokio::spawn(following.run()).abort_handle(),
        }
    }

    pub(super) async fn found(&mut self) -> Option<Found> {
        self.found.recv().await
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// The other side has gone: so does this.
struct Gone;

/// Why a batch was not read.
type Away = String;

type Batch = Vec<(DomainName, Hash)>;

/// A name, what the index says of it, and what was read.
type Looked = (DomainName, Hash, Result<Held, String>);

struct Following {
    store: Store,
    kept: Kept,
    known: BTreeMap<DomainName, Hash>,
    /// What is not looked at again before a moment, unless the index says another hash.
    refused: BTreeMap<DomainName, (Hash, Instant)>,
    /// As last read, by digit, so that a shard that did not change is not read again.
    shards: BTreeMap<char, Shard>,
    /// What they were read from.
    raw: BTreeMap<char, Raw>,
    pod: Pod,
    /// Until when it is not told again what is lost.
    told_lost: Option<Instant>,
    sender: mpsc::Sender<Found>,
}

impl Following {
    async fn run(mut self) {
        let mut watch = self.store.watch(INDEX);
        let mut told_away = false;
        loop {
            let mut again = None;
            if let Seen::Is(raw) = watch.state() {
                match self.take(&raw).await {
                    Ok(Ok(())) => told_away = false,
                    Ok(Err(away)) => {
                        if !told_away {
                            tracing::warn!("acme: certificates are not read: {away}");
                        }
                        told_away = true;
                        again = Some(Instant::now() + RETRY);
                    }
                    Err(Gone) => return,
                }
            }
            // A store that is away has nothing to be reconsidered by.
            let next = again.or_else(|| self.reconsiders());
            tokio::select! {
                () = watch.changed() => {}
                () = until(next) => {}
            }
        }
    }

    /// Brings what is known to what the index says.
    async fn take(&mut self, raw: &BTreeMap<String, Raw>) -> Result<Result<(), Away>, Gone> {
        self.read_shards(raw);
        let mut news = index::news(&self.shards, &self.known);
        self.drop_what_is_refused_no_more();
        let now = Instant::now();
        news.fetch.retain(|(name, hash)| {
            let refused = self.refused.get(name);
            refused.is_none_or(|(of, until)| of != hash || *until <= now)
        });
        // What is new is served, whatever else is missing.
        let doubted = self.doubt(news.unnamed).await?;
        let fetched = self.fetch(news.fetch).await?;
        if let Err(away) = doubted.and(fetched) {
            return Ok(Err(away));
        }
        let entries = self.shards.values().flatten();
        let asked = entries.filter(|(_, entry)| entry.is_asked);
        self.tell(Found {
            asked: asked
                .map(|(name, entry)| (name.clone(), entry.hash.clone()))
                .collect(),
            extent: Extent::Whole,
            ..Found::default()
        })
        .await?;
        Ok(Ok(()))
    }

    /// When something that was refused is looked at again.
    fn reconsiders(&self) -> Option<Instant> {
        self.refused.values().map(|(_, at)| *at).min()
    }

    /// What the index names by another hash, or not at all, is not fetched again: its moment would stay past for ever.
    fn drop_what_is_refused_no_more(&mut self) {
        let (shards, known) = (&self.shards, &self.known);
        self.refused.retain(|name, (hash, _)| {
            let shard = shards.get(&keys::shard_digit(name));
            let named = shard.and_then(|shard| shard.get(name));
            named.is_some_and(|entry| entry.hash == *hash) && known.get(name) != Some(hash)
        });
    }

    fn read_shards(&mut self, raw: &BTreeMap<String, Raw>) {
        let digit_of = |key: &str| match key.as_bytes() {
            [digit @ (b'0'..=b'9' | b'a'..=b'f')] => Some(char::from(*digit)),
            _ => None,
        };
        let is_there = |digit: &char| raw.contains_key(digit.encode_utf8(&mut [0; 4]) as &str);
        self.shards.retain(|digit, _| is_there(digit));
        self.raw.retain(|digit, _| is_there(digit));
        for (key, raw) in raw {
            let Some(digit) = digit_of(key) else {
                continue;
            };
            if self.raw.get(&digit) != Some(raw) {
                let read = index::read(&format!("{INDEX}{key}"), &raw.bytes);
                self.shards.insert(digit, read);
                self.raw.insert(digit, raw.clone());
            }
        }
    }

    /// Some batches at once, each told as it comes. One that cannot be read ends it all.
    async fn fetch(&mut self, wanted: Vec<(DomainName, Hash)>) -> Result<Result<(), Away>, Gone> {
        let batches: Vec<Batch> = wanted.chunks(BATCH).map(<[_]>::to_vec).collect();
        let mut batches = batches.into_iter();
        let mut under_way: JoinSet<Result<Vec<Looked>, Away>> = JoinSet::new();
        let mut refused = Vec::new();
        let read = loop {
            while under_way.len() < AT_ONCE
                && let Some(batch) = batches.next()
            {
                let kept = self.kept.clone();
                under_way.spawn(fetch_batch(self.store.clone(), batch, kept));
            }
            match under_way.join_next().await {
                None => break Ok(()),
                Some(Ok(Ok(fetched))) => {
                    let found = self.sort(fetched, &mut refused);
                    self.tell(found).await?;
                }
                Some(Ok(Err(away))) => break Err(away),
                Some(Err(panicked)) => break Err(panicked.to_string()),
            }
        };
        if let Some(words) = index::refusal_words(&refused) {
            tracing::warn!("acme: {words}");
        }
        Ok(read)
    }

    fn sort(&mut self, fetched: Vec<Looked>, refused: &mut Vec<String>) -> Found {
        let mut found = Found::default();
        for (name, hash, read) in fetched {
            match read {
                Ok(held) => {
                    self.refused.remove(&name);
                    self.known.insert(name.clone(), hash);
                    found.came.push((name, held));
                }
                Err(why) => {
                    let until = Instant::now() + RECONSIDER;
                    let before = self.refused.insert(name.clone(), (hash.clone(), until));
                    if before.is_none_or(|(of, _)| of != hash) {
                        refused.push(why.clone());
                    }
                    found.refused.push((name, why));
                }
            }
        }
        found
    }

    async fn tell(&self, found: Found) -> Result<(), Gone> {
        self.sender.send(found).await.map_err(|_| Gone)
    }
}

impl Following {
    /// What the index names no more is gone if its certificate is. Else somebody emptied the index, by hand or by what he restored.
    async fn doubt(&mut self, unnamed: Vec<DomainName>) -> Result<Result<(), Away>, Gone> {
        if unnamed.is_empty() {
            self.told_lost = None;
            self.pod.know(&self.store).await;
            return Ok(Ok(()));
        }
        let lost = "the store has lost its state: what is known stays, and is written back";
        if self.told_lost.is_some_and(|until| until > Instant::now()) {
            return Ok(Err(lost.into()));
        }
        // Before certificates are looked for: the account's key comes back after them.
        let whole = match self.pod.is_whole(&self.store).await {
            Ok(whole) => whole,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        for batch in unnamed.chunks(BATCH) {
            match look_at(self.store.clone(), batch.to_vec()).await {
                Err(away) => return Ok(Err(away)),
                Ok(looked) => {
                    for (name, read) in looked {
                        match read {
                            None => gone.push(name),
                            Some(read) => there.push((name, read)),
                        }
                    }
                }
            }
        }
        match whole {
            _ if gone.is_empty() => {}
            Whole::Yes => self.forget(gone).await?,
            Whole::Doubted => {
                return Ok(Err(
                    "certificates are gone, and the account with them: what is known stays".into(),
                ));
            }
            Whole::No => {
                self.told_lost = Some(Instant::now() + LOST);
                self.tell(Found {
                    lost: gone,
                    ..Found::default()
                })
                .await?;
                let restored = self.restore(there).await?;
                return Ok(restored.and(Err(lost.into())));
            }
        }
        self.restore(there).await
    }

    async fn forget(&mut self, gone: Vec<DomainName>) -> Result<(), Gone> {
        for name in &gone {
            self.known.remove(name);
            self.refused.remove(name);
            self.kept.forget(name);
        }
        self.tell(Found {
            gone,
            ..Found::default()
        })
        .await
    }

    /// Has the index name again what is there. What cannot be read goes on as it is served; whoever changed the same shard before is seen
    /// by the watch.
    async fn restore(
        &mut self,
        there: Vec<(DomainName, Result<Held, String>)>,
    ) -> Result<Result<(), Away>, Gone> {
        let mut named: BTreeMap<char, Vec<(DomainName, Held)>> = BTreeMap::new();
        for (name, read) in there {
            match read {
                Ok(held) => named
                    .entry(keys::shard_digit(&name))
                    .or_default()
                    .push((name, held)),
                Err(why) => tracing::warn!(
                    "acme: the index names {name} no more, and what is there is refused: {why}"
                ),
            }
        }
        for (digit, came) in named {
            let mut shard = self.shards.get(&digit).cloned().unwrap_or_default();
            shard.extend(
                came.iter()
                    .map(|(name, held)| (name.clone(), index::Entry::of(held))),
            );
            let put = Change::Put {
                key: format!("{INDEX}{digit}"),
                value: index::write(&shard),
                version: self.raw.get(&digit).map_or(0, |raw| raw.version),
            };
            match self.store.write(put).await {
                Ok(Written::Done) => {
                    let certificates = came.len();
                    tracing::warn!(
                        certificates,
                        "acme: {INDEX}{digit} did not name certificates that are there: they are named again"
                    );
                }
                Ok(Written::Conflict) => {}
                Err(error) => return Ok(Err(error.to_string())),
            }
            let hashes = came
                .iter()
                .map(|(name, held)| (name.clone(), held.hash.clone()));
            self.known.extend(hashes);
            self.tell(Found {
                came,
                ..Found::default()
            })
            .await?;
        }
        Ok(Ok(()))
    }
}

/// What lies in the store for these, whatever the index says; None: nothing.
async fn look_at(
    store: Store,
    names: Vec<DomainName>,
) -> Result<Vec<(DomainName, Option<Result<Held, String>>)>, Away> {
    let keys: Vec<String> = names.iter().map(keys::certificate).collect();
    let values = store.read_many(&keys).await;
    let values = values.map_err(|error| error.to_string())?;
    tokio::task::spawn_blocking(move || {
        let read = |name: &DomainName, value: Result<Option<Entry>, StoreError>| match value {
            Ok(None) => None,
            Ok(Some(entry)) => Some(read_certificate(name, &entry.value)),
            Err(error) => Some(Err(error.to_string())),
        };
        let both = names.into_iter().zip(values);
        both.map(|(name, value)| {
            let read = read(&name, value);
            (name, read)
        })
        .collect()
    })
    .await
    .map_err(|panicked| panicked.to_string())
}

async fn fetch_batch(store: Store, batch: Batch, kept: Kept) -> Result<Vec<Looked>, Away> {
    let names = batch.iter().map(|(name, _)| name);
    let keys: Vec<String> = names.map(keys::certificate).collect();
    let values = store.read_many(&keys).await;
    let values = values.map_err(|error| error.to_string())?;
    tokio::task::spawn_blocking(move || {
        let both = batch.into_iter().zip(values);
        both.map(|((name, hash), value)| {
            let text = Kept::text_of(&value);
            let read = checked(&name, &hash, value);
            kept.keep(&name, text.filter(|_| read.is_ok()));
            (name, hash, read)
        })
        .collect()
    })
    .await
    .map_err(|panicked| panicked.to_string())
}

/// One that is what the index says, belongs to its key, and is for its name.
fn checked(
    name: &DomainName,
    hash: &Hash,
    value: Result<Option<Entry>, StoreError>,
) -> Result<Held, String> {
    let key = keys::certificate(name);
    let entry = value.map_err(|error| error.to_string())?;
    let entry = entry.ok_or_else(|| format!("{key}: missing, though the index names it"))?;
    let held = read_certificate(name, &entry.value)?;
    match held.hash == *hash {
        true => Ok(held),
        false => Err(format!("{key}: not the certificate that the index names")),
    }
}

/// Takes an opened `acme/certs/<name>`. Blocking.
pub(super) fn read_certificate(name: &DomainName, value: &[u8]) -> Result<Held, String> {
    let record: CertificateRecord = records::read(&keys::certificate(name), value)?;
    let certificate = usable(name, record.chain.as_bytes(), record.key.as_bytes())?;
    Ok(Held {
        hash: index::hash_of(&record.chain),
        certificate: Arc::new(certificate),
        directory: record.directory.into(),
        key: Arc::new(KeyPem(Plain::new(record.key.into_bytes()))),
    })
}

/// A certificate that belongs to its key and to its name. Blocking.
pub(super) fn usable(name: &DomainName, chain: &[u8], key: &[u8]) -> Result<Certificate, String> {
    let source = Path::new(SOURCE);
    let certificate = Certificate::from_pem(chain, key, source, source)
        .map_err(|mistake| format!("{name}: {mistake}"))?;
    let is_named = certificate.names().any(|own| own == name.as_str());
    match is_named {
        true => Ok(certificate),
        false => Err(format!("{name}: the certificate is for other names")),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
