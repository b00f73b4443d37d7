//! Documents as operators stage them, over HTTP: larger bodies than other orders have, and answers with parts of their own.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Answer, caller, json, json_with, may_change, whole};
use crate::admin::access::{Refusal, Via, check_json};
use crate::admin::staging::{ApplyRequest, DiffRequest, EndRequest, RollbackRequest};
use crate::admin::state::State;
use crate::routing::canary::Outcome;
use crate::routing::staged::{Staging, StagingAnswer, StagingError};

/// A body with documents; 413 beyond. 10,000 domains with a service each take 1 MiB.
pub const MAX_STAGED_BYTES: usize = 16 * 1024 * 1024;
/// Such a body that takes longer: 408.
const STAGED_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// What takes longer: 503; it may yet be carried out.
pub const STAGING_TIMEOUT: Duration = Duration::from_secs(60);

/// What is asked about documents.
#[derive(Clone, Copy)]
pub(super) enum StagingVerb {
    Plan,
    Apply,
    Diff,
    Rollback,
    EndCanary(Outcome),
}

impl StagingVerb {
    pub(super) fn of(path: &str) -> Option<StagingVerb> {
        match path {
            "/v1/plan" => Some(StagingVerb::Plan),
            "/v1/apply" => Some(StagingVerb::Apply),
            "/v1/diff" => Some(StagingVerb::Diff),
            "/v1/rollback" => Some(StagingVerb::Rollback),
            "/v1/canary/promote" => Some(StagingVerb::EndCanary(Outcome::Promoted)),
            "/v1/canary/abort" => Some(StagingVerb::EndCanary(Outcome::RolledBack)),
            _ => None,
        }
    }
}

pub(super) async fn answer(
    state: Arc<State>,
    via: &Via,
    head: Parts,
    body: Incoming,
    verb: StagingVerb,
) -> Result<Answer, Refusal> {
    match verb {
        // Nothing changes, and no document's text is shown.
        StagingVerb::Plan => check_json(&head)?,
        // A document may hold what a probe shows a server: its text is for who may change it.
        StagingVerb::Apply
        | StagingVerb::Diff
        | StagingVerb::Rollback
        | StagingVerb::EndCanary(_) => {
            may_change(state.clone(), via.clone(), head).await?;
        }
    }
    let _place = state.large_bodies.acquire().await.expect("never closed");
    let body = whole(body, MAX_STAGED_BYTES, STAGED_BODY_TIMEOUT).await?;
    let staging = match verb {
        StagingVerb::Plan => Staging::Plan(read(&body)?),
        StagingVerb::Apply => read::<ApplyRequest>(&body)?.into_staging().map_err(bad)?,
        StagingVerb::Diff => read::<DiffRequest>(&body)?.into_staging(),
        StagingVerb::Rollback => read::<RollbackRequest>(&body)?
            .into_staging()
            .map_err(bad)?,
        StagingVerb::EndCanary(outcome) => read::<EndRequest>(&body)?
            .into_staging(outcome)
            .map_err(bad)?,
    };
    drop(body);
    carried_out(&state, via, staging).await
}

/// What was changed when and by whom.
pub(super) async fn history(state: &State, via: &Via) -> Result<Answer, Refusal> {
    carried_out(state, via, Staging::History).await
}

/// What is tried now, and what was.
pub(super) async fn canary(state: &State, via: &Via) -> Result<Answer, Refusal> {
    carried_out(state, via, Staging::Canary).await
}

async fn carried_out(state: &State, via: &Via, staging: Staging) -> Result<Answer, Refusal> {
    let said = described(&staging).map(|said| format!("{said} from {}", caller(via)));
    let answered = tokio::time::timeout(STAGING_TIMEOUT, state.control.stage(staging)).await;
    if let Some(said) = said {
        log(&said, &answered);
    }
    match answered {
        Ok(Ok(StagingAnswer::Plan(plan))) => Ok(json(&plan)),
        Ok(Ok(StagingAnswer::Written(written))) => Ok(json(&written)),
        Ok(Ok(StagingAnswer::History(rows))) => Ok(json(&rows)),
        Ok(Ok(StagingAnswer::Diff(differences))) => Ok(json(&differences)),
        Ok(Ok(StagingAnswer::Canary(view))) => Ok(json(&view)),
        Ok(Ok(StagingAnswer::CanaryEnded(message))) => Ok(json(&json!({ "message": message }))),
        Ok(Err(error)) => Ok(refused(&error)),
        Err(_) => {
            let message = "nobody answered in time: what was asked for may yet be carried out";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message))
        }
    }
}

fn bad(why: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, why)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad(error.to_string()))
}

/// As the log tells it; None: it changes nothing.
fn described(staging: &Staging) -> Option<String> {
    match staging {
        Staging::Plan(_) | Staging::History | Staging::Diff { .. } | Staging::Canary => None,
        Staging::EndCanary { outcome, word } => Some(format!(
            "canary to be {outcome} by {}",
            word.by.escape_debug()
        )),
        Staging::Rollback { to, word } => {
            Some(format!("rollback to {to} by {}", word.by.escape_debug()))
        }
        Staging::Apply { staged, word, .. } => Some(format!(
            "apply of {} documents by {}",
            staged.documents.len(),
            word.by.escape_debug()
        )),
    }
}

type Timed = Result<Result<StagingAnswer, StagingError>, tokio::time::error::Elapsed>;

fn log(said: &str, answered: &Timed) {
    match answered {
        Ok(Ok(StagingAnswer::Written(written))) => tracing::info!("{said}: {}", written.message),
        Ok(Ok(StagingAnswer::CanaryEnded(message))) => tracing::info!("{said}: {message}"),
        Ok(Ok(
            StagingAnswer::Plan(_)
            | StagingAnswer::History(_)
            | StagingAnswer::Diff(_)
            | StagingAnswer::Canary(_),
        )) => {}
        Ok(Err(error)) => tracing::warn!("{said}: not carried out: {error}"),
        Err(_) => tracing::warn!("{said}: no word within {STAGING_TIMEOUT:?}"),
    }
}

fn refused(error: &StagingError) -> Answer {
    let mut body = json!({ "error": error.to_string() });
    let status = match error {
        StagingError::Mistakes(mistakes) => {
            body["mistakes"] = json!(mistakes);
            StatusCode::UNPROCESSABLE_ENTITY
        }
        StagingError::Changed {
            since,
            differences,
            plan,
            ..
        } => {
            body["changed"] = json!(since);
            body["differences"] = json!(differences);
            body["plan"] = json!(plan);
            StatusCode::CONFLICT
        }
        StagingError::Unknown(_) => StatusCode::NOT_FOUND,
        StagingError::Refused(_) => StatusCode::CONFLICT,
        StagingError::NoConsul(_) | StagingError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
    };
    json_with(status, &body)
}
