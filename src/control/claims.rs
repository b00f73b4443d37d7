//! What the tags of a service's instances ask for: routes, for as long as a server is there that carries them. Pure.
//!
//! Claims go with their server: one that vanished from Consul's answers and is kept by the guard keeps its service's routes, too.

use std::collections::{BTreeMap, BTreeSet};

use super::candidate::Candidate;
use super::consul::Instance;
use super::mistake::{IGNORED, Mistake};
use crate::config::tags::{self, Refused, Tagged};
use crate::config::{ServiceProtocol, TagGrammar, Tags};
use crate::routing::{HostPattern, Prefix};

/// The most routes that the tags of one service make; those beyond, by host and path, are left out and told.
pub const ROUTES_PER_SERVICE: usize = 1024;
/// The most of one service's tags that are told of as wrong, and of its routes as taken by others; more are counted.
pub const TOLD_PER_SERVICE: usize = 8;

/// A host and a path.
type Place = (HostPattern, Prefix);

/// What one instance asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub routes: BTreeSet<Place>,
    pub protocol: Option<ServiceProtocol>,
    /// Its CreateIndex in Consul.
    pub created: u64,
}

/// What a service's instances ask for together: its routes lead to all of its servers, whichever of them carry the tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceClaims {
    /// With the age of the oldest instance that carries it, as Consul counts it.
    pub routes: BTreeMap<Place, u64>,
    /// Of the first server by address that asks for routes.
    pub protocol: Option<ServiceProtocol>,
    /// What they cannot all have, in words.
    pub complaints: Vec<String>,
}

impl ServiceClaims {
    pub fn of<'a>(servers: impl Iterator<Item = &'a Candidate>) -> ServiceClaims {
        let mut found = ServiceClaims::default();
        let mut protocols: Vec<Option<ServiceProtocol>> = Vec::new();
        for claims in servers.filter_map(|server| server.claims.as_deref()) {
            if !protocols.contains(&claims.protocol) {
                protocols.push(claims.protocol);
            }
            for place in &claims.routes {
                let oldest = found.routes.entry(place.clone()).or_insert(claims.created);
                *oldest = claims.created.min(*oldest);
            }
        }
        found.protocol = protocols.first().copied().flatten();
        if protocols.len() > 1 {
            let message = "its instances' tags name different protocols: the one of the first server by address is spoken to all";
            found.complaints.push(message.to_owned());
        }
        if let Some(beyond) = found.routes.keys().nth(ROUTES_PER_SERVICE).cloned() {
            let left_out = found.routes.split_off(&beyond).len();
            found.complaints.push(format!(
                "{left_out} routes of its tags are left out: a service has at most {ROUTES_PER_SERVICE}"
            ));
        }
        found
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

/// The tags of a service's instances as they are read one after the other; a tag that is wrong on many of them is told once.
pub struct Reader<'a> {
    terms: &'a Tags,
    refused: BTreeSet<Refused>,
}

impl Reader<'_> {
    pub fn new(terms: &Tags) -> Reader<'_> {
        Reader {
            terms,
            refused: BTreeSet::new(),
        }
    }

    /// Its claims, and the weight that it asks for.
    pub fn read(&mut self, instance: &Instance) -> (Option<Claims>, Option<u32>) {
        if self.terms.grammar == TagGrammar::Off {
            return (None, None);
        }
        let Tagged {
            routes,
            weight,
            protocol,
            refused,
        } = tags::read(&instance.tags, self.terms);
        self.refused.extend(refused);
        let claims = Claims {
            routes,
            protocol,
            created: instance.create_index,
        };
        (
            Some(claims).filter(|claims| !claims.routes.is_empty()),
            weight,
        )
    }

    /// The tags that could not be taken.
    pub fn mistakes(self, service: &str) -> Vec<Mistake> {
        let beyond = self.refused.len().saturating_sub(TOLD_PER_SERVICE);
        let told = self.refused.into_iter().take(TOLD_PER_SERVICE);
        let mistake = |refused: Refused| {
            Mistake::new(
                format!("consul:{service} tag {}", refused.tag),
                refused.why,
                IGNORED,
            )
        };
        let mut mistakes: Vec<Mistake> = told.map(mistake).collect();
        if beyond > 0 {
            let message = format!("{beyond} more of its tags could not be taken");
            mistakes.push(Mistake::new(
                format!("consul:{service} tags"),
                message,
                IGNORED,
            ));
        }
        mistakes
    }
}
