//! What operators ask about staged documents: from JSON to a [`Staging`].

use serde::{Deserialize, Serialize};

use super::orders::checked_by;
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
    /// Who wants it, for log and history.
    pub by: String,
    #[serde(default)]
    pub note: String,
}

impl ApplyRequest {
    /// The error is a message.
    pub fn into_staging(self) -> Result<Staging, String> {
        Ok(Staging::Apply {
            staged: self.staged,
            basis: self.basis,
            word: word(&self.by, &self.note)?,
        })
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
            by: "ops@lb".into(),
            note: note.into(),
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
