//! The task that keeps this load balancer's session ticket keys those of the fleet, and adds the next ones when they are due.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::tickets::{self, TICKETS};
use crate::certs::TicketKeys;
use crate::control::consul::{Client, ConsulError, Document, KeyState, KeyWatch};
use crate::control::kept::{Content, Keeper};
use crate::control::store::Flaw;
use crate::routing::swap::Publisher;
use crate::seal::{Keyring, Secret};

/// All load balancers find at the same moment that a generation is due; within this time one of them is the first.
const SPREAD: Duration = Duration::from_secs(1);
/// What nobody can read is replaced when it has lain there for so long: somebody may be about to mend it.
const GRACE: Duration = Duration::from_secs(60);
/// Between two tries to write.
const REST: Duration = Duration::from_secs(5);
/// After another generation was added, which is for hours: two load balancers whose clocks are days apart each find the other's keys
/// absurd, and would add their own in turn all the time.
const TURNED_REST: Duration = Duration::from_secs(3600);
/// The longest sleep, so that a wall clock that was set is noticed.
const LOOK_EACH: Duration = Duration::from_secs(600);

/// Follows `<prefix>/keys/tickets`. Ends when nobody can give it a keyring any more.
pub struct TicketTask {
    client: Client,
    key: String,
    /// None: no key file, so that nothing is shared.
    keyrings: watch::Receiver<Option<Arc<Keyring>>>,
    publisher: Publisher<TicketKeys>,
    /// What they are kept by; None: there is no state directory.
    keeper: Option<Keeper>,
    /// What was last told as wrong.
    told: Option<String>,
    /// What lies there and nobody can read.
    damage: Option<Damage>,
    /// No write before this.
    rests_until: Instant,
}

/// By the index of its last change, and since when it is seen here.
#[derive(Clone, Copy)]
struct Damage {
    version: u64,
    since: Instant,
}

/// Why the keys in KV are not used.
struct Unusable {
    why: String,
    flaw: Flaw,
}

impl TicketTask {
    /// `prefix` is the pod's. Publishes what was kept. Blocking.
    pub fn new(
        client: Client,
        prefix: &str,
        keyrings: watch::Receiver<Option<Arc<Keyring>>>,
        publisher: Publisher<TicketKeys>,
        keeper: Option<Keeper>,
    ) -> TicketTask {
        let mut task = TicketTask {
            client,
            key: format!("{prefix}/{TICKETS}"),
            keyrings,
            publisher,
            keeper,
            told: None,
            damage: None,
            rests_until: Instant::now(),
        };
        task.remember();
        task
    }

    /// Each generation says from when it seals and until when it opens: those of a week ago do neither.
    fn remember(&mut self) {
        let Some(keeper) = self
            .keeper
            .clone()
            .filter(|_| self.keyrings.borrow().is_some())
        else {
            return;
        };
        let Some((_, text)) = keeper.recall(TICKETS) else {
            return;
        };
        match tickets::read(&text) {
            Ok(keys) => self.publish(keys),
            Err(why) => keeper.blame(TICKETS, why.to_owned()),
        }
    }

    pub async fn run(mut self) {
        let mut watch = KeyWatch::start(self.client.clone(), self.key.clone());
        loop {
            let keyring = self.keyrings.borrow_and_update().clone();
            let due = match &keyring {
                Some(keyring) => self.look(keyring, watch.state()),
                None => self.part_from_the_fleet(),
            };
            tokio::select! {
                () = watch.changed() => {}
                changed = self.keyrings.changed() => if changed.is_err() { return },
                () = until(due) => if let Some(keyring) = keyring {
                    self.add_what_is_due(&keyring).await;
                },
            }
        }
    }

    /// Takes what KV says; gives when there is something to be written.
    fn look(&mut self, keyring: &Keyring, state: KeyState) -> Option<Instant> {
        let now = SystemTime::now();
        let due = match state {
            // The keys known so far serve on; what fails is told by the watches of the documents.
            KeyState::Unknown | KeyState::Failing(_) => return None,
            KeyState::Missing => now,
            KeyState::Is(document) => match self.read(keyring, &document) {
                Ok(keys) => {
                    self.say_mended();
                    self.damage = None;
                    let due = tickets::due(&keys, now);
                    self.publish(keys);
                    due
                }
                Err(unusable) => {
                    let version = document.modify_index;
                    self.note(unusable.flaw, version);
                    self.say(unusable.why);
                    let damage = self.damage?;
                    return Some((damage.since + GRACE + spread()).max(self.rests_until));
                }
            },
        };
        let left = due.duration_since(now).unwrap_or_default().min(LOOK_EACH);
        Some((Instant::now() + left + spread()).max(self.rests_until))
    }

