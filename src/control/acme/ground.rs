//! What stands in the store of one name, read consistently, and the changes that one step makes of it.

use super::index::{self, Entry, Shard};
use super::keys;
use super::records::{self, Attempts, OrderRecord};
use super::sync::Held;
use crate::config::DomainName;
use crate::control::store::{self, Change, Flaw, Present, Store, StoreError};
use crate::seal::Plain;

pub(super) struct Ground {
    name: DomainName,
    shard: Present<Shard>,
    /// Of the name.
    pub(super) entry: Option<Entry>,
    pub(super) certificate: Found,
    /// Also of one that cannot be opened; 0: there is none.
    pub(super) certificate_version: u64,
    pub(super) order: Present<Option<OrderRecord>>,
    pub(super) attempts: Option<Attempts>,
    attempts_version: u64,
    pub(super) proof_version: u64,
}

/// What lies where a name's certificate does.
pub(super) enum Found {
    /// Opened.
    Is(Plain),
    /// There is none, or none that anybody can open. Why, with its place.
    Nothing(String),
    /// Others may open it: it is not to be written over, unless somebody says so. Why not here, with its place.
    Foreign(String),
}

impl Found {
    /// The error is a message.
    pub(super) fn opened(&self) -> Result<&Plain, &String> {
        match self {
            Found::Is(value) => Ok(value),
            Found::Nothing(why) | Found::Foreign(why) => Err(why),
        }
    }
}

type Read = Result<Option<store::Entry>, StoreError>;

impl Ground {
    /// What nobody can read counts as nothing. The inner error: something but the certificate cannot be read here, perhaps elsewhere,
    /// and is not to be written over.
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
        let ground = Ground::of(store, name, &keys, values);
        Ok(ground.map_err(|error| error.to_string()))
    }

    fn of(
        store: &Store,
        name: &DomainName,
        keys: &[String; 5],
        values: Vec<Read>,
    ) -> Result<Ground, StoreError> {
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Ok(None));
        let shard = store.present(&keys[0], next(), |text| Ok(index::read(&keys[0], text)))?;
        let attempts = store.present(&keys[1], next(), records::parse)?;
        let order = store.present(&keys[2], next(), records::parse)?;
        let proof = store.present(&keys[3], next(), records::parse::<records::ProofRecord>)?;
        let (certificate, certificate_version) = found(store, &keys[4], next())?;
        let shard = Present {
            value: shard.value.unwrap_or_default(),
            version: shard.version,
        };
        Ok(Ground {
            name: name.clone(),
            entry: shard.value.get(name).cloned(),
            shard,
            certificate,
            certificate_version,
            order,
            attempts: attempts.value,
            attempts_version: attempts.version,
            proof_version: proof.version,
        })
    }

    /// The name has this certificate, and nothing is under way or went wrong any more.
    pub(super) fn with_certificate(&mut self, held: &Held, certificate: Plain) -> Vec<Change> {
        self.shard.value.insert(self.name.clone(), Entry::of(held));
        let put = Change::Put {
            key: keys::certificate(&self.name),
            value: certificate,
            version: self.certificate_version,
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
    pub(super) fn without_certificate(&mut self) -> Vec<Change> {
        self.shard.value.remove(&self.name);
        let mut changes = vec![self.shard_change()];
        let key = keys::certificate(&self.name);
        changes.extend(delete(key, self.certificate_version));
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

/// With the version that it is to be changed by.
fn found(store: &Store, key: &str, read: Read) -> Result<(Found, u64), StoreError> {
    let text = read.as_ref().err().map(ToString::to_string);
    let text = text.unwrap_or_else(|| format!("{key}: missing"));
    match read {
        Ok(Some(entry)) => Ok((Found::Is(entry.value), entry.version)),
        Ok(None) => Ok((Found::Nothing(text), 0)),
        Err(StoreError::Broken {
            flaw: Flaw::Foreign,
            version,
            ..
        }) => Ok((Found::Foreign(text), version)),
        Err(StoreError::Broken { why, version, .. }) => {
            store.tell_damage(key, version, &why);
            Ok((Found::Nothing(text), version))
        }
        Err(error) => Err(error),
    }
}
