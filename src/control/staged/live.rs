//! The documents of a pod as they stand in KV at one moment, by path. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::control::consul::{Document, Subtree};
use crate::routing::staged::{Basis, Change, DocumentChange, Kind, Staged};

/// All documents by path; what lies beside the kinds is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live(BTreeMap<String, Document>);

/// What the watches last said, of documents and of the mark of a change that is being written.
#[derive(Clone, Debug, Default)]
pub struct Heard(BTreeMap<Subtree, Arc<[Document]>>);

impl Heard {
    /// Takes an answer; of other subtrees nothing is noted.
    pub fn hear(&mut self, of: Subtree, documents: &Arc<[Document]>) {
        if of == Subtree::Apply || Kind::ALL.map(subtree).contains(&of) {
            self.0.insert(of, documents.clone());
        }
    }

    pub fn is_marked(&self) -> bool {
        let mark = self.0.get(&Subtree::Apply);
        mark.is_some_and(|documents| !documents.is_empty())
    }

    /// The documents as far as the watches know; None: of a kind nothing was said yet.
    pub fn live(&self) -> Option<Live> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            for document in self.0.get(&subtree(kind))?.iter() {
                let name = match document.name.as_str() {
                    "" => kind.word().to_owned(),
                    name => format!("{}/{name}", kind.word()),
                };
                let document = document.clone();
                all.push(Document { name, ..document });
            }
        }
        Some(Live::of(all))
    }
}

/// The subtree that a kind's documents are watched by.
pub fn subtree(kind: Kind) -> Subtree {
    match kind {
        Kind::Services => Subtree::Services,
        Kind::Routes => Subtree::Routes,
        Kind::Domains => Subtree::Domains,
        Kind::Tuning => Subtree::Tuning,
    }
}

impl Live {
    /// Of a listing of all keys below `config/`, named by what follows that.
    pub fn of(listed: Vec<Document>) -> Live {
        let by_path = listed
            .into_iter()
            .filter(|document| Kind::of(&document.name).is_some());
        Live(
            by_path
                .map(|document| (document.name.clone(), document))
                .collect(),
        )
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Document)> {
        self.0.iter()
    }

    pub fn get(&self, path: &str) -> Option<&Document> {
        self.0.get(path)
    }

    /// Paths and documents of some kinds.
    pub fn of_kinds(&self, kinds: &BTreeSet<Kind>) -> impl Iterator<Item = (&String, &Document)> {
        let is_among = move |path: &str| Kind::of(path).is_some_and(|kind| kinds.contains(&kind));
        self.0.iter().filter(move |(path, _)| is_among(path))
    }

    /// As the watch of each subtree would say it.
    pub fn answers(&self) -> Vec<(Subtree, Vec<Document>)> {
        let answer = |kind: Kind| {
            let of_kind = self.0.iter().filter_map(|(path, document)| {
                let (of, name) = Kind::parted(path)?;
                (of == kind).then(|| named(name, document))
            });
            (subtree(kind), of_kind.collect())
        };
        Kind::ALL.map(answer).into()
    }

    /// As the watches would say it once `staged` stood there.
    pub fn answers_with(&self, staged: &Staged) -> Vec<(Subtree, Vec<Document>)> {
        let answer = |kind: &Kind| {
            let of_kind = staged.documents.iter().filter_map(|(path, text)| {
                let (of, name) = Kind::parted(path)?;
                (of == *kind).then(|| Document {
                    name: name.to_owned(),
                    value: text.as_bytes().into(),
                    // New ones are the youngest.
                    create_index: self.get(path).map_or(u64::MAX, |known| known.create_index),
                    modify_index: 0,
                    is_locked: false,
                })
            });
            (subtree(*kind), of_kind.collect())
        };
        staged.kinds.iter().map(answer).collect()
    }

