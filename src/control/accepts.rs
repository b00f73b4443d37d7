//! What an operator accepts of what Consul says: losses that are not doubted, by this LB's own word or the pod's, for a while. Pure.
//!
//! An acceptance reaches each load balancer at another moment, as what it is about did; so it holds for a span, which a load
//! balancer counts by its own clock from when it heard of it. One that was over long before (from a backup) is not heard.
//!
//! Not one type with [`super::drains`]: both have two maps and a list of mistakes; what they are about, when they end and what takes
//! them back differ, and a trait for each of these would be longer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::consul::Document;
use super::mistake::{IGNORED, Mistake};
use super::word::Word;
use crate::routing::ServiceName;
use crate::routing::operator::{MAX_ACCEPT, Matter, Reach, USUAL_ACCEPT};

/// How far the clocks of a pod's load balancers may be apart.
const SKEW: Duration = Duration::from_secs(300);
/// The documents' name below `operator/accept/`: no service can be called so.
const DOCUMENTS: &str = "@documents";

#[derive(Clone, Debug, Default)]
pub struct Accepts {
    here: BTreeMap<Matter, Heard>,
    pod: BTreeMap<Matter, Heard>,
    is_answered: bool,
    mistakes: Vec<(String, String)>,
}

/// A word, and its end by our own clock.
#[derive(Clone, Debug)]
struct Heard {
    word: Word,
    until: SystemTime,
}

impl Accepts {
    /// What an operator told this LB alone.
    pub fn accept_here(&mut self, matter: Matter, word: Word, now: SystemTime) {
        let until = now + lasting(&word);
        self.here.insert(matter, Heard { word, until });
    }

    /// All documents of the pod's acceptances.
    pub fn observe(&mut self, documents: &[Document], now: SystemTime) {
        let is_first = !std::mem::replace(&mut self.is_answered, true);
        let before = std::mem::take(&mut self.pod);
        self.mistakes.clear();
        for document in documents {
            let matter = matter_of(&document.name)
                .ok_or_else(|| "its key names no service, server or @documents".to_owned());
            let read = matter.and_then(|matter| Ok((matter, Word::from_json(&document.value)?)));
            match read {
                Ok((matter, word)) => {
                    let known = before.get(&matter).filter(|heard| heard.word == word);
                    let until = match known {
                        Some(heard) => heard.until,
                        None => end_of(&word, is_first, now),
                    };
                    self.pod.insert(matter, Heard { word, until });
                }
                Err(message) => self.mistakes.push((document.name.clone(), message)),
            }
        }
    }

    /// Who accepts what Consul says of a server, itself or its whole service.
    pub fn of(
        &self,
        service: &ServiceName,
        address: SocketAddr,
        label: &str,
        now: SystemTime,
    ) -> Option<&Word> {
        if self.here.is_empty() && self.pod.is_empty() {
            return None;
        }
        let named = |text: String| Matter::Server(service.clone(), text);
        [
            Matter::Service(service.clone()),
            named(address.to_string()),
            named(label.to_owned()),
        ]
        .iter()
        .find_map(|matter| self.word(matter, now))
    }

    /// For whom the documents are accepted as they are; None: for nobody.
    pub fn of_documents(&self, now: SystemTime) -> Option<Reach> {
        let both = [(&self.pod, Reach::Pod), (&self.here, Reach::Here)];
        let mut both = both.into_iter();
        let is_said = |heard: &BTreeMap<Matter, Heard>| {
            let word = heard.get(&Matter::Documents);
            word.is_some_and(|heard| now < heard.until)
        };
        both.find_map(|(heard, reach)| is_said(heard).then_some(reach))
    }

    pub fn mistakes(&self, prefix: &str, into: &mut Vec<Mistake>) {
        for (name, message) in &self.mistakes {
            let entry = format!("kv:{prefix}/operator/accept/{name}");
            into.push(Mistake::new(entry, message.clone(), IGNORED));
        }
    }

