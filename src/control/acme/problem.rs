//! An error of the CA's, or on the way to it, as a failure: whose fault it is, and in words of bounded length.

use instant_acme::{Error, Problem};

use super::failure::Failure;
use super::transport::Unanswered;

/// The CA's own words in an error are cut at so many bytes.
const WORDS: usize = 400;

/// Of anything but a new order.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::Api(problem) => of_problem(&problem),
        Error::Crypto | Error::KeyRejected => Failure::Local(cut(error.to_string())),
        Error::Other(why) => match why.downcast::<Unanswered>() {
            Ok(unanswered) => of_unanswered(*unanswered),
            Err(why) => Failure::Faltered(cut(why.to_string())),
        },
        _ => Failure::Faltered(cut(error.to_string())),
    }
}

pub(super) fn of_unanswered(unanswered: Unanswered) -> Failure {
    let text = cut(unanswered.to_string());
    match unanswered {
        Unanswered::Unsent(_) | Unanswered::Lost(_) | Unanswered::Bare { .. } => {
            Failure::Faltered(text)
        }
        Unanswered::Busy { wait, .. } => Failure::Limited(text, Some(wait)),
    }
}

/// Why there is no order: only what was never sent is none to the CA.
pub(super) fn unordered(error: Error) -> Failure {
    match &error {
        Error::Other(why) if why.downcast_ref().is_some_and(Unanswered::is_unsent) => {
            Failure::Unreached(cut(error.to_string()))
        }
        _ => failure(error),
    }
}

/// What an answer that is an error says of itself.
pub(super) fn read(body: &[u8]) -> Result<Problem, serde_json::Error> {
    serde_json::from_slice(body)
}

pub(super) fn is_bad_nonce(problem: &Problem) -> bool {
    kind(problem) == "badNonce"
}

/// Whether the CA knows no such thing, or not as this account's.
pub(super) fn is_unknown(error: &Error) -> bool {
    const GONE: [u16; 2] = [404, 410];
    match error {
        Error::Api(problem) => {
            problem.status.is_some_and(|status| GONE.contains(&status))
                || kind(problem) == "unauthorized"
        }
        Error::Other(why) => matches!(
            why.downcast_ref(),
            Some(Unanswered::Bare { status, .. }) if GONE.contains(status)
        ),
        _ => false,
    }
}

pub(super) fn is_revoked(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if kind(problem) == "alreadyRevoked")
}

/// The last part of its type's URN.
fn kind(problem: &Problem) -> &str {
    let urn = problem.r#type.as_deref().unwrap_or_default();
    urn.rsplit(':').next().unwrap_or_default()
}

pub(super) fn of_problem(problem: &Problem) -> Failure {
    let text = cut(problem.to_string());
    match (kind(problem), problem.status) {
        ("rateLimited", _) => Failure::Limited(text, None),
        ("accountDoesNotExist", _) => Failure::Account(text),
        ("badNonce", _) => Failure::Nonce(text),
        ("serverInternal", _) | (_, Some(500..)) => Failure::Faltered(text),
        _ => Failure::Refused(text),
    }
}

/// A CA's words in one line of bounded length.
pub(super) fn cut(mut text: String) -> String {
    text = text.replace(|c: char| c.is_control(), " ");
    text.truncate(text.floor_char_boundary(WORDS));
    text
}
