//! Documents as an operator stages them, as data: what is wanted, what a plan says of it, and what speaks against it.
//!
//! A document's path is its key below `<prefix>/config/`: `services/shop`, `domains/shop.example.com`, `tuning`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::canary::{Canary, CanaryView, Outcome, Trial};

/// The kinds of documents that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Services,
    Routes,
    Domains,
    Tuning,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Services, Kind::Routes, Kind::Domains, Kind::Tuning];

    pub fn word(self) -> &'static str {
        match self {
            Kind::Services => "services",
            Kind::Routes => "routes",
            Kind::Domains => "domains",
            Kind::Tuning => "tuning",
        }
    }

    /// Of the document at this path; None: it is none.
    pub fn of(path: &str) -> Option<Kind> {
        Kind::parted(path).map(|(kind, _)| kind)
    }

    /// Kind and name; that of `tuning` is empty.
    pub fn parted(path: &str) -> Option<(Kind, &str)> {
        match path.split_once('/') {
            None => (path == Kind::Tuning.word()).then_some((Kind::Tuning, "")),
            Some((word, name)) => {
                let named = [Kind::Services, Kind::Routes, Kind::Domains];
                let kind = named.into_iter().find(|kind| kind.word() == word)?;
                (!name.is_empty()).then_some((kind, name))
            }
        }
    }
}

/// All documents that there are to be of some kinds; of other kinds nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staged {
    pub kinds: BTreeSet<Kind>,
    /// Texts by path.
    pub documents: BTreeMap<String, String>,
}

/// The documents that a plan was made from: Consul's ModifyIndex by path. What is applied on another basis is refused.
pub type Basis = BTreeMap<String, u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Added,
    Changed,
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentChange {
    pub path: String,
    pub change: Change,
}

/// A service that there would be, would not be any more, or would be another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    pub name: String,
    pub change: Change,
    /// What would be there or be different, in words.
    pub how: Vec<String>,
}

/// A host and path that would go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteChange {
    pub host: String,
    pub path: String,
    pub change: Change,
    /// The service that has it now; None: it is new.
    pub from: Option<String>,
    /// The service that would have it; None: it would be gone.
    pub to: Option<String>,
    /// The route of another place that has it now, or would have it then, where there is none of its own: `*.test/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    Gains,
    Loses,
}

/// A server that other requests than now would come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerChange {
    /// `SERVICE/ADDRESS`.
    pub server: String,
    pub traffic: Traffic,
    pub why: String,
}

/// What would change, against what is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub documents: Vec<DocumentChange>,
    pub services: Vec<ServiceChange>,
    pub routes: Vec<RouteChange>,
    pub servers: Vec<ServerChange>,
    /// Names that certificates would be ordered for.
    pub certificates: Vec<String>,
    /// Whether `[limits]`, `[timeouts]`, `[guard]` or `[retry]` would have other values.
    pub tuning: bool,
    pub warnings: Vec<String>,
    pub basis: Basis,
    /// The newest revision when it was made; None: there was none yet.
    #[serde(default)]
    pub revision: Option<u64>,
}

/// What is wrong with a staged document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedMistake {
    /// The document's path.
    pub document: String,
    pub line: Option<u32>,
    pub problem: String,
}

/// Who changes documents, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    pub by: String,
    #[serde(default)]
    pub note: String,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staging {
    /// What would change; nothing does.
    Plan(Staged),
    /// The same, written. With a basis: only if the documents still are what they were then.
    Apply {
        staged: Staged,
        basis: Option<Basis>,
        /// The plan's revision, so that a refusal can show what was changed since.
        since: Option<u64>,
        word: Word,
        /// On some load balancers first; None: everywhere at once.
        trial: Option<Trial>,
    },
    /// How it stands with the canary, and what came of those before.
    Canary,
    /// It ends now.
    EndCanary { outcome: Outcome, word: Word },
    /// What was changed when and by whom.
    History,
    /// What a revision's documents and those of another one differ in; None: those of now.
    Diff { from: u64, to: Option<u64> },
    /// The documents as they were after a revision, written.
    Rollback { to: u64, word: Word },
}

/// One change of the documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionRow {
    /// None: it was tried, and rolled back.
    pub revision: Option<u64>,
    /// Unix seconds.
    pub at: u64,
    /// `by hand`: nobody announced it.
    pub by: String,
    pub note: String,
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    /// Why it was rolled back by those who tried it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
}

/// What one document differs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub path: String,
    /// A unified diff.
    pub diff: String,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum StagingAnswer {
    Plan(Plan),
    Written(Written),
    /// Newest first.
    History(Vec<RevisionRow>),
    Diff(Vec<Difference>),
    Canary(CanaryView),
    /// It is over, in words.
    CanaryEnded(String),
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// For people.
    pub message: String,
    /// What it changed.
    pub plan: Plan,
    /// The revision that holds it; None: it was not written in time for this answer.
    #[serde(default)]
    pub revision: Option<u64>,
    /// It is being tried, and not written yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// Why it was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StagingError {
    /// Documents that nobody could read; nothing was compared or written.
    Mistakes(Vec<StagedMistake>),
    /// Somebody changed documents since they were read.
    Changed {
        since: Vec<DocumentChange>,
        /// Of these the texts, as far as both are known.
        differences: Vec<Difference>,
        /// Transactions that were written before that was found.
        done: usize,
        /// What would change now.
        plan: Box<Plan>,
    },
    /// There is no such revision.
    Unknown(String),
    /// Somebody else's word stands against it.
    Refused(String),
    /// There is no Consul, or it does not answer.
    NoConsul(String),
    /// The control plane is shutting down.
    Stopped,
}

/// Documents that one message names; more are counted.
const NAMED: usize = 8;

impl fmt::Display for StagingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StagingError::Mistakes(mistakes) => match mistakes.len() {
                1 => f.write_str("1 mistake"),
                count => write!(f, "{count} mistakes"),
            },
            StagingError::Changed { since, done, .. } => {
                let first = since.iter().take(NAMED);
                let first: Vec<&str> = first.map(|change| &*change.path).collect();
                write!(f, "changed by others meanwhile: {}", first.join(", "))?;
                match since.len().saturating_sub(NAMED) {
                    0 => {}
                    more => write!(f, " and {more} more")?,
                }
                match done {
                    0 => f.write_str("; nothing was written"),
                    done => write!(f, "; {done} transactions were written before and stay"),
                }
            }
            StagingError::Unknown(why)
            | StagingError::Refused(why)
            | StagingError::NoConsul(why) => f.write_str(why),
            StagingError::Stopped => f.write_str("rota is stopping"),
        }
    }
}

impl std::error::Error for StagingError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_kind_or_is_no_documents() {
        for (path, kind) in [
            ("services/shop", Some(Kind::Services)),
            ("routes/a/b", Some(Kind::Routes)),
            ("domains/a.test", Some(Kind::Domains)),
            ("tuning", Some(Kind::Tuning)),
            ("tuning/x", None),
            ("services", None),
            ("services/", None),
            ("service/shop", None),
            ("", None),
        ] {
            assert_eq!(Kind::of(path), kind, "{path}");
        }
    }
}
