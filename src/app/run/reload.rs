//! HUP: the file is read again, and put in force as a whole or not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Process;
use super::launch::open_log;
use crate::app::checked::{Checked, warnings};
use crate::app::secrets::unusable_tokens;
use crate::app::sockets::{Group, Taken, open_group};
use crate::config::Config;
use crate::control;
use crate::proxy::WorkerOrder;
use crate::routing::Scheme;
use crate::telemetry::access_log;

impl Process {
    /// HUP: all of the file but `[node]`, `[admin]` and `[consul]`. A bad file changes nothing.
    pub(super) async fn reload(&mut self, handle: &control::Handle) {
        match self.try_reload(handle).await {
            Ok(()) => {
                self.vitals.reloads.fetch_add(1, Relaxed);
                tracing::info!("the file was read again and is in force");
            }
            Err(error) => {
                self.vitals.reloads_failed.fetch_add(1, Relaxed);
                tracing::error!("the file was read again and refused, nothing changed: {error}");
            }
        }
    }

    async fn try_reload(&mut self, handle: &control::Handle) -> Result<(), String> {
        let Some(file) = self.file.clone() else {
            return Err("there is no file".to_owned());
        };
        let workers = self.orders.len();
        let owned: Vec<SocketAddr> = self.doors.values().map(|door| door.address).collect();
        let known: BTreeMap<Arc<str>, (SocketAddr, Scheme)> = self
            .doors
            .iter()
            .map(|(name, door)| (name.clone(), (door.address, door.scheme)))
            .collect();
        let read =
            tokio::task::spawn_blocking(move || read_again(&file, &known, &owned, workers)).await;
        let (checked, groups) = read.map_err(|error| error.to_string())??;
        warn_of_what_stays(&self.config, &checked.config);
        // What HUP cannot change is as it was started with for all who take the file, and is named again the next time.
        let config = Config {
            node: self.config.node.clone(),
            admin: self.config.admin.clone(),
            consul: self.config.consul.clone(),
            ..checked.config
        };
        let log_changed = config.access_log != self.config.access_log;
        let new_log = if log_changed {
            Some(open_log(config.access_log.as_ref(), &self.vitals)?)
        } else {
            None
        };
        warnings(&config, &checked.certificates)
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        let config = Arc::new(config);
        handle
            .reload(config.clone(), checked.keyring, checked.certificates)
            .await?;
        self.close_doors(&config, &groups).await;
        for group in groups {
            self.open_door(group).await?;
        }
        if let Some((log, written)) = new_log {
            for worker in &self.orders {
                let line_buffer = log.as_ref().map(access_log::AccessLog::line_buffer);
                let _ = worker.send(WorkerOrder::Log(line_buffer)).await;
            }
            (self.log, self.written) = (log, written);
        }
        self.config = config;
        Ok(())
    }

    /// Closes what the new file has no more, or has elsewhere.
    async fn close_doors(&mut self, config: &Config, opened: &[Group]) {
        let gone: Vec<Arc<str>> = self
            .doors
            .keys()
            .filter(|name| {
                let stays = config
                    .listeners
                    .iter()
                    .any(|listener| listener.policy.name == **name);
                !stays || opened.iter().any(|(policy, _)| policy.name == **name)
            })
            .cloned()
            .collect();
        for name in gone {
            self.doors.remove(&name);
            for worker in &self.orders {
                let _ = worker
                    .send(WorkerOrder::Unlisten { name: name.clone() })
                    .await;
            }
        }
    }
}

fn warn_of_what_stays(running: &Config, read: &Config) {
    for (table, is_changed) in [
        ("node", running.node != read.node),
        ("admin", running.admin != read.admin),
        ("consul", running.consul != read.consul),
    ] {
        if is_changed {
            tracing::warn!("[{table}] is another now: it takes a restart to be in force");
        }
    }
}

/// What HUP reads and opens before anything changes.
fn read_again(
    file: &std::path::Path,
    known: &BTreeMap<Arc<str>, (SocketAddr, Scheme)>,
    owned: &[SocketAddr],
    workers: usize,
) -> Result<(Checked, Vec<Group>), String> {
    let checked = Checked::read(file).map_err(|mistakes| mistakes.join("; "))?;
    unusable_tokens(&checked.config)
        .iter()
        .for_each(|mistake| tracing::warn!("{mistake}"));
    let mut groups = Vec::new();
    for listener in &checked.config.listeners {
        let policy = &listener.policy;
        if known.get(&policy.name) == Some(&(policy.address, policy.scheme)) {
            continue;
        }
        let taken = if owned.contains(&policy.address) {
            Taken::Ours
        } else {
            Taken::Refuse
        };
        let group = open_group(policy.address, workers, taken);
        groups.push((
            policy.clone(),
            group.map_err(|error| format!("listener {}: {error}", policy.name))?,
        ));
    }
    Ok((checked, groups))
}
