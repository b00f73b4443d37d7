//! HUP: a file that was read again is put in force as a whole or not at all.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::launch::open_log;
use super::reading::{Present, Read};
use super::{Door, Process};
use crate::app::checked::warnings;
use crate::app::sockets::Group;
use crate::config::Config;
use crate::control;
use crate::proxy::WorkerOrder;
use crate::telemetry::access_log;

impl Process {
    /// HUP: begins to read the file.
    pub(super) fn read_again(&mut self) {
        self.reading.begin(Present {
            certificates: self.certificate_reader.full(),
            doors: self
                .doors
                .values()
                .map(|door| door.policy.clone())
                .collect(),
            workers: self.orders.len(),
        });
    }

    /// Puts in force what was read: all of the file but `[node]`, `[admin]` and `[consul]`. A bad file changes nothing.
    pub(super) async fn reload(&mut self, read: Result<Read, String>, handle: &control::Handle) {
        match self.try_reload(read, handle).await {
            Ok(()) => {
                self.vitals.reloads.fetch_add(1, Relaxed);
                tracing::info!("the file was read again and is in force");
            }
            Err(error) => {
                self.vitals.reloads_failed.fetch_add(1, Relaxed);
                tracing::error!("the file was read again and refused, nothing changed: {error}");
            }
        }
        if self.reading.is_wanted_again() {
            self.read_again();
        }
    }

    async fn try_reload(
        &mut self,
        read: Result<Read, String>,
        handle: &control::Handle,
    ) -> Result<(), String> {
        let Read { checked, groups } = read?;
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
        self.renew_terms()?;
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

    /// Listeners that ask for something else of their clients do so from the next handshake on. The others keep their settings, and
    /// with them the keys of their tickets.
    fn renew_terms(&mut self) -> Result<(), String> {
        let store = self.certificate_reader.load();
        let is_changed = |(name, door): &(&Arc<str>, &Door)| match &door.tls {
            Some(tls) => store.terms(name) != Some(&tls.terms),
            None => false,
        };
        let changed = self.doors.iter().filter(is_changed);
        let changed: Vec<Arc<str>> = changed.map(|(name, _)| name.clone()).collect();
        drop(store);
        for name in changed {
            let (terms, settings) = self.tls_settings(&name)?;
            if let Some(tls) = self.doors.get_mut(&name).and_then(|door| door.tls.as_mut()) {
                tls.terms = terms;
                tls.settings.publish(settings);
            }
        }
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
