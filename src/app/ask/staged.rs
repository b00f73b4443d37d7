//! Documents brought before a running rota: what they would change and what was changed, in words.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use http::StatusCode;
use serde_json::json;

use super::canary;
use super::client::{self, Answer, Question};
use super::folder::Folder;
use super::{body_of, operator, parsed, print, secret};
use crate::admin::staging::{ApplyRequest, DiffRequest, RollbackRequest, TrialRequest};
use crate::app::cli::{Changing, Running, Staged};
use crate::routing::staged::{
    Change, Difference, DocumentChange, Plan, RevisionRow, RouteChange, StagedMistake, Traffic,
    Written,
};

/// There are changes.
const CHANGES: u8 = 2;

/// What is to be printed, and how the process ends. The error is a message.
pub(super) fn answered(staged: &Staged) -> Result<(String, ExitCode), String> {
    match staged {
        Staged::Plan { folder, to } => plan(folder, to),
        Staged::Apply {
            folder,
            note,
            plan,
            canary,
            for_span,
            detach,
            to,
        } => {
            let trial = canary.clone().map(|on| TrialRequest {
                on,
                for_span: for_span.clone(),
            });
            let answer = apply(folder, note, plan.as_deref(), trial, to)?;
            match detach {
                true => written(answer, to),
                false => canary::attended(answer, to),
            }
        }
        Staged::Canary { what: None, to } => canary::shown(to),
        Staged::Canary {
            what: Some(end), ..
        } => canary::ended(end),
        Staged::History { to } => history(to),
        Staged::Diff { from, revision, to } => diff(*from, *revision, to),
        Staged::Rollback { revision, note, to } => roll_back(*revision, note, to),
    }
}

fn history(to: &Running) -> Result<(String, ExitCode), String> {
    let question = Question::get("/v1/history").patiently();
    let body = body_of(client::send(&to.address()?, &question)?)?;
    let rows: Vec<RevisionRow> = parsed(&body)?;
    match to.form.json {
        true => Ok((body, ExitCode::SUCCESS)),
        false => Ok((print::history(&rows), ExitCode::SUCCESS)),
    }
}

fn diff(from: u64, revision: Option<u64>, to: &Changing) -> Result<(String, ExitCode), String> {
    let request = DiffRequest { from, to: revision };
    let body = body_of(post("/v1/diff", &json!(request), to)?)?;
    let differences: Vec<Difference> = parsed(&body)?;
    if to.running.form.json {
        return Ok((body, ExitCode::SUCCESS));
    }
    let text = diff_words(&differences);
    match text.is_empty() {
        true => Ok(("no difference\n".to_owned(), ExitCode::SUCCESS)),
        false => Ok((text, ExitCode::SUCCESS)),
    }
}

fn diff_words(differences: &[Difference]) -> String {
    let lines = differences.iter().flat_map(|one| one.diff.lines());
    lines.map(print::one_line).collect()
}

fn roll_back(revision: u64, note: &str, to: &Changing) -> Result<(String, ExitCode), String> {
    let request = RollbackRequest {
        to: revision,
        by: operator(),
        note: note.to_owned(),
    };
    let answer = post("/v1/rollback", &json!(request), to)?;
    let answer = without_mistakes(answer, &Folder::default(), "written")?;
    written(answer, to)
}

pub(super) fn post(
    path: &str,
    request: &serde_json::Value,
    to: &Changing,
) -> Result<Answer, String> {
    let question = Question::post(path, request.to_string(), secret(to)?).patiently();
    client::send(&to.running.address()?, &question)
}

fn plan(folder: &Path, to: &Running) -> Result<(String, ExitCode), String> {
    let folder = Folder::read(folder)?;
    let question = Question::post("/v1/plan", json!(folder.staged).to_string(), None).patiently();
    let answer = client::send(&to.address()?, &question)?;
    let body = body_of(without_mistakes(answer, &folder, "compared")?)?;
    let plan: Plan = parsed(&body)?;
    let ending = match plan.documents.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(CHANGES),
    };
    match to.form.json {
        true => Ok((body, ending)),
        false => Ok((words(&plan), ending)),
    }
}

