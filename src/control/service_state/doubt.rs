//! What a service's guard doubts: why, until when, and who of the service is kept for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::{ServiceState, World};
use crate::config::Guard as GuardPolicy;
use crate::control::candidate::Candidate;
use crate::control::consul::Finding;
use crate::control::event::Effect;
use crate::control::guard::Cause;
use crate::control::member::{Change, Member};
use crate::control::mistake::{LAST_GOOD, Mistake};

impl ServiceState {
    /// Something speaks against Consul as a whole, or no longer does.
    pub fn alarmed(&mut self, world: &mut World<'_>) -> Change {
        self.guard.judge(world.terms());
        self.settle_guard(world)
    }

    /// A consistent re-read found this, and was followed as any answer is.
    pub fn reread(&mut self, finding: Finding, world: &mut World<'_>) -> Change {
        match finding {
            Finding::AsItIs => self.guard.confirm(),
            Finding::WentBack => {
                self.guard.confirm();
                self.guard.blame(Cause::StateLost);
            }
            Finding::Hidden => self.guard.blame(Cause::Hidden),
        }
        self.settle_guard(world)
    }

    /// Servers that count as lost now, and the most that the guard's window had.
    pub fn toll(&self, guard: &GuardPolicy, now: SystemTime) -> (usize, usize) {
        self.guard.toll(guard, now)
    }

    /// Servers that are kept although Consul does not name them.
    pub fn doubted(&self) -> usize {
        self.guard.doubted().count()
    }

    /// That servers are kept, in words: `rota accept` ends it.
    pub fn doubt(&self) -> Option<Mistake> {
        let (watch, cause) = (self.watch()?, self.guard.cause()?);
        let name = &self.entry.name;
        let message = format!(
            "{}: those that our own probes find well are kept; rota accept {name} lets them go",
            cause.evidence()
        );
        Some(Mistake::new(
            format!("consul:{}", watch.service),
            message,
            LAST_GOOD,
        ))
    }

    /// Whether Consul's silence about a server is settled: an operator accepts it, or our own probe finds the server failing.
    fn is_settled(&self, address: &SocketAddr, candidate: &Candidate, world: &World<'_>) -> bool {
        let name = &self.entry.name;
        let accepted = world
            .accepts
            .of(name, *address, &candidate.label, world.now);
        let is_sick = || {
            let member = self.members.get(address);
            member.is_some_and(Member::is_probed_sick) && self.guard.is_settled_by_probe(address)
        };
        accepted.is_some() || is_sick()
    }

    /// Members are those of the newest answer and those that the guard keeps.
    pub fn settle_guard(&mut self, world: &mut World<'_>) -> Change {
        if self.watch().is_none() {
            return Change::None;
        }
        let settled: Vec<SocketAddr> = self
            .guard
            .lost()
            .filter(|(address, candidate)| self.is_settled(address, candidate, world))
            .map(|(address, _)| *address)
            .collect();
        settled
            .iter()
            .for_each(|address| self.guard.settle(address));
        if self.guard.wants_reread()
            && let Some(watch) = self.watch()
        {
            let watch = watch.clone();
            world.effects.push(Effect::Reread { watch });
        }
        let doubted: BTreeMap<SocketAddr, Candidate> = self
            .guard
            .doubted()
            .map(|(address, candidate)| (*address, candidate.clone()))
            .collect();
        let present = self.guard.present().clone();
        self.place(&present, &doubted, world)
    }
}
