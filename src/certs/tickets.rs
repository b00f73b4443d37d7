//! Session tickets that every load balancer of a fleet can open: keys by generation, a cipher for each kind of listener.
//!
//! A generation is in use from a moment that was settled when it was made, at least a minute earlier: all of the fleet change over
//! without a word, also while nobody can reach Consul. A load balancer that knows no fleet, or whose keys grew too old, seals
//! with keys of its own. Hot path: read at each handshake, without a lock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::ProducesTickets;

use crate::routing::swap::Reader;
use crate::seal::{Cipher, Secret};

/// How long a generation seals before the next one does.
pub const TURN: Duration = Duration::from_secs(6 * 3600);
/// How long it seals at most, if none follows.
const SEALS: Duration = Duration::from_secs(12 * 3600);
/// How long it opens at most, counted from when it began to seal: no key of a session outlives a day.
const OPENS: Duration = Duration::from_secs(24 * 3600);
/// What a client is told of a ticket's lifetime: one sealed in a generation's last moment is opened for a turn more.
const LIFETIME_SECONDS: u32 = TURN.as_secs() as u32;

/// The length of a generation's name, with which each of its tickets begins.
pub const NAME_BYTES: usize = 8;

/// What a listener asks of its clients before it knows them. A ticket never carries from one kind of listener to another: each kind
/// has a cipher of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPolicy {
    /// No client certificate.
    Anybody,
    /// One of these authorities, by the SHA-256 of their certificates.
    Required([u8; 32]),
    /// The same, or none.
    Requested([u8; 32]),
}

impl ClientPolicy {
    fn purpose(&self) -> [&[u8]; 2] {
        match self {
            ClientPolicy::Anybody => [b"rota: session tickets: no client certificate", b""],
            ClientPolicy::Required(authorities) => [
                b"rota: session tickets: client certificate required: ",
                authorities,
            ],
            ClientPolicy::Requested(authorities) => [
                b"rota: session tickets: client certificate requested: ",
                authorities,
            ],
        }
    }
}

/// One secret of the fleet, from which ciphers are derived.
#[derive(Clone)]
pub struct Generation {
    name: [u8; NAME_BYTES],
    secret: Secret,
    from: SystemTime,
    /// Of listeners that ask for no certificate, so of nearly all.
    anybody: Arc<Cipher>,
}

impl Generation {
    /// `from` is when it begins to seal.
    pub fn new(secret: Secret, from: SystemTime) -> Generation {
        let name = secret.derive(&[b"rota: name of a ticket key"]);
        Generation {
            name: *name.bytes().first_chunk().expect("a name is shorter"),
            anybody: Arc::new(Cipher::new(
                &secret.derive(&ClientPolicy::Anybody.purpose()),
            )),
            secret,
            from,
        }
    }

    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    pub fn from(&self) -> SystemTime {
        self.from
    }

    /// Authorities are the file's, so what is derived from them is made when it is needed: two HMACs and a key schedule.
    fn cipher(&self, policy: &ClientPolicy) -> Arc<Cipher> {
        match policy {
            ClientPolicy::Anybody => self.anybody.clone(),
            ClientPolicy::Required(_) | ClientPolicy::Requested(_) => {
                Arc::new(Cipher::new(&self.secret.derive(&policy.purpose())))
            }
        }
    }

    fn is_within(&self, span: Duration, now: SystemTime) -> bool {
        now.duration_since(self.from).is_ok_and(|age| age < span)
    }

    /// A generation that seals elsewhere already, by a clock that is ahead, opens here too.
    fn opens(&self, now: SystemTime) -> bool {
        now < self.from + OPENS
    }
}

impl PartialEq for Generation {
    fn eq(&self, other: &Generation) -> bool {
        self.secret == other.secret && self.from == other.from
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({:02x?} from {:?})", self.name, self.from)
    }
}

/// The fleet's generations as one load balancer knows them; none: it has no fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TicketKeys(Vec<Generation>);

impl TicketKeys {
    /// In the order in which they begin to seal.
    pub fn new(mut generations: Vec<Generation>) -> TicketKeys {
        generations.sort_by_key(|generation| generation.from);
        TicketKeys(generations)
    }

    pub fn generations(&self) -> &[Generation] {
        &self.0
    }

    /// What seals now: of those whose time has come the youngest, unless it is too old.
    fn sealing(&self, now: SystemTime) -> Option<&Generation> {
        let begun = |generation: &&Generation| generation.from <= now;
        let youngest = self.0.iter().rfind(begun)?;
        youngest.is_within(SEALS, now).then_some(youngest)
    }

    fn opening(&self, name: &[u8; NAME_BYTES], now: SystemTime) -> Option<&Generation> {
        let named = self.0.iter().find(|generation| generation.name == *name)?;
        named.opens(now).then_some(named)
    }
}

/// One listener's tickets: the fleet's keys of the moment, and its own where those do not serve.
pub(super) struct FleetTickets {
    keys: Reader<TicketKeys>,
    policy: ClientPolicy,
    own: Arc<dyn ProducesTickets>,
}

impl FleetTickets {
    pub(super) fn new(
        keys: Reader<TicketKeys>,
        policy: ClientPolicy,
    ) -> Result<FleetTickets, String> {
        let own = rustls::crypto::aws_lc_rs::Ticketer::new()
            .map_err(|error| format!("session ticket keys: {error}"))?;
        Ok(FleetTickets { keys, policy, own })
    }

