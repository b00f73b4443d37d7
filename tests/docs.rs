//! The documents held to the product: what README, ARCHITECTURE and CHANGELOG name exists, what they show parses, what can be generated is.
//!
//! Marks in README: a block "toml" is a whole file, a `consul kv put` in a block "sh" is a document in KV. Parts between `<!-- name -->`
//! and `<!-- /name -->` are generated: [`BLESS`] says how.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _};
use rota::app::cli::CommandLine;
use rota::config::{self, Environment, Tuning, document};
use rota::telemetry::Reason;

/// Set to 1, the generated parts are written instead of compared.
const BLESS: &str = "ROTA_BLESS";

const TUNING_TABLES: [&str; 4] = ["limits", "timeouts", "guard", "retry"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn assert_none(what: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

/// A fenced block: the word behind its fence, and its lines.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut is_open = false;
    for line in markdown.lines() {
        match line.strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(language) => {
                is_open = true;
                found.push(Block {
                    language: language.trim().to_owned(),
                    lines: Vec::new(),
                });
            }
            None if is_open => found.last_mut().unwrap().lines.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!is_open, "a block is not closed");
    found
}

/// What stands between backticks outside of blocks.
fn code_spans(markdown: &str) -> Vec<String> {
    let mut is_open = false;
    let mut found = Vec::new();
    for line in markdown.lines() {
        if line.starts_with("```") {
            is_open = !is_open;
        } else if !is_open {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// A command in a block "sh", with what its here-document holds.
struct Command {
    line: String,
    input: Option<String>,
}

fn commands(markdown: &str) -> Vec<Command> {
    let mut found: Vec<Command> = Vec::new();
    for block in blocks(markdown).iter().filter(|b| b.language == "sh") {
        let mut lines = block.lines.iter();
        while let Some(line) = lines.next() {
            let input = line.contains("<<'END'").then(|| {
                let body: Vec<_> = lines.by_ref().take_while(|line| *line != "END").collect();
                body.iter().map(|line| format!("{line}\n")).collect()
            });
            found.push(Command {
                line: line.clone(),
                input,
            });
        }
    }
    found
}

#[test]
fn every_file_in_readme_is_accepted() {
    let all = blocks(&text("README.md"));
    let files: Vec<_> = all.iter().filter(|b| b.language == "toml").collect();
    assert!(files.len() >= 3);
    for file in files {
        let file = file.lines.join("\n");
        let path = Path::new("/etc/rota/rota.toml");
        if let Err(mistakes) = config::parse(&file, path, &Environment::bare("lb-1")) {
            panic!("{mistakes}\n{file}");
        }
    }
}

/// The value that a `consul kv put` writes: quoted on the line, or from its here-document.
fn written(command: &Command) -> Option<(String, String)> {
    let rest = command.line.strip_prefix("consul kv put ")?;
    let (key, value) = rest.split_once(' ').unwrap();
    let value = match &command.input {
        Some(input) => input.clone(),
        None => value.trim_matches('\'').to_owned(),
    };
    Some((key.to_owned(), value))
}

#[test]
fn every_document_in_readme_is_accepted() {
    let readme = commands(&text("README.md"));
    let documents: Vec<_> = readme.iter().filter_map(written).collect();
    assert!(documents.len() >= 4);
    for (key, value) in documents {
        let (_, name) = key.split_once("/config/").unwrap();
        let bytes = value.as_bytes();
        let read = match name.split_once('/') {
            Some(("services", name)) => document::service(name, bytes).err(),
            Some(("routes", name)) => document::route(name, bytes).err(),
            Some(("domains", name)) => document::domain(name, bytes).err(),
            _ if name == "tuning" => document::tuning(bytes, &Tuning::default()).err(),
            _ => panic!("{key} is no document's key"),
        };
        assert!(read.is_none(), "{key}: {}", read.unwrap());
    }
}

/// Named in README as what is not there yet.
const LATER: &[&str] = &["accept"];

#[test]
fn every_command_line_of_rota_in_a_block_is_understood() {
    let lines = commands(&text("README.md")).into_iter().map(|command| {
        let line = command.line.replace("cargo run --release -- ", "rota ");
        line.trim_end_matches([' ', '&']).to_owned()
    });
    let lines: Vec<_> = lines.filter(|line| line.starts_with("rota ")).collect();
    assert!(lines.len() > 10);
    let wrong = |line: &String| {
        let error = CommandLine::try_parse_from(line.split_whitespace()).err()?;
        Some(format!("{line}: {error}"))
    };
    assert_none("not understood", lines.iter().filter_map(wrong).collect());
}

#[test]
fn every_command_and_option_of_rota_in_a_sentence_exists() {
    let known = CommandLine::command();
    let mut faults = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        for span in code_spans(&text(document)) {
            let Some(rest) = span.strip_prefix("rota ") else {
                continue;
            };
            let name = rest.split(' ').next().unwrap();
            let command = known.find_subcommand(name);
            let mut options = rest.split(' ').filter_map(|word| word.strip_prefix("--"));
            let second = rest.split(' ').nth(1);
            let inner = command
                .zip(second)
                .and_then(|(c, word)| c.find_subcommand(word));
            let has = |option| {
                let mut both = command.into_iter().chain(inner);
                both.any(|c| c.get_arguments().any(|a| a.get_long() == Some(option)))
            };
            let is_known = command.is_some() || LATER.contains(&name);
            if !is_known || !options.all(has) {
                faults.push(format!("{document}: {span}"));
            }
        }
    }
    assert_none("no such command", faults);
}

/// The targets of `[text](target)`.
fn links(markdown: &str) -> Vec<String> {
    markdown
        .match_indices("](")
        .map(|(at, _)| markdown[at + 2..].split(')').next().unwrap().to_owned())
        .collect()
}

fn anchors(markdown: &str) -> BTreeSet<String> {
    let headings = markdown.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-');
        let kept: String = title.chars().filter(kept).collect();
        format!("#{}", kept.replace(' ', "-"))
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let markdown = text(document);
        let anchors = anchors(&markdown);
        for link in links(&markdown) {
            let leads = match link.as_str() {
                outside if outside.starts_with("http") => true,
                anchor if anchor.starts_with('#') => anchors.contains(anchor),
                path => root().join(path).exists(),
            };
            if !leads {
                faults.push(format!("{document}: {link}"));
            }
        }
    }
    assert_none("links to nothing", faults);
}

/// Files of the project that are named without a link.
#[test]
fn every_path_that_is_named_exists() {
    let rooms = [
        "src/", "tests/", "scripts/", "config/", "docker/", "fuzz/", "benches/",
    ];
    let mut faults = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let markdown = text(document);
        let in_blocks = commands(&markdown).into_iter().map(|command| command.line);
        let words: Vec<String> = code_spans(&markdown).into_iter().chain(in_blocks).collect();
        for word in words.iter().flat_map(|words| words.split(' ')) {
            let path = word.trim_start_matches("./");
            let is_path = rooms.iter().any(|room| path.starts_with(room));
            // These are KV keys.
            let is_key = path.starts_with("config/") && !path.ends_with(".toml");
            if is_path && !is_key && !root().join(path).exists() {
                faults.push(format!("{document}: {path}"));
            }
        }
    }
    assert_none("paths to nothing", faults);
}

#[test]
fn every_figure_and_test_that_is_named_exists() {
    let mut functions = String::new();
    for file in fs::read_dir(root().join("tests/load")).unwrap() {
        functions += &fs::read_to_string(file.unwrap().path()).unwrap();
    }
    let missing = code_spans(&text("README.md")).into_iter().filter(|span| {
        let name = span
            .strip_prefix("scripts/figures ")
            .or_else(|| span.strip_prefix("scripts/test --test load "));
        name.is_some_and(|name| !functions.contains(&format!("fn {name}")))
    });
    assert_none("no such test", missing.collect());
}

/// All code in one text.
fn code_below(directory: &Path) -> String {
    let mut code = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code += &code_below(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code += &fs::read_to_string(&path).unwrap();
        }
    }
    code
}

