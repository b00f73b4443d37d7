//! Documents in the journal: all of a subtree once in a segment, then what each answer changed, since of ten thousand one changes. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::control::consul::{Document, Observation, Subtree};
use crate::control::event::Event;

/// One answer about a subtree, by what it is apart from the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    subtree: Subtree,
    put: Vec<Document>,
    gone: Vec<String>,
}

/// The newest answer about each subtree, as it was written or read.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<Subtree, Arc<[Document]>>);

impl Answers {
    /// Notes an event that is there as a whole.
    pub fn see(&mut self, event: &Event) {
        if let Event::Consul(Observation::Documents { subtree, documents }) = event {
            self.0.insert(*subtree, documents.clone());
        }
    }

    /// What to write instead of an event; None: it itself. Notes it either way.
    pub fn changes(&mut self, event: &Event) -> Option<Changes> {
        let Event::Consul(Observation::Documents { subtree, documents }) = event else {
            return None;
        };
        let before = self.0.insert(*subtree, documents.clone())?;
        changes(*subtree, &before, documents)
    }

    /// The event that these were written instead of, and notes it; None: what they change is not known.
    pub fn event(&mut self, changes: &Changes) -> Option<Event> {
        let before = self.0.get(&changes.subtree)?;
        let put = changes.put.iter().map(|document| &document.name);
        let touched: HashSet<&String> = changes.gone.iter().chain(put).collect();
        let stayed = before
            .iter()
            .filter(|document| !touched.contains(&document.name));
        let mut documents: Vec<Document> = stayed.chain(&changes.put).cloned().collect();
        documents.sort_by(|one, other| one.name.cmp(&other.name));
        let event = Event::Consul(Observation::Documents {
            subtree: changes.subtree,
            documents: documents.into(),
        });
        self.see(&event);
        Some(event)
    }
}

/// None: they are not sorted by name, as Consul's are.
fn changes(subtree: Subtree, before: &[Document], after: &[Document]) -> Option<Changes> {
    let by_name = |one: &Document, other: &Document| one.name < other.name;
    if !before.is_sorted_by(by_name) || !after.is_sorted_by(by_name) {
        return None;
    }
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => old.name.cmp(&new.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let (before, after) = match order {
            Ordering::Less => (old.next(), None),
            Ordering::Equal => (old.next(), new.next()),
            Ordering::Greater => (None, new.next()),
        };
        match (before, after) {
            (Some(before), None) => gone.push(before.name.clone()),
            (before, Some(after)) if before != Some(after) => put.push(after.clone()),
            (_, _) => {}
        }
    }
    Some(Changes { subtree, put, gone })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(texts: &BTreeMap<u8, u8>) -> Event {
        let documents = texts.iter().map(|(name, text)| Document {
            name: format!("{name:03}"),
            value: [*text].into(),
            create_index: 1,
            modify_index: 1,
            is_locked: false,
        });
        let documents = documents.collect();
        let subtree = Subtree::Routes;
        Event::Consul(Observation::Documents { subtree, documents })
    }

    proptest! {
        #[test]
        fn what_is_made_of_changes_is_what_they_were_made_of(
            answers in proptest::collection::vec(proptest::collection::btree_map(0u8..9, 0u8..3, 0..9), 1..9)
        ) {
            let (mut writer, mut reader) = (Answers::default(), Answers::default());
            for texts in answers {
                let event = answer(&texts);
                let read = match writer.changes(&event) {
                    Some(changes) => reader.event(&changes).unwrap(),
                    None => {
                        reader.see(&event);
                        event.clone()
                    }
                };
                prop_assert_eq!(format!("{read:?}"), format!("{event:?}"));
            }
        }
    }

    #[test]
    fn one_of_many_that_changes_is_all_that_is_written() {
        let mut writer = Answers::default();
        let mut texts: BTreeMap<u8, u8> = (0..200).map(|name| (name, 0)).collect();
        assert_eq!(
            writer.changes(&answer(&texts)),
            None,
            "the first as a whole"
        );
        texts.insert(7, 1);
        texts.remove(&9);
        let changes = writer.changes(&answer(&texts)).unwrap();
        let put: Vec<&str> = changes.put.iter().map(|put| put.name.as_str()).collect();
        assert_eq!((put, changes.gone), (vec!["007"], vec!["009".to_owned()]));
    }
}
