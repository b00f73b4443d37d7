//! The one task that does the control plane's I/O and owns the publisher: events in, the model, effects and tables out.
//!
//! Long because whatever comes in and goes out meets in its one loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::acme::{KvNames, Loaded};
use super::assembly::Assembly;
use super::consul::{Blame, Client, Observation, Watcher};
use super::event::{Effect, Event};
use super::fleet::{Knowledge, TableHash};
use super::journal::Journal;
use super::kept::keeping::{Due, Keeping};
use super::mistake::News;
use super::model::{Model, Rehearsal, Terms};
use super::order::{self, Plan};
use super::probe::{Probes, Spec, try_connect};
use super::resolve::Names;
use super::rota::{Line, Rota};
use super::shift::{self, Shift};
use super::staged::Heard;
use crate::config::Config;
use crate::routing::canary::Canary;
use crate::routing::operator::{Order, OrderError, ShiftOrder};
use crate::routing::swap::Publisher;
use crate::routing::{PassiveFault, PassiveReport, ServiceName, Snapshot, Unfit};
use crate::telemetry::Vitals;

/// Findings of probes and of the resolver that wait for their turn; more make probes wait.
const EVENTS: usize = 1024;
/// The most events that are applied before a table is published.
const BURST: usize = 4096;
/// How often what may have got lost on its way from workers is looked for, and old tables are freed.
const LOOK_EACH: Duration = Duration::from_secs(1);
/// The longest the timer sleeps.
const TICK_LATEST: Duration = Duration::from_secs(3600);
/// The pod's id is written again after so long if it could not be, doubling to the longest.
const POD_RETRY: Duration = Duration::from_secs(1);
const POD_RETRY_LONGEST: Duration = Duration::from_secs(60);

/// The way to Consul.
pub struct Link {
    pub client: Client,
    pub watcher: Watcher,
    pub observations: mpsc::Receiver<Observation>,
    /// None: there is no state directory.
    pub keeping: Option<Keeping>,
}

/// What a [`super::Handle`] asks for.
pub enum Request {
    Reload(Arc<Config>, oneshot::Sender<()>),
    Order(Order, oneshot::Sender<Result<String, OrderError>>),
    /// Other shares are checked against the live model; who asked writes them.
    Shift(ShiftOrder, oneshot::Sender<Result<Shift, OrderError>>),
    /// What other documents would do is to be found out, beside the live model.
    Rehearse(oneshot::Sender<Rehearsal>),
}

/// Wall time that never jumps: the wall's at the start, then as much as really passed.
struct Clock {
    wall: SystemTime,
    start: Instant,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            wall: SystemTime::now(),
            start: Instant::now(),
        }
    }
    fn now(&self) -> SystemTime {
        self.wall + self.start.elapsed()
    }
    /// At most [`TICK_LATEST`] from now: no time that someone wrote down is too far for the timer, and a tick too many is harmless.
    fn instant(&self, at: SystemTime) -> Instant {
        let left = at.duration_since(self.now()).unwrap_or_default();
        Instant::now() + left.min(TICK_LATEST)
    }
}

/// Whom the task tells what follows from its decisions.
pub struct Outlets {
    pub table: Publisher<Snapshot>,
    pub kv_names: watch::Sender<Arc<KvNames>>,
    /// Moves on with each answer about documents.
    pub documents: watch::Sender<Heard>,
    /// What others of the pod are told of this one's table.
    pub knowledge: watch::Sender<Knowledge>,
    /// The canary that is under way, once what it changes here is in force.
    pub canaries: watch::Sender<Option<Arc<Canary>>>,
}