/// What SECURITY.md says is shown by a test.
#[test]
fn every_test_that_security_md_names_exists() {
    let code = code_below(&root().join("src")) + &code_below(&root().join("tests"));
    let functions = code.split("fn ").skip(1);
    let functions: BTreeSet<&str> = functions
        .filter_map(|rest| rest.split('(').next())
        .collect();
    let rows = text("SECURITY.md");
    let rows = rows.lines().filter(|line| line.starts_with("| "));
    let shown = rows.filter_map(|row| row.rsplit(" | ").next());
    let missing: Vec<String> = shown
        .flat_map(code_spans)
        .filter(|name| !functions.contains(name.as_str()))
        .collect();
    assert_none("no such test", missing);
}

/// A line of `config/full.toml`: the key's whole path, its value, its comment; the value is an example where it is commented out.
struct Reference {
    key: String,
    value: String,
    comment: String,
    is_example: bool,
}

fn reference() -> Vec<Reference> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in text("config/full.toml").lines() {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_owned();
            continue;
        }
        let Some((key, rest)) = line.split_once(" = ") else {
            continue;
        };
        let is_example = key.starts_with('#');
        let key = key.trim_start_matches('#');
        if !key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            continue;
        }
        let (value, comment) = rest.split_once(" # ").unwrap_or((rest, ""));
        found.push(Reference {
            key: format!("{table}.{key}"),
            value: value.trim().to_owned(),
            comment: comment.trim().to_owned(),
            is_example,
        });
    }
    found
}

#[test]
fn every_key_that_is_named_is_in_the_reference() {
    let known: BTreeSet<String> = reference().into_iter().map(|line| line.key).collect();
    let tables: BTreeSet<&str> = known
        .iter()
        .map(|key| key.split_once('.').unwrap().0)
        .collect();
    let mut faults = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        for span in code_spans(&text(document)) {
            let is_key = span
                .split_once('.')
                .is_some_and(|(table, key)| tables.contains(table) && is_key(key));
            if is_key && !known.contains(&span) {
                faults.push(format!("{document}: {span}"));
            }
        }
    }
    assert_none("no such key", faults);
}

