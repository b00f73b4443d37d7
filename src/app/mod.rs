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

use self::cli::{Command, CommandLine, Form};
use self::run::Launch;
use crate::certs::{self, CertStore};
use crate::config::{self, Config};

/// Does what the command line says; usage errors end with exit code 2.
pub fn main() -> ExitCode {
    match CommandLine::read().command {
        Command::Run { config } => match read(&config) {
            Ok((checked, certificates)) => launch(checked, config, certificates),
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

fn launch(config: Config, file: PathBuf, certificates: CertStore) -> ExitCode {
    if let Some(warning) = secrets::exposed_tokens(&config) {
        eprintln!("rota: warning: {warning}");
    }
    match sockets::open_all(&config) {
        Ok(opened) => run::run(Launch {
            config,
            file: Some(file),
            certificates,
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
fn read(file: &Path) -> Result<(Config, CertStore), Vec<String>> {
    let config = config::load(file).map_err(|mistakes| {
        mistakes
            .0
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    })?;
    let mut mistakes = Vec::new();
    mistakes.extend(secrets::keyring(&config).err());
    match certs::load(&config.listeners) {
        Ok(certificates) if mistakes.is_empty() => return Ok((config, certificates)),
        Ok(_) => {}
        Err(more) => mistakes.extend(more.iter().map(ToString::to_string)),
    }
    Err(mistakes)
}

fn check(file: &Path, form: &Form) -> ExitCode {
    let (mistakes, warnings) = match read(file) {
        Ok((config, certificates)) => (
            [
                secrets::unusable_tokens(&config),
                secrets::unusable_authorities(&config),
            ]
            .concat(),
            certificates
                .warnings()
                .iter()
                .map(ToString::to_string)
                .chain(secrets::exposed_tokens(&config))
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
    match demo::prepare() {
        Ok(demo) => {
            let opening = Some(demo.opening());
            let demo::Demo {
                config,
                certificates,
                opened,
                running,
                ..
            } = demo;
            let code = run::run(Launch {
                config,
                file: None,
                certificates,
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
