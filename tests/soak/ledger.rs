//! The ledger: what a client saw of a request beside what rota says of it. What the two don't explain together is unexplained. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// What a client is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Get,
    Post,
    Upload,
    Download,
    WebSocket,
    /// Reads its answer slowly.
    SlowReader,
    /// Sends its body slowly, but not too slowly.
    SlowBody,
    SlowHead,
    /// Never comes to the end of its head.
    EndlessHead,
    /// Sends its body too slowly.
    EndlessBody,
    /// Goes away before the end.
    Leaver,
    /// Asks a server that sends less than it says.
    Cut,
    /// Asks for a host that nobody has.
    Stranger,
}

impl Kind {
    /// May be sent again once a byte of it was written.
    fn is_idempotent(self) -> bool {
        match self {
            Kind::Post | Kind::Upload | Kind::SlowBody | Kind::EndlessBody => false,
            Kind::Get
            | Kind::Download
            | Kind::WebSocket
            | Kind::SlowReader
            | Kind::SlowHead
            | Kind::EndlessHead
            | Kind::Leaver
            | Kind::Cut
            | Kind::Stranger => true,
        }
    }
}

/// What a client saw of the end of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An answer with its end; of a 200 (101) each byte was as it should be.
    Whole { status: u16 },
    /// As above, but with other bytes.
    Garbled { status: u16 },
    /// An answer that ended before its end.
    Truncated { status: u16, why: String },
    /// The connection ended, or nothing came in time.
    Nothing { why: String },
    /// The client went away by itself.
    Left,
}

/// Which request of its connection it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    First,
    Later,
}

/// One request as its client tells it.
#[derive(Clone, Debug)]
pub struct Record {
    /// None: rota cannot know it, since it never had the head.
    pub id: Option<u64>,
    pub kind: Kind,
    pub seen: Seen,
    pub turn: Turn,
    pub from: Instant,
    pub until: Instant,
}

/// One request as rota's access log tells it.
#[derive(Clone, Debug)]
pub struct Line {
    pub id: Option<u64>,
    pub status: u16,
    pub reason: String,
    /// The last one that was asked.
    pub upstream: Option<String>,
    pub attempts: u64,
    pub is_of_the_ca: bool,
    pub text: String,
}

/// What was done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    Killed,
    Hung,
}

#[derive(Clone, Debug)]
pub struct Trouble {
    pub upstream: String,
    pub harm: Harm,
    pub from: Instant,
    /// None: it lasts.
    pub until: Option<Instant>,
}

/// What a trouble still causes when it is over.
const AFTERMATH: Duration = Duration::from_secs(2);

impl Trouble {
    fn explains(&self, record: &Record, line: &Line) -> bool {
        let is_its = line.upstream.as_deref() == Some(&*self.upstream);
        // One deadline covers all attempts: a server that was asked before, and hung, used up the time of the last one.
        let is_before = line.attempts > 1 && self.harm == Harm::Hung;
        let until = self.until.map(|until| until + AFTERMATH);
        (is_its || is_before)
            && self.from <= record.until
            && until.is_none_or(|until| record.from <= until)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Answered,
    Aborted,
    /// With its cause, which was there.
    Failed(String),
    Unexplained(String),
}

/// What became of a request that both have told of.
pub fn judge(record: &Record, line: &Line, troubles: &[Trouble]) -> Verdict {
    let unexplained = |what: &str| Verdict::Unexplained(what.to_owned());
    let is_answered = line.reason == "answered";
    match &record.seen {
        Seen::Left => Verdict::Aborted,
        Seen::Garbled { .. } => unexplained("bytes that nobody sent"),
        Seen::Whole { status } if *status != line.status => unexplained("another status"),
        Seen::Whole { status: 200 | 101 } if is_answered => Verdict::Answered,
        Seen::Whole { status } if *status < 400 => unexplained("whole, and rota says it is not"),
        Seen::Whole { .. } if is_answered => unexplained("no server answers so"),
        Seen::Truncated { status: 101, .. } => {
            match harmed(record, line, troubles, &[Harm::Killed]) {
                true => Verdict::Failed("websocket_of_a_killed_server".into()),
                false => unexplained("a websocket whose server lives"),
            }
        }
        Seen::Truncated { .. } | Seen::Nothing { .. } if is_answered => {
            unexplained("answered, and its client has not got it")
        }
        Seen::Whole { .. } | Seen::Truncated { .. } | Seen::Nothing { .. } => {
            failed(record, line, troubles)
        }
    }
}

fn harmed(record: &Record, line: &Line, troubles: &[Trouble], by: &[Harm]) -> bool {
    let mut troubles = troubles.iter();
    troubles.any(|trouble| by.contains(&trouble.harm) && trouble.explains(record, line))
}

/// The reason has a name; it counts only if it was there.
fn failed(record: &Record, line: &Line, troubles: &[Trouble]) -> Verdict {
    let is_caused = match (record.kind, &*line.reason) {
        (Kind::EndlessHead | Kind::EndlessBody, "client_timeout") => true,
        (Kind::Stranger, "no_route") => true,
        (Kind::Cut, "upstream_truncated") => true,
        (_, "upstream_timeout") => harmed(record, line, troubles, &[Harm::Hung]),
        (_, "upstream_truncated") => harmed(record, line, troubles, &[Harm::Killed, Harm::Hung]),
        // What may be sent again is sent again.
        (kind, "upstream_broken") if !kind.is_idempotent() => {
            harmed(record, line, troubles, &[Harm::Killed])
        }
        _ => false,
    };
    match is_caused {
        true => Verdict::Failed(line.reason.clone()),
        false => Verdict::Unexplained(format!("{} without its cause", line.reason)),
    }
}

/// All verdicts, counted.
#[derive(Default)]
pub struct Ledger {
    /// By verdict and what the client was after.
    counts: BTreeMap<(Verdict, Kind), u64>,
    /// The first of those that nobody explains, with all that is known of them.
    pub examples: Vec<String>,
}

const EXAMPLES: usize = 40;

impl Ledger {
    pub fn enter(&mut self, kind: Kind, verdict: Verdict, told: impl FnOnce() -> String) {
        if let Verdict::Unexplained(what) = &verdict
            && self.examples.len() < EXAMPLES
        {
            self.examples.push(format!("{what}: {}", told()));
        }
        *self.counts.entry((verdict, kind)).or_default() += 1;
    }

