//! An operator's drains here and their ends, as far back as any of them was in force: how long a server has been drained follows from
//! all of them. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use super::super::{Record, What};
use super::is_recent;
use crate::control::event::Event;
use crate::routing::operator::{Order, Target};

/// At most; of more the oldest are forgotten.
const WORDS: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Words(VecDeque<Arc<Record>>);

impl Words {
    /// Takes one that is newer than all before, and forgets what was over long ago.
    pub(super) fn take(&mut self, record: &Arc<Record>) {
        self.0.push_back(record.clone());
        let mut begun: BTreeMap<&Target, Option<SystemTime>> = BTreeMap::new();
        let (mut keep_from, mut last) = (0, None);
        for (place, word) in self.0.iter().enumerate() {
            begun.retain(|_, until| until.is_none_or(|until| until > word.at));
            let was_long_ago = last.is_some_and(|last| !is_recent(last, record.at));
            if begun.is_empty() && was_long_ago {
                keep_from = place;
            }
            last = Some(word.at);
            match &word.what {
                What::Event(Event::Ordered(Order::Drain {
                    target, lasting, ..
                })) => {
                    let until = lasting.and_then(|span| word.at.checked_add(span));
                    begun.insert(target, until);
                }
                What::Event(Event::Ordered(Order::Undrain { target, .. })) => {
                    begun.remove(target);
                }
                What::Begin(_)
                | What::Event(_)
                | What::Changes(_)
                | What::Restated
                | What::Table { .. } => {}
            }
        }
        let beyond = self.0.len().saturating_sub(WORDS);
        self.0.drain(..keep_from.max(beyond));
    }

    pub(super) fn told(&self) -> impl Iterator<Item = Arc<Record>> {
        self.0.iter().cloned()
    }
}
