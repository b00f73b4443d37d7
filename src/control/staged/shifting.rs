//! Other shares for a service's groups, written as any change of documents is: by check-and-set, and announced, so that its revision
//! says whose it is.

use super::Desk;
use super::apply::{self, Outcome};
use super::batches::Write;
use super::revision::{Pending, Text, hash, state_of};
use crate::control::shift::Shift;
use crate::routing::operator::OrderError;
use crate::routing::staged::StagingError;
use crate::telemetry::vitals::Staged;

/// How often another writer may come between before the order is given up.
const TRIES: usize = 5;

impl Desk {
    /// Reads the document, changes its groups, and writes it if nobody else has meanwhile; else again. Gives what was done, in words.
    ///
    /// # Errors
    /// The document is gone or cannot be rewritten; others write it all the time; Consul does not answer.
    pub async fn shift(&self, shift: &Shift) -> Result<String, OrderError> {
        let written = self.written(shift).await;
        self.vitals.was_staged(Staged::Shift, &written);
        written
    }

    async fn written(&self, shift: &Shift) -> Result<String, OrderError> {
        for _ in 0..TRIES {
            self.refuse_beside_canary().await.map_err(refusal)?;
            let read = self.ledger.live().await;
            let live = read.map_err(|error| OrderError::NoConsul(error.to_string()))?;
            let rewritten = shift.rewrite(&live)?;
            if rewritten.is_same {
                return Ok(format!("{}, as it was before", rewritten.done));
            }
            let mut state = state_of(&live);
            let text = Text::Plain(rewritten.text.clone());
            state.insert(rewritten.path.clone(), text);
            let pending = Pending {
                by: shift.by().to_owned(),
                note: shift.note(),
                state: hash(&state),
            };
            let write = Write {
                path: rewritten.path,
                text: Some(rewritten.text),
                index: rewritten.index,
            };
            let batches = vec![vec![write]];
            let written = apply::write(&self.store, &self.ledger, batches, &pending).await;
            match written.map_err(refusal)? {
                Outcome::Done => return Ok(rewritten.done),
                Outcome::Conflict { .. } => {}
            }
        }
        let why = "others change its document all the time";
        Err(OrderError::Failed(why.to_owned()))
    }
}

fn refusal(error: StagingError) -> OrderError {
    match error {
        StagingError::NoConsul(why) => OrderError::NoConsul(why),
        StagingError::Stopped => OrderError::Stopped,
        StagingError::Mistakes(_)
        | StagingError::Changed { .. }
        | StagingError::Unknown(_)
        | StagingError::Refused(_) => OrderError::Failed(error.to_string()),
    }
}
