//! What is ordered when: wanted names, what they have, what went wrong, and the account's budget. Pure: `now` is an argument, jitter
//! comes from the name.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use crate::config::DomainName;

#[cfg(test)]
mod tests;

/// Orders under way at once.
const AT_ONCE: usize = 8;
/// Orders that an account begins within [`BUDGET_SPAN`]; Let's Encrypt refuses more than 300.
const BUDGET: usize = 250;
const BUDGET_SPAN: Duration = Duration::from_secs(3 * 3600);
/// What the CA said of a name is asked again after so long, doubled each time up to [`REFUSED_LONGEST`].
const REFUSED: Duration = Duration::from_secs(60);
const REFUSED_LONGEST: Duration = Duration::from_secs(12 * 3600);
/// A CA that could not be asked is asked again after so long, doubled each time up to [`UNREACHED_LONGEST`].
const UNREACHED: Duration = Duration::from_secs(2);
const UNREACHED_LONGEST: Duration = Duration::from_secs(600);
/// After the CA's own word that it was asked too often.
const LIMITED: Duration = Duration::from_secs(3600);

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Why there is no certificate, sorted by whose fault it is; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The CA was not reached, or failed by itself.
    Unreached(String),
    /// The CA does not believe that the name is ours, or issues none for it.
    Refused(String),
    /// The CA was asked too often.
    Limited(String),
    /// Ours: a certificate that does not fit, a state directory that cannot be written.
    Local(String),
}

impl Failure {
    pub fn text(&self) -> &str {
        match self {
            Failure::Unreached(text)
            | Failure::Refused(text)
            | Failure::Limited(text)
            | Failure::Local(text) => text,
        }
    }

    /// Before it is tried again, after this many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Failure::Unreached(_) => (UNREACHED, UNREACHED_LONGEST),
            Failure::Refused(_) | Failure::Local(_) => (REFUSED, REFUSED_LONGEST),
            Failure::Limited(_) => (LIMITED, REFUSED_LONGEST),
        };
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
        first.saturating_mul(doubled).min(longest)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These names and no others are to have certificates; some have one.
    Wanted(BTreeMap<DomainName, Option<Validity>>),
    /// The account is open, or not.
    Opened(Result<(), Failure>),
    /// An order ended.
    Ended(DomainName, Result<Validity, Failure>),
    /// Time went by.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The account is to be read, or made.
    Open,
    Order(DomainName),
}

/// What is known of a name, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub validity: Option<Validity>,
    /// None: it is being ordered.
    pub next: Option<SystemTime>,
    pub error: Option<String>,
}

#[derive(Debug, Default)]
enum Account {
    #[default]
    Closed,
    Opening,
    Open,
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    failures: u32,
    until: SystemTime,
    text: String,
}

impl Trouble {
    fn after(before: Option<&Trouble>, failure: &Failure, seed: u64, now: SystemTime) -> Trouble {
        let failures = before.map_or(0, |before| before.failures) + 1;
        let pause = failure.pause(failures);
        // From four fifths to six fifths.
        let jittered = pause.mul_f64(0.8 + 0.4 * share(seed.wrapping_add(u64::from(failures))));
        Trouble {
            failures,
            until: now + jittered,
            text: failure.text().to_owned(),
        }
    }
}

#[derive(Debug, Default)]
struct Name {
    validity: Option<Validity>,
    trouble: Option<Trouble>,
    is_ordered: bool,
    /// False: its order is under way and nobody needs it any more.
    is_wanted: bool,
}

/// One load balancer's view.
#[derive(Debug, Default)]
pub struct Model {
    names: BTreeMap<DomainName, Name>,
    account: Account,
    account_trouble: Option<Trouble>,
    /// When the orders of the last [`BUDGET_SPAN`] began.
    begun: VecDeque<SystemTime>,
    effects: Vec<Effect>,
}

impl Model {
    pub fn new() -> Model {
        Model::default()
    }

    pub fn apply(&mut self, event: Event, now: SystemTime) {
        match event {
            Event::Wanted(wanted) => self.want(wanted),
            Event::Opened(Ok(())) => {
                self.account = Account::Open;
                self.account_trouble = None;
            }
            Event::Opened(Err(failure)) => {
                self.account = Account::Closed;
                let before = self.account_trouble.as_ref();
                self.account_trouble = Some(Trouble::after(before, &failure, 0, now));
            }
            Event::Ended(name, result) => self.end(&name, result, now),
            Event::Tick => {}
        }
        self.decide(now);
    }

    /// What is to be done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When a [`Event::Tick`] may lead to something; None: never by itself.
    pub fn next_tick(&self) -> Option<SystemTime> {
        let trouble = self.account_trouble.as_ref().map(|trouble| trouble.until);
        match self.account {
            Account::Opening => None,
            Account::Closed => self
                .next_due()
                .map(|due| trouble.map_or(due, |t| t.max(due))),
            Account::Open => {
                let refill = self.budget_until();
                self.next_due()
                    .map(|due| refill.map_or(due, |at| at.max(due)))
            }
        }
    }

