//! The file and the documents: from what was written (low form) to what is used (high form); only the arrow between can fail.
//!
//! `config/full.toml` names every key with its default; a test holds it to the readers here. An own `[service.retry]`
//! replaces the pod's `[retry]` whole: what it leaves out has the default. A route to a service that the file doesn't
//! define is a mistake only without `[consul]`, since with it KV may define the service.

mod acme;
mod active;
mod agent;
pub mod document;
mod environment;
mod file;
pub mod groups;
mod json;
mod listener;
mod mistake;
pub mod model;
mod names;
mod nearest;
mod relations;
pub mod rewrite;
mod route;
mod section;
mod service;
mod source;
mod syntax;
pub mod tags;
mod tuning;
mod units;
mod written;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use environment::Environment;
pub use file::MAX_WORKERS;
pub use mistake::{MAX_MISTAKES, MAX_SHOWN, Mistake, Mistakes};
pub use model::*;
pub use service::MAX_SERVERS;
pub use source::{Source, hushed_document};

use mistake::Report;
use section::{Author, Reading, Section};

/// A longer file is refused unread.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

/// Reads a file. Paths in it come out absolute.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, Mistakes> {
    let source = path.display().to_string();
    let unreadable =
        |error: std::io::Error| Mistakes::whole(&source, format!("unreadable: {error}"));
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let bytes = read_bytes(path).map_err(unreadable)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| match bytes.len() {
        len if len > MAX_FILE_BYTES => too_long(&source),
        _ => Mistakes::whole(&source, format!("no UTF-8 at byte {}", error.valid_up_to())),
    })?;
    read(text, &source, &absolute, environment)
}

/// The whole file, or its first bytes if there are too many.
fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let most = MAX_FILE_BYTES + 1;
    // The length is a guess alone: the file may be a pipe, or grow. One more than it shows the end in the same read.
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(most);
    let mut bytes = Vec::with_capacity(length.min(most) + 1);
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file's text. Relative paths in it are relative to the directory of `path`, which is not opened.
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Config, Mistakes> {
    read(text, &path.display().to_string(), path, environment)
}

/// `source` is what mistakes call the file; `path` is where it lies.
fn read(
    text: &str,
    source: &str,
    path: &Path,
    environment: &Environment,
) -> Result<Config, Mistakes> {
    if text.len() > MAX_FILE_BYTES {
        return Err(too_long(source));
    }
    let report = Report::new(source);
    let config = syntax::read_toml(text, &report).and_then(|table| {
        let directory = path.parent().unwrap_or(Path::new(""));
        let reading = Reading {
            report: &report,
            author: Author::File { directory },
        };
        file::read(&Section::root(&table, file::KEYS, &reading), environment)
    });
    let config = config.map(|config| Config {
        source: Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
        .into(),
        ..config
    });
    report.finish(config)
}

fn too_long(source: &str) -> Mistakes {
    Mistakes::whole(
        source,
        format!("longer than {MAX_FILE_BYTES} bytes: expected at most that"),
    )
}
