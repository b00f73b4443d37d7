//! When the table is kept: a moment after it changed, however often it does, and now and then while nothing does, so that it is
//! never told to be much older than it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::format::{milliseconds, moment};
use super::table::Table;
use super::{Content, Keeper, TABLE};
use crate::control::mistake::Mistake;
use crate::control::model::Model;
use crate::telemetry::{Vitals, rfc3339};

/// Changes of so long are one file.
const SETTLING: Duration = Duration::from_secs(1);
/// What did not change is kept anew after so long, since Consul has said it again.
const REFRESH_EACH: Duration = Duration::from_secs(300);

pub struct Keeping {
    keeper: Keeper,
    /// Taken once, at the start.
    pub recalled: Option<Table>,
    vitals: Arc<Vitals>,
    troubles: watch::Receiver<BTreeMap<PathBuf, Mistake>>,
    /// The model's revision that was kept last, or is due to be.
    revision: u64,
    due: Option<Instant>,
    refresh: Instant,
    /// When Consul was last heard, of what was kept last.
    heard: Option<SystemTime>,
}

/// What is to be done.
pub enum Due {
    Keep,
    /// Of files; all that there are now.
    Tell(Vec<Mistake>),
}

impl Keeping {
    /// Reads what was kept. Blocking.
    pub fn begin(keeper: Keeper, vitals: Arc<Vitals>) -> Keeping {
        let recalled = keeper.recall_table();
        if let Some(table) = &recalled {
            let (heard, extent) = (table.heard, table.extent());
            vitals.remember_discovery(milliseconds(heard).cast_signed());
            tracing::info!(heard = rfc3339::text(heard), "remembered: {extent}");
        }
        let mut troubles = keeper.troubles();
        troubles.mark_changed();
        Keeping {
            recalled,
            vitals,
            troubles,
            keeper,
            revision: 0,
            due: None,
            refresh: Instant::now() + REFRESH_EACH,
            heard: None,
        }
    }

    /// The model is as it will be published.
    pub fn see(&mut self, model: &Model) {
        if model.revision() != self.revision {
            self.revision = model.revision();
            self.due.get_or_insert_with(|| Instant::now() + SETTLING);
        }
    }

    pub async fn next(&mut self) -> Due {
        let at = self.due.unwrap_or(self.refresh);
        tokio::select! {
            Ok(()) = self.troubles.changed() => {
                Due::Tell(self.troubles.borrow_and_update().values().cloned().collect())
            }
            () = sleep_until(at) => Due::Keep,
        }
    }

    /// Has it kept, if the model knows enough to be worth more than what lies there.
    pub fn keep(&mut self, model: &Model) {
        let is_news = self.due.take().is_some();
        self.refresh = Instant::now() + REFRESH_EACH;
        let heard = self.last_heard();
        let is_due = is_news || self.heard != Some(heard);
        let Some(table) = model.kept(heard).filter(|_| is_due) else {
            return;
        };
        self.heard = Some(heard);
        let table = Content::Table(Box::new(table));
        match is_news {
            true => self.keeper.keep(TABLE, table),
            false => self.keeper.keep_anew(TABLE, table),
        }
    }

    /// Where Consul answers although some watch has failed from the start, the start is the last moment that is certain.
    fn last_heard(&self) -> SystemTime {
        match self.vitals.discovery_contact_ms.load(Relaxed) {
            0 => self.vitals.started_at,
            contact => moment(contact.unsigned_abs()),
        }
    }
}
