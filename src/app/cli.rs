//! The command line: what can be asked of the binary, and nothing of how it is done.
//!
//! Long because every command stands here with all of its options, and clap is named nowhere else.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};

use crate::admin::Address;
use crate::admin::orders::{parse_matter, parse_span, parse_target};
use crate::admin::shift::parse_weights;
use crate::admin::staging::parse_trial_span;
use crate::routing::canary::On;
use crate::telemetry::rfc3339;

/// Where a running rota is asked if neither `--admin` nor [`ADMIN_VARIABLE`] says otherwise.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:9900";
/// The environment variable for `--admin`.
pub const ADMIN_VARIABLE: &str = "ROTA_ADMIN";
/// The environment variable for `--token-file`.
pub const TOKEN_FILE_VARIABLE: &str = "ROTA_TOKEN_FILE";

/// A service-discovery-driven edge load balancer.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "rota",
    version,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 fine, 1 error, 2 usage."
)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve what a configuration file says, until TERM
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Name every mistake in a configuration file, start nothing
    Check {
        /// The configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// Rebuild the table, and its reasons, from a journal
    Replay {
        /// The journal: `STATE_DIR/journal`, a copy of it, or one of its files
        #[arg(value_name = "JOURNAL")]
        journal: PathBuf,
        /// The moment to go to, 2026-11-20T20:59:04Z [default: the journal's end]
        #[arg(long, value_name = "TIME", value_parser = checked_moment)]
        at: Option<SystemTime>,
        /// Explain this alone: a service, a server, a host or a URL
        #[arg(long, value_name = "WHAT")]
        why: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Show rota at work: three app servers inside, one of them sick now and then
    Demo,
    /// Print the version
    Version {
        #[command(flatten)]
        form: Form,
    },
    #[command(flatten)]
    Ask(Ask),
    #[command(flatten)]
    Staged(Staged),
}

impl CommandLine {
    /// What the process was called with. Ends the process where that is a usage error (2), `--help` or `--version` (0).
    pub fn read() -> CommandLine {
        CommandLine::parse()
    }
}

/// What is asked of a running rota, through its admin listener.
#[derive(Clone, Debug, Subcommand)]
pub enum Ask {
    /// Show how a running rota is: ready or not, and its services
    Status {
        #[command(flatten)]
        to: Running,
    },
    /// Show a pod's load balancers beside each other, and what is wrong between them
    #[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is (or an error).")]
    Fleet {
        #[command(flatten)]
        to: Running,
    },
    /// Explain a service, a server, a host, a URL, or a request that failed or was sent again
    Why {
        /// SERVICE, SERVICE/SERVER, address:port, a host, a URL, or a request's id (request:ID where it could be a host)
        #[arg(value_name = "WHAT")]
        what: String,
        #[command(flatten)]
        to: Running,
    },
    /// Take a service, a server or the LB itself off the rota
    Drain {
        #[command(flatten)]
        whom: Whom,
        /// How long: 90s, 10m, 2h, 1d; without it until undrained
        #[arg(long = "for", value_name = "SPAN", value_parser = checked_span)]
        for_span: Option<String>,
        #[command(flatten)]
        to: Changing,
    },
    /// Put it back
    Undrain {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        to: Changing,
    },
    /// Share out a service's requests between its groups, in the whole pod
    Shift {
        #[arg(value_name = "SERVICE")]
        service: String,
        /// Each group's weight: green=100 (the others get nothing), or blue=90,green=10
        #[arg(value_name = "GROUP=WEIGHT,…", value_parser = checked_weights)]
        weights: String,
        #[command(flatten)]
        to: Changing,
    },
    /// Accept that servers which Consul does not name are gone, or that its documents are all there are
    Accept {
        /// SERVICE, SERVICE/SERVER, or documents
        #[arg(value_name = "WHAT", value_parser = checked_matter)]
        what: String,
        /// On this LB alone, also when Consul is down; without it for the whole pod
        #[arg(long)]
        here: bool,
        /// How long nothing of it is doubted: 90s, 10m, 1h at most; without it a minute
        #[arg(long = "for", value_name = "SPAN", value_parser = checked_span)]
        for_span: Option<String>,
        #[command(flatten)]
        to: Changing,
    },
    /// List the certificates served and when they end, or have something done with them
    #[command(args_conflicts_with_subcommands = true)]
    Certs {
        #[command(subcommand)]
        what: Option<Certs>,
        #[command(flatten)]
        to: Running,
    },
}

/// What is asked about documents in a directory: `services/NAME.toml`, `routes/NAME.toml`, `domains/FQDN.toml`, `tuning.toml`, or `.json`.
#[derive(Clone, Debug, Subcommand)]
pub enum Staged {
    /// Show what the documents in a directory would change, and change nothing
    #[command(after_help = "Exit codes: 0 no change, 1 error, 2 changes (or usage).")]
    Plan {
        /// Holds services/, routes/, domains/ and tuning.toml; what it does not hold is left alone
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        to: Running,
    },
    /// Make the documents in KV those in a directory
    Apply {
        /// Holds services/, routes/, domains/ and tuning.toml; what it does not hold is left alone
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// What it is for: kept with the change
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// What `rota plan DIR --json` printed: refused if any document was changed since
        #[arg(long, value_name = "FILE")]
        plan: Option<PathBuf>,
        /// Try it on some load balancers first: a share of them (33%), or names divided by commas
        #[arg(long, value_name = "N%|NODE,…", value_parser = checked_on)]
        canary: Option<String>,
        /// How long it is tried: 90s, 5m, 1d at most [default: 5m]
        #[arg(long = "for", value_name = "SPAN", value_parser = checked_trial_span, requires = "canary")]
        for_span: Option<String>,
        /// Do not wait for the canary's end
        #[arg(long, requires = "canary")]
        detach: bool,
        #[command(flatten)]
        to: Changing,
    },
    /// Show the change that is tried on some load balancers, or end it
    #[command(args_conflicts_with_subcommands = true)]
    Canary {
        #[command(subcommand)]
        what: Option<CanaryEnd>,
        #[command(flatten)]
        to: Running,
    },
    /// List the changes of the documents: when, by whom, what for
    History {
        #[command(flatten)]
        to: Running,
    },
    /// Show what the documents after a revision and those of another one, or of now, differ in
    Diff {
        /// A revision's number
        #[arg(value_name = "N")]
        from: u64,
        /// Another one's; without it the documents of now
        #[arg(value_name = "M")]
        revision: Option<u64>,
        #[command(flatten)]
        to: Changing,
    },
    /// Make the documents what they were after a revision
    Rollback {
        /// The revision's number
        #[arg(value_name = "N")]
        revision: u64,
        /// What it is for: kept with the change
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        to: Changing,
    },
}

/// How a canary is to end.
#[derive(Clone, Debug, Subcommand)]
pub enum CanaryEnd {
    /// Make what is tried everybody's now
    Promote {
        /// What for: kept with the change
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        to: Changing,
    },
    /// Take it back from those who try it
    Abort {
        /// What for: kept with the change
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        to: Changing,
    },
}

/// What is to be done with certificates: by ACME, and of one's own.
#[derive(Clone, Debug, Subcommand)]
pub enum Certs {
    /// Order another certificate for a name now, due or not
    Renew {
        /// Whose certificate
        #[arg(value_name = "NAME", required_unless_present = "all")]
        name: Option<String>,
        /// Those of all names, one after the other, as budgets and back-off allow
        #[arg(long, conflicts_with = "name")]
        all: bool,
        #[command(flatten)]
        to: Changing,
    },
    /// Have the CA revoke a name's certificate, and order another one
    Revoke {
        /// Whose certificate
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        to: Changing,
    },
    /// Seal all that is sealed with the key file's first key
    Rekey {
        #[command(flatten)]
        to: Changing,
    },
    /// Put a certificate of your own into the pod's store, sealed; on a load balancer's machine, past its admin listener
    Import {
        /// The load balancer's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The chain, PEM, its own certificate first
        #[arg(value_name = "CERT")]
        certificate: PathBuf,
        /// Its private key, PEM
        #[arg(value_name = "KEY")]
        key: PathBuf,
        /// What it lies under [default: the first of its names]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Take a certificate of your own out of the pod's store
    Forget {
        /// The load balancer's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What it lies under: as `rota certs` shows it behind `kv:`
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        form: Form,
    },
}

/// For people or for programs.
#[derive(Clone, Debug, Default, Args)]
pub struct Form {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which rota is asked.
#[derive(Clone, Debug, Args)]
pub struct Running {
    /// The admin listener: IP:PORT, http://IP:PORT or unix:PATH [default: $ROTA_ADMIN, else 127.0.0.1:9900]
    #[arg(long, value_name = "ADDRESS", value_parser = Address::parse)]
    pub admin: Option<Address>,
    #[command(flatten)]
    pub form: Form,
}

/// Which rota is asked, and what allows to change it.
#[derive(Clone, Debug, Args)]
pub struct Changing {
    #[command(flatten)]
    pub running: Running,
    /// The file that holds the admin token, for changes over TCP [default: $ROTA_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Whom a drain is about, and how far it reaches.
#[derive(Clone, Debug, Args)]
pub struct Whom {
    /// SERVICE or SERVICE/SERVER
    #[arg(value_name = "TARGET", value_parser = checked_target, required_unless_present = "itself", conflicts_with = "itself")]
    pub target: Option<String>,
    /// The LB itself
    #[arg(long = "self")]
    pub itself: bool,
    /// On this LB alone, also when Consul is down; without it for the whole pod
    #[arg(long)]
    pub here: bool,
}

fn checked_target(text: &str) -> Result<String, String> {
    parse_target(text).map(|_| text.to_owned())
}

fn checked_weights(text: &str) -> Result<String, String> {
    parse_weights(text).map(|_| text.to_owned())
}

fn checked_matter(text: &str) -> Result<String, String> {
    parse_matter(text).map(|_| text.to_owned())
}

fn checked_on(text: &str) -> Result<String, String> {
    On::parse(text).map(|on| on.to_string())
}

fn checked_trial_span(text: &str) -> Result<String, String> {
    parse_trial_span(text).map(|_| text.to_owned())
}

fn checked_moment(text: &str) -> Result<SystemTime, String> {
    let expected = "expected a moment in UTC, such as 2026-11-20T20:59:04Z";
    rfc3339::parse(text).ok_or_else(|| expected.to_owned())
}

fn checked_span(text: &str) -> Result<String, String> {
    parse_span(text).map(|_| text.to_owned())
}

impl Running {
    /// The flag, else the variable, else the default. The error is a message.
    pub fn address(&self) -> Result<Address, String> {
        if let Some(address) = &self.admin {
            return Ok(address.clone());
        }
        match std::env::var(ADMIN_VARIABLE) {
            Ok(text) if !text.is_empty() => {
                Address::parse(&text).map_err(|error| format!("{ADMIN_VARIABLE}: {error}"))
            }
            _ => Address::parse(DEFAULT_ADMIN),
        }
    }
}

impl Changing {
    /// The flag, else the variable.
    pub fn token_file(&self) -> Option<PathBuf> {
        let from_environment = || {
            std::env::var_os(TOKEN_FILE_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        self.token_file.clone().or_else(from_environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parsed(line: &str) -> Result<Command, ErrorKind> {
        CommandLine::try_parse_from(line.split(' '))
            .map(|line| line.command)
            .map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_of_this_version_is_understood() {
        for line in [
            "rota run --config rota.toml",
            "rota check rota.toml",
            "rota check rota.toml --json",
            "rota demo",
            "rota replay state/journal --at 2026-11-20T20:59:04.5Z --json",
            "rota version --json",
            "rota status --admin 127.0.0.1:1 --json",
            "rota status --admin http://127.0.0.1:1/",
            "rota fleet --json",
            "rota why shop --admin unix:/run/rota.sock",
            "rota drain shop/10.0.0.7:80 --here --for 10m --token-file t",
            "rota drain --self",
            "rota undrain shop",
            "rota undrain --self --here",
            "rota shift shop green=100,blue=0 --token-file t",
            "rota accept shop",
            "rota accept shop/10.0.0.7:80 --here --for 5m",
            "rota accept documents --token-file t",
            "rota certs",
            "rota certs --admin 127.0.0.1:1 --json",
            "rota certs renew shop.test --admin 127.0.0.1:1",
            "rota certs revoke shop.test --token-file t",
            "rota certs rekey --json",
            "rota plan documents --admin 127.0.0.1:1 --json",
            "rota certs import --config rota.toml shop.pem shop.key --name shop --json",
            "rota certs forget --config rota.toml shop.test",
            "rota apply documents --note why --plan plan.json --token-file t",
            "rota apply documents --canary 33% --for 5m --detach",
            "rota apply documents --canary lb-1,lb-2 --note why",
            "rota canary --json",
            "rota canary promote --note why --token-file t",
            "rota canary abort --json",
            "rota history --json",
            "rota diff 3",
            "rota diff 3 4 --token-file t",
            "rota rollback 3 --note why",
        ] {
            assert!(parsed(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn usage_mistakes_are_found_before_anything_is_done() {
        for line in [
            "rota",
            "rota run",
            "rota frobnicate",
            "rota why",
            "rota replay",
            "rota replay j --at noon",
            "rota drain",
            "rota drain shop --self",
            "rota drain a@b",
            "rota drain shop --for soon",
            "rota undrain shop --for 10m",
            "rota shift shop",
            "rota shift shop green",
            "rota shift shop green=100% --json",
            "rota accept",
            "rota accept @self",
            "rota certs renew",
            "rota plan",
            "rota apply",
            "rota rollback last",
            "rota apply documents --for 5m",
            "rota apply documents --canary 100%",
            "rota apply documents --canary lb-1 --for 2d",
            "rota canary forget",
            "rota certs rekey shop.test",
            "rota certs import shop.pem shop.key",
            "rota certs import --config rota.toml shop.pem",
            "rota certs forget shop.test",
            "rota status --admin example.com",
        ] {
            let error = CommandLine::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert_eq!(
            parsed("rota --version").unwrap_err(),
            ErrorKind::DisplayVersion
        );
    }
}