fn is_key(text: &str) -> bool {
    let is_file = text == "rs" || text.ends_with(".rs");
    !is_file
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'.'))
}

#[test]
fn every_metric_that_is_named_exists() {
    let known = text("METRICS.md");
    let mut faults = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        for span in code_spans(&text(document)) {
            let name = span.split('{').next().unwrap();
            let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if is_name && name.starts_with("rota_") && !known.contains(&format!("`{name}`")) {
                faults.push(format!("{document}: {name}"));
            }
        }
    }
    assert_none("not in METRICS.md", faults);
}

#[test]
fn every_field_and_reason_of_the_access_log_is_explained() {
    let readme = text("README.md");
    let (_, section) = readme.split_once("\n| field | holds |").unwrap();
    let (section, _) = section.split_once("\n\n").unwrap();
    let spans: BTreeSet<String> = code_spans(section).into_iter().collect();
    let writer = text("src/telemetry/access_log/line.rs");
    let (writer, _) = writer.split_once("#[cfg(test)]").unwrap();
    let before_colon = writer.rsplit_once("\\\":").unwrap().0.split("\\\":");
    let names = before_colon.map(|part| part.rsplit("\\\"").next().unwrap());
    let fields: BTreeSet<&str> = names.collect();
    assert!(fields.len() > 15, "{fields:?}");
    let reasons = Reason::ALL.iter().map(|reason| reason.label());
    let missing = fields.iter().copied().chain(reasons);
    let missing = missing.filter(|name| !spans.contains(*name));
    assert_none("not explained", missing.map(str::to_owned).collect());
}

/// Each direct dependency has its reason and its door in ARCHITECTURE.
#[test]
fn every_dependency_has_its_reason() {
    let manifest = text("Cargo.toml");
    let architecture = text("ARCHITECTURE.md");
    let mut table = "";
    let mut missing = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            table = line;
        } else if matches!(table, "[dependencies]" | "[dev-dependencies]")
            && let Some((name, _)) = line.split_once(" = ")
            && !architecture.contains(&format!("| `{name}`"))
            && !architecture.contains(&format!(", `{name}`"))
        {
            missing.push(name.to_owned());
        }
    }
    assert_none("no row among ARCHITECTURE's dependencies", missing);
}

#[test]
fn nothing_of_the_machine_it_was_written_on_is_named() {
    let mut faults = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "METRICS.md"] {
        for (number, line) in text(document).lines().enumerate() {
            if ["/home/", "/root/", "/tmp/"]
                .iter()
                .any(|path| line.contains(path))
            {
                faults.push(format!("{document}:{}: {line}", number + 1));
            }
        }
    }
    assert_none("paths of one machine", faults);
}

/// Holds the part between `<!-- name -->` and `<!-- /name -->` to what it is generated from.
fn hold_generated(document: &str, name: &str, wanted: &str) {
    let markdown = text(document);
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = markdown.split_once(&begin).unwrap();
    let (found, after) = rest.split_once(&end).unwrap();
    if found == wanted {
        return;
    }
    assert!(
        std::env::var_os(BLESS).is_some(),
        "{document}: the part {name:?} differs from what it is made from: run this test with {BLESS}=1"
    );
    let written = format!("{before}{begin}{wanted}{end}{after}");
    fs::write(root().join(document), written).unwrap();
}

#[test]
fn the_table_of_limits_is_the_references() {
    let mut table = String::from("| key | default | meaning |\n| --- | --- | --- |\n");
    for line in reference() {
        let of = line.key.split('.').next().unwrap();
        if !TUNING_TABLES.contains(&of) {
            continue;
        }
        assert!(
            !line.comment.is_empty(),
            "{} has no comment in config/full.toml",
            line.key
        );
        let default = match line.is_example {
            true => "–".to_owned(),
            false => format!("`{}`", line.value.trim_matches('"')),
        };
        table += &format!("| `{}` | {default} | {} |\n", line.key, line.comment);
    }
    hold_generated("README.md", "limits", &table);
}

fn walk(directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let below = path.strip_prefix(root().join("src")).unwrap();
        let name = below.to_str().unwrap().to_owned();
        if path.is_dir() && !name.starts_with("reqwest-stub") {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let first = text.lines().next().unwrap_or_default();
            found.insert(name, first.trim_start_matches("//! ").to_owned());
        }
    }
}

#[test]
fn the_code_map_has_every_file() {
    let mut files = BTreeMap::new();
    walk(&root().join("src"), &mut files);
    let lines = files
        .iter()
        .map(|(file, purpose)| format!("- `{file}`: {purpose}\n"));
    hold_generated("ARCHITECTURE.md", "files", &lines.collect::<String>());
}
