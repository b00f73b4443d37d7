//! A canary as this load balancer hears of it: in force here if it is named, known in either case.
//!
//! Its end is heard of as its beginning was. Where it is not, Consul being away, what is tried here goes by itself, soon: nobody could
//! end it if it were broken. One that was promoted stays until its documents are here by their own watches: else what was before would be back for a moment.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Model;
use crate::control::canary::Proposal;
use crate::control::consul::{Document, LEADER_WATCH, Subtree};
use crate::control::mistake::{IGNORED, Mistake};
use crate::routing::canary::{Canary, OVERDUE};

/// The longest that one that was promoted waits for its documents: others may have changed them since.
pub const FOLLOWED_AT_MOST: Duration = Duration::from_secs(10);

const TAKEN_OFF: &str = "its time is over and nothing was heard of its end, or consul was away for 30 s: taken off here";

/// What is known of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trial {
    canary: Option<Arc<Canary>>,
    /// Why what is there of it cannot be read.
    mistake: Option<String>,
    standing: Standing,
    /// Since when nobody could say here that it is over.
    unheard_since: Option<SystemTime>,
}

/// How what is tried stands here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Elsewhere,
    /// In force, at most until then.
    Here { until: SystemTime },
    /// Its end is overdue, or was out of hearing for as long.
    TakenOff,
    /// It is over and everybody's: in force until its documents are here, at most until then.
    Promoted { until: SystemTime },
}

impl Model {
    /// The canary that is under way in the pod, on this load balancer or on others.
    pub fn canary(&self) -> Option<&Arc<Canary>> {
        self.trial.canary.as_ref()
    }

    /// Whether what it tries is in force here.
    pub fn is_trying(&self) -> bool {
        matches!(self.trial.standing, Standing::Here { .. })
    }

    /// All that there is of a canary, of one moment.
    pub(super) fn hear_canary(&mut self, documents: &[Document], now: SystemTime) {
        let (proposal, mistake) = match Proposal::read(documents) {
            Ok(proposal) => (proposal, None),
            Err(why) => (None, Some(why)),
        };
        let before = std::mem::take(&mut self.trial);
        self.trial.mistake = mistake;
        self.trial.unheard_since = before.unheard_since;
        self.trial.canary = proposal.as_ref().map(|one| one.canary.clone());
        if before == self.trial && proposal.is_none() {
            return;
        }
        let is_tried = |proposal: &&Proposal| proposal.canary.is_on(&self.file.node.name);
        let here = proposal.as_ref().filter(is_tried);
        self.trial.standing = match (here, &proposal) {
            (Some(here), _) => before.standing_of(&here.canary, now),
            (None, None) => before.standing_after(now),
            (None, Some(_)) => Standing::Elsewhere,
        };
        match self.trial.standing {
            Standing::Promoted { until } => {
                self.timers.insert((until, None));
                self.revision += 1;
            }
            Standing::Here { until } => {
                self.timers.insert((until, None));
                self.lay_over(here, now);
            }
            Standing::Elsewhere | Standing::TakenOff => self.lay_over(None, now),
        }
    }

    fn lay_over(&mut self, proposal: Option<&Proposal>, now: SystemTime) {
        self.documents.lay_over(proposal);
        self.revision += 1;
        self.merge(now);
        self.settle_drains(now);
    }

    /// Takes off what is in force here longer than it may be, or needs to be.
    pub(super) fn look_at_trial(&mut self, now: SystemTime) {
        let is_unheard = self.is_unheard(now);
        self.trial.standing = match self.trial.standing {
            Standing::Here { until } if now >= until || is_unheard => Standing::TakenOff,
            Standing::Promoted { until } if now >= until || self.documents.have_what_is_laid() => {
                Standing::Elsewhere
            }
            Standing::Here { .. }
            | Standing::Promoted { .. }
            | Standing::Elsewhere
            | Standing::TakenOff => return,
        };
        self.lay_over(None, now);
    }

    /// Whether nothing has come of canaries for [`OVERDUE`]: Consul cannot be reached, or has no leader to write an end with.
    fn is_unheard(&mut self, now: SystemTime) -> bool {
        let watches = [LEADER_WATCH, Subtree::Canary.key().trim_end_matches('/')];
        if !watches
            .iter()
            .any(|watch| self.failing.contains_key(*watch))
        {
            self.trial.unheard_since = None;
            return false;
        }
        let until = *self.trial.unheard_since.get_or_insert(now) + OVERDUE;
        if now < until {
            self.timers.insert((until, None));
        }
        now >= until
    }

    pub(super) fn trial_mistake(&self) -> Option<Mistake> {
        let overdue = || (self.trial.standing == Standing::TakenOff).then(|| TAKEN_OFF.to_owned());
        let why = self.trial.mistake.clone().or_else(overdue)?;
        let entry = format!("kv:{}/canary/head", self.documents.prefix());
        Some(Mistake::new(entry, why, IGNORED))
    }
}

impl Trial {
    /// How one that is tried here stands, heard of again or for the first time.
    fn standing_of(&self, canary: &Canary, now: SystemTime) -> Standing {
        let is_known = self.canary.as_ref().is_some_and(|one| one.id == canary.id);
        match self.standing {
            known @ (Standing::Here { .. } | Standing::TakenOff) if is_known => known,
            Standing::Elsewhere
            | Standing::Here { .. }
            | Standing::TakenOff
            | Standing::Promoted { .. } => Standing::Here {
                until: now + canary.overdue_after(),
            },
        }
    }

    /// How it stands once there is none (any more).
    fn standing_after(&self, now: SystemTime) -> Standing {
        let is_promoted = |canary: &Arc<Canary>| canary.promoted.is_some();
        match self.standing {
            Standing::Here { .. } if self.canary.as_ref().is_some_and(is_promoted) => {
                Standing::Promoted {
                    until: now + FOLLOWED_AT_MOST,
                }
            }
            known @ Standing::Promoted { .. } => known,
            Standing::Here { .. } | Standing::Elsewhere | Standing::TakenOff => Standing::Elsewhere,
        }
    }
}
