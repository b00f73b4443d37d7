//! What could not be taken, of all that the model is made of.

use super::{Model, alarm};
use crate::control::consul::Blame;
use crate::control::mistake::{IGNORED, LAST_GOOD, Mistake};

impl Model {
    /// Everything that could not be taken, not yet dated.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = self.claims.clone();
        found.extend_from_slice(&self.route_claims);
        found.extend_from_slice(&self.troubles);
        self.documents.mistakes(&mut found);
        found.extend(self.arriving_mistake());
        found.extend(self.trial_mistake());
        self.drains.mistakes(self.documents.prefix(), &mut found);
        self.accepts.mistakes(self.documents.prefix(), &mut found);
        found.extend(alarm::mistake(self.alarm));
        // Others pass when Consul is back; this somebody has to mend.
        for (watch, (blame, error)) in &self.failing {
            if *blame == Blame::Content {
                found.push(Mistake::new(format!("consul:{watch}"), error, LAST_GOOD));
            }
        }
        for service in self.services.values() {
            found.extend_from_slice(service.mistakes());
            found.extend(service.doubt());
        }
        let names = self.names();
        for (name, known) in self.names.iter().filter(|(name, _)| names.contains(*name)) {
            if let Some(error) = &known.error {
                let in_force = if known.addresses.is_empty() {
                    IGNORED
                } else {
                    "last good answer"
                };
                found.push(Mistake::new(format!("dns:{name}"), error.clone(), in_force));
            }
        }
        found
    }

    /// A table says what fails until this LB is ready, and what somebody has to mend.
    pub(super) fn shows_failing(&mut self, blames: [Option<Blame>; 2]) {
        let is_shown = !self.was_ready || blames.contains(&Some(Blame::Content));
        self.revision += u64::from(is_shown);
    }
}
