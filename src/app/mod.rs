//! Puts the rooms together: the command line, the running process, the demo.

pub mod ask;
pub mod checked;
pub mod cli;
pub mod demo;
pub mod own_certificates;
pub mod replay;
pub mod run;
pub mod secrets;
pub mod signals;
pub mod sockets;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use self::checked::{Checked, Report};
use self::cli::{Command, CommandLine, Form};
use self::run::{Launch, Origin};
use self::signals::Signals;
use crate::certs::CertStore;
use crate::config::Environment;

/// Does what the command line says; usage errors end with exit code 2.
pub fn main() -> ExitCode {
    match CommandLine::read().command {
        Command::Run { config } => {
            let environment = Environment::of_this_process();
            match Checked::read(&config, &environment, &CertStore::default()) {
                Ok(checked) => launch(
                    checked,
                    Origin {
                        file: config,
                        environment: Arc::new(environment),
                    },
                ),
                Err(mistakes) => {
                    mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
                    ExitCode::FAILURE
                }
            }
        }
        Command::Check { file, form } => check(&file, &form),
        Command::Replay {
            journal,
            at,
            why,
            form,
        } => match replay::replayed(&journal, at, why.as_deref(), &form) {
            Ok(text) => ask::print::to_stdout(&text),
            Err(message) => {
                ask::print::to_stderr(&format!("rota: {message}"));
                ExitCode::FAILURE
            }
        },
        Command::Demo => demonstrate(),
        Command::Version { form } => {
            let version = env!("CARGO_PKG_VERSION");
            match form.json {
                true => println!("{}", serde_json::json!({ "version": version })),
                false => println!("rota {version}"),
            }
            ExitCode::SUCCESS
        }
        Command::Ask(ask) => ask::ask(ask),
        Command::Staged(staged) => ask::staged(staged),
    }
}

fn launch(checked: Checked, origin: Origin) -> ExitCode {
    let Checked {
        config,
        certificates,
        keyring,
    } = checked;
    if let Some(warning) = secrets::exposed_tokens(&config) {
        eprintln!("rota: warning: {warning}");
    }
    // Before the first client can connect: a signal that came earlier would end the process.
    let started = Signals::watch().and_then(|signals| Ok((signals, sockets::open_all(&config)?)));
    match started {
        Ok((signals, opened)) => run::run(Launch {
            signals,
            config,
            origin: Some(origin),
            certificates,
            keyring,
            opened,
            opening: None,
        }),
        Err(error) => {
            eprintln!("rota: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path, form: &Form) -> ExitCode {
    let environment = Environment::of_this_process();
    let Report { mistakes, warnings } = Report::read(file, &environment);
    if form.json {
        println!(
            "{}",
            serde_json::json!({ "file": file, "mistakes": mistakes, "warnings": warnings })
        );
    } else {
        warnings
            .iter()
            .for_each(|warning| eprintln!("warning: {warning}"));
        mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
        if mistakes.is_empty() {
            println!("{}: fine", file.display());
        }
    }
    if mistakes.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn demonstrate() -> ExitCode {
    match Signals::watch().and_then(|signals| Ok((signals, demo::prepare()?))) {
        Ok((signals, demo)) => {
            let opening = Some(demo.opening());
            let demo::Demo {
                config,
                certificates,
                opened,
                running,
                ..
            } = demo;
            let code = run::run(Launch {
                signals,
                config,
                origin: None,
                certificates,
                keyring: None,
                opened,
                opening,
            });
            drop(running);
            code
        }
        Err(error) => {
            eprintln!("rota: {error}");
            ExitCode::FAILURE
        }
    }
}
