//! Why there is no certificate, whose fault that is, how long the next try rests and which CA it asks. Pure.

use std::time::Duration;

/// What the CA said of a name is asked again after so long, doubled each time up to [`REFUSED_LONGEST`].
pub(super) const REFUSED: Duration = Duration::from_secs(60);
pub(super) const REFUSED_LONGEST: Duration = Duration::from_secs(12 * 3600);
/// A CA that could not be asked is asked again after so long, doubled each time up to [`UNREACHED_LONGEST`].
pub(super) const UNREACHED: Duration = Duration::from_secs(2);
const UNREACHED_LONGEST: Duration = Duration::from_secs(600);
/// After the CA's own word that it was asked too often, if it did not say how long to wait.
const LIMITED: Duration = Duration::from_secs(3600);
/// A CA that says to wait longer is asked again after so long all the same.
pub(super) const TOLD_LONGEST: Duration = Duration::from_secs(24 * 3600);
/// No pause is longer, jitter included: what says so was written by a clock far ahead.
pub(super) const REST_LONGEST: Duration = Duration::from_secs(37 * 3600);
/// Failures in a row of the CA's own before the other one gets a turn.
const PATIENCE: u32 = 3;

/// Why there is no certificate, sorted by whose fault it is; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The name does not lead to this load balancer, so that the CA was not asked.
    Preflight(String),
    /// No order reached the CA.
    Unreached(String),
    /// The CA failed by itself, or was too slow.
    Faltered(String),
    /// The CA did not take the number that each message carries, several times: it did not look at the message.
    Nonce(String),
    /// The CA does not believe that the name is ours, or issues none for it.
    Refused(String),
    /// The CA was asked too often, or has too much to do; with how long it says to wait.
    Limited(String, Option<Duration>),
    /// The CA does not know the account any more.
    Account(String),
    /// Not to be had at this CA as the file wants it, so that it was not asked.
    Settings(String),
    /// Ours: a certificate that does not fit, a hook that fails, a state directory that cannot be written.
    Local(String),
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The CA's, or the way's to it: another CA may do better.
    Authority,
    /// The name's: any CA would refuse it.
    Name,
    /// This load balancer's, or its file's.
    Own,
}

/// Which CA is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Primary,
    Fallback,
}

impl Turn {
    /// After so many failures in a row that were the fault of the CA that was asked, whichever it was: the first one's until it failed three
    /// times, from then on theirs in turn.
    pub fn after(of_authorities: u32) -> Turn {
        let beyond = of_authorities.checked_sub(PATIENCE);
        match beyond.map(|beyond| beyond % 2) {
            Some(0) => Turn::Fallback,
            Some(_) | None => Turn::Primary,
        }
    }
}

impl Failure {
    pub fn text(&self) -> &str {
        match self {
            Failure::Preflight(text)
            | Failure::Unreached(text)
            | Failure::Faltered(text)
            | Failure::Nonce(text)
            | Failure::Refused(text)
            | Failure::Limited(text, _)
            | Failure::Account(text)
            | Failure::Settings(text)
            | Failure::Local(text) => text,
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            Failure::Unreached(_)
            | Failure::Faltered(_)
            | Failure::Nonce(_)
            | Failure::Limited(..) => Fault::Authority,
            Failure::Preflight(_) | Failure::Refused(_) => Fault::Name,
            Failure::Account(_) | Failure::Settings(_) | Failure::Local(_) => Fault::Own,
        }
    }

    /// How many failures in a row are the CAs' own with this one: what [`Turn::after`] takes.
    pub fn of_authorities(&self, before: u32) -> u32 {
        match self.fault() {
            Fault::Authority => before.saturating_add(1),
            Fault::Name | Fault::Own => 0,
        }
    }

    /// Whether the CA saw anything of the order, so that it counts.
    pub fn is_of_an_order(&self) -> bool {
        match self {
            Failure::Preflight(_) | Failure::Unreached(_) | Failure::Settings(_) => false,
            Failure::Faltered(_)
            | Failure::Nonce(_)
            | Failure::Refused(_)
            | Failure::Limited(..)
            | Failure::Account(_)
            | Failure::Local(_) => true,
        }
    }

    /// Before it is tried again, after this many failures in a row. What the CA says of it is kept to, with room for who takes up to
    /// a fifth off this.
    pub fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Failure::Unreached(_)
            | Failure::Faltered(_)
            | Failure::Nonce(_)
            | Failure::Account(_) => (UNREACHED, UNREACHED_LONGEST),
            Failure::Preflight(_)
            | Failure::Refused(_)
            | Failure::Settings(_)
            | Failure::Local(_) => (REFUSED, REFUSED_LONGEST),
            Failure::Limited(_, None) => (LIMITED, REFUSED_LONGEST),
            Failure::Limited(_, Some(told)) => {
                let told = (*told).min(TOLD_LONGEST) * 5 / 4;
                return told.max(Failure::Faltered(String::new()).pause(failures));
            }
        };
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
        first.saturating_mul(doubled).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreached() -> Failure {
        Failure::Unreached("refused".into())
    }

    #[test]
    fn the_fallback_gets_each_second_try_after_three_failures_of_the_cas_own() {
        let turns: Vec<Turn> = (0..7).map(Turn::after).collect();
        use Turn::{Fallback, Primary};
        assert_eq!(
            turns,
            [
                Primary, Primary, Primary, Fallback, Primary, Fallback, Primary
            ]
        );
        Turn::after(u32::MAX);
    }

    #[test]
    fn a_failure_that_is_not_the_cas_begins_the_count_anew() {
        assert_eq!(unreached().of_authorities(2), 3);
        assert_eq!(Failure::Limited("busy".into(), None).of_authorities(0), 1);
        for failure in [
            Failure::Refused("no".into()),
            Failure::Preflight("elsewhere".into()),
            Failure::Local("no disk".into()),
            Failure::Settings("no profile".into()),
        ] {
            assert_eq!(failure.of_authorities(2), 0, "{failure:?}");
        }
    }

    #[test]
    fn a_pause_is_never_shorter_than_the_ca_says_and_never_endless() {
        let told = |seconds| Failure::Limited("busy".into(), Some(Duration::from_secs(seconds)));
        let seconds = |failure: Failure, failures| failure.pause(failures).as_secs();
        // A fifth less is still what was said.
        assert_eq!(seconds(told(1000), 1), 1250);
        assert_eq!(seconds(told(0), 4), seconds(unreached(), 4));
        assert_eq!(seconds(told(u64::MAX), 1), 30 * 3600);
        assert_eq!(seconds(Failure::Limited("busy".into(), None), 1), 3600);
        assert_eq!(seconds(unreached(), u32::MAX), 600);
    }
}
