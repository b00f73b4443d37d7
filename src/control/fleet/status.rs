//! What each load balancer says of itself in `nodes/<lb>`: one document of two parts, certificates' and the fleet's. Pure.
//!
//! The part about certificates lies at the top, where load balancers before this version look for it; who does not know the other
//! part passes it over.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::acme::NodeRecord;
use crate::seal::Digest;

/// A longer value is none that rota wrote.
pub const RECORD_BYTES: usize = 64 * 1024;
/// Failing watches whose names are told; the rest is a number.
pub const WATCHES_TOLD: usize = 8;

/// 64 bits that stand for something: the same on every load balancer that has the same. 16 hex digits where it is written.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    pub fn of(text: &[u8]) -> Fingerprint {
        let digest = Digest::of(text);
        let (head, _) = digest.bytes().split_first_chunk().expect("it has 32 bytes");
        Fingerprint(u64::from_be_bytes(*head))
    }

    /// Of several things, in whatever order they are joined.
    #[must_use]
    pub fn with(self, other: Fingerprint) -> Fingerprint {
        Fingerprint(self.0.wrapping_add(other.0))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;
    fn try_from(text: String) -> Result<Fingerprint, String> {
        let number = u64::from_str_radix(&text, 16);
        number
            .map(Fingerprint)
            .map_err(|_| format!("{text:?} is no fingerprint"))
    }
}

/// Requests that ended, and how many of them with a status of 500 or above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub requests: u64,
    pub failed: u64,
}

/// What was counted in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub seconds: u64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// One load balancer at one moment. Spans rather than moments, since clocks differ. What comes later needs a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Drawn at the start of the process: two of one name differ in it.
    pub process: String,
    /// Counts up with each report of the process.
    pub number: u64,
    /// Since it started.
    pub up_s: u64,
    /// It is on its way out.
    pub is_draining: bool,
    pub is_ready: bool,
    /// The newest revision of the documents that it knows of; 0: none.
    pub revision: u64,
    /// The highest ModifyIndex among the documents that it has heard; 0: there are none.
    pub index: u64,
    /// Of what documents say; None: its version says nothing of it.
    pub documents: Option<Fingerprint>,
    /// Of what it knows of routes, services and servers.
    pub table: Fingerprint,
    /// The canary that is tried on it: its table is another one on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trying: Option<String>,
    /// Of the certificates that it serves.
    pub certificates: Fingerprint,
    /// Of its snapshot, and since when that is in force.
    pub generation: u64,
    pub table_s: u64,
    /// Since Consul last answered while no watch failed; None: never.
    pub discovery_s: Option<u64>,
    pub failing: u64,
    /// Some of them.
    pub failing_watches: Vec<String>,
    pub in_flight: u64,
    pub window: Window,
    /// Entries that are wrong.
    pub mistakes: u64,
    /// Another process reports under its name.
    pub has_namesake: bool,
}

impl NodeStatus {
    /// Whether this says anything but that time went on.
    pub fn is_news_after(&self, before: &NodeStatus) -> bool {
        let timeless = |status: &NodeStatus| NodeStatus {
            number: 0,
            up_s: 0,
            table_s: 0,
            discovery_s: status.discovery_s.map(|_| 0),
            window: Window {
                seconds: 0,
                ..status.window
            },
            ..status.clone()
        };
        timeless(self) != timeless(before)
    }

    /// Whether others are to hear of it at once.
    pub fn is_urgent_after(&self, before: &NodeStatus) -> bool {
        let flags = |status: &NodeStatus| {
            let NodeStatus {
                is_draining,
                is_ready,
                has_namesake,
                ..
            } = status;
            [*is_draining, *is_ready, *has_namesake]
        };
        flags(self) != flags(before)
    }
}

/// All that stands in `nodes/<lb>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    #[serde(flatten)]
    pub certificates: NodeRecord,
    /// None: it is of a version that says nothing of this.
    #[serde(default)]
    pub fleet: Option<NodeStatus>,
}

impl NodeReport {
    /// `certificates` says nothing (its node is empty) where none are ordered, or not yet: then nobody waits for a proof here.
    pub fn of(node: &str, certificates: &NodeRecord, fleet: NodeStatus) -> NodeReport {
        let certificates = match certificates.node.is_empty() {
            false => certificates.clone(),
            true => NodeRecord {
                node: node.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                is_locked_out: true,
                ..NodeRecord::default()
            },
        };
        NodeReport {
            certificates,
            fleet: Some(fleet),
        }
    }

    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a report has text keys alone")
    }

    /// None: nobody's report.
    pub fn read(text: &[u8]) -> Option<NodeReport> {
        if text.len() > RECORD_BYTES {
            return None;
        }
        serde_json::from_slice(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> NodeStatus {
        NodeStatus {
            process: "p".into(),
            number: 7,
            table: Fingerprint(0xabc),
            discovery_s: Some(1),
            ..NodeStatus::default()
        }
    }

    #[test]
    fn both_parts_come_back_and_a_load_balancer_before_reads_its_own() {
        let certificates = NodeRecord {
            node: "lb-1".into(),
            version: "0.1.0".into(),
            thumbprint: Some("t".into()),
            ..NodeRecord::default()
        };
        let report = NodeReport::of("lb-1", &certificates, status());
        let text = report.text();
        assert_eq!(NodeReport::read(&text), Some(report));
        let before: NodeRecord = serde_json::from_slice(&text).unwrap();
        assert_eq!(before, certificates);
    }

    #[test]
    fn who_orders_no_certificates_is_waited_for_by_nobody() {
        let report = NodeReport::of("lb-1", &NodeRecord::default(), status());
        let read: NodeRecord = serde_json::from_slice(&report.text()).unwrap();
        assert!(read.is_locked_out);
        assert_eq!(read.node, "lb-1");
    }

    #[test]
    fn what_a_load_balancer_before_wrote_is_read() {
        let text = br#"{"node":"lb-1","version":"0.0.9","thumbprint":null,"proofs":["ab"]}"#;
        let report = NodeReport::read(text).unwrap();
        assert_eq!(
            (report.certificates.version.as_str(), report.fleet),
            ("0.0.9", None)
        );
        assert_eq!(NodeReport::read(b"[]"), None);
        assert_eq!(NodeReport::read(&vec![b' '; RECORD_BYTES + 1]), None);
    }

    #[test]
    fn time_that_goes_on_is_no_news() {
        let before = status();
        let mut after = NodeStatus {
            number: 8,
            up_s: 10,
            table_s: 10,
            discovery_s: Some(2),
            ..status()
        };
        after.window.seconds = 10;
        assert!(!after.is_news_after(&before));
        after.window.counts.requests = 1;
        assert!(after.is_news_after(&before) && !after.is_urgent_after(&before));
        after.is_draining = true;
        assert!(after.is_urgent_after(&before));
    }
}
