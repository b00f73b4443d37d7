//! Which documents are written in which transaction: what is added before what needs it, what is removed after what needed it. Pure.

use super::live::Live;
use crate::routing::staged::{DocumentChange, Kind, Staged};

/// Changes that go as one transaction, with places left for what is said of them and for a canary's head.
pub const SINGLE: usize = 62;
/// Changes of one transaction among several, with places left for the mark's check besides.
pub const BATCH: usize = 61;
/// Bytes of values in one transaction: Consul takes 512 KiB of JSON, in which they are a third longer.
pub const BATCH_BYTES: usize = 300 * 1024;

/// One document to be written, or (without a text) to be deleted, if it still is at this index; 0: if there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub path: String,
    pub text: Option<String>,
    pub index: u64,
}

/// Transactions in their order; one, where all fits.
pub fn batches(staged: &Staged, live: &Live) -> Vec<Vec<Write>> {
    parted(writes(staged, live))
}

/// What has to be written and deleted.
pub fn writes(staged: &Staged, live: &Live) -> Vec<Write> {
    let write = |change: DocumentChange| Write {
        text: staged.documents.get(&change.path).cloned(),
        index: live.get(&change.path).map_or(0, |known| known.modify_index),
        path: change.path,
    };
    live.changes(staged).into_iter().map(write).collect()
}

/// The same, as transactions in their order.
pub fn parted(mut writes: Vec<Write>) -> Vec<Vec<Write>> {
    writes.sort_by_key(rank);
    let total: usize = writes.iter().map(size).sum();
    if writes.len() <= SINGLE && total <= BATCH_BYTES {
        return match writes.is_empty() {
            true => Vec::new(),
            false => vec![writes],
        };
    }
    let mut batches: Vec<Vec<Write>> = Vec::new();
    let mut room = 0;
    for write in writes {
        let bytes = size(&write);
        match batches.last_mut() {
            Some(last) if last.len() < BATCH && bytes <= room => {
                room -= bytes;
                last.push(write);
            }
            _ => {
                room = BATCH_BYTES.saturating_sub(bytes);
                batches.push(vec![write]);
            }
        }
    }
    batches
}

/// Services come before what names them, and go after it.
fn rank(write: &Write) -> (u8, String) {
    let kind = Kind::of(&write.path).unwrap_or(Kind::Tuning);
    let rank = match (&write.text, kind) {
        (Some(_), Kind::Services) => 0,
        (Some(_), Kind::Tuning) => 1,
        (Some(_), Kind::Routes) => 2,
        (Some(_), Kind::Domains) => 3,
        (None, Kind::Domains) => 4,
        (None, Kind::Routes) => 5,
        (None, Kind::Tuning) => 6,
        (None, Kind::Services) => 7,
    };
    (rank, write.path.clone())
}

fn size(write: &Write) -> usize {
    write.text.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::consul::Document;

    fn live(paths: impl Iterator<Item = String>) -> Live {
        let document = |name| Document {
            name,
            value: b"old".as_slice().into(),
            create_index: 1,
            modify_index: 9,
            is_locked: false,
        };
        Live::of(paths.map(document).collect())
    }

    fn staged(documents: impl Iterator<Item = (String, String)>) -> Staged {
        Staged {
            kinds: Kind::ALL.into(),
            documents: documents.collect(),
        }
    }

    #[test]
    fn what_is_needed_is_written_first_and_removed_last() {
        let live = live(
            ["services/old", "routes/old", "routes/kept"]
                .map(String::from)
                .into_iter(),
        );
        let staged = staged(
            [
                "routes/new",
                "services/new",
                "domains/a.test",
                "routes/kept",
                "tuning",
            ]
            .map(|path| (path.to_owned(), "new".to_owned()))
            .into_iter(),
        );
        let batches = batches(&staged, &live);
        assert_eq!(batches.len(), 1);
        let order: Vec<(&str, u64)> = batches[0].iter().map(|w| (&*w.path, w.index)).collect();
        assert_eq!(
            order,
            [
                ("services/new", 0),
                ("tuning", 0),
                ("routes/kept", 9),
                ("routes/new", 0),
                ("domains/a.test", 0),
                ("routes/old", 9),
                ("services/old", 9),
            ]
        );
        assert!(batches[0][5].text.is_none());
    }

    #[test]
    fn nothing_to_write_is_no_transaction() {
        assert!(batches(&Staged::default(), &live(std::iter::empty())).is_empty());
    }

    #[test]
    fn a_transaction_has_no_more_steps_and_bytes_than_consul_takes() {
        let many = |count: usize, bytes: usize| {
            let documents = (0..count).map(|n| (format!("routes/{n:03}"), "x".repeat(bytes)));
            batches(&staged(documents), &live(std::iter::empty()))
        };
        let sizes = |batches: &[Vec<Write>]| batches.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&many(SINGLE, 1)), [SINGLE]);
        assert_eq!(sizes(&many(SINGLE + 1, 1)), [BATCH, 2]);
        assert_eq!(sizes(&many(3, 200 * 1024)), [1, 1, 1]);
        assert_eq!(sizes(&many(4, 100 * 1024)), [3, 1]);
    }
}
