//! Documents as operators stage them, over HTTP: larger bodies than other orders have, and answers with parts of their own.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use hyper::body::Incoming;
use serde_json::json;

use super::{Answer, json, json_with, whole};
use crate::admin::access::{Refusal, check_json};
use crate::admin::state::State;
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
}

impl StagingVerb {
    pub(super) fn of(path: &str) -> Option<StagingVerb> {
        match path {
            "/v1/plan" => Some(StagingVerb::Plan),
            _ => None,
        }
    }
}

pub(super) async fn answer(
    state: Arc<State>,
    head: Parts,
    body: Incoming,
    verb: StagingVerb,
) -> Result<Answer, Refusal> {
    match verb {
        // Nothing changes, and no document's text is shown.
        StagingVerb::Plan => check_json(&head)?,
    }
    let _place = state
        .large_bodies
        .acquire()
        .await
        .expect("it is never closed");
    let body = whole(body, MAX_STAGED_BYTES, STAGED_BODY_TIMEOUT).await?;
    let bad = |error: serde_json::Error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string());
    let staging = match verb {
        StagingVerb::Plan => Staging::Plan(serde_json::from_slice(&body).map_err(bad)?),
    };
    drop(body);
    match tokio::time::timeout(STAGING_TIMEOUT, state.control.stage(staging)).await {
        Ok(Ok(StagingAnswer::Plan(plan))) => Ok(json(&plan)),
        Ok(Err(error)) => Ok(refused(&error)),
        Err(_) => {
            let message = "nobody answered in time";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message))
        }
    }
}

fn refused(error: &StagingError) -> Answer {
    let mut body = json!({ "error": error.to_string() });
    let status = match error {
        StagingError::Mistakes(mistakes) => {
            body["mistakes"] = json!(mistakes);
            StatusCode::UNPROCESSABLE_ENTITY
        }
        StagingError::Refused(_) => StatusCode::CONFLICT,
        StagingError::NoConsul(_) | StagingError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
    };
    json_with(status, &body)
}
