//! A watcher on a thread of its own, and what it observed, in order and with its time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rota::config::{Consul, ConsulService, Tags};
use rota::control::consul::{Client, Document, Instance, Observation, Subtree, Watcher};
use rota::telemetry::Vitals;

/// No state that a test waits for takes as long on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Watching {
    watcher: Watcher,
    runtime: tokio::runtime::Handle,
    observations: Receiver<(Instant, Observation)>,
    pub seen: Vec<(Instant, Observation)>,
    pub vitals: Arc<Vitals>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

pub fn settings(address: &str) -> Consul {
    Consul {
        address: address.into(),
        prefix: "rota".into(),
        token: None,
        ca_file: None,
        certificate: None,
        key: None,
        datacenter: None,
        allow_upstreams: Vec::new(),
        connections: 100,
        wait: Duration::from_secs(300),
        tags: Tags::default(),
    }
}

pub fn service(name: &str) -> ConsulService {
    ConsulService {
        service: name.into(),
        tag: None,
        datacenter: None,
    }
}

impl Watching {
    pub fn start(settings: Consul) -> Watching {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (started, start) = channel();
        let vitals = Arc::new(Vitals::new(1));
        let for_watcher = vitals.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let client = Client::new(&settings).unwrap();
                let (watcher, mut receiver) = Watcher::start(client, &settings, for_watcher);
                let (sender, observations) = channel();
                let handle = tokio::runtime::Handle::current();
                started.send((watcher, handle, observations)).ok().unwrap();
                let relay = async {
                    while let Some(observation) = receiver.recv().await {
                        let _ = sender.send((Instant::now(), observation));
                    }
                };
                tokio::select! { () = relay => (), _ = stopped => () }
            });
        });
        let (watcher, runtime, observations) = start.recv().unwrap();
        Watching {
            watcher,
            runtime,
            observations,
            seen: Vec::new(),
            vitals,
            _stop: stop,
        }
    }

    pub fn want(&self, services: &[&str]) {
        self.want_services(services.iter().map(|name| service(name)).collect());
    }

    pub fn want_services(&self, services: BTreeSet<ConsulService>) {
        let _in_runtime = self.runtime.enter();
        self.watcher.want(services);
    }

    pub fn reread(&self, name: &str) {
        let _in_runtime = self.runtime.enter();
        self.watcher.reread(&service(name));
    }

    /// The first observation from now on that is meant, and when it came.
    pub fn wait_for(
        &mut self,
        what: &str,
        is_meant: impl Fn(&Observation) -> bool,
    ) -> (Instant, Observation) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.observations.recv_timeout(left) {
                Ok(entry) => {
                    self.seen.push(entry.clone());
                    if is_meant(&entry.1) {
                        return entry;
                    }
                }
                Err(error) => panic!("{what}: {error}; seen: {:#?}", self.seen),
            }
        }
    }

    pub fn wait_for_instances(
        &mut self,
        name: &str,
        is_meant: impl Fn(&[Instance]) -> bool,
    ) -> Instant {
        let what = format!("instances of {name}");
        self.wait_for(&what, |observation| match observation {
            Observation::Instances { watch, instances } => {
                watch.service == name && is_meant(instances)
            }
            _ => false,
        })
        .0
    }

    pub fn wait_for_documents(
        &mut self,
        of: Subtree,
        is_meant: impl Fn(&[Document]) -> bool,
    ) -> Instant {
        self.wait_for(
            &format!("documents of {of:?}"),
            |observation| match observation {
                Observation::Documents { subtree, documents } => {
                    *subtree == of && is_meant(documents)
                }
                _ => false,
            },
        )
        .0
    }

    /// All observations that come within this time.
    pub fn during(&mut self, time: Duration) -> Vec<Observation> {
        let deadline = Instant::now() + time;
        let mut all = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.observations.recv_timeout(left) {
                Ok(entry) => {
                    self.seen.push(entry.clone());
                    all.push(entry.1);
                }
                Err(RecvTimeoutError::Timeout) => return all,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The watches that said that they fail and not yet that they do no more.
    pub fn told_to_fail(&self) -> BTreeSet<&str> {
        let mut failing = BTreeSet::new();
        for (_, one) in &self.seen {
            match one {
                Observation::Failing { watch, .. } => drop(failing.insert(watch.as_str())),
                Observation::Recovered { watch } => drop(failing.remove(watch.as_str())),
                _ => {}
            }
        }
        failing
    }

    /// Until each subtree was read once.
    pub fn wait_for_subtrees(&mut self) {
        let mut missing: BTreeSet<Subtree> = Subtree::ALL.into();
        while !missing.is_empty() {
            let (_, observation) = self.wait_for("all subtrees", |observation| {
                matches!(observation, Observation::Documents { .. })
            });
            if let Observation::Documents { subtree, .. } = observation {
                missing.remove(&subtree);
            }
        }
    }

    pub fn failing_watches(&self) -> i64 {
        self.vitals.discovery_failing.load(Relaxed)
    }

    pub fn last_contact_ms(&self) -> i64 {
        self.vitals.discovery_contact_ms.load(Relaxed)
    }
}

/// Polls until something holds.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
