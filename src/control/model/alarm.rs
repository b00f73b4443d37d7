//! What Consul says that cannot be right as a whole, what its leader says when asked again, and what an operator accepts.

use std::time::SystemTime;

use super::Model;
use crate::config::ConsulService;
use crate::control::consul::{Finding, Instance};
use crate::control::documents::Follow;
use crate::control::event::Effect;
use crate::control::guard::Alarm;
use crate::control::mistake::{LAST_GOOD, Mistake};
use crate::control::service_state::ServiceState;
use crate::routing::operator::Matter;

impl Model {
    /// The leader was asked again about a service; what it says is followed as any answer is, and weighs more.
    pub(super) fn reread(
        &mut self,
        watch: &ConsulService,
        instances: Vec<Instance>,
        finding: Finding,
        now: SystemTime,
    ) {
        if finding != Finding::Hidden {
            self.answers.insert(watch.clone(), instances.into());
            self.settle_those(now, |service| service.watch() == Some(watch));
        }
        let names: Vec<_> = self
            .services
            .iter()
            .filter(|(_, service)| service.watch() == Some(watch))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.with_service(&name, now, |service, world| service.reread(finding, world));
        }
    }

    /// Whether there is reason to doubt Consul as a whole; who doubts it doubts each service's losses.
    pub(super) fn look_at_alarm(&mut self, now: SystemTime) {
        let alarm = if self.documents.is_pod_missing() {
            Alarm::StateLost
        } else if self.is_too_much_lost(now) {
            Alarm::ManyLost
        } else {
            Alarm::None
        };
        if alarm == self.alarm {
            return;
        }
        self.alarm = alarm;
        self.revision += 1;
        let names: Vec<_> = self.services.keys().cloned().collect();
        for name in names {
            self.with_service(&name, now, ServiceState::alarmed);
        }
    }

    /// More than `guard.max_loss` of all services' servers, and not of one service alone: that is the service's own guard's.
    fn is_too_much_lost(&self, now: SystemTime) -> bool {
        let guard = &self.tuning.guard;
        let (mut lost, mut most, mut services) = (0, 0, 0);
        for service in self.services.values() {
            let (of_it, its_most) = service.toll(guard, now);
            lost += of_it;
            most += its_most;
            services += usize::from(of_it > 0);
        }
        services > 1 && lost as f64 > most as f64 * guard.max_loss
    }

    /// An operator accepts something: what it is about is settled at once.
    pub(super) fn settle_accepts(&mut self, now: SystemTime) {
        self.revision += 1;
        if self.accept_documents(now) == Change::Accepted {
            self.merge(now);
            self.settle_drains(now);
        }
        let names: Vec<_> = self.services.keys().cloned().collect();
        for name in names {
            self.with_service(&name, now, ServiceState::settle_guard);
        }
    }

    /// While an operator accepts the documents as they are, none is doubted.
    pub(super) fn accept_documents(&mut self, now: SystemTime) -> Change {
        let Some(reach) = self.accepts.of_documents(now) else {
            return Change::None;
        };
        if !self.documents.are_doubted() {
            return Change::None;
        }
        if self.documents.accept(reach, &mut self.drains) == Follow::WritePodId {
            self.effects.push(Effect::WritePodId);
        }
        Change::Accepted
    }

    /// How many servers, or subtrees of documents, are kept against what Consul says.
    pub fn doubts(&self, matter: &Matter) -> usize {
        match matter {
            Matter::Service(name) => self.services.get(name).map_or(0, ServiceState::doubted),
            Matter::Server(name, server) => self.services.get(name).map_or(0, |service| {
                let named = |member: &&crate::control::member::Member| {
                    *member.facts.label == **server || member.facts.address.to_string() == *server
                };
                let members = service.members().values().filter(named);
                members.filter(|member| member.is_doubted()).count()
            }),
            Matter::Documents => self.documents.doubted(),
        }
    }
}

/// Whether doubted documents were taken as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Accepted,
}

/// What speaks against Consul as a whole and is not said elsewhere.
pub(super) fn mistake(alarm: Alarm) -> Option<Mistake> {
    match alarm {
        // Said of the pod's id.
        Alarm::None | Alarm::StateLost => None,
        Alarm::ManyLost => {
            let message = "more of all services' servers than guard.max_loss vanished within guard.window: every loss is doubted";
            Some(Mistake::new("consul", message, LAST_GOOD))
        }
    }
}
