//! What keeps a name from being ordered, and until when: the account, its own back-off, a budget without room for an order of its kind.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{Account, Failure, Model, Replaces, jittered, seed_of};
use crate::config::DomainName;

/// Failures in a row to open the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) failures: u32,
    pub(super) until: SystemTime,
    pub(super) text: String,
}

/// Until when nothing is tried, and why; None: no reason that anybody needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) until: SystemTime,
    pub(super) why: Option<String>,
}

impl Rest {
    pub(super) fn for_reason(until: SystemTime, why: String) -> Rest {
        let why = Some(why);
        Rest { until, why }
    }
}

/// Until when a budget has no room. One that says what it replaces has more room than others, so its word holds for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) rest: Rest,
    pub(super) of: Replaces,
}

impl Full {
    /// What it says against an order of this kind.
    pub(super) fn against(&self, order: Replaces) -> Option<&Rest> {
        let is_held = self.of == Replaces::Present || order == Replaces::Nothing;
        is_held.then_some(&self.rest)
    }
}

impl Model {
    pub(super) fn keep_closed(&mut self, failure: &Failure, now: SystemTime) {
        self.account = Account::Closed;
        let before = self.account_trouble.as_ref();
        let failures = before.map_or(0, |before| before.failures) + 1;
        let seed = seed_of(&[&self.node]).wrapping_add(u64::from(failures));
        self.account_trouble = Some(Trouble {
            failures,
            until: now + jittered(failure.pause(failures), seed),
            text: failure.text().to_owned(),
        });
    }

    /// Names without a certificate that something keeps from being ordered, and until when.
    pub fn resting(&self) -> BTreeMap<DomainName, SystemTime> {
        let resting = self
            .standings()
            .filter(|(_, one)| one.validity.is_none() && one.error.is_some());
        resting
            .filter_map(|(name, one)| Some((name.clone(), one.next?)))
            .collect()
    }
}
