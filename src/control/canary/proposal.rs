//! What is tried, as it lies in KV: a head, the documents as they would be, the names of those that would not be any more. Pure.

use std::sync::Arc;

use crate::control::consul::Document;
use crate::routing::canary::Canary;
use crate::routing::staged::Kind;

/// Names below `canary/`.
pub const HEAD: &str = "head";
const CHANGED: &str = "config/";
const GONE: &str = "gone/";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub canary: Arc<Canary>,
    /// By path; None: it would be gone.
    changes: Vec<(String, Option<Document>)>,
}

impl Proposal {
    /// Of all that lies below `canary/`, named by what follows that. None: there is no head, so nothing is tried (yet, or any more).
    ///
    /// # Errors
    /// Why the head cannot be read.
    pub fn read(below: &[Document]) -> Result<Option<Proposal>, String> {
        let Some(head) = below.iter().find(|document| document.name == HEAD) else {
            return Ok(None);
        };
        let canary: Canary =
            serde_json::from_slice(&head.value).map_err(|error| error.to_string())?;
        let change = |document: &Document| {
            let name = document.name.as_str();
            if let Some(path) = name.strip_prefix(GONE) {
                return Some((path.to_owned(), None));
            }
            let path = name.strip_prefix(CHANGED)?.to_owned();
            Some((path, Some(document.clone())))
        };
        Ok(Some(Proposal {
            canary: Arc::new(canary),
            changes: below.iter().filter_map(change).collect(),
        }))
    }

    /// The key of a document that would be so, or (without a text) would be gone.
    pub fn key(path: &str, text: Option<&str>) -> String {
        let kind = match text {
            Some(_) => CHANGED,
            None => GONE,
        };
        format!("canary/{kind}{path}")
    }

    /// What would be of each document: its bytes; None: it would be gone.
    pub fn changes(&self) -> impl Iterator<Item = (&str, Option<&Arc<[u8]>>)> {
        let changes = self.changes.iter();
        changes.map(|(path, document)| (path.as_str(), document.as_ref().map(|one| &one.value)))
    }

    /// The same of one kind, by name, as a watch of it would say them.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (String, Option<Document>)> {
        let of_kind = move |(path, document): &(String, Option<Document>)| {
            let (of, name) = Kind::parted(path)?;
            let document = document.as_ref().map(|document| Document {
                name: name.to_owned(),
                ..document.clone()
            });
            (of == kind).then(|| (name.to_owned(), document))
        };
        self.changes.iter().filter_map(of_kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str, value: &str) -> Document {
        Document {
            name: name.into(),
            value: value.as_bytes().into(),
            create_index: 1,
            modify_index: 1,
            is_locked: false,
        }
    }

    #[test]
    fn without_its_head_nothing_is_tried() {
        let service = document("config/services/shop", "{}");
        assert_eq!(
            Proposal::read(std::slice::from_ref(&service)).unwrap(),
            None
        );
        let head = serde_json::to_string(&Canary::default()).unwrap();
        let all = [
            service,
            document("gone/routes/old", ""),
            document("head", &head),
        ];
        let proposal = Proposal::read(&all).unwrap().unwrap();
        let paths: Vec<_> = proposal.changes().map(|(path, _)| path).collect();
        assert_eq!(paths, ["services/shop", "routes/old"]);
        let services: Vec<_> = proposal.of_kind(Kind::Services).collect();
        assert_eq!(services[0].0, "shop");
        assert_eq!(services[0].1.as_ref().unwrap().name, "shop");
        assert_eq!(
            proposal.of_kind(Kind::Routes).collect::<Vec<_>>(),
            [("old".to_owned(), None)]
        );
        assert!(Proposal::read(&[document("head", "nonsense")]).is_err());
    }
}
