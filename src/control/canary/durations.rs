//! How long requests took, as far as the bounds of buckets tell it. Pure.

use crate::routing::measured::DURATION_BOUNDS_US;

pub const BUCKETS: usize = DURATION_BOUNDS_US.len() + 1;

/// The ends of a bucket: binary logarithms of microseconds.
fn ends(bucket: usize) -> (f64, f64) {
    let bound = |bucket: usize| DURATION_BOUNDS_US.get(bucket).map(|&bound| bound as f64);
    let last = DURATION_BOUNDS_US[BUCKETS - 2] as f64;
    let upper = bound(bucket).unwrap_or(last * 4.0);
    let lower = match bucket {
        0 => upper / 4.0,
        _ => bound(bucket - 1).unwrap_or(last),
    };
    (lower.log2(), upper.log2())
}

/// The median's binary logarithm; None: there are none.
pub fn median(durations: &[f64; BUCKETS]) -> Option<f64> {
    let half = durations.iter().sum::<f64>() / 2.0;
    let mut before = 0.0;
    for (bucket, &here) in durations.iter().enumerate() {
        if here > 0.0 && before + here >= half {
            let (lower, upper) = ends(bucket);
            return Some(lower + (upper - lower) * (half - before) / here);
        }
        before += here;
    }
    None
}

/// How many took longer than what has this binary logarithm.
pub fn beyond(durations: &[u64; BUCKETS], bound: f64) -> u64 {
    let beyond = durations.iter().enumerate().map(|(bucket, &count)| {
        let (lower, upper) = ends(bucket);
        count as f64 * ((upper - bound) / (upper - lower)).clamp(0.0, 1.0)
    });
    beyond.sum::<f64>() as u64
}

/// Of the binary logarithm of a duration.
pub fn milliseconds(logarithm: f64) -> f64 {
    logarithm.exp2() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_bucket_of_the_middle_one_and_half_of_them_are_beyond_it() {
        let mut durations = [0; BUCKETS];
        assert_eq!(median(&[0.0; BUCKETS]), None);
        // Up to 5 ms, up to 10 ms, and one that took a day.
        (durations[3], durations[4], durations[BUCKETS - 1]) = (400, 600, 1);
        let middle = median(&durations.map(|count| count as f64)).unwrap();
        assert!((5.0..6.0).contains(&milliseconds(middle)), "{middle}");
        assert!(beyond(&durations, middle).abs_diff(500) <= 1);
        assert_eq!(beyond(&durations, 0.0), 1001);
        assert_eq!(beyond(&durations, 30.0), 0);
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 1..BUCKETS {
            assert_eq!(ends(bucket - 1).1, ends(bucket).0);
        }
    }
}