fn apply(
    folder: &Path,
    note: &str,
    plan: Option<&Path>,
    canary: Option<TrialRequest>,
    to: &Changing,
) -> Result<Answer, String> {
    let folder = Folder::read(folder)?;
    let plan = plan.map(plan_in).transpose()?;
    let request = ApplyRequest {
        staged: folder.staged.clone(),
        since: plan.as_ref().and_then(|plan| plan.revision),
        basis: plan.map(|plan| plan.basis),
        by: operator(),
        note: note.to_owned(),
        canary,
    };
    let answer = post("/v1/apply", &json!(request), to)?;
    without_mistakes(answer, &folder, "written")
}

pub(super) fn written(answer: Answer, to: &Changing) -> Result<(String, ExitCode), String> {
    let body = body_of(without_conflict(answer)?)?;
    let written: Written = parsed(&body)?;
    match to.running.form.json {
        true => Ok((body, ExitCode::SUCCESS)),
        false => Ok((told(&written), ExitCode::SUCCESS)),
    }
}

pub(super) fn told(written: &Written) -> String {
    let revision = written.revision.map(|n| format!(" (revision {n})"));
    let message = format!("{}{}", written.message, revision.unwrap_or_default());
    match written.plan.documents.is_empty() {
        true => print::one_line(&written.message),
        false => words(&written.plan) + &print::one_line(&message),
    }
}

/// What `rota plan DIR --json` printed.
fn plan_in(plan: &Path) -> Result<Plan, String> {
    let wrong = |why: String| format!("{}: {why}", plan.display());
    let text = std::fs::read_to_string(plan).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text)
        .map_err(|error| wrong(format!("not what `rota plan DIR --json` prints: {error}")))
}

/// What others changed meanwhile, and what would change now.
pub(super) fn without_conflict(answer: Answer) -> Result<Answer, String> {
    if answer.status != StatusCode::CONFLICT {
        return Ok(answer);
    }
    let mut body: serde_json::Value = parsed(&answer.body)?;
    let since = serde_json::from_value::<Vec<DocumentChange>>(body["changed"].take());
    let differences = serde_json::from_value::<Vec<Difference>>(body["differences"].take());
    let plan = serde_json::from_value::<Plan>(body["plan"].take());
    let (Ok(since), Ok(plan)) = (since, plan) else {
        return Ok(answer);
    };
    let error = body["error"].as_str().unwrap_or_default();
    let mut out = print::one_line(error);
    section(&mut out, "changed by others", since.iter(), |one| {
        format!("{} {}", sign(one.change), one.path)
    });
    let differences = differences.unwrap_or_default();
    out.push_str(&diff_words(&differences));
    out.push_str("what would change now:\n");
    out.push_str(&words(&plan));
    Err(out.trim_end().to_owned())
}

/// Mistakes are told by the files that they are in; `nothing` is what was not done for them.
fn without_mistakes(answer: Answer, folder: &Folder, nothing: &str) -> Result<Answer, String> {
    if answer.status != StatusCode::UNPROCESSABLE_ENTITY {
        return Ok(answer);
    }
    let mut body: serde_json::Value = parsed(&answer.body)?;
    let mistakes: Vec<StagedMistake> = serde_json::from_value(body["mistakes"].take())
        .map_err(|error| format!("the answer is not what rota's admin listener says: {error}"))?;
    let told = mistakes.iter().map(|mistake| {
        let place = match folder.files.get(&mistake.document) {
            Some(file) => file.display().to_string(),
            None => mistake.document.clone(),
        };
        let line = mistake.line.map(|line| format!(":{line}"));
        let text = format!("{place}{}: {}", line.unwrap_or_default(), mistake.problem);
        print::one_line(&text).trim_end().to_owned()
    });
    let told: Vec<String> = told.collect();
    Err(format!("nothing was {nothing}:\n{}", told.join("\n")))
}

