//! The one task that owns the certificate store's publisher: what the file, KV, the store and the CA say comes together here.
//!
//! Each of them has a room of its own (`sync`, `account`, `order`); this is the loop that hears them, asks
//! the model, and publishes.

mod begun;
mod link;
mod memory;
mod names;
mod requests;
mod undertakings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use self::link::Link;
pub use self::memory::Memory;
use self::undertakings::Undertakings;
use super::account::KeyStanding;
use super::give_back::GivingBack;
use super::index::Hash;
use super::model::{Event, Model, Standing, Validity};
use super::own::Imported;
use super::proofs;
use super::records::NodeRecord;
use super::shelf::{Pace, Serve, Shelf};
use super::sweep;
use super::sync::{Extent, Found, Held};
use super::wanted::{KvNames, in_use};
use crate::certs::{CertStore, Certificate};
use crate::config::{Config, DomainName};
use crate::control::store::Store;
use crate::routing::operator::{CertificateOrder, OrderError};
use crate::routing::swap::Publisher;
use crate::seal::Keyring;
use crate::telemetry::Vitals;

/// The longest sleep, so that a wall clock that was set is noticed.
const LOOK_EACH: Duration = Duration::from_secs(600);
/// The load balancers of a pod hear of a name at about the same time, and answer for it once they have published.
const SETTLING: Duration = Duration::from_millis(500);
/// What stands for a file's path where a certificate is ACME's.
pub const SOURCE: &str = "acme";

/// What the task is made of.
pub struct Inputs {
    pub config: Arc<Config>,
    pub keyring: Option<Arc<Keyring>>,
    /// Of the file.
    pub own: CertStore,
    pub kv_names: watch::Receiver<Arc<KvNames>>,
    /// Names that clients wait for.
    pub hurried: mpsc::Receiver<Arc<str>>,
    pub publisher: Publisher<CertStore>,
    pub overview: Publisher<Overview>,
    /// Told once, when all certificates of the store are served.
    pub loaded: watch::Sender<Loaded>,
    pub vitals: Arc<Vitals>,
    /// In Consul; None: below the state directory.
    pub store: Option<Store>,
    pub memory: Memory,
}

/// Whether the certificates that were there at the start are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loaded {
    #[default]
    NotYet,
    /// Those are that were kept here; what the store has is not known yet.
    Remembered,
    /// The account's key cannot be opened, for this reason, nor most of the certificates: it is the key file that is wrong here.
    Unusable(#[serde(with = "crate::control::journal::form::text")] Arc<str>),
    Done,
}

/// How it stands with certificates, for people.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// The names that are to have certificates by ACME.
    pub ordered: BTreeMap<DomainName, Standing>,
    /// Why what the store has of one's own under a name is not served.
    pub refused: BTreeMap<String, String>,
}

/// What a [`crate::control::Handle`] asks for.
#[derive(Debug)]
pub enum Request {
    File(Box<Order>),
    Operator(
        CertificateOrder,
        oneshot::Sender<Result<String, OrderError>>,
    ),
}

/// A file that was read again.
#[derive(Debug)]
pub struct Order {
    pub config: Arc<Config>,
    pub keyring: Option<Arc<Keyring>>,
    pub own: CertStore,
    pub done: oneshot::Sender<()>,
}

/// What others tell this task.
struct Told<T> {
    tell: watch::Sender<T>,
    heard: watch::Receiver<T>,
}

impl<T: Default> Default for Told<T> {
    fn default() -> Self {
        let (tell, heard) = watch::channel(T::default());
        Told { tell, heard }
    }
}

