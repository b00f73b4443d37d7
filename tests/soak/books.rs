//! Keeps the ledger while it grows: clients' records and the lines of rota's access log, each pair judged as soon as it is there.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::content::number;
use super::desk::Desk;
use super::ledger::{Kind, Ledger, Line, Record, Seen, Turn, Verdict, judge};

/// How long a log that was moved away is read on when another one is there.
const MOVED_AWAY: Duration = Duration::from_secs(3);

/// Which requests are the CA's.
const PROOFS: &str = "/.well-known/acme-challenge/";

/// All that is known of all requests.
#[derive(Default)]
pub struct Books {
    pub ledger: Ledger,
    /// What clients said.
    pub records: u64,
    /// Of these what rota never had the head of, and did not refuse.
    pub unheard: u64,
    pub lines: u64,
    pub lines_by_reason: BTreeMap<String, u64>,
    /// What the CA asked: for a name that is gone by then it is answered with 404.
    pub proofs: u64,
    /// Requests on connections of their own that were closed before a byte: rota counts them as connections that it did not take.
    pub unadmitted: u64,
    /// POSTs that were answered with their receipt.
    pub receipts: Vec<u64>,
    /// Lines without an id, by reason, that no client has claimed yet.
    nameless: BTreeMap<String, u64>,
    /// Clients whose head rota never had.
    headless: Vec<Record>,
    open_records: HashMap<u64, Record>,
    open_lines: HashMap<u64, Line>,
}

impl Books {
    pub fn enter(&mut self, record: Record, desk: &Desk) {
        self.records += 1;
        let Some(id) = record.id else {
            return self.headless.push(record);
        };
        match self.open_lines.remove(&id) {
            Some(line) => self.close(record, &line, desk),
            None => drop(self.open_records.insert(id, record)),
        }
    }

    fn note(&mut self, line: Line, desk: &Desk) {
        self.lines += 1;
        *self.lines_by_reason.entry(line.reason.clone()).or_default() += 1;
        if line.is_of_the_ca {
            self.proofs += 1;
            return;
        }
        let Some(id) = line.id else {
            *self.nameless.entry(line.reason).or_default() += 1;
            return;
        };
        match self.open_records.remove(&id) {
            Some(record) => self.close(record, &line, desk),
            None => {
                if let Some(other) = self.open_lines.insert(id, line) {
                    self.unexplained(Kind::Get, "recorded twice", other.text);
                }
            }
        }
    }

    fn close(&mut self, record: Record, line: &Line, desk: &Desk) {
        let verdict = judge(&record, line, &desk.troubles());
        let is_post = matches!(record.kind, Kind::Post | Kind::Upload | Kind::SlowBody);
        if is_post && verdict == Verdict::Answered {
            self.receipts.extend(record.id);
        }
        self.ledger.enter(record.kind, verdict, || {
            let after = record.from - desk.start;
            let span = record.until - record.from;
            format!("{record:?} at {after:?} for {span:?}: {}", line.text)
        });
    }

    fn unexplained(&mut self, kind: Kind, what: &str, told: String) {
        let verdict = Verdict::Unexplained(what.to_owned());
        self.ledger.enter(kind, verdict, || told);
    }

    /// Nothing more will come: what has no other half is judged by itself.
    pub fn settle(&mut self) {
        for record in std::mem::take(&mut self.headless) {
            let is_refused = record.seen == Seen::Whole { status: 408 };
            let claimed = self.nameless.get_mut("client_timeout").filter(|n| **n > 0);
            match claimed {
                Some(left) if is_refused => {
                    *left -= 1;
                    let verdict = Verdict::Failed("client_timeout".into());
                    self.ledger.enter(record.kind, verdict, String::new);
                }
                _ => self.unexplained(record.kind, "no head, no refusal", format!("{record:?}")),
            }
        }
        for (reason, count) in std::mem::take(&mut self.nameless) {
            for _ in 0..count {
                self.unexplained(Kind::EndlessHead, "a line of nobody's", reason.clone());
            }
        }
        for (_, line) in std::mem::take(&mut self.open_lines) {
            self.unexplained(Kind::Get, "no client sent it", line.text);
        }
        for (_, record) in std::mem::take(&mut self.open_records) {
            self.unheard += 1;
            match record.seen {
                // Away before rota had its head.
                Seen::Left => self
                    .ledger
                    .enter(record.kind, Verdict::Aborted, String::new),
                Seen::Nothing { .. } if record.turn == Turn::First => {
                    self.unadmitted += 1;
                    let verdict = Verdict::Failed("connection_not_admitted".into());
                    self.ledger.enter(record.kind, verdict, String::new);
                }
                _ => self.unexplained(
                    record.kind,
                    "rota knows nothing of it",
                    format!("{record:?}"),
                ),
            }
        }
    }
}

/// Keeps books until the clients are gone and nothing new has come for a while.
pub fn keep(
    desk: &Arc<Desk>,
    records: Receiver<Record>,
    log: PathBuf,
) -> std::thread::JoinHandle<Books> {
    let desk = desk.clone();
    std::thread::spawn(move || {
        let (mut books, mut tail) = (Books::default(), Tail::of(log));
        let mut is_open = true;
        let mut quiet_since = Instant::now();
        while is_open || quiet_since.elapsed() < MOVED_AWAY * 2 {
            is_open &= !desk.are_clients_gone();
            std::thread::sleep(Duration::from_millis(50));
            records
                .try_iter()
                .for_each(|record| books.enter(record, &desk));
            for line in tail.lines() {
                quiet_since = Instant::now();
                books.note(read(line), &desk);
            }
        }
        books
    })
}

fn read(text: String) -> Line {
    let line: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("a line of the access log ({error}): {text}"));
    let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let target = word("target");
    Line {
        id: number(&target, "id"),
        attempts: line["attempts"].as_u64().unwrap_or_default(),
        is_of_the_ca: target.starts_with(PROOFS),
        status: line["status"]
            .as_u64()
            .and_then(|s| s.try_into().ok())
            .unwrap_or_default(),
        reason: word("reason"),
        upstream: line["upstream"].as_str().map(str::to_owned),
        text,
    }
}

/// A log as it grows, also when it is moved away and another one takes its place.
struct Tail {
    path: PathBuf,
    file: Option<(File, u64)>,
    /// A line that is not yet whole.
    rest: Vec<u8>,
    last: Instant,
}

impl Tail {
    fn of(path: PathBuf) -> Tail {
        Tail {
            path,
            file: None,
            rest: Vec::new(),
            last: Instant::now(),
        }
    }

    fn lines(&mut self) -> Vec<String> {
        let now = Instant::now();
        let number = std::fs::metadata(&self.path).map(|file| file.ino());
        let is_moved = |known: u64| number.as_ref().is_ok_and(|number| *number != known);
        match &self.file {
            Some((_, known)) if is_moved(*known) && now - self.last > MOVED_AWAY => {
                assert!(self.rest.is_empty(), "the log ends within a line");
                self.file = None;
            }
            _ => {}
        }
        if self.file.is_none() {
            self.file = File::open(&self.path).ok().and_then(|file| {
                let number = file.metadata().ok()?.ino();
                Some((file, number))
            });
        }
        let Some((file, _)) = &mut self.file else {
            return Vec::new();
        };
        let mut came = std::mem::take(&mut self.rest);
        let before = came.len();
        file.read_to_end(&mut came).unwrap();
        if came.len() > before {
            self.last = now;
        }
        let end = came
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.rest = came.split_off(end);
        let whole = String::from_utf8(came).unwrap();
        whole.lines().map(str::to_owned).collect()
    }
}
