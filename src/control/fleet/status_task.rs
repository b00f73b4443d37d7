//! The task that reports how this load balancer is, and makes a view of its pod of what all report.
//!
//! What stands in `nodes/<lb>` has two authors, certificates' task and this one; here alone it is put together and written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::counts;
use super::status::{Counts, Fingerprint, NodeReport, NodeStatus, WATCHES_TOLD, Window};
use super::view::{Finding, Fleet, Observer, Presence};
use crate::certs::CertStore;
use crate::control::acme::NodeRecord;
use crate::control::store::{Raw, Seen, Store, Watch};
use crate::drain::{Gate, Phase};
use crate::routing::swap::{Publisher, Reader};
use crate::routing::{ServiceName, Snapshot};
use crate::telemetry::Vitals;
use crate::telemetry::fleet::FleetFault;
use crate::telemetry::metrics::discovery_age_seconds;

/// All reports, by node.
const NODES: &str = "nodes/";
/// Between two reports, however much changes; what is urgent does not wait.
const REPORT_EACH: Duration = Duration::from_secs(10);
/// Between two reports while nothing changes: so others know that this one lives and follows.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often the view is made anew.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// What the control plane's task knows, told with each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knowledge {
    pub table: Fingerprint,
    /// The canary that is tried here.
    pub trying: Option<String>,
    /// The highest ModifyIndex among documents.
    pub index: u64,
    /// Of what documents say.
    pub documents: Fingerprint,
    /// Watches that fail.
    pub failing: Vec<String>,
    /// When the table in force was published.
    pub published: Instant,
}

impl Default for Knowledge {
    fn default() -> Self {
        Knowledge {
            table: Fingerprint::default(),
            trying: None,
            index: 0,
            documents: Fingerprint::default(),
            failing: Vec::new(),
            published: Instant::now(),
        }
    }
}

/// What the task is made of.
pub struct Inputs {
    pub node: String,
    pub store: Store,
    pub knowledge: watch::Receiver<Knowledge>,
    /// The part about certificates.
    pub in_force: watch::Receiver<NodeRecord>,
    /// The newest revision of the documents; 0: none is known.
    pub revision: watch::Receiver<u64>,
    pub table: Reader<Snapshot>,
    pub certificates: Reader<CertStore>,
    pub gate: Gate,
    pub vitals: Arc<Vitals>,
    pub publisher: Publisher<Fleet>,
    /// Asked once, at the process's end, and told when the pod knows.
    pub leaving: mpsc::Receiver<oneshot::Sender<()>>,
}

pub struct StatusTask {
    inputs: Inputs,
    observer: Observer,
    nodes: Watch,
    process: String,
    /// The last report, and when it was made.
    reported: Option<(NodeStatus, Instant)>,
    numbered: u64,
    window: Window,
    in_flight: u64,
    /// What the next window is counted from.
    counted: (BTreeMap<ServiceName, Counts>, Instant),
    /// The store that was last looked at, and what stands for its certificates.
    served: Option<(Arc<CertStore>, Fingerprint)>,
    told: BTreeSet<(FleetFault, String)>,
}

impl StatusTask {
    /// Begins to watch, on the current tokio runtime.
    pub fn new(inputs: Inputs) -> StatusTask {
        let process = format!("{:016x}", fastrand::u64(..));
        let now = Instant::now();
        let version = env!("CARGO_PKG_VERSION");
        StatusTask {
            observer: Observer::new(&inputs.node, version, &process, now.into_std()),
            nodes: inputs.store.watch(NODES),
            inputs,
            process,
            reported: None,
            numbered: 0,
            window: Window::default(),
            in_flight: 0,
            counted: (BTreeMap::new(), now),
            served: None,
            told: BTreeSet::new(),
        }
    }

    /// Goes on until the control plane's task has ended.
    pub async fn run(mut self) {
        let mut look = interval(LOOK_EACH);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gate = self.inputs.gate.clone();
        let mut is_draining = false;
        loop {
            let mut is_urgent = false;
            tokio::select! {
                changed = self.inputs.knowledge.changed() => if changed.is_err() { return },
                Ok(()) = self.inputs.in_force.changed() => is_urgent = true,
                () = self.nodes.changed() => self.hear(),
                () = gate.reached(Phase::Announced), if !is_draining => is_draining = true,
                Some(done) = self.inputs.leaving.recv() => return self.leave(done).await,
                _ = look.tick() => {}
            }
            self.know();
            self.report(is_urgent).await;
            self.look();
        }
    }

    /// The last report says that this was no accident.
    async fn leave(&mut self, done: oneshot::Sender<()>) {
        self.report(true).await;
        self.inputs.store.leave().await;
        // Who asked may have lost patience.
        let _ = done.send(());
    }

    fn hear(&mut self) {
        if let Seen::Is(raw) = self.nodes.state() {
            let reports = reports(&raw);
            self.observer.hear(reports, Instant::now().into_std());
        }
    }

    fn know(&mut self) {
        let now = Instant::now().into_std();
        let knowledge = self.inputs.knowledge.borrow_and_update();
        // What is tried here is nothing that others have or had.
        if knowledge.trying.is_none() {
            self.observer.know_table(knowledge.table, now);
        }
        self.observer.know_documents(knowledge.documents, now);
    }