pub struct Task {
    config: Arc<Config>,
    keyring: Option<Arc<Keyring>>,
    kv_names: watch::Receiver<Arc<KvNames>>,
    hurried: mpsc::Receiver<Arc<str>>,
    /// In Consul, or below the state directory once that is in use.
    store: Option<Store>,
    memory: Memory,
    link: Option<Link>,
    wanted: BTreeSet<DomainName>,
    /// When the next certificate begins or ends on which that depends.
    turns_at: Option<SystemTime>,
    /// Of one's own: those whose end was told of.
    told_ended: BTreeSet<String>,
    shelf: Shelf,
    /// What is published is not made of the shelf as it is now.
    is_stale: bool,
    pace: Pace,
    model: Model,
    /// Of these certificates an operator asked for others.
    asked: Vec<(DomainName, Hash)>,
    /// Failures of the account in a row that were the CAs' own.
    of_authorities: u32,
    thumbprint: Told<Option<String>>,
    account_key: Told<KeyStanding>,
    proofs: Told<proofs::Pending>,
    /// One's own, of the store.
    imported: Told<Imported>,
    in_force: watch::Sender<NodeRecord>,
    publisher: Publisher<CertStore>,
    overview: Publisher<Overview>,
    loaded: watch::Sender<Loaded>,
    loading: watch::Receiver<Loaded>,
    /// Of what the store has.
    told: Extent,
    vitals: Arc<Vitals>,
    /// What was begun at the present CA: the account, questions and orders.
    begun: Undertakings,
    giving_back: GivingBack,
    /// When certificates are looked for that nobody wants any more.
    sweeps_at: Instant,
}

impl Task {
    /// Publishes the file's certificates before it returns. Blocking.
    ///
    /// # Errors
    /// A state directory that cannot be made.
    pub fn new(inputs: Inputs) -> Result<Task, String> {
        let mut task = Task {
            model: model_of(&inputs.config),
            config: inputs.config,
            keyring: inputs.keyring,
            kv_names: inputs.kv_names,
            hurried: inputs.hurried,
            store: inputs.store,
            memory: inputs.memory,
            link: None,
            wanted: BTreeSet::new(),
            turns_at: None,
            told_ended: BTreeSet::new(),
            shelf: Shelf::default(),
            is_stale: true,
            asked: Vec::new(),
            pace: Pace::default(),
            of_authorities: 0,
            thumbprint: Told::default(),
            account_key: Told::default(),
            proofs: Told::default(),
            imported: Told::default(),
            in_force: watch::Sender::default(),
            publisher: inputs.publisher,
            overview: inputs.overview,
            loading: inputs.loaded.subscribe(),
            loaded: inputs.loaded,
            told: Extent::Part,
            vitals: inputs.vitals,
            begun: Undertakings::default(),
            giving_back: GivingBack::default(),
            sweeps_at: Instant::now() + sweep::FIRST,
        };
        task.shelf.own = inputs.own;
        task.remember();
        task.link()?;
        task.want();
        task.publish();
        Ok(task)
    }

    /// What others of the pod may count on, told once it is in force here. Nothing where no certificates are ordered.
    pub fn in_force(&self) -> watch::Receiver<NodeRecord> {
        self.in_force.subscribe()
    }

