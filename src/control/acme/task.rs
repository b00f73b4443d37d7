//! The one task that owns the certificate store's publisher: own certificates from the file, ordered ones from the CA.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::authority::{Authority, Credentials, Kept as KeptAccount};
use super::dns_hook;
use super::jose::AccountKey;
use super::keep::Keep;
use super::model::{Effect, Event, Failure, Model, Replaces, Standing, Validity, Window};
use super::pending::{Pending, Proof};
use super::request::CertificateRequest;
use super::transport;
use super::wanted::{KvNames, in_use, wanted};
use crate::certs::challenge::{self, Challenges};
use crate::certs::{CertStore, Certificate};
use crate::config::{Acme, Challenge, Config, DomainName, Preflight};
use crate::dial::tls;
use crate::routing::Scheme;
use crate::routing::swap::Publisher;
use crate::seal::{Keyring, Plain};
use crate::telemetry::Vitals;

/// The longest sleep, so that a wall clock that was set is noticed.
const LOOK_EACH: Duration = Duration::from_secs(600);
/// Why there is none for a name, where nobody orders.
const NOT_ORDERED: &str = "with [consul] certificates are not ordered in this version";
/// What stands for a file's path where a certificate is ACME's.
pub const SOURCE: &str = "acme";

/// What the task is made of.
pub struct Inputs {
    pub config: Arc<Config>,
    pub keyring: Option<Arc<Keyring>>,
    /// Of the file.
    pub own: CertStore,
    pub kv_names: watch::Receiver<Arc<KvNames>>,
    pub publisher: Publisher<CertStore>,
    pub overview: Publisher<Overview>,
    pub vitals: Arc<Vitals>,
}

/// The names that are to have certificates by ACME, for people.
#[derive(Clone, Debug, Default)]
pub struct Overview(pub BTreeMap<DomainName, Standing>);

/// A file that was read again.
#[derive(Debug)]
pub struct Order {
    pub config: Arc<Config>,
    pub keyring: Option<Arc<Keyring>>,
    pub own: CertStore,
    pub done: oneshot::Sender<()>,
}

/// What came of something that was begun.
enum Ended {
    Opened(Result<Arc<Authority>, Failure>),
    Told(DomainName, Validity, Option<Window>),
    Ordered(DomainName, Result<Arc<Certificate>, Failure>),
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    chain: String,
    key: String,
}

pub struct Task {
    config: Arc<Config>,
    kv_names: watch::Receiver<Arc<KvNames>>,
    /// Names that nobody orders for.
    idle: BTreeSet<DomainName>,
    settings: Option<Acme>,
    keep: Option<Keep>,
    listeners: Vec<Arc<str>>,
    own: CertStore,
    ordered: BTreeMap<DomainName, Arc<Certificate>>,
    model: Model,
    authority: Option<Arc<Authority>>,
    publisher: Publisher<CertStore>,
    overview: Publisher<Overview>,
    vitals: Arc<Vitals>,
    /// What was begun at the present CA: the account, questions and orders, as few as the model begins at once.
    begun: JoinSet<Ended>,
}

impl Task {
    /// Reads what was kept, and publishes it before it returns. Blocking.
    ///
    /// # Errors
    /// A state directory that cannot be made.
    pub fn new(inputs: Inputs) -> Result<Task, String> {
        let mut task = Task {
            config: inputs.config.clone(),
            kv_names: inputs.kv_names,
            idle: BTreeSet::new(),
            settings: None,
            keep: None,
            listeners: Vec::new(),
            own: CertStore::default(),
            ordered: BTreeMap::new(),
            model: Model::new(),
            authority: None,
            publisher: inputs.publisher,
            overview: inputs.overview,
            vitals: inputs.vitals,
            begun: JoinSet::new(),
        };
        task.follow(inputs.config, inputs.keyring, inputs.own)?;
        Ok(task)
    }