    /// What others may read is theirs to keep.
    fn note(&mut self, flaw: Flaw, version: u64) {
        let since = match self.damage {
            Some(known) if known.version == version => known.since,
            Some(_) | None => Instant::now(),
        };
        self.damage = match flaw {
            Flaw::Damaged => Some(Damage { version, since }),
            Flaw::Foreign => None,
        };
    }

    fn part_from_the_fleet(&mut self) -> Option<Instant> {
        self.publish(TicketKeys::default());
        None
    }

    fn publish(&mut self, keys: TicketKeys) {
        if *self.publisher.current() != keys {
            tracing::debug!(
                generations = keys.generations().len(),
                "session ticket keys"
            );
            if let Some(keeper) = &self.keeper {
                let content = match keys.generations().is_empty() {
                    true => Content::Nothing,
                    false => Content::Text(tickets::write(&keys).into()),
                };
                keeper.keep(TICKETS, content);
            }
            self.publisher.publish(keys);
        }
    }

    async fn add_what_is_due(&mut self, keyring: &Keyring) {
        self.rests_until = Instant::now() + REST;
        match self.try_to_add(keyring).await {
            Ok(rest) => self.rests_until = Instant::now() + rest,
            Err(why) => self.say(why),
        }
    }

    /// Reads what is there now, not what the watch last said; what somebody else wrote in between wins. Gives how long to rest.
    async fn try_to_add(&self, keyring: &Keyring) -> Result<Duration, String> {
        let failed = |error: ConsulError| format!("kv:{}: {error}", self.key);
        let present = self.client.kv_read(&self.key).await.map_err(failed)?;
        let now = SystemTime::now();
        let mut rest = REST;
        let (keys, version) = match &present {
            None => (Some(first(now)), 0),
            Some(document) => {
                let version = document.modify_index;
                let keys = match self.read(keyring, document) {
                    Ok(known) => {
                        rest = TURNED_REST;
                        tickets::turned(&known, now, Secret::random())
                    }
                    Err(_) if self.has_lain_for_long(version) => Some(self.instead(now)),
                    Err(unusable) => return Err(unusable.why),
                };
                (keys, version)
            }
        };
        let Some(keys) = keys else {
            return Ok(REST);
        };
        let sealed = keyring.seal(&self.key, &tickets::write(&keys));
        let is_written = self
            .client
            .kv_write(&self.key, sealed.as_bytes(), Some(version))
            .await
            .map_err(failed)?;
        if is_written {
            tracing::info!("the fleet has another session ticket key");
            return Ok(rest);
        }
        Ok(REST)
    }

    /// Whether it is the damage that was seen [`GRACE`] ago.
    fn has_lain_for_long(&self, version: u64) -> bool {
        let damage = self.damage.filter(|damage| damage.version == version);
        damage.is_some_and(|damage| damage.since.elapsed() >= GRACE)
    }

    /// In the place of what nobody can read: the keys that are in force here, so that no session is lost over it.
    fn instead(&self, now: SystemTime) -> TicketKeys {
        let known = self.publisher.current();
        match known.generations() {
            [] => first(now),
            _ => {
                let turned = tickets::turned(&known, now, Secret::random());
                turned.unwrap_or_else(|| TicketKeys::clone(&known))
            }
        }
    }

    fn read(&self, keyring: &Keyring, document: &Document) -> Result<TicketKeys, Unusable> {
        let opened = keyring.open(&self.key, &document.value);
        let plain = opened.map_err(|error| Unusable {
            why: format!("kv:{error}"),
            flaw: Flaw::of(&error),
        })?;
        tickets::read(&plain).map_err(|why| Unusable {
            why: format!("kv:{}: {why}", self.key),
            flaw: Flaw::Damaged,
        })
    }

    /// Once for each thing that is wrong.
    fn say(&mut self, why: String) {
        if self.told.as_ref() != Some(&why) {
            tracing::warn!("session ticket keys: {why}: those known so far stay in force");
            self.told = Some(why);
        }
    }

    fn say_mended(&mut self) {
        if self.told.take().is_some() {
            tracing::info!("session ticket keys: mended");
        }
    }
}

fn first(now: SystemTime) -> TicketKeys {
    tickets::first(now, [Secret::random(), Secret::random()])
}

fn spread() -> Duration {
    SPREAD.mul_f64(fastrand::f64())
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
