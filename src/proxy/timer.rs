//! Deadlines that cost nothing while they are met: one lazily armed sleep, re-armed only when it fires early. Hot path.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// One timer of one task. A deadline later than the armed one is not re-armed: the sleep fires, sees that it is early, and
/// goes on, so that a busy keep-alive connection touches the runtime's timer wheel once in a timeout, not once a request.
#[derive(Debug, Default)]
pub struct Timer(RefCell<Option<Pin<Box<Sleep>>>>);

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Timer {
    /// What `future` gives, if it does so before `deadline`.
    pub async fn within<T>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll(deadline, cx).map(Err),
        })
        .await
    }

    /// What `future` gives, if it does so within `span` of its first wait: what is ready at once costs no look at the clock.
    pub async fn patiently<T>(
        &self,
        span: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut future = pin!(future);
        let mut deadline = None;
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + span);
                self.poll(deadline, cx).map(Err)
            }
        })
        .await
    }

    fn poll(&self, deadline: Instant, cx: &mut Context<'_>) -> Poll<Elapsed> {
        let mut slot = self.0.borrow_mut();
        let sleep = slot.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(Elapsed);
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_later_deadline_is_kept_though_the_earlier_sleep_fires() {
        let timer = Timer::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(
            timer
                .within(start + second, std::future::pending::<()>())
                .await,
            Err(Elapsed)
        );
        assert_eq!(
            timer
                .within(start + 3 * second, std::future::pending::<()>())
                .await,
            Err(Elapsed)
        );
        assert_eq!(start.elapsed().as_secs(), 3);
        assert_eq!(
            timer
                .within(start + 9 * second, std::future::ready(7))
                .await,
            Ok(7)
        );
    }
}
