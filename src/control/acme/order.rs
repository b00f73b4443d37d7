//! One order, from its lock to the published certificate: read top down, in order of time.
//!
//! Everything that is written is written under the name's lock, by transactions that the store refuses once the lock has passed on,
//! and only over what was read. The order's URL and key are in the store as soon as the CA knows of the order, so that whoever has
//! the lock next finishes it rather than begins another.
//!
//! Long because the steps of an order and what each of them leaves in the store are read together.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::account::Accounts;
use super::authority::Authority;
use super::budgets::{self, Charged, Counts};
use super::contention::Tries;
use super::dns_hook;
use super::failure::{Failure, Fault, Turn};
use super::ground::{Found, Ground};
use super::halt::Halt;
use super::index::Entry;
use super::keys;
use super::live::Live;
use super::model::{Replaces, seed_of};
use super::pending::{Pending, Proof};
use super::preflight;
use super::records::{self, Attempts, CertificateRecord, OrderRecord, ProofRecord, seconds};
use super::request::CertificateRequest;
use super::sync::{self, Held};
use crate::certs::proof;
use crate::config::{Acme, Challenge, Directory, DomainName, Preflight};
use crate::control::store::{Change, Lease, Store, Written};
use crate::seal::Plain;

/// What cannot be read in the store is looked at again after so long.
const RECONSIDER: Duration = Duration::from_secs(60);
/// A CA that takes longer to look at a proof by tls-alpn-01 finds none.
const PROOF_SPAN: Duration = Duration::from_secs(600);

/// What all orders share.
pub(super) struct Tools {
    pub(super) store: Store,
    pub(super) accounts: Accounts,
    pub(super) settings: Arc<Acme>,
    pub(super) live: Arc<Live>,
}

/// What is to be ordered.
pub(super) struct Job {
    pub(super) name: DomainName,
    /// What this load balancer serves now.
    pub(super) held: Option<Held>,
    /// Whether it takes the place of the held one, as its CA wants it.
    pub(super) replaces: Replaces,
    pub(super) asker: Asker,
}

/// Who wants it now, due or not, and is told what happens; or nobody: it is due.
pub(super) struct Asker(pub(super) Option<oneshot::Sender<Result<String, String>>>);

impl Asker {
    /// Asked once: before the first word.
    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// The first word is the only one. Who asked may have gone.
    fn say(&mut self, what: Result<String, String>) {
        if let Some(asker) = self.0.take() {
            let _ = asker.send(what);
        }
    }
}

/// What came of it.
pub(super) enum Outcome {
    Issued(Held),
    /// Somebody else had it issued.
    Taken(Held),
    /// Somebody else is at it.
    Elsewhere,
    Rests(SystemTime, String),
    /// There is no room for it in a budget.
    Full(SystemTime, String),
    Failed(Attempts),
    /// The CA does not know the account any more.
    NoAccount(Attempts),
    Stopped(String),
}

/// Orders a certificate unless somebody else does, or did, or it is too soon.
pub(super) async fn run(tools: &Tools, mut job: Job) -> Outcome {
    let lease = match tools.store.lock(&keys::lock(&job.name)).await {
        Ok(Some(lease)) => lease,
        Ok(None) => {
            let name = &job.name;
            let why = format!("{name}: another load balancer is at it already");
            job.asker.say(Err(why));
            return Outcome::Elsewhere;
        }
        Err(error) => {
            job.asker.say(Err(error.to_string()));
            return Outcome::Stopped(error.to_string());
        }
    };
    let mut work = Work {
        tools,
        urgency: match job.asker.is_there() {
            true => Urgency::Asked,
            false => Urgency::Due,
        },
        job,
        lease: &lease,
    };
    let worked = tokio::select! {
        worked = work.all() => worked,
        () = lease.lost() => Err(Halt::Stopped("the lock was lost".into())),
    };
    let outcome = match worked {
        Ok(held) => Outcome::Issued(held),
        Err(Halt::Taken(held)) => Outcome::Taken(held),
        Err(Halt::Rests(until, why)) => Outcome::Rests(until, why),
        Err(Halt::Full(until, why)) => Outcome::Full(until, why),
        Err(Halt::Failed(failure)) => work.record(&failure).await,
        Err(Halt::Stopped(why)) => Outcome::Stopped(why),
    };
    work.tell_end(&outcome);
    lease.release().await;
    outcome
}

