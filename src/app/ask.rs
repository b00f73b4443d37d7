//! Asks a running rota through its admin listener and prints the answer for people, or as it came.

mod canary;
mod client;
mod folder;
pub mod print;
mod staged;

use std::process::ExitCode;

use http::StatusCode;
use serde::de::DeserializeOwned;

use self::client::{Answer, Question};
use super::cli::{Ask, Certs, Changing, Form, Running, Staged, Whom};
use super::own_certificates;
use crate::admin::Token;
use crate::admin::fleet::FleetView;
use crate::admin::orders::{CertificateRequest, Request, RequestReach, SELF};
use crate::admin::shift::{ShiftRequest, parse_weights};
use crate::admin::token::Secret;
use crate::admin::views::{CertificateRow, StatusView};
use crate::admin::why;

/// Asks, prints, and says by its code whether all went well: 0 fine, 1 error. A reader that went away early (`| head`) is no error.
pub fn ask(ask: Ask) -> ExitCode {
    match answered(&ask) {
        Ok(text) => print::to_stdout(&text),
        Err(message) => {
            print::to_stderr(&format!("rota: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// As [`ask`], of documents; a plan with changes ends with 2.
pub fn staged(staged: Staged) -> ExitCode {
    match staged::answered(&staged) {
        Ok((text, ending)) => match print::to_stdout(&text) {
            ExitCode::SUCCESS => ending,
            code => code,
        },
        Err(message) => {
            print::to_stderr(&format!("rota: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// What is to be printed. The error is a message.
fn answered(ask: &Ask) -> Result<String, String> {
    match ask {
        Ask::Status { to } => read(to, "/v1/status", |status: StatusView| {
            print::status(&status)
        }),
        Ask::Certs {
            what: Some(what), ..
        } => change_certificates(what),
        Ask::Certs { what: None, to } => {
            read(to, "/v1/certificates", |rows: Vec<CertificateRow>| {
                print::certificates(&rows, std::time::SystemTime::now())
            })
        }
        Ask::Fleet { to } => compared(to),
        Ask::Why { what, to } => explained(to, what),
        Ask::Shift {
            service,
            weights,
            to,
        } => shift(service, weights, to),
        Ask::Drain { whom, for_span, to } => {
            change(to, "/v1/drain", requested(whom, for_span.clone()))
        }
        Ask::Undrain { whom, to } => change(to, "/v1/undrain", requested(whom, None)),
        Ask::Accept {
            what,
            here,
            for_span,
            to,
        } => {
            let request = Request {
                target: what.clone(),
                reach: match here {
                    true => RequestReach::Here,
                    false => RequestReach::Pod,
                },
                by: operator(),
                for_span: for_span.clone(),
            };
            change(to, "/v1/accept", request)
        }
    }
}

fn read<T: DeserializeOwned>(
    to: &Running,
    path: &str,
    for_people: impl Fn(T) -> String,
) -> Result<String, String> {
    let answer = client::send(&to.address()?, &Question::get(path))?;
    let body = body_of(answer)?;
    if to.form.json {
        return Ok(body);
    }
    parsed(&body).map(for_people)
}

/// A name that nobody has is an error, with the nearest ones; programs get the answer all the same.
fn explained(to: &Running, what: &str) -> Result<String, String> {
    let path = format!("/v1/why?q={}", client::escaped(what));
    let body = body_of(client::send(&to.address()?, &Question::get(&path))?)?;
    let explained: why::Explained = parsed(&body)?;
    let text = why::told(&explained);
    match (&explained.answer, to.form.json) {
        (why::Answer::Unknown { .. }, is_json) => {
            if is_json {
                print::to_stdout(&body);
            }
            Err(text.trim_end().to_owned())
        }
        (_, true) => Ok(body),
        (_, false) => Ok(text),
    }
}

/// What is wrong is an error, told after the table; programs get the answer all the same.
fn compared(to: &Running) -> Result<String, String> {
    let body = body_of(client::send(&to.address()?, &Question::get("/v1/fleet"))?)?;
    let fleet: FleetView = parsed(&body)?;
    let text = match to.form.json {
        true => body,
        false => print::fleet(&fleet),
    };
    match fleet.troubles() {
        0 => Ok(text),
        count => {
            print::to_stdout(&text);
            let s = if count == 1 { "" } else { "s" };
            Err(format!("{count} finding{s} in this pod"))
        }
    }
}

fn change(to: &Changing, path: &str, request: Request) -> Result<String, String> {
    let body = serde_json::to_string(&request).expect("a request has text keys alone");
    post(to, path, body)
}

fn requested(whom: &Whom, for_span: Option<String>) -> Request {
    Request {
        target: whom.target.clone().unwrap_or_else(|| SELF.to_owned()),
        // The LB itself is drained where it is asked: nobody else could do it.
        reach: if whom.here || whom.itself {
            RequestReach::Here
        } else {
            RequestReach::Pod
        },
        by: operator(),
        for_span,
    }
}

fn shift(service: &str, weights: &str, to: &Changing) -> Result<String, String> {
    let request = ShiftRequest {
        service: service.to_owned(),
        groups: parse_weights(weights)?,
        by: operator(),
    };
    let body = serde_json::to_string(&request).expect("a request has text keys alone");
    post(to, "/v1/shift", body)
}

fn change_certificates(what: &Certs) -> Result<String, String> {
    let (path, name, to) = match what {
        Certs::Renew { name, to, .. } => ("/v1/certificates/renew", name.clone(), to),
        Certs::Revoke { name, to } => ("/v1/certificates/revoke", Some(name.clone()), to),
        Certs::Rekey { to } => ("/v1/certificates/rekey", None, to),
        Certs::Import {
            config,
            certificate,
            key,
            name,
            form,
        } => {
            let said = own_certificates::import(config, certificate, key, name.as_deref());
            return Ok(done(form, &said?));
        }
        Certs::Forget { config, name, form } => {
            return Ok(done(form, &own_certificates::forget(config, name)?));
        }
    };
    let all = matches!(what, Certs::Renew { all: true, .. });
    let by = operator();
    let request = CertificateRequest { name, all, by };
    let body = serde_json::to_string(&request).expect("a request has text keys alone");
    post(to, path, body)
}

fn done(form: &Form, message: &str) -> String {
    match form.json {
        true => format!("{}\n", serde_json::json!({ "message": message })),
        false => print::one_line(message),
    }
}

fn post(to: &Changing, path: &str, body: String) -> Result<String, String> {
    let question = Question::post(path, body, secret(to)?);
    let body = body_of(client::send(&to.running.address()?, &question)?)?;
    if to.running.form.json {
        return Ok(body);
    }
    let answer: serde_json::Value = parsed(&body)?;
    let message = answer["message"].as_str().unwrap_or("done");
    Ok(print::one_line(message))
}

/// What allows a change, if there is a file that holds it.
fn secret(to: &Changing) -> Result<Option<Secret>, String> {
    let file = to.token_file().map(Token::in_file);
    let read = file.map(|token| token.read().map_err(|error| error.to_string()));
    read.transpose()
}

/// Who gives the order, for the log and for explanations: `user@host`.
fn operator() -> String {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{user}@{}", host.trim());
    let kept = name.chars().filter(|c| !c.is_control());
    kept.take(crate::admin::orders::MAX_BY_LEN / 4).collect()
}

fn body_of(answer: Answer) -> Result<String, String> {
    if answer.status == StatusCode::OK {
        return Ok(answer.body);
    }
    let said = serde_json::from_str::<serde_json::Value>(&answer.body)
        .ok()
        .and_then(|body| body["error"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "is that rota's admin listener?".to_owned());
    let hint = if answer.status == StatusCode::UNAUTHORIZED {
        " (--token-file names the file that holds it)"
    } else {
        ""
    };
    let said = print::one_line(&said);
    Err(format!(
        "{}{hint} ({})",
        said.trim_end(),
        answer.status.as_u16()
    ))
}

fn parsed<T: DeserializeOwned>(body: &str) -> Result<T, String> {
    serde_json::from_str(body)
        .map_err(|error| format!("the answer is not what rota's admin listener says: {error}"))
}

#[cfg(test)]
mod tests;
