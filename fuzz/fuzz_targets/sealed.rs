//! A sealed text opens with its key at its place, unchanged, and in no other way; what is no sealed text is named as that.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rota::seal::{Keyring, OpenError, Secret};

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    place: &'a str,
    other: &'a str,
    plain: &'a [u8],
    /// Where the sealed text is changed, what is cut out there, and what put in.
    at: u16,
    cut: u8,
    put: &'a [u8],
    foreign: &'a [u8],
}

/// Bytes that are put in at most: fewer than make another sealed text of one, which libFuzzer has seen.
const PUT: usize = 32;

static KEYS: LazyLock<[Keyring; 2]> = LazyLock::new(|| {
    let key = |byte| Secret::from_bytes([byte; 32]);
    [Keyring::of(&[key(1), key(2)]), Keyring::of(&[key(3)])]
});

/// `rota<digits>:`, 16 hex digits, a colon: what a sealed text begins with.
fn begins_sealed(text: &str) -> bool {
    let rest = text.strip_prefix("rota1:");
    let name = rest.and_then(|rest| {
        rest.split(':')
            .next()
            .filter(|name| name.len() < rest.len())
    });
    name.is_some_and(|name| {
        name.len() == 16 && name.chars().all(|c| "0123456789abcdef".contains(c))
    })
}

fuzz_target!(|case: Case<'_>| {
    let [keys, others] = &*KEYS;
    let [place, other] = [case.place, case.other].map(|place| format!("kv/{place}"));
    let sealed = keys.seal(&place, case.plain);
    let opened = keys.open(&place, sealed.as_bytes());
    assert_eq!(opened.map(|plain| plain.to_vec()), Ok(case.plain.to_vec()));
    assert!(Keyring::is_sealed(sealed.as_bytes()) && !keys.is_outdated(sealed.as_bytes()));
    let unknown = others.open(&place, sealed.as_bytes()).map(|_| ());
    assert!(
        matches!(&unknown, Err(OpenError::UnknownKey { .. }))
            && unknown.unwrap_err().may_open_elsewhere()
    );
    if other != place {
        let moved = keys.open(&other, sealed.as_bytes()).map(|_| ());
        assert_eq!(moved, Err(OpenError::Tampered { place: other }));
    }

    let mut changed = sealed.clone().into_bytes();
    let at = usize::from(case.at) % (changed.len() + 1);
    let until = (at + usize::from(case.cut)).min(changed.len());
    let put = case.put.iter().take(PUT).copied();
    changed.splice(at..until, put);
    // White space at its end is no part of it.
    let is_the_same = std::str::from_utf8(&changed).is_ok_and(|text| text.trim_end() == sealed);
    assert_eq!(keys.open(&place, &changed).is_ok(), is_the_same);

    // libFuzzer tries again what was sealed before, so nothing is sealed for this place.
    let (foreign, place) = (case.foreign, format!("foreign/{}", case.place));
    let refused = keys.open(&place, foreign).expect_err("nobody sealed it");
    let shown = refused.to_string();
    assert!(shown.starts_with(&place));
    let text = std::str::from_utf8(foreign).unwrap_or_default();
    assert_eq!(Keyring::is_sealed(foreign), begins_sealed(text));
    match refused {
        OpenError::NotSealed { .. } => {}
        OpenError::OtherVersion { .. } => {
            assert!(foreign.starts_with(b"rota") && !foreign.starts_with(b"rota1:"))
        }
        OpenError::UnknownKey { key, .. } => {
            assert!(begins_sealed(text) && text[6..].starts_with(&key))
        }
        OpenError::Tampered { .. } => assert!(begins_sealed(text)),
    }
});