    pub fn count(&self, is_meant: impl Fn(&Verdict) -> bool) -> u64 {
        let meant = self.counts.iter().filter(|((v, _), _)| is_meant(v));
        meant.map(|(_, count)| count).sum()
    }

    pub fn unexplained(&self) -> u64 {
        self.count(|verdict| matches!(verdict, Verdict::Unexplained(_)))
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: BTreeMap<&Verdict, Vec<String>> = BTreeMap::new();
        for ((verdict, kind), count) in &self.counts {
            let row = rows.entry(verdict).or_default();
            row.push(format!("{kind:?} {count}"));
        }
        for (verdict, kinds) in rows {
            let name = match verdict {
                Verdict::Answered => "answered".to_owned(),
                Verdict::Aborted => "aborted by clients".to_owned(),
                Verdict::Failed(cause) => format!("failed: {cause}"),
                Verdict::Unexplained(what) => format!("UNEXPLAINED: {what}"),
            };
            let sum = self.count(|other| other == verdict);
            writeln!(f, "  {name:<40} {sum:>8}  ({})", kinds.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, seen: Seen) -> Record {
        let now = Instant::now();
        Record {
            id: Some(1),
            kind,
            seen,
            turn: Turn::First,
            from: now,
            until: now,
        }
    }

    fn line(status: u16, reason: &str) -> Line {
        Line {
            id: Some(1),
            status,
            reason: reason.into(),
            upstream: Some("127.0.0.1:1".into()),
            attempts: 1,
            is_of_the_ca: false,
            text: String::new(),
        }
    }

    fn trouble(harm: Harm) -> [Trouble; 1] {
        [Trouble {
            upstream: "127.0.0.1:1".into(),
            harm,
            from: Instant::now(),
            until: None,
        }]
    }

    fn whole(status: u16) -> Seen {
        Seen::Whole { status }
    }

    fn truncated(status: u16) -> Seen {
        let why = String::new();
        Seen::Truncated { status, why }
    }

    fn is_unexplained(kind: Kind, seen: Seen, line: &Line, troubles: &[Trouble]) -> bool {
        let verdict = judge(&record(kind, seen), line, troubles);
        matches!(verdict, Verdict::Unexplained(_))
    }

    #[test]
    fn a_truncated_answer_that_looks_complete_to_either_side_is_unexplained() {
        let killed = trouble(Harm::Killed);
        let truncated_there = line(200, "upstream_truncated");
        assert!(is_unexplained(
            Kind::Get,
            whole(200),
            &truncated_there,
            &killed
        ));
        let answered = line(200, "answered");
        assert!(is_unexplained(
            Kind::Get,
            truncated(200),
            &answered,
            &killed
        ));
        assert!(!is_unexplained(
            Kind::Get,
            truncated(200),
            &truncated_there,
            &killed
        ));
        let garbled = Seen::Garbled { status: 200 };
        assert!(is_unexplained(Kind::Get, garbled, &answered, &killed));
    }

    #[test]
    fn a_named_cause_counts_only_where_it_was() {
        let (killed, hung) = (trouble(Harm::Killed), trouble(Harm::Hung));
        let timeout = line(504, "upstream_timeout");
        assert!(!is_unexplained(Kind::Get, whole(504), &timeout, &hung));
        assert!(is_unexplained(Kind::Get, whole(504), &timeout, &killed));
        assert!(is_unexplained(Kind::Get, whole(504), &timeout, &[]));
        let mut elsewhere = timeout;
        elsewhere.upstream = Some("127.0.0.1:2".into());
        assert!(is_unexplained(Kind::Get, whole(504), &elsewhere, &hung));
        elsewhere.attempts = 2;
        assert!(!is_unexplained(Kind::Get, whole(504), &elsewhere, &hung));
        assert!(is_unexplained(Kind::Get, whole(504), &elsewhere, &killed));
    }

    #[test]
    fn what_may_be_sent_again_does_not_fail_by_a_killed_server() {
        let (broken, killed) = (line(502, "upstream_broken"), trouble(Harm::Killed));
        assert!(is_unexplained(Kind::Get, whole(502), &broken, &killed));
        assert!(!is_unexplained(Kind::Post, whole(502), &broken, &killed));
        let refused = line(502, "connect_failed");
        assert!(is_unexplained(Kind::Post, whole(502), &refused, &killed));
    }

    #[test]
    fn a_websocket_ends_with_its_own_server_alone() {
        let ended = line(101, "answered");
        let killed = trouble(Harm::Killed);
        assert!(!is_unexplained(
            Kind::WebSocket,
            truncated(101),
            &ended,
            &killed
        ));
        assert!(is_unexplained(Kind::WebSocket, truncated(101), &ended, &[]));
        assert!(!is_unexplained(Kind::WebSocket, whole(101), &ended, &[]));
    }
}
