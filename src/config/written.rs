//! The low form: a tree of what was written, whichever syntax it was written in, with the lines it stood on.

use std::collections::BTreeMap;

use super::mistake::{MAX_SHOWN, shown};

/// The keys of one table.
pub(super) type Table = BTreeMap<String, Written>;

/// A value and where it stood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    /// The line of its key, or its own where it is part of a list; counted from 1.
    pub(super) line: Option<u32>,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Written>),
    Table(Table),
    /// What no key takes: a date, a null, a number beyond 64 bits.
    Foreign(String),
}

impl Value {
    /// How it is shown in a mistake: short, escaped, on one line; lists and tables only by their kind.
    pub(super) fn shown(&self) -> String {
        match self {
            Value::Text(text) => shown(text),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::List(parts) if parts.is_empty() => "[]".to_owned(),
            Value::List(_) => "[…]".to_owned(),
            Value::Table(_) => "{…}".to_owned(),
            Value::Foreign(text) => text.chars().take(MAX_SHOWN).collect(),
        }
    }
}
