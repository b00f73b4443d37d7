//! The known names nearest to one that nobody has: what the asker may have meant.

use crate::routing::likeness::distance;

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
    let distance = distance(asked, &lower);
    let limit = (lower.len() / 3).max(2);
    let is_part = asked.len() >= 3 && lower.contains(asked);
    (distance <= limit && distance < lower.len() || is_part).then_some(distance)
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
}
