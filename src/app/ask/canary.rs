//! A change that is tried on some load balancers: shown, waited for, ended.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::client::{self, Answer, Question};
use super::staged::{post, told, without_conflict};
use super::{body_of, operator, parsed, print};
use crate::admin::staging::EndRequest;
use crate::admin::views::span;
use crate::app::cli::{CanaryEnd, Changing, Running};
use crate::routing::canary::{Canary, CanaryView, Compared, Ended, Outcome, Side};
use crate::routing::staged::Written;
use crate::telemetry::rfc3339;

/// Between two looks at how it stands.
const LOOK_EACH: Duration = Duration::from_millis(500);
/// Looks in a row that may fail before it is given up.
const PATIENCE: u32 = 20;
/// Those that ended which are shown.
const SHOWN: usize = 5;

/// The answer to an apply; one that began a canary is waited for until that ends.
pub(super) fn attended(answer: Answer, to: &Changing) -> Result<(String, ExitCode), String> {
    let body = body_of(without_conflict(answer)?)?;
    let written: Written = parsed(&body)?;
    let is_json = to.running.form.json;
    let Some(canary) = &written.canary else {
        let text = if is_json { body } else { told(&written) };
        return Ok((text, ExitCode::SUCCESS));
    };
    if !is_json {
        print::to_stdout(&told(&written));
    }
    let ended = wait_for(canary, &to.running)?;
    let code = match ended.outcome {
        Outcome::Promoted => ExitCode::SUCCESS,
        Outcome::RolledBack => ExitCode::FAILURE,
    };
    match is_json {
        true => Ok((format!("{}\n", json!(ended)), code)),
        false => Ok((print::one_line(&over(&ended)), code)),
    }
}

/// Prints what has been found each time that it is something else.
fn wait_for(canary: &Canary, to: &Running) -> Result<Ended, String> {
    let (mut failures, mut shown) = (0, String::new());
    loop {
        sleep(LOOK_EACH);
        let why = match look(to) {
            Err(why) => format!("{why}: the canary goes on without this command"),
            Ok((view, _)) => {
                let is_it = |one: &Canary| one.id == canary.id;
                if let Some(ended) = view.ended.into_iter().find(|one| is_it(&one.canary)) {
                    return Ok(ended);
                }
                let found: String = view.compared.iter().map(finding).collect();
                if !to.form.json && found != shown {
                    print::to_stdout(&found);
                    shown = found;
                }
                if view.running.as_ref().is_some_and(is_it) {
                    failures = 0;
                    continue;
                }
                "the canary is gone, and nobody says what came of it".to_owned()
            }
        };
        failures += 1;
        if failures == PATIENCE {
            return Err(why);
        }
    }
}

fn finding(compared: &Compared) -> String {
    print::one_line(&format!("  {}: {}", name(compared), compared.finding))
}

fn name(compared: &Compared) -> &str {
    match compared.service.is_empty() {
        true => "all requests",
        false => &compared.service,
    }
}

fn look(to: &Running) -> Result<(CanaryView, String), String> {
    let question = Question::get("/v1/canary").patiently();
    let body = body_of(client::send(&to.address()?, &question)?)?;
    Ok((parsed(&body)?, body))
}

/// How it stands.
pub(super) fn shown(to: &Running) -> Result<(String, ExitCode), String> {
    let (view, body) = look(to)?;
    match to.form.json {
        true => Ok((body, ExitCode::SUCCESS)),
        false => Ok((words(&view, SystemTime::now()), ExitCode::SUCCESS)),
    }
}

/// Ends it.
pub(super) fn ended(end: &CanaryEnd) -> Result<(String, ExitCode), String> {
    let (path, note, to) = match end {
        CanaryEnd::Promote { note, to } => ("/v1/canary/promote", note, to),
        CanaryEnd::Abort { note, to } => ("/v1/canary/abort", note, to),
    };
    let request = EndRequest {
        by: operator(),
        note: note.clone(),
    };
    let body = body_of(post(path, &json!(request), to)?)?;
    if to.running.form.json {
        return Ok((body, ExitCode::SUCCESS));
    }
    let answer: serde_json::Value = parsed(&body)?;
    let message = answer["message"].as_str().unwrap_or("done");
    Ok((print::one_line(message), ExitCode::SUCCESS))
}

fn words(view: &CanaryView, now: SystemTime) -> String {
    let mut out = String::new();
    match &view.running {
        None => out.push_str("no canary is under way\n"),
        Some(canary) => out.push_str(&print::one_line(&under_way(canary, now))),
    }
    for compared in &view.compared {
        out.push_str(&finding(compared));
        for (who, now, before) in [
            ("canary", &compared.canary, &compared.canary_before),
            ("others", &compared.others, &compared.others_before),
        ] {
            let _ = writeln!(out, "    {who}: {}; before: {}", side(now), side(before));
        }
    }
    for ended in view.ended.iter().take(SHOWN) {
        out.push_str(&print::one_line(&over(ended)));
    }
    out
}

fn under_way(canary: &Canary, now: SystemTime) -> String {
    let note = match canary.note.is_empty() {
        true => String::new(),
        false => format!(": {}", canary.note),
    };
    let left = match canary.until().duration_since(now) {
        Ok(left) => format!("{} left", span(left.as_secs())),
        Err(_) => "its time is over and nobody has judged it yet".to_owned(),
    };
    format!(
        "canary on {} by {}, {} documents, {left}{note}",
        canary.nodes.join(", "),
        canary.by,
        canary.documents
    )
}

fn over(ended: &Ended) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(ended.at);
    format!(
        "{} {}: canary on {} by {}: {}",
        rfc3339::text(at),
        ended.outcome,
        ended.canary.nodes.join(", "),
        ended.canary.by,
        ended.reason
    )
}

fn side(side: &Side) -> String {
    match side.requests {
        0 => "no requests".to_owned(),
        count => format!(
            "{count} requests, {:.2} % failed, {:.2} % refused, {:.1} ms",
            side.failed * 100.0,
            side.refused * 100.0,
            side.milliseconds
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_what_is_tried_where_and_what_came_of_those_before() {
        let canary = Canary {
            by: "ops@lb".into(),
            nodes: vec!["lb-1".into()],
            documents: 2,
            until_ms: 90_000,
            ..Canary::default()
        };
        let view = CanaryView {
            running: Some(canary.clone()),
            compared: vec![Compared {
                service: "shop".into(),
                canary: Side {
                    requests: 200,
                    failed: 0.5,
                    refused: 0.0,
                    milliseconds: 1.25,
                },
                canary_before: Side::default(),
                others: Side::default(),
                others_before: Side::default(),
                finding: "worse".into(),
            }],
            ended: vec![Ended {
                canary,
                outcome: Outcome::RolledBack,
                reason: "too few requests".into(),
                at: 0,
            }],
        };
        assert_eq!(
            words(&view, SystemTime::UNIX_EPOCH + Duration::from_secs(60)),
            "canary on lb-1 by ops@lb, 2 documents, 30s left\n  shop: worse\n    \
             canary: 200 requests, 50.00 % failed, 0.00 % refused, 1.2 ms; before: no requests\n    \
             others: no requests; before: no requests\n\
             1970-01-01T00:00:00Z rolled back: canary on lb-1 by ops@lb: too few requests\n"
        );
    }
}
