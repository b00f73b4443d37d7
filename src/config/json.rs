//! JSON text into the low form, so that a document says the same in either syntax. A key twice is an error, not a choice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::mistake::Report;
use super::written::{Table, Value, Written};

/// Gives the top table; None: a syntax error, in the report with its line. serde_json's own limit on nesting guards the stack.
pub(super) fn read_json(text: &str, report: &Report) -> Option<Table> {
    match serde_json::from_str::<Written>(text) {
        Ok(Written {
            value: Value::Table(table),
            ..
        }) => Some(table),
        Ok(_) => {
            report.add(None, "", None, "no JSON object");
            None
        }
        Err(error) => {
            let line = u32::try_from(error.line()).ok();
            let whole = error.to_string();
            let position = format!(" at line {} column {}", error.line(), error.column());
            let message = whole.strip_suffix(&position).unwrap_or(&whole);
            report.add(line, "", None, format!("no JSON: {message}"));
            None
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Written, D::Error> {
        let value = from.deserialize_any(AnyValue)?;
        Ok(Written { line: None, value })
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(match i64::try_from(number) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Foreign(number.to_string()),
        })
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Foreign("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = from.next_element()? {
            parts.push(part);
        }
        Ok(Value::List(parts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut table = Table::new();
        while let Some((key, value)) = from.next_entry::<String, Written>()? {
            if table.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice in one object"));
            }
        }
        Ok(Value::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        let report = Report::new("services/shop");
        assert!(read_json(text, &report).is_none());
        report.finish(None::<()>).unwrap_err().to_string()
    }

    #[test]
    fn json_says_the_same_as_toml() {
        let report = Report::new("services/shop");
        let json = r#"{"a": 1, "b": [true, "x"], "c": {"d": 0.5}, "e": null}"#;
        let table = read_json(json, &report).unwrap();
        assert_eq!(table["a"].value, Value::Integer(1));
        assert_eq!(table["e"].value, Value::Foreign("null".to_owned()));
        assert!(matches!(&table["b"].value, Value::List(parts) if parts.len() == 2));
    }

    #[test]
    fn what_is_no_json_or_says_a_thing_twice_is_told() {
        assert_eq!(
            complaint("{\n\"a\": 1, \"a\": 2}"),
            "services/shop:2: no JSON: a key stands twice in one object"
        );
        assert!(complaint("{").starts_with("services/shop:1: no JSON: EOF"));
        assert!(complaint(&"{\"a\":".repeat(100_000)).contains("recursion limit"));
        assert!(complaint("{} x").contains("trailing characters"));
    }
}
