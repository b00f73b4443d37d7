//! One table as it is read: each key is taken with its type and range, each mistake goes to the report, nothing stops at the first.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mistake::Report;
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::written::{Table, Value, Written};

/// Who wrote the text, and so what it may name.
pub(super) enum Author<'a> {
    /// The file of this LB: paths are relative to its directory.
    File { directory: &'a Path },
    /// A document in KV: it names no files.
    Document,
}

/// What all sections of one text share.
pub(super) struct Reading<'a> {
    pub(super) report: &'a Report,
    pub(super) author: Author<'a>,
}

/// A table, its key path, and where its mistakes go.
pub(super) struct Section<'a> {
    table: &'a Table,
    path: String,
    line: Option<u32>,
    reading: &'a Reading<'a>,
}

impl<'a> Section<'a> {
    /// The whole text as a table. Keys that aren't among `keys` are mistakes.
    pub(super) fn root(table: &'a Table, keys: &[&str], reading: &'a Reading<'a>) -> Section<'a> {
        let section = Section {
            table,
            path: String::new(),
            line: None,
            reading,
        };
        section.refuse_unknown(keys);
        section
    }

    /// The table that stands at `path`; None (and a mistake): no table stands there.
    fn open(
        written: &'a Written,
        path: String,
        keys: Option<&[&str]>,
        reading: &'a Reading<'a>,
    ) -> Option<Section<'a>> {
        let Value::Table(table) = &written.value else {
            let shown = Some(written.value.shown());
            reading
                .report
                .add(written.line, &path, shown, "expected a table");
            return None;
        };
        let section = Section {
            table,
            path,
            line: written.line,
            reading,
        };
        if let Some(keys) = keys {
            section.refuse_unknown(keys);
        }
        Some(section)
    }

    fn refuse_unknown(&self, keys: &[&str]) {
        for (key, written) in self.table {
            if !keys.contains(&key.as_str()) {
                let known = (key.as_str(), keys.iter().copied());
                let path = self.at(key);
                self.reading
                    .report
                    .add_unknown(written.line, &path, None, "no such key", known);
            }
        }
    }

