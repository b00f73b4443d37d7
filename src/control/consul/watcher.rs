//! Which watches there are: the subtrees and what lies beside them always, the services that are wanted, each by itself or all by a sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::client::Client;
use super::follow::follow;
use super::leader::follow_leader;
use super::observation::{Observation, Subtree};
use super::reread;
use super::subject::{Outlet, Subject, Topic};
use super::sweep::{READERS, Sweep, WATCHES};
use super::tag_watch::TagWatch;
use super::watch::{ServiceWatch, StrayWatch, SubtreeWatch};
use crate::config::{Consul, ConsulService, TagGrammar};
use crate::telemetry::Vitals;

/// Observations that wait for the control plane; beyond it the watches wait.
const OBSERVATIONS: usize = 256;
/// Watches of what a pod shares: its load balancers' reports and ticket keys; certificates' index, account and proofs, one's own certificates.
const SHARED: usize = 6;
/// Connections that no service gets: the subtrees, what lies beside them, what a pod shares, the probe, one for questions between, re-reads.
const RESERVED: usize = Subtree::ALL.len() + 1 + SHARED + 2 + reread::AT_ONCE;

/// All watches of one agent; they end when it is dropped.
pub struct Watcher {
    client: Client,
    outlet: Outlet,
    connections: usize,
    services: Mutex<Services>,
    rereads: Arc<Semaphore>,
    _always: Vec<Task>,
}

#[derive(Default)]
struct Services {
    subjects: BTreeMap<ConsulService, Arc<Subject>>,
    /// By a watch each, or …
    watches: BTreeMap<ConsulService, Task>,
    /// … by datacenter.
    sweeps: BTreeMap<Option<String>, Sweep>,
    /// The last re-read of each, ended or not.
    rereads: BTreeMap<ConsulService, Task>,
}

/// A task that ends with its owner.
pub(super) struct Task(AbortHandle);

impl Task {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(tokio::spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watcher {
    /// Begins to watch the subtrees; services are watched once they are wanted. Runs on the current runtime.
    ///
    /// `vitals.discovery_contact_ms` is the last moment when Consul, with a leader, answered while no watch was failing. A
    /// watch that hangs for want of news is no proof of that, so the leader is also asked each second.
    pub fn start(
        client: Client,
        settings: &Consul,
        vitals: Arc<Vitals>,
    ) -> (Watcher, mpsc::Receiver<Observation>) {
        let (observations, receiver) = mpsc::channel(OBSERVATIONS);
        vitals.discovery_configured.store(true, Relaxed);
        let outlet = Outlet {
            observations,
            vitals,
        };
        let subtree = |subtree| {
            Task::spawn(follow(SubtreeWatch {
                client: client.clone(),
                subtree,
                subject: Subject::new(Topic::Subtree(subtree), outlet.clone()),
            }))
        };
        let mut always: Vec<Task> = Subtree::ALL.into_iter().map(subtree).collect();
        always.push(Task::spawn(follow(StrayWatch {
            client: client.clone(),
            observations: outlet.observations.clone(),
            known: Vec::new(),
        })));
        let pod = format!("{}/{}", settings.prefix, Subtree::Pod.key());
        let leader = Subject::new(Topic::Leader, outlet.clone());
        always.push(Task::spawn(follow_leader(client.clone(), pod, leader)));
        let mut connections = settings.connections;
        if settings.tags.grammar != TagGrammar::Off {
            connections = connections.saturating_sub(1);
            let datacenter = settings.datacenter.clone();
            always.push(Task::spawn(follow(TagWatch {
                client: client.clone(),
                subject: Subject::new(Topic::Tags(datacenter.clone()), outlet.clone()),
                grammar: settings.tags.grammar,
                datacenter,
                known: None,
            })));
        }
        let watcher = Watcher {
            client,
            outlet,
            connections,
            services: Mutex::default(),
            rereads: Arc::new(Semaphore::new(reread::AT_ONCE)),
            _always: always,
        };
        (watcher, receiver)
    }

    /// Exactly these services from now on; a watch of one that stays goes on untouched.
    pub fn want(&self, wanted: BTreeSet<ConsulService>) {
        let mut services = self.services.lock().expect("no panic while held");
        let services = &mut *services;
        let unwanted = |service: &ConsulService| !wanted.contains(service);
        for (_, subject) in services.subjects.extract_if(.., |one, _| unwanted(one)) {
            // A reader may hold it for a while yet.
            subject.end();
        }
        services
            .rereads
            .retain(|service, _| wanted.contains(service));
        for service in wanted {
            services
                .subjects
                .entry(service)
                .or_insert_with_key(|service| {
                    let topic = Topic::Service(service.clone());
                    Arc::new(Subject::new(topic, self.outlet.clone()))
                });
        }
        if services.subjects.len() + RESERVED <= self.connections {
            services.sweeps.clear();
            self.watch_each(services);
        } else {
            services.watches.clear();
            self.sweep_all(services);
        }
    }

    pub(super) fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// Asks the leader how it stands with a service: once, however long that takes. One that is asked for already begins anew, since
    /// it may have been answered before what is doubted now.
    pub fn reread(&self, service: &ConsulService) {
        let mut services = self.services.lock().expect("no panic while held");
        let Services {
            subjects, rereads, ..
        } = &mut *services;
        let Some(subject) = subjects.get(service) else {
            return;
        };
        let (client, places) = (self.client.clone(), self.rereads.clone());
        let work = reread::reread(client, service.clone(), subject.clone(), places);
        rereads.insert(service.clone(), Task::spawn(work));
    }

    fn watch_each(&self, services: &mut Services) {
        let Services {
            subjects, watches, ..
        } = services;
        watches.retain(|service, _| subjects.contains_key(service));
        for (service, subject) in subjects {
            watches.entry(service.clone()).or_insert_with(|| {
                Task::spawn(follow(ServiceWatch {
                    client: self.client.clone(),
                    service: service.clone(),
                    subject: subject.clone(),
                }))
            });
        }
    }

    fn sweep_all(&self, services: &mut Services) {
        let mut by_datacenter: BTreeMap<Option<String>, BTreeMap<_, _>> = BTreeMap::new();
        for (service, subject) in &services.subjects {
            by_datacenter
                .entry(self.client.datacenter_of(service))
                .or_default()
                .insert(service.clone(), subject.clone());
        }
        services
            .sweeps
            .retain(|datacenter, _| by_datacenter.contains_key(datacenter));
        let taken = RESERVED + WATCHES * by_datacenter.len();
        let spare = self.connections.saturating_sub(taken);
        // Each has its own: one that does not answer holds up no other.
        let readers = (spare / by_datacenter.len().max(1)).clamp(1, READERS);
        for (datacenter, members) in by_datacenter {
            let sweep = services
                .sweeps
                .entry(datacenter.clone())
                .or_insert_with(|| Sweep::start(&self.client, &self.outlet, datacenter));
            sweep.set_readers(readers);
            sweep.set_members(members);
        }
    }
}
