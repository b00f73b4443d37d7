//! The keys of a key file at work: the first seals, all open, and a sealed text says which one it needs.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::cipher::{Cipher, Secret};
use super::key_file::{self, KeyFileMistake};

/// What a sealed text begins with, its version included; then the key's name, a colon, and base64 of what [`Cipher::seal`] gives.
const FORMAT: &str = "rota1:";
/// What those of each version begin with; a number and a colon follow.
const FAMILY: &[u8] = b"rota";
/// Bytes of a key's name; in hex it is twice as long.
const NAME_BYTES: usize = 8;

/// What may be opened, and with what is sealed. `Debug` shows names of keys only.
pub struct Keyring {
    /// Never empty.
    keys: Vec<Key>,
}

struct Key {
    name: String,
    cipher: Cipher,
}

/// Why a sealed text cannot be opened. Names the place, never the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Not a text that rota sealed.
    NotSealed { place: String },
    /// Sealed by another version of rota, as it seems.
    OtherVersion { place: String },
    /// Sealed with a key that the key file doesn't have.
    UnknownKey { place: String, key: String },
    /// Changed since it was sealed, or sealed for another place.
    Tampered { place: String },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NotSealed { place } => write!(f, "{place}: not sealed by rota"),
            OpenError::OtherVersion { place } => {
                write!(f, "{place}: sealed by another version of rota")
            }
            OpenError::UnknownKey { place, key } => write!(
                f,
                "{place}: sealed with the key {key}, which the key file does not have"
            ),
            OpenError::Tampered { place } => write!(
                f,
                "{place}: changed since it was sealed, or sealed for another place"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    /// Whether somebody else may open it, with another key file or another version of rota: then nobody is to write over it.
    pub fn may_open_elsewhere(&self) -> bool {
        match self {
            OpenError::UnknownKey { .. } | OpenError::OtherVersion { .. } => true,
            OpenError::NotSealed { .. } | OpenError::Tampered { .. } => false,
        }
    }
}

impl Keyring {
    /// Reads a key file. Blocking.
    pub fn read(path: &Path) -> Result<Keyring, KeyFileMistake> {
        Ok(Keyring::of(&key_file::read(path)?))
    }

    /// At least one key; the first seals.
    pub fn of(secrets: &[Secret]) -> Keyring {
        assert!(!secrets.is_empty(), "a key file has a key");
        Keyring {
            keys: secrets.iter().map(Key::new).collect(),
        }
    }

    /// Takes the place it is for (a KV key, whole) and what is secret; gives a text for that place.
    pub fn seal(&self, place: &str, plain: &[u8]) -> String {
        let key = &self.keys[0];
        let sealed = key.cipher.seal(&bound_to(place), plain);
        format!("{FORMAT}{}:{}", key.name, STANDARD.encode(sealed))
    }

    /// What was sealed for this place.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let not_sealed = || match is_of_another_version(sealed) {
            true => OpenError::OtherVersion {
                place: place.to_owned(),
            },
            false => OpenError::NotSealed {
                place: place.to_owned(),
            },
        };
        let (name, encoded) = split(sealed).ok_or_else(not_sealed)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| not_sealed())?;
        let key = self.keys.iter().find(|key| key.name == name);
        let key = key.ok_or_else(|| OpenError::UnknownKey {
            place: place.to_owned(),
            key: name.to_owned(),
        })?;
        key.cipher
            .open(&bound_to(place), &bytes)
            .ok_or_else(|| OpenError::Tampered {
                place: place.to_owned(),
            })
    }

    /// Whether it is a text that rota sealed, with whatever key.
    pub fn is_sealed(text: &[u8]) -> bool {
        split(text).is_some()
    }

    /// Whether it would seal with the same key as another.
    pub fn seals_like(&self, other: &Keyring) -> bool {
        self.keys[0].name == other.keys[0].name
    }

    /// Whether a sealed text would be another today: it needs a key that is no longer the first.
    pub fn is_outdated(&self, sealed: &[u8]) -> bool {
        split(sealed).is_some_and(|(name, _)| name != self.keys[0].name)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.keys.iter().map(|key| &key.name);
        f.debug_list().entries(names).finish()
    }
}

impl Key {
    /// Name and cipher are derived, so that the one tells nothing of the other.
    fn new(secret: &Secret) -> Key {
        let name = secret.derive(&[b"rota: name of a key"]);
        let sealing = secret.derive(&[b"rota: sealing"]);
        Key {
            name: hex(&name.bytes()[..NAME_BYTES]),
            cipher: Cipher::new(&sealing),
        }
    }
}

