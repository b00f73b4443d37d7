//! What is ordered when: wanted names, what they have, and what holds them back. Pure: `now` is an argument, jitter comes from the
//! name, and from the node where the load balancers of a pod should not all do the same at once.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use self::rests::{Full, Rest, Trouble};
use self::when::{by_lifetime, spread, within};
pub(super) use self::when::{jittered, seed_of};
pub use super::failure::Failure;
use crate::config::DomainName;

mod clock;
mod rests;
#[cfg(test)]
mod tests;
mod when;

/// Orders under way at once, and questions to the CA.
const AT_ONCE: usize = 8;
/// A CA is asked about a certificate's window so often at least and at most, whatever it wishes; and again after so long if it did not say.
const ASK_SOONEST: Duration = Duration::from_secs(60);
const ASK_LATEST: Duration = Duration::from_secs(24 * 3600);
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// What another load balancer orders is looked at again after so long.
const ELSEWHERE: Duration = Duration::from_secs(5);

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
    /// A name has this certificate now, whoever ordered it; None: it has none any more.
    Held(DomainName, Option<Validity>),
    /// The account is open, or not.
    Opened(Result<(), Failure>),
    /// What the CA says of when to renew the certificate of this validity (RFC 9773); None: it was not to be had.
    Told(DomainName, Validity, Option<Window>),
    /// A client waits for it.
    Hurried(DomainName),
    /// An operator has a certificate ordered, due or not; from then on it is.
    Begun(DomainName),
    /// An operator asked for another certificate than the present one, here or elsewhere, and nobody has it yet.
    Asked(DomainName),
    /// The same of all names.
    AskedForAll,
    /// What came of an order.
    Ended(DomainName, Ended),
    /// Time went by.
    Tick,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The name has this certificate, by this order or by somebody else's.
    Held(Validity),
    /// Another load balancer orders it at this moment.
    Elsewhere,
    /// Nothing was begun, for this reason: nobody is to try it before this moment.
    Rests(SystemTime, String),
    /// Nothing was begun, since a budget has no room before this moment for an order of its kind.
    Full(SystemTime, String),
    /// It came to nothing, for this reason: nobody is to try it again before this moment.
    Failed(SystemTime, String),
    /// As [`Ended::Failed`], and the account has to be made anew.
    NoAccount(SystemTime, String),
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

#[derive(Debug, Default)]
struct Name {
    validity: Option<Validity>,
    window: Option<Window>,
    /// When the CA is asked about the window next.
    ask_at: Option<SystemTime>,
    is_asked: bool,
    /// Since when the certificate is known.
    since: Option<SystemTime>,
    /// The name's own.
    rest: Option<Rest>,
    full: Option<Full>,
    is_ordered: bool,
    /// Of the order under way.
    ordered_as: Option<Replaces>,
    /// By an operator, due or not.
    is_asked_for: bool,
    /// Asked for and failed, here or elsewhere: due, whatever the certificate says.
    is_overdue: bool,
    /// A client waited for it since its last certificate.
    is_hurried: bool,
    /// False: its order is under way and nobody needs it any more.
    is_wanted: bool,
}

/// One load balancer's view.
#[derive(Debug, Default)]
pub struct Model {
    node: String,
    settling: Duration,
    names: BTreeMap<DomainName, Name>,
    account: Account,
    account_trouble: Option<Trouble>,
    effects: Vec<Effect>,
    /// When the last event was applied.
    latest: Option<SystemTime>,
}

impl Model {
    /// `node` tells this load balancer from the others of its pod, who take up to `settling` to hear of a name and to answer for it.
    pub fn new(node: &str, settling: Duration) -> Model {
        Model {
            node: node.to_owned(),
            settling,
            ..Model::default()
        }
    }

