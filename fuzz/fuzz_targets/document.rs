//! No document in KV makes its reader panic; a refusal names a mistake, and what is accepted reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::config::{MAX_MISTAKES, Mistakes, ServiceEntry, Tuning, document, hushed_document};

fn told<T>(result: Result<T, Mistakes>) -> Option<T> {
    if let Err(mistakes) = &result {
        assert!(!mistakes.0.is_empty() && mistakes.0.len() <= MAX_MISTAKES + 1);
        assert!(!mistakes.to_string().is_empty());
    }
    result.ok()
}

/// What leaves the process says the same, but for what probes say to servers.
fn leaves_without_secrets(mut entry: ServiceEntry, text: &[u8]) {
    let text = std::str::from_utf8(text).expect("what was read is text");
    let hushed = hushed_document(text);
    assert_eq!(hushed_document(&hushed), hushed);
    let probe = entry.active.iter_mut();
    for (_, value) in probe.flat_map(|probe| &mut probe.headers) {
        *value = "hidden".to_owned();
    }
    let read = document::service(entry.name.as_str(), hushed.as_bytes());
    assert_eq!(read, Ok(entry), "{hushed}");
}

fuzz_target!(|input: (u8, &str, &[u8])| {
    let (kind, name, text) = input;
    let name = if name.is_empty() { "fuzz" } else { name };
    match kind % 4 {
        0 => {
            let entry = told(document::service(name, text));
            assert_eq!(entry, document::service(name, text).ok());
            if let Some(entry) = entry {
                assert_eq!(entry.name.as_str(), name);
                leaves_without_secrets(entry, text);
            }
        }
        1 => {
            let entry = told(document::route(name, text));
            assert_eq!(entry, document::route(name, text).ok());
        }
        2 => {
            let entry = told(document::domain(name, text));
            assert_eq!(entry, document::domain(name, text).ok());
        }
        _ => {
            let base = Tuning::default();
            if let Some(tuned) = told(document::tuning(text, &base)) {
                assert_eq!(
                    told(document::tuning(text, &tuned)),
                    Some(tuned),
                    "a document says all that it changes"
                );
            }
        }
    }
});
