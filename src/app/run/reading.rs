//! The file as it is being read again: on a thread that may block, while the process goes on and hears signals.
//!
//! A file system that hangs (a dead NFS server, a pipe that nobody writes to) holds up that thread and nothing else. It cannot be
//! called back; its answer is no longer waited for after [`PATIENCE`], and [`READINGS`] such threads are the most there are.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::app::checked::Checked;
use crate::app::secrets::{read_authorities, unusable_tokens};
use crate::app::sockets::{Group, Taken, open_group};
use crate::certs::CertStore;
use crate::config::Environment;
use crate::routing::ListenerPolicy;

/// A file that was not read within this is given up; the next HUP tries anew.
const PATIENCE: Duration = Duration::from_secs(60);
/// Threads that read, most of them given up; with so many the file is not tried again until one of them ends.
const READINGS: usize = 4;

/// Where the configuration comes from.
#[derive(Clone)]
pub struct Origin {
    pub file: PathBuf,
    pub environment: Arc<Environment>,
}

/// What is in force when reading begins.
pub(super) struct Present {
    pub certificates: Arc<CertStore>,
    pub doors: Vec<Arc<ListenerPolicy>>,
    pub workers: usize,
}

/// What was read and opened before anything changes.
pub(super) struct Read {
    pub checked: Checked,
    /// Listeners that are new, or have another address or protocol.
    pub groups: Vec<Group>,
}

/// One reading at a time is waited for.
pub(super) struct Reading {
    origin: Option<Origin>,
    under_way: Option<(JoinHandle<Result<Read, String>>, Instant)>,
    /// HUP came meanwhile: what is being read may be older than it.
    is_wanted_again: bool,
    /// Shared by the threads that read.
    presence: Arc<()>,
}

impl Reading {
    pub(super) fn new(origin: Option<Origin>) -> Reading {
        Reading {
            origin,
            under_way: None,
            is_wanted_again: false,
            presence: Arc::new(()),
        }
    }

    pub(super) fn has_no_file(&self) -> bool {
        self.origin.is_none()
    }

    /// Begins to read; what is being read already is read once more afterwards.
    pub(super) fn begin(&mut self, present: Present) {
        let Some(origin) = self.origin.clone() else {
            return;
        };
        if self.under_way.is_some() {
            self.is_wanted_again = true;
            return;
        }
        let presence = self.presence.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // With the one that is kept and this one.
            if Arc::strong_count(&presence) > READINGS + 1 {
                return Err(format!("{READINGS} earlier readings of it still hang"));
            }
            read(&origin, &present)
        });
        self.under_way = Some((reading, Instant::now() + PATIENCE));
    }

    /// Waits for the end of what is under way, for ever if nothing is. May be dropped and asked again.
    pub(super) async fn end(&mut self) -> Result<Read, String> {
        let Some((reading, deadline)) = &mut self.under_way else {
            return pending().await;
        };
        let read = match timeout_at(*deadline, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(panicked)) => Err(panicked.to_string()),
            Err(_) => Err(format!("not read within {PATIENCE:?}")),
        };
        self.under_way = None;
        read
    }

    /// Whether HUP came while the last one was read; says so once.
    pub(super) fn is_wanted_again(&mut self) -> bool {
        std::mem::take(&mut self.is_wanted_again)
    }
}

fn read(origin: &Origin, present: &Present) -> Result<Read, String> {
    let checked = Checked::read(&origin.file, &origin.environment, &present.certificates)
        .map_err(|mistakes| mistakes.join("; "))?;
    unusable_tokens(&checked.config)
        .iter()
        .for_each(|mistake| tracing::warn!("{mistake}"));
    read_authorities(&checked.config);
    let mut groups = Vec::new();
    for listener in &checked.config.listeners {
        let policy = &listener.policy;
        let is_open = |door: &Arc<ListenerPolicy>| {
            door.name == policy.name
                && (door.address, door.scheme) == (policy.address, policy.scheme)
        };
        if present.doors.iter().any(is_open) {
            continue;
        }
        let is_ours = |door: &Arc<ListenerPolicy>| door.address == policy.address;
        let taken = match present.doors.iter().any(is_ours) {
            true => Taken::Ours,
            false => Taken::Refuse,
        };
        let group = open_group(policy.address, present.workers, taken);
        groups.push((
            policy.clone(),
            group.map_err(|error| format!("listener {}: {error}", policy.name))?,
        ));
    }
    Ok(Read { checked, groups })
}