    pub fn basis(&self, kinds: &BTreeSet<Kind>) -> Basis {
        self.of_kinds(kinds)
            .map(|(path, document)| (path.clone(), document.modify_index))
            .collect()
    }

    /// What would have to be written and deleted, by path.
    pub fn changes(&self, staged: &Staged) -> Vec<DocumentChange> {
        let removed = self
            .of_kinds(&staged.kinds)
            .filter(|(path, _)| !staged.documents.contains_key(*path))
            .map(|(path, _)| (path, Change::Removed));
        let written = staged.documents.iter().filter_map(|(path, text)| {
            let change = match self.get(path) {
                None => Change::Added,
                Some(known) if *known.value != *text.as_bytes() => Change::Changed,
                Some(_) => return None,
            };
            Some((path, change))
        });
        let change = |(path, change): (&String, Change)| DocumentChange {
            path: path.clone(),
            change,
        };
        let mut changes: Vec<DocumentChange> = removed.chain(written).map(change).collect();
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        changes
    }
}

/// What happened to documents between two readings, by path.
pub fn moved(before: &Basis, now: &Basis) -> Vec<DocumentChange> {
    let paths: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let change = |path: &String| {
        let change = match (before.get(path), now.get(path)) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (before, now) if before != now => Change::Changed,
            _ => return None,
        };
        Some(DocumentChange {
            path: path.clone(),
            change,
        })
    };
    paths.into_iter().filter_map(change).collect()
}

fn named(name: &str, document: &Document) -> Document {
    Document {
        name: name.to_owned(),
        ..document.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str, value: &str, index: u64) -> Document {
        Document {
            name: name.to_owned(),
            value: value.as_bytes().into(),
            create_index: index,
            modify_index: index,
            is_locked: false,
        }
    }

    fn live() -> Live {
        Live::of(vec![
            document("routes/a", "1", 3),
            document("routes/b", "2", 4),
            document("services/s", "{}", 5),
            document("tuning", "", 6),
            document("tunign", "", 7),
            document("routes/", "", 8),
        ])
    }

    #[test]
    fn what_the_watches_say_is_what_a_listing_says() {
        let of = |name: &str, text: &str, index: u64| -> Arc<[Document]> {
            [document(name, text, index)].into()
        };
        let mut heard = Heard::default();
        heard.hear(Subtree::Services, &of("s", "{}", 5));
        heard.hear(Subtree::Tuning, &of("", "", 6));
        heard.hear(Subtree::Domains, &Arc::default());
        assert_eq!(heard.live(), None, "nothing was said of routes");
        let routes = [
            document("a", "1", 3),
            document("b", "2", 4),
            document("", "", 8),
        ];
        heard.hear(Subtree::Routes, &routes.into());
        assert_eq!(heard.live(), Some(live()));
        assert!(!heard.is_marked());
        heard.hear(Subtree::Apply, &of("", "lb-1", 9));
        assert!(heard.is_marked());
    }

    #[test]
    fn what_a_folder_lacks_is_removed_and_kinds_that_it_does_not_have_are_left_alone() {
        let staged = Staged {
            kinds: [Kind::Routes].into(),
            documents: [("routes/b", "2"), ("routes/c", "3")]
                .map(|(path, text)| (path.to_owned(), text.to_owned()))
                .into(),
        };
        let changes = live().changes(&staged);
        let changes: Vec<_> = changes.iter().map(|c| (&*c.path, c.change)).collect();
        assert_eq!(
            changes,
            [("routes/a", Change::Removed), ("routes/c", Change::Added)]
        );
        let basis = live().basis(&staged.kinds);
        assert_eq!(
            basis,
            [("routes/a".to_owned(), 3), ("routes/b".to_owned(), 4)].into()
        );
        let answers = live().answers_with(&staged);
        assert_eq!(answers.len(), 1);
        let created: Vec<u64> = answers[0].1.iter().map(|d| d.create_index).collect();
        assert_eq!(created, [4, u64::MAX]);
    }
}
