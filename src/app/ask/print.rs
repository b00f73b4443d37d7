//! Answers for people's eyes: plain text, columns by spaces, nothing that moves a terminal's cursor.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::admin::fleet::{FleetView, NodeView};
use crate::admin::views::{CertificateRow, DiscoveryView, GroupView, StatusView, span};
use crate::admin::why::percent;
use crate::routing::staged::RevisionRow;
use crate::telemetry::rfc3339;

/// Prints; a reader that went away is no error, a full disk is.
pub fn to_stdout(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            to_stderr(&format!("rota: stdout: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line, as well as it can.
pub fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The text on one line of its own.
pub fn one_line(text: &str) -> String {
    format!("{}\n", plain(text))
}

fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A compact table: the LB first, then its services, then what is wrong.
pub fn status(status: &StatusView) -> String {
    let mut rows = vec![
        ["node".to_owned(), status.node.clone()],
        ["version".to_owned(), status.version.clone()],
        [
            "up".to_owned(),
            format!("{}, since {}", span(status.uptime_s), status.started),
        ],
        ["ready".to_owned(), readiness(status)],
        ["discovery".to_owned(), discovery(status.discovery.as_ref())],
        [
            "table".to_owned(),
            format!("generation {}, {} routes", status.generation, status.routes),
        ],
    ];
    if let Some(canary) = &status.canary {
        rows.push(["canary".to_owned(), canary.words()]);
    }
    for listener in &status.listeners {
        let text = format!(
            "{} {} ({})",
            listener.name, listener.address, listener.protocol
        );
        rows.push(["listener".to_owned(), text]);
    }
    let mut out = table(&rows);
    out.push('\n');
    let mut services = vec![["SERVICE", "UP", ""].map(str::to_owned)];
    for service in &status.services {
        let mut notes = Vec::new();
        let share = |group: &GroupView| format!("{} {}", group.name, percent(group.share));
        if !service.groups.is_empty() {
            let shares: Vec<String> = service.groups.iter().map(share).collect();
            notes.push(shares.join(" / "));
        }
        if service.doubted > 0 {
            notes.push(format!("{} doubted", service.doubted));
        }
        if service.panic {
            notes.push(
                "panic: nobody is fit, those serve whose only fault is a check's word".into(),
            );
        } else if service.up == 0 {
            notes.push("nobody is on the rota".into());
        }
        let up = format!("{}/{}", service.up, service.total);
        services.push([service.name.clone(), up, notes.join(", ")]);
    }
    out.push_str(&table(&services));
    for mistake in &status.mistakes {
        let text = format!(
            "mistake in {}: {} (in force: {}; since {})",
            mistake.entry,
            mistake.message.replace('\n', "; "),
            mistake.in_force,
            span(mistake.since_s)
        );
        let _ = write!(out, "\n{}", plain(&text));
    }
    if !status.mistakes.is_empty() {
        out.push('\n');
    }
    out
}

fn readiness(status: &StatusView) -> String {
    if status.ready {
        "yes".to_owned()
    } else {
        format!("no: {}", status.missing.join("; "))
    }
}

fn discovery(view: Option<&DiscoveryView>) -> String {
    let Some(view) = view else {
        return "not configured".to_owned();
    };
    let age = match (view.age_s, &view.remembered) {
        (Some(age), Some(of)) => format!(
            "{} old, from the state of {of}, Consul not reached yet",
            span(age as u64)
        ),
        (Some(age), None) => format!("{} old", span(age as u64)),
        (None, _) => "no answer yet".to_owned(),
    };
    let mut text = match view.failing {
        0 => age,
        failing => format!("{age}, {failing} watches failing"),
    };
    if let Some(trouble) = &view.trouble {
        let since = span(trouble.since_s);
        let _ = write!(
            text,
            "; {} for {since}: {}",
            trouble.reason, trouble.evidence
        );
    }
    text
}

/// Certificates by name, and how long they still last.
pub fn certificates(rows: &[CertificateRow], now: SystemTime) -> String {
    let columns = [
        "DOMAIN", "ENDS", "IN", "LISTENER", "ISSUER", "SOURCE", "RENEWAL", "ERROR",
    ];
    let mut lines = vec![columns.map(str::to_owned)];
    for row in rows {
        let ends = UNIX_EPOCH + Duration::from_secs(row.not_after.max(0) as u64);
        let (ends, left) = match (row.not_after, ends.duration_since(now)) {
            (0, _) => ("none yet".to_owned(), String::new()),
            (_, Ok(left)) => (rfc3339::text(ends), span(left.as_secs())),
            (_, Err(_)) => (rfc3339::text(ends), "has ended".to_owned()),
        };
        let renewal = row.renewal.map(|at| {
            let at = UNIX_EPOCH + Duration::from_secs(at.max(0) as u64);
            at.duration_since(now)
                .map_or_else(|_| "now".to_owned(), |left| span(left.as_secs()))
        });
        lines.push([
            row.domain.clone(),
            ends,
            left,
            row.listener.clone(),
            row.issuer.clone(),
            row.source.clone(),
            renewal.unwrap_or_default(),
            row.error.clone().unwrap_or_default(),
        ]);
    }
    table(&lines)
}

/// A line a load balancer, then what is wrong between them.
pub fn fleet(fleet: &FleetView) -> String {
    if !fleet.has_pod {
        return one_line("there is no [consul]: this load balancer is its own pod");
    }
    let columns = [
        "NODE",
        "STATE",
        "VERSION",
        "UP",
        "REVISION",
        "TABLE",
        "AGE",
        "DISCOVERY",
        "IN FLIGHT",
        "REQUESTS",
        "FAILED",
        "CERTIFICATES",
        "MISTAKES",
    ];
    let mut rows = vec![columns.map(str::to_owned)];
    rows.extend(fleet.nodes.iter().map(fleet_row));
    let mut out = table(&rows);
    if let Some(heard) = fleet.heard_s.filter(|heard| *heard >= fleet.old_after_s) {
        out.push_str(&one_line(&format!(
            "this is how the pod was {} ago",
            span(heard)
        )));
    }
    for finding in &fleet.findings {
        let subject = match finding.node.as_str() {
            "" => String::new(),
            node => format!("{node}: "),
        };
        let text = format!(
            "{}: {subject}{} (for {})",
            finding.finding.replace('_', " "),
            finding.message,
            span(finding.since_s)
        );
        out.push_str(&one_line(&text));
    }
    out
}

fn fleet_row(node: &NodeView) -> [String; 13] {
    let name = match node.is_asked {
        true => format!("{} *", node.name),
        false => node.name.clone(),
    };
    let state = match node.state_s {
        None => node.state.clone(),
        Some(since) => format!("{} {}", node.state, span(since)),
    };
    let mut row = [const { String::new() }; 13];
    row[..3].clone_from_slice(&[name, state, node.version.clone()]);
    let Some(status) = &node.status else {
        return row;
    };
    let percent_failed = match status.requests {
        0 => "0".to_owned(),
        requests => percent(status.failed as f64 / requests as f64),
    };
    let rest = [
        span(status.up_s),
        match status.revision {
            0 => "-".to_owned(),
            revision => revision.to_string(),
        },
        status.table.clone(),
        span(status.table_s),
        status.discovery_s.map_or_else(|| "-".to_owned(), span),
        status.in_flight.to_string(),
        format!("{} in {}", status.requests, span(status.window_s)),
        percent_failed,
        status.certificates.clone(),
        status.mistakes.to_string(),
    ];
    row[3..].clone_from_slice(&rest);
    row
}

/// Changes of documents, as they come.
pub fn history(rows: &[RevisionRow]) -> String {
    let columns = ["REVISION", "WHEN", "BY", "+", "~", "-", "NOTE"];
    let mut lines = vec![columns.map(str::to_owned)];
    for row in rows {
        lines.push([
            row.revision.map_or("-".to_owned(), |n| n.to_string()),
            rfc3339::text(UNIX_EPOCH + Duration::from_secs(row.at)),
            row.by.clone(),
            row.added.to_string(),
            row.changed.to_string(),
            row.removed.to_string(),
            history_note(row),
        ]);
    }
    table(&lines)
}

fn history_note(row: &RevisionRow) -> String {
    match &row.rolled_back {
        None => row.note.clone(),
        Some(why) if row.note.is_empty() => format!("canary rolled back: {why}"),
        Some(why) => format!("{}; canary rolled back: {why}", row.note),
    }
}

/// Columns as wide as their widest cell, two spaces between them, none at a line's end.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| plain(cell)))
        .collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