    /// Goes on until nobody can order anything any more.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            self.carry_out();
            let next = self.model.next_tick().map(instant);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.reload(order),
                    None => return,
                },
                Some(Ok(ended)) = self.begun.join_next() => self.end(ended),
                Ok(()) = self.kv_names.changed() => self.want(),
                () = until(next) => self.model.apply(Event::Tick, SystemTime::now()),
            }
        }
    }

    fn reload(&mut self, order: Order) {
        // The state directory is settled at the start; what else can fail was found when the file was checked.
        if let Err(error) = self.follow(order.config, order.keyring, order.own) {
            tracing::error!("acme: {error}");
        }
        // Who asked may have gone.
        let _ = order.done.send(());
    }

    /// Takes a file: its own certificates, and which names are to have others.
    fn follow(
        &mut self,
        config: Arc<Config>,
        keyring: Option<Arc<Keyring>>,
        own: CertStore,
    ) -> Result<(), String> {
        let settings = in_use(&config);
        if self.settings.as_ref() != settings {
            // Another CA knows another account, and the old one's late word is not heard.
            self.model = Model::new();
            self.authority = None;
            self.begun = JoinSet::new();
        }
        self.keep = match (settings, &config.node.state_dir) {
            (Some(_), Some(state_dir)) => match self.keep.take() {
                // Which state directory is settled at the start.
                Some(keep) => {
                    keep.exchange(keyring);
                    Some(keep)
                }
                None => Some(Keep::open(state_dir, keyring)?),
            },
            (Some(_), None) | (None, _) => None,
        };
        self.settings = settings.cloned();
        self.own = own;
        self.listeners = config
            .listeners
            .iter()
            .filter(|listener| listener.policy.scheme == Scheme::Https)
            .map(|listener| listener.policy.name.clone())
            .collect();
        self.config = config;
        self.want();
        Ok(())
    }

    /// Takes what the file and KV name as of now.
    fn want(&mut self) {
        let named = match self.config.acme {
            Some(_) => wanted(&self.config, &self.kv_names.borrow(), &self.own),
            None => BTreeSet::new(),
        };
        let (wanted, idle) = match in_use(&self.config) {
            Some(_) => (named, BTreeSet::new()),
            None => (BTreeSet::new(), named),
        };
        self.idle = idle;
        self.ordered.retain(|name, _| wanted.contains(name));
        let is_fresh = |name: &&DomainName| !self.ordered.contains_key(*name);
        let fresh: Vec<DomainName> = wanted.iter().filter(is_fresh).cloned().collect();
        let kept = self.read_kept(&fresh);
        self.ordered.extend(kept);
        let held = |name: DomainName| {
            let validity = self.ordered.get(&name).map(|one| validity_of(one));
            (name, validity)
        };
        let wanted = Event::Wanted(wanted.into_iter().map(held).collect());
        self.model.apply(wanted, SystemTime::now());
        self.publish();
    }

    /// What is broken is named, and ordered anew.
    fn read_kept(&self, names: &[DomainName]) -> Vec<(DomainName, Arc<Certificate>)> {
        let Some(keep) = &self.keep else {
            return Vec::new();
        };
        let read = |name: &DomainName| match read_certificate(keep, name) {
            Ok(found) => Some((name.clone(), found?)),
            Err(error) => {
                tracing::warn!("acme: a certificate that was kept cannot be used: {error}");
                None
            }
        };
        names.iter().filter_map(read).collect()
    }

    fn end(&mut self, ended: Ended) {
        let now = SystemTime::now();
        match ended {
            Ended::Opened(Ok(authority)) => {
                tracing::info!("acme: the account is open");
                self.authority = Some(authority);
                // The proof is live on all workers before the first order begins.
                self.publish();
                self.model.apply(Event::Opened(Ok(())), now);
            }
            Ended::Opened(Err(failure)) => {
                tracing::warn!("acme: the account could not be opened: {}", failure.text());
                self.model.apply(Event::Opened(Err(failure)), now);
            }
            Ended::Told(name, of, window) => self.model.apply(Event::Told(name, of, window), now),
            Ended::Ordered(name, Ok(certificate)) => {
                self.vitals.acme_issued.fetch_add(1, Relaxed);
                let validity = validity_of(&certificate);
                tracing::info!(%name, issuer = certificate.issuer(), "acme: a certificate was issued");
                if self.model.wants(&name) {
                    self.ordered.insert(name.clone(), certificate);
                }
                self.model.apply(Event::Ended(name, Ok(validity)), now);
            }
            Ended::Ordered(name, Err(failure)) => {
                if matches!(failure, Failure::Account(_)) && self.authority.take().is_some() {
                    self.forget_account();
                }
                self.vitals.acme_failed.fetch_add(1, Relaxed);
                tracing::warn!(%name, "acme: no certificate was issued: {}", failure.text());
                self.model.apply(Event::Ended(name, Err(failure)), now);
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let thumbprint = self.authority.as_ref().map(|one| one.thumbprint());
        let names = self.model.standings().map(|(name, _)| name.as_str().into());
        let wait = self
            .settings
            .as_ref()
            .map_or(Duration::ZERO, |one| one.wait);
        let challenges = Challenges::new(thumbprint, names, [], wait);
        let store = self.own.joined(
            &self.listeners,
            self.ordered.values(),
            challenges,
            SystemTime::now(),
        );
        self.publisher.publish(store);
        let standings = self.model.standings();
        let standings = standings.map(|(name, standing)| (name.clone(), standing));
        let idle = self.idle.iter().map(|name| {
            let error = Some(NOT_ORDERED.to_owned());
            let standing = Standing {
                error,
                ..Standing::default()
            };
            (name.clone(), standing)
        });
        self.overview
            .publish(Overview(standings.chain(idle).collect()));
    }

    /// The CA lost it, or somebody closed it: another one is made.
    fn forget_account(&self) {
        let (Some(settings), Some(keep)) = (&self.settings, &self.keep) else {
            return;
        };
        if let Err(error) = keep.remove(&account_key(&settings.primary.url)) {
            tracing::error!("acme: {error}");
        }
    }

    fn carry_out(&mut self) {
        for effect in self.model.take_effects() {
            match effect {
                Effect::Open => self.open(),
                Effect::Ask(name, validity) => self.ask(name, validity),
                Effect::Order(name, replaces) => self.order(name, replaces),
            }
        }
    }

    fn open(&mut self) {
        let (Some(settings), Some(keep)) = (self.settings.clone(), self.keep.clone()) else {
            return;
        };
        self.begun.spawn(async move {
            Ended::Opened(open_account(&settings, &keep).await.map(Arc::new))
        });
    }

    fn ask(&mut self, name: DomainName, validity: Validity) {
        let (authority, present) = (self.authority.clone(), self.ordered.get(&name).cloned());
        self.begun.spawn(async move {
            let window = match (authority, present) {
                (Some(authority), Some(present)) => authority.window(&present).await,
                (None, _) | (_, None) => {
                    Err(Failure::Local("there is nothing to ask about".into()))
                }
            };
            if let Err(failure) = &window {
                tracing::debug!(%name, "acme: no renewal window: {}", failure.text());
            }
            Ended::Told(name, validity, window.ok())
        });
    }

    fn order(&mut self, name: DomainName, replaces: Replaces) {
        let (Some(settings), Some(keep)) = (self.settings.clone(), self.keep.clone()) else {
            return;
        };
        let authority = self.authority.clone();
        let replaced = match replaces {
            Replaces::Present => self.ordered.get(&name).cloned(),
            Replaces::Nothing => None,
        };
        self.begun.spawn(async move {
            let ordered = match authority {
                Some(authority) => {
                    order(&authority, &settings, &keep, &name, replaced.as_deref()).await
                }
                None => Err(Failure::Local("the account is closed".into())),
            };
            Ended::Ordered(name, ordered)
        });
    }
}

fn validity_of(certificate: &Certificate) -> Validity {
    Validity {
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    }
}

fn certificate_key(name: &DomainName) -> String {
    format!("acme/certs/{}", name.key_part())
}

/// The directory's URL in characters that a file's name can have: accounts of several CAs stand side by side.
fn account_key(directory: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let name: String = directory
        .trim_start_matches("https://")
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(200)
        .collect();
    format!("acme/account/{name}")
}

fn read_certificate(keep: &Keep, name: &DomainName) -> Result<Option<Arc<Certificate>>, String> {
    let key = certificate_key(name);
    let Some(text) = keep.read(&key)? else {
        return Ok(None);
    };
    let kept: Kept =
        serde_json::from_slice(&text).map_err(|_| format!("{key}: not what rota writes"))?;
    let certificate = usable(name, kept.chain.as_bytes(), kept.key.as_bytes())?;
    Ok(Some(Arc::new(certificate)))
}

/// A certificate that belongs to its key and to its name.
fn usable(name: &DomainName, chain: &[u8], key: &[u8]) -> Result<Certificate, String> {
    let source = Path::new(SOURCE);
    let certificate = Certificate::from_pem(chain, key, source, source)
        .map_err(|mistake| format!("{name}: {mistake}"))?;
    match certificate.covers(name.as_str()) {
        true => Ok(certificate),
        false => Err(format!("{name}: the certificate is for other names")),
    }
}

async fn open_account(settings: &Acme, keep: &Keep) -> Result<Authority, Failure> {
    let directory = &settings.primary;
    let key = account_key(&directory.url);
    let (reading, reading_key) = (keep.clone(), key.clone());
    let ca = directory.ca_file.clone();
    let prepared = blocking(move || {
        let client = tls::client_config(ca.as_deref(), None, &[b"http/1.1"])
            .map_err(|error| format!("acme.ca_file: {error}"))?;
        Ok((client, reading.read(&reading_key)?))
    });
    let (client, kept) = prepared.await?;
    let credentials = match &kept {
        Some(kept) => KeptAccount::from_text(kept)
            .map(Credentials::Kept)
            .ok_or_else(|| Failure::Local("the account that was kept is none".into()))?,
        None => Credentials::New(AccountKey::generate()),
    };
    let authority = Authority::open(settings, directory, client, credentials).await?;
    if kept.is_none() {
        let (keep, made) = (keep.clone(), authority.kept().to_text());
        blocking(move || keep.write(&key, &made)).await?;
    }
    Ok(authority)
}

async fn order(
    authority: &Authority,
    settings: &Acme,
    keep: &Keep,
    name: &DomainName,
    replaced: Option<&Certificate>,
) -> Result<Arc<Certificate>, Failure> {
    let preflight = match settings.challenge_for(name) {
        Challenge::Http01 | Challenge::TlsAlpn01 => settings.preflight,
        Challenge::Dns01 => Preflight::Off,
    };
    match (preflight, check_reach(authority, name, preflight).await) {
        (Preflight::Off, _) | (_, Ok(())) => {}
        (Preflight::Warn, Err(why)) => tracing::warn!(%name, "acme: ordered all the same: {why}"),
        (Preflight::Require, Err(why)) => return Err(Failure::Preflight(why)),
    }
    let mut pending = authority.begin(name, replaced).await?;
    let challenge = match settings.challenge_for(name) {
        // Nobody answers tls-alpn-01 yet, and http-01 is always live.
        Challenge::Http01 | Challenge::TlsAlpn01 => Challenge::Http01,
        Challenge::Dns01 => Challenge::Dns01,
    };
    if let Some(proof) = pending.proof(challenge).await? {
        prove(&mut pending, &proof, settings).await?;
    }
    let request = CertificateRequest::generate(name, settings.key_type).await?;
    let chain = pending.finalize(&request.der).await?;
    let (keep, name) = (keep.clone(), name.clone());
    blocking(move || keep_issued(&keep, &name, chain, &request.key_pem)).await
}

async fn prove(pending: &mut Pending, proof: &Proof, settings: &Acme) -> Result<(), Failure> {
    match (proof.challenge, &settings.dns_hook) {
        (Challenge::Dns01, Some(hook)) => dns_hook::during(hook, proof, pending.prove(proof)).await,
        (Challenge::Dns01, None) => Err(Failure::Local("there is no acme.dns_hook".into())),
        (Challenge::Http01 | Challenge::TlsAlpn01, _) => pending.prove(proof).await,
    }
}

/// Asks the name itself for a proof: whoever does not reach this load balancer by it would fail the CA too, at the account's cost.
async fn check_reach(
    authority: &Authority,
    name: &DomainName,
    preflight: Preflight,
) -> Result<(), String> {
    if preflight == Preflight::Off {
        return Ok(());
    }
    let token = format!("preflight-{:032x}", fastrand::u128(..));
    let expected = format!("{token}.{}", authority.thumbprint());
    let path = format!("{}{token}", challenge::PATH);
    let found = transport::fetch(name.as_str(), &path)
        .await
        .map_err(|why| format!("preflight: http://{name}: {why}"))?;
    match found.trim_ascii() == expected.as_bytes() {
        true => Ok(()),
        false => Err(format!(
            "preflight: http://{name} is answered by somebody else"
        )),
    }
}

fn keep_issued(
    keep: &Keep,
    name: &DomainName,
    chain: String,
    key_pem: &Plain,
) -> Result<Arc<Certificate>, String> {
    let certificate = usable(name, chain.as_bytes(), key_pem)?;
    let kept = Kept {
        chain,
        key: String::from_utf8_lossy(key_pem).into_owned(),
    };
    let text = Plain::new(serde_json::to_vec(&kept).expect("texts are json"));
    keep.write(&certificate_key(name), &text)?;
    Ok(Arc::new(certificate))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::Local(error.to_string()))?
        .map_err(Failure::Local)
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
