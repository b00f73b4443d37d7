//! Which load balancers live, and what they have in force: a proof is to be live on all of them before the CA looks.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::keys::NODES;
use super::records::{self, NodeRecord};
use crate::control::store::{Raw, Seen, Store};

/// One that has not followed after so long is not waited for: perhaps it is about to be taken for dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// By node; None: nobody has said who lives. Alone in a directory there is none: who asks is the only one.
pub(super) type Nodes = Option<BTreeMap<String, NodeRecord>>;

/// Those that were waited for in vain, as they were then: until they say something else nobody waits for them again.
type Late = BTreeMap<String, NodeRecord>;

/// Followed until this is dropped.
pub(super) struct Live {
    nodes: watch::Receiver<Nodes>,
    /// What is published here.
    own: watch::Receiver<NodeRecord>,
    late: Mutex<Late>,
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
                    sender.send_replace(Some(living(&raw)));
                }
                seen.changed().await;
            }
        });
        Live {
            nodes,
            own,
            late: Mutex::default(),
            following: following.abort_handle(),
        }
    }

    /// Waits until all have it in force, at most [`PATIENCE`]; gives who has not, in words. Empty: all that live are known to have it.
    pub(super) async fn all_have(&self, has: impl Fn(&NodeRecord) -> bool) -> Vec<String> {
        let (mut own, mut nodes) = (self.own.clone(), self.nodes.clone());
        let all = async {
            // Neither sender goes before this does.
            let _ = own.wait_for(&has).await;
            let are_all = |nodes: &Nodes| {
                let lacking = self.lacking(nodes, &has);
                lacking.into_iter().all(|node| self.was_late(nodes, &node))
            };
            let _ = nodes.wait_for(are_all).await;
        };
        let _ = timeout(PATIENCE, all).await;
        let nodes = self.nodes.borrow();
        let lacking = self.lacking(&nodes, &has);
        let of = |node: &String| Some((node.clone(), nodes.as_ref()?.get(node)?.clone()));
        let mut late = self.late.lock().expect("no panic while held");
        late.retain(|node, then| nodes.as_ref().and_then(|nodes| nodes.get(node)) == Some(then));
        late.extend(lacking.iter().filter_map(of));
        lacking
    }

    fn was_late(&self, nodes: &Nodes, node: &str) -> bool {
        let late = self.late.lock().expect("no panic while held");
        let now = nodes.as_ref().and_then(|nodes| nodes.get(node));
        late.get(node).is_some_and(|then| Some(then) == now)
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

/// What no session goes with was written by hand, or is left over; who has not the pod's keys will never have what is waited for.
fn living(raw: &BTreeMap<String, Raw>) -> BTreeMap<String, NodeRecord> {
    // What cannot be read is somebody who does not say what he has.
    let one = |(node, raw): (&String, &Raw)| {
        let record: NodeRecord = records::read(node, &raw.bytes).unwrap_or_default();
        (node.clone(), record)
    };
    raw.iter()
        .filter(|(_, raw)| raw.is_locked)
        .map(one)
        .filter(|(_, record)| !record.is_locked_out)
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

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
            late: Mutex::default(),
            following,
        };
        (live, tells_own, tells_nodes)
    }

    fn record(node: &str, thumbprint: Option<&str>) -> NodeRecord {
        NodeRecord {
            node: node.into(),
            thumbprint: thumbprint.map(Into::into),
            ..NodeRecord::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_known_to_have_it_is_never_taken_for_one_that_has() {
        let has = |node: &NodeRecord| node.thumbprint.is_some();
        let (own, other) = (record("lb-1", Some("t")), record("lb-2", None));
        let all = |record: NodeRecord| Some(BTreeMap::from([(record.node.clone(), record)]));
        let (nobody_said, _own, _nodes) = live(own.clone(), None);
        assert_eq!(nobody_said.all_have(has).await.len(), 1);
        let (itself, _own, _nodes) = live(record("lb-1", None), Some(BTreeMap::new()));
        assert_eq!(itself.all_have(has).await, ["this load balancer"]);
        let (another, _own, _nodes) = live(own.clone(), all(other));
        assert_eq!(another.all_have(has).await, ["lb-2"]);
        let (alone, _own, _nodes) = live(own, Some(BTreeMap::new()));
        assert!(alone.all_have(has).await.is_empty());
    }

    #[test]
    fn who_has_no_session_does_not_live() {
        let raw = |is_locked| Raw {
            bytes: records::write(&record("lb", None)).to_vec().into(),
            version: 1,
            is_locked,
        };
        let raw = BTreeMap::from([("lb-1".into(), raw(true)), ("ghost".into(), raw(false))]);
        let living: Vec<String> = living(&raw).into_keys().collect();
        assert_eq!(living, ["lb-1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_waited_for_once_until_it_says_something_else() {
        let of = |records: Vec<NodeRecord>| {
            let named = records.into_iter().map(|one| (one.node.clone(), one));
            Some(named.collect::<BTreeMap<_, _>>())
        };
        let own = record("lb-1", Some("t"));
        let (nodes, seen) = watch::channel(of(vec![own.clone(), record("lb-2", None)]));
        let live = Live {
            nodes: seen,
            own: watch::channel(own.clone()).1,
            late: Mutex::default(),
            following: tokio::spawn(std::future::pending::<()>()).abort_handle(),
        };
        let has = |node: &NodeRecord| node.thumbprint.is_some();
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(live.all_have(has).await, ["lb-2"]);
            assert_eq!(start.elapsed(), PATIENCE);
        }
        nodes.send_replace(of(vec![own.clone(), record("lb-2", Some("t"))]));
        assert!(live.all_have(has).await.is_empty());
        nodes.send_replace(of(vec![own, record("lb-2", None)]));
        assert_eq!(live.all_have(has).await, ["lb-2"]);
        assert_eq!(start.elapsed(), PATIENCE * 2);
    }
}
