//! Routes in the tags of an instance in Consul: `rota.host=…` and its kin, and fabio's `urlprefix-` for those who come from there. Pure.
//!
//! Who may register an instance is not who may write the file: hosts are held to `tag_hosts`, and each tag is taken or refused by itself.

mod fabio;

use std::collections::BTreeSet;

use self::fabio::Said;
use super::model::{ServiceProtocol, TagGrammar, Tags};
use super::names::plain_name;
use super::nearest::nearest;
use super::route::{host_pattern, prefix};
use crate::routing::{HostPattern, Prefix};

/// The most routes of one instance; those beyond, in their order, are refused.
pub const MAX_ROUTES: usize = 64;
/// The most weight that Consul itself allows.
const MAX_WEIGHT: u32 = 65_535;

const WORDS: [&str; 5] = ["enable", "group", "host", "path", "weight"];
const OURS: &str = "rota.";
const FABIOS: &str = "urlprefix-";

/// What an instance's tags ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    pub routes: BTreeSet<(HostPattern, Prefix)>,
    /// In place of its passing weight in Consul.
    pub weight: Option<u32>,
    /// What is spoken to it; None: plain HTTP, or nothing was said.
    pub protocol: Option<ServiceProtocol>,
    pub refused: Vec<Refused>,
}

/// A tag, or an option of one, that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// As it stands there, on one line and not too long.
    pub tag: String,
    pub why: String,
}

/// Whether a service with this tag has to be looked at.
pub fn asks_for_routes(tag: &str, grammar: TagGrammar) -> bool {
    match grammar {
        TagGrammar::Off => false,
        TagGrammar::Rota => is_ours(tag),
        TagGrammar::Fabio => is_ours(tag) || tag.trim_start().starts_with(FABIOS),
    }
}

/// Its group alone asks for no route.
fn is_ours(tag: &str) -> bool {
    ["rota.host=", "rota.enable=", "rota.path="]
        .iter()
        .any(|start| tag.starts_with(start))
}

/// Reads all tags of one instance. Whether its group is one is asked in [`super::groups`].
pub fn read(tags: &[String], terms: &Tags) -> Tagged {
    let mut reading = Reading {
        terms,
        found: Tagged::default(),
        hosts: Vec::new(),
        paths: Vec::new(),
        enable: None,
    };
    for tag in tags {
        if let Some(rest) = tag.strip_prefix(OURS) {
            reading.ours(tag, rest);
        } else if terms.grammar == TagGrammar::Fabio
            && let Some(rest) = tag.trim().strip_prefix(FABIOS)
        {
            reading.fabios(tag, rest);
        }
    }
    reading.finish(tags)
}

struct Reading<'a> {
    terms: &'a Tags,
    found: Tagged,
    hosts: Vec<HostPattern>,
    paths: Vec<Prefix>,
    enable: Option<bool>,
}

