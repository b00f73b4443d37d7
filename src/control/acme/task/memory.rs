//! Certificates that were kept before the start: served at once, until the store says what it has.

use super::super::keys::{self, CERTIFICATES};
use super::super::own::kept::Recalled;
use super::super::sync::kept::{Kept, Known};
use super::super::sync::{Held, read_certificate};
use super::super::wanted::in_use;
use super::{Loaded, Task};
use crate::config::DomainName;
use crate::control::kept::Keeper;
use crate::seal::Plain;

/// Fewer certificates than this are read by one thread.
const SHARE: usize = 32;

/// What of Consul's store is kept here; nothing, where the store itself is.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub keeper: Option<Keeper>,
    /// The pod's as it was kept.
    pub pod_id: Option<Vec<u8>>,
    /// Imported ones, until they are followed.
    pub(super) own: Recalled,
}

impl Task {
    /// Blocking: a client that comes meanwhile waits in its listener's queue, rather than being told that there is no certificate.
    pub(super) fn remember(&mut self) {
        let Some(keeper) = self
            .memory
            .keeper
            .clone()
            .filter(|_| in_use(&self.config).is_some())
        else {
            return;
        };
        let recalled = keeper.recall_below(CERTIFICATES);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = recalled.len().div_ceil(threads).max(SHARE);
        std::thread::scope(|scope| {
            let keeper = &keeper;
            let read = |share| scope.spawn(move || read_all(share, keeper));
            let shares: Vec<_> = recalled.chunks(share).map(read).collect();
            for share in shares {
                // A thread that panicked has told so, and its certificates come from the store.
                self.shelf.held.extend(share.join().unwrap_or_default());
            }
        });
        self.memory.own = Recalled::of(&keeper);
        self.shelf.imported = self.memory.own.imported();
        let (certificates, own) = (
            self.shelf.held.len(),
            self.shelf.imported.certificates.len(),
        );
        if certificates + own > 0 {
            tracing::info!(certificates, own, "acme: remembered");
            self.loaded.send_replace(Loaded::Remembered);
        }
    }
}

impl Task {
    /// What the store is compared with: what is another is fetched, and what it has no more is found gone.
    pub(super) fn known(&self) -> Known {
        Known {
            certificates: self.shelf.hashes(),
            pod_id: self.memory.pod_id.clone(),
            kept: Kept(self.memory.keeper.clone()),
        }
    }
}

fn read_all(recalled: &[(String, Plain)], keeper: &Keeper) -> Vec<(DomainName, Held)> {
    let read = |(key, text): &(String, Plain)| {
        let name = keys::name_of_certificate(key).ok_or_else(|| "the file of no name".to_owned());
        let held = name.and_then(|name| Ok((name.clone(), read_certificate(&name, text)?)));
        held.map_err(|why| keeper.blame(key, why)).ok()
    };
    recalled.iter().filter_map(read).collect()
}
