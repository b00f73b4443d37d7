//! What is ordered when: wanted names, what they have, what went wrong, and the account's budget. Pure: `now` is an argument, jitter
//! comes from the name.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

pub use super::failure::Failure;
use crate::config::DomainName;

#[cfg(test)]
mod tests;

/// Orders under way at once, and questions to the CA.
const AT_ONCE: usize = 8;
/// Orders that an account begins within [`BUDGET_SPAN`]; Let's Encrypt refuses more than 300.
const BUDGET: usize = 250;
const BUDGET_SPAN: Duration = Duration::from_secs(3 * 3600);
/// A CA is asked about a certificate's window so often at least and at most, whatever it wishes; and again after so long if it did not say.
const ASK_SOONEST: Duration = Duration::from_secs(60);
const ASK_LATEST: Duration = Duration::from_secs(24 * 3600);
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// At least so long after a certificate came the next one is ordered by the CA's window; less for short lives.
const BREATHER: Duration = Duration::from_secs(3600);

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These names and no others are to have certificates; some have one.
    Wanted(BTreeMap<DomainName, Option<Validity>>),
    /// The account is open, or not.
    Opened(Result<(), Failure>),
    /// What the CA says of when to renew the certificate of this validity (RFC 9773); None: it was not to be had.
    Told(DomainName, Validity, Option<Window>),
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
    /// The CA is to be asked when to renew the certificate of this validity.
    Ask(DomainName, Validity),
    Order(DomainName, Replaces),
}

/// Whether an order says to the CA that it takes the present certificate's place: then no limit counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces {
    Present,
    Nothing,
}

/// When the CA wants a certificate renewed, and when it wants to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub start: SystemTime,
    pub end: SystemTime,
    pub ask_after: Duration,
}

/// What is known of a name, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub validity: Option<Validity>,
    /// Not before this moment it is ordered; None: it is being ordered, or is as soon as there is room.
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
    window: Option<Window>,
    /// When the CA is asked about the window next.
    ask_at: Option<SystemTime>,
    is_asked: bool,
    /// Since when the certificate is known.
    since: Option<SystemTime>,
    trouble: Option<Trouble>,
    /// Since when its order is under way.
    ordered_at: Option<SystemTime>,
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
            Event::Wanted(wanted) => self.want(wanted, now),
            Event::Opened(Ok(())) => {
                self.account = Account::Open;
                self.account_trouble = None;
            }
            Event::Opened(Err(failure)) => {
                self.account = Account::Closed;
                let before = self.account_trouble.as_ref();
                self.account_trouble = Some(Trouble::after(before, &failure, 0, now));
            }
            Event::Told(name, of, window) => self.tell(&name, of, window, now),
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
            Account::Closed => {
                let needs = self.next_due().into_iter().chain(self.next_question());
                needs.min().map(|at| trouble.map_or(at, |t| t.max(at)))
            }
            Account::Open => {
                let refill = self.budget_until();
                let order = self
                    .next_due()
                    .map(|due| refill.map_or(due, |at| at.max(due)));
                order.into_iter().chain(self.next_question()).min()
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
            let mut standing = Standing {
                validity: known.validity,
                next: None,
                error: trouble.map(|trouble| trouble.text.clone()),
            };
            if !known.is_ordered() {
                self.foresee(known.due(seed_of(name)), &mut standing);
            }
            (name, standing)
        })
    }

    /// When what is due at a moment is ordered, and what holds it back until then.
    fn foresee(&self, due: SystemTime, standing: &mut Standing) {
        let rest = self.account_trouble.as_ref().map(|trouble| trouble.until);
        let next = rest.map_or(due, |until| until.max(due));
        let refill = self.budget_until().filter(|refill| *refill > next);
        if refill.is_some() {
            let why = format!("{BUDGET} orders began within 3 h: the next one waits");
            standing.error = Some(match standing.error.take() {
                Some(error) => format!("{error}; {why}"),
                None => why,
            });
        }
        let next = refill.unwrap_or(next);
        standing.next = (next > SystemTime::UNIX_EPOCH).then_some(next);
    }

    fn want(&mut self, wanted: BTreeMap<DomainName, Option<Validity>>, now: SystemTime) {
        // An order under way ends by itself; its name is forgotten then.
        self.names
            .retain(|name, known| known.is_ordered() || wanted.contains_key(name));
        for (name, known) in &mut self.names {
            known.is_wanted = wanted.contains_key(name);
        }
        for (name, validity) in wanted {
            let known = self.names.entry(name).or_default();
            known.is_wanted = true;
            if validity.is_some() && known.validity != validity {
                known.hold(validity, now);
            }
        }
    }

    fn end(&mut self, name: &DomainName, result: Result<Validity, Failure>, now: SystemTime) {
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        let ordered_at = known.ordered_at.take();
        if matches!(result, Err(Failure::Account(_))) {
            self.account = Account::Closed;
        }
        match result {
            Ok(validity) => known.hold(Some(validity), now),
            Err(failure) => {
                let unseen = ordered_at.filter(|_| !failure.is_of_an_order());
                if let Some(at) = unseen.and_then(|at| self.begun.iter().position(|b| *b == at)) {
                    self.begun.remove(at);
                }
                // Perhaps it was the window or what the order was to replace that the CA did not take.
                known.window = None;
                let before = known.trouble.as_ref();
                known.trouble = Some(Trouble::after(before, &failure, seed_of(name), now));
            }
        }
        if !known.is_wanted {
            self.names.remove(name);
        }
    }

    fn tell(&mut self, name: &DomainName, of: Validity, window: Option<Window>, now: SystemTime) {
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        known.is_asked = false;
        if known.validity != Some(of) {
            return;
        }
        known.window = window.or(known.window);
        let after = window.map_or(ASK_AGAIN, |window| {
            window.ask_after.clamp(ASK_SOONEST, ASK_LATEST)
        });
        known.ask_at = Some(now + after);
    }

    fn decide(&mut self, now: SystemTime) {
        match self.account {
            Account::Opening => {}
            Account::Closed => {
                let rests = self.account_trouble.as_ref();
                let is_rested = rests.is_none_or(|trouble| trouble.until <= now);
                let needs = self.next_due().into_iter().chain(self.next_question());
                if is_rested && needs.min().is_some_and(|at| at <= now) {
                    self.account = Account::Opening;
                    self.effects.push(Effect::Open);
                }
            }
            Account::Open => {
                self.ask_for_windows(now);
                self.order_what_is_due(now);
            }
        }
    }

    fn ask_for_windows(&mut self, now: SystemTime) {
        let mut room = self.room_for_questions();
        for (name, known) in &mut self.names {
            let is_due = known.asks_at().is_some_and(|at| at <= now);
            if let (true, 1.., Some(validity)) = (is_due, room, known.validity) {
                room -= 1;
                known.is_asked = true;
                self.effects.push(Effect::Ask(name.clone(), validity));
            }
        }
    }

    fn room_for_questions(&self) -> usize {
        let asked = self.names.values().filter(|known| known.is_asked).count();
        AT_ONCE.saturating_sub(asked)
    }

    /// When the CA is to be asked about a window, if there is room for a question.
    fn next_question(&self) -> Option<SystemTime> {
        let ask = self.names.values().filter_map(Name::asks_at).min();
        ask.filter(|_| self.room_for_questions() > 0)
    }

    fn order_what_is_due(&mut self, now: SystemTime) {
        self.forget_old_orders(now);
        let is_due = |(name, known): &(&DomainName, &Name)| {
            known.is_waiting() && known.due(seed_of(name)) <= now
        };
        let due = self.names.iter().filter(is_due);
        let mut due: Vec<DomainName> = due.map(|(name, _)| name.clone()).collect();
        // Who has nothing goes before who has something that still serves.
        due.sort_by_key(|name| self.names[name].validity.is_some());
        let under_way = self.names.values().filter(|one| one.is_ordered()).count();
        let room = AT_ONCE
            .saturating_sub(under_way)
            .min(BUDGET.saturating_sub(self.begun.len()));
        due.truncate(room);
        for name in due {
            self.begun.push_back(now);
            let known = self.names.get_mut(&name).expect("it was just found");
            known.ordered_at = Some(now);
            let replaces = known.replaces();
            self.effects.push(Effect::Order(name, replaces));
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
        let under_way = self.names.values().filter(|one| one.is_ordered()).count();
        let waiting = self.names.iter().filter(|(_, known)| known.is_waiting());
        let earliest = waiting.map(|(name, known)| known.due(seed_of(name))).min();
        earliest.filter(|_| under_way < AT_ONCE)
    }
}

