//! How a kept file is written: a line with format and checksum, a line that says whose it is and of when, then the content. Pure.
//!
//! All after the first line is sealed where there is a key, bound to the file's name as values in KV are to their key. The checksum
//! is of what lies on disk: it tells a file that was damaged from one that another key opens.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::seal::{Digest, Keyring, Plain};

/// What the first line begins with.
const MARK: &str = "rota-kept";
/// Of this file's layout and of what the contents are made of; another one is not read.
const VERSION: &str = "1";

/// Whose a file is, and of when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its name below the folder: no file stands for another.
    pub name: String,
    pub node: String,
    /// The pod's.
    pub prefix: String,
    /// The moment that the content is of: what was known then.
    pub of_ms: u64,
    pub written_ms: u64,
}

/// Whether a file is as it would be written today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    Current,
    /// With a key that is no longer the first, or in the clear although there is one.
    Outdated,
}

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    Damaged(&'static str),
    Version(String),
    /// Of the pod with this prefix, or of another file.
    Foreign(String),
    Closed(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Damaged(how) => write!(f, "damaged: {how}"),
            Unusable::Version(version) => write!(
                f,
                "written in format {version}, which this rota does not read (it reads {VERSION})"
            ),
            Unusable::Foreign(whose) => write!(f, "it is of {whose}"),
            Unusable::Closed(why) => f.write_str(why),
        }
    }
}

/// The whole file.
pub fn write(head: &Head, content: &[u8], keyring: Option<&Keyring>) -> Plain {
    let line = serde_json::to_vec(head).expect("texts and numbers are json");
    // As long as it will be from the start: what grows leaves copies behind.
    let mut whole = Plain::new(Vec::with_capacity(line.len() + 1 + content.len()));
    whole.extend_from_slice(&line);
    whole.push(b'\n');
    whole.extend_from_slice(content);
    let body = match keyring {
        Some(keyring) => keyring.seal(&place(&head.name), &whole).into_bytes().into(),
        None => whole,
    };
    let first = format!("{MARK} {VERSION} {}\n", Digest::of(&body).to_hex());
    let mut text = Plain::new(Vec::with_capacity(first.len() + body.len()));
    text.extend_from_slice(first.as_bytes());
    text.extend_from_slice(&body);
    text
}

/// What [`write()`] wrote under this name for the pod with this prefix.
pub fn read(
    name: &str,
    prefix: &str,
    text: &[u8],
    keyring: Option<&Keyring>,
) -> Result<(Head, Plain, Seal), Unusable> {
    let (first, body) = divided(text).ok_or(Unusable::Damaged("it has no first line"))?;
    let first = std::str::from_utf8(first).unwrap_or_default();
    let mut words = first.split(' ');
    if words.next() != Some(MARK) {
        return Err(Unusable::Damaged("it is not what rota writes"));
    }
    match words.next() {
        Some(VERSION) => {}
        other => {
            let version = other.unwrap_or_default().chars().take(20).collect();
            return Err(Unusable::Version(version));
        }
    }
    if words.next() != Some(&*Digest::of(body).to_hex()) {
        return Err(Unusable::Damaged("its checksum is another"));
    }
    let (whole, seal) = opened(name, body, keyring)?;
    let (line, content) = divided(&whole).ok_or(Unusable::Damaged("it has no second line"))?;
    let head: Head = serde_json::from_slice(line)
        .map_err(|_| Unusable::Damaged("its second line is not what rota writes"))?;
    if head.name != name {
        return Err(Unusable::Foreign(format!("{:?}", head.name)));
    }
    if head.prefix != prefix {
        return Err(Unusable::Foreign(format!("the pod {:?}", head.prefix)));
    }
    let content = Plain::new(content.to_vec());
    Ok((head, content, seal))
}

fn opened(name: &str, body: &[u8], keyring: Option<&Keyring>) -> Result<(Plain, Seal), Unusable> {
    match (Keyring::is_sealed(body), keyring) {
        (true, None) => Err(Unusable::Closed(
            "sealed, and there is no acme.key_file".into(),
        )),
        (true, Some(keyring)) => {
            let opened = keyring.open(&place(name), body);
            let opened = opened.map_err(|error| Unusable::Closed(error.to_string()))?;
            let seal = match keyring.is_outdated(body) {
                true => Seal::Outdated,
                false => Seal::Current,
            };
            Ok((opened, seal))
        }
        (false, None) => Ok((Plain::new(body.to_vec()), Seal::Current)),
        // Written before there was a key file.
        (false, Some(_)) => Ok((Plain::new(body.to_vec()), Seal::Outdated)),
    }
}