    /// Goes on until nobody can order anything any more.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            self.carry_out();
            let tick = self.model.next_tick().map(instant);
            let next = tick.into_iter().chain(self.pace.next()).min();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::File(order)) => self.reload(*order).await,
                    Some(Request::Operator(order, answer)) => self.serve(order, answer),
                    None => return,
                },
                Some(ended) = self.begun.ended() => self.end(ended),
                found = found(&mut self.link) => self.take(found),
                Ok(()) = self.kv_names.changed() => self.want(),
                Ok(()) = self.loading.changed() => self.want(),
                Ok(()) = self.thumbprint.heard.changed() => {
                    self.shelf.thumbprint = self.thumbprint.heard.borrow_and_update().clone();
                    self.restock();
                }
                Ok(()) = self.account_key.heard.changed() => {
                    let standing = self.account_key.heard.borrow_and_update().clone();
                    self.shelf.is_locked_out = matches!(standing, KeyStanding::Unusable(_));
                    self.restock();
                    self.weigh();
                }
                Ok(()) = self.proofs.heard.changed() => {
                    self.shelf.proofs = self.proofs.heard.borrow_and_update().clone();
                    self.restock();
                }
                Ok(()) = self.imported.heard.changed() => {
                    self.shelf.imported = self.imported.heard.borrow_and_update().clone();
                    self.want();
                    self.weigh();
                }
                Some(name) = self.hurried.recv() => {
                    if let Some(name) = DomainName::parse(&name) {
                        self.apply(Event::Hurried(name));
                    }
                }
                () = until(self.turns_at.map(instant)) => self.want(),
                () = sleep_until(self.sweeps_at) => self.sweep(),
                () = until(next) => self.model.apply(Event::Tick, SystemTime::now()),
            }
            if self.pace.next().is_some_and(|at| at <= Instant::now()) {
                self.publish();
            }
        }
    }

    /// Takes a file: its own certificates, and which names are to have others.
    async fn reload(&mut self, order: Order) {
        let before = in_use(&self.config).cloned();
        self.config = order.config;
        self.keyring = order.keyring;
        self.shelf.own = order.own;
        if let Some(store) = &self.store {
            store.exchange(self.keyring.clone()).await;
        }
        if before.as_ref() != in_use(&self.config) {
            // Another CA knows another account, and the old one's late word is not heard.
            self.model = model_of(&self.config);
            self.begun = Undertakings::default();
            // The state directory is settled at the start; what else can fail was found when the file was checked.
            if let Err(error) = self.link() {
                tracing::error!("acme: {error}");
            }
        }
        self.want();
        self.publish();
        // Who asked may have gone.
        let _ = order.done.send(());
    }

    /// What was asked of the certificate that is held, and of no other.
    fn ask_again(&mut self) {
        let held = |name: &DomainName| self.shelf.held.get(name).map(|held| &held.hash);
        let asked = self.asked.iter();
        let asked = asked.filter(|(name, hash)| held(name) == Some(hash));
        let names: Vec<DomainName> = asked.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.apply(Event::Asked(name));
        }
    }

    /// The shelf is another: so will be the store.
    fn restock(&mut self) {
        self.is_stale = true;
        self.pace.need();
    }

    fn apply(&mut self, event: Event) {
        self.model.apply(event, SystemTime::now());
        self.pace.need();
    }

    /// Takes what the store has.
    fn take(&mut self, found: Found) {
        let came = found.came.iter().map(|(name, _)| name);
        let matters = came.chain(&found.gone).any(|name| self.matters(name));
        for (name, held) in found.came {
            self.hold(name, held);
        }
        for name in found.gone {
            self.shelf.refused.remove(&name);
            self.shelf.held.remove(&name);
            self.apply(Event::Held(name, None));
            self.restock();
        }
        if matters {
            self.want();
        }
        self.shelf.refused.extend(found.refused);
        if !found.lost.is_empty() {
            self.give_back(&found.lost);
        }
        self.pace.need();
        if found.extent == Extent::Whole {
            self.asked = found.asked;
            self.ask_again();
            self.told = Extent::Whole;
            self.weigh();
        }
    }

    /// Whether this load balancer has what there was at the start: one certificate that is broken keeps it from nothing, a key file
    /// that opens neither the account's key nor most certificates does until it is mended.
    fn weigh(&mut self) {
        let before = self.loaded.borrow().clone();
        let is_told = self.told == Extent::Whole && self.shelf.imported.extent == Extent::Whole;
        if !is_told || before == Loaded::Done {
            return;
        }
        let (held, refused) = (self.shelf.held.len(), self.shelf.refused.len());
        let locked_out = self.shelf.imported.locked_out().filter(|_| held == 0);
        let standing = match locked_out {
            Some(why) => KeyStanding::Unusable(why.to_owned()),
            None => self.account_key.heard.borrow().clone(),
        };
        match (standing, before) {
            (KeyStanding::Unusable(why), before) if held <= refused => {
                let now = Loaded::Unusable(why.into());
                if before != now {
                    self.loaded.send_replace(now);
                }
            }
            // The key file was mended; what was refused is looked at again soon.
            (KeyStanding::Fine, Loaded::Unusable(_)) if held < refused => {}
            (KeyStanding::Unknown, _) => {}
            (KeyStanding::Fine | KeyStanding::Unusable(_), _) => {
                tracing::info!(certificates = held, "acme: what the store has is served");
                self.want();
                self.publish();
                self.loaded.send_replace(Loaded::Done);
            }
        }
    }

    /// What has ended takes no place of one that has not: it was put there by whoever restored what was there before.
    fn hold(&mut self, name: DomainName, held: Held) {
        let now = SystemTime::now();
        let validity = validity_of(&held.certificate);
        let before = self.shelf.held.get(&name);
        if validity.not_after <= now
            && before.is_some_and(|before| before.certificate.not_after() > now)
        {
            let why =
                format!("{name}: the store's certificate has ended, and the one served has not");
            tracing::warn!("acme: a certificate of the store is refused: {why}");
            self.shelf.refused.insert(name, why);
            return self.pace.need();
        }
        self.shelf.refused.remove(&name);
        if before.is_none_or(|before| before.hash != held.hash) {
            self.shelf.held.insert(name.clone(), held);
            self.apply(Event::Held(name, Some(validity)));
            self.restock();
        }
    }

    fn publish(&mut self) {
        self.pace.done();
        let resting = self.model.resting();
        if self.shelf.resting != resting {
            self.shelf.resting = resting;
            self.is_stale = true;
        }
        if std::mem::take(&mut self.is_stale) {
            self.publish_store();
        }
        let standings = self.model.standings();
        let overview = standings.map(|(name, mut standing)| {
            let refused = self.shelf.refused.get(name);
            standing.error = standing.error.or_else(|| refused.cloned());
            (name.clone(), standing)
        });
        self.overview.publish(Overview {
            ordered: overview.collect(),
            refused: self.shelf.imported.refused.clone(),
        });
    }

    /// The others of the pod hear of it after it is in force here.
    fn publish_store(&mut self) {
        let store = self.shelf.store(&self.wanted, self.serves());
        self.publisher.publish(store);
        let in_force = self.shelf.in_force(&self.config.node.name);
        if self.link.is_some() {
            self.in_force.send_if_modified(|told| {
                let is_news = *told != in_force;
                *told = in_force;
                is_news
            });
        }
    }
}

