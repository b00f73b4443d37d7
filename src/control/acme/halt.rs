//! Why an order, or what comes before it, goes no further.

use std::time::SystemTime;

use super::failure::Failure;
use super::sync::Held;
use crate::control::store::StoreError;

pub(super) enum Halt {
    /// Somebody else's certificate is there already.
    Taken(Held),
    /// For this reason nobody is to begin before this moment.
    Rests(SystemTime, String),
    /// For this reason there is no room for an order of this kind before this moment.
    Full(SystemTime, String),
    /// It came to nothing, which counts for all load balancers.
    Failed(Failure),
    /// The store is away, or the lock passed to somebody else: nothing more is touched, and what was begun is finished by whoever
    /// has the lock next.
    Stopped(String),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Halt {
        Halt::Failed(failure)
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Halt {
        Halt::Stopped(error.to_string())
    }
}
