//! A wall clock that is far from the CA's, or was: neither a storm of orders nor a name that nobody orders comes of it.

use std::time::{Duration, SystemTime};

use super::rests::Rest;
use super::when::by_lifetime;
use super::{Model, Validity};

/// Of a clock far ahead: each certificate that comes would be followed by another one at once.
const OVERDUE: &str =
    "the certificate that came is due for renewal already: is the clock of this machine right?";
/// A clock that goes back by more was set.
const SET_BACK: Duration = Duration::from_secs(3600);

/// For a fiftieth of its life, if a certificate is due for renewal as it comes.
pub(super) fn rest_of_one_that_is_due(
    validity: Validity,
    seed: u64,
    now: SystemTime,
) -> Option<Rest> {
    let until = now + validity.lifetime() / 50;
    (by_lifetime(validity, seed) <= now).then(|| Rest::for_reason(until, OVERDUE.into()))
}

impl Model {
    /// Before each event. What a clock that was ahead settled would hold names back until then, so it is forgotten once the clock is set
    /// back; the store remembers what is to rest in any case.
    pub(super) fn note_the_time(&mut self, now: SystemTime) {
        let latest = self.latest.replace(now);
        if latest.is_none_or(|latest| latest <= now + SET_BACK) {
            return;
        }
        self.account_trouble = None;
        for known in self.names.values_mut() {
            known.rest = None;
            known.full = None;
            known.ask_at = known.ask_at.map(|_| SystemTime::UNIX_EPOCH);
            known.since = known.since.map(|since| since.min(now));
        }
    }
}