pub struct Task {
    clock: Clock,
    model: Model,
    assembly: Assembly,
    outlets: Outlets,
    published: u64,
    table_hash: TableHash,
    /// Consul was heard of, or another table published, since others were told of this one's.
    has_learnt: bool,
    probes: Probes,
    names: Names,
    /// What the log has said of who is on the rota.
    rota: Rota,
    /// None: there is no state directory, or none is wanted.
    journal: Option<Journal>,
    link: Option<Link>,
    keeping: Option<Keeping>,
    vitals: Arc<Vitals>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    /// The revision of each service for which probes were last looked at.
    probed: BTreeMap<ServiceName, u64>,
    /// Those who are told once the next table is out.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Task {
    /// Publishes the first table before it returns.
    pub fn new(
        terms: Terms,
        config: Arc<Config>,
        outlets: Outlets,
        workers: usize,
        mut link: Option<Link>,
        vitals: &Arc<Vitals>,
    ) -> Task {
        let clock = Clock::new();
        let now = clock.now();
        let mut journal = Journal::wanted(&terms, &config, now, vitals);
        let (sender, events) = mpsc::channel(EVENTS);
        let assembly = Assembly::new(&config.node.name, workers);
        let mut model = Model::new(terms, config, now);
        model.apply(Event::Tick, now);
        let mut keeping = link.as_mut().and_then(|link| link.keeping.take());
        if let Some(table) = keeping.as_mut().and_then(|keeping| keeping.recalled.take()) {
            let event = Event::Remembered(Box::new(table));
            if let Some(journal) = &mut journal {
                journal.note(&model, &event, now);
            }
            model.apply(event, now);
        }
        let mut task = Task {
            model,
            assembly,
            outlets,
            published: 0,
            table_hash: TableHash::default(),
            has_learnt: true,
            probes: Probes::new(sender.clone()),
            names: Names::new(sender.clone()),
            rota: Rota::default(),
            journal,
            link,
            keeping,
            vitals: vitals.clone(),
            sender,
            events,
            probed: BTreeMap::new(),
            waiting: Vec::new(),
            clock,
        };
        task.publish();
        task
    }

