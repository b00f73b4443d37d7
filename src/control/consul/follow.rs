//! The loop of every blocking query: when to ask again, beyond which index, and how patiently.
//!
//! Consul's own rules for it (<https://developer.hashicorp.com/consul/api-docs/features/blocking>): an index that goes back
//! begins again at 0, an index of 0 does not block, and a client limits its own rate.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::client::When;
use super::error::ConsulError;

/// The first pause after an error, doubled up to [`PAUSE_MAX`]: a watch is back within a second of Consul.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest between answers that are too long: each costs the agent and us as many bytes as the limit has.
const PAUSE_TOO_LONG: Duration = Duration::from_secs(10);
/// Questions that one watch may ask at once before it is held to one each [`REFILL`].
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(20);

/// The index that is nothing to wait beyond: the question is asked again after a pause.
pub(super) const ASK_AGAIN: u64 = 0;

/// What a blocking query is about.
pub(super) trait Watched: Send {
    /// Asks once and makes use of the answer; gives its index.
    fn look(&mut self, when: When) -> impl Future<Output = Result<u64, ConsulError>> + Send;
    /// A question went unanswered; another follows.
    fn failed(&mut self, error: ConsulError) -> impl Future<Output = ()> + Send;
}

/// Asks for as long as the task is not aborted.
pub(super) async fn follow(mut watched: impl Watched) {
    let mut when = When::Now;
    let mut pause = Pause::default();
    let mut pace = Pace::new();
    loop {
        pace.turn().await;
        match (watched.look(when).await, when) {
            // Asking at once would be a busy loop.
            (Ok(ASK_AGAIN), _) => {
                when = When::Now;
                pause.rest().await;
            }
            (Ok(index), before) => {
                when = next(before, index);
                pause = Pause::default();
            }
            // A query that hung past its end says nothing about the agent yet; one that need not hang will.
            (Err(ConsulError::TimedOut), When::Beyond(_)) => when = When::Now,
            (Err(error), _) => {
                let longest = if matches!(error, ConsulError::TooLong(_)) {
                    PAUSE_TOO_LONG
                } else {
                    PAUSE_MAX
                };
                watched.failed(error).await;
                // Not beyond the old index: the answer that proves the agent well would hang until there is news.
                when = When::Now;
                pause.rest_at_most(longest).await;
            }
        }
    }
}

fn next(before: When, index: u64) -> When {
    match before {
        When::Beyond(last) if index < last => When::Now,
        When::Beyond(_) | When::Now => When::Beyond(index),
    }
}

/// Growing pauses, each cut by up to half so that the watches of a fleet don't return together.
#[derive(Default)]
pub struct Pause {
    rests: u32,
}

impl Pause {
    pub async fn rest(&mut self) {
        self.rest_at_most(PAUSE_MAX).await;
    }

    async fn rest_at_most(&mut self, longest: Duration) {
        let full = (PAUSE_MIN * 2u32.pow(self.rests.min(8))).min(longest);
        self.rests += 1;
        sleep(full.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// A bucket of questions.
struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            left: BURST,
            since: Instant::now(),
        }
    }

    async fn turn(&mut self) {
        let refilled = self.since.elapsed().as_millis() / REFILL.as_millis();
        if refilled > 0 {
            self.left = self.left.saturating_add(refilled as u32).min(BURST);
            self.since = Instant::now();
        }
        if self.left == 0 {
            sleep_until(self.since + REFILL).await;
            self.since = Instant::now();
            return;
        }
        self.left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_begins_again_without_waiting() {
        assert_eq!(next(When::Now, 7), When::Beyond(7));
        assert_eq!(next(When::Beyond(7), 7), When::Beyond(7));
        assert_eq!(next(When::Beyond(7), 9), When::Beyond(9));
        assert_eq!(next(When::Beyond(7), 3), When::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_from_a_tenth_to_one_second_and_no_further() {
        let mut pause = Pause::default();
        let mut lengths = Vec::new();
        for _ in 0..40 {
            let start = Instant::now();
            pause.rest().await;
            lengths.push(start.elapsed());
        }
        assert!(lengths[0] <= PAUSE_MIN + Duration::from_millis(1));
        assert!(lengths.iter().all(|length| *length >= PAUSE_MIN / 2));
        assert!(
            lengths
                .iter()
                .all(|length| *length <= PAUSE_MAX + Duration::from_millis(1))
        );
        assert!(lengths[30] >= PAUSE_MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_answered_at_once_is_held_to_its_rate() {
        let mut pace = Pace::new();
        let start = Instant::now();
        for _ in 0..BURST + 50 {
            pace.turn().await;
        }
        assert!(start.elapsed() >= REFILL * 49, "{:?}", start.elapsed());
    }

    struct Script(
        Vec<Result<u64, ConsulError>>,
        std::sync::Arc<std::sync::Mutex<Vec<When>>>,
    );

    impl Watched for Script {
        async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
            self.1.lock().unwrap().push(when);
            if self.0.is_empty() {
                std::future::pending::<()>().await;
            }
            self.0.remove(0)
        }
        async fn failed(&mut self, _: ConsulError) {}
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_error_the_next_question_does_not_hang() {
        use When::{Beyond, Now};
        let asked = std::sync::Arc::default();
        let error = || ConsulError::Server {
            status: 500,
            excerpt: "no leader".into(),
        };
        let answers = vec![
            Ok(5),
            Err(error()),
            Ok(5),
            Err(ConsulError::TimedOut),
            Ok(2),
            Ok(1),
            Ok(0),
        ];
        let following = follow(Script(answers, std::sync::Arc::clone(&asked)));
        let _ = tokio::time::timeout(Duration::from_secs(60), following).await;
        let asked = asked.lock().unwrap().clone();
        assert_eq!(
            asked,
            [Now, Beyond(5), Now, Beyond(5), Now, Beyond(2), Now, Now]
        );
    }
}
