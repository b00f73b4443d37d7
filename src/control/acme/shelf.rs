//! What is served and answered at this moment, and what it becomes: own certificates, ordered ones, proofs, one store of all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::index::Hash;
use super::own::Imported;
use super::proofs::Pending;
use super::records::NodeRecord;
use super::sync::Held;
use super::wanted::wildcard_of;
use crate::certs::CertStore;
use crate::certs::challenge::Challenges;
use crate::config::DomainName;
use crate::seal::hex;

/// Changes whenever something comes; a store is made of it.
#[derive(Default)]
pub(super) struct Shelf {
    /// Of the file.
    pub(super) own: CertStore,
    /// One's own, of the store: served where the file has none.
    pub(super) imported: Imported,
    pub(super) listeners: Vec<Arc<str>>,
    /// Whose certificates may serve clients without SNI, first come first: never one that somebody else named.
    pub(super) defaults: Vec<DomainName>,
    /// Of the store, wanted or not.
    pub(super) held: BTreeMap<DomainName, Held>,
    /// Why the store's certificate of a name is not the one that is held.
    pub(super) refused: BTreeMap<DomainName, String>,
    pub(super) thumbprint: Option<String>,
    /// What the pod has sealed cannot be opened here.
    pub(super) is_locked_out: bool,
    /// By tls-alpn-01.
    pub(super) proofs: Pending,
    /// A client's handshake waits so long for a certificate that is not there yet.
    pub(super) wait: Duration,
    /// Names that something keeps from being ordered, and until when: nobody waits for them.
    pub(super) resting: BTreeMap<DomainName, SystemTime>,
}

/// Which of the held certificates are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serve {
    Wanted,
    /// Not all that is wanted is known yet: nobody loses a certificate over it.
    All,
}

impl Shelf {
    /// Of what is held, by name.
    pub(super) fn hashes(&self) -> BTreeMap<DomainName, Hash> {
        let held = self.held.iter();
        held.map(|(name, held)| (name.clone(), held.hash.clone()))
            .collect()
    }

    /// The store of this moment. Some milliseconds with thousands.
    pub(super) fn store(&self, wanted: &BTreeSet<DomainName>, serve: Serve) -> CertStore {
        let now = SystemTime::now();
        // A name whose zone has been taken on since keeps its own certificate until the zone has one.
        let is_bridging = |name: &DomainName| {
            let zone = wildcard_of(name).filter(|zone| wanted.contains(zone));
            let held = zone.map(|zone| self.held.get(&zone));
            held.is_some_and(|held| held.is_none_or(|held| !held.certificate.is_valid(now)))
        };
        // The other way round: a zone that was taken back serves the names below it until they have their own.
        let lacking = wanted.iter().filter(|name| !self.held.contains_key(name));
        let zones: BTreeSet<DomainName> = lacking.filter_map(wildcard_of).collect();
        let is_served = |(name, _): &(&DomainName, &Held)| match serve {
            Serve::Wanted => wanted.contains(*name) || is_bridging(name) || zones.contains(name),
            Serve::All => true,
        };
        let served = self.held.iter().filter(is_served);
        let served = served.map(|(_, held)| &held.certificate);
        let imported = self.imported.in_order();
        let served = imported.into_iter().chain(served);
        let names = wanted.iter().map(|name| name.as_str().into());
        let proofs = self.proofs.values().cloned();
        let resting = self.resting.iter();
        let resting = resting.map(|(name, until)| (name.as_str().into(), *until));
        let challenges = Challenges::new(self.thumbprint.as_deref(), names, proofs, self.wait);
        let challenges = challenges.resting(resting);
        self.own
            .joined(&self.listeners, served, challenges, now)
            .with_defaults(self.defaults.iter().map(DomainName::as_str))
    }

    /// What the others may count on once that store is published.
    pub(super) fn in_force(&self, node: &str) -> NodeRecord {
        NodeRecord {
            node: node.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            thumbprint: self.thumbprint.clone(),
            proofs: self.proofs.values().map(|one| hex(one.digest())).collect(),
            is_locked_out: self.is_locked_out,
        }
    }
}

/// When the next store is due: at once after a quiet while, else a few times a second, however much comes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<tokio::time::Instant>,
    is_due: bool,
}

/// Between two stores.
const PACE: Duration = Duration::from_millis(200);

impl Pace {
    /// Something is other than it was published.
    pub(super) fn need(&mut self) {
        self.is_due = true;
    }

    pub(super) fn next(&self) -> Option<tokio::time::Instant> {
        let last = self
            .last
            .map_or_else(tokio::time::Instant::now, |last| last + PACE);
        self.is_due.then_some(last)
    }

    /// Published now.
    pub(super) fn done(&mut self) {
        self.last = Some(tokio::time::Instant::now());
        self.is_due = false;
    }
}