    fn word(&self, matter: &Matter, now: SystemTime) -> Option<&Word> {
        [&self.here, &self.pod]
            .into_iter()
            .filter_map(|heard| heard.get(matter))
            .find(|heard| now < heard.until)
            .map(|heard| &heard.word)
    }
}

/// For how long a word holds for who hears of it.
pub fn lasting(word: &Word) -> Duration {
    let said = word.until.map(|until| until.duration_since(word.at));
    said.map_or(USUAL_ACCEPT, Result::unwrap_or_default)
        .min(MAX_ACCEPT)
}

/// What was there when this LB began is as old as it says; what comes later has just been said.
fn end_of(word: &Word, is_first: bool, now: SystemTime) -> SystemTime {
    let said = word.at + lasting(word);
    match is_first || said + SKEW < now {
        true => said.min(now + MAX_ACCEPT),
        false => now + lasting(word),
    }
}

/// What follows `operator/accept/`: `shop`, `shop/10.0.0.1:80` or `@documents`.
fn matter_of(name: &str) -> Option<Matter> {
    if name == DOCUMENTS {
        return Some(Matter::Documents);
    }
    match name.split_once('/') {
        None => ServiceName::parse(name).map(Matter::Service),
        Some((service, server)) if !server.is_empty() => {
            Some(Matter::Server(ServiceName::parse(service)?, server.into()))
        }
        Some(_) => None,
    }
}

/// What follows `operator/accept/` in a key.
pub fn key_of(matter: &Matter) -> String {
    match matter {
        Matter::Service(service) => service.to_string(),
        Matter::Server(service, server) => format!("{service}/{server}"),
        Matter::Documents => DOCUMENTS.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn document(matter: &Matter, said: u64) -> Document {
        let word = Word::begun("alice".into(), at(said), Some(USUAL_ACCEPT));
        Document {
            name: key_of(matter),
            value: word.to_json().into(),
            create_index: 1,
            modify_index: 1,
            is_locked: false,
        }
    }

    fn is_accepted(accepts: &Accepts, now: u64) -> bool {
        let address = "10.0.0.1:80".parse().unwrap();
        accepts
            .of(&"shop".into(), address, "10.0.0.1:80", at(now))
            .is_some()
    }

    #[test]
    fn an_acceptance_holds_for_its_span_from_when_it_was_heard_whatever_the_clocks_say() {
        let mut accepts = Accepts::default();
        accepts.observe(&[], at(1_000));
        // The writer's clock is two minutes behind.
        let said = document(&Matter::Service("shop".into()), 880);
        accepts.observe(std::slice::from_ref(&said), at(1_000));
        assert!(is_accepted(&accepts, 1_059));
        accepts.observe(&[said], at(1_050));
        assert!(!is_accepted(&accepts, 1_060), "heard once, not twice");
    }

    #[test]
    fn what_was_accepted_long_ago_is_not_accepted_again() {
        let said = document(&Matter::Server("shop".into(), "10.0.0.1:80".into()), 880);
        let mut new = Accepts::default();
        new.observe(std::slice::from_ref(&said), at(1_000));
        assert!(!is_accepted(&new, 1_000), "it was over when this LB began");
        let mut restored = Accepts::default();
        restored.observe(&[], at(10_000));
        restored.observe(&[said], at(10_000));
        assert!(!is_accepted(&restored, 10_000), "a backup was restored");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let mut accepts = Accepts::default();
        let broken = Document {
            value: (*b"{").into(),
            ..document(&Matter::Documents, 1)
        };
        accepts.observe(&[broken], at(1));
        let mut mistakes = Vec::new();
        accepts.mistakes("rota", &mut mistakes);
        assert_eq!(mistakes[0].entry, "kv:rota/operator/accept/@documents");
        assert!(accepts.of_documents(at(1)).is_none());
    }
}
