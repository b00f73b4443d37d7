//! What operators ask about canaries: to begin one, how it stands, to end it by hand.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::judge::judge;
use super::nodes::chosen;
use super::register::{Promotion, Register};
use super::standing::Standing;
use crate::control::staged::batches::Write;
use crate::routing::canary::{Canary, CanaryView, Ended, Outcome, Trial};
use crate::routing::staged::{Change, Plan, RevisionRow, StagingError, Word};
use crate::telemetry::rfc3339;

/// Services that a canary names as those it changes something for.
const NAMED: usize = 256;

pub struct Trials {
    register: Register,
}

impl Trials {
    pub fn new(register: Register) -> Trials {
        Trials { register }
    }

    /// Why nothing else can be changed now; None: nothing is tried.
    pub async fn objection(&self) -> Result<Option<String>, StagingError> {
        let canary = match self.register.canary().await {
            Err(StagingError::Refused(why)) => return Ok(Some(why)),
            canary => canary?,
        };
        Ok(canary.map(|canary| {
            format!(
                "a canary of {} is under way on {} until {}: nothing else is changed until it ends \
                 (rota canary shows it, rota canary abort and rota canary promote end it)",
                canary.by,
                canary.nodes.join(", "),
                rfc3339::text(canary.until())
            )
        }))
    }

    /// `states` are those of all documents before and after.
    pub async fn begin(
        &self,
        plan: &Plan,
        tried: Vec<Write>,
        states: [String; 2],
        word: Word,
        trial: Trial,
    ) -> Result<Canary, StagingError> {
        let live = self.register.live_nodes().await?;
        let nodes = chosen(&trial.on, &live).map_err(StagingError::Refused)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let begun_ms = since.map_or(0, |since| since.as_millis() as u64);
        let [before, after] = states;
        let canary = Canary {
            id: format!("{:016x}", fastrand::u64(..)),
            by: word.by,
            note: word.note,
            nodes,
            begun_ms,
            until_ms: begun_ms + trial.lasting.as_millis() as u64,
            documents: tried.len(),
            services: touched(plan),
            unroutes: plan.routes.iter().any(|route| route.to.is_none()),
            before,
            after,
            promoted: None,
        };
        self.register.begin(&canary, tried).await?;
        Ok(canary)
    }

    pub async fn view(&self) -> Result<CanaryView, StagingError> {
        let running = self.register.canary().await?;
        let compared = match &running {
            None => Vec::new(),
            Some(canary) => {
                let reports = self.register.reports(&canary.id).await?;
                judge(canary, &reports, Duration::ZERO).compared
            }
        };
        Ok(CanaryView {
            running,
            compared,
            ended: self.register.ended().await?,
        })
    }

    /// Gives what was done, in words.
    pub async fn end_by_hand(&self, outcome: Outcome, word: &Word) -> Result<String, StagingError> {
        if outcome == Outcome::RolledBack
            && let Some(why) = self.register.drop_unreadable().await?
        {
            tracing::warn!(
                by = word.by,
                why,
                "canary/head could not be read and is deleted"
            );
            return Ok(format!(
                "canary/head could not be read and is deleted: {why}"
            ));
        }
        let Some(running) = self.register.running().await? else {
            return Err(StagingError::Unknown("no canary is under way".to_owned()));
        };
        let note = match word.note.is_empty() {
            true => String::new(),
            false => format!(": {}", word.note),
        };
        let reason = format!("by hand of {}{note}", word.by);
        let id = running.proposal.canary.id.clone();
        if outcome == Outcome::Promoted
            && let Promotion::Lost(why) = self.register.promote(&id, &reason).await?
        {
            return Err(StagingError::Refused(why));
        }
        // What has begun to be everybody's is finished, unless that is refused.
        if outcome == Outcome::RolledBack
            && self.register.standing(&running).await? == Standing::Begun
        {
            match self.register.promote(&id, &reason).await {
                Err(StagingError::Refused(why)) => {
                    self.register.give_up(&id, &why, &reason).await?;
                }
                finished => drop(finished?),
            }
        }
        let ended = self.end(&id, outcome, reason).await?;
        match ended.outcome == outcome {
            true => Ok(told(&ended)),
            false => {
                let told = told(&ended);
                Err(StagingError::Refused(format!("it is over: {told}")))
            }
        }
    }

    /// By whomever.
    async fn end(&self, id: &str, outcome: Outcome, why: String) -> Result<Ended, StagingError> {
        if let Some(running) = self.register.running_still(id).await?
            && let Some(ended) = self.register.end(running, outcome, why).await?
        {
            return Ok(ended);
        }
        let mut ended = self.register.ended().await?.into_iter();
        let ended = ended.find(|ended| ended.canary.id == id);
        ended.ok_or_else(|| StagingError::Refused("it has just ended".to_owned()))
    }

    /// Those that came to nothing, beside revisions.
    pub async fn rolled_back(&self) -> Result<Vec<RevisionRow>, StagingError> {
        let ended = self.register.ended().await?.into_iter();
        let ended = ended.filter(|ended| ended.outcome == Outcome::RolledBack);
        Ok(ended.map(row).collect())
    }
}

/// As log and operators are told it.
pub fn told(ended: &Ended) -> String {
    format!(
        "canary on {}: {}, {}",
        ended.canary.nodes.join(", "),
        ended.outcome,
        ended.reason
    )
}

fn row(ended: Ended) -> RevisionRow {
    RevisionRow {
        revision: None,
        at: ended.at,
        by: ended.canary.by,
        note: ended.canary.note,
        added: 0,
        changed: ended.canary.documents,
        removed: 0,
        rolled_back: Some(ended.reason),
    }
}

/// Services that requests come to in another way: those that only lose some have no evidence of it.
fn touched(plan: &Plan) -> Vec<String> {
    let services = plan.services.iter();
    let there = services.filter(|one| one.change != Change::Removed);
    let of_routes = plan.routes.iter().flat_map(|route| &route.to);
    let names: BTreeSet<&String> = there.map(|one| &one.name).chain(of_routes).collect();
    names.into_iter().take(NAMED).cloned().collect()
}