    /// Says how this load balancer is, if that is due.
    async fn report(&mut self, is_urgent: bool) {
        self.look_at_certificates().await;
        if self.counted.1.elapsed() >= REPORT_EACH {
            self.count().await;
        }
        let since = self.reported.as_ref().map(|(_, at)| at.elapsed());
        let is_due = since.is_none_or(|since| since >= REPORT_EACH);
        let status = self.status();
        self.observer.be(status.clone());
        let before = self.reported.as_ref().map(|(before, _)| before);
        let is_urgent = is_urgent || before.is_some_and(|before| status.is_urgent_after(before));
        let is_news = before.is_none_or(|before| status.is_news_after(before));
        let is_silent = since.is_none_or(|since| since >= HEARTBEAT);
        if is_urgent || is_due && is_news || is_silent {
            self.numbered += 1;
            let certificates = self.inputs.in_force.borrow_and_update().clone();
            let report = NodeReport::of(&self.inputs.node, &certificates, status.clone());
            self.inputs.store.announce(report.text());
            self.reported = Some((status, Instant::now()));
        }
    }

    async fn look_at_certificates(&mut self) {
        let store = self.inputs.certificates.full();
        if let Some((known, _)) = &self.served
            && Arc::ptr_eq(known, &store)
        {
            return;
        }
        let hashing = tokio::task::spawn_blocking(move || {
            let fingerprint = counts::certificates(&store);
            (store, fingerprint)
        });
        if let Ok(served) = hashing.await {
            self.observer.serve(served.1, Instant::now().into_std());
            self.served = Some(served);
        }
    }

    /// Ends a window.
    async fn count(&mut self) {
        let table = self.inputs.table.full();
        let counting = tokio::task::spawn_blocking(move || {
            (counts::by_service(&table), counts::in_flight(&table))
        });
        let Ok((counted, in_flight)) = counting.await else {
            return;
        };
        self.in_flight = in_flight;
        let now = Instant::now();
        let (before, since) = std::mem::replace(&mut self.counted, (counted, now));
        self.window = Window {
            seconds: (now - since).as_secs(),
            counts: counts::since(&self.counted.0, &before),
        };
    }

    fn status(&self) -> NodeStatus {
        let table = self.inputs.table.load();
        let knowledge = self.inputs.knowledge.borrow();
        let vitals = &self.inputs.vitals;
        let failing = knowledge.failing.iter().take(WATCHES_TOLD);
        NodeStatus {
            process: self.process.clone(),
            number: self.numbered + 1,
            up_s: vitals.started.elapsed().as_secs(),
            is_draining: self.inputs.gate.phase() != Phase::Serving,
            is_ready: table.missing.is_empty() && !table.node_drained && table.generation > 0,
            revision: *self.inputs.revision.borrow(),
            index: knowledge.index,
            documents: Some(knowledge.documents),
            table: knowledge.table,
            trying: knowledge.trying.clone(),
            certificates: self.served.as_ref().map(|(_, of)| *of).unwrap_or_default(),
            generation: table.generation,
            table_s: knowledge.published.elapsed().as_secs(),
            discovery_s: discovery_age_seconds(vitals, vitals.now()).map(|age| age as u64),
            failing: knowledge.failing.len() as u64,
            failing_watches: failing.cloned().collect(),
            in_flight: self.in_flight,
            window: self.window,
            mistakes: table.mistakes.len() as u64,
            has_namesake: self.observer.has_namesake(Instant::now().into_std()),
        }
    }

    /// Makes the view of this moment: for whoever asks, for metrics, and what is new of it for the log.
    fn look(&mut self) {
        let fleet = self.observer.look(Instant::now().into_std());
        let vitals = &self.inputs.vitals;
        let count = |is_so: fn(Presence) -> bool| {
            let nodes = fleet.nodes.iter();
            nodes.filter(|node| is_so(node.presence)).count() as u64
        };
        let gone = count(|presence| matches!(presence, Presence::Gone(_)));
        vitals.fleet.live.store(count(Presence::is_live), Relaxed);
        vitals.fleet.gone.store(gone, Relaxed);
        if let Some(heard) = fleet.heard {
            let at = (vitals.now() - heard.elapsed()).duration_since(UNIX_EPOCH);
            let at_ms = at.map_or(0, |since| since.as_millis() as i64);
            vitals.fleet.heard_ms.store(at_ms, Relaxed);
        }
        for fault in FleetFault::ALL {
            let of_fault = fleet.findings.iter().filter(|one| one.fault == fault);
            vitals.fleet.set(fault, of_fault.count());
        }
        self.tell(&fleet.findings);
        self.inputs.publisher.publish(fleet);
    }

    /// Once when it begins, once when it is over.
    fn tell(&mut self, findings: &[Finding]) {
        let mut now = BTreeSet::new();
        for one in findings {
            let key = (one.fault, one.node.clone());
            if !self.told.contains(&key) {
                let (finding, node, message) = (one.fault.label(), &one.node, &one.message);
                tracing::warn!(finding, node, "fleet: {message}");
            }
            now.insert(key);
        }
        for (fault, node) in self.told.difference(&now) {
            tracing::info!(finding = fault.label(), node, "fleet: no more");
        }
        self.told = now;
    }
}

/// What no session goes with was written by hand, or is left over.
fn reports(raw: &BTreeMap<String, Raw>) -> BTreeMap<String, Option<NodeReport>> {
    raw.iter()
        .filter(|(_, raw)| raw.is_locked)
        .map(|(node, raw)| (node.clone(), NodeReport::read(&raw.bytes)))
        .collect()
}