/// The associated data.
fn bound_to(place: &str) -> Vec<u8> {
    [FORMAT.as_bytes(), place.as_bytes()].concat()
}

/// A key's name in the right shape, and the base64 behind it.
fn split(sealed: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(sealed).ok()?.trim_end();
    let (name, encoded) = text.strip_prefix(FORMAT)?.split_once(':')?;
    let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (name.len() == 2 * NAME_BYTES && name.bytes().all(lower_hex)).then_some((name, encoded))
}

fn is_of_another_version(sealed: &[u8]) -> bool {
    let number = |rest: &[u8]| rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    sealed.strip_prefix(FAMILY).is_some_and(|rest| {
        let digits = number(rest);
        digits > 0 && rest.get(digits) == Some(&b':') && !sealed.starts_with(FORMAT.as_bytes())
    })
}

/// In lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: &str = "rota/pod-1/acme/certs/a.test";

    fn keyring(keys: &[u8]) -> Keyring {
        let secrets: Vec<Secret> = keys.iter().map(|b| Secret::from_bytes([*b; 32])).collect();
        Keyring::of(&secrets)
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = keyring(&[1]).seal(PLACE, b"secret");
        let appended = keyring(&[1, 2]);
        let moved_up = keyring(&[2, 1]);
        assert_eq!(
            moved_up.open(PLACE, old.as_bytes()).unwrap().as_slice(),
            b"secret"
        );
        assert!(moved_up.is_outdated(old.as_bytes()) && !appended.is_outdated(old.as_bytes()));
        let new = moved_up.seal(PLACE, b"secret");
        assert_eq!(
            appended.open(PLACE, new.as_bytes()).unwrap().as_slice(),
            b"secret"
        );
        assert!(!moved_up.is_outdated(new.as_bytes()));
    }

    #[test]
    fn what_cannot_be_opened_says_why_and_where() {
        let sealed = keyring(&[1]).seal(PLACE, b"secret");
        let foreign = keyring(&[2]).open(PLACE, sealed.as_bytes()).unwrap_err();
        let named = keyring(&[1]).keys[0].name.clone();
        assert_eq!(
            foreign.to_string(),
            format!("{PLACE}: sealed with the key {named}, which the key file does not have")
        );
        let moved = "rota/pod-1/acme/certs/b.test";
        let error = keyring(&[1]).open(moved, sealed.as_bytes()).unwrap_err();
        assert!(matches!(error, OpenError::Tampered { .. }), "{error}");
        for foreign in ["", "rota1", "rota1::", "rota:", "rota2", "{}"] {
            let error = keyring(&[1]).open(PLACE, foreign.as_bytes()).unwrap_err();
            assert!(matches!(error, OpenError::NotSealed { .. }), "{foreign}");
        }
        let later = "rota2:0123456789abcdef:AAAA";
        let error = keyring(&[1]).open(PLACE, later.as_bytes()).unwrap_err();
        assert!(matches!(error, OpenError::OtherVersion { .. }), "{error}");
    }

    #[test]
    fn a_key_claimed_by_another_ciphertext_opens_nothing() {
        let both = keyring(&[1, 2]);
        let sealed = keyring(&[1]).seal(PLACE, b"secret");
        let swapped = sealed.replace(&both.keys[0].name, &both.keys[1].name);
        let error = both.open(PLACE, swapped.as_bytes()).unwrap_err();
        assert!(matches!(error, OpenError::Tampered { .. }), "{error}");
    }

    #[test]
    fn nothing_of_a_key_or_a_secret_is_shown() {
        let keys = keyring(&[1]);
        let text = format!("{keys:?} {}", keys.seal(PLACE, b"secret"));
        assert!(!text.contains(&*Secret::from_bytes([1; 32]).to_base64()));
        assert!(!text.contains("secret"));
    }

    proptest! {
        #[test]
        fn no_byte_of_a_sealed_text_can_be_changed(at: prop::sample::Index, to: u8) {
            let keys = keyring(&[1, 2]);
            let sealed = keys.seal(PLACE, b"secret").into_bytes();
            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] = to;
            let opened = keys.open(PLACE, &changed);
            // A blank at its end is no part of it.
            prop_assert!(changed == sealed || opened.is_err());
        }

        #[test]
        fn no_text_makes_opening_panic(text: Vec<u8>) {
            prop_assert!(keyring(&[1]).open(PLACE, &text).is_err());
        }
    }
}
