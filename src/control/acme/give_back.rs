//! What this load balancer holds and a store that lost its state has not: written back, so that whoever joins has it.
//!
//! Several load balancers do the same at once: each begins with other names, and what somebody else wrote back is left as it is.
//! Certificates go before the account's key: who finds that key there takes a certificate that is missing for one that was taken out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::contention::Tries;
use super::index::{self, Entry};
use super::keys;
use super::model::seed_of;
use super::order::Tools;
use super::records::{self, CertificateRecord};
use super::sync::{self, Held};
use crate::config::DomainName;
use crate::control::store::{Change, Lease, Written};
use crate::seal::Plain;

/// Written together, of one shard of the index: each writing of it is read by every load balancer.
const TOGETHER: usize = 16;
/// Between two such groups, so that thousands of names leave Consul room for everything else.
const EACH: Duration = Duration::from_millis(250);
/// Characters of a line of PEM (RFC 7468 section 2).
const LINE: usize = 64;

/// A certificate's private key, as PEM; never shown.
pub(super) struct KeyPem(pub(super) Plain);

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem")
    }
}

/// One at a time, and what was said last of why it goes no further.
#[derive(Clone, Debug, Default)]
pub(super) struct GivingBack(Arc<Mutex<String>>);

impl GivingBack {
    /// Does nothing while it is at it already. `node` is this load balancer's name.
    pub(super) async fn give(&self, tools: &Tools, node: &str, held: Vec<(DomainName, Held)>) {
        let Ok(mut said) = self.0.try_lock() else {
            return;
        };
        let now = match give(tools, by_shard(node, held)).await {
            Ok(0) => String::new(),
            Ok(certificates) => {
                tracing::warn!(certificates, "acme: the store had lost them: written back");
                String::new()
            }
            Err(why) => why,
        };
        if !now.is_empty() && now != *said {
            tracing::warn!("acme: what the store has lost is not written back yet: {now}");
        }
        *said = now;
    }
}

/// Shard by shard, each load balancer in an order of its own.
fn by_shard(node: &str, held: Vec<(DomainName, Held)>) -> Vec<Vec<(DomainName, Held)>> {
    let mut shards: BTreeMap<(u64, String), Vec<(DomainName, Held)>> = BTreeMap::new();
    for one in held {
        let shard = keys::shard(&one.0);
        let turn = seed_of(&[node, "/", &shard]);
        shards.entry((turn, shard)).or_default().push(one);
    }
    for names in shards.values_mut() {
        names.sort_by_key(|(name, _)| seed_of(&[node, "/", name.as_str()]));
    }
    shards.into_values().collect()
}

/// Gives how many were written back.
async fn give(tools: &Tools, shards: Vec<Vec<(DomainName, Held)>>) -> Result<usize, String> {
    let mut given = 0;
    for group in shards.iter().flat_map(|shard| shard.chunks(TOGETHER)) {
        let missing = missing(tools, group).await?;
        if !missing.is_empty() {
            given += give_group(tools, missing).await?;
            sleep(EACH).await;
        }
    }
    give_account(tools).await?;
    Ok(given)
}

async fn missing<'a>(
    tools: &Tools,
    group: &'a [(DomainName, Held)],
) -> Result<Vec<&'a (DomainName, Held)>, String> {
    let keys: Vec<String> = group
        .iter()
        .map(|(name, _)| keys::certificate(name))
        .collect();
    let found = tools.store.read_many(&keys).await;
    let found = found.map_err(|error| error.to_string())?;
    let both = group.iter().zip(found);
    let missing = both.filter(|(_, found)| matches!(found, Ok(None)));
    Ok(missing.map(|(one, _)| one).collect())
}

/// Gives how many certificates were written: those of names that nobody else is at or was.
async fn give_group(tools: &Tools, group: Vec<&(DomainName, Held)>) -> Result<usize, String> {
    let (mut leases, mut records) = (Vec::new(), Vec::new());
    for (name, held) in group {
        let lease = tools.store.lock(&keys::lock(name)).await;
        if let Some(lease) = lease.map_err(|error| error.to_string())? {
            leases.push(lease);
            records.push((name.clone(), records::write(&record_of(held))));
        }
    }
    // All are of one session: who loses one of them loses them all.
    let given = match leases.first() {
        Some(lease) => write_back(tools, records, lease).await,
        None => Ok(0),
    };
    for lease in leases {
        lease.release().await;
    }
    given
}