pub(super) fn directory_at(settings: &Acme, turn: Turn) -> &Directory {
    match (turn, &settings.fallback) {
        (Turn::Fallback, Some(fallback)) => fallback,
        (Turn::Fallback, None) | (Turn::Primary, _) => &settings.primary,
    }
}

/// Whether an operator wants it, so that it stays due until it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Asked,
    Due,
}

struct Work<'a> {
    tools: &'a Tools,
    urgency: Urgency,
    job: Job,
    lease: &'a Lease,
}

impl Work<'_> {
    async fn all(&mut self) -> Result<Held, Halt> {
        let mut ground = self.look().await?;
        self.adopt(&mut ground).await?;
        self.stand_back(&ground).await?;
        let directory = self.directory(&ground).clone();
        if self.job.asker.is_there() && ground.order.value.is_none() {
            // Who asks hears now that there is no room.
            let (store, settings) = (&self.tools.store, &self.tools.settings);
            let (url, name) = (&directory.url, &self.job.name);
            budgets::look(store, settings, url, name, Counts::Wholly).await?;
        }
        let begun = format!("{} is being ordered", self.job.name);
        self.job.asker.say(Ok(begun));
        let authority = self.tools.accounts.at(&directory).await?;
        let worked = self.with(&authority, &directory, &ground).await;
        if let Err(Halt::Failed(Failure::Account(_))) = &worked {
            self.tools.accounts.forget(&authority).await?;
        }
        worked
    }

    async fn with(
        &mut self,
        authority: &Authority,
        directory: &Directory,
        ground: &Ground,
    ) -> Result<Held, Halt> {
        let resumed = self.resume(authority, ground).await?;
        let (mut pending, request) = match resumed {
            Some(resumed) => resumed,
            None => self.begin(authority, ground).await?,
        };
        self.prove(authority, &mut pending).await?;
        let url = pending.url().to_owned();
        let chain = pending.finalize(&request.der).await?;
        self.publish(&url, directory, chain, request.key_pem).await
    }

    async fn look(&self) -> Result<Ground, Halt> {
        let rests = |why| Halt::Rests(SystemTime::now() + RECONSIDER, why);
        let ground = Ground::read(&self.tools.store, &self.job.name).await?;
        let mut ground = ground.map_err(rests)?;
        // What failed with other settings holds nobody back who has mended them.
        let mark = records::mark_of(&self.tools.settings);
        ground.attempts = ground.attempts.filter(|one| one.settings == mark);
        Ok(ground)
    }

    /// What lies in the store and the index has lost needs no order, if it serves yet and is another than is held.
    async fn adopt(&self, ground: &mut Ground) -> Result<(), Halt> {
        let (None, Found::Is(value)) = (&ground.entry, &ground.certificate) else {
            return Ok(());
        };
        let (name, value) = (self.job.name.clone(), value.clone());
        let read = tokio::task::spawn_blocking(move || sync::read_certificate(&name, &value)).await;
        let Ok(Ok(found)) = read else {
            return Ok(());
        };
        let is_held = self.job.held.as_ref().map(|held| &held.hash) == Some(&found.hash);
        if is_held || found.certificate.not_after() <= SystemTime::now() {
            return Ok(());
        }
        tracing::warn!(name = %self.job.name, "acme: a certificate that the index had lost is named again");
        self.transact(ground.with_entry(&found)).await?;
        Err(Halt::Taken(found))
    }

    /// Somebody was quicker, or failed so lately that nobody is to try.
    async fn stand_back(&self, ground: &Ground) -> Result<(), Halt> {
        let now = SystemTime::now();
        let held = self.job.held.as_ref().map(|held| &held.hash);
        let entry = ground.entry.as_ref();
        let is_held = entry.is_some_and(|entry| Some(&entry.hash) == held);
        if let Some(entry) = entry.filter(|_| !is_held)
            && let Some(held) = self.another(ground, entry).await
        {
            return Err(Halt::Taken(held));
        }
        let may_serve = !is_held && entry.is_none_or(|entry| entry.not_after > seconds(now));
        let is_due = !self.job.asker.is_there();
        if let Found::Foreign(why) = &ground.certificate
            && may_serve
            && is_due
        {
            // Elsewhere: who has the wrong keys must not write over what others can read.
            return Err(Halt::Rests(now + RECONSIDER, why.clone()));
        }
        let attempts = ground.attempts.as_ref();
        let rest = attempts.and_then(|one| Some((one.rest(now)?, one.error.clone())));
        match rest {
            Some((until, why)) if is_due => Err(Halt::Rests(until, why)),
            Some(_) | None => Ok(()),
        }
    }

    /// None: what lies there is not what the index names, or serves nobody.
    async fn another(&self, ground: &Ground, entry: &Entry) -> Option<Held> {
        let (name, value) = (self.job.name.clone(), ground.certificate.opened().ok()?);
        let value = value.clone();
        let read = tokio::task::spawn_blocking(move || sync::read_certificate(&name, &value));
        let read = read.await.map_err(|panicked| panicked.to_string());
        match read.and_then(|held| held) {
            Ok(held) => {
                let serves = held.certificate.not_after() > SystemTime::now();
                (serves && held.hash == entry.hash).then_some(held)
            }
            Err(why) => {
                let (key, version) = (
                    keys::certificate(&self.job.name),
                    ground.certificate_version,
                );
                self.tools.store.tell_damage(&key, version, &why);
                None
            }
        }
    }

    /// Whose turn it is.
    fn directory(&self, ground: &Ground) -> &Directory {
        let failures = ground.attempts.as_ref();
        let turn = Turn::after(failures.map_or(0, |attempts| attempts.of_authorities));
        directory_at(&self.tools.settings, turn)
    }

    /// None: there is no order at this CA that could be.
    async fn resume(
        &self,
        authority: &Authority,
        ground: &Ground,
    ) -> Result<Option<(Pending, CertificateRequest)>, Halt> {
        let name = &self.job.name;
        let Some(record) = &ground.order.value else {
            return Ok(None);
        };
        if record.directory != authority.directory() {
            return Ok(None);
        }
        let Some(pending) = authority.resume(&record.url).await? else {
            tracing::info!(%name, "acme: the ca has forgotten the order that was begun");
            return Ok(None);
        };
        let key_pem = Plain::new(record.key_pem.clone().into_bytes());
        let request = CertificateRequest::again(name, &key_pem).await?;
        tracing::info!(%name, url = record.url, "acme: an order is resumed");
        Ok(Some((pending, request)))
    }

    async fn begin(
        &self,
        authority: &Authority,
        ground: &Ground,
    ) -> Result<(Pending, CertificateRequest), Halt> {
        let (name, settings) = (&self.job.name, &self.tools.settings);
        let held = self
            .job
            .held
            .as_ref()
            .filter(|_| self.job.replaces == Replaces::Present);
        let replaced = held.filter(|held| &*held.directory == authority.directory());
        let counts = match replaced {
            Some(_) => Counts::ForTheAccount,
            None => Counts::Wholly,
        };
        // Before anything that costs; it is charged once the name was reached.
        let (store, directory) = (&self.tools.store, authority.directory());
        budgets::look(store, settings, directory, name, counts).await?;
        self.preflight(authority).await?;
        let request = CertificateRequest::generate(name, settings.key_type).await?;
        let charged = self.charge(authority.directory(), counts).await?;
        let replaced = replaced.map(|held| &*held.certificate);
        let pending = match authority.begin(name, replaced).await {
            Ok(pending) => pending,
            Err(failure) => {
                if !failure.is_of_an_order() {
                    budgets::refund(&self.tools.store, self.lease, &charged).await?;
                }
                return Err(failure.into());
            }
        };
        let record = OrderRecord {
            directory: authority.directory().to_owned(),
            url: pending.url().to_owned(),
            key_pem: String::from_utf8_lossy(&request.key_pem).into_owned(),
            begun: seconds(SystemTime::now()),
        };
        self.transact(vec![Change::Put {
            key: keys::order(name),
            value: records::write(&record),
            version: ground.order.version,
        }])
        .await?;
        Ok((pending, request))
    }

    /// Asks the name as the CA will.
    async fn preflight(&self, authority: &Authority) -> Result<(), Halt> {
        let (name, settings) = (&self.job.name, &self.tools.settings);
        let reached = match (settings.preflight, settings.challenge_for(name)) {
            (Preflight::Off, _) | (_, Challenge::Dns01) => return Ok(()),
            (_, Challenge::Http01) => {
                // Any of them may answer.
                self.wait_for_thumbprint(authority).await;
                preflight::reach(authority.thumbprint(), name).await
            }
            (_, Challenge::TlsAlpn01) => {
                let mut digest = proof::Digest::default();
                fastrand::fill(&mut digest);
                self.show(digest).await?;
                preflight::reach_by_tls(name.as_str(), digest).await
            }
        };
        match (reached, settings.preflight) {
            (Ok(()), _) => Ok(()),
            (Err(why), Preflight::Require) => Err(Failure::Preflight(why).into()),
            (Err(why), Preflight::Warn | Preflight::Off) => {
                tracing::warn!(%name, "acme: ordered all the same: {why}");
                Ok(())
            }
        }
    }

    async fn charge(&self, directory: &str, counts: Counts) -> Result<Charged, Halt> {
        let (store, settings) = (&self.tools.store, &self.tools.settings);
        budgets::charge(
            store,
            self.lease,
            settings,
            directory,
            &self.job.name,
            counts,
        )
        .await
    }

    async fn prove(&self, authority: &Authority, pending: &mut Pending) -> Result<(), Halt> {
        let settings = &self.tools.settings;
        let wanted = settings.challenge_for(&self.job.name);
        let Some(proof) = pending.proof(wanted).await? else {
            return Ok(());
        };
        match (wanted, &settings.dns_hook) {
            (Challenge::Dns01, Some(hook)) => {
                dns_hook::during(hook, &proof, pending.prove(&proof)).await?;
            }
            (Challenge::Dns01, None) => {
                return Err(Failure::Local("there is no acme.dns_hook".into()).into());
            }
            (Challenge::Http01, _) => {
                self.wait_for_thumbprint(authority).await;
                pending.prove(&proof).await?;
            }
            (Challenge::TlsAlpn01, _) => self.prove_by_tls(authority, pending, &proof).await?,
        }
        Ok(())
    }

    /// The CA looks from several places, each of which may reach another load balancer.
    async fn wait_for_thumbprint(&self, authority: &Authority) {
        let thumbprint = authority.thumbprint();
        let has = |node: &records::NodeRecord| node.thumbprint.as_deref() == Some(thumbprint);
        let lacking = self.tools.live.all_have(has).await;
        if !lacking.is_empty() {
            let (name, nodes) = (&self.job.name, lacking.join(", "));
            tracing::warn!(%name, "acme: ordered although not all can answer for it: {nodes}");
        }
    }

    /// Has a handshake by tls-alpn-01 answered so, in the place of what it was answered with before; gives who does not yet.
    async fn show(&self, digest: proof::Digest) -> Result<Vec<String>, Halt> {
        let ground = self.look().await?;
        let record = ProofRecord {
            digest,
            until: seconds(SystemTime::now() + PROOF_SPAN),
        };
        self.transact(vec![Change::Put {
            key: keys::proof(&self.job.name),
            value: records::write(&record),
            version: ground.proof_version,
        }])
        .await?;
        let digest = crate::seal::hex(&digest);
        let has = |node: &records::NodeRecord| node.proofs.contains(&digest);
        Ok(self.tools.live.all_have(has).await)
    }

    /// By http-01 if not all have it in force in time.
    async fn prove_by_tls(
        &self,
        authority: &Authority,
        pending: &mut Pending,
        proof: &Proof,
    ) -> Result<(), Halt> {
        let lacking = self.show(proof.digest).await?;
        if lacking.is_empty() {
            return Ok(pending.prove(proof).await?);
        }
        let (name, nodes) = (&self.job.name, lacking.join(", "));
        tracing::warn!(%name, "acme: by http-01, since not all can answer tls-alpn-01: {nodes}");
        self.wait_for_thumbprint(authority).await;
        match pending.proof(Challenge::Http01).await? {
            Some(proof) => Ok(pending.prove(&proof).await?),
            None => Ok(()),
        }
    }

    /// Certificate and index in one transaction, in which all that was needed to get there goes.
    async fn publish(
        &self,
        url: &str,
        directory: &Directory,
        chain: String,
        key_pem: Plain,
    ) -> Result<Held, Halt> {
        let record = CertificateRecord {
            chain,
            key: String::from_utf8_lossy(&key_pem).into_owned(),
            directory: directory.url.clone(),
        };
        let (name, value) = (self.job.name.clone(), records::write(&record));
        let read = value.clone();
        let read = tokio::task::spawn_blocking(move || sync::read_certificate(&name, &read)).await;
        let held = read
            .map_err(|panicked| Failure::Local(panicked.to_string()))?
            .map_err(|why| Failure::Local(format!("what the ca issued cannot be served: {why}")))?;
        if held.certificate.not_after() <= SystemTime::now() {
            let why = "what the ca issued cannot be served: it has ended already";
            return Err(Failure::Local(why.into()).into());
        }
        let mut tries = Tries::default();
        loop {
            let mut ground = self.look().await?;
            if ground.order.value.as_ref().map(|order| order.url.as_str()) != Some(url) {
                return Err(Halt::Stopped("somebody else wrote to the order".into()));
            }
            let changes = ground.with_certificate(&held, value.clone());
            match self.tools.store.transact(self.lease, changes).await? {
                Written::Done => return Ok(held),
                // Another name of the same shard was written.
                Written::Conflict => {
                    let again = tries.again(self.lease, "the certificate could not be written");
                    again.await.map_err(Halt::Stopped)?;
                }
            }
        }
    }

    async fn transact(&self, changes: Vec<Change>) -> Result<(), Halt> {
        match self.tools.store.transact(self.lease, changes).await? {
            Written::Done => Ok(()),
            Written::Conflict => Err(Halt::Stopped("somebody else has the lock".into())),
        }
    }

    /// For all load balancers: what went wrong, and until when nobody tries. An order stays if its CA may yet finish it.
    async fn record(&self, failure: &Failure) -> Outcome {
        let seed = seed_of(&[self.job.name.as_str()]);
        let recorded = async {
            self.keep_asking().await?;
            let ground = self.look().await?;
            let before = ground.attempts.as_ref();
            let mark = records::mark_of(&self.tools.settings);
            let attempts = Attempts::after(before, failure, mark, seed, SystemTime::now());
            let changes = match failure.fault() {
                Fault::Authority => ground.with_attempts(&attempts),
                Fault::Name | Fault::Own => ground.with_attempts_and_no_order(&attempts),
            };
            self.transact(changes).await.map(|()| attempts)
        };
        match (recorded.await, failure) {
            (Ok(attempts), Failure::Account(_)) => Outcome::NoAccount(attempts),
            (Ok(attempts), _) => Outcome::Failed(attempts),
            (Err(Halt::Rests(_, why) | Halt::Full(_, why) | Halt::Stopped(why)), _) => {
                Outcome::Stopped(format!("{}; {why}", failure.text()))
            }
            (Err(Halt::Taken(_) | Halt::Failed(_)), _) => Outcome::Stopped(failure.text().into()),
        }
    }

    /// Other names of the same shard are written meanwhile.
    async fn keep_asking(&self) -> Result<(), Halt> {
        if self.urgency == Urgency::Due {
            return Ok(());
        }
        let mut tries = Tries::default();
        loop {
            let Some(change) = self.look().await?.with_question() else {
                return Ok(());
            };
            match self.tools.store.transact(self.lease, vec![change]).await? {
                Written::Done => return Ok(()),
                Written::Conflict => {
                    let again = tries.again(self.lease, "what was asked could not be kept");
                    again.await.map_err(Halt::Stopped)?;
                }
            }
        }
    }

    fn tell_end(&mut self, outcome: &Outcome) {
        let name = &self.job.name;
        let said = match outcome {
            Outcome::Issued(_) | Outcome::Elsewhere => return,
            Outcome::Taken(_) => Ok(format!(
                "{name}: another load balancer has just had one issued"
            )),
            Outcome::Rests(_, why) | Outcome::Full(_, why) => {
                Err(format!("{name}: nothing was begun: {why}"))
            }
            Outcome::Stopped(why) => Err(format!("{name}: {why}")),
            Outcome::Failed(attempts) | Outcome::NoAccount(attempts) => {
                Err(format!("{name}: {}", attempts.error))
            }
        };
        self.job.asker.say(said);
    }
}
