//! Memory and descriptors of rota, each second; and whether they are flat.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::desk::Desk;
use super::pod::Pod;

/// What comes before is warm-up: a share of the run.
const WARM_UP: f64 = 0.1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub memory_kib: u64,
    pub descriptors: usize,
}

pub fn start(desk: &Arc<Desk>, pod: &Arc<Pod>) -> JoinHandle<Vec<Sample>> {
    let (desk, pod) = (desk.clone(), pod.clone());
    std::thread::spawn(move || {
        let mut samples = Vec::new();
        while !desk.is_over() {
            let now = sample(&pod);
            if samples.len() % 60 == 0 {
                desk.tell(&format!(
                    "rota has {} KiB, {} descriptors",
                    now.memory_kib, now.descriptors
                ));
            }
            samples.push(now);
            desk.rest(Duration::from_secs(1));
        }
        samples
    })
}

pub fn sample(pod: &Pod) -> Sample {
    Sample {
        memory_kib: pod.rota.memory_kib("VmRSS"),
        descriptors: pod.rota.open_files(),
    }
}

/// The medians of the first third after the warm-up, and of the last third.
pub fn thirds(samples: &[Sample]) -> (Sample, Sample) {
    let warm = &samples[(samples.len() as f64 * WARM_UP) as usize..];
    let third = warm.len().div_ceil(3);
    (median(&warm[..third]), median(&warm[warm.len() - third..]))
}

fn median(samples: &[Sample]) -> Sample {
    let middle = |mut values: Vec<u64>| {
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Sample {
        memory_kib: middle(samples.iter().map(|s| s.memory_kib).collect()),
        descriptors: middle(samples.iter().map(|s| s.descriptors as u64).collect()) as usize,
    }
}

#[test]
fn thirds_leave_the_warm_up_out_and_show_what_grows() {
    let sample = |n: u64| Sample {
        memory_kib: if n < 10 { 1 } else { n },
        descriptors: 7,
    };
    let samples: Vec<Sample> = (0..100).map(sample).collect();
    let (first, last) = thirds(&samples);
    assert_eq!((first.memory_kib, last.memory_kib), (25, 85));
    assert_eq!(first.descriptors, last.descriptors);
}
