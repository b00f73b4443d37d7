//! No text makes the reader of configuration files panic; a refusal names a mistake, and what leaves the process reads as the same file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rota::config::{Config, Environment, MAX_MISTAKES, Mistakes, parse};

fn read(text: &str) -> Result<Config, Mistakes> {
    let path = Path::new("/nowhere/rota.toml");
    parse(text, path, &Environment::bare("fuzz"))
}

/// All of it but what is hidden where it leaves the process, and where it was read from.
fn told(mut config: Config) -> String {
    for service in &mut config.services {
        let probe = service.active.iter_mut();
        for (_, value) in probe.flat_map(|probe| &mut probe.headers) {
            *value = "hidden".to_owned();
        }
    }
    format!("{config:?}")
}

fuzz_target!(|text: &str| {
    match read(text) {
        Ok(config) => {
            let hushed = config.source.hushed();
            let again = read(&hushed).expect("what was accepted is accepted without its secrets");
            assert_eq!(again.source.hushed(), hushed);
            assert_eq!(told(again), told(config));
        }
        Err(mistakes) => {
            assert!((1..=MAX_MISTAKES + 1).contains(&mistakes.0.len()));
            assert!(!mistakes.to_string().is_empty());
        }
    }
});
