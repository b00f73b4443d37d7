//! A canary as this load balancer hears of it: in force here if it is named, known in either case.

use std::sync::Arc;
use std::time::SystemTime;

use super::Model;
use crate::control::canary::Proposal;
use crate::control::consul::Document;
use crate::control::mistake::{IGNORED, Mistake};
use crate::routing::canary::Canary;

/// What is known of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trial {
    canary: Option<Arc<Canary>>,
    /// Why what is there of it cannot be read.
    mistake: Option<String>,
}

impl Model {
    /// The canary that is under way in the pod, on this load balancer or on others.
    pub fn canary(&self) -> Option<&Arc<Canary>> {
        self.trial.canary.as_ref()
    }

    /// All that there is of a canary, of one moment.
    pub(super) fn hear_canary(&mut self, documents: &[Document], now: SystemTime) {
        let (proposal, mistake) = match Proposal::read(documents) {
            Ok(proposal) => (proposal, None),
            Err(why) => (None, Some(why)),
        };
        let before = std::mem::take(&mut self.trial);
        self.trial.mistake = mistake;
        self.trial.canary = proposal.as_ref().map(|one| one.canary.clone());
        if before == self.trial && proposal.is_none() {
            return;
        }
        let is_tried = |proposal: &&Proposal| proposal.canary.is_on(&self.file.node.name);
        let here = proposal.as_ref().filter(is_tried);
        self.documents.lay_over(here);
        self.revision += 1;
        self.merge(now);
        self.settle_drains(now);
    }

    pub(super) fn trial_mistake(&self) -> Option<Mistake> {
        let why = self.trial.mistake.as_ref()?;
        let entry = format!("kv:{}/canary/head", self.documents.prefix());
        Some(Mistake::new(entry, why.clone(), IGNORED))
    }
}
