//! Whether the store is the one whose certificates are known, or one that lost its state.
//!
//! A token that lost its rights is refused, not told that there is nothing, so it looks like neither.

use super::super::keys;
use crate::control::store::{Store, StoreError};

/// The store whose certificates are known, by its pod's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Pod {
    #[default]
    Unknown,
    Missing,
    Is(Vec<u8>),
    /// It has lost its state, and not all that is known is there again.
    Lost,
}

/// The account's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Account {
    There,
    /// Something is there that cannot be opened here.
    Broken,
    Missing,
}

/// What is to be made of certificates that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// Somebody took them out.
    Yes,
    /// Nobody can say why: what is known stays.
    Doubted,
    /// The store lost its state, and has them back from whoever holds them.
    No,
}

impl Pod {
    /// All that is known is there: this is the store that it is known of.
    pub(super) async fn know(&mut self, store: &Store) {
        match store.read(keys::POD).await {
            Ok(Some(id)) => *self = Pod::Is(id.value.to_vec()),
            Ok(None) => *self = Pod::Missing,
            // Nobody knows.
            Err(_) => {}
        }
    }

    /// Asked before certificates are looked for: those that are written back are there before the account's key is.
    pub(super) async fn is_whole(&mut self, store: &Store) -> Result<Whole, StoreError> {
        let id = store.read(keys::POD).await?.map(|id| id.value.to_vec());
        let account = match store.read(keys::ACCOUNT_KEY).await {
            Ok(Some(_)) => Account::There,
            Ok(None) => Account::Missing,
            Err(StoreError::Broken { .. }) => Account::Broken,
            Err(error) => return Err(error),
        };
        let whole = self.judge(id, account);
        if whole == Whole::No {
            *self = Pod::Lost;
        }
        Ok(whole)
    }

    /// Another id is another store's; and who empties a store takes both id and account out. What goes while one of them stays was
    /// taken out by somebody.
    fn judge(&self, id: Option<Vec<u8>>, account: Account) -> Whole {
        match (self, id, account) {
            (Pod::Lost, _, _) | (Pod::Is(_) | Pod::Missing, None, Account::Missing) => Whole::No,
            (Pod::Is(known), Some(id), _) if *known != id => Whole::No,
            (_, _, Account::There) => Whole::Yes,
            (_, _, Account::Broken | Account::Missing) => Whole::Doubted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_pods_id_or_a_store_without_any_has_lost_its_state() {
        let (old, new) = (|| Some(b"old".to_vec()), || Some(b"new".to_vec()));
        let known = Pod::Is(b"old".to_vec());
        use Account::{Broken, Missing, There};
        for (pod, id, account, whole) in [
            (&known, old(), There, Whole::Yes),
            (&known, old(), Missing, Whole::Doubted),
            (&known, None, There, Whole::Yes),
            (&known, None, Missing, Whole::No),
            (&known, new(), Missing, Whole::No),
            (&known, new(), There, Whole::No),
            (&Pod::Missing, None, Missing, Whole::No),
            (&Pod::Missing, new(), There, Whole::Yes),
            (&Pod::Unknown, None, Missing, Whole::Doubted),
            (&Pod::Unknown, new(), There, Whole::Yes),
            (&known, None, Broken, Whole::Doubted),
            (&Pod::Lost, new(), There, Whole::No),
        ] {
            assert_eq!(pod.judge(id.clone(), account), whole, "{pod:?} {id:?}");
        }
    }
}
