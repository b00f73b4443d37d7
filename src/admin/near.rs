//! The known names nearest to one that nobody has: what the asker may have meant.

/// How many are offered.
const OFFERED: usize = 3;
/// Names compared at most, and the longest that is: an answer to a typing mistake has to stay cheap.
const MAX_COMPARED: usize = 20_000;
const MAX_LEN: usize = 64;

/// Up to three of `known`, nearest first; none that differs in more than a third of its letters and does not contain what was asked.
pub fn nearest<'a>(asked: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let asked = asked.to_lowercase();
    let mut found: Vec<(usize, &str)> = known
        .take(MAX_COMPARED)
        .filter_map(|name| distance_if_near(&asked, name).map(|distance| (distance, name)))
        .collect();
    found.sort();
    found.dedup();
    found
        .into_iter()
        .take(OFFERED)
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn distance_if_near(asked: &str, name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    if asked.len() > MAX_LEN || lower.len() > MAX_LEN {
        return None;
    }
    let distance = edits(asked, &lower);
    let limit = (lower.len() / 3).max(2);
    let is_part = asked.len() >= 3 && lower.contains(asked);
    (distance <= limit && distance < lower.len() || is_part).then_some(distance)
}

/// Edits from one to the other: insert, delete, replace, swap two neighbours (optimal string alignment).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before_last = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut previous = None;
    for (row, a) in from.chars().enumerate() {
        let mut this = vec![row + 1; to.len() + 1];
        for (column, &b) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(a != b);
            this[column + 1] = replaced.min(last[column + 1] + 1).min(this[column] + 1);
            let is_swap = column > 0 && previous == Some(b) && to[column - 1] == a;
            if is_swap {
                this[column + 1] = this[column + 1].min(before_last[column - 1] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, this);
        previous = Some(a);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_name() {
        let known = ["shop", "blog", "shop-admin"];
        assert_eq!(nearest("shpo", known.into_iter()), ["shop"]);
        assert_eq!(nearest("Blgo", known.into_iter()), ["blog"]);
        assert_eq!(nearest("admin", known.into_iter()), ["shop-admin"]);
        assert!(nearest("payments", known.into_iter()).is_empty());
    }

    #[test]
    fn edits_are_counted_as_people_make_them() {
        for (from, to, count) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abdc", "abcd", 1),
            ("a", "bc", 2),
        ] {
            assert_eq!(edits(from, to), count, "{from} {to}");
        }
    }
}
