//! The house rules that a machine can check: who imports whom, which crate is named where, how long files are and what they are called.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import. A room that is not listed is forbidden.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["app"]),
    ("lib", &[]),
    (
        "app",
        &[
            "proxy",
            "control",
            "admin",
            "routing",
            "certs",
            "config",
            "dial",
            "drain",
            "seal",
            "telemetry",
        ],
    ),
    ("proxy", &["routing", "certs", "dial", "drain", "telemetry"]),
    (
        "control",
        &[
            "routing",
            "certs",
            "config",
            "dial",
            "drain",
            "seal",
            "telemetry",
        ],
    ),
    ("admin", &["routing", "certs", "drain", "telemetry"]),
    ("config", &["routing"]),
    ("certs", &["config", "routing", "seal"]),
    ("telemetry", &["routing"]),
    ("routing", &[]),
    ("dial", &[]),
    ("drain", &[]),
    ("seal", &[]),
];

/// A crate with an opinion, and where alone it may be named.
const DOORS: &[(&str, &[&str])] = &[
    ("consulrs", &["control/consul"]),
    ("rustify", &["control/consul"]),
    ("rustify_derive", &["control/consul"]),
    ("arc_swap", &["routing/swap.rs"]),
    ("prometheus", &["telemetry/metrics.rs", "telemetry/metrics"]),
    ("hickory_resolver", &["control/resolve.rs"]),
    (
        "rcgen",
        &[
            "app/demo.rs",
            "app/demo",
            "certs/proof.rs",
            "control/acme/request.rs",
        ],
    ),
    (
        "instant_acme",
        &[
            "control/acme/authority.rs",
            "control/acme/pending.rs",
            "control/acme/problem.rs",
            "control/acme/transport.rs",
        ],
    ),
    ("psl", &["control/acme/budget.rs"]),
    ("clap", &["app/cli.rs"]),
    ("aws_lc_rs", &["seal/cipher.rs", "control/acme/jose.rs"]),
    (
        "base64",
        &[
            "seal",
            "control/acme/give_back.rs",
            "control/acme/jose.rs",
            "control/consul/transaction.rs",
        ],
    ),
    ("zeroize", &["seal"]),
];

/// Of `routing`: no I/O, no clock, no randomness.
const IMPURE: &[&str] = &[
    "std::net::TcpStream",
    "std::fs",
    "std::io",
    "std::thread",
    "tokio",
    "Instant::now",
    "SystemTime::now",
    "fastrand",
    "std::env",
];

/// Decisions of the control plane that are held to the same: `now` is an argument.
const PURE: &[&str] = &[
    "control/acme/budget.rs",
    "control/acme/failure.rs",
    "control/acme/model.rs",
    "control/fleet/namesake.rs",
    "control/fleet/spread.rs",
    "control/fleet/status.rs",
    "control/fleet/table_hash.rs",
    "control/fleet/tickets.rs",
    "control/fleet/view.rs",
    "control/fleet/view/compare.rs",
    "control/kept/format.rs",
    "control/kept/table.rs",
    "control/model/memory.rs",
    "control/model/arriving.rs",
    "control/staged/batches.rs",
    "control/staged/check.rs",
    "control/staged/live.rs",
    "control/staged/plan.rs",
    "control/staged/revision.rs",
    "control/staged/unified.rs",
];

const DRAWERS: &[&str] = &[
    "utils", "util", "common", "helpers", "types", "manager", "misc",
];

/// Lines that a file may have without a reason in its head.
const LONG: usize = 500;