    fn encrypt_at(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let Some(generation) = keys.sealing(now) else {
            return self.own.encrypt(plain);
        };
        let cipher = generation.cipher(&self.policy);
        let sealed = cipher.seal(&generation.name, plain);
        Some([&generation.name, &sealed[..]].concat())
    }

    fn decrypt_at(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let known = ticket
            .split_first_chunk()
            .and_then(|(name, sealed)| Some((keys.opening(name, now)?, sealed)));
        let Some((generation, sealed)) = known else {
            return self.own.decrypt(ticket);
        };
        let cipher = generation.cipher(&self.policy);
        cipher
            .open(&generation.name, sealed)
            .map(|plain| plain.to_vec())
    }
}

impl fmt::Debug for FleetTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetTickets({:?})", self.policy)
    }
}

impl ProducesTickets for FleetTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(ticket, SystemTime::now())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::swap;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR * 500_000
    }

    fn generation(byte: u8, from: SystemTime) -> Generation {
        Generation::new(Secret::from_bytes([byte; 32]), from)
    }

    /// Generations 1, 2 and 3, a turn apart from `start`.
    fn three() -> TicketKeys {
        let at = |turns: u32| generation(turns as u8 + 1, start() + TURN * turns);
        TicketKeys::new(vec![at(2), at(0), at(1)])
    }

    fn listener(keys: TicketKeys) -> FleetTickets {
        let (_publisher, reader) = swap::channel(keys);
        FleetTickets::new(reader, ClientPolicy::Anybody).unwrap()
    }

    #[test]
    fn a_ticket_of_one_load_balancer_opens_at_another_that_has_its_generation() {
        let (one, other) = (listener(three()), listener(three()));
        let now = start() + HOUR;
        let ticket = one.encrypt_at(b"session", now).unwrap();
        assert_eq!(other.decrypt_at(&ticket, now).unwrap(), b"session");
        let stranger = listener(TicketKeys::new(vec![generation(9, start())]));
        assert!(stranger.decrypt_at(&ticket, now).is_none());
        let mut changed = ticket.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(other.decrypt_at(&changed, now).is_none());
        assert!(other.decrypt_at(&ticket[..7], now).is_none());
    }

    #[test]
    fn a_ticket_is_good_only_where_the_same_is_asked_of_clients() {
        let of = |policy| {
            let (_publisher, reader) = swap::channel(three());
            FleetTickets::new(reader, policy).unwrap()
        };
        let (one, other) = ([1; 32], [2; 32]);
        let policies = [
            ClientPolicy::Anybody,
            ClientPolicy::Required(one),
            ClientPolicy::Requested(one),
            ClientPolicy::Required(other),
        ];
        let now = start() + HOUR;
        for made in policies {
            let ticket = of(made).encrypt_at(b"session", now).unwrap();
            for used in policies {
                let opened = of(used).decrypt_at(&ticket, now).is_some();
                assert_eq!(opened, made == used, "{made:?} at {used:?}");
            }
        }
    }

    #[test]
    fn a_generation_seals_from_its_moment_on_and_opens_before_and_a_turn_after() {
        let keys = three();
        let sealing = |now| keys.sealing(now).map(|one| one.secret().bytes()[0]);
        let instant = Duration::from_millis(1);
        assert_eq!(sealing(start() - instant), None);
        assert_eq!(sealing(start()), Some(1));
        assert_eq!(sealing(start() + TURN - instant), Some(1));
        assert_eq!(sealing(start() + TURN), Some(2));
        assert_eq!(sealing(start() + TURN * 2), Some(3));

        let tickets = listener(three());
        let last_moment = start() + TURN - instant;
        let ticket = tickets.encrypt_at(b"session", last_moment).unwrap();
        assert!(tickets.decrypt_at(&ticket, last_moment + TURN).is_some());
        // Sealed by a load balancer whose clock is ahead.
        let early = tickets.encrypt_at(b"session", start() + TURN * 2).unwrap();
        assert!(tickets.decrypt_at(&early, start() + TURN).is_some());
    }

    #[test]
    fn keys_that_nobody_follows_up_end_within_a_day() {
        let tickets = listener(TicketKeys::new(vec![generation(1, start())]));
        let late = start() + SEALS - HOUR;
        let ticket = tickets.encrypt_at(b"session", late).unwrap();
        assert_eq!(ticket[..8], generation(1, start()).name);
        assert!(tickets.decrypt_at(&ticket, start() + OPENS).is_none());
        let own = tickets.encrypt_at(b"session", start() + SEALS).unwrap();
        assert_ne!(own[..8], ticket[..8]);
        assert_eq!(tickets.decrypt_at(&own, start()).unwrap(), b"session");
    }

    #[test]
    fn without_a_fleet_each_listener_has_keys_of_its_own() {
        let (one, other) = (
            listener(TicketKeys::default()),
            listener(TicketKeys::default()),
        );
        let ticket = one.encrypt_at(b"session", start()).unwrap();
        assert_eq!(one.decrypt_at(&ticket, start()).unwrap(), b"session");
        assert!(other.decrypt_at(&ticket, start()).is_none());
    }

    proptest! {
        #[test]
        fn no_ticket_makes_opening_panic(ticket: Vec<u8>, named: bool) {
            let name = generation(1, start()).name;
            let ticket = if named { [&name, &ticket[..]].concat() } else { ticket };
            prop_assert!(listener(three()).decrypt_at(&ticket, start()).is_none());
        }
    }
}
