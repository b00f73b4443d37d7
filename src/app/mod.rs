//! Puts the rooms together: the command line, the running process, the demo.

pub mod ask;
pub mod cli;
pub mod demo;
pub mod run;
pub mod secrets;
pub mod signals;
pub mod sockets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use self::cli::{Command, CommandLine, Form};
use self::run::Launch;
use self::signals::Signals;
use crate::certs::{self, CertStore};
use crate::config::{self, Config};
use crate::seal::Keyring;

/// Does what the command line says; usage errors end with exit code 2.
pub fn main() -> ExitCode {
    match CommandLine::read().command {
        Command::Run { config } => match read(&config) {
            Ok(checked) => launch(checked, config),
            Err(mistakes) => {
                mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
                ExitCode::FAILURE
            }
        },
        Command::Check { file, form } => check(&file, &form),
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
    }
}

/// A file, and what the files that it names hold.
struct Checked {
    config: Config,
    certificates: CertStore,
    keyring: Option<Arc<Keyring>>,
}

fn launch(checked: Checked, file: PathBuf) -> ExitCode {
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
            file: Some(file),
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

/// Reads the file, and the certificates and keys it names; every mistake of theirs, a line each.
fn read(file: &Path) -> Result<Checked, Vec<String>> {
    let config = config::load(file).map_err(|mistakes| {
        mistakes
            .0
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    })?;
    let mut mistakes = Vec::new();
    let keyring = secrets::keyring(&config).unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        None
    });
    match certs::load(&config.listeners) {
        Ok(certificates) if mistakes.is_empty() => Ok(Checked {
            config,
            certificates,
            keyring,
        }),
        Ok(_) => Err(mistakes),
        Err(more) => {
            mistakes.extend(more.iter().map(ToString::to_string));
            Err(mistakes)
        }
    }
}

fn check(file: &Path, form: &Form) -> ExitCode {
    let (mistakes, warnings) = match read(file) {
        Ok(checked) => (
            [
                secrets::unusable_tokens(&checked.config),
                secrets::unusable_authorities(&checked.config),
            ]
            .concat(),
            checked
                .certificates
                .warnings()
                .iter()
                .map(ToString::to_string)
                .chain(secrets::exposed_tokens(&checked.config))
                .collect(),
        ),
        Err(mistakes) => (mistakes, Vec::new()),
    };
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
                file: None,
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