    /// Goes on until nobody can ask for anything any more.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut passive: mpsc::Receiver<PassiveReport>,
        mut certificates: watch::Receiver<Loaded>,
    ) {
        let mut look = interval(LOOK_EACH);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.model.next_tick().map(|at| self.clock.instant(at));
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.serve(request),
                    None => return,
                },
                Some(report) = passive.recv() => self.report(report),
                Some(observation) = heard(&mut self.link) => self.hear(observation),
                Some(event) = self.events.recv() => self.apply(event),
                Ok(()) = certificates.changed() => {
                    let loaded = certificates.borrow_and_update().clone();
                    self.apply(Event::Certificates(loaded));
                }
                due = due(&mut self.keeping) => match due {
                    Due::Keep => self.keep(),
                    Due::Tell(troubles) => self.apply(Event::Troubles(troubles)),
                },
                () = until(next) => self.apply(Event::Tick),
                _ = look.tick() => {
                    self.look_for_lost_reports();
                    tell_lines(&self.rota.overdue(self.clock.now()));
                }
            }
            self.drain_queues(&mut passive);
            self.carry_out();
            self.publish();
            let held = self.model.documents_held() as i64;
            self.vitals.documents_held.store(held, Relaxed);
            if let Some(keeping) = &mut self.keeping {
                keeping.see(&self.model);
            }
        }
    }

    fn keep(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.keep(&self.model);
        }
    }

    fn apply(&mut self, event: Event) {
        let now = self.clock.now();
        if let Some(journal) = &mut self.journal {
            journal.note(&self.model, &event, now);
        }
        self.model.apply(event, now);
    }

    fn hear(&mut self, observation: Observation) {
        match &observation {
            // Told as a mistake.
            Observation::Failing {
                blame: Blame::Content,
                ..
            } => {}
            Observation::Failing { watch, error, .. } => {
                tracing::warn!(%watch, %error, "consul fails");
            }
            Observation::Recovered { watch } => tracing::info!(%watch, "consul fails no more"),
            Observation::Documents { subtree, documents } => {
                let hear = |heard: &mut Heard| heard.hear(*subtree, documents);
                self.outlets.documents.send_modify(hear);
            }
            Observation::Instances { .. }
            | Observation::Reread { .. }
            | Observation::Tagged { .. }
            | Observation::Strays(_) => {}
        }
        self.has_learnt = true;
        self.apply(Event::Consul(observation));
    }

    /// Applies what is queued already, so that a burst becomes one table.
    fn drain_queues(&mut self, passive: &mut mpsc::Receiver<PassiveReport>) {
        for _ in 0..BURST {
            let observed = self
                .link
                .as_mut()
                .and_then(|link| link.observations.try_recv().ok());
            if let Some(observation) = observed {
                self.hear(observation);
            } else if let Ok(report) = passive.try_recv() {
                self.report(report);
            } else if let Ok(event) = self.events.try_recv() {
                self.apply(event);
            } else {
                return;
            }
        }
    }

    fn report(&mut self, report: PassiveReport) {
        let key = report.upstream.key().clone();
        let is_current = self
            .assembly
            .upstream(&key)
            .is_some_and(|known| Arc::ptr_eq(known, &report.upstream));
        // A report that came after its ejection was ended is old.
        if is_current && report.upstream.has(report.unfit) {
            self.apply(Event::Ejected {
                key,
                unfit: report.unfit,
                fault: report.fault,
                failures: report.failures,
            });
        }
    }

    /// A worker never waits for the control plane: a report may be lost, its bit is not.
    fn look_for_lost_reports(&mut self) {
        self.outlets.table.free_retired();
        let mut lost = Vec::new();
        for upstream in self.assembly.upstreams() {
            for (unfit, fault) in [
                (Unfit::Refused, PassiveFault::Refused),
                (Unfit::Failing, PassiveFault::Broken),
            ] {
                if upstream.has(unfit) && !self.model.knows_ejection(upstream.key(), unfit) {
                    lost.push(Event::Ejected {
                        key: upstream.key().clone(),
                        unfit,
                        fault,
                        failures: upstream.failures(),
                    });
                }
            }
        }
        lost.into_iter().for_each(|event| self.apply(event));
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Reload(config, answer) => {
                self.apply(Event::File(config));
                self.waiting.push(answer);
            }
            Request::Shift(order, answer) => {
                // Who asked may have gone.
                let _ = answer.send(shift::plan(&self.model, order));
            }
            Request::Rehearse(answer) => {
                // Who asked may have gone.
                let _ = answer.send(self.model.rehearsal());
            }
            Request::Order(order, answer) => {
                match order::plan(&self.model, order, self.clock.now()) {
                    Err(error) => {
                        let _ = answer.send(Err(error));
                    }
                    Ok(Plan::Here(event, done)) => {
                        self.apply(event);
                        self.publish();
                        drop(answer.send(Ok(done)));
                    }
                    Ok(Plan::Pod { key, value, done }) => self.write(key, value, done, answer),
                }
            }
        }
    }

    fn write(
        &self,
        key: String,
        value: Option<Vec<u8>>,
        done: String,
        answer: oneshot::Sender<Result<String, OrderError>>,
    ) {
        let Some(link) = &self.link else {
            let error = OrderError::NoConsul("there is no [consul]".into());
            return drop(answer.send(Err(error)));
        };
        let client = link.client.clone();
        tokio::spawn(async move {
            let written = match value {
                Some(value) => client.kv_write(&key, &value, None).await.map(|_| ()),
                None => client.kv_delete(&key).await,
            };
            let result = written
                .map(|()| done)
                .map_err(|error| OrderError::NoConsul(format!("kv:{key}: {error}")));
            // Who asked may have gone; what was written stands.
            drop(answer.send(result));
        });
    }

    fn carry_out(&mut self) {
        for effect in self.model.take_effects() {
            match effect {
                Effect::GiveBack { key, unfit } => {
                    if let Some(upstream) = self.assembly.upstream(&key) {
                        upstream.forgive();
                        upstream.clear(unfit);
                    }
                }
                Effect::TryConnect { key } => {
                    tokio::spawn(try_connect(key, self.sender.clone()));
                }
                Effect::Reread { watch } => {
                    if let Some(link) = &self.link {
                        link.watcher.reread(&watch);
                    }
                }
                Effect::WritePodId => self.write_pod_id(),
            }
        }
    }

    fn write_pod_id(&self) {
        let (Some(link), Some(prefix)) = (&self.link, self.model.prefix()) else {
            return;
        };
        let id = format!("{:032x}", fastrand::u128(..));
        tokio::spawn(write_once(link.client.clone(), format!("{prefix}/pod"), id));
    }

    /// Publishes a table if it would differ from the last one.
    fn publish(&mut self) {
        if self.model.revision() != self.published {
            self.published = self.model.revision();
            let now = self.clock.now();
            let (snapshot, news) = self.assembly.build(&self.model, now);
            let generation = snapshot.generation;
            self.outlets.table.publish(snapshot);
            self.assembly.mark_gone();
            tracing::debug!(generation, "a new table");
            if let Some(journal) = &mut self.journal {
                journal.published(&self.model, generation, now);
            }
            tell(&news);
            tell_lines(&self.rota.compare(self.model.services(), self.clock.now()));
            self.follow_wants();
            self.has_learnt = true;
            // Nobody is woken for that alone.
            self.outlets.knowledge.send_if_modified(|known| {
                known.published = Instant::now();
                false
            });
        }
        self.tell_names();
        self.tell_knowledge();
        self.tell_canary();
        for waiting in self.waiting.drain(..) {
            // Who asked may have gone.
            let _ = waiting.send(());
        }
    }

    /// Who orders certificates hears of names after their routes are in force, and only of news.
    fn tell_names(&self) {
        let names = self.model.kv_names();
        self.outlets.kv_names.send_if_modified(|told| {
            let is_news = !Arc::ptr_eq(told, names);
            if is_news {
                *told = names.clone();
            }
            is_news
        });
    }

    fn tell_knowledge(&mut self) {
        // Without Consul there is no pod.
        if self.link.is_none() || !std::mem::take(&mut self.has_learnt) {
            return;
        }
        let canary = self.model.canary().filter(|_| self.model.is_trying());
        let trying = canary.map(|canary| canary.id.clone());
        let table = self.table_hash.of(&self.model);
        self.outlets.knowledge.send_if_modified(|known| {
            let now = Knowledge {
                table,
                trying,
                index: self.model.documents().index(),
                documents: self.model.documents().content(),
                failing: self.model.failing().cloned().collect(),
                published: known.published,
            };
            let is_news = *known != now;
            *known = now;
            is_news
        });
    }

    fn tell_canary(&self) {
        let canary = self.model.canary();
        let is_news = self.outlets.canaries.send_if_modified(|told| {
            let id = |canary: Option<&Arc<Canary>>| canary.map(|canary| canary.id.clone());
            let is_news = id(told.as_ref()) != id(canary);
            if is_news {
                *told = canary.cloned();
            }
            is_news
        });
        match canary.filter(|_| is_news) {
            None if is_news => tracing::info!("the canary is over"),
            None => {}
            Some(canary) => {
                let is_here = canary.is_on(&self.model.file().node.name);
                let (nodes, by, note) = (canary.nodes.join(","), &canary.by, &canary.note);
                tracing::info!(nodes, by, note, is_here, "a canary is under way");
            }
        }
    }

    /// Watches, names and probes are those that the table asks for.
    fn follow_wants(&mut self) {
        if let Some(link) = &self.link {
            link.watcher.want(self.model.watches());
        }
        self.names.want(self.model.names());
        self.model.forget_unwanted();
        for name in self.probes.services() {
            if !self.model.services().contains_key(&name) {
                self.probes.want(&name, Vec::new());
            }
        }
        let (services, before) = (self.model.services(), &self.probed);
        let changed: Vec<ServiceName> = services
            .iter()
            .filter(|(name, state)| before.get(*name) != Some(&state.revision()))
            .map(|(name, _)| name.clone())
            .collect();
        for name in changed {
            let specs = self.specs(&name);
            self.probes.want(&name, specs);
        }
        self.probed = services
            .iter()
            .map(|(name, state)| (name.clone(), state.revision()))
            .collect();
    }

    fn specs(&self, name: &ServiceName) -> Vec<Spec> {
        let (Some(state), Some(service)) =
            (self.model.services().get(name), self.assembly.service(name))
        else {
            return Vec::new();
        };
        let spec = |member: &crate::routing::Member| {
            let key = member.upstream.key().clone();
            let check = state.check_for(state.members().get(&key.address)?)?;
            Some(Spec {
                key,
                check,
                host_name: member.host_name.clone(),
                protocol: service.protocol.clone(),
            })
        };
        service.members.iter().filter_map(spec).collect()
    }
}

