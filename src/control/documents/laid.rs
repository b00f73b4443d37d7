//! What a canary lays over the documents in KV, entry by entry: it is read by the same readers, and a wrong one hurts nobody else.
//!
//! It lies beside the entries, not among them: what is doubted, held back and kept on disk is what KV has.

use std::sync::Arc;

use super::tree::{Entry, Tree};
use super::{Documents, domain_of, route_of, service_of, tuning_of};
use crate::control::canary::Proposal;
use crate::control::consul::Document;
use crate::control::mistake::{IGNORED, LAST_GOOD, Mistake};
use crate::routing::staged::Kind;

#[derive(Clone, Debug)]
pub(super) enum Laid<T> {
    Gone,
    Instead(Arc<Entry<T>>),
}

impl<T: Clone> Laid<T> {
    /// What is in force in the place of `entry`: that itself, where this one is wrong.
    pub(super) fn instead_of<'a>(&'a self, entry: &'a Arc<Entry<T>>) -> Option<&'a Arc<Entry<T>>> {
        match self {
            Laid::Gone => None,
            Laid::Instead(laid) if laid.good.is_some() => Some(laid),
            Laid::Instead(_) => Some(entry),
        }
    }

    pub(super) fn entry(&self) -> Option<&Arc<Entry<T>>> {
        match self {
            Laid::Gone => None,
            Laid::Instead(entry) => Some(entry),
        }
    }

    pub(super) fn read_again(&mut self, parse: impl Fn(&Document) -> Result<T, String>) {
        if let Laid::Instead(entry) = self {
            *entry = entry.read_again(parse);
        }
    }
}

impl<T: Clone> Tree<T> {
    pub(super) fn laid_mistakes(&self, root: &str, into: &mut Vec<Mistake>) {
        for (name, laid) in &self.laid {
            let Some(message) = laid.entry().and_then(|entry| entry.mistake.as_ref()) else {
                continue;
            };
            let known = self.entry(name);
            let in_force = match known.is_some_and(|entry| entry.good.is_some()) {
                true => LAST_GOOD,
                false => IGNORED,
            };
            let entry = format!("kv:{root}/{name}");
            let message = format!("in the canary: {message}");
            into.push(Mistake::new(entry, message, in_force));
        }
    }

    /// Whether KV has what is laid over it.
    fn has_what_is_laid(&self) -> bool {
        let text = |entry: Option<&Arc<Entry<T>>>| entry.map(|entry| entry.document.value.clone());
        let mut laid = self.laid.iter();
        laid.all(|(name, laid)| text(self.entry(name)) == text(laid.entry()))
    }

    fn lay_read(
        &mut self,
        changes: impl Iterator<Item = (String, Option<Document>)>,
        parse: impl Fn(&Document) -> Result<T, String>,
    ) {
        let read = |(name, document): (String, Option<Document>)| {
            let laid = match document {
                None => Laid::Gone,
                Some(document) => Laid::Instead(Entry::read(None, &document, &parse)),
            };
            (name, laid)
        };
        self.lay(changes.map(read).collect());
    }
}

impl Documents {
    pub fn have_what_is_laid(&self) -> bool {
        self.services.has_what_is_laid()
            && self.routes.has_what_is_laid()
            && self.domains.has_what_is_laid()
            && self.tuning.has_what_is_laid()
    }

    /// A canary's changes are in force from now on, and no others; None: there is none here.
    pub fn lay_over(&mut self, proposal: Option<&Proposal>) {
        let of = |kind: Kind| proposal.into_iter().flat_map(move |one| one.of_kind(kind));
        self.services.lay_read(of(Kind::Services), service_of);
        self.routes.lay_read(of(Kind::Routes), route_of);
        self.domains.lay_read(of(Kind::Domains), domain_of);
        let base = self.base.clone();
        self.tuning
            .lay_read(of(Kind::Tuning), |document| tuning_of(document, &base));
    }
}