    /// The key path of one of this table's keys.
    pub(super) fn at(&self, key: &str) -> String {
        let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let key = if !key.is_empty() && key.len() <= 64 && key.bytes().all(bare) {
            key.to_owned()
        } else {
            super::mistake::shown(key)
        };
        if self.path.is_empty() {
            key
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Its own key path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key holds anything but an empty list.
    pub(super) fn has_parts(&self, key: &str) -> bool {
        let is_empty = |value: &Value| matches!(value, Value::List(parts) if parts.is_empty());
        self.table
            .get(key)
            .is_some_and(|written| !is_empty(&written.value))
    }

    pub(super) fn line_of(&self, key: &str) -> Option<u32> {
        self.table
            .get(key)
            .map_or(self.line, |written| written.line)
    }

    pub(super) fn report(&self) -> &Report {
        self.reading.report
    }

    /// A mistake about the table itself.
    pub(super) fn blame(&self, problem: impl Into<String>) {
        self.report().add(self.line, &self.path, None, problem);
    }

    /// A mistake about one key's value.
    pub(super) fn blame_key(&self, key: &str, problem: impl Into<String>) {
        let value = self.table.get(key).map(|written| written.value.shown());
        self.report()
            .add(self.line_of(key), &self.at(key), value, problem);
    }

    /// A mistake about one key whose value names nothing that is `known`.
    pub(super) fn blame_unknown(&self, key: &str, problem: &str, known: &[&str]) {
        let name = self.quiet_text(key).unwrap_or_default();
        let (line, path) = (self.line_of(key), self.at(key));
        let value = self.table.get(key).map(|written| written.value.shown());
        let known = (name, known.iter().copied());
        self.report()
            .add_unknown(line, &path, value, problem, known);
    }

    /// A mistake about one key whose value is secret.
    pub(super) fn blame_secret(&self, key: &str, problem: &str) {
        self.report()
            .add(self.line_of(key), &self.at(key), None, problem);
    }

    /// A mistake where the key is absent.
    pub(super) fn need(&self, key: &str, expected: &str) {
        if !self.has(key) {
            self.report().add(
                self.line,
                &self.at(key),
                None,
                format!("missing: expected {expected}"),
            );
        }
    }

    /// Reads a value with `parse`; None: absent, or not as `expected` (then a mistake).
    pub(super) fn read<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let written = self.table.get(key)?;
        let parsed = parse(&written.value);
        if parsed.is_none() {
            self.blame_key(key, format!("expected {expected}"));
        }
        parsed
    }

    /// A text that `parse` takes.
    pub(super) fn text<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, expected, |value| match value {
            Value::Text(text) => parse(text),
            _ => None,
        })
    }

    /// A text without a mistake where there is none: for secrets, which no mistake may show, and for what was complained of already.
    pub(super) fn quiet_text(&self, key: &str) -> Option<&'a str> {
        match &self.table.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// One of a closed set of words.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.text(key, &format!("one of {}", all.join(", ")), |text| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, meant)| *meant)
        })
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.read(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn number<T>(&self, key: &str, allowed: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display,
    {
        let expected = format!(
            "a whole number from {} to {}",
            allowed.start(),
            allowed.end()
        );
        self.read(key, &expected, |value| number_in(value, &allowed))
    }

    pub(super) fn duration(
        &self,
        key: &str,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let expected = format!(
            "a duration from {} to {}, such as \"500ms\", \"10s\" or \"1h30m\"",
            show_duration(*allowed.start()),
            show_duration(*allowed.end())
        );
        self.text(key, &expected, |text| {
            parse_duration(text).filter(|duration| allowed.contains(duration))
        })
    }

    /// Bytes: a text with a unit, or a plain number.
    pub(super) fn size(&self, key: &str, allowed: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!(
            "a size from {} to {}, such as \"256B\", \"64KiB\" or \"10MiB\"",
            show_size(*allowed.start()),
            show_size(*allowed.end())
        );
        let bytes = |value: &Value| match value {
            Value::Text(text) => parse_size(text),
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        self.read(key, &expected, |value| {
            bytes(value).filter(|size| allowed.contains(size))
        })
    }

    /// A file's path, relative to the directory of the file that names it. Documents name none.
    pub(super) fn file(&self, key: &str) -> Option<PathBuf> {
        let Author::File { directory } = self.reading.author else {
            if self.has(key) {
                let problem =
                    "a document can't name files: only the file of each load balancer may";
                self.blame_key(key, problem);
            }
            return None;
        };
        self.text(key, "a file's path", |text| path_in(directory, text))
    }

    /// The directory that paths are relative to; None in documents.
    pub(super) fn directory(&self) -> Option<&'a Path> {
        match self.reading.author {
            Author::File { directory } => Some(directory),
            Author::Document => None,
        }
    }

    /// A table below this one, of which only `keys` may be there.
    pub(super) fn table(&self, key: &str, keys: &[&str]) -> Option<Section<'a>> {
        Section::open(self.table.get(key)?, self.at(key), Some(keys), self.reading)
    }

    /// A table below this one whose keys are free.
    pub(super) fn free_table(&self, key: &str) -> Option<Section<'a>> {
        Section::open(self.table.get(key)?, self.at(key), None, self.reading)
    }

    /// The tables of a list, again: what is no table was complained of already.
    pub(super) fn quiet_tables(&self, key: &str) -> Vec<Section<'a>> {
        let Some(Value::List(parts)) = self.table.get(key).map(|written| &written.value) else {
            return Vec::new();
        };
        let open = |(index, part): (usize, &'a Written)| match &part.value {
            Value::Table(table) => Some(Section {
                table,
                path: format!("{}[{index}]", self.at(key)),
                line: part.line,
                reading: self.reading,
            }),
            _ => None,
        };
        parts.iter().enumerate().filter_map(open).collect()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.table.keys().map(String::as_str)
    }

    /// The parts of a list; absent: none. `expected` names what the list is of.
    pub(super) fn list(&self, key: &str, expected: &str) -> Vec<Part<'a>> {
        let parts = self.read(key, expected, |value| match value {
            Value::List(parts) => Some(parts),
            _ => None,
        });
        let part = |(index, written)| Part {
            written,
            path: format!("{}[{index}]", self.at(key)),
            reading: self.reading,
        };
        parts.into_iter().flatten().enumerate().map(part).collect()
    }
}

/// One part of a list.
pub(super) struct Part<'a> {
    written: &'a Written,
    path: String,
    reading: &'a Reading<'a>,
}

impl<'a> Part<'a> {
    pub(super) fn value(&self) -> &'a Value {
        &self.written.value
    }

    pub(super) fn blame(&self, problem: impl Into<String>) {
        let shown = Some(self.written.value.shown());
        self.reading
            .report
            .add(self.written.line, &self.path, shown, problem);
    }

    /// Reads the part with `parse`; None: not as `expected` (then a mistake).
    pub(super) fn read<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(&self.written.value);
        if parsed.is_none() {
            self.blame(format!("expected {expected}"));
        }
        parsed
    }

    pub(super) fn table(&self, keys: &[&str]) -> Option<Section<'a>> {
        Section::open(self.written, self.path.clone(), Some(keys), self.reading)
    }
}

/// A whole number within a range.
pub(super) fn number_in<T: TryFrom<i64> + PartialOrd>(
    value: &Value,
    allowed: &RangeInclusive<T>,
) -> Option<T> {
    match value {
        Value::Integer(number) => T::try_from(*number).ok().filter(|n| allowed.contains(n)),
        _ => None,
    }
}

/// A path that can be one: not empty, no NUL; absolute ones stay as they are.
pub(super) fn path_in(directory: &Path, text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| directory.join(text))
}
