//! HUP: the file is read again, and put in force as a whole or not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Process;
use super::launch::open_log;
use crate::app::secrets::{keyring, unusable_tokens};
use crate::app::sockets::{Group, Taken, open_group};
use crate::certs::{self, CertStore};
use crate::config::{self, Config};
use crate::control;
use crate::proxy::WorkerOrder;
use crate::routing::Scheme;
use crate::seal::Keyring;
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
        let (config, store, keyring, groups) = read.map_err(|error| error.to_string())??;
        warn_of_what_stays(&self.config, &config);
        let log_changed = config.access_log != self.config.access_log;
        let new_log = if log_changed {
            Some(open_log(config.access_log.as_ref(), &self.vitals)?)
        } else {
            None
        };
        store
            .warnings()
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        let config = Arc::new(config);
        handle.reload(config.clone(), keyring, store).await?;
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
        // What HUP cannot change stays as it was started with, so that it is named again the next time.
        self.config = Arc::new(Config {
            node: self.config.node.clone(),
            admin: self.config.admin.clone(),
            consul: self.config.consul.clone(),
            ..Config::clone(&config)
        });
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

type ReadAgain = (Config, CertStore, Option<Arc<Keyring>>, Vec<Group>);

/// What HUP reads and opens before anything changes.
fn read_again(
    file: &std::path::Path,
    known: &BTreeMap<Arc<str>, (SocketAddr, Scheme)>,
    owned: &[SocketAddr],
    workers: usize,
) -> Result<ReadAgain, String> {
    let config = config::load(file).map_err(|mistakes| mistakes.to_string())?;
    let store = certs::load(&config.listeners).map_err(|mistakes| one_line(&mistakes))?;
    let keyring = keyring(&config)?;
    unusable_tokens(&config)
        .iter()
        .for_each(|mistake| tracing::warn!("{mistake}"));
    let mut groups = Vec::new();
    for listener in &config.listeners {
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
    Ok((config, store, keyring, groups))
}

/// Several mistakes in one message.
fn one_line<T: std::fmt::Display>(mistakes: &[T]) -> String {
    mistakes
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