struct Source {
    /// Below `src`.
    path: String,
    text: String,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The code before its tests, without comments: what is built into the binary.
    fn production(&self) -> impl Iterator<Item = (usize, String)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let begins_tests = |pair: &[&str]| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        };
        let end = lines.windows(2).position(begins_tests);
        let end = end.unwrap_or(lines.len());
        let lines = lines.into_iter().take(end).enumerate();
        let lines: Vec<_> = lines
            .map(|(number, line)| (number + 1, without_comment(line).to_owned()))
            .collect();
        lines.into_iter()
    }

    /// The files (without `.rs`) that this one declares under `#[cfg(test)]`.
    fn test_modules(&self) -> Vec<String> {
        let folder = match self.path.strip_suffix("/mod.rs") {
            Some(folder) => folder,
            None => self.path.trim_end_matches(".rs"),
        };
        let lines: Vec<&str> = self.text.lines().collect();
        let declared = lines
            .windows(2)
            .filter(|pair| pair[0].trim() == "#[cfg(test)]");
        let names = declared.filter_map(|pair| {
            let (_, name) = pair[1].strip_suffix(';')?.split_once("mod ")?;
            Some(format!("{folder}/{name}"))
        });
        names.collect()
    }
}

fn without_comment(line: &str) -> &str {
    match line.find("//") {
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let stub = |path: &&PathBuf| !path.starts_with(root.join("reqwest-stub"));
    let read = |path: &PathBuf| Source {
        path: path
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned(),
        text: fs::read_to_string(path).unwrap(),
    };
    found.iter().filter(stub).map(read).collect()
}

/// Without the files that are built for tests alone.
fn built() -> Vec<Source> {
    let mut sources = sources();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    let is_test = |path: &str| {
        let below = |test: &String| {
            path.strip_prefix(test.as_str())
                .is_some_and(|r| r.starts_with(['.', '/']))
        };
        tests.iter().any(below)
    };
    sources.retain(|source| !is_test(&source.path));
    sources
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn assert_none(what: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

/// Whether `word` stands in `line` as a path's segment of its own.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(|c| is_part(c) || c == ':') && !after.is_some_and(is_part)
    })
}

/// The rooms that a line names: `crate::room`, `rota::room`, and each of `crate::{room, other::…}`.
fn rooms_named(line: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for start in ["crate::", "rota::"] {
        for (at, _) in line.match_indices(start) {
            let rest = &line[at + start.len()..];
            match rest.strip_prefix('{') {
                Some(group) => rooms.extend(members(group)),
                None => rooms.push(word(rest)),
            }
        }
    }
    rooms
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn members(group: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts
        .iter()
        .map(|p| word(p.trim_start_matches([',', ' '])))
        .collect()
}

/// `use` declarations joined to one line each, other lines as they are.
fn statements(source: &Source) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in source.production() {
        match joined.last_mut() {
            Some((_, last)) if open => last.push_str(line.trim()),
            _ => joined.push((number, line.trim().to_owned())),
        }
        let last = &joined.last().unwrap().1;
        open = (last.starts_with("use ") || last.starts_with("pub use ")) && !last.ends_with(';');
    }
    joined
}

#[test]
fn no_room_imports_against_the_layers() {
    let mut faults = Vec::new();
    for source in built() {
        let Some((_, allowed)) = LAYERS.iter().find(|(room, _)| *room == source.room()) else {
            faults.push(format!("src/{}: a room without a layer", source.path));
            continue;
        };
        for (number, line) in statements(&source) {
            for room in rooms_named(&line) {
                let is_room = LAYERS.iter().any(|(known, _)| *known == room);
                if is_room && room != source.room() && !allowed.contains(&room.as_str()) {
                    faults.push(format!(
                        "src/{}:{number}: {} names {room}",
                        source.path,
                        source.room()
                    ));
                }
            }
        }
    }
    assert_none("imports against the layers", faults);
}

#[test]
fn a_crate_with_an_opinion_is_named_behind_its_one_door() {
    let mut faults = Vec::new();
    let mut toml = std::collections::BTreeSet::new();
    for source in built() {
        for (number, line) in source.production() {
            for (name, doors) in DOORS {
                let is_door = doors.iter().any(|door| source.path.starts_with(door));
                if names(&line, name) && !is_door && line.contains(&format!("{name}::")) {
                    faults.push(format!("src/{}:{number}: {name}", source.path));
                }
            }
            if names(&line, "toml") && line.contains("toml::") {
                toml.insert(source.path.clone());
            }
        }
    }
    if toml.len() > 1 || toml.iter().any(|path| !path.starts_with("config/")) {
        faults.push(format!(
            "toml in {toml:?}, where one file of config/ is its door"
        ));
    }
    assert_none("crates named outside their door", faults);
}

