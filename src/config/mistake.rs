//! What is wrong with a file or document, said so that an operator can mend it without looking anything up.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::nearest::nearest;

/// So many mistakes of one text are told; the rest is only counted.
pub const MAX_MISTAKES: usize = 200;

/// So many characters of a wrong value are shown.
pub const MAX_SHOWN: usize = 80;

/// One thing that is wrong. `Display` is one line: `rota.toml:7: limits.pool = "x": expected …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file's path as it was given, the document's (`services/shop`), or `environment`.
    pub source: String,
    /// Counted from 1; None where the text has no lines to speak of (JSON) or something is missing altogether.
    pub line: Option<u32>,
    /// `service[1].health.active.interval`, lists counted from 0; empty: the whole text.
    pub path: String,
    /// As written, shortened and escaped; None where there is none, or where it is secret.
    pub value: Option<String>,
    /// What is the matter and what is allowed.
    pub problem: String,
    /// The known name that comes nearest to an unknown one.
    pub nearest: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.said())
    }
}

impl Mistake {
    /// Without the place: what stands there, what is the matter and what is allowed.
    pub fn said(&self) -> String {
        let mut said = String::new();
        if !self.path.is_empty() {
            said.push_str(&self.path);
            if let Some(value) = &self.value {
                said.push_str(" = ");
                said.push_str(value);
            }
            said.push_str(": ");
        }
        said.push_str(&self.problem);
        if let Some(name) = &self.nearest {
            said.push_str("; nearest: \"");
            said.push_str(name);
            said.push('"');
        }
        said
    }
}

/// Everything that is wrong with one text, in the order of its lines; never empty. `Display` is a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl Mistakes {
    /// The only thing wrong is the text as a whole.
    pub(super) fn whole(source: &str, problem: impl Into<String>) -> Mistakes {
        let report = Report::new(source);
        report.add(None, "", None, problem);
        report.into_mistakes()
    }
}

/// Where mistakes are gathered while a text is read, so that one run tells them all.
pub(super) struct Report {
    source: String,
    /// At most [`MAX_MISTAKES`], so that a hostile document can't make its mistakes larger than itself.
    found: RefCell<Vec<Mistake>>,
    more: Cell<usize>,
}

impl Report {
    pub(super) fn new(source: &str) -> Report {
        Report {
            source: source.to_owned(),
            found: RefCell::new(Vec::new()),
            more: Cell::new(0),
        }
    }

    /// A mistake about what stands at `path`.
    pub(super) fn add(
        &self,
        line: Option<u32>,
        path: &str,
        value: Option<String>,
        problem: impl Into<String>,
    ) {
        self.push(Mistake {
            source: self.source.clone(),
            line,
            path: path.to_owned(),
            value,
            problem: problem.into(),
            nearest: None,
        });
    }

    /// A mistake about a name that isn't among the `known`.
    pub(super) fn add_unknown<'k>(
        &self,
        line: Option<u32>,
        path: &str,
        value: Option<String>,
        problem: &str,
        (name, known): (&str, impl Iterator<Item = &'k str> + Clone),
    ) {
        if self.is_full() {
            return self.more.set(self.more.get() + 1);
        }
        let nearest = nearest(name, known.clone()).map(str::to_owned);
        let problem = match nearest {
            Some(_) => problem.to_owned(),
            None => format!("{problem}; known: {}", list(known)),
        };
        self.push(Mistake {
            source: self.source.clone(),
            line,
            path: path.to_owned(),
            value,
            problem,
            nearest,
        });
    }

    /// A mistake in a variable of the environment; its value is shown only if it is no secret.
    pub(super) fn add_environment(&self, variable: &str, value: Option<&str>, problem: &str) {
        self.push(Mistake {
            source: "environment".to_owned(),
            line: None,
            path: variable.to_owned(),
            value: value.map(shown),
            problem: problem.to_owned(),
            nearest: None,
        });
    }

    fn is_full(&self) -> bool {
        self.found.borrow().len() >= MAX_MISTAKES
    }

    fn push(&self, mistake: Mistake) {
        if self.is_full() {
            self.more.set(self.more.get() + 1);
        } else {
            self.found.borrow_mut().push(mistake);
        }
    }

    /// The value if nothing was wrong.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Mistakes> {
        if self.found.borrow().is_empty() {
            return Ok(value.expect("a value is left out only together with a mistake"));
        }
        Err(self.into_mistakes())
    }

    fn into_mistakes(self) -> Mistakes {
        let mut found = self.found.into_inner();
        found.sort_by_key(|mistake| mistake.line.unwrap_or(u32::MAX));
        let more = self.more.get();
        if more > 0 {
            found.push(Mistake {
                source: self.source,
                line: None,
                path: String::new(),
                value: None,
                problem: format!("and {more} more mistakes"),
                nearest: None,
            });
        }
        Mistakes(found)
    }
}

fn list<'k>(known: impl Iterator<Item = &'k str>) -> String {
    const MOST: usize = 24;
    let names: Vec<&str> = known.take(MOST + 1).collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count > MOST => format!("{}, …", names[..MOST].join(", ")),
        _ => names.join(", "),
    }
}

/// A text in quotes, escaped and shortened, so that it can neither flood nor forge a log.
pub(super) fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(MAX_SHOWN).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}
