//! Staged documents written: at once where they fit one transaction, else one after the other under the pod's mark.
//!
//! Of several transactions none is begun unless all documents are as they were read: under the mark they are looked at once more, so
//! that only who writes by hand while they are written leaves the first ones in force without the others.

use std::time::Duration;

use tokio::time::sleep;

use super::batches::Write;
use super::ledger::{Ledger, LedgerError, PENDING};
use super::revision::Pending;
use crate::control::store::{Change, Lease, Store, StoreError, Written};
use crate::routing::staged::StagingError;

/// There while a change of several transactions is written, and a lock: one such change at a time. It goes with the session of the
/// process that writes.
pub const MARK: &str = "apply";
/// There while a change is tried on some load balancers: no other one is written meanwhile.
pub const CANARY: &str = "canary/head";
/// How long every load balancer has to hear of the mark before the first document is written, and of the last one before it is gone.
const LEAD: Duration = Duration::from_millis(250);

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Somebody changed one of the documents since it was read; so many transactions stand.
    Conflict {
        done: usize,
    },
}

/// Writes transactions in their order; each is taken as a whole or not at all. The first one says whose they are, and is a conflict
/// beside a canary.
pub async fn write(
    store: &Store,
    ledger: &Ledger,
    batches: Vec<Vec<Write>>,
    pending: &Pending,
) -> Result<Outcome, StagingError> {
    write_with(store, ledger, batches, pending, Change::none_at(CANARY)).await
}

/// The same of a canary's own documents: `besides`, of its head, is a part of the first one.
pub async fn write_with(
    store: &Store,
    ledger: &Ledger,
    batches: Vec<Vec<Write>>,
    pending: &Pending,
    besides: Change,
) -> Result<Outcome, StagingError> {
    if store
        .read(MARK)
        .await
        .map_err(|error| refusal(&error))?
        .is_some()
    {
        return Err(under_way());
    }
    let first = vec![announcement(pending), besides];
    if batches.len() > 1 {
        return under_mark(store, ledger, batches, first).await;
    }
    for batch in begun_with(first, batches) {
        let written = store.write_all(batch).await;
        if written.map_err(|error| lost(&error, 0, 1))? == Written::Conflict {
            return Ok(Outcome::Conflict { done: 0 });
        }
    }
    Ok(Outcome::Done)
}

async fn under_mark(
    store: &Store,
    ledger: &Ledger,
    batches: Vec<Vec<Write>>,
    first: Vec<Change>,
) -> Result<Outcome, StagingError> {
    let lease = store.lock(MARK).await.map_err(|error| refusal(&error))?;
    let lease = lease.ok_or_else(under_way)?;
    sleep(LEAD).await;
    let outcome = match are_as_read(ledger, &batches).await {
        Ok(true) => {
            let written = one_after_the_other(store, &lease, begun_with(first, batches)).await;
            sleep(LEAD).await;
            written
        }
        Ok(false) => Ok(Outcome::Conflict { done: 0 }),
        Err(error) => Err(StagingError::NoConsul(error.to_string())),
    };
    lease.release().await;
    outcome
}

/// Whether each document that is to be written is still at the version that it was read at.
async fn are_as_read(ledger: &Ledger, batches: &[Vec<Write>]) -> Result<bool, LedgerError> {
    let live = ledger.live().await?;
    let version = |path: &str| live.get(path).map_or(0, |known| known.modify_index);
    let mut writes = batches.iter().flatten();
    Ok(writes.all(|write| version(&write.path) == write.index))
}

/// As the store takes them; `first` is a part of the first one.
fn begun_with(first: Vec<Change>, batches: Vec<Vec<Write>>) -> Vec<Vec<Change>> {
    let mut batches: Vec<Vec<Change>> = batches.into_iter().map(changes).collect();
    if let Some(batch) = batches.first_mut() {
        batch.extend(first);
    }
    batches
}

async fn one_after_the_other(
    store: &Store,
    lease: &Lease,
    batches: Vec<Vec<Change>>,
) -> Result<Outcome, StagingError> {
    let of = batches.len();
    for (done, batch) in batches.into_iter().enumerate() {
        let written = store.transact(lease, batch).await;
        if written.map_err(|error| lost(&error, done, of))? == Written::Conflict {
            return Ok(Outcome::Conflict { done });
        }
    }
    Ok(Outcome::Done)
}

fn changes(batch: Vec<Write>) -> Vec<Change> {
    let change = |write: Write| {
        let key = format!("config/{}", write.path);
        let version = write.index;
        match write.text {
            Some(text) => Change::Put {
                key,
                value: text.into_bytes().into(),
                version,
            },
            None => Change::Delete { key, version },
        }
    };
    batch.into_iter().map(change).collect()
}

fn announcement(pending: &Pending) -> Change {
    let value = serde_json::to_vec(pending).expect("it has text keys alone");
    Change::Put {
        key: format!("{PENDING}{:032x}", fastrand::u128(..)),
        value: value.into(),
        version: 0,
    }
}

fn under_way() -> StagingError {
    StagingError::Refused("another change of several transactions is being written".to_owned())
}

/// Why the store did not do it, as whoever asked is told.
pub fn refusal(error: &StoreError) -> StagingError {
    match error {
        StoreError::Away(why) => StagingError::NoConsul(why.clone()),
        StoreError::Broken { .. } | StoreError::Refused(_) => {
            StagingError::Refused(error.to_string())
        }
    }
}

/// The answer to a transaction may have been lost on its way.
fn lost(error: &StoreError, done: usize, of: usize) -> StagingError {
    match error {
        StoreError::Away(why) => StagingError::NoConsul(format!(
            "{why}: {done} of {of} transactions were written, the next one perhaps: rota plan says what is left"
        )),
        StoreError::Broken { .. } | StoreError::Refused(_) => {
            StagingError::Refused(format!("{error}: {done} of {of} transactions were written"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::consul::Client;
    use crate::control::tests::file;

    fn pending() -> Pending {
        Pending {
            by: "ops".into(),
            note: String::new(),
            state: String::new(),
        }
    }

    #[tokio::test]
    async fn a_change_that_was_read_before_a_canary_began_is_not_written_beside_it() {
        let folder = std::env::temp_dir().join(format!("rota-apply-{}", std::process::id()));
        let store = Store::in_directory(&folder, None).unwrap();
        let consul = file("[consul]\nprefix = \"rota/p\"\n")
            .consul
            .clone()
            .unwrap();
        let ledger = Ledger::new(Client::new(&consul).unwrap(), "rota/p");
        let shop = |index| {
            vec![vec![Write {
                path: "services/shop".into(),
                text: Some("{}".into()),
                index,
            }]]
        };
        let canary = |version| Change::Put {
            key: CANARY.to_owned(),
            value: b"{}".to_vec().into(),
            version,
        };
        assert_eq!(store.write(canary(0)).await, Ok(Written::Done));
        let written = write(&store, &ledger, shop(0), &pending()).await.unwrap();
        assert_eq!(written, Outcome::Conflict { done: 0 });
        let there = store.read("config/services/shop").await;
        assert!(there.unwrap().is_none());
        let head = store.read(CANARY).await.unwrap().unwrap().version;
        let own = write_with(&store, &ledger, shop(0), &pending(), canary(head)).await;
        assert_eq!(own.unwrap(), Outcome::Done, "the canary's own are");
        drop(store);
        let _ = std::fs::remove_dir_all(folder);
    }
}
