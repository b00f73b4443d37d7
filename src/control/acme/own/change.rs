//! What an operator changes of certificates of one's own: imported into the store, or taken out of it, under a lock of the name's.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::super::records;
use super::{LARGEST_BYTES, MARK, MOST, OWN, OwnName, OwnRecord, key_of, read};
use crate::certs::load::Pair;
use crate::control::store::{Change, Entry, Flaw, Lease, Raw, Seen, Store, StoreError, Written};
use crate::routing::likeness::distance;
use crate::telemetry::rfc3339;

/// To list what is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names offered for one that nobody has.
const OFFERED: usize = 3;

/// What lies under a key.
struct Found {
    /// None: there is nothing, or what cannot be opened.
    entry: Option<Entry>,
    /// 0: there is nothing.
    version: u64,
    /// Why it cannot be opened.
    trouble: Option<StoreError>,
}

/// Puts a certificate into the store, sealed, in the place of what lies under the name. Gives what was done; the error is a message.
pub async fn import(store: &Store, name: &OwnName, pair: &Pair) -> Result<String, String> {
    let lease = locked(store, name).await?;
    let said = import_under(store, &lease, name, pair).await;
    lease.release().await;
    said
}

/// Takes a certificate out of the store. Gives what was done; the error is a message.
pub async fn forget(store: &Store, name: &OwnName) -> Result<String, String> {
    let lease = locked(store, name).await?;
    let said = forget_under(store, &lease, name).await;
    lease.release().await;
    said
}

async fn locked(store: &Store, name: &OwnName) -> Result<Lease, String> {
    let lease = store.lock(&format!("certs/locks/{name}")).await;
    let lease = lease.map_err(|error| error.to_string())?;
    lease.ok_or_else(|| {
        format!("{name}: somebody else imports or forgets it at this moment: nothing was written")
    })
}

async fn import_under(
    store: &Store,
    lease: &Lease,
    name: &OwnName,
    pair: &Pair,
) -> Result<String, String> {
    let value = records::write(&OwnRecord {
        chain: String::from_utf8_lossy(&pair.chain).into_owned(),
        key: String::from_utf8_lossy(&pair.key).into_owned(),
        at: records::seconds(SystemTime::now()),
    });
    if value.len() > LARGEST_BYTES {
        return Err(format!(
            "{name}: chain and key have {} bytes, at most {LARGEST_BYTES} are kept: a chain needs neither its root nor texts",
            value.len()
        ));
    }
    let [present, mark] = look(store, name).await?;
    if present.version == 0 && listed(store).await?.len() >= MOST {
        return Err(format!(
            "{name}: there are {MOST} certificates of one's own, the most that are kept"
        ));
    }
    let mut changes = vec![Change::Put {
        key: key_of(name.as_str()),
        value,
        version: present.version,
    }];
    if mark.entry.is_none() {
        let id = format!("{:032x}", fastrand::u128(..));
        changes.push(Change::Put {
            key: key_of(MARK),
            value: id.into_bytes().into(),
            version: mark.version,
        });
    }
    write(store, lease, name, changes).await?;
    Ok(said_of_import(name, pair, &present))
}

fn said_of_import(name: &OwnName, pair: &Pair, before: &Found) -> String {
    let before = match (&before.entry, &before.trouble) {
        (Some(entry), _) => match read(name.as_str(), &entry.value) {
            Ok(own) => {
                let end = rfc3339::text(own.certificate.not_after());
                format!(" in place of one that is valid until {end}")
            }
            Err(why) => format!(" in place of one that could not be read ({why})"),
        },
        (None, Some(why)) => format!(" in place of one that could not be opened ({why})"),
        (None, None) => String::new(),
    };
    let names: Vec<String> = pair.certificate.names().collect();
    let end = rfc3339::text(pair.certificate.not_after());
    let names = names.join(", ");
    format!("{name}: imported{before}; for {names}, valid until {end}")
}

