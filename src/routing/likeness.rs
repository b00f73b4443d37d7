//! How alike two names are: what may have been meant by one that nobody has.

/// Edits from one name to the other, as people make them: a letter inserted, removed or exchanged, or two neighbours
/// swapped (optimal string alignment).
pub fn distance(from: &str, to: &str) -> usize {
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
    fn edits_are_counted_as_people_make_them() {
        for (from, to, count) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abdc", "abcd", 1),
            ("a", "bc", 2),
        ] {
            assert_eq!(distance(from, to), count, "{from} {to}");
        }
    }

    proptest! {
        #[test]
        fn the_distance_is_symmetric_and_at_most_the_longer_name(a in ".{0,12}", b in ".{0,12}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert!(distance(&a, &b) <= a.chars().count().max(b.chars().count()));
        }
    }
}
