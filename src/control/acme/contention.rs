//! Keys that all names of a pod share: who lost to another writer reads again and tries again, for a while and while the lock is held.

use std::time::Duration;

use tokio::time::sleep;

use crate::control::store::Lease;

/// Each that is in the way has made progress itself.
const TRIES: u32 = 60;
/// Between two tries, each load balancer at a moment of its own.
const REST: Duration = Duration::from_millis(40);

/// Of one change that others are in the way of.
#[derive(Default)]
pub(super) struct Tries {
    lost: u32,
}

impl Tries {
    /// Rests before another one. The error: there is none, `what` could not be done.
    pub(super) async fn again(&mut self, lease: &Lease, what: &str) -> Result<(), String> {
        self.lost += 1;
        if !lease.is_held() {
            return Err(format!("{what}: the lock was lost"));
        }
        if self.lost >= TRIES {
            return Err(format!("{what}: others wrote each time, {TRIES} times"));
        }
        sleep(REST.mul_f64(fastrand::f64())).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::store::Store;

    #[tokio::test(start_paused = true)]
    async fn whoever_is_always_in_the_way_is_not_waited_for_for_ever() {
        let folder = std::env::temp_dir().join(format!("rota-contention-{}", std::process::id()));
        let store = Store::in_directory(&folder, None).unwrap();
        let lease = store.lock("acme/locks/a.test").await.unwrap().unwrap();
        let mut tries = Tries::default();
        let start = tokio::time::Instant::now();
        let why = loop {
            if let Err(why) = tries.again(&lease, "a.test").await {
                break why;
            }
        };
        assert!(why.starts_with("a.test: others wrote"), "{why}");
        assert!(start.elapsed() > REST, "it rests");
        assert!(start.elapsed() < REST * TRIES * 2);
        let _ = std::fs::remove_dir_all(folder);
    }
}
