//! What a configuration was read from, kept so that a reader elsewhere comes to the same one; it leaves the process without its secrets.

use std::fmt;
use std::path::PathBuf;

use super::syntax::places_below;

/// Stands where a secret stood.
const HIDDEN: &str = "\"hidden\"";
/// Values that are or may be secret, in the file: the token, and what probes say to servers.
const IN_FILE: [&[&str]; 2] = [
    &["consul", "token"],
    &["service", "health", "active", "headers", "*"],
];
/// The same in a document of KV.
const IN_DOCUMENT: [&[&str]; 1] = [&["health", "active", "headers", "*"]];

/// A file as it was read. No `Debug` of the text: it may hold a token.
#[derive(Clone, Default)]
pub struct Source {
    /// Absolute: relative paths in the text are relative to its directory.
    pub path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// The text with another value for each secret in it.
    pub fn hushed(&self) -> String {
        hushed(&self.text, &IN_FILE).unwrap_or_default()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.path.display())
    }
}

/// A document's text with another value for what may be secret in it. One that is neither TOML nor JSON loses all of its text if it
/// may hold any: it is as wrong without it.
pub fn hushed_document(text: &str) -> String {
    // A key may be written with escapes.
    if !text.contains("headers") && !text.contains('\\') {
        return text.to_owned();
    }
    let hushed = match text.trim_start().starts_with('{') {
        true => hushed_json(text),
        false => hushed(text, &IN_DOCUMENT),
    };
    hushed.unwrap_or_else(|| "= hidden".to_owned())
}

/// None: no TOML.
fn hushed(text: &str, paths: &[&[&str]]) -> Option<String> {
    let mut places = Vec::new();
    for path in paths {
        places.extend(places_below(text, path)?);
    }
    places.sort_by_key(|place| place.start);
    let mut hushed = String::with_capacity(text.len());
    let mut from = 0;
    for place in places {
        hushed.push_str(&text[from..place.start]);
        hushed.push_str(HIDDEN);
        from = place.end;
    }
    hushed.push_str(&text[from..]);
    Some(hushed)
}

fn hushed_json(text: &str) -> Option<String> {
    let mut document: serde_json::Value = serde_json::from_str(text).ok()?;
    let headers = document.pointer_mut("/health/active/headers");
    if let Some(headers) = headers.and_then(|headers| headers.as_object_mut()) {
        for value in headers.values_mut() {
            *value = serde_json::Value::from("hidden");
        }
    }
    serde_json::to_string(&document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_leaves_without_its_token_and_without_what_its_probes_say() {
        let text = "[consul]\ntoken = \"s3cret\" # s\n[[service]]\nname = \"a\"\n[service.health.active]\npath = \"/\"\nheaders = { Authorization = 'Basic \u{e9}', X = \"1\" }\n";
        let source = Source {
            text: text.to_owned(),
            ..Source::default()
        };
        let hushed = source.hushed();
        assert!(
            !hushed.contains("s3cret") && !hushed.contains("Basic"),
            "{hushed}"
        );
        assert!(
            hushed.contains("token = \"hidden\" # s\n[[service]]\nname = \"a\""),
            "{hushed}"
        );
        assert!(
            hushed.contains("path = \"/\"") && hushed.contains("X = \"hidden\""),
            "{hushed}"
        );
    }

    #[test]
    fn a_document_leaves_without_what_its_probes_say_in_either_syntax() {
        for text in [
            "health = { active = { headers = { Cookie = \"s3cret\" } } }",
            "{\"health\":{\"active\":{\"headers\":{\"Cookie\":\"s3cret\"}}},\"retry\":{}}",
            "headers = s3cret",
            "{\"health\":{\"active\":{\"h\\u0065aders\":{\"Cookie\":\"s3cret\"}}}}",
            "health.active.\"h\\u0065aders\" = { Cookie = \"s3cret\" }",
        ] {
            assert!(!hushed_document(text).contains("s3cret"), "{text}");
        }
        assert_eq!(hushed_document("pool = 3 # x"), "pool = 3 # x");
    }
}
