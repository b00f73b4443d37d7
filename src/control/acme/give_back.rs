//! What this load balancer holds and a store that lost its state has not: written back, so that whoever joins has it.
//!
//! Several load balancers do the same at once: each begins with other names, and what somebody else wrote back is left as it is.
//! Certificates go before the account's key: who finds that key there takes a certificate that is missing for one that was taken out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::contention::Tries;
use super::ground::Ground;
use super::keys;
use super::model::seed_of;
use super::order::Tools;
use super::records::{self, CertificateRecord};
use super::sync::{self, Held};
use crate::config::DomainName;
use crate::control::store::{Change, Lease, Written};
use crate::seal::Plain;

/// Between two names, so that thousands of them leave Consul room for everything else.
const EACH: Duration = Duration::from_millis(20);
/// Looked for by one question.
const BATCH: usize = 64;
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
    pub(super) async fn give(&self, tools: &Tools, node: &str, mut held: Vec<(DomainName, Held)>) {
        let Ok(mut said) = self.0.try_lock() else {
            return;
        };
        held.sort_by_key(|(name, _)| seed_of(&[node, "/", name.as_str()]));
        let now = match give(tools, &held).await {
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

/// Gives how many were written back.
async fn give(tools: &Tools, held: &[(DomainName, Held)]) -> Result<usize, String> {
    let mut given = 0;
    for batch in held.chunks(BATCH) {
        for (name, held) in missing(tools, batch).await? {
            given += give_certificate(tools, name, held).await?;
            sleep(EACH).await;
        }
    }
    give_account(tools).await?;
    Ok(given)
}

async fn missing<'a>(
    tools: &Tools,
    batch: &'a [(DomainName, Held)],
) -> Result<Vec<&'a (DomainName, Held)>, String> {
    let keys: Vec<String> = batch
        .iter()
        .map(|(name, _)| keys::certificate(name))
        .collect();
    let found = tools.store.read_many(&keys).await;
    let found = found.map_err(|error| error.to_string())?;
    let both = batch.iter().zip(found);
    let missing = both.filter(|(_, found)| matches!(found, Ok(None)));
    Ok(missing.map(|(one, _)| one).collect())
}

/// Gives how many certificates were written: one, or none if somebody else is at the name or was.
async fn give_certificate(tools: &Tools, name: &DomainName, held: &Held) -> Result<usize, String> {
    let lease = tools.store.lock(&keys::lock(name)).await;
    let Some(lease) = lease.map_err(|error| error.to_string())? else {
        return Ok(0);
    };
    let given = write_back(tools, name, held, &lease).await;
    lease.release().await;
    given
}

async fn write_back(
    tools: &Tools,
    name: &DomainName,
    held: &Held,
    lease: &Lease,
) -> Result<usize, String> {
    let record = records::write(&record_of(held));
    let (again, value) = (name.clone(), record.clone());
    let read = tokio::task::spawn_blocking(move || sync::read_certificate(&again, &value));
    let held = read.await.map_err(|panicked| panicked.to_string())??;
    let mut tries = Tries::default();
    loop {
        let ground = Ground::read(&tools.store, name).await;
        let mut ground = ground.map_err(|error| error.to_string())??;
        if ground.entry.is_some() || ground.certificate_version != 0 {
            return Ok(0);
        }
        let changes = ground.with_certificate(&held, record.clone());
        let written = tools.store.transact(lease, changes).await;
        match written.map_err(|error| error.to_string())? {
            Written::Done => return Ok(1),
            // Other names of the same shard.
            Written::Conflict => tries.again(lease, name.as_str()).await?,
        }
    }
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
