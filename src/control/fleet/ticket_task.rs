//! The task that keeps this load balancer's session ticket keys those of the fleet, and adds the next ones when they are due.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::tickets::{self, TICKETS};
use crate::certs::TicketKeys;
use crate::control::consul::{Client, ConsulError, Document, KeyState, KeyWatch};
use crate::routing::swap::Publisher;
use crate::seal::{Keyring, Secret};

/// All load balancers find at the same moment that a generation is due; within this time one of them is the first.
const SPREAD: Duration = Duration::from_secs(1);
/// Between two tries to write.
const REST: Duration = Duration::from_secs(5);
/// The longest sleep, so that a wall clock that was set is noticed.
const LOOK_EACH: Duration = Duration::from_secs(600);

/// Follows `<prefix>/keys/tickets`. Ends when nobody can give it a keyring any more.
pub struct TicketTask {
    client: Client,
    key: String,
    /// None: no key file, so that nothing is shared.
    keyrings: watch::Receiver<Option<Arc<Keyring>>>,
    publisher: Publisher<TicketKeys>,
    /// What was last told as wrong.
    told: Option<String>,
    /// No write before this.
    rests_until: Instant,
}

/// Why the keys in KV are not used.
type Unusable = String;

impl TicketTask {
    /// `prefix` is the pod's.
    pub fn new(
        client: Client,
        prefix: &str,
        keyrings: watch::Receiver<Option<Arc<Keyring>>>,
        publisher: Publisher<TicketKeys>,
    ) -> TicketTask {
        TicketTask {
            client,
            key: format!("{prefix}/{TICKETS}"),
            keyrings,
            publisher,
            told: None,
            rests_until: Instant::now(),
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
                    let due = tickets::due(&keys, now);
                    self.publish(keys);
                    due
                }
                Err(why) => {
                    self.say(why);
                    return None;
                }
            },
        };
        let left = due.duration_since(now).unwrap_or_default().min(LOOK_EACH);
        let spread = SPREAD.mul_f64(fastrand::f64());
        Some((Instant::now() + left + spread).max(self.rests_until))
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
            self.publisher.publish(keys);
        }
    }

    async fn add_what_is_due(&mut self, keyring: &Keyring) {
        self.rests_until = Instant::now() + REST;
        match self.try_to_add(keyring).await {
            Ok(()) => {}
            Err(why) => self.say(why),
        }
    }

    /// Reads what is there now, not what the watch last said; what somebody else wrote in between wins.
    async fn try_to_add(&self, keyring: &Keyring) -> Result<(), Unusable> {
        let failed = |error: ConsulError| format!("kv:{}: {error}", self.key);
        let present = self.client.kv_read(&self.key).await.map_err(failed)?;
        let now = SystemTime::now();
        let (keys, version) = match &present {
            None => {
                let secrets = [Secret::random(), Secret::random()];
                (Some(tickets::first(now, secrets)), 0)
            }
            Some(document) => {
                let known = self.read(keyring, document)?;
                let turned = tickets::turned(&known, now, Secret::random());
                (turned, document.modify_index)
            }
        };
        let Some(keys) = keys else {
            return Ok(());
        };
        let sealed = keyring.seal(&self.key, &tickets::write(&keys));
        let is_written = self
            .client
            .kv_write(&self.key, sealed.as_bytes(), Some(version))
            .await
            .map_err(failed)?;
        if is_written {
            tracing::info!("the fleet has another session ticket key");
        }
        Ok(())
    }

    fn read(&self, keyring: &Keyring, document: &Document) -> Result<TicketKeys, Unusable> {
        let plain = keyring
            .open(&self.key, &document.value)
            .map_err(|error| format!("kv:{error}"))?;
        tickets::read(&plain).map_err(|why| format!("kv:{}: {why}", self.key))
    }

    /// Once for each thing that is wrong.
    fn say(&mut self, why: Unusable) {
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

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
