//! A journal from anywhere is read line by line, what is read is written as the same, and its replay ends, twice with the same table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::app::cli::Form;
use rota::app::replay::replayed;
use rota::control::journal::reader::{first_line, line_of, parse};
use rota::seal::Digest;
use rota_fuzz::memory_file::{MemoryFile, OWNERS_ALONE};

/// Records of one input: each may hold a whole file.
const LINES: usize = 24;

/// What is there, with the checksum of each line before it.
fn journal_of(lines: &str) -> String {
    let mut text = first_line();
    for line in lines
        .split('\n')
        .take(LINES)
        .filter(|line| !line.is_empty())
    {
        let digits = Digest::of(line.as_bytes()).to_hex();
        text.push_str(&format!("{} {line}\n", &digits[..16]));
    }
    text
}

fn check_lines(text: &str) {
    let Ok(segment) = parse(text) else {
        return;
    };
    let lines = text.split_inclusive('\n').count() - 1;
    assert_eq!(segment.records.len() < lines, segment.damage.is_some());
    let mut whole = first_line();
    for record in &segment.records {
        let line = line_of(record);
        let again = parse(&(first_line() + &line)).expect("it begins as one");
        assert_eq!(again.damage, None, "{line}");
        assert_eq!(line_of(&again.records[0]), line, "written twice");
        whole.push_str(&line);
    }
    // Cut short anywhere in its last line, it tells of all before.
    if let Some(cut) = whole
        .len()
        .checked_sub(2)
        .filter(|_| !segment.records.is_empty())
    {
        let cut = parse(&whole[..whole.floor_char_boundary(cut)]).expect("it begins as one");
        assert_eq!(cut.records.len() + 1, segment.records.len());
        assert!(cut.damage.is_some());
    }
}

// The first line: `raw`, and a segment's text; else each line is a record without its checksum.
fuzz_target!(|input: &str| {
    let text = match input.split_once('\n') {
        Some(("raw", text)) => text.to_owned(),
        _ => journal_of(input),
    };
    check_lines(&text);
    let file = MemoryFile::with(text.as_bytes(), OWNERS_ALONE);
    let told = |json, what| replayed(file.path(), None, what, &Form { json });
    let table = told(true, None);
    assert_eq!(table, told(true, None), "the same journal, the same table");
    let people = told(false, None);
    assert_eq!(people.is_ok(), table.is_ok());
    if let Ok(text) = people {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
        for what in ["app", "shop.test/x"] {
            let _ = told(true, Some(what));
        }
    }
});
