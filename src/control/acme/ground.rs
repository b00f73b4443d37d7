//! What stands in the store of one name, read consistently, and the changes that one step makes of it.

use super::index::{self, Entry, Shard};
use super::keys;
use super::records::{self, Attempts, OrderRecord};
use super::sync::Held;
use crate::config::DomainName;
use crate::control::store::{self, Change, Seen, Store, StoreError};
use crate::seal::Plain;

/// A value and what it is to be changed by.
pub(super) struct Present<T> {
    pub(super) value: T,
    /// 0: there is none.
    pub(super) version: u64,
}

pub(super) struct Ground {
    name: DomainName,
    shard: Present<Shard>,
    /// Of the name.
    pub(super) entry: Option<Entry>,
    /// Opened; or why it cannot be, or that there is none.
    pub(super) certificate: Result<Plain, String>,
    /// None: it cannot be opened.
    certificate_version: Option<u64>,
    pub(super) order: Present<Option<OrderRecord>>,
    pub(super) attempts: Option<Attempts>,
    attempts_version: u64,
    pub(super) proof_version: u64,
}

impl Ground {
    /// The inner error: something but the certificate cannot be read, and is not to be written over.
    pub(super) async fn read(
        store: &Store,
        name: &DomainName,
    ) -> Result<Result<Ground, String>, StoreError> {
        let keys = [
            keys::shard(name),
            keys::attempts(name),
            keys::order(name),
            keys::proof(name),
            keys::certificate(name),
        ];
        let values = store.read_many(&keys).await?;
        Ok(Ground::of(name, &keys, values))
    }

    fn of(
        name: &DomainName,
        keys: &[String; 5],
        values: Vec<Result<Option<store::Entry>, StoreError>>,
    ) -> Result<Ground, String> {
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Ok(None));
        let mut whole = || next().map_err(|error| error.to_string());
        let (shard, attempts, order, proof) = (whole()?, whole()?, whole()?, whole()?);
        let certificate = next();
        let version = |entry: &Option<store::Entry>| entry.as_ref().map_or(0, |one| one.version);
        let shard_version = version(&shard);
        let shard = match shard {
            Some(entry) => index::read(&keys[0], &entry.value),
            None => Shard::new(),
        };
        let (attempts_version, order_version) = (version(&attempts), version(&order));
        let attempts = attempts.map(|entry| records::read(&keys[1], &entry.value));
        let order = order.map(|entry| records::read(&keys[2], &entry.value));
        let certificate_version = certificate.as_ref().ok().map(version);
        let certificate = match certificate {
            Ok(Some(entry)) => Ok(entry.value),
            Ok(None) => Err(format!("{}: missing", keys[4])),
            Err(error) => Err(error.to_string()),
        };
        Ok(Ground {
            name: name.clone(),
            entry: shard.get(name).cloned(),
            shard: Present {
                value: shard,
                version: shard_version,
            },
            certificate,
            certificate_version,
            order: Present {
                value: order.transpose()?,
                version: order_version,
            },
            attempts: attempts.transpose()?,
            attempts_version,
            proof_version: version(&proof),
        })
    }

    /// Whether there is a certificate, also one that cannot be opened.
    pub(super) fn has_certificate(&self) -> bool {
        self.certificate_version != Some(0)
    }

    /// Also of one that cannot be opened.
    pub(super) async fn certificate_version(&self, store: &Store) -> Result<u64, StoreError> {
        match self.certificate_version {
            Some(version) => Ok(version),
            None => version_of(store, &keys::certificate(&self.name)).await,
        }
    }

    /// The name has this certificate, and nothing is under way or went wrong any more.
    pub(super) fn with_certificate(
        &mut self,
        held: &Held,
        certificate: Present<Plain>,
    ) -> Vec<Change> {
        self.shard.value.insert(self.name.clone(), Entry::of(held));
        let put = Change::Put {
            key: keys::certificate(&self.name),
            value: certificate.value,
            version: certificate.version,
        };
        let mut changes = vec![put, self.shard_change()];
        changes.extend(self.deletions());
        changes.extend(delete(keys::attempts(&self.name), self.attempts_version));
        changes
    }

    /// The index names the certificate that is there.
    pub(super) fn with_entry(&mut self, held: &Held) -> Vec<Change> {
        self.shard.value.insert(self.name.clone(), Entry::of(held));
        vec![self.shard_change()]
    }

    /// Another certificate is due, whatever the present one says; nothing, where there is none.
    pub(super) fn with_question(&mut self) -> Option<Change> {
        self.shard.value.get_mut(&self.name)?.is_asked = true;
        Some(self.shard_change())
    }

    /// The name has no certificate; what went wrong before is forgotten.
    pub(super) fn without_certificate(&mut self, version: u64) -> Vec<Change> {
        self.shard.value.remove(&self.name);
        let mut changes = vec![self.shard_change()];
        changes.extend(delete(keys::certificate(&self.name), version));
        changes.extend(delete(keys::attempts(&self.name), self.attempts_version));
        changes
    }

    pub(super) fn with_attempts(&self, attempts: &Attempts) -> Vec<Change> {
        vec![Change::Put {
            key: keys::attempts(&self.name),
            value: records::write(attempts),
            version: self.attempts_version,
        }]
    }

    pub(super) fn with_attempts_and_no_order(&self, attempts: &Attempts) -> Vec<Change> {
        let mut changes = self.with_attempts(attempts);
        changes.extend(self.deletions());
        changes
    }

    fn shard_change(&self) -> Change {
        Change::Put {
            key: keys::shard(&self.name),
            value: index::write(&self.shard.value),
            version: self.shard.version,
        }
    }

    /// Of what is there only while an order is under way.
    fn deletions(&self) -> impl Iterator<Item = Change> + use<> {
        let order = delete(keys::order(&self.name), self.order.version);
        order
            .into_iter()
            .chain(delete(keys::proof(&self.name), self.proof_version))
    }
}

/// None: there is nothing to delete.
fn delete(key: String, version: u64) -> Option<Change> {
    (version != 0).then_some(Change::Delete { key, version })
}

/// Of a key whose value cannot be opened.
async fn version_of(store: &Store, key: &str) -> Result<u64, StoreError> {
    let mut watch = store.watch(key);
    loop {
        if let Seen::Is(raw) = watch.state() {
            return Ok(raw.get("").map_or(0, |raw| raw.version));
        }
        watch.changed().await;
    }
}