/// A plan as people read it: what clients would notice first, then what speaks against it, then what would be written.
pub(super) fn words(plan: &Plan) -> String {
    let mut out = String::new();
    section(&mut out, "services", plan.services.iter(), |one| {
        let how = match one.how.is_empty() {
            true => String::new(),
            false => format!("  {}", one.how.join(", ")),
        };
        format!("{} {}{how}", sign(one.change), one.name)
    });
    section(&mut out, "routes", plan.routes.iter(), route);
    section(&mut out, "servers", plan.servers.iter(), |one| {
        let traffic = match one.traffic {
            Traffic::Gains => "+",
            Traffic::Loses => "-",
        };
        format!("{traffic} {}  {}", one.server, one.why)
    });
    section(
        &mut out,
        "certificates to be ordered",
        plan.certificates.iter(),
        |name| format!("+ {name}"),
    );
    if plan.tuning {
        out.push_str("tuning\n  ~ limits, timeouts, guard or retry\n");
    }
    section(&mut out, "warnings", plan.warnings.iter(), |warning| {
        format!("! {warning}")
    });
    section(&mut out, "documents", plan.documents.iter(), |one| {
        format!("{} {}", sign(one.change), one.path)
    });
    out.push_str(&summary(plan));
    out
}

fn summary(plan: &Plan) -> String {
    let count = |change| {
        plan.documents
            .iter()
            .filter(|one| one.change == change)
            .count()
    };
    let is_felt = plan.tuning
        || !(plan.services.is_empty() && plan.routes.is_empty() && plan.servers.is_empty());
    match (plan.documents.is_empty(), is_felt) {
        (true, _) => "no changes\n".to_owned(),
        (false, is_felt) => format!(
            "{} to add, {} to change, {} to remove{}\n",
            count(Change::Added),
            count(Change::Changed),
            count(Change::Removed),
            if is_felt {
                ""
            } else {
                "; requests go where they went"
            },
        ),
    }
}

fn route(one: &RouteChange) -> String {
    let place = format!("{} {}{}", sign(one.change), one.host, one.path);
    match (&one.from, &one.to) {
        (Some(from), Some(to)) => {
            let by = one.by.as_ref().map(|by| format!(" (by {by})"));
            format!(
                "{place}  to {to} instead of {from}{}",
                by.unwrap_or_default()
            )
        }
        (None, Some(to)) => format!("{place}  to {to}"),
        (Some(from), None) => format!("{place}  no more to {from}"),
        (None, None) => place,
    }
}

fn sign(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Changed => '~',
        Change::Removed => '-',
    }
}

fn section<'a, T: 'a>(
    out: &mut String,
    title: &str,
    entries: impl ExactSizeIterator<Item = &'a T>,
    line: impl Fn(&'a T) -> String,
) {
    if entries.len() == 0 {
        return;
    }
    let _ = writeln!(out, "{title}");
    for entry in entries {
        out.push_str("  ");
        out.push_str(&print::one_line(&line(entry)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::staged::{DocumentChange, ServerChange, ServiceChange};

    #[test]
    fn a_plan_says_what_clients_notice_what_speaks_against_it_and_what_is_written() {
        let plan = Plan {
            services: vec![ServiceChange {
                name: "blog".into(),
                change: Change::Added,
                how: vec!["2 servers".into()],
            }],
            routes: vec![RouteChange {
                host: "a.test".into(),
                path: "/".into(),
                change: Change::Changed,
                from: Some("shop".into()),
                to: Some("blog".into()),
                by: None,
            }],
            servers: vec![ServerChange {
                server: "shop/10.0.0.1:80".into(),
                traffic: Traffic::Loses,
                why: "a.test/".into(),
            }],
            certificates: vec!["b.test".into()],
            warnings: vec!["routes/x: \u{1b}[31m".into()],
            documents: vec![DocumentChange {
                path: "services/blog".into(),
                change: Change::Added,
            }],
            ..Plan::default()
        };
        assert_eq!(
            words(&plan),
            "services\n  + blog  2 servers\nroutes\n  ~ a.test/  to blog instead of shop\nservers\n  - shop/10.0.0.1:80  a.test/\n\
             certificates to be ordered\n  + b.test\nwarnings\n  ! routes/x:  [31m\ndocuments\n  + services/blog\n\
             1 to add, 0 to change, 0 to remove\n"
        );
        assert_eq!(words(&Plan::default()), "no changes\n");
    }
}