async fn forget_under(store: &Store, lease: &Lease, name: &OwnName) -> Result<String, String> {
    let [present, mark] = look(store, name).await?;
    if present.version == 0 {
        return Err(unknown(name, &listed(store).await?));
    }
    if mark.entry.is_none() {
        // Who serves it would take it for lost, and write it again.
        let why = mark.trouble.map_or_else(
            || "missing, as after the store lost its state".to_owned(),
            |error| error.to_string(),
        );
        return Err(format!(
            "{name}: nothing was written: {}: {why}; importing any certificate writes it anew",
            key_of(MARK)
        ));
    }
    let delete = Change::Delete {
        key: key_of(name.as_str()),
        version: present.version,
    };
    write(store, lease, name, vec![delete]).await?;
    Ok(format!(
        "{name}: forgotten; its names have what the file or ACME has for them"
    ))
}

/// The name's key and the mark, consistently. The error: it cannot be read, or the key file here is none of the pod's.
async fn look(store: &Store, name: &OwnName) -> Result<[Found; 2], String> {
    let keys = [key_of(name.as_str()), key_of(MARK)];
    let read = store.read_many(&keys).await;
    let mut read = read.map_err(|error| error.to_string())?.into_iter();
    let (own, mark) = (read.next(), read.next());
    let mark = found(mark.unwrap_or(Ok(None)))?;
    if let Some(error) = mark.trouble.as_ref().filter(|error| is_foreign(error)) {
        // What is sealed here nobody else could open.
        return Err(format!(
            "{name}: nothing was written: the key file here is not the pod's: {error}"
        ));
    }
    Ok([found(own.unwrap_or(Ok(None)))?, mark])
}

fn found(value: Result<Option<Entry>, StoreError>) -> Result<Found, String> {
    match value {
        Ok(entry) => Ok(Found {
            version: entry.as_ref().map_or(0, |entry| entry.version),
            entry,
            trouble: None,
        }),
        Err(error @ StoreError::Broken { version, .. }) => Ok(Found {
            entry: None,
            version,
            trouble: Some(error),
        }),
        Err(error) => Err(error.to_string()),
    }
}

fn is_foreign(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Broken {
            flaw: Flaw::Foreign,
            ..
        }
    )
}

async fn in_time<T>(what: &str, answer: impl Future<Output = T>) -> Result<T, String> {
    let answered = timeout(PATIENCE, answer).await;
    answered.map_err(|_| format!("{what}: no answer within {PATIENCE:?}"))
}

async fn write(
    store: &Store,
    lease: &Lease,
    name: &OwnName,
    changes: Vec<Change>,
) -> Result<(), String> {
    match store.transact(lease, changes).await {
        Ok(Written::Done) => Ok(()),
        Ok(Written::Conflict) => Err(format!(
            "{name}: somebody else changed it meanwhile: nothing was written"
        )),
        Err(StoreError::Away(why)) => Err(format!(
            "{name}: nobody knows whether it was written ({why}): do it again"
        )),
        Err(error) => Err(format!("{name}: nothing was written: {error}")),
    }
}

/// What lies there, as it rests; without the mark.
async fn listed(store: &Store) -> Result<BTreeMap<String, Raw>, String> {
    let mut watch = store.watch(OWN);
    let mut listed = in_time(OWN, async {
        loop {
            if let Seen::Is(found) = watch.state() {
                return BTreeMap::clone(&found);
            }
            watch.changed().await;
        }
    })
    .await?;
    listed.remove(MARK);
    Ok(listed)
}

fn unknown(name: &OwnName, known: &BTreeMap<String, Raw>) -> String {
    let mut near: Vec<&str> = known.keys().map(String::as_str).collect();
    near.sort_by_key(|known| distance(name.as_str(), known));
    near.truncate(OFFERED);
    let what = format!("there is no certificate of one's own under {name}");
    match near.is_empty() {
        true => format!("{what}; none is known"),
        false => format!("{what}; the nearest known: {}", near.join(", ")),
    }
}
