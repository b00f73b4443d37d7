//! Certificates of one's own as they come to and go from the store: what is news is opened and checked, and told.
//!
//! What cannot be used is named, and the last good one of the name stays. What is gone is gone if the store's mark is the one that it
//! lay beside; else the store has lost its state: then it is served on, and written again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::kept::{Keeping, Recalled};
use super::{Extent, Imported, MARK, OWN, Own, OwnName, key_of, read};
use crate::control::kept::Keeper;
use crate::control::store::{Change, Raw, Seen, Store, StoreError, Written};
use crate::seal::Plain;

#[cfg(test)]
mod tests;

/// A store that is away is asked again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// What was refused is looked at again after so long: perhaps the key file was mended.
const RECONSIDER: Duration = Duration::from_secs(10);
/// Written again between two looks at what others have written again meanwhile.
const BATCH: usize = 32;

/// Why nothing can be said now.
type Away = String;

/// Follows the store, from what was kept of it; what is served is kept on.
pub(in super::super) async fn follow(
    store: Store,
    (recalled, keeper): (Recalled, Option<Keeper>),
    says: watch::Sender<Imported>,
) {
    let mut watch = store.watch_with_others(OWN);
    let mut following = Following::new(store, says);
    following.keeping = Keeping(keeper);
    following.remember(recalled);
    let mut told_away = false;
    loop {
        let mut taken = Ok(());
        if let Seen::Is(found) = watch.state() {
            taken = following.take(&found).await;
        }
        if let (Err(away), false) = (&taken, told_away) {
            tracing::warn!("certificates of one's own are not read: {away}");
        }
        told_away = taken.is_err();
        let again = match told_away {
            true => Some(RETRY),
            false => (!following.refused.is_empty()).then_some(RECONSIDER),
        };
        tokio::select! {
            () = watch.changed() => {}
            () = after(again) => {}
        }
    }
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

struct Following {
    store: Store,
    says: watch::Sender<Imported>,
    /// What is served, and the text that it was read from.
    taken: BTreeMap<String, (Text, Own)>,
    refused: BTreeMap<String, (Raw, String)>,
    /// Of the store that all this was taken from.
    mark: Option<Plain>,
    told_lost: bool,
    keeping: Keeping,
}

/// What a certificate was read from.
enum Text {
    /// As the store has it.
    Stored(Raw),
    /// As it was kept; nobody has said yet what the store has.
    Kept(Plain),
}

/// What was opened at one time.
struct Opened {
    mark: Option<Result<Plain, StoreError>>,
    news: Vec<(String, Raw, Result<Own, String>)>,
}

impl Following {
    fn new(store: Store, says: watch::Sender<Imported>) -> Following {
        Following {
            store,
            says,
            taken: BTreeMap::new(),
            refused: BTreeMap::new(),
            mark: None,
            told_lost: false,
            keeping: Keeping(None),
        }
    }

    fn remember(&mut self, recalled: Recalled) {
        let certificates = recalled.certificates.into_iter();
        self.taken = certificates
            .map(|(name, (text, own))| (name, (Text::Kept(text), own)))
            .collect();
        self.mark = recalled.mark;
    }

    /// Brings what is known to what lies there.
    async fn take(&mut self, found: &BTreeMap<String, Raw>) -> Result<(), Away> {
        let parted = self.part_with_what_is_gone(found).await;
        let opened = self.open(found).await?;
        self.refused.retain(|name, _| found.contains_key(name));
        for (name, raw, own) in opened.news {
            self.sort(name, raw, own);
        }
        let mut trouble = None;
        match opened.mark {
            // Before what was lost is there again, the other store's mark is not ours.
            Some(Ok(mark)) if parted.is_ok() => {
                self.keeping.keep(MARK, mark.clone());
                self.mark = Some(mark);
            }
            Some(Err(error)) => trouble = Some(error.to_string()),
            Some(Ok(_)) | None => {}
        }
        self.tell(trouble);
        parted
    }

    /// The mark and what is not known yet, off this thread.
    async fn open(&self, found: &BTreeMap<String, Raw>) -> Result<Opened, Away> {
        let is_news = |(name, raw): &(&String, &Raw)| {
            let taken = match self.taken.get(*name) {
                Some((Text::Stored(taken), _)) => Some(taken),
                Some((Text::Kept(_), _)) | None => None,
            };
            *name != MARK && taken != Some(*raw)
        };
        let news = found.iter().filter(is_news);
        let news: Vec<(String, Raw)> = news
            .map(|(name, raw)| (name.clone(), raw.clone()))
            .collect();
        let (store, keeping) = (self.store.clone(), self.keeping.clone());
        let mark = found.get(MARK).cloned();
        let opened = tokio::task::spawn_blocking(move || Opened {
            mark: mark.map(|raw| store.open(&key_of(MARK), &raw)),
            news: news
                .into_iter()
                .map(|(name, raw)| {
                    let opened = open_one(&store, &name, &raw);
                    let own = opened.map(|(text, own)| {
                        keeping.keep(&name, text);
                        own
                    });
                    (name, raw, own)
                })
                .collect(),
        });
        opened.await.map_err(|panicked| panicked.to_string())
    }

    fn sort(&mut self, name: String, raw: Raw, own: Result<Own, String>) {
        match own {
            Ok(own) => {
                self.refused.remove(&name);
                self.taken.insert(name, (Text::Stored(raw), own));
            }
            Err(why) => {
                let now = (raw, why);
                if self.refused.get(&name) != Some(&now) {
                    tracing::warn!("a certificate of one's own is refused: {}", now.1);
                }
                self.refused.insert(name, now);
            }
        }
    }

    fn tell(&self, trouble: Option<String>) {
        let certificates = self.taken.iter();
        let refused = self.refused.iter();
        let now = Imported {
            certificates: certificates
                .map(|(name, (_, own))| (name.clone(), own.clone()))
                .collect(),
            refused: refused
                .map(|(name, (_, why))| (name.clone(), why.clone()))
                .collect(),
            extent: Extent::Whole,
            trouble,
        };
        self.says.send_if_modified(|told| {
            if told.certificates != now.certificates {
                let certificates = now.certificates.len();
                tracing::info!(
                    certificates,
                    "what the store has of one's own certificates is another now"
                );
            }
            let is_news = *told != now;
            *told = now;
            is_news
        });
    }
}

/// What is gone.
impl Following {
    async fn part_with_what_is_gone(&mut self, found: &BTreeMap<String, Raw>) -> Result<(), Away> {
        let is_missing = |name: &&String| !found.contains_key(*name);
        let missing: Vec<String> = self.taken.keys().filter(is_missing).cloned().collect();
        if missing.is_empty() {
            self.told_lost = false;
            return Ok(());
        }
        let (mark, lost) = self.look_at(&missing).await?;
        if mark.is_some() && mark == self.mark {
            for name in lost {
                tracing::info!(
                    name,
                    "a certificate of one's own was taken out of the store"
                );
                self.taken.remove(&name);
                self.keeping.forget(&name);
            }
            return Ok(());
        }
        if !std::mem::replace(&mut self.told_lost, true) {
            tracing::warn!(
                certificates = lost.len(),
                "certificates of one's own are gone, and the store's mark with them: they are served on, and written again"
            );
        }
        self.restore(lost).await
    }

    /// The mark as it is now, and which of these are nowhere: consistently, since a watch may be a moment behind.
    async fn look_at(&self, names: &[String]) -> Result<(Option<Plain>, Vec<String>), Away> {
        let keys = std::iter::once(key_of(MARK)).chain(names.iter().map(|name| key_of(name)));
        let keys: Vec<String> = keys.collect();
        let read = self.store.read_many(&keys).await;
        let mut read = read.map_err(|error| error.to_string())?.into_iter();
        // One that cannot be opened is none that is known.
        let mark = read.next().and_then(Result::ok).flatten();
        let both = names.iter().zip(read);
        let lost = both.filter(|(_, value)| matches!(value, Ok(None)));
        let lost = lost.map(|(name, _)| name.clone()).collect();
        Ok((mark.map(|entry| entry.value), lost))
    }

    /// Each load balancer of the pod does the same, each in an order of its own: what is there already is left alone.
    async fn restore(&self, mut lost: Vec<String>) -> Result<(), Away> {
        fastrand::shuffle(&mut lost);
        for batch in lost.chunks(BATCH) {
            let (_, still_lost) = self.look_at(batch).await?;
            for name in still_lost {
                let value = match self.taken.get(&name) {
                    // The key file may have lost its key since; others may have it.
                    Some((Text::Stored(raw), _)) => self.store.open(&key_of(&name), raw).ok(),
                    Some((Text::Kept(text), _)) => Some(text.clone()),
                    None => None,
                };
                if let Some(value) = value {
                    self.write_again(&name, value).await?;
                }
            }
        }
        match &self.mark {
            Some(mark) => self.write_again(MARK, mark.clone()).await,
            None => Ok(()),
        }
    }

    /// If there is none.
    async fn write_again(&self, name: &str, value: Plain) -> Result<(), Away> {
        let put = Change::Put {
            key: key_of(name),
            value,
            version: 0,
        };
        match self.store.write(put).await {
            Ok(Written::Done | Written::Conflict) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Blocking.
fn open_one(store: &Store, name: &str, raw: &Raw) -> Result<(Plain, Own), String> {
    let key = key_of(name);
    if OwnName::parse(name).is_none_or(|own| own.as_str() != name) {
        return Err(format!("{key}: no name of a certificate"));
    }
    let value = store.open(&key, raw).map_err(|error| error.to_string())?;
    let own = read(name, &value)?;
    Ok((value, own))
}
