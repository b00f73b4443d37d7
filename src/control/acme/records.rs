//! What is shared for ACME, as it is written: JSON, times in whole seconds since 1970. Pure.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, REST_LONGEST};
use super::model::jittered;
use crate::config::Acme;
use crate::seal::{Digest, Plain};

/// `acme/certs/<name>`, PEM texts.
#[derive(Serialize, Deserialize)]
pub struct CertificateRecord {
    pub(super) chain: String,
    pub(super) key: String,
    /// Of the CA that issued it; empty: not known.
    #[serde(default)]
    pub(super) directory: String,
}

/// `acme/orders/<name>`: an order that its CA knows of. Who comes after its holder can finish it.
#[derive(Serialize, Deserialize)]
pub struct OrderRecord {
    pub(super) directory: String,
    pub(super) url: String,
    pub(super) key_pem: String,
    pub(super) begun: u64,
}

/// `acme/attempts/<name>`: what went wrong, and until when no load balancer tries again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// In a row.
    pub(super) failures: u32,
    /// Of these the last ones that were the CAs' own.
    #[serde(default)]
    pub(super) of_authorities: u32,
    pub(super) not_before: u64,
    pub(super) error: String,
    pub(super) at: u64,
    /// Of the settings with which it failed: what others make of it is another matter.
    #[serde(default)]
    pub(super) settings: String,
}

impl Attempts {
    /// What stands there after another failure with the same settings, as [`mark_of`] gives them. `seed` is the name's.
    pub(super) fn after(
        before: Option<&Attempts>,
        failure: &Failure,
        settings: String,
        seed: u64,
        now: SystemTime,
    ) -> Attempts {
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let pause = jittered(
            failure.pause(failures),
            seed.wrapping_add(u64::from(failures)),
        );
        // Whole seconds, rounded up: a pause of some seconds is not cut short.
        let not_before = seconds(now + pause) + 1;
        Attempts {
            failures,
            of_authorities: failure.of_authorities(before.map_or(0, |one| one.of_authorities)),
            not_before,
            error: failure.text().to_owned(),
            at: seconds(now),
            settings,
        }
    }
}

impl Attempts {
    /// Until when nobody tries; None: it is over, or what a clock far ahead wrote, which would never end.
    pub fn rest(&self, now: SystemTime) -> Option<SystemTime> {
        let until = moment(self.not_before);
        (until > now && until <= now + REST_LONGEST).then_some(until)
    }
}

/// What of the settings decides whether an order succeeds, in a few letters: the same on all load balancers that order alike.
pub(super) fn mark_of(settings: &Acme) -> String {
    let directories = settings.directories().map(|one| {
        let kid = one.eab.as_ref().map(|eab| eab.kid.as_str());
        (one.url.as_str(), one.profile.as_deref(), kid)
    });
    let directories: Vec<_> = directories.collect();
    let Acme {
        preflight,
        challenge,
        dns_hook,
        key_type,
        ..
    } = settings;
    let text = format!("{directories:?}{preflight:?}{challenge:?}{key_type:?}{dns_hook:?}");
    Digest::of(text.as_bytes()).to_hex()[..8].to_owned()
}

/// `acme/proofs/<name>`: by tls-alpn-01.
#[derive(Serialize, Deserialize)]
pub struct ProofRecord {
    pub(super) digest: [u8; 32],
    /// Nobody looks at it after this.
    pub(super) until: u64,
}

/// Of `nodes/<lb>`: what a live load balancer has in force of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub node: String,
    pub version: String,
    #[serde(default)]
    pub thumbprint: Option<String>,
    /// Of pending proofs by tls-alpn-01, in hex.
    #[serde(default)]
    pub proofs: Vec<String>,
    /// It cannot open what the pod has sealed, so that it can answer no CA: nobody waits for it.
    #[serde(default)]
    pub is_locked_out: bool,
}

/// The text of a record.
pub fn write(record: &impl Serialize) -> Plain {
    Plain::new(serde_json::to_vec(record).expect("texts and numbers are json"))
}

/// What [`write()`] wrote; the error names the key and shows nothing of the value.
pub(super) fn read<T: DeserializeOwned>(key: &str, text: &[u8]) -> Result<T, String> {
    parse(text).map_err(|why| format!("{key}: {why}"))
}

/// As `read`, where the key is named by who asks.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|_| "not what rota writes".to_owned())
}

pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// At most some ten thousand years on, so that sums with it are times too.
pub(super) fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(1 << 38))
}

#[cfg(test)]
mod tests {
    use super::super::failure::{REFUSED, REFUSED_LONGEST};
    use super::*;

    #[test]
    fn failures_in_a_row_rest_longer_each_time_up_to_a_limit() {
        let now = moment(1_800_000_000);
        let mut before: Option<Attempts> = None;
        let mut pauses = Vec::new();
        for _ in 0..14 {
            let failure = Failure::Refused("no".into());
            let after = Attempts::after(before.as_ref(), &failure, "mark".into(), 7, now);
            pauses.push(moment(after.not_before).duration_since(now).unwrap());
            before = Some(after);
        }
        let second = Duration::from_secs(1);
        assert!(pauses[0] >= REFUSED.mul_f64(0.79) && pauses[0] <= REFUSED.mul_f64(1.21) + second);
        assert!(pauses[2] > pauses[0] * 2);
        let longest = REFUSED_LONGEST.mul_f64(1.21);
        assert!(pauses.iter().all(|pause| *pause <= longest));
        let last = before.unwrap();
        assert!(last.rest(now).is_some());
        assert_eq!((last.failures, last.error.as_str()), (14, "no"));
        assert_eq!(read::<Attempts>("k", &write(&last)).unwrap(), last);
    }

    #[test]
    fn a_clock_that_was_far_ahead_rests_no_name() {
        let now = moment(1_800_000_000);
        let failure = Failure::Limited("busy".into(), Some(Duration::MAX));
        let mut attempts = Attempts::after(None, &failure, "mark".into(), 7, now);
        assert!(
            attempts.rest(now).is_some(),
            "the longest that a ca can say"
        );
        for ahead in [now + Duration::from_secs(365 * 86_400), moment(u64::MAX)] {
            attempts.not_before = seconds(ahead);
            assert_eq!(attempts.rest(now), None);
        }
    }
}
