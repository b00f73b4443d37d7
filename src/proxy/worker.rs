//! One worker: a thread with its own runtime, its own sockets, its own pool; it shares nothing but the snapshot and upstreams.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::buffer::Buffers;
use super::clients::Clients;
use super::descriptors::Descriptors;
use super::handshakes::Handshakes;
use super::http2::upstream::Lanes;
use super::lag::{Change, Lag};
use super::linger::Lingering;
use super::listener;
use super::pool::Pool;
use super::scratch::Scratches;
use super::stalls::Stalls;
use crate::certs::{CertStore, Wants};
use crate::drain::{Gate, Phase};
use crate::routing::swap::Reader;
use crate::routing::{
    Limits, ListenerPolicy, Method, PassiveReport, Route, Service, Snapshot, WorkerId,
};
use crate::telemetry::access_log::WorkerLog;
use crate::telemetry::{Attempt, NotedRequest, Outcome, Vitals};

/// How often a worker looks after what no request does: the log's batch, its CPU time, idle connections.
const TICK: Duration = Duration::from_millis(100);
/// How often idle connections to servers are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker is started with.
pub struct Start {
    pub id: WorkerId,
    pub workers: usize,
    pub table: Reader<Snapshot>,
    pub certificates: Reader<CertStore>,
    /// Names whose certificates clients wait for, of the whole process.
    pub wants: Wants,
    pub vitals: Arc<Vitals>,
    pub gate: Gate,
    pub passive: mpsc::Sender<PassiveReport>,
    pub log: Option<WorkerLog>,
    pub orders: mpsc::Receiver<WorkerOrder>,
    /// Client connections of the whole process.
    pub open: Arc<AtomicUsize>,
    /// The same, by client.
    pub clients: Arc<Clients>,
    pub descriptors: Descriptors,
}

/// What the app tells a running worker.
pub enum WorkerOrder {
    /// Accept from this socket, one of a SO_REUSEPORT group; `tls` for an https listener.
    /// `policy` is what it does as long as no snapshot says otherwise.
    Listen {
        policy: Arc<ListenerPolicy>,
        socket: std::net::TcpListener,
        /// Exchanged when the file asks for something else of its clients.
        tls: Option<Reader<rustls::ServerConfig>>,
    },
    /// Accept what is queued, then close that listener's socket.
    Unlisten { name: Arc<str> },
    /// The access log was set up, replaced or taken away.
    Log(Option<WorkerLog>),
}

/// What a worker's tasks share, on its own thread.
pub struct Worker {
    pub id: WorkerId,
    pub workers: usize,
    pub table: Reader<Snapshot>,
    pub certificates: Reader<CertStore>,
    pub wants: Wants,
    pub vitals: Arc<Vitals>,
    pub passive: mpsc::Sender<PassiveReport>,
    pub pool: RefCell<Pool>,
    pub lanes: RefCell<Lanes>,
    pub buffers: Buffers,
    pub scratches: Scratches,
    pub open: Arc<AtomicUsize>,
    pub clients: Arc<Clients>,
    pub descriptors: Descriptors,
    pub handshakes: Handshakes,
    pub lag: Lag,
    pub lingering: Lingering,
    pub stalls: Stalls,
    /// The drain phase as of the worker's own last look: read on each request.
    pub phase: Cell<Phase>,
    /// When it began to drain.
    pub leaving_since: Cell<Option<Instant>>,
    // Limits that are read where no snapshot is at hand; as of the last tick.
    pub head_bytes: Cell<usize>,
    pub target_bytes: Cell<usize>,
    pub connections: Cell<usize>,
    pub pool_total: Cell<usize>,
    /// This worker's share of `limits.noted_requests`.
    noted: Cell<usize>,
    log: RefCell<Option<WorkerLog>>,
    /// Tasks of connections, to be woken when the worker begins to drain.
    sleepers: RefCell<HashMap<u64, Waker>>,
    next_sleeper: Cell<u64>,
    own: Cell<usize>,
}