impl Task {
    fn serves(&self) -> Serve {
        // Without Consul the file names all.
        match self.config.consul.is_none() || self.kv_names.borrow().is_whole() {
            true => Serve::Wanted,
            false => Serve::All,
        }
    }

    /// Has those taken out of the store that nobody wants here and that ended long ago.
    fn sweep(&mut self) {
        let is_loaded = *self.loaded.borrow() == Loaded::Done && self.serves() == Serve::Wanted;
        self.sweeps_at = Instant::now()
            + if is_loaded {
                sweep::AGAIN
            } else {
                sweep::FIRST
            };
        // A clock that was set far ahead must not cost others their certificates.
        let now = SystemTime::now().min(self.vitals.now());
        let is_over = |(name, held): &(&DomainName, &Held)| {
            !self.wanted.contains(*name) && sweep::is_over(held.certificate.not_after(), now)
        };
        let over = self.shelf.held.iter().filter(is_over);
        let over: Vec<DomainName> = over.map(|(name, _)| name.clone()).collect();
        if is_loaded && !over.is_empty() {
            self.take_out(over);
        }
    }
}

fn model_of(config: &Config) -> Model {
    let settling = match config.consul {
        Some(_) => SETTLING,
        None => Duration::ZERO,
    };
    Model::new(&config.node.name, settling)
}

fn validity_of(certificate: &Certificate) -> Validity {
    Validity {
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    }
}

async fn found(link: &mut Option<Link>) -> Found {
    if let Some(link) = link
        && let Some(found) = link.sync.found().await
    {
        return found;
    }
    std::future::pending().await
}

fn instant(at: SystemTime) -> Instant {
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now() + left.min(LOOK_EACH)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
