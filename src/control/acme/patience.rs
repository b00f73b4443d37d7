//! How long one step at a CA may take, and that it is asked again when all that was wrong was the number on the message.

use std::time::Duration;

use tokio::time::timeout;

use super::failure::Failure;

/// Times that a step is asked; each is three messages already, since instant-acme repeats a message twice.
pub(super) const ROUNDS: usize = 8;

/// A step's result; it is asked again while the CA does not take its nonce (RFC 8555 section 6.5), which says nothing of the step: a CA of
/// several servers that do not know each other's numbers refuses many. A macro, since of an async closure that borrows its order rustc
/// cannot show that it is `Send`.
macro_rules! insistently {
    ($deadline:expr, $step:expr) => {{
        let mut rounds = 1..$crate::control::acme::patience::ROUNDS;
        loop {
            match $crate::control::acme::patience::in_time($deadline, $step).await {
                Err($crate::control::acme::failure::Failure::Nonce(_))
                    if rounds.next().is_some() => {}
                ended => break ended,
            }
        }
    }};
}
pub(super) use insistently;

pub(super) async fn in_time<T>(
    deadline: Duration,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = |_| {
        let seconds = deadline.as_secs();
        Failure::Faltered(format!("the ca was not done within {seconds} s"))
    };
    timeout(deadline, step).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(failures: usize, failure: Failure) -> (usize, bool) {
        let mut times = 0;
        let mut step = async || {
            times += 1;
            match times > failures {
                true => Ok(()),
                false => Err(failure.clone()),
            }
        };
        let ended = insistently!(Duration::from_secs(5), step());
        (times, ended.is_ok())
    }

    #[tokio::test]
    async fn a_step_is_asked_again_for_its_number_alone_and_not_for_ever() {
        let nonce = || Failure::Nonce("bad".into());
        assert_eq!(asked(3, nonce()).await, (4, true));
        assert_eq!(asked(100, nonce()).await, (ROUNDS, false));
        assert_eq!(asked(3, Failure::Refused("no".into())).await, (1, false));
    }
}
