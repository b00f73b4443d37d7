//! Reads a journal: its segments in order of time, each line by its checksum. Blocking.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{FORMAT, Record};
use crate::seal::Digest;

/// What the first line of a segment says, before the number of its format.
pub const MARK: &str = "rota-journal";
/// How the names of segments end.
pub const EXTENSION: &str = "journal";
/// Digits of a line's checksum.
const CHECK: usize = 16;

/// What a file held, as far as it could be read.
#[derive(Debug, Default)]
pub struct Segment {
    pub records: Vec<Record>,
    /// What was not read and why; a line that a crash cut short is the last one, and no more than that.
    pub damage: Option<String>,
}

/// The line of a record, with its end.
pub fn line_of(record: &Record) -> String {
    let text = serde_json::to_string(record).expect("records have text keys alone");
    format!("{} {text}\n", check(&text))
}

/// The first line of a segment, with its end.
pub fn first_line() -> String {
    format!("{MARK} {FORMAT}\n")
}

fn check(text: &str) -> String {
    let mut digits = Digest::of(text.as_bytes()).to_hex();
    digits.truncate(CHECK);
    digits
}

/// Segments of a folder, or a single one, oldest first.
pub fn segments(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == EXTENSION) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a segment to its end, or to what is wrong with it.
pub fn read(path: &Path) -> Result<Segment, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Of a segment's text.
pub fn parse(text: &str) -> Result<Segment, String> {
    let mut segment = Segment::default();
    let mut lines = text.split_inclusive('\n').enumerate();
    let first = lines.next().map_or("", |(_, line)| line);
    if first != first_line() {
        let found: String = first.trim_end().chars().take(40).collect();
        return Err(format!(
            "it begins with {found:?}: no journal, or one that another version wrote (this one reads {MARK} {FORMAT})"
        ));
    }
    for (number, line) in lines {
        match record(line) {
            Ok(record) => segment.records.push(record),
            Err(why) => {
                segment.damage = Some(format!(
                    "line {}: {why}; what follows is not read",
                    number + 1
                ));
                break;
            }
        }
    }
    Ok(segment)
}

fn record(line: &str) -> Result<Record, String> {
    let line = line.strip_suffix('\n').ok_or("cut short")?;
    let (sum, text) = line.split_once(' ').ok_or("no checksum")?;
    if sum != check(text) {
        return Err("its checksum is another".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}
