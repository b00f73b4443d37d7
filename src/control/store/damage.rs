//! What lies in the store and nobody can read counts as nothing: it is named once, and whoever writes next writes over it.
//!
//! What is merely sealed with a key that is not here is another matter: others may read it, and it is never passed over.

use std::collections::HashMap;
use std::sync::Mutex;

use super::{Entry, Flaw, Store, StoreError};

/// Damaged keys that are remembered as named; with more of them some may be named twice.
const TOLD: usize = 10_000;

/// A value and what it is to be changed by.
pub struct Present<T> {
    pub value: T,
    /// 0: there is none.
    pub version: u64,
}

/// What was named, by place: a value that is damaged otherwise is named again.
#[derive(Default)]
pub(super) struct Told(Mutex<HashMap<String, u64>>);

impl Told {
    /// Whether it is news.
    fn note(&self, place: &str, version: u64) -> bool {
        let mut told = self.0.lock().expect("no panic while held");
        if told.len() >= TOLD {
            told.clear();
        }
        told.insert(place.to_owned(), version) != Some(version)
    }
}

impl Store {
    /// What was read of a key, parsed; None: there is nothing, or nothing that anybody can read. The error of `parse` is a message.
    ///
    /// # Errors
    /// What was read is one; but for a value that is damaged.
    pub fn present<T>(
        &self,
        key: &str,
        read: Result<Option<Entry>, StoreError>,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Present<Option<T>>, StoreError> {
        let (version, why) = match read {
            Ok(None) => {
                let (value, version) = (None, 0);
                return Ok(Present { value, version });
            }
            Ok(Some(Entry { value, version })) => match parse(&value) {
                Ok(value) => {
                    let value = Some(value);
                    return Ok(Present { value, version });
                }
                Err(why) => (version, why),
            },
            Err(StoreError::Broken {
                why,
                flaw: Flaw::Damaged,
                version,
                ..
            }) => (version, why),
            Err(error) => return Err(error),
        };
        self.tell_damage(key, version, &why);
        let value = None;
        Ok(Present { value, version })
    }

    /// Names a value that nobody can read, once.
    pub fn tell_damage(&self, key: &str, version: u64, why: &str) {
        let place = self.place(key);
        if self.told.note(&place, version) {
            tracing::warn!("{place}: {why}: it counts as nothing, and is written over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_news_once_for_each_value_and_is_remembered_within_a_bound() {
        let told = Told::default();
        assert!(told.note("kv:a", 1) && !told.note("kv:a", 1));
        assert!(told.note("kv:a", 2) && told.note("kv:b", 2));
        for number in 0..TOLD {
            told.note(&number.to_string(), 1);
        }
        assert!(told.0.lock().unwrap().len() <= TOLD);
    }
}
