//! No document in KV makes its reader panic; a refusal names a mistake, and what is accepted reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::config::{MAX_MISTAKES, Mistakes, Tuning, document};

fn told<T>(result: Result<T, Mistakes>) -> Option<T> {
    if let Err(mistakes) = &result {
        assert!(!mistakes.0.is_empty() && mistakes.0.len() <= MAX_MISTAKES + 1);
        assert!(!mistakes.to_string().is_empty());
    }
    result.ok()
}

fuzz_target!(|input: (u8, &str, &[u8])| {
    let (kind, name, text) = input;
    let name = if name.is_empty() { "fuzz" } else { name };
    match kind % 4 {
        0 => {
            let entry = told(document::service(name, text));
            assert_eq!(entry, document::service(name, text).ok());
            assert!(entry.is_none_or(|entry| entry.name.as_str() == name));
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