    /// Whether the name is to have a certificate.
    pub fn wants(&self, name: &DomainName) -> bool {
        self.names.get(name).is_some_and(|known| known.is_wanted)
    }

    /// Each wanted name.
    pub fn standings(&self) -> impl Iterator<Item = (&DomainName, Standing)> {
        let wanted = self.names.iter().filter(|(_, known)| known.is_wanted);
        wanted.map(|(name, known)| {
            let account = self.account_trouble.as_ref();
            let trouble = known.trouble.as_ref().or(account);
            let standing = Standing {
                validity: known.validity,
                next: (!known.is_ordered).then(|| known.due(seed_of(name))),
                error: trouble.map(|trouble| trouble.text.clone()),
            };
            (name, standing)
        })
    }

    fn want(&mut self, wanted: BTreeMap<DomainName, Option<Validity>>) {
        // An order under way ends by itself; its name is forgotten then.
        self.names
            .retain(|name, known| known.is_ordered || wanted.contains_key(name));
        for (name, known) in &mut self.names {
            known.is_wanted = wanted.contains_key(name);
        }
        for (name, validity) in wanted {
            let known = self.names.entry(name).or_default();
            known.is_wanted = true;
            known.validity = validity.or(known.validity);
        }
    }

    fn end(&mut self, name: &DomainName, result: Result<Validity, Failure>, now: SystemTime) {
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        known.is_ordered = false;
        match result {
            Ok(validity) => {
                known.validity = Some(validity);
                known.trouble = None;
            }
            Err(failure) => {
                let before = known.trouble.as_ref();
                known.trouble = Some(Trouble::after(before, &failure, seed_of(name), now));
            }
        }
        if !known.is_wanted {
            self.names.remove(name);
        }
    }

    fn decide(&mut self, now: SystemTime) {
        let is_due = |(name, known): &(&DomainName, &Name)| {
            known.is_waiting() && known.due(seed_of(name)) <= now
        };
        let mut due: Vec<DomainName> = self
            .names
            .iter()
            .filter(is_due)
            .map(|(name, _)| name.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        match self.account {
            Account::Opening => {}
            Account::Closed => {
                let rests = self.account_trouble.as_ref();
                if rests.is_none_or(|trouble| trouble.until <= now) {
                    self.account = Account::Opening;
                    self.effects.push(Effect::Open);
                }
            }
            Account::Open => {
                self.forget_old_orders(now);
                // Who has nothing goes before who has something that still serves.
                due.sort_by_key(|name| self.names[name].validity.is_some());
                let under_way = self.names.values().filter(|one| one.is_ordered).count();
                let room = AT_ONCE
                    .saturating_sub(under_way)
                    .min(BUDGET.saturating_sub(self.begun.len()));
                due.truncate(room);
                for name in due {
                    self.begun.push_back(now);
                    let known = self.names.get_mut(&name).expect("it was just found");
                    known.is_ordered = true;
                    self.effects.push(Effect::Order(name));
                }
            }
        }
    }

    fn forget_old_orders(&mut self, now: SystemTime) {
        let is_old = |begun: &SystemTime| *begun + BUDGET_SPAN <= now;
        while self.begun.front().is_some_and(is_old) {
            self.begun.pop_front();
        }
    }

    /// When the next order may begin, if the budget is used up.
    fn budget_until(&self) -> Option<SystemTime> {
        let is_used_up = self.begun.len() >= BUDGET;
        self.begun
            .front()
            .filter(|_| is_used_up)
            .map(|begun| *begun + BUDGET_SPAN)
    }

    fn next_due(&self) -> Option<SystemTime> {
        let under_way = self.names.values().filter(|one| one.is_ordered).count();
        let waiting = self.names.iter().filter(|(_, known)| known.is_waiting());
        let earliest = waiting.map(|(name, known)| known.due(seed_of(name))).min();
        earliest.filter(|_| under_way < AT_ONCE)
    }
}

impl Name {
    fn is_waiting(&self) -> bool {
        self.is_wanted && !self.is_ordered
    }

    fn due(&self, seed: u64) -> SystemTime {
        let by_need = match self.validity {
            None => SystemTime::UNIX_EPOCH,
            Some(validity) => by_lifetime(validity, seed),
        };
        let rests = self.trouble.as_ref().map(|trouble| trouble.until);
        rests.map_or(by_need, |until| until.max(by_need))
    }
}

/// At two thirds of the lifetime, up to a twentieth of it earlier, so that what was ordered together is not renewed together.
fn by_lifetime(validity: Validity, seed: u64) -> SystemTime {
    let lifetime = validity
        .not_after
        .duration_since(validity.not_before)
        .unwrap_or_default();
    validity.not_before + lifetime.mul_f64(2.0 / 3.0 - share(seed) / 20.0)
}

/// FNV-1a (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>): even, and the same in each release.
fn seed_of(name: &DomainName) -> u64 {
    name.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
}

/// From 0 to 1.
fn share(seed: u64) -> f64 {
    // The upper bits are the better mixed ones.
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    mixed as f64 / (1u64 << 24) as f64
}
