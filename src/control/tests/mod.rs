//! Promises of the decision core: histories of events go in, tables come out.

mod arriving;
mod canary;
mod documents;
mod domains;
mod fleet;
mod groups;
mod guard;
mod health;
mod histories;
mod live;
mod memory;
mod pod_id;
mod protocols;
mod rota;
mod scale;
mod staged;
mod tags;
mod trouble;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::acme::Loaded;
use super::assembly::Assembly;
use super::bounds::Bounds;
use super::consul::{Check, CheckStatus, Document, Instance, Observation, Subtree};
use super::event::{Effect, Event};
use super::model::{Model, Terms};
use crate::config::{self, Config, ConsulService};
use crate::routing::{PassiveFault, Service, Snapshot, Standing, Unfit, UpstreamKey};

const HEAD: &str = "[node]\nname = \"lb-1\"\nworkers = 2\n[[listener]]\naddress = \"127.0.0.1:8080\"\nprotocol = \"http\"\n";
const CONSUL: &str = "[consul]\naddress = \"http://127.0.0.1:8500\"\nprefix = \"rota/p\"\n";

pub fn file(text: &str) -> Arc<Config> {
    let environment = config::Environment::bare("lb-1");
    let whole = format!("{HEAD}{text}");
    let read = config::parse(&whole, Path::new("/rota.toml"), &environment);
    Arc::new(read.unwrap_or_else(|mistakes| panic!("{mistakes}")))
}

/// A model with its assembly and a clock.
pub struct World {
    /// What the model was made with.
    pub terms: Terms,
    pub model: Model,
    pub assembly: Assembly,
    pub now: SystemTime,
    pub effects: Vec<Effect>,
}

impl World {
    pub fn of(text: &str) -> World {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let config = file(text);
        let terms = Terms {
            bounds: Bounds {
                allow: Vec::new(),
                own: Vec::new(),
                is_local: |_| false,
            },
            consul_prefix: config.consul.as_ref().map(|consul| consul.prefix.clone()),
            certificates: Loaded::Done,
            tags: config
                .consul
                .as_ref()
                .map_or_else(Default::default, |consul| consul.tags.clone()),
        };
        let mut world = World {
            model: Model::new(terms.clone(), config, now),
            terms,
            assembly: Assembly::new("lb-1", 2),
            now,
            effects: Vec::new(),
        };
        world.build();
        world
    }

    /// One service `app` whose servers Consul names.
    pub fn with_consul(rest: &str) -> World {
        World::of(&format!(
            "{CONSUL}[[service]]\nname = \"app\"\nconsul = {{ service = \"app\" }}\n{rest}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
        ))
    }

    pub fn apply(&mut self, event: Event) -> &mut Self {
        self.model.apply(event, self.now);
        let effects = self.model.take_effects();
        for effect in &effects {
            if let Effect::GiveBack { key, unfit } = effect
                && let Some(upstream) = self.assembly.upstream(key)
            {
                upstream.forgive();
                upstream.clear(*unfit);
            }
        }
        self.effects.extend(effects);
        self
    }

    /// Lets time pass in steps, as the task's timer would.
    pub fn wait(&mut self, span: Duration) -> &mut Self {
        let end = self.now + span;
        while let Some(next) = self.model.next_tick().filter(|&next| next <= end) {
            self.now = next.max(self.now);
            self.apply(Event::Tick);
        }
        self.now = end;
        self.apply(Event::Tick)
    }

    pub fn build(&mut self) -> Snapshot {
        let (table, _) = self.assembly.build(&self.model, self.now);
        self.assembly.mark_gone();
        table
    }

    pub fn service(&mut self, name: &str) -> Arc<Service> {
        self.build().services[name].clone()
    }

    /// Servers of `app` that are on the rota, by label.
    pub fn fit(&mut self) -> Vec<String> {
        let service = self.service("app");
        let members = service.members.iter();
        members
            .filter(|member| member.upstream.is_fit())
            .map(|member| member.upstream.label().to_string())
            .collect()
    }

    pub fn servers(&mut self) -> Vec<String> {
        let service = self.service("app");
        let members = service.members.iter();
        members
            .map(|member| member.upstream.label().to_string())
            .collect()
    }

    pub fn standing(&mut self, label: &str) -> Arc<Standing> {
        let service = self.service("app");
        let mut members = service.members.iter();
        members
            .find(|member| **member.upstream.label() == *label)
            .unwrap_or_else(|| panic!("{label} is not there"))
            .standing
            .clone()
    }

    pub fn answer(&mut self, instances: Vec<Instance>) -> &mut Self {
        self.apply(Event::Consul(Observation::Instances {
            watch: watch(),
            instances,
        }))
    }

    pub fn documents(&mut self, subtree: Subtree, documents: &[(&str, &str, u64)]) -> &mut Self {
        let documents = documents
            .iter()
            .map(|&(name, value, create_index)| Document {
                name: name.into(),
                value: value.as_bytes().into(),
                create_index,
                modify_index: create_index,
                is_locked: false,
            })
            .collect();
        self.apply(Event::Consul(Observation::Documents { subtree, documents }))
    }

    pub fn probe(&mut self, address: &str, result: Result<(), &str>) -> &mut Self {
        self.apply(Event::Probed {
            key: key(address),
            result: result.map_err(str::to_owned),
        })
    }

    /// As a worker does it: the bit first, then the report.
    pub fn eject(&mut self, address: &str, unfit: Unfit) -> &mut Self {
        self.build();
        if let Some(upstream) = self.assembly.upstream(&key(address)) {
            upstream.set(unfit);
        }
        self.apply(Event::Ejected {
            key: key(address),
            unfit,
            fault: PassiveFault::Refused,
            failures: 1,
        })
    }

    pub fn tried(&mut self, address: &str, result: Result<(), &str>) -> &mut Self {
        self.apply(Event::Tried {
            key: key(address),
            result: result.map_err(str::to_owned),
        })
    }

    pub fn mistakes(&mut self) -> BTreeMap<String, String> {
        let mistakes = self.build().mistakes.into_iter();
        mistakes
            .map(|mistake| {
                (
                    mistake.entry,
                    format!("{} ({})", mistake.message, mistake.in_force),
                )
            })
            .collect()
    }
}

pub fn watch() -> ConsulService {
    ConsulService {
        service: "app".into(),
        tag: None,
        datacenter: None,
    }
}

pub fn key(address: &str) -> UpstreamKey {
    UpstreamKey {
        service: "app".into(),
        address: address.parse().unwrap(),
    }
}

pub fn instance(address: &str, status: CheckStatus) -> Instance {
    let (host, port) = address.rsplit_once(':').unwrap();
    Instance {
        node: "n".into(),
        id: address.into(),
        address: host.into(),
        port: port.parse().unwrap(),
        tags: vec![],
        group: None,
        weight_passing: 1,
        weight_warning: 1,
        checks: vec![Check {
            id: "service:app".into(),
            name: "alive".into(),
            status,
            output: "its word".into(),
        }],
        create_index: 1,
    }
}

pub fn passing(addresses: &[&str]) -> Vec<Instance> {
    let passing = |address: &&str| instance(address, CheckStatus::Passing);
    addresses.iter().map(passing).collect()
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