impl Name {
    fn is_ordered(&self) -> bool {
        self.ordered_at.is_some()
    }

    fn is_waiting(&self) -> bool {
        self.is_wanted && !self.is_ordered()
    }

    /// Another certificate than before: its window is another, and what went wrong is over.
    fn hold(&mut self, validity: Option<Validity>, now: SystemTime) {
        self.validity = validity;
        self.since = Some(now);
        self.window = None;
        self.ask_at = Some(SystemTime::UNIX_EPOCH);
        self.trouble = None;
    }

    /// When the CA is to be asked for its window; None: it is being asked, or there is nothing to ask about.
    fn asks_at(&self) -> Option<SystemTime> {
        let is_there = self.is_waiting() && self.validity.is_some();
        self.ask_at.filter(|_| is_there && !self.is_asked)
    }

    fn replaces(&self) -> Replaces {
        match (self.validity, self.window) {
            (Some(_), Some(_)) => Replaces::Present,
            (None, _) | (_, None) => Replaces::Nothing,
        }
    }

    fn due(&self, seed: u64) -> SystemTime {
        let by_need = match (self.validity, self.window) {
            (None, _) => SystemTime::UNIX_EPOCH,
            (Some(validity), Some(window)) => {
                let since = self.since.unwrap_or(validity.not_before);
                within(window, validity, since, seed)
            }
            (Some(validity), None) => by_lifetime(validity, seed),
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

/// A moment of the window, the same each time. Of the window counts what lies in the certificate's own life: of one that reaches
/// into its second half only that, without the last tenth; and of none the first moments after `since`, lest a CA whose windows are
/// all in the past be asked for one certificate after the other.
fn within(window: Window, validity: Validity, since: SystemTime, seed: u64) -> SystemTime {
    let lifetime = validity.not_after.duration_since(validity.not_before);
    let lifetime = lifetime.unwrap_or_default();
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