async fn heard(link: &mut Option<Link>) -> Option<Observation> {
    match link {
        Some(link) => link.observations.recv().await,
        None => std::future::pending().await,
    }
}

async fn due(keeping: &mut Option<Keeping>) -> Due {
    match keeping {
        Some(keeping) => keeping.next().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Each mistake is logged once when it is made and once when it is mended.
fn tell(news: &News) {
    for mistake in &news.made {
        tracing::warn!(
            entry = %mistake.entry,
            in_force = mistake.in_force,
            // Several mistakes of one document are a line each: one line of the log.
            "{}", mistake.message.trim_end().replace('\n', "; ")
        );
    }
    for mistake in &news.mended {
        tracing::info!(entry = %mistake, "mended");
    }
}

fn tell_lines(lines: &[Line]) {
    lines.iter().for_each(Line::tell);
}

/// Writes a key if there is none, again and again until Consul has said whether it did.
async fn write_once(client: Client, key: String, value: String) {
    let mut pause = POD_RETRY;
    loop {
        match client.kv_write(&key, value.as_bytes(), Some(0)).await {
            Ok(_) => return,
            Err(error) if pause == POD_RETRY => {
                tracing::warn!(%key, %error, "the pod's id could not be written");
            }
            Err(_) => {}
        }
        sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        pause = (pause * 2).min(POD_RETRY_LONGEST);
    }
}
