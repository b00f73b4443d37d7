//! Which known name was probably meant by an unknown one.

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

/// Optimal string alignment: letters inserted, removed, exchanged, and neighbours swapped.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut current = vec![row + 1; to.len() + 1];
        for (column, b) in to.iter().enumerate() {
            let exchanged = last[column] + usize::from(a != b);
            let mut best = exchanged.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && *a == to[column - 1] && from[row - 1] == *b;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current[column + 1] = best;
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
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

        #[test]
        fn the_distance_is_symmetric_and_at_most_the_longer_name(a in ".{0,12}", b in ".{0,12}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert!(distance(&a, &b) <= a.chars().count().max(b.chars().count()));
        }
    }
}
