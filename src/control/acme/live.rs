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

    /// Waits until all have it in force, at most [`PATIENCE`]; gives who has not, in words. Empty: all that live are known to have it.
    pub(super) async fn all_have(&self, has: impl Fn(&NodeRecord) -> bool) -> Vec<String> {
        let (mut own, mut nodes) = (self.own.clone(), self.nodes.clone());
        let all = async {
            // Neither sender goes before this does.
            let _ = own.wait_for(&has).await;
            let are_all = |nodes: &Nodes| self.lacking(nodes, &has).is_empty();
            let _ = nodes.wait_for(are_all).await;
        };
        match timeout(PATIENCE, all).await {
            Ok(()) => Vec::new(),
            Err(_) => self.lacking(&self.nodes.borrow(), &has),
        }
    }

    /// This load balancer is asked itself: what it told is perhaps a moment old.
    fn lacking(&self, nodes: &Nodes, has: impl Fn(&NodeRecord) -> bool) -> Vec<String> {
        let own = self.own.borrow();
        let mut lacking = Vec::new();
        if !has(&own) {
            lacking.push("this load balancer".to_owned());
        }
        let Some(nodes) = nodes else {
            lacking.push("nobody has said yet who lives".to_owned());
            return lacking;
        };
        let others = nodes.iter().filter(|(node, _)| **node != own.node);
        let others = others.filter(|(_, record)| !has(record));
        lacking.extend(others.map(|(node, _)| node.clone()));
        lacking
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.following.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(
        own: NodeRecord,
        nodes: Nodes,
    ) -> (Live, watch::Sender<NodeRecord>, watch::Sender<Nodes>) {
        let (tells_own, own) = watch::channel(own);
        let (tells_nodes, nodes) = watch::channel(nodes);
        let following = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let live = Live {
            nodes,
            own,
            following,
        };
        (live, tells_own, tells_nodes)
    }

    fn node(name: &str, thumbprint: Option<&str>) -> NodeRecord {
        NodeRecord {
            node: name.into(),
            thumbprint: thumbprint.map(str::to_owned),
            ..NodeRecord::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_known_to_have_it_is_never_taken_for_one_that_has() {
        let has = |node: &NodeRecord| node.thumbprint.is_some();
        let (own, other) = (node("lb-1", Some("t")), node("lb-2", None));
        let all = |record: NodeRecord| Some(BTreeMap::from([(record.node.clone(), record)]));
        let (nobody_said, _own, _nodes) = live(own.clone(), None);
        assert_eq!(nobody_said.all_have(has).await.len(), 1);
        let (itself, _own, _nodes) = live(node("lb-1", None), Some(BTreeMap::new()));
        assert_eq!(itself.all_have(has).await, ["this load balancer"]);
        let (another, _own, _nodes) = live(own.clone(), all(other));
        assert_eq!(another.all_have(has).await, ["lb-2"]);
        let (alone, _own, _nodes) = live(own, Some(BTreeMap::new()));
        assert!(alone.all_have(has).await.is_empty());
    }
}
