//! No text makes the reader of configuration files panic, and a refusal always names a mistake.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rota::config::{Environment, parse};

fuzz_target!(|text: &str| {
    let _ = parse(
        text,
        Path::new("/nowhere/rota.toml"),
        &Environment::bare("fuzz"),
    );
});
