//! At which moment a certificate is renewed: by its CA's window or by its lifetime, jittered by its name.

use std::time::{Duration, SystemTime};

use super::{Validity, Window};

/// At least so long after a certificate came the next one is ordered by the CA's window; less for short lives.
const BREATHER: Duration = Duration::from_secs(3600);
/// The load balancers of a pod begin a renewal within this time, each at a moment of its own; less for short lives.
pub(super) const SPREAD: Duration = Duration::from_secs(2);

impl Validity {
    pub(super) fn lifetime(self) -> Duration {
        let lifetime = self.not_after.duration_since(self.not_before);
        lifetime.unwrap_or_default()
    }
}

/// A load balancer's own moment of [`SPREAD`].
pub(super) fn spread(validity: Validity, own: u64) -> Duration {
    let most = SPREAD.min(validity.lifetime() / 100);
    most.mul_f64(share(own))
}

/// From four fifths to six fifths.
pub(in crate::control::acme) fn jittered(span: Duration, seed: u64) -> Duration {
    span.mul_f64(0.8 + 0.4 * share(seed))
}

/// At two thirds of the lifetime, up to a twentieth of it earlier, so that what was ordered together is not renewed together.
pub(super) fn by_lifetime(validity: Validity, seed: u64) -> SystemTime {
    validity.not_before + validity.lifetime().mul_f64(2.0 / 3.0 - share(seed) / 20.0)
}

/// A moment of the window, the same each time. Of the window counts what lies in the certificate's own life: of one that reaches
/// into its second half only that, without the last tenth; and of none the first moments after `since`, lest a CA whose windows are
/// all in the past be asked for one certificate after the other.
pub(super) fn within(
    window: Window,
    validity: Validity,
    since: SystemTime,
    seed: u64,
) -> SystemTime {
    let lifetime = validity.lifetime();
    let earliest = since + (lifetime / 50).min(BREATHER);
    let latest = validity.not_after - lifetime / 10;
    let half = validity.not_before + lifetime / 2;
    let earliest = match window.end > half {
        true => earliest.max(half),
        false => earliest,
    };
    let (start, end) = (window.start.max(earliest), window.end.min(latest));
    match end.duration_since(start) {
        Ok(length) => start + length.mul_f64(share(seed)),
        // All over: at once. Or all beyond the end: as late as it may be.
        Err(_) => latest.max(earliest).min(start),
    }
}

/// FNV-1a (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>): even, and the same in each release.
pub(in crate::control::acme) fn seed_of(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// From 0 to 1.
fn share(seed: u64) -> f64 {
    // The upper bits are the better mixed ones.
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    mixed as f64 / (1u64 << 24) as f64
}
