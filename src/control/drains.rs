//! Who was drained by an operator, by this LB's own word or the pod's, and until when. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::consul::Document;
use super::mistake::{IGNORED, Mistake};
use super::word::Word;
use crate::routing::ServiceName;
use crate::routing::operator::Target;

#[derive(Clone, Debug, Default)]
pub struct Drains {
    here: BTreeMap<Target, Word>,
    pod: BTreeMap<Target, Word>,
    mistakes: Vec<(String, String)>,
}

impl Drains {
    /// What an operator told this LB alone.
    pub fn drain_here(&mut self, target: Target, word: Word) {
        self.here.insert(target, word);
    }

    pub fn undrain_here(&mut self, target: &Target) {
        self.here.remove(target);
    }

    /// All documents of the pod's drains.
    pub fn observe(&mut self, documents: &[Document]) {
        self.pod.clear();
        self.mistakes.clear();
        for document in documents {
            let target = target_of(&document.name)
                .ok_or_else(|| "its key names no service or server".to_owned());
            match target.and_then(|target| Ok((target, Word::from_json(&document.value)?))) {
                Ok((target, word)) => {
                    self.pod.insert(target, word);
                }
                Err(message) => self.mistakes.push((document.name.clone(), message)),
            }
        }
    }

    /// Whether and by whom a server is drained, itself or its whole service.
    pub fn of(
        &self,
        service: &ServiceName,
        address: SocketAddr,
        label: &str,
        now: SystemTime,
    ) -> Option<&Word> {
        let named = |text: String| Target::Server(service.clone(), text);
        [
            Target::Service(service.clone()),
            named(address.to_string()),
            named(label.to_owned()),
        ]
        .iter()
        .find_map(|target| self.word(target, now))
    }

    /// What the pod's word drains, and until when.
    pub fn of_pod(&self) -> impl Iterator<Item = (&Target, Option<SystemTime>)> {
        self.pod.iter().map(|(target, word)| (target, word.until))
    }

    pub fn is_node_drained(&self, now: SystemTime) -> bool {
        self.word(&Target::Node, now).is_some()
    }

    /// Whether anything is drained at all: the usual answer is no, and then nobody has to be looked up.
    pub fn is_empty(&self) -> bool {
        self.here.is_empty() && self.pod.is_empty()
    }

    pub fn has(&self, target: &Target) -> bool {
        self.is_here(target) || self.is_in_pod(target)
    }

    /// Whether this LB's own word drains it.
    pub fn is_here(&self, target: &Target) -> bool {
        self.here.contains_key(target)
    }

    /// Whether the pod's word drains it.
    pub fn is_in_pod(&self, target: &Target) -> bool {
        self.pod.contains_key(target)
    }

    /// Drops this LB's own words that are over; the pod's are dropped with their documents.
    pub fn forget_over(&mut self, now: SystemTime) {
        self.here.retain(|_, word| !word.is_over(now));
    }

    /// The next moment at which a drain ends.
    pub fn next_end(&self, now: SystemTime) -> Option<SystemTime> {
        self.here
            .values()
            .chain(self.pod.values())
            .filter_map(|word| word.until)
            .filter(|&until| until > now)
            .min()
    }

    pub fn mistakes(&self, prefix: &str, into: &mut Vec<Mistake>) {
        for (name, message) in &self.mistakes {
            let entry = format!("kv:{prefix}/operator/drain/{name}");
            into.push(Mistake::new(entry, message.clone(), IGNORED));
        }
    }

    fn word(&self, target: &Target, now: SystemTime) -> Option<&Word> {
        [&self.here, &self.pod]
            .into_iter()
            .filter_map(|words| words.get(target))
            .find(|word| !word.is_over(now))
    }
}

/// What follows `operator/drain/`: `shop` or `shop/10.0.0.1:80`.
fn target_of(name: &str) -> Option<Target> {
    match name.split_once('/') {
        None => ServiceName::parse(name).map(Target::Service),
        Some((service, server)) if !server.is_empty() => {
            Some(Target::Server(ServiceName::parse(service)?, server.into()))
        }
        Some(_) => None,
    }
}

/// What follows `operator/drain/` in a key; None: the LB itself, which no document drains.
pub fn key_of(target: &Target) -> Option<String> {
    match target {
        Target::Service(service) => Some(service.to_string()),
        Target::Server(service, server) => Some(format!("{service}/{server}")),
        Target::Node => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_drain_survives_its_way_through_a_document() {
        let at = UNIX_EPOCH + Duration::from_secs(1_000);
        let word = Word {
            by: "alice".into(),
            at,
            until: Some(at + Duration::from_secs(60)),
        };
        let target = Target::Server("shop".into(), "10.0.0.1:80".into());
        let document = Document {
            name: key_of(&target).unwrap(),
            value: word.to_json().into(),
            create_index: 1,
            modify_index: 1,
            is_locked: false,
        };
        let mut drains = Drains::default();
        drains.observe(&[document]);
        let address = "10.0.0.1:80".parse().unwrap();
        assert_eq!(
            drains.of(&"shop".into(), address, "10.0.0.1:80", at),
            Some(&word)
        );
        let later = at + Duration::from_secs(60);
        assert_eq!(drains.next_end(at), Some(later));
        assert_eq!(
            drains.of(&"shop".into(), address, "10.0.0.1:80", later),
            None
        );
    }

    #[test]
    fn a_drain_that_cannot_be_read_is_named_and_drains_nobody() {
        let document = Document {
            name: "shop".into(),
            value: (*b"{\"by\":").into(),
            create_index: 1,
            modify_index: 1,
            is_locked: false,
        };
        let mut drains = Drains::default();
        drains.observe(&[document]);
        let mut mistakes = Vec::new();
        drains.mistakes("rota", &mut mistakes);
        assert!(drains.is_empty());
        assert_eq!(mistakes[0].entry, "kv:rota/operator/drain/shop");
    }
}
