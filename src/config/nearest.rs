//! Which known name was probably meant by an unknown one.

use crate::routing::likeness::distance;

/// Names longer than this get no suggestion: nobody mistypes them, and the work stays bounded.
const MAX_NAME: usize = 64;

/// Gives the known name with the smallest edit distance, if at most a third of its letters (at least one) differ.
/// Among equals the first.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > MAX_NAME {
        return None;
    }
    known
        .filter(|candidate| candidate.len() <= MAX_NAME)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(steps, candidate)| *steps <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let known = ["connections", "head_bytes", "head_fields", "pool"];
        for (typed, meant) in [
            ("conections", Some("connections")),
            ("head-bytes", Some("head_bytes")),
            ("haed_fields", Some("head_fields")),
            ("pol", Some("pool")),
            ("poool", Some("pool")),
            ("elephant", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), meant, "{typed}");
        }
    }

    proptest! {
        #[test]
        fn a_known_name_is_its_own_nearest(name in "[a-z_]{1,20}") {
            prop_assert_eq!(nearest(&name, [name.as_str(), "other"].into_iter()), Some(name.as_str()));
        }
    }
}
