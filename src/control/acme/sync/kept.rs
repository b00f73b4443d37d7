//! Certificates of the store on this load balancer's own disk: what comes is kept, what goes is forgotten.

use std::collections::BTreeMap;

use super::super::index::Hash;
use super::super::keys;
use crate::config::DomainName;
use crate::control::kept::{Content, Keeper};
use crate::control::store::{Entry, StoreError};
use crate::seal::Plain;

/// What is known of the store before it has said anything.
#[derive(Default)]
pub(in crate::control::acme) struct Known {
    pub(in crate::control::acme) certificates: BTreeMap<DomainName, Hash>,
    pub(in crate::control::acme) pod_id: Option<Vec<u8>>,
    pub(in crate::control::acme) kept: Kept,
}

/// None: there is no state directory beside the store.
#[derive(Clone, Default)]
pub(in crate::control::acme) struct Kept(pub(in crate::control::acme) Option<Keeper>);

impl Kept {
    /// As the store has it, opened.
    pub(super) fn text_of(value: &Result<Option<Entry>, StoreError>) -> Option<Plain> {
        let entry = value.as_ref().ok()?.as_ref()?;
        Some(entry.value.clone())
    }

    pub(super) fn keep(&self, name: &DomainName, text: Option<Plain>) {
        if let (Some(keeper), Some(text)) = (&self.0, text) {
            keeper.keep(&keys::certificate(name), Content::Text(text));
        }
    }

    pub(super) fn forget(&self, name: &DomainName) {
        if let Some(keeper) = &self.0 {
            keeper.keep(&keys::certificate(name), Content::Nothing);
        }
    }
}