/// A place among `limits.connections` (fewer where the descriptors don't suffice), of the whole process; given back when dropped.
#[must_use]
pub struct Place(Rc<Worker>);

impl Place {
    /// None: all are taken.
    pub fn take(worker: &Rc<Worker>) -> Option<Place> {
        let limit = worker.connections.get();
        let take = |open| (open < limit).then_some(open + 1);
        worker.open.fetch_update(Relaxed, Relaxed, take).ok()?;
        worker.own.set(worker.own.get() + 1);
        Some(Place(worker.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.own.set(self.0.own.get() - 1);
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// One client connection being served, until dropped.
#[must_use]
pub struct Open {
    place: Place,
    sleeper: u64,
    _watched: Watched,
}

impl Open {
    /// To be called on the connection's task, whose waker it keeps for the drain.
    pub async fn serve_at(place: Place) -> Open {
        let worker = &place.0;
        let sleeper = worker.next_sleeper.get();
        worker.next_sleeper.set(sleeper + 1);
        let waker = std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())).await;
        worker.sleepers.borrow_mut().insert(sleeper, waker);
        let _watched = Watched::begin(worker);
        Open {
            place,
            sleeper,
            _watched,
        }
    }
}

/// Held by whatever serves a client by itself: a panic costs that alone, and is counted.
#[must_use]
pub struct Watched(Rc<Worker>);

impl Watched {
    pub fn begin(worker: &Rc<Worker>) -> Watched {
        Watched(worker.clone())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Watched(worker) = self;
        if std::thread::panicking() {
            worker.vitals.workers[worker.id.0].panics.add(1);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let worker = &self.place.0;
        worker.sleepers.borrow_mut().remove(&self.sleeper);
    }
}

impl Worker {
    /// What its tasks share, and what its own loop listens to.
    pub fn new(start: Start) -> (Rc<Worker>, Gate, mpsc::Receiver<WorkerOrder>) {
        let limits = Limits::default();
        let worker = Worker {
            id: start.id,
            workers: start.workers,
            table: start.table,
            certificates: start.certificates,
            wants: start.wants,
            vitals: start.vitals,
            passive: start.passive,
            pool: RefCell::default(),
            lanes: RefCell::default(),
            buffers: Buffers::default(),
            scratches: Scratches::default(),
            open: start.open,
            clients: start.clients,
            descriptors: start.descriptors,
            handshakes: Handshakes::default(),
            lag: Lag::default(),
            lingering: Lingering::default(),
            stalls: Stalls::default(),
            phase: Cell::new(Phase::Serving),
            leaving_since: Cell::new(None),
            head_bytes: Cell::new(limits.head_bytes),
            target_bytes: Cell::new(limits.target_bytes),
            connections: Cell::new(limits.connections),
            pool_total: Cell::new(limits.pool),
            noted: Cell::new(0),
            log: RefCell::new(start.log),
            sleepers: RefCell::default(),
            next_sleeper: Cell::new(0),
            own: Cell::new(0),
        };
        worker.read_limits();
        (Rc::new(worker), start.gate, start.orders)
    }

    fn read_limits(&self) {
        let snapshot = self.table.load();
        self.head_bytes.set(snapshot.limits.head_bytes);
        self.target_bytes.set(snapshot.limits.target_bytes);
        let fitting = self.descriptors.for_clients();
        self.connections
            .set(snapshot.limits.connections.min(fitting));
        let idle = snapshot.limits.pool.min(self.descriptors.for_idle());
        self.pool_total.set(idle.div_ceil(self.workers));
        let stalled = snapshot.limits.stalled_answers;
        self.stalls.allow(stalled.div_ceil(self.workers));
        let noted = snapshot.limits.noted_requests.div_ceil(self.workers);
        self.noted.set(noted);
        self.vitals.workers[self.id.0].noted.keep(noted);
    }

    /// Counts a request's beginning. Each has one end, by [`Worker::record`].
    pub fn accepted(&self) {
        self.vitals.workers[self.id.0].requests.add(1);
    }

    /// Records a request's end: the one place that feeds access log and metrics.
    pub fn record(&self, outcome: &Outcome<'_>, of: Option<(&Service, Method)>) {
        self.vitals.workers[self.id.0].ended(outcome.reason);
        if let Some((service, method)) = of {
            let micros = u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX);
            service
                .measured
                .of(self.id)
                .record(method, outcome.status, micros);
        }
        if let Some(log) = self.log.borrow_mut().as_mut() {
            log.record(outcome);
        }
    }

    /// Keeps what there is to explain of a request that failed or was sent again.
    #[cold]
    pub fn note(&self, outcome: &Outcome<'_>, route: &Route, tried: Vec<Attempt>) {
        let limit = self.noted.get();
        if limit > 0 {
            let request = NotedRequest::new(outcome, route, tried);
            self.vitals.workers[self.id.0].noted.note(request, limit);
        }
    }

    /// `due`: when it should have come.
    fn tick(&self, due: Instant, swept: &mut Instant) {
        let now = Instant::now();
        self.read_limits();
        self.note_lag(now - due);
        let vitals = &self.vitals.workers[self.id.0];
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        vitals.busy_ns.store(
            used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64,
            Relaxed,
        );
        if now - *swept >= SWEEP {
            *swept = now;
            let timeouts = self.table.load().timeouts.clone();
            self.pool.borrow_mut().sweep(now, &timeouts);
            let total = self.pool_total.get();
            self.lanes.borrow_mut().sweep(now, &timeouts, total);
        }
        let idle = self.pool.borrow().len() + self.lanes.borrow().idle();
        vitals.pool_idle.store(idle as i64, Relaxed);
        let stalled = self.stalls.waiting() as i64;
        vitals.stalled.store(stalled, Relaxed);
        if let Some(log) = self.log.borrow_mut().as_mut() {
            log.flush_if_due(now.into_std());
        }
    }

    fn note_lag(&self, late_by: Duration) {
        let micros = u64::try_from(late_by.as_micros()).unwrap_or(u64::MAX);
        self.vitals.workers[self.id.0].lag_us.store(micros, Relaxed);
        let limit = self.table.load().limits.loop_lag;
        let worker = self.id.0;
        match self.lag.ticked(late_by, limit) {
            Some(Change::FellBehind) => {
                tracing::warn!(
                    worker,
                    ?late_by,
                    ?limit,
                    "the worker's loop is late: new connections are refused"
                );
            }
            Some(Change::CaughtUp) => {
                tracing::info!(
                    worker,
                    "the worker's loop has caught up: connections are accepted"
                );
            }
            None => {}
        }
    }

    /// Whether an answer over HTTP/1 leaves its connection open: from the first word of a drain on, none does.
    pub fn keeps_connections(&self) -> bool {
        self.phase.get() == Phase::Serving
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        if phase < Phase::Draining {
            return;
        }
        self.leaving_since.set(Some(Instant::now()));
        let sleepers: Vec<Waker> = self.sleepers.borrow().values().cloned().collect();
        sleepers.into_iter().for_each(Waker::wake);
    }
}

/// Starts a worker's thread. It ends when the drain reaches [`Phase::Stopped`], or earlier when nothing is left to finish.
pub fn start(start: Start) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("worker-{}", start.id.0))
        .spawn(move || {
            let tasks = LocalSet::new();
            // As a task of its own, so that what wakes a connection does not poll it too.
            let running = tasks.spawn_local(run(start));
            if let Err(error) = tasks.block_on(&runtime, running)
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
            // What is still open is cut here, with its tasks.
            drop(tasks);
        })
}

