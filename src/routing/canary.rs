//! A change that is tried on some load balancers before it is everybody's, as data.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How long a canary lasts at most.
pub const LONGEST_CANARY: Duration = Duration::from_secs(86_400);
/// And where nobody says how long.
pub const USUAL_CANARY: Duration = Duration::from_secs(300);
/// So long after its end it is over for whoever has heard nothing of its end: each takes it off by itself, and nobody promotes it any
/// more. So does who could not have heard of its end for as long.
pub const OVERDUE: Duration = Duration::from_secs(30);
/// Load balancers that may be named.
const MAX_NODES: usize = 64;

/// A canary that is under way: the head of what lies in KV of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub id: String,
    pub by: String,
    pub note: String,
    /// The load balancers that it is in force on.
    pub nodes: Vec<String>,
    /// Unix milliseconds.
    pub begun_ms: u64,
    pub until_ms: u64,
    /// Documents that it changes.
    pub documents: usize,
    /// Services whose requests it changes something for.
    pub services: Vec<String>,
    /// Whether it leaves a host and path without a route that had one: requests without a route may be its making.
    #[serde(default)]
    pub unroutes: bool,
    /// Of all documents without it, and with it.
    pub before: String,
    pub after: String,
    /// Why it becomes everybody's, written together with the first of its documents: whoever comes upon it goes on with the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<String>,
}

impl Canary {
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.iter().any(|one| one == node)
    }

    /// Whether it changes something for requests of this service.
    pub fn is_about(&self, service: &str) -> bool {
        self.services.iter().any(|one| one == service)
    }

    pub fn until(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.until_ms)
    }

    pub fn lasting(&self) -> Duration {
        Duration::from_millis(self.until_ms.saturating_sub(self.begun_ms))
    }

    /// Since it was first heard of, by whose clock ever: then its end is [`OVERDUE`].
    pub fn overdue_after(&self) -> Duration {
        self.lasting() + OVERDUE
    }
}

/// On which load balancers a change is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// So many of a hundred of those that live.
    Share(u8),
    Nodes(Vec<String>),
}

impl On {
    /// `33%`, or names divided by commas. The error is a message.
    pub fn parse(text: &str) -> Result<On, String> {
        if let Some(number) = text.strip_suffix('%') {
            let share = number.parse().ok().filter(|share| (1..=99).contains(share));
            let share = share.ok_or_else(|| {
                format!("{text:?} is no share: expected 1% to 99%, or names of load balancers")
            })?;
            return Ok(On::Share(share));
        }
        let mut nodes: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        nodes.sort();
        nodes.dedup();
        let is_name = |name: &String| !name.is_empty() && !name.chars().any(char::is_control);
        match nodes.iter().all(is_name) && nodes.len() <= MAX_NODES {
            true => Ok(On::Nodes(nodes)),
            false => Err(format!(
                "{text:?}: expected a share (33%), or up to {MAX_NODES} names of load balancers divided by commas"
            )),
        }
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            On::Share(share) => write!(f, "{share}%"),
            On::Nodes(nodes) => f.write_str(&nodes.join(",")),
        }
    }
}

/// How a change is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    pub on: On,
    pub lasting: Duration,
}

/// How a canary ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The change is everybody's.
    Promoted,
    /// It is nobody's.
    RolledBack,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Promoted => "promoted",
            Outcome::RolledBack => "rolled back",
        })
    }
}

/// A canary that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    #[serde(flatten)]
    pub canary: Canary,
    pub outcome: Outcome,
    pub reason: String,
    /// Unix seconds.
    pub at: u64,
}

/// What was counted of a service, or of all requests, on one side of the comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    pub requests: u64,
    /// Of these, answered with 500 or above, or not at all: 0 to 1.
    pub failed: f64,
    /// Answered with 400 to 499.
    pub refused: f64,
    /// The median of their durations, as far as the bounds of buckets tell it.
    pub milliseconds: f64,
}

/// One comparison, as people look at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// A service; empty: all requests.
    pub service: String,
    pub canary: Side,
    pub canary_before: Side,
    pub others: Side,
    pub others_before: Side,
    /// What came of it, in words.
    pub finding: String,
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CanaryView {
    pub running: Option<Canary>,
    /// What has been compared of it so far.
    pub compared: Vec<Compared>,
    /// Newest first.
    pub ended: Vec<Ended>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_on_a_share_or_on_those_that_are_named() {
        assert_eq!(On::parse("33%"), Ok(On::Share(33)));
        let named = On::Nodes(vec!["lb-1".into(), "lb-2".into()]);
        assert_eq!(On::parse("lb-2, lb-1,lb-2"), Ok(named));
        for wrong in ["", "0%", "100%", "many%", "lb-1,,lb-2", "a\nb"] {
            assert!(On::parse(wrong).is_err(), "{wrong}");
        }
    }
}
