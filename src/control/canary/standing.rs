//! How far what is tried has become everybody's. Pure.

use super::proposal::Proposal;
use crate::control::staged::batches::Write;
use crate::control::staged::live::Live;
use crate::control::staged::revision::{hash, state_of};
use crate::routing::canary::Outcome;

/// Why one is over, where nobody judged it.
pub const CHANGED: &str = "documents were changed by others meanwhile";
pub const WHOLE: &str = "its documents are everybody's";
const HALF: &str =
    "a part of it is written for everybody already: rota canary promote writes the rest";
const STAYS: &str = "in the middle of its promotion, and what was written of it stays";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The documents are those that it was begun beside.
    Untouched,
    /// Its promotion was begun; some of its documents are not written yet.
    Begun,
    /// All of its documents are there.
    Whole,
    /// Somebody else changed documents.
    Overtaken,
}

/// `index` is the head's ModifyIndex. The head is written with the first documents of a promotion, so whatever is younger and not as
/// it is tried was written by others.
pub fn standing(proposal: &Proposal, index: u64, live: &Live) -> Standing {
    let canary = &proposal.canary;
    if canary.promoted.is_none() {
        let state = hash(&state_of(live));
        return match state {
            _ if state == canary.before => Standing::Untouched,
            _ if state == canary.after => Standing::Whole,
            _ => Standing::Overtaken,
        };
    }
    let missing = missing(proposal, live);
    match missing.is_empty() {
        true => Standing::Whole,
        false if missing.iter().any(|write| write.index > index) => Standing::Overtaken,
        false => Standing::Begun,
    }
}

/// What it is, and why, if it is to end so; `promoted` is why it was becoming everybody's. What is everybody's already is promoted,
/// whatever was asked for.
///
/// # Errors
/// Half of what is to be rolled back is everybody's.
pub fn ended(
    asked: Outcome,
    standing: Standing,
    promoted: Option<String>,
    reason: String,
) -> Result<(Outcome, String), &'static str> {
    match (asked, standing) {
        (Outcome::Promoted, _) => Ok((asked, promoted.unwrap_or(reason))),
        (Outcome::RolledBack, Standing::Whole) => {
            let reason = promoted.unwrap_or_else(|| WHOLE.to_owned());
            Ok((Outcome::Promoted, reason))
        }
        (Outcome::RolledBack, Standing::Begun) => Err(HALF),
        (Outcome::RolledBack, Standing::Overtaken) if promoted.is_some() => {
            Ok((asked, format!("half in force: {reason}, {STAYS}")))
        }
        (Outcome::RolledBack, Standing::Untouched | Standing::Overtaken) => Ok((asked, reason)),
    }
}

/// Why one is over that nobody can finish: so many of its documents are not written, and why.
pub fn given_up(proposal: &Proposal, live: &Live, why: &str, reason: &str) -> String {
    let (missing, of) = (missing(proposal, live).len(), proposal.canary.documents);
    format!("half in force: {missing} of {of} documents are not written ({why}); {reason}")
}

/// Those of its documents that are not there as it would have them.
pub fn missing(proposal: &Proposal, live: &Live) -> Vec<Write> {
    let changes = proposal.changes().filter_map(|(path, bytes)| {
        let known = live.get(path);
        let is_there = known.map(|known| &*known.value) == bytes.map(|bytes| &**bytes);
        (!is_there).then(|| Write {
            path: path.to_owned(),
            text: bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            index: known.map_or(0, |known| known.modify_index),
        })
    });
    changes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::consul::Document;
    use crate::routing::canary::Canary;

    type Written<'a> = (&'a str, &'a str, u64);

    const BEFORE: [Written<'_>; 3] = [
        ("routes/old", "o", 5),
        ("services/a", "1", 5),
        ("services/b", "1", 5),
    ];
    const AFTER: [Written<'_>; 3] = [
        ("routes/new", "n", 21),
        ("services/a", "2", 20),
        ("services/b", "2", 20),
    ];
    const HEAD: u64 = 20;

    fn document((name, text, index): Written<'_>) -> Document {
        Document {
            name: name.into(),
            value: text.as_bytes().into(),
            create_index: 1,
            modify_index: index,
            is_locked: false,
        }
    }

    fn live(documents: &[Written<'_>]) -> Live {
        Live::of(documents.iter().copied().map(document).collect())
    }

    fn standing_beside(documents: &[Written<'_>], promoted: Option<&str>) -> Standing {
        let state = |documents| hash(&state_of(&live(documents)));
        let canary = Canary {
            before: state(&BEFORE),
            after: state(&AFTER),
            promoted: promoted.map(str::to_owned),
            ..Canary::default()
        };
        let head = serde_json::to_string(&canary).unwrap();
        let below = [
            ("config/routes/new", "n", 9),
            ("config/services/a", "2", 9),
            ("config/services/b", "2", 9),
            ("gone/routes/old", "", 9),
            ("head", &head, HEAD),
        ];
        let proposal = Proposal::read(&below.map(document)).unwrap().unwrap();
        standing(&proposal, HEAD, &live(documents))
    }

    #[test]
    fn before_its_promotion_all_documents_are_as_they_were_or_somebody_else_changed_them() {
        let of = |documents: &[_]| standing_beside(documents, None);
        assert_eq!(of(&BEFORE), Standing::Untouched);
        assert_eq!(of(&AFTER), Standing::Whole);
        assert_eq!(of(&[BEFORE[0], AFTER[1], BEFORE[2]]), Standing::Overtaken);
        let more = [&BEFORE[..], &[("routes/more", "m", 7)]].concat();
        assert_eq!(of(&more), Standing::Overtaken);
    }

    #[test]
    fn what_others_wrote_in_the_middle_of_a_promotion_is_told_as_half_in_force_whoever_ends_it() {
        let as_told = |standing, promoted: Option<&str>, reason: &str| {
            let promoted = promoted.map(str::to_owned);
            ended(Outcome::RolledBack, standing, promoted, reason.into())
        };
        for reason in [CHANGED, "by hand of ops"] {
            let (outcome, why) = as_told(Standing::Overtaken, Some("no worse"), reason).unwrap();
            assert_eq!(outcome, Outcome::RolledBack);
            assert!(
                why.contains("half in force") && why.contains(reason),
                "{why}"
            );
            let before = as_told(Standing::Overtaken, None, reason).unwrap();
            assert_eq!(before, (Outcome::RolledBack, reason.to_owned()));
        }
        let whole = as_told(Standing::Whole, Some("no worse"), "by hand of ops");
        assert_eq!(whole, Ok((Outcome::Promoted, "no worse".to_owned())));
        assert!(as_told(Standing::Begun, Some("no worse"), "by hand").is_err());
    }

    #[test]
    fn a_promotion_in_its_middle_is_gone_on_with_unless_others_wrote_since_it_was_begun() {
        let of = |documents: &[_]| standing_beside(documents, Some("no worse"));
        assert_eq!(of(&[BEFORE[0], AFTER[1], BEFORE[2]]), Standing::Begun);
        assert_eq!(of(&AFTER), Standing::Whole);
        let by_hand = ("services/b", "3", HEAD + 1);
        assert_eq!(of(&[BEFORE[0], AFTER[1], by_hand]), Standing::Overtaken);
        let beside = ("routes/more", "m", HEAD + 1);
        let middle = [BEFORE[0], AFTER[1], BEFORE[2], beside];
        assert_eq!(
            of(&middle),
            Standing::Begun,
            "what it does not touch is another matter"
        );
    }
}
