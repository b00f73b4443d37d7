//! Pending proofs by tls-alpn-01, whoever ordered: from the store to what a handshake can be answered with.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::watch;

use super::keys::PROOFS;
use super::records::{self, ProofRecord, seconds};
use crate::certs::proof::Proof;
use crate::config::DomainName;
use crate::control::store::{Entry, Raw, Seen, Store};

/// By name.
pub(super) type Pending = BTreeMap<DomainName, Proof>;

/// Follows the store.
pub(super) async fn follow(store: Store, proofs: watch::Sender<Pending>) {
    let mut watch = store.watch(PROOFS);
    loop {
        if let Seen::Is(found) = watch.state() {
            let (store, before) = (store.clone(), proofs.borrow().clone());
            // A key and a signature each.
            let made = tokio::task::spawn_blocking(move || {
                let one = |(part, raw): (&String, &Raw)| made(&store, &before, part, raw);
                found.iter().filter_map(one).collect::<Pending>()
            });
            if let Ok(made) = made.await {
                proofs.send_replace(made);
            }
        }
        watch.changed().await;
    }
}

/// None: it is over, or none that can be answered; the CA says so to whoever ordered.
fn made(store: &Store, before: &Pending, part: &str, raw: &Raw) -> Option<(DomainName, Proof)> {
    let key = format!("{PROOFS}{part}");
    let name = DomainName::parse(part)?;
    let opened = store.open(&key, raw).map(|value| {
        let version = raw.version;
        Some(Entry { value, version })
    });
    let record = match store.present(&key, opened, records::parse::<ProofRecord>) {
        Ok(present) => present.value?,
        Err(error) => {
            tracing::warn!("acme: a proof cannot be shown: {error}");
            return None;
        }
    };
    if record.until < seconds(SystemTime::now()) {
        return None;
    }
    let known = before.get(&name);
    if let Some(known) = known.filter(|known| *known.digest() == record.digest) {
        return Some((name, known.clone()));
    }
    let proof = Proof::new(name.as_str(), record.digest);
    let told = |why| tracing::warn!("acme: {why}");
    Some((name, proof.map_err(told).ok()?))
}
