//! Which load balancers live, and what they have in force: a proof is to be live on all of them before the CA looks.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::keys::NODES;
use super::records::{self, NodeRecord};
use crate::control::store::{Seen, Store};

/// One that has not followed after so long is not waited for: perhaps it is about to be taken for dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// By node; None: nobody has said who lives. Alone in a directory there is none: who asks is the only one.
pub(super) type Nodes = Option<BTreeMap<String, NodeRecord>>;

/// Followed until this is dropped.
pub(super) struct Live {
    nodes: watch::Receiver<Nodes>,
    /// What is published here.
    own: watch::Receiver<NodeRecord>,
    following: AbortHandle,
}

impl Live {
    /// Begins on the current tokio runtime. `own` is what this load balancer has published.
    pub(super) fn follow(store: &Store, own: watch::Receiver<NodeRecord>) -> Live {
        let (sender, nodes) = watch::channel(None);
        let mut seen = store.watch(NODES);
        let following = tokio::spawn(async move {
            loop {
                if let Seen::Is(raw) = seen.state() {
                    // What cannot be read is somebody who does not say what he has.
                    let one = |(node, raw): (&String, &crate::control::store::Raw)| {
                        let record = records::read(node, &raw.bytes).unwrap_or_default();
                        (node.clone(), record)
                    };
                    sender.send_replace(Some(raw.iter().map(one).collect()));
                }
                seen.changed().await;
            }
        });
        Live {
            nodes,
            own,
            following: following.abort_handle(),
        }
    }

    /// Waits until all have it in force, at most [`PATIENCE`]; gives who has not.
    pub(super) async fn all_have(&self, has: impl Fn(&NodeRecord) -> bool) -> Vec<String> {
        let (mut own, mut nodes) = (self.own.clone(), self.nodes.clone());
        let all = async {
            // Neither sender goes before this does.
            let _ = own.wait_for(&has).await;
            let are_all = |nodes: &Nodes| nodes.is_some() && self.lacking(nodes, &has).is_empty();
            let _ = nodes.wait_for(are_all).await;
        };
        match timeout(PATIENCE, all).await {
            Ok(()) => Vec::new(),
            Err(_) => self.lacking(&self.nodes.borrow(), &has),
        }
    }

    /// This load balancer is asked itself: what it told is perhaps a moment old.
    fn lacking(&self, nodes: &Nodes, has: impl Fn(&NodeRecord) -> bool) -> Vec<String> {
        let own = self.own.borrow().node.clone();
        let others = nodes.iter().flatten().filter(|(node, _)| **node != own);
        let lacking = others.filter(|(_, record)| !has(record));
        lacking.map(|(node, _)| node.clone()).collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.following.abort();
    }
}
