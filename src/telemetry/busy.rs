//! How busy each worker's thread was of late: a ratio needs two readings, and scrapes come when they like.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::vitals::Vitals;

/// The span that `rota_worker_busy_ratio` looks back over.
pub const WINDOW: Duration = Duration::from_secs(5);

/// Compares each worker's CPU time with what it was at the last call; owned by one control-plane task.
#[derive(Debug)]
pub struct Sampler {
    at: Instant,
    busy_ns: Vec<u64>,
}

impl Sampler {
    pub fn new(vitals: &Vitals, now: Instant) -> Sampler {
        Sampler {
            at: now,
            busy_ns: vitals
                .workers
                .iter()
                .map(|worker| worker.busy_ns.load(Relaxed))
                .collect(),
        }
    }

    /// Writes each worker's `busy_permille` over the time since the last call.
    pub fn sample(&mut self, vitals: &Vitals, now: Instant) {
        let span_ns = now.saturating_duration_since(self.at).as_nanos() as u64;
        if span_ns == 0 {
            return;
        }
        for (worker, before) in vitals.workers.iter().zip(&mut self.busy_ns) {
            let busy = worker.busy_ns.load(Relaxed);
            let share = busy.saturating_sub(*before).saturating_mul(1000) / span_ns;
            worker.busy_permille.store(share.min(1000), Relaxed);
            *before = busy;
        }
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_cpu_time_over_the_time_between_two_samples() {
        let vitals = Vitals::new(2);
        let start = Instant::now();
        let mut sampler = Sampler::new(&vitals, start);
        vitals.workers[0].busy_ns.store(2_500_000_000, Relaxed);
        sampler.sample(&vitals, start + Duration::from_secs(5));
        assert_eq!(vitals.workers[0].busy_permille.load(Relaxed), 500);
        assert_eq!(vitals.workers[1].busy_permille.load(Relaxed), 0);
    }
}
