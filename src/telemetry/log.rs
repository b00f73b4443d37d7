//! rota's own log: lines for people on stderr, at the level that `ROTA_LOG` names.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that names the level.
pub const LEVEL_VARIABLE: &str = "ROTA_LOG";

/// Starts the log for the process; a second call changes nothing. A level that is none of `error`, `warn`, `info`, `debug` is
/// answered with a warning and counts as `info`. Crates that rota stands on speak from `warn` on, whatever the level,
/// h2 from `error` on.
pub fn start() {
    let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
    let level = level(&wanted);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false);
    let filter = Targets::new()
        .with_target("rota", level.unwrap_or(LevelFilter::INFO))
        // Its warnings are about what clients send, a line a frame: a flood of them is counted, not written down.
        .with_target("h2", LevelFilter::ERROR)
        .with_default(LevelFilter::WARN);
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    if started.is_ok() && level.is_none() {
        tracing::warn!(
            "{LEVEL_VARIABLE} is {wanted:?}: not one of error, warn, info, debug; info is in force"
        );
    }
}

/// None: no such level. Empty is the default.
fn level(wanted: &str) -> Option<LevelFilter> {
    match wanted.trim().to_ascii_lowercase().as_str() {
        "" | "info" => Some(LevelFilter::INFO),
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "debug" => Some(LevelFilter::DEBUG),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_of_four_words_and_info_by_default() {
        assert_eq!(level(""), Some(LevelFilter::INFO));
        assert_eq!(level(" WARN "), Some(LevelFilter::WARN));
        assert_eq!(level("debug"), Some(LevelFilter::DEBUG));
        assert_eq!(level("loud"), None);
    }
}
