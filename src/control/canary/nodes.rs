//! Which load balancers try a change. Pure.

use std::collections::BTreeSet;

use crate::routing::canary::On;
use crate::routing::likeness::distance;
use crate::seal::Digest;

/// The names of those that try it, at least one and never all.
///
/// A share is taken in the order of their names' hashes: the same ones each time, whatever they are called.
///
/// # Errors
/// Nobody would be left to compare with; a name that nobody has, with the nearest one. A message.
pub fn chosen(on: &On, live: &BTreeSet<String>) -> Result<Vec<String>, String> {
    if live.len() < 2 {
        let only: Vec<&str> = live.iter().map(String::as_str).collect();
        return Err(format!(
            "a canary is compared with the other load balancers, and only {} lives: apply without --canary",
            only.first().unwrap_or(&"this one")
        ));
    }
    match on {
        On::Share(share) => {
            let wanted = (live.len() * usize::from(*share) + 50) / 100;
            let mut ranked: Vec<&String> = live.iter().collect();
            ranked.sort_by_key(|name| *Digest::of(name.as_bytes()).bytes());
            ranked.truncate(wanted.clamp(1, live.len() - 1));
            ranked.sort();
            Ok(ranked.into_iter().cloned().collect())
        }
        On::Nodes(names) => {
            if let Some(strange) = names.iter().find(|name| !live.contains(*name)) {
                let nearest = live.iter().min_by_key(|known| distance(strange, known));
                return Err(format!(
                    "no load balancer {strange} lives; the nearest known name is {}",
                    nearest.map_or("", String::as_str)
                ));
            }
            match names.len() == live.len() {
                true => Err(
                    "those are all load balancers, so there is nobody to compare with: apply without --canary".into(),
                ),
                false => Ok(names.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(count: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("lb-{number}")).collect()
    }

    #[test]
    fn a_share_is_at_least_one_and_never_all_and_the_same_ones_each_time() {
        for count in 2..14 {
            for share in [1, 33, 50, 99] {
                let some = chosen(&On::Share(share), &live(count)).unwrap();
                assert!((1..count).contains(&some.len()), "{share}% of {count}");
                assert_eq!(some, chosen(&On::Share(share), &live(count)).unwrap());
            }
        }
        let third = chosen(&On::Share(33), &live(12)).unwrap();
        assert_eq!(third.len(), 4);
    }

    #[test]
    fn who_does_not_live_or_has_nobody_beside_it_tries_nothing() {
        let named = |names: &[&str]| On::Nodes(names.iter().map(ToString::to_string).collect());
        assert_eq!(chosen(&named(&["lb-1"]), &live(3)).unwrap(), ["lb-1"]);
        let unknown = chosen(&named(&["lb-9x"]), &live(3)).unwrap_err();
        assert!(unknown.contains("lb-9x") && unknown.contains("nearest"));
        assert!(chosen(&named(&["lb-0", "lb-1"]), &live(2)).is_err());
        let alone = chosen(&On::Share(33), &live(1)).unwrap_err();
        assert!(alone.contains("apply without --canary"), "{alone}");
    }
}