async fn run(start: Start) {
    let (worker, mut gate, mut orders) = Worker::new(start);
    let mut listeners: HashMap<Arc<str>, watch::Sender<bool>> = HashMap::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    loop {
        let phase = worker.phase.get();
        let next = match phase {
            Phase::Serving => Phase::Announced,
            Phase::Announced => Phase::Draining,
            Phase::Draining | Phase::Stopped => Phase::Stopped,
        };
        tokio::select! {
            due = ticks.tick() => worker.tick(due, &mut swept),
            () = gate.reached(next) => {
                if next == Phase::Stopped {
                    break;
                }
                if gate.phase() >= Phase::Draining {
                    listeners.clear();
                }
                worker.enter(gate.phase());
            }
            Some(order) = orders.recv() => obey(&worker, order, &mut listeners),
        }
        if worker.phase.get() >= Phase::Draining && worker.own.get() == 0 {
            // One more turn, so that what was just accepted is counted.
            tokio::task::yield_now().await;
            if worker.own.get() == 0 {
                break;
            }
        }
    }
    worker.pool.borrow_mut().clear();
    worker.lanes.borrow_mut().clear();
    if let Some(log) = worker.log.borrow_mut().as_mut() {
        log.flush();
    }
}

fn obey(
    worker: &Rc<Worker>,
    order: WorkerOrder,
    listeners: &mut HashMap<Arc<str>, watch::Sender<bool>>,
) {
    match order {
        WorkerOrder::Listen {
            policy,
            socket,
            tls,
        } => {
            let (open, closes) = watch::channel(false);
            listeners.insert(policy.name.clone(), open);
            tokio::task::spawn_local(listener::accept_all(
                worker.clone(),
                policy,
                socket,
                tls,
                closes,
            ));
        }
        WorkerOrder::Unlisten { name } => drop(listeners.remove(&name)),
        WorkerOrder::Log(log) => {
            let mut slot = worker.log.borrow_mut();
            if let Some(old) = slot.as_mut() {
                old.flush();
            }
            *slot = log;
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::certs::wants;
    use crate::drain;
    use crate::routing::swap;

    /// The only one of a process, with an empty table.
    pub fn worker() -> Rc<Worker> {
        let (publisher, table) = swap::channel(Snapshot::default());
        let (certificates, store) = swap::channel(CertStore::default());
        let (_, orders) = mpsc::channel(1);
        let start = Start {
            id: WorkerId(0),
            workers: 1,
            table,
            certificates: store,
            wants: wants::channel().0,
            vitals: Arc::new(Vitals::new(1)),
            gate: drain::channel().1,
            passive: mpsc::channel(1).0,
            log: None,
            orders,
            open: Arc::default(),
            clients: Arc::default(),
            descriptors: Descriptors::of_process(),
        };
        drop((publisher, certificates));
        Worker::new(start).0
    }

    #[tokio::test]
    async fn a_panic_costs_one_connection_or_stream_is_counted_and_the_worker_lives_on() {
        let tasks = LocalSet::new();
        let worker = worker();
        let serve = |worker: Rc<Worker>| async move {
            let open = Open::serve_at(Place::take(&worker).expect("a place")).await;
            tokio::task::yield_now().await;
            drop(open);
        };
        let other = tasks.spawn_local(serve(worker.clone()));
        let held = worker.clone();
        let panicked = tasks.spawn_local(async move {
            let _open = Open::serve_at(Place::take(&held).expect("a place")).await;
            panic!("as a fault of ours would");
        });
        let held = worker.clone();
        let stream = tasks.spawn_local(async move {
            let _watched = Watched::begin(&held);
            panic!("as a fault of ours would");
        });
        let later = tasks.spawn_local(serve(worker.clone()));
        let ends = tasks
            .run_until(async { (panicked.await, stream.await, other.await, later.await) })
            .await;
        assert!(ends.0.is_err() && ends.1.is_err());
        assert!(ends.2.is_ok() && ends.3.is_ok());
        assert_eq!(worker.vitals.workers[0].panics.value(), 2);
        assert_eq!((worker.own.get(), worker.open.load(Relaxed)), (0, 0));
        assert!(worker.sleepers.borrow().is_empty());
    }
}