    pub fn apply(&mut self, event: Event, now: SystemTime) {
        self.note_the_time(now);
        match event {
            Event::Wanted(wanted) => self.want(wanted, now),
            Event::Held(name, validity) => {
                if let Some(known) = self.names.get_mut(&name) {
                    known.hold(validity, now);
                }
            }
            Event::Opened(Ok(())) => {
                self.account = Account::Open;
                self.account_trouble = None;
            }
            Event::Opened(Err(failure)) => self.keep_closed(&failure, now),
            Event::Told(name, of, window) => self.tell(&name, of, window, now),
            Event::Hurried(name) => {
                if let Some(known) = self.names.get_mut(&name) {
                    known.is_hurried = true;
                }
            }
            Event::Begun(name) => {
                if let Some(known) = self.names.get_mut(&name) {
                    known.is_ordered = true;
                    known.is_asked_for = true;
                }
            }
            Event::Asked(name) => {
                if let Some(known) = self.names.get_mut(&name) {
                    known.is_overdue = true;
                }
            }
            Event::AskedForAll => {
                for known in self.names.values_mut() {
                    known.is_overdue = true;
                }
            }
            Event::Ended(name, ended) => self.end(&name, ended, now),
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
        let needs = self.next_due().into_iter().chain(self.next_question());
        match self.account {
            Account::Opening => None,
            Account::Closed => {
                let trouble = self.account_trouble.as_ref().map(|trouble| trouble.until);
                needs.min().map(|at| trouble.map_or(at, |t| t.max(at)))
            }
            Account::Open => needs.min(),
        }
    }

    /// Whether the name is to have a certificate.
    pub fn wants(&self, name: &DomainName) -> bool {
        self.names.get(name).is_some_and(|known| known.is_wanted)
    }

    /// Whether this load balancer orders it at this moment.
    pub fn orders(&self, name: &DomainName) -> bool {
        self.names.get(name).is_some_and(|known| known.is_ordered)
    }

    /// Each wanted name.
    pub fn standings(&self) -> impl Iterator<Item = (&DomainName, Standing)> {
        let wanted = self.names.iter().filter(|(_, known)| known.is_wanted);
        wanted.map(|(name, known)| (name, self.standing(name, known)))
    }

    fn standing(&self, name: &DomainName, known: &Name) -> Standing {
        let rests = known.rest.iter().chain(known.lacks_room());
        // What holds longest.
        let why = rests.max_by_key(|rest| rest.until);
        let why = why.and_then(|rest| rest.why.clone());
        let account = self.account_trouble.as_ref();
        let next = match known.is_ordered {
            true => None,
            false => {
                let due = known.due(self.seeds(name));
                let next = account.map_or(due, |trouble| trouble.until.max(due));
                (next > SystemTime::UNIX_EPOCH).then_some(next)
            }
        };
        Standing {
            validity: known.validity,
            next,
            error: why.or_else(|| account.map(|trouble| trouble.text.clone())),
        }
    }

    fn want(&mut self, wanted: BTreeMap<DomainName, Option<Validity>>, now: SystemTime) {
        // An order under way ends by itself; its name is forgotten then.
        self.names
            .retain(|name, known| known.is_ordered || wanted.contains_key(name));
        for (name, known) in &mut self.names {
            known.is_wanted = wanted.contains_key(name);
        }
        for (name, validity) in wanted {
            let known = self.names.entry(name).or_insert_with(|| Name {
                rest: Some(Rest {
                    until: now + self.settling,
                    why: None,
                }),
                ..Name::default()
            });
            known.is_wanted = true;
            if validity.is_some() {
                known.hold(validity, now);
            }
        }
    }

    fn end(&mut self, name: &DomainName, ended: Ended, now: SystemTime) {
        if let Ended::NoAccount(..) = ended {
            self.account = Account::Closed;
        }
        let (seed, node) = self.seeds(name);
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        known.is_ordered = false;
        let was_asked_for = std::mem::take(&mut known.is_asked_for);
        let of = known.ordered_as.take().unwrap_or(Replaces::Nothing);
        match ended {
            Ended::Held(validity) => {
                known.is_overdue = false;
                known.hold(Some(validity), now);
                if let Some(rest) = clock::rest_of_one_that_is_due(validity, seed, now) {
                    known.rest = Some(rest);
                }
            }
            Ended::Elsewhere => {
                // Whoever is at it brings another one; what was asked for and is still not there is asked again.
                known.is_overdue = false;
                let until = now + jittered(ELSEWHERE, node);
                known.rest = Some(Rest { until, why: None });
            }
            // Nothing was begun, and what held it back need not hold back what is due by itself: another kind of order, perhaps.
            Ended::Rests(..) | Ended::Full(..) if was_asked_for => {}
            Ended::Rests(until, why) => {
                known.rest = Some(Rest::for_reason(until, why));
            }
            Ended::Full(until, why) => {
                let rest = Rest::for_reason(until, why);
                known.full = Some(Full { rest, of });
                // What says what it replaces needs less room: perhaps the CA has a window for it by now.
                if known.window.is_none() {
                    known.ask_at = Some(SystemTime::UNIX_EPOCH);
                }
            }
            Ended::Failed(until, why) | Ended::NoAccount(until, why) => {
                known.full = None;
                // Perhaps it was the window or what the order was to replace that the CA did not take.
                known.window = None;
                known.is_overdue |= was_asked_for;
                known.rest = Some(Rest::for_reason(until, why));
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

    fn room_for_orders(&self) -> usize {
        let under_way = self.names.values().filter(|known| known.is_ordered);
        AT_ONCE.saturating_sub(under_way.count())
    }

    fn order_what_is_due(&mut self, now: SystemTime) {
        let room = self.room_for_orders();
        if room == 0 {
            return;
        }
        let is_due = |(name, known): &(&DomainName, &Name)| {
            known.is_waiting() && known.due(self.seeds(name)) <= now
        };
        // Who has nothing goes before who has something that still serves, and first of all those whom a client waits for; and each
        // load balancer begins with others, so that they share the work rather than meet at each lock.
        let ranked = |(name, known): (&DomainName, &Name)| {
            let need = (known.validity.is_some(), !known.is_hurried);
            (need, self.seeds(name).1, name.clone())
        };
        let mut due: Vec<_> = self.names.iter().filter(is_due).map(ranked).collect();
        due.sort_unstable();
        for (_, _, name) in due.into_iter().take(room) {
            let known = self.names.get_mut(&name).expect("it was just found");
            known.is_ordered = true;
            let replaces = known.replaces();
            known.ordered_as = Some(replaces);
            self.effects.push(Effect::Order(name, replaces));
        }
    }

    fn next_due(&self) -> Option<SystemTime> {
        if self.room_for_orders() == 0 {
            return None;
        }
        let waiting = self.names.iter().filter(|(_, known)| known.is_waiting());
        waiting
            .map(|(name, known)| known.due(self.seeds(name)))
            .min()
    }

    /// The same on all load balancers, and this one's own.
    fn seeds(&self, name: &DomainName) -> (u64, u64) {
        let own = seed_of(&[&self.node, "/", name.as_str()]);
        let mixed = own.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (seed_of(&[name.as_str()]), mixed)
    }
}

impl Name {
    fn is_waiting(&self) -> bool {
        self.is_wanted && !self.is_ordered
    }

    /// Another certificate than before: its window is another, and what went wrong is over.
    fn hold(&mut self, validity: Option<Validity>, now: SystemTime) {
        if self.validity == validity {
            return;
        }
        self.validity = validity;
        self.since = Some(now);
        self.window = None;
        self.is_overdue = false;
        self.ask_at = Some(SystemTime::UNIX_EPOCH);
        self.rest = None;
        self.full = None;
        self.is_hurried = false;
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

    /// Until when there is no room for an order as it would be begun now.
    fn lacks_room(&self) -> Option<&Rest> {
        self.full.as_ref()?.against(self.replaces())
    }

    fn due(&self, (seed, own): (u64, u64)) -> SystemTime {
        let by_need = match (self.validity, self.window) {
            (None, _) => SystemTime::UNIX_EPOCH,
            (Some(_), _) if self.is_overdue => SystemTime::UNIX_EPOCH,
            (Some(validity), Some(window)) => {
                let since = self.since.unwrap_or(validity.not_before);
                within(window, validity, since, seed) + spread(validity, own)
            }
            (Some(validity), None) => by_lifetime(validity, seed) + spread(validity, own),
        };
        let rests = self.rest.iter().chain(self.lacks_room());
        rests.fold(by_need, |at, rest| at.max(rest.until))
    }
}