/// What a sealed text is bound to: no key of the store begins so.
fn place(name: &str) -> String {
    format!("kept/{name}")
}

fn divided(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b'\n')?;
    Some((&text[..at], &text[at + 1..]))
}

/// Since 1970.
pub fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// At most some thousand years on, so that sums with it are times too.
pub fn moment(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds.min(1 << 47))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seal::Secret;

    fn keyring(keys: &[u8]) -> Keyring {
        let secrets: Vec<Secret> = keys.iter().map(|b| Secret::from_bytes([*b; 32])).collect();
        Keyring::of(&secrets)
    }

    fn head() -> Head {
        Head {
            name: "table".into(),
            node: "lb-1".into(),
            prefix: "rota/p".into(),
            of_ms: 1,
            written_ms: 2,
        }
    }

    fn read_with(text: &[u8], keys: Option<&[u8]>) -> Result<(Head, Plain, Seal), Unusable> {
        let keyring = keys.map(keyring);
        read("table", "rota/p", text, keyring.as_ref())
    }

    #[test]
    fn what_is_written_is_read_as_the_same_sealed_or_not() {
        let plain = write(&head(), b"a\nb", None);
        let (found, content, seal) = read_with(&plain, None).unwrap();
        assert_eq!(
            (found, &content[..], seal),
            (head(), &b"a\nb"[..], Seal::Current)
        );
        let sealed = write(&head(), b"secret", Some(&keyring(&[1])));
        assert!(!String::from_utf8_lossy(&sealed).contains("secret"));
        let (found, content, seal) = read_with(&sealed, Some(&[1])).unwrap();
        assert_eq!(
            (found, &content[..], seal),
            (head(), &b"secret"[..], Seal::Current)
        );
        assert_eq!(read_with(&sealed, Some(&[2, 1])).unwrap().2, Seal::Outdated);
        assert_eq!(read_with(&plain, Some(&[1])).unwrap().2, Seal::Outdated);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let said =
            |text: &[u8], keys: Option<&[u8]>| read_with(text, keys).unwrap_err().to_string();
        let sealed = write(&head(), b"x", Some(&keyring(&[1])));
        assert!(said(&sealed, None).contains("no acme.key_file"));
        assert!(said(&sealed, Some(&[2])).contains("which the key file does not have"));
        let plain = write(&head(), b"x", None);
        let later = String::from_utf8(plain.to_vec())
            .unwrap()
            .replacen(" 1 ", " 2 ", 1);
        assert!(said(later.as_bytes(), None).contains("format 2"));
        assert!(said(&plain[..plain.len() - 1], None).contains("checksum"));
        for text in ["", "rota-kept", "{}\n", "\n\n"] {
            assert!(said(text.as_bytes(), None).contains("damaged"), "{text:?}");
        }
        let other = Head {
            prefix: "rota/q".into(),
            ..head()
        };
        assert!(said(&write(&other, b"x", None), None).contains("the pod \"rota/q\""));
    }

    #[test]
    fn no_file_stands_for_another() {
        let sealed = write(&head(), b"x", Some(&keyring(&[1])));
        let moved = read("other", "rota/p", &sealed, Some(&keyring(&[1])));
        assert!(matches!(moved, Err(Unusable::Closed(_))), "{moved:?}");
        let moved = read("other", "rota/p", &write(&head(), b"x", None), None);
        assert!(matches!(moved, Err(Unusable::Foreign(_))), "{moved:?}");
    }

    proptest! {
        #[test]
        fn no_byte_of_a_file_can_be_changed(at: prop::sample::Index, to: u8, is_sealed: bool) {
            let keys = keyring(&[1]);
            let keyring = is_sealed.then_some(&keys);
            let text = write(&head(), b"the content", keyring);
            let mut changed = text.to_vec();
            changed[at.index(text.len())] = to;
            let found = read("table", "rota/p", &changed, keyring);
            prop_assert!(changed == text.to_vec() || found.is_err());
        }

        #[test]
        fn no_text_makes_reading_panic(text: Vec<u8>) {
            prop_assert!(read_with(&text, Some(&[1])).is_err());
        }
    }
}
