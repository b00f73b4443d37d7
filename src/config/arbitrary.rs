//! Arbitrary texts: whatever is read, the answer is a configuration or mistakes, never a panic.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn read_with(text: &str) -> Result<Config, Mistakes> {
    parse(text, Path::new("rota.toml"), &Environment::bare("lb-1"))
}

/// Lines that are nearly right, so that arbitrary files get past the first key.
fn nearly() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "address",
        "servers",
        "consul",
        "health",
        "retry",
        "tls",
        "certificates",
        "status",
        "headers",
        "host",
        "path",
        "service",
        "pool",
        "head",
        "max_loss",
        "statuses",
        "token",
        "prefix",
        "trusted_proxies",
        "health.active.status",
    ]);
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "\"\"",
        "\"a\"",
        "\"a:1\"",
        "\"*\"",
        "\"/\"",
        "[]",
        "[1, \"a\", {}]",
        "{}",
        "{ a = 1 }",
        "true",
        "nan",
        "1979-05-27",
        "\"1s\"",
        "\"50%\"",
        "\"::1/128\"",
        "\"é\"",
        "0x7fffffffffffffff",
    ]);
    let header = prop::sample::select(vec![
        "[node]",
        "[admin]",
        "[consul]",
        "[access_log]",
        "[limits]",
        "[timeouts]",
        "[guard]",
        "[retry]",
        "[[listener]]",
        "[[service]]",
        "[service.health.active]",
        "[service.retry]",
        "[[route]]",
        "[acme]",
        "[[domain]]",
    ]);
    prop_oneof![
        header.prop_map(str::to_owned),
        (key, value).prop_map(|(k, v)| format!("{k} = {v}"))
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
        let _ = read_with(&text);
        let _ = document::service("a", text.as_bytes());
        let _ = document::tuning(text.as_bytes(), &Tuning::default());
    }

    #[test]
    fn no_nearly_right_file_makes_the_reader_panic(lines in prop::collection::vec(nearly(), 0..40)) {
        let text = lines.join("\n");
        if let Err(mistakes) = read_with(&text) {
            prop_assert!(!mistakes.0.is_empty());
        }
        let _ = document::service("a", text.as_bytes());
        let _ = document::route("a", text.as_bytes());
        let _ = document::domain("a.test", text.as_bytes());
    }

    #[test]
    fn no_bytes_make_a_document_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = document::route("a", &bytes);
    }
}
