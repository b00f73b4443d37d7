//! The turn order of a service, ready-made: weighted and smooth, one step a request. Hot path.

/// The longest cycle that is built; weights whose sum (over their common divisor) exceeds it are scaled down, none below 1.
pub const MAX_CYCLE: usize = 1 << 16;

/// One cycle of turns: indices into the service's members, each as often as its weight says, spread as evenly as can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    order: Box<[u32]>,
}

impl Turn {
    /// Takes `(index, weight)` of those who take part; a weight of 0 takes no turn. A cycle holds each index `weight / gcd`
    /// times: its k-th turn stands at `(2k + 1) / 2w` of the cycle, the order of those points (a Webster sequence; its shares are exact
    /// over a cycle, and each prefix's within one turn for two members).
    pub fn build(members: &[(u32, u32)]) -> Turn {
        let weights = reduced(members);
        let total: usize = weights.iter().map(|&(_, weight)| weight as usize).sum();
        let mut points: Vec<(u64, u32)> = Vec::with_capacity(total);
        for &(index, weight) in &weights {
            for k in 0..u64::from(weight) {
                // 32.32 fixed point of the ideal position; ties fall to the earlier member, as the sort is stable.
                points.push((((2 * k + 1) << 32) / (2 * u64::from(weight)), index));
            }
        }
        points.sort_by_key(|&(position, _)| position);
        Turn {
            order: points.into_iter().map(|(_, index)| index).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Turns in one cycle.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// The index whose turn it is at a position, which counts on for ever.
    pub fn at(&self, position: u64) -> u32 {
        self.order[(position % self.order.len() as u64) as usize]
    }

    pub fn indices(&self) -> &[u32] {
        &self.order
    }
}

/// Divides by the greatest common divisor, then scales down to [`MAX_CYCLE`].
fn reduced(members: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let taking_part: Vec<(u32, u32)> = members
        .iter()
        .copied()
        .filter(|&(_, weight)| weight > 0)
        .collect();
    let divisor = taking_part
        .iter()
        .fold(0, |a, &(_, weight)| gcd(a, weight))
        .max(1);
    let total: u64 = taking_part
        .iter()
        .map(|&(_, weight)| u64::from(weight / divisor))
        .sum();
    let scale = total.div_ceil(MAX_CYCLE as u64).max(1);
    let scaled = |weight: u32| ((u64::from(weight / divisor)) / scale).max(1) as u32;
    taking_part
        .into_iter()
        .map(|(index, weight)| (index, scaled(weight)))
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(turn: &Turn) -> Vec<usize> {
        let mut count = vec![0; 16];
        turn.indices()
            .iter()
            .for_each(|&index| count[index as usize] += 1);
        count
    }

    #[test]
    fn a_cycle_holds_each_member_as_often_as_its_weight() {
        let turn = Turn::build(&[(0, 1), (1, 2), (2, 3)]);
        assert_eq!(turn.len(), 6);
        assert_eq!(&shares(&turn)[..3], &[1, 2, 3]);
    }

    #[test]
    fn equal_weights_are_plain_round_robin() {
        assert_eq!(
            Turn::build(&[(0, 100), (1, 100), (2, 100)]).indices(),
            &[0, 1, 2]
        );
    }

    #[test]
    fn heavy_members_are_spread_not_bunched() {
        let turn = Turn::build(&[(0, 5), (1, 1), (2, 1)]);
        let order = turn.indices();
        let longest_run = order
            .split(|&index| index != 0)
            .map(<[u32]>::len)
            .max()
            .unwrap();
        assert!(longest_run <= 3, "{order:?}");
    }

    #[test]
    fn a_weight_of_zero_takes_no_turn_and_nobody_is_no_turn() {
        assert_eq!(Turn::build(&[(0, 0), (1, 7)]).indices(), &[1]);
        assert!(Turn::build(&[]).is_empty());
    }

    #[test]
    fn weights_beyond_the_cycle_are_scaled_and_none_is_lost() {
        let turn = Turn::build(&[(0, 65_535), (1, 1), (2, 65_534)]);
        assert!(turn.len() <= MAX_CYCLE + 2);
        assert_eq!(shares(&turn)[1], 1);
    }
}
