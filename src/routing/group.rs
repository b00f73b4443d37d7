//! Groups of a service's servers, such as blue and green: which share of the turns each has, and what that makes for each server.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::service::{Member, Service};
use super::turn::MAX_CYCLE;
use super::upstream::Upstream;

/// The most groups that a service is divided into.
pub const MAX_GROUPS: usize = 32;
/// The greatest weight of a group; 0 gets nothing.
pub const MAX_GROUP_WEIGHT: u32 = 65_535;

/// A group's name: 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// None if the text is no name.
    pub fn parse(text: &str) -> Option<GroupName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        ((1..=64).contains(&text.len()) && text.bytes().all(allowed))
            .then(|| GroupName(text.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
impl From<&str> for GroupName {
    fn from(text: &str) -> GroupName {
        GroupName::parse(text).unwrap()
    }
}

impl Borrow<str> for GroupName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service's groups and their weights. Servers of no group, or of one that is not named, take no turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups(Arc<BTreeMap<GroupName, u32>>);

impl Groups {
    /// None: there are none, or more than [`MAX_GROUPS`]; one weighs more than [`MAX_GROUP_WEIGHT`]; or all weigh nothing.
    pub fn new(weights: BTreeMap<GroupName, u32>) -> Option<Groups> {
        let fits = (1..=MAX_GROUPS).contains(&weights.len());
        let are_known = weights.values().all(|&weight| weight <= MAX_GROUP_WEIGHT);
        let is_any = weights.values().any(|&weight| weight > 0);
        (fits && are_known && is_any).then(|| Groups(Arc::new(weights)))
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupName, u32)> {
        self.0.iter().map(|(name, &weight)| (name, weight))
    }

    /// 0 for a server of no group, or of one that is not named.
    pub fn weight_of(&self, group: Option<&GroupName>) -> u32 {
        group
            .and_then(|group| self.0.get(group))
            .copied()
            .unwrap_or(0)
    }

    /// How often each of those who take part `(index, its weight, its group)` has its turn in a cycle, as [`super::Turn::build`] takes it.
    /// Shares are those of groups that have somebody; within a group they are by the servers' weights. Exact as long as a cycle of
    /// [`MAX_CYCLE`] turns can be; beyond it both are rounded to whole turns of such a cycle, first those of groups (each has one at
    /// least), then those within, where a server may get none.
    pub fn divide<'a>(
        &self,
        taking_part: impl Iterator<Item = (u32, u32, Option<&'a GroupName>)>,
    ) -> Vec<(u32, u32)> {
        let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
        for (index, weight, group) in taking_part {
            let of_group = self.weight_of(group);
            if let Some(group) = group.filter(|_| of_group > 0 && weight > 0) {
                let part = parts.entry(group.as_str()).or_insert_with(|| Part {
                    weight: u64::from(of_group),
                    members: Vec::new(),
                });
                part.members.push((index, u64::from(weight)));
            }
        }
        let mut parts: Vec<Part> = parts.into_values().collect();
        parts.iter_mut().for_each(Part::reduce);
        let divisor = parts.iter().fold(0, |a, part| gcd(a, part.weight)).max(1);
        parts.iter_mut().for_each(|part| part.weight /= divisor);
        let turns = match exact(&parts) {
            Some(turns) => turns,
            None => rounded(&parts),
        };
        parts
            .iter()
            .zip(turns)
            .flat_map(|(part, turns)| part.among_members(turns))
            .filter(|&(_, turns)| turns > 0)
            .collect()
    }
}

/// A group that has somebody.
struct Part {
    weight: u64,
    members: Vec<(u32, u64)>,
}

impl Part {
    fn sum(&self) -> u64 {
        self.members.iter().map(|&(_, weight)| weight).sum()
    }

    fn reduce(&mut self) {
        let divisor = self
            .members
            .iter()
            .fold(0, |a, &(_, weight)| gcd(a, weight));
        self.members
            .iter_mut()
            .for_each(|(_, weight)| *weight /= divisor.max(1));
    }

    fn among_members(&self, turns: u64) -> Vec<(u32, u32)> {
        let weights: Vec<u64> = self.members.iter().map(|&(_, weight)| weight).collect();
        let turns = apportioned(turns, &weights).into_iter();
        let indices = self.members.iter().map(|&(index, _)| index);
        // A cycle's turns fit into 32 bits by far.
        indices.zip(turns.map(|turns| turns as u32)).collect()
    }
}

/// The turns of each group in the shortest cycle in which all shares are exact; None: that is longer than [`MAX_CYCLE`].
fn exact(parts: &[Part]) -> Option<Vec<u64>> {
    let total: u64 = parts.iter().map(|part| part.weight).sum();
    let mut times = 1u64;
    for part in parts {
        let needed = part.sum() / gcd(part.sum(), part.weight);
        times = (times / gcd(times, needed)).checked_mul(needed)?;
        if total.checked_mul(times)? > MAX_CYCLE as u64 {
            return None;
        }
    }
    Some(parts.iter().map(|part| part.weight * times).collect())
}

/// The turns of each group in a cycle of [`MAX_CYCLE`], at least one, which the largest one gives.
fn rounded(parts: &[Part]) -> Vec<u64> {
    let weights: Vec<u64> = parts.iter().map(|part| part.weight).collect();
    let mut turns = apportioned(MAX_CYCLE as u64, &weights);
    let without = turns.iter().filter(|&&turns| turns == 0).count() as u64;
    if let Some(largest) = turns.iter_mut().max() {
        *largest -= without;
    }
    turns.into_iter().map(|turns| turns.max(1)).collect()
}

/// Whole turns by weight, each within one of its share: the largest remainders get what is left over (Hamilton's method); ties fall to
/// the earlier one.
fn apportioned(turns: u64, weights: &[u64]) -> Vec<u64> {
    let total = weights.iter().sum::<u64>().max(1);
    let product = |weight: u64| u128::from(turns) * u128::from(weight);
    let whole = |&weight: &u64| (product(weight) / u128::from(total)) as u64;
    let mut given: Vec<u64> = weights.iter().map(whole).collect();
    let left = turns - given.iter().sum::<u64>().min(turns);
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|&at| std::cmp::Reverse(product(weights[at]) % u128::from(total)));
    for at in by_remainder.into_iter().take(left as usize) {
        given[at] += 1;
    }
    given
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One group at this moment, for people and metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupShare {
    pub name: GroupName,
    pub weight: u32,
    /// Of the service's requests, 0 to 1: what its weight comes to among the groups that have somebody.
    pub share: f64,
    /// Servers that take turns, of all.
    pub up: usize,
    pub total: usize,
}

impl Service {
    /// Its groups as they are at this moment, by name; empty: it is not divided. In panic those count as on who serve then.
    pub fn group_shares(&self) -> Vec<GroupShare> {
        let Some(groups) = &self.groups else {
            return Vec::new();
        };
        let is_any_fit = self.takes_turns(Upstream::is_fit).next().is_some();
        let may_serve = match is_any_fit {
            true => Upstream::is_fit,
            false => Upstream::is_fit_in_panic,
        };
        let on = |group: &GroupName| {
            let taking = self.takes_turns(may_serve);
            taking
                .filter(|member| member.standing.group.as_ref() == Some(group))
                .count()
        };
        let of = |group: &GroupName| {
            let members = self.members.iter();
            members
                .filter(|member| member.standing.group.as_ref() == Some(group))
                .count()
        };
        let having = groups.iter().filter(|(name, _)| on(name) > 0);
        let sum: u64 = having.map(|(_, weight)| u64::from(weight)).sum();
        let share = |name: &GroupName, weight: u32| match on(name) {
            0 => 0.0,
            _ => f64::from(weight) / sum.max(1) as f64,
        };
        groups
            .iter()
            .map(|(name, weight)| GroupShare {
                name: name.clone(),
                weight,
                share: share(name, weight),
                up: if is_any_fit { on(name) } else { 0 },
                total: of(name),
            })
            .collect()
    }

    fn takes_turns(&self, may_serve: fn(&Upstream) -> bool) -> impl Iterator<Item = &Member> {
        let members = self.members.iter();
        members.filter(move |member| member.weight > 0 && may_serve(&member.upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Turn;
    use proptest::prelude::*;

    fn groups(weights: &[(&str, u32)]) -> Groups {
        let weights = weights.iter().map(|&(name, weight)| (name.into(), weight));
        Groups::new(weights.collect()).unwrap()
    }

    /// Turns of each member in a cycle; members are `(group, weight)`.
    fn turns(groups: &Groups, members: &[(&str, u32)]) -> Vec<usize> {
        let names: Vec<Option<GroupName>> = members
            .iter()
            .map(|(group, _)| GroupName::parse(group))
            .collect();
        let taking_part = (0..)
            .zip(members)
            .map(|(index, &(_, weight))| (index, weight, names[index as usize].as_ref()));
        let turn = Turn::build(&groups.divide(taking_part));
        let mut count = vec![0; members.len()];
        turn.indices()
            .iter()
            .for_each(|&index| count[index as usize] += 1);
        count
    }

    #[test]
    fn shares_are_between_groups_however_many_servers_each_has() {
        let both = groups(&[("blue", 90), ("green", 10)]);
        assert_eq!(turns(&both, &[("blue", 1), ("green", 1)]), [9, 1]);
        assert_eq!(
            turns(
                &both,
                &[("blue", 1), ("green", 1), ("blue", 1), ("blue", 1)]
            ),
            [3, 1, 3, 3]
        );
        assert_eq!(
            turns(&both, &[("green", 3), ("blue", 7), ("green", 1)]),
            [3, 36, 1]
        );
    }

    #[test]
    fn a_group_of_weight_0_an_unknown_one_and_none_at_all_get_nothing() {
        let both = groups(&[("blue", 1), ("green", 0)]);
        let members = [("blue", 1), ("green", 1), ("red", 1), ("", 1), ("blue", 0)];
        assert_eq!(turns(&both, &members), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn the_share_of_a_group_without_anybody_goes_to_the_others() {
        let three = groups(&[("blue", 50), ("green", 30), ("red", 20)]);
        assert_eq!(turns(&three, &[("green", 1), ("red", 1)]), [3, 2]);
        assert_eq!(turns(&three, &[("red", 5), ("none", 5)]), [1, 0]);
        assert_eq!(turns(&three, &[("none", 5)]), [0]);
    }

    #[test]
    fn groups_are_at_least_one_that_weighs_something() {
        let of = |weights: &[(&str, u32)]| {
            let weights = weights.iter().map(|&(name, weight)| (name.into(), weight));
            Groups::new(weights.collect())
        };
        assert!(of(&[]).is_none() && of(&[("blue", 0)]).is_none());
        assert!(of(&[("blue", MAX_GROUP_WEIGHT + 1)]).is_none());
        assert!(of(&[("blue", 1), ("green", 0)]).is_some());
    }

    #[test]
    fn the_smallest_share_of_the_largest_group_is_kept_where_no_cycle_is_exact() {
        let both = groups(&[("blue", 65_534), ("green", 1)]);
        let members: Vec<_> = (0..4_093)
            .map(|at| (if at % 2 == 0 { "blue" } else { "green" }, 1 + at % 7))
            .collect();
        let turns = turns(&both, &members);
        let green: usize = turns.iter().skip(1).step_by(2).sum();
        assert_eq!((green, turns.iter().sum::<usize>()), (1, MAX_CYCLE));
    }

    proptest! {
        #[test]
        fn shares_are_within_a_hundredth_of_weights_times_members(
            weights in prop::array::uniform3(0u32..=MAX_GROUP_WEIGHT),
            members in prop::collection::vec((0usize..4, 0u32..=300), 1..60),
        ) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let names = ["a", "b", "c", "unnamed"];
            let of_names: Vec<_> = names.iter().copied().zip(weights).collect();
            let groups = groups(&of_names);
            let members: Vec<_> = members.iter().map(|&(at, weight)| (names[at], weight)).collect();
            let turns = turns(&groups, &members);
            let cycle = turns.iter().sum::<usize>() as f64;
            prop_assert!(cycle <= MAX_CYCLE as f64);
            let weight_of = |name: &str| f64::from(groups.weight_of(GroupName::parse(name).as_ref()));
            let sum_of = |name: &str| members.iter().filter(|(of, _)| *of == name).map(|&(_, w)| f64::from(w)).sum::<f64>();
            let all: f64 = names.iter().filter(|name| sum_of(name) > 0.0).map(|name| weight_of(name)).sum();
            prop_assert_eq!(cycle == 0.0, all == 0.0);
            for (&(name, weight), &turns) in members.iter().zip(&turns) {
                let ideal = match sum_of(name) > 0.0 && all > 0.0 {
                    true => weight_of(name) / all * f64::from(weight) / sum_of(name),
                    false => 0.0,
                };
                let is = if cycle > 0.0 { turns as f64 / cycle } else { 0.0 };
                prop_assert!((is - ideal).abs() <= 0.01, "{} instead of {}", is, ideal);
                prop_assert!(ideal > 0.0 || turns == 0, "no turn without a share");
            }
        }
    }
}