async fn write_back(
    tools: &Tools,
    records: Vec<(DomainName, Plain)>,
    lease: &Lease,
) -> Result<usize, String> {
    let read = tokio::task::spawn_blocking(move || {
        let read = |(name, record): (DomainName, Plain)| {
            let held = sync::read_certificate(&name, &record)?;
            Ok((name, record, Entry::of(&held)))
        };
        records
            .into_iter()
            .map(read)
            .collect::<Result<Vec<_>, String>>()
    });
    let fresh = read.await.map_err(|panicked| panicked.to_string())??;
    let mut tries = Tries::default();
    loop {
        let changes = changes(tools, &fresh).await?;
        let given = changes.len().saturating_sub(1);
        if given == 0 {
            return Ok(0);
        }
        let written = tools.store.transact(lease, changes).await;
        match written.map_err(|error| error.to_string())? {
            Written::Done => return Ok(given),
            // Other names of the same shard.
            Written::Conflict => tries.again(lease, "what the store has lost").await?,
        }
    }
}

/// All of one shard: those of whom there is nothing, and the shard that names them.
async fn changes(
    tools: &Tools,
    fresh: &[(DomainName, Plain, Entry)],
) -> Result<Vec<Change>, String> {
    let shard_key = keys::shard(&fresh[0].0);
    let certificates = fresh.iter().map(|(name, ..)| keys::certificate(name));
    let keys: Vec<String> = std::iter::once(shard_key.clone())
        .chain(certificates)
        .collect();
    let found = tools.store.read_many(&keys).await;
    let mut found = found.map_err(|error| error.to_string())?.into_iter();
    let present = found.next().unwrap_or(Ok(None));
    let present = tools.store.present(&shard_key, present, |text| {
        Ok(index::read(&shard_key, text))
    });
    let present = present.map_err(|error| error.to_string())?;
    let (mut shard, mut changes) = (present.value.unwrap_or_default(), Vec::new());
    for ((name, record, entry), there) in fresh.iter().zip(found) {
        if matches!(there, Ok(None)) && !shard.contains_key(name) {
            shard.insert(name.clone(), entry.clone());
            changes.push(Change::Put {
                key: keys::certificate(name),
                value: record.clone(),
                version: 0,
            });
        }
    }
    changes.push(Change::Put {
        key: shard_key,
        value: index::write(&shard),
        version: present.version,
    });
    Ok(changes)
}

/// The key, if there is none, and with it the accounts that were made with it.
async fn give_account(tools: &Tools) -> Result<(), String> {
    let known = tools.accounts.known().await;
    let read = tools.store.read(keys::ACCOUNT_KEY).await;
    let is_there = read.map_err(|error| error.to_string())?.is_some();
    if is_there || known.is_empty() {
        return Ok(());
    }
    let lease = tools.store.lock(keys::ACCOUNT_LOCK).await;
    let Some(lease) = lease.map_err(|error| error.to_string())? else {
        return Ok(());
    };
    let put = |(key, value)| Change::Put {
        key,
        value,
        version: 0,
    };
    let changes = known.into_iter().map(put).collect();
    let written = tools.store.transact(&lease, changes).await;
    lease.release().await;
    if written.map_err(|error| error.to_string())? == Written::Done {
        tracing::warn!("acme: the store had lost the account: written back");
    }
    Ok(())
}

/// The chain is written anew from what is served, so its text may be another than it was.
fn record_of(held: &Held) -> CertificateRecord {
    let chain = held.certificate.served().cert.iter();
    CertificateRecord {
        chain: chain.map(|one| pem(one)).collect(),
        key: String::from_utf8_lossy(&held.key.0).into_owned(),
        directory: held.directory.to_string(),
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, left) = rest.split_at(rest.len().min(LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = left;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(name: &DomainName) -> (Held, CertificateRecord) {
        let made = rcgen::generate_simple_self_signed([name.as_str().to_owned()]).unwrap();
        let record = CertificateRecord {
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            directory: "https://ca.test/dir".into(),
        };
        let held = sync::read_certificate(name, &records::write(&record)).unwrap();
        (held, record)
    }

    #[test]
    fn what_is_served_becomes_the_record_that_it_was_read_from() {
        let name = DomainName::parse("a.test").unwrap();
        let (held, record) = held(&name);
        let again = record_of(&held);
        let unix = |text: &str| text.replace("\r\n", "\n");
        assert_eq!(unix(&again.chain), unix(&record.chain));
        assert_eq!(again.key, record.key);
        assert_eq!(again.directory, record.directory);
        assert!(!format!("{held:?}").contains("PRIVATE"));
    }
}
