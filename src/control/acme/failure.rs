//! Why there is no certificate, what it costs, and how long the next try rests. Pure.

use std::time::Duration;

/// What the CA said of a name is asked again after so long, doubled each time up to [`REFUSED_LONGEST`].
pub(super) const REFUSED: Duration = Duration::from_secs(60);
pub(super) const REFUSED_LONGEST: Duration = Duration::from_secs(12 * 3600);
/// A CA that could not be asked is asked again after so long, doubled each time up to [`UNREACHED_LONGEST`].
pub(super) const UNREACHED: Duration = Duration::from_secs(2);
const UNREACHED_LONGEST: Duration = Duration::from_secs(600);
/// After the CA's own word that it was asked too often.
const LIMITED: Duration = Duration::from_secs(3600);

/// Why there is no certificate, sorted by whose fault it is; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The name does not lead to this load balancer, so that the CA was not asked.
    Preflight(String),
    /// No order reached the CA.
    Unreached(String),
    /// The CA failed by itself, or was too slow.
    Faltered(String),
    /// The CA does not believe that the name is ours, or issues none for it.
    Refused(String),
    /// The CA was asked too often.
    Limited(String),
    /// The CA does not know the account any more.
    Account(String),
    /// Ours: a certificate that does not fit, a state directory that cannot be written.
    Local(String),
}

impl Failure {
    pub fn text(&self) -> &str {
        match self {
            Failure::Preflight(text)
            | Failure::Unreached(text)
            | Failure::Faltered(text)
            | Failure::Refused(text)
            | Failure::Limited(text)
            | Failure::Account(text)
            | Failure::Local(text) => text,
        }
    }

    /// Whether the CA saw anything of the order, so that it counts.
    pub(super) fn is_of_an_order(&self) -> bool {
        match self {
            Failure::Preflight(_) | Failure::Unreached(_) => false,
            Failure::Faltered(_)
            | Failure::Refused(_)
            | Failure::Limited(_)
            | Failure::Account(_)
            | Failure::Local(_) => true,
        }
    }

    /// Before it is tried again, after this many failures in a row.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Failure::Unreached(_) | Failure::Faltered(_) | Failure::Account(_) => {
                (UNREACHED, UNREACHED_LONGEST)
            }
            Failure::Preflight(_) | Failure::Refused(_) | Failure::Local(_) => {
                (REFUSED, REFUSED_LONGEST)
            }
            Failure::Limited(_) => (LIMITED, REFUSED_LONGEST),
        };
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
        first.saturating_mul(doubled).min(longest)
    }
}