impl Reading<'_> {
    fn refuse(&mut self, tag: &str, why: impl Into<String>) {
        let refused = Refused {
            tag: shown(tag),
            why: why.into(),
        };
        if !self.found.refused.contains(&refused) {
            self.found.refused.push(refused);
        }
    }

    fn ours(&mut self, tag: &str, rest: &str) {
        let Some((word, value)) = rest.split_once('=') else {
            return self.refuse(tag, "expected rota.WORD=VALUE");
        };
        match word {
            "host" => match self.host(value) {
                Ok(host) => self.hosts.push(host),
                Err(why) => self.refuse(tag, why),
            },
            "path" => match prefix(value) {
                Ok(path) => self.paths.push(path),
                Err(why) => self.refuse(tag, why),
            },
            "weight" => match number(value) {
                Some(weight) => self.found.weight = Some(weight),
                None => self.refuse(
                    tag,
                    format!("expected a whole number from 0 to {MAX_WEIGHT}"),
                ),
            },
            "enable" => match value {
                "true" => self.enable = self.enable.or(Some(true)),
                // Whoever says both wants it not.
                "false" => self.enable = Some(false),
                _ => self.refuse(tag, "expected true or false"),
            },
            // Read where groups are, with tags or without.
            "group" => {}
            _ => {
                let near = nearest(word, WORDS.into_iter());
                let near = near.map_or_else(|| WORDS.join(", "), str::to_owned);
                self.refuse(tag, format!("no such word; known or nearest: {near}"));
            }
        }
    }

    /// A host that tags may name.
    fn host(&self, text: &str) -> Result<HostPattern, String> {
        let host = host_pattern(text)?;
        match self
            .terms
            .hosts
            .iter()
            .any(|allowed| covers(allowed, &host))
        {
            true => Ok(host),
            false => Err(format!("{host} is none of the hosts in [consul] tag_hosts")),
        }
    }

    /// `host/path opts…`
    fn fabios(&mut self, tag: &str, rest: &str) {
        let mut words = rest.split_whitespace();
        let route = words.next().unwrap_or_default();
        match self.fabios_route(route) {
            Err(why) => self.refuse(tag, why),
            Ok(route) => {
                let mut protocol = None;
                for option in words {
                    match fabio::option(option) {
                        Said::Speaks(said) => protocol = Some(said),
                        Said::Nothing => {}
                        Said::Without(why) => {
                            self.refuse(tag, format!("{why}; the route is in force without it"));
                        }
                        Said::Never(why) => {
                            return self.refuse(tag, format!("{why}; so there is no such route"));
                        }
                    }
                }
                self.found.routes.insert(route);
                self.found.protocol = self.found.protocol.or(protocol);
            }
        }
    }

    fn fabios_route(&self, text: &str) -> Result<(HostPattern, Prefix), String> {
        let (host, path) = fabio::route(text)?;
        Ok((self.host(host)?, prefix(&path)?))
    }

    /// Each host with each path; without paths with the root.
    fn finish(mut self, tags: &[String]) -> Tagged {
        if self.paths.is_empty() {
            self.paths
                .push(Prefix::parse("/").expect("the root is a prefix"));
        }
        for host in &self.hosts {
            let routes = self.paths.iter().map(|path| (host.clone(), path.clone()));
            self.found.routes.extend(routes);
        }
        let asks = |word: &str| tags.iter().find(|tag| tag.starts_with(word));
        let has_host = || asks("rota.host=").is_some();
        if self.enable == Some(false) {
            self.found.routes.clear();
        } else if self.found.routes.is_empty()
            && !has_host()
            && let Some(tag) = asks("rota.path=").or_else(|| asks("rota.enable="))
        {
            self.refuse(tag, "it needs a tag rota.host beside it");
        }
        if self.found.routes.len() > MAX_ROUTES {
            let beyond = self.found.routes.iter().nth(MAX_ROUTES).cloned();
            if let Some(beyond) = beyond {
                let _ = self.found.routes.split_off(&beyond);
                self.refuse(
                    "rota.host",
                    format!("more than {MAX_ROUTES} routes: those beyond are left out"),
                );
            }
        }
        self.found
    }
}

/// Whether who may name the hosts of `allowed` may name all of `host`.
fn covers(allowed: &HostPattern, host: &HostPattern) -> bool {
    let is_below = |name: &str, zone: &str| {
        name.strip_suffix(zone)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    };
    match (allowed, host) {
        (HostPattern::Any, _) => true,
        (_, HostPattern::Any) => false,
        (HostPattern::Exact(allowed), HostPattern::Exact(host)) => allowed == host,
        (HostPattern::Exact(_), HostPattern::Wildcard(_)) => false,
        (HostPattern::Wildcard(zone), HostPattern::Exact(host)) => {
            is_below(host.as_str(), zone.as_str())
        }
        (HostPattern::Wildcard(zone), HostPattern::Wildcard(host)) => {
            zone == host || is_below(host.as_str(), zone.as_str())
        }
    }
}

fn number(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|weight| is_plain && *weight <= MAX_WEIGHT)
}

/// Whether a service of this name in Consul may be one of rota's.
pub fn is_service_name(name: &str) -> bool {
    plain_name(name).is_some()
}

/// Short, without what would break a line.
fn shown(tag: &str) -> String {
    let plain = tag
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut text: String = plain.take(super::mistake::MAX_SHOWN).collect();
    if tag.chars().count() > super::mistake::MAX_SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
