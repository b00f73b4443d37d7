//! A key file is read as a plain reader of lines does, and what is wrong with one is told without any of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::seal::{Keyring, MAX_KEYS, Secret};
use rota_fuzz::memory_file::{MemoryFile, OWNERS_ALONE};

/// Bytes of a key in a row, a fifth of it, that no message shows.
const SHOWN: usize = 8;
/// What messages say anyway.
const WORDS: &str = "not a key: expected 32 bytes in base64 (`head -c 32 /dev/urandom | base64`) the same key as in line \
    no key in it: expected a line of longer than 16384 bytes, no key file is expected at most 64 keys /proc/self/fd/";

/// The keys of a good file, in its order.
fn naive(text: &str) -> Option<Vec<Secret>> {
    let lines = text
        .split('\n')
        .map(|line| line.trim_matches([' ', '\t', '\r', '\x0c']));
    let keys: Option<Vec<Secret>> = lines
        .filter(|line| !line.is_empty())
        .map(Secret::from_base64)
        .collect();
    let keys = keys.filter(|keys| (1..=MAX_KEYS).contains(&keys.len()))?;
    let is_new = |n: usize| !keys[..n].contains(&keys[n]);
    (0..keys.len()).all(is_new).then_some(keys)
}

fuzz_target!(|bytes: &[u8]| {
    let file = MemoryFile::with(bytes, OWNERS_ALONE);
    let expected = std::str::from_utf8(bytes).ok().and_then(naive);
    match (Keyring::read(file.path()), expected) {
        (Ok(keys), Some(expected)) => {
            let expected = Keyring::of(&expected);
            assert!(keys.seals_like(&expected) && format!("{keys:?}") == format!("{expected:?}"));
            let sealed = keys.seal("place", b"secret");
            let opened = expected
                .open("place", sealed.as_bytes())
                .expect("the same keys");
            assert_eq!(opened.as_slice(), b"secret");
        }
        (Err(mistake), None) => {
            let said = mistake.to_string();
            let is_told = |part: &[u8]| {
                std::str::from_utf8(part)
                    .is_ok_and(|part| said.contains(part) && !WORDS.contains(part))
            };
            let lines = bytes.split(|&b| b == b'\n');
            let mut parts = lines.flat_map(|line| line.trim_ascii().windows(SHOWN));
            assert!(!parts.any(is_told), "{said}");
        }
        (read, expected) => panic!("{read:?}, but a plain reader finds {}", expected.is_some()),
    }
});
