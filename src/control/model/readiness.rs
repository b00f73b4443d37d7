//! What is still missing for the first full table: until it is there, this LB says that it is not ready.

use super::Model;
use crate::config::ConsulService;
use crate::control::acme::Loaded;

impl Model {
    /// What is still missing for the first full table, in words; empty from the first time it is.
    pub fn missing(&self) -> Vec<String> {
        if self.was_ready {
            return Vec::new();
        }
        let mut missing = Vec::new();
        let remembers = self.memory.is_believed();
        if self.terms.consul_prefix.is_some() && !remembers {
            missing.extend(self.documents.missing());
        }
        if self.misses_tags() && !remembers {
            missing.push("consul:tags: not read yet".to_owned());
        }
        let is_consul_there = missing.is_empty();
        match &self.terms.certificates {
            Loaded::Remembered if remembers => {}
            Loaded::NotYet | Loaded::Remembered => {
                missing.push("certificates: not read yet".to_owned());
            }
            Loaded::Unusable(why) => missing.push(format!("certificates: {why}")),
            Loaded::Done => {}
        }
        for service in self.services.values() {
            if let Some(watch) = service.watch()
                && !(self.answers.contains_key(watch)
                    && (remembers || self.memory.since(watch).is_none()))
                && !(is_consul_there && self.is_elsewhere_and_failing(watch))
            {
                missing.push(format!("consul:{}: not read yet", watch.service));
            }
            let unknown = service
                .names()
                .iter()
                .filter(|name| !self.names.contains_key(*name));
            missing.extend(unknown.map(|name| format!("dns:{name}: not resolved yet")));
        }
        if !missing.is_empty() {
            let failing = self.failing.iter();
            missing.extend(failing.map(|(watch, (_, error))| format!("{watch}: {error}")));
        }
        missing
    }

    /// Another datacenter that does not answer, or does not exist, is no reason to keep this pod from serving all else.
    fn is_elsewhere_and_failing(&self, watch: &ConsulService) -> bool {
        let fails_in = |datacenter: &String| {
            let end = format!(" in {datacenter}");
            self.failing.keys().any(|watch| watch.ends_with(&end))
        };
        watch.datacenter.as_ref().is_some_and(fails_in)
    }
}
