//! TOML text into the low form: the one door to the `toml` crate, whose own limit on nesting guards the stack.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use super::mistake::Report;
use super::written::{Table, Value, Written};

/// Gives the top table; None: syntax errors, each in the report with its line.
pub(super) fn read_toml(text: &str, report: &Report) -> Option<Table> {
    let lines = Lines::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        // Only the bare message: the full one repeats the source line, and with it perhaps a token.
        let line = error.span().map(|span| lines.at(span.start));
        report.add(line, "", None, format!("no TOML: {}", error.message()));
    }
    errors.is_empty().then(|| table(root.into_inner(), &lines))
}

/// Where a top-level table of a text stands, and each of its keys with its value, in bytes.
pub(super) struct TablePlaces {
    /// Of an inline table from brace to brace.
    pub(super) table: Range<usize>,
    pub(super) keys: Vec<KeyPlace>,
}

pub(super) struct KeyPlace {
    pub(super) name: String,
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The table's places, without keys where there is no such table; None: the text is no TOML, or the key holds something else.
pub(super) fn places_in_table(text: &str, key: &str) -> Option<TablePlaces> {
    let root = DeTable::parse(text).ok()?.into_inner();
    let mut found = TablePlaces {
        table: 0..0,
        keys: Vec::new(),
    };
    let Some((_, table)) = root.iter().find(|(name, _)| name.get_ref() == key) else {
        return Some(found);
    };
    found.table = table.span();
    let DeValue::Table(keys) = table.get_ref() else {
        return None;
    };
    let place = |(name, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| KeyPlace {
        name: name.get_ref().to_string(),
        key: name.span(),
        value: value.span(),
    };
    found.keys.extend(keys.iter().map(place));
    Some(found)
}

/// Where the values at a path of keys stand, in bytes: `*` is any key, and lists are looked through. None: the text is no TOML.
pub(super) fn places_below(text: &str, path: &[&str]) -> Option<Vec<Range<usize>>> {
    let root = DeTable::parse(text).ok()?;
    let mut places = Vec::new();
    collect_places(root.get_ref(), path, &mut places);
    Some(places)
}

fn collect_places(table: &DeTable<'_>, path: &[&str], into: &mut Vec<Range<usize>>) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    for (name, value) in table {
        if *step != "*" && name.get_ref() != step {
            continue;
        }
        match (value.get_ref(), rest) {
            (_, []) => into.push(value.span()),
            (DeValue::Table(below), _) => collect_places(below, rest, into),
            (DeValue::Array(parts), _) => {
                for part in parts.iter() {
                    if let DeValue::Table(below) = part.get_ref() {
                        collect_places(below, rest, into);
                    }
                }
            }
            _ => {}
        }
    }
}

fn table(from: DeTable<'_>, lines: &Lines) -> Table {
    from.into_iter()
        .map(|(key, value)| {
            let line = lines.at(key.span().start);
            let value = self::value(value.into_inner(), lines);
            let written = Written {
                line: Some(line),
                value,
            };
            (key.into_inner().into_owned(), written)
        })
        .collect()
}

fn element(from: Spanned<DeValue<'_>>, lines: &Lines) -> Written {
    Written {
        line: Some(lines.at(from.span().start)),
        value: value(from.into_inner(), lines),
    }
}

fn value(from: DeValue<'_>, lines: &Lines) -> Value {
    match from {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => integer(&number),
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Foreign(number.as_str().to_owned()),
        },
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(moment) => Value::Foreign(moment.to_string()),
        DeValue::Array(parts) => {
            Value::List(parts.into_iter().map(|part| element(part, lines)).collect())
        }
        DeValue::Table(keys) => Value::Table(table(keys, lines)),
    }
}

fn integer(from: &DeInteger<'_>) -> Value {
    match i64::from_str_radix(from.as_str(), from.radix()) {
        Ok(number) => Value::Integer(number),
        Err(_) => Value::Foreign(from.as_str().to_owned()),
    }
}

/// Where lines begin, so that a byte's line is found without counting from the start each time.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(memchr::memchr_iter(b'\n', text.as_bytes()).collect())
    }

    fn at(&self, byte: usize) -> u32 {
        let ends_before = self.0.partition_point(|&end| end < byte);
        u32::try_from(ends_before).map_or(u32::MAX, |count| count.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_the_lines_of_their_keys() {
        let report = Report::new("rota.toml");
        let text = "a = 1\n[b]\nc = [\n  0x10,\n  true,\n]\n[[d]]\n[[d]]\ne = 1_000\n";
        let root = read_toml(text, &report).unwrap();
        assert_eq!(root["a"].line, Some(1));
        let Value::Table(b) = &root["b"].value else {
            panic!("a table")
        };
        let Value::List(c) = &b["c"].value else {
            panic!("a list")
        };
        assert_eq!(
            (b["c"].line, c[0].line, c[1].line),
            (Some(3), Some(4), Some(5))
        );
        assert_eq!(c[0].value, Value::Integer(16));
        let Value::List(d) = &root["d"].value else {
            panic!("a list")
        };
        let Value::Table(second) = &d[1].value else {
            panic!("a table")
        };
        assert_eq!(d[1].line, Some(8));
        assert_eq!(second["e"].value, Value::Integer(1000));
    }

    #[test]
    fn each_syntax_error_is_told_with_its_line_and_without_its_source() {
        let report = Report::new("rota.toml");
        assert!(read_toml("a = \n\n[consul]\ntoken = hunter2\n", &report).is_none());
        let told = report.finish(None::<()>).unwrap_err().to_string();
        assert!(told.lines().count() >= 2, "{told}");
        assert!(told.contains("rota.toml:1: no TOML:") && told.contains("rota.toml:4: no TOML:"));
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn deep_nesting_is_a_mistake_and_no_overflow() {
        for text in [
            format!("a = {}", "[".repeat(200_000)),
            format!("{}b = 1", "a.".repeat(200_000)),
            format!("[{}b]", "a.".repeat(200_000)),
            format!("a = {}", "{a=".repeat(100_000)),
        ] {
            let report = Report::new("rota.toml");
            assert!(read_toml(&text, &report).is_none());
        }
    }
}
