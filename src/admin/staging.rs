//! What operators ask about staged documents: from JSON to a [`Staging`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::orders::{checked_by, parse_span};
use crate::routing::canary::{LONGEST_CANARY, On, Outcome, Trial, USUAL_CANARY};
use crate::routing::staged::{Basis, Staged, Staging, Word};

/// The longest note on a change, in bytes.
pub const MAX_NOTE_LEN: usize = 512;

/// The body of `POST /v1/apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    pub staged: Staged,
    /// The plan's; absent: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// The plan's revision: what was changed since is shown where it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Who wants it, for log and history.
    pub by: String,
    #[serde(default)]
    pub note: String,
    /// On some load balancers first; absent: everywhere at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<TrialRequest>,
}

/// How a change is to be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRequest {
    /// `33%`, or names of load balancers divided by commas.
    pub on: String,
    /// How long: `90s`, `5m`, `1d` at most; absent: five minutes.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_span: Option<String>,
}

impl ApplyRequest {
    /// The error is a message.
    pub fn into_staging(self) -> Result<Staging, String> {
        Ok(Staging::Apply {
            staged: self.staged,
            basis: self.basis,
            since: self.since,
            word: word(&self.by, &self.note)?,
            trial: self.canary.map(TrialRequest::into_trial).transpose()?,
        })
    }
}

impl TrialRequest {
    fn into_trial(self) -> Result<Trial, String> {
        let lasting = self.for_span.as_deref().map(parse_trial_span).transpose()?;
        Ok(Trial {
            on: On::parse(&self.on)?,
            lasting: lasting.unwrap_or(USUAL_CANARY),
        })
    }
}

/// The error is a message.
pub fn parse_trial_span(text: &str) -> Result<Duration, String> {
    let span = parse_span(text)?;
    match span <= LONGEST_CANARY {
        true => Ok(span),
        false => Err(format!("{text:?}: a canary lasts 1d at most")),
    }
}

/// The body of `POST /v1/canary/promote` and `/v1/canary/abort`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndRequest {
    pub by: String,
    #[serde(default)]
    pub note: String,
}

impl EndRequest {
    /// The error is a message.
    pub fn into_staging(self, outcome: Outcome) -> Result<Staging, String> {
        let word = word(&self.by, &self.note)?;
        Ok(Staging::EndCanary { outcome, word })
    }
}

/// The body of `POST /v1/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffRequest {
    pub from: u64,
    /// Absent: the documents of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

impl DiffRequest {
    pub fn into_staging(self) -> Staging {
        let DiffRequest { from, to } = self;
        Staging::Diff { from, to }
    }
}

/// The body of `POST /v1/rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    pub to: u64,
    pub by: String,
    #[serde(default)]
    pub note: String,
}

impl RollbackRequest {
    /// The error is a message.
    pub fn into_staging(self) -> Result<Staging, String> {
        Ok(Staging::Rollback {
            to: self.to,
            word: word(&self.by, &self.note)?,
        })
    }
}

fn word(by: &str, note: &str) -> Result<Word, String> {
    let note = note.trim().to_owned();
    if note.len() > MAX_NOTE_LEN || note.chars().any(char::is_control) {
        return Err(format!(
            "\"note\" is at most {MAX_NOTE_LEN} bytes without control characters"
        ));
    }
    Ok(Word {
        by: checked_by(by)?,
        note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_line_of_a_bounded_length() {
        let request = |note: &str| ApplyRequest {
            staged: Staged::default(),
            basis: None,
            since: None,
            by: "ops@lb".into(),
            note: note.into(),
            canary: None,
        };
        for wrong in ["a\nb", &"x".repeat(MAX_NOTE_LEN + 1)] {
            assert!(request(wrong).into_staging().is_err());
        }
        match request(" why ").into_staging() {
            Ok(Staging::Apply { word, .. }) => assert_eq!(word.note, "why"),
            other => panic!("{other:?}"),
        }
    }
}
