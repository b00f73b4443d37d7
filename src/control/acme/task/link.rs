//! What certificates are ordered with, while they are: what follows the store, and the present settings' tools.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::account::{Accounts, follow_thumbprint};
use super::super::live::Live;
use super::super::order::Tools;
use super::super::own::{self, Imported};
use super::super::records::NodeRecord;
use super::super::sync::Sync;
use super::super::wanted::in_use;
use super::super::{keys, proofs};
use super::{Loaded, Task};
use crate::control::store::{Store, StoreError};

/// Readiness waits for certificates so long once the store answers: one that cannot be fetched takes no load balancer out.
const LOADING: Duration = Duration::from_secs(30);

/// What certificates are ordered with, while they are.
pub(super) struct Link {
    pub(super) sync: Sync,
    live: Arc<Live>,
    pub(super) tools: Arc<Tools>,
    /// Ended with this.
    _followers: JoinSet<()>,
}

impl Task {
    /// Makes what the present settings order with; what follows the store goes on.
    pub(super) fn link(&mut self) -> Result<(), String> {
        let Some(settings) = in_use(&self.config).cloned().map(Arc::new) else {
            self.link = None;
            self.shelf.held.clear();
            self.imported.tell.send_replace(Imported::default());
            // Nobody waits for a proof here any more.
            self.in_force.send_replace(NodeRecord::default());
            self.loaded.send_replace(Loaded::Done);
            return Ok(());
        };
        let store = self.opened_store()?;
        let live = match &self.link {
            Some(link) => link.live.clone(),
            None => Arc::new(Live::follow(&store, self.in_force.subscribe())),
        };
        let tools = Arc::new(Tools {
            store: store.clone(),
            accounts: Accounts::new(
                store.clone(),
                settings.clone(),
                self.thumbprint.tell.clone(),
            ),
            settings,
            live: live.clone(),
        });
        match &mut self.link {
            Some(link) => link.tools = tools,
            None => {
                let (thumbprint, proofs) = (self.thumbprint.tell.clone(), self.proofs.tell.clone());
                let mut followers = JoinSet::new();
                let standing = self.account_key.tell.clone();
                followers.spawn(follow_thumbprint(store.clone(), thumbprint, standing));
                followers.spawn(proofs::follow(store.clone(), proofs));
                let recalled = std::mem::take(&mut self.memory.own);
                followers.spawn(own::follow::follow(
                    store.clone(),
                    (recalled, self.memory.keeper.clone()),
                    self.imported.tell.clone(),
                ));
                followers.spawn(lose_patience(store.clone(), self.loaded.clone()));
                self.link = Some(Link {
                    sync: Sync::follow(&store, self.known()),
                    live,
                    tools,
                    _followers: followers,
                });
            }
        }
        Ok(())
    }

    fn opened_store(&mut self) -> Result<Store, String> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let state_dir = self.config.node.state_dir.as_deref();
        let state_dir = state_dir.ok_or("node.state_dir: missing")?;
        let store = Store::in_directory(state_dir, self.keyring.clone())?;
        self.store = Some(store.clone());
        Ok(store)
    }
}

/// A store that answers, and certificates that are not to be had all the same, hold no load balancer back for ever.
async fn lose_patience(store: Store, loaded: watch::Sender<Loaded>) {
    while let Err(StoreError::Away(_)) = store.read(keys::ACCOUNT_KEY).await {
        sleep(Duration::from_secs(1)).await;
    }
    sleep(LOADING).await;
    let is_late = loaded.send_if_modified(|loaded| {
        let is_late = matches!(loaded, Loaded::NotYet | Loaded::Remembered);
        if is_late {
            *loaded = Loaded::Done;
        }
        is_late
    });
    if is_late {
        tracing::warn!("acme: ready although not all certificates of the store are there");
    }
}