#[test]
fn routing_has_no_io_no_clock_and_no_randomness() {
    let mut faults = Vec::new();
    for source in built().iter().filter(|s| s.room() == "routing") {
        for (number, line) in source.production() {
            for word in IMPURE.iter().filter(|word| line.contains(*word)) {
                faults.push(format!("src/{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none("not pure", faults);
}

/// Its deadlines are on a clock that never jumps; logs and tickets are others'.
#[test]
fn the_data_plane_knows_no_time_of_day() {
    let mut faults = Vec::new();
    let rooms = ["proxy", "dial", "drain"];
    for source in built().iter().filter(|s| rooms.contains(&s.room())) {
        for (number, line) in source.production() {
            if line.contains("SystemTime") {
                faults.push(format!("src/{}:{number}", source.path));
            }
        }
    }
    assert_none("the time of day", faults);
}

#[test]
fn what_the_fleet_decides_has_no_io_no_clock_and_no_randomness() {
    let sources = built();
    let mut faults = Vec::new();
    for path in PURE {
        let source = sources.iter().find(|source| source.path == *path).unwrap();
        for (number, line) in source.production() {
            for word in IMPURE.iter().filter(|word| line.contains(*word)) {
                faults.push(format!("src/{path}:{number}: {word}"));
            }
        }
    }
    assert_none("not pure", faults);
}

#[test]
fn a_long_file_says_why() {
    let too_long = |source: &Source| {
        let head = source
            .text
            .lines()
            .take_while(|line| line.starts_with("//!"));
        let says_why = head.clone().any(|line| line.contains("Long because"));
        (source.text.lines().count() > LONG && !says_why)
            .then(|| format!("src/{}: {} lines", source.path, source.text.lines().count()))
    };
    let faults = sources().iter().filter_map(too_long).collect();
    assert_none(
        "over 500 lines without `//! Long because …` in the head",
        faults,
    );
}

#[test]
fn no_file_is_a_drawer() {
    let is_drawer = |source: &Source| {
        let mut parts = source.path.trim_end_matches(".rs").split('/');
        parts
            .any(|part| DRAWERS.contains(&part))
            .then(|| source.path.clone())
    };
    assert_none("drawers", sources().iter().filter_map(is_drawer).collect());
}

#[test]
fn nothing_is_left_for_later() {
    let markers = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("];
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if markers.iter().any(|marker| line.contains(marker)) {
                faults.push(format!(
                    "src/{}:{}: {}",
                    source.path,
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert_none("left for later", faults);
}

#[test]
fn each_file_begins_with_what_it_is_for() {
    let is_mute = |source: &Source| {
        let first = source.text.lines().next().unwrap_or_default();
        let sentence = first.strip_prefix("//! ").unwrap_or_default();
        let is_sentence = sentence.split(' ').count() >= 3;
        (!is_sentence).then(|| format!("src/{}: {first:?}", source.path))
    };
    assert_none(
        "no module doc of a sentence in the first line",
        sources().iter().filter_map(is_mute).collect(),
    );
}

#[test]
fn the_reader_of_imports_sees_through_groups_and_lines() {
    let source = Source {
        path: "routing/x.rs".into(),
        text: "use crate::{\n    admin::A,\n    proxy::{B, C},\n    drain,\n};\nlet x = crate::app::y(); // crate::certs\n#[cfg(test)]\nmod tests {\n    use crate::config;\n}\n".into(),
    };
    let rooms: Vec<String> = statements(&source)
        .iter()
        .flat_map(|(_, l)| rooms_named(l))
        .collect();
    let rooms: Vec<&str> = rooms
        .iter()
        .map(String::as_str)
        .filter(|r| !r.is_empty())
        .collect();
    assert_eq!(rooms, ["admin", "proxy", "drain", "app"]);
    assert!(names("use prometheus::Registry;", "prometheus"));
    assert!(!names("use my_prometheus::Registry;", "prometheus"));
    assert!(!names("crate::prometheus::x", "prometheus"));
}
