//! Certificates of one's own on this load balancer's own disk: served at a start before the store has said anything.

use std::collections::BTreeMap;

use super::{Imported, MARK, OWN, Own, OwnName, key_of, read};
use crate::control::acme::sync::Extent;
use crate::control::kept::{Content, Keeper};
use crate::seal::Plain;

/// What was kept.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Recalled {
    /// Each with the text that it was read from.
    pub(super) certificates: BTreeMap<String, (Plain, Own)>,
    /// Of the store that they are of.
    pub(super) mark: Option<Plain>,
}

impl Recalled {
    /// What cannot be used is named. Blocking.
    pub(in super::super) fn of(keeper: &Keeper) -> Recalled {
        let mut recalled = Recalled::default();
        for (key, text) in keeper.recall_below(OWN) {
            let name = key.strip_prefix(OWN).unwrap_or(&key);
            if name == MARK {
                recalled.mark = Some(text);
                continue;
            }
            let is_name = OwnName::parse(name).is_some_and(|own| own.as_str() == name);
            let own = match is_name {
                true => read(name, &text),
                false => Err("the file of no name".to_owned()),
            };
            match own {
                Ok(own) => drop(recalled.certificates.insert(name.to_owned(), (text, own))),
                Err(why) => keeper.blame(&key, why),
            }
        }
        recalled
    }

    /// As what is to be served until the store answers.
    pub(in super::super) fn imported(&self) -> Imported {
        let certificates = self.certificates.iter();
        Imported {
            certificates: certificates
                .map(|(name, (_, own))| (name.clone(), own.clone()))
                .collect(),
            extent: Extent::Part,
            ..Imported::default()
        }
    }
}

/// What is followed is kept; None: there is no state directory beside the store.
#[derive(Clone)]
pub(super) struct Keeping(pub(super) Option<Keeper>);

impl Keeping {
    pub(super) fn keep(&self, name: &str, text: Plain) {
        if let Some(keeper) = &self.0 {
            keeper.keep(&key_of(name), Content::Text(text));
        }
    }

    pub(super) fn forget(&self, name: &str) {
        if let Some(keeper) = &self.0 {
            keeper.keep(&key_of(name), Content::Nothing);
        }
    }
}
