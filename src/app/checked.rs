//! A file with what the files that it names hold, read as a whole: at the start, for `rota check` and at HUP. Blocking.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::secrets;
use crate::certs::{self, CertStore, CertWarning};
use crate::config::{self, AdminAddress, Challenge, Config, Environment, ServerHost, ServerSource};
use crate::control::{self, acme};
use crate::routing::Scheme;
use crate::seal::Keyring;

/// A file, and what the files that it names hold.
pub struct Checked {
    pub config: Config,
    pub certificates: CertStore,
    pub keyring: Option<Arc<Keyring>>,
}

impl Checked {
    /// Reads the file, and the certificates and keys it names; every mistake of theirs, a line each. Certificates of `before` whose
    /// files have not changed are taken over.
    pub fn read(
        file: &Path,
        environment: &Environment,
        before: &CertStore,
    ) -> Result<Checked, Vec<String>> {
        let config = config::load(file, environment).map_err(|mistakes| lines(&mistakes.0))?;
        Checked::of(config, before)
    }

    /// The files that are read once, and stay in force.
    fn of(config: Config, before: &CertStore) -> Result<Checked, Vec<String>> {
        let keyring = secrets::keyring(&config);
        let certificates = certs::load(&config.listeners, before);
        let own = own_servers(&config);
        match (keyring, certificates) {
            (Ok(keyring), Ok(certificates)) if own.is_empty() => Ok(Checked {
                config,
                certificates,
                keyring,
            }),
            (keyring, certificates) => {
                let mut mistakes = own;
                mistakes.extend(keyring.err());
                mistakes.extend(certificates.err().iter().flat_map(|more| lines(more)));
                Err(mistakes)
            }
        }
    }
}

/// All that can be said of a file before it is run, a line each.
#[derive(Debug, Default)]
pub struct Report {
    pub mistakes: Vec<String>,
    pub warnings: Vec<String>,
}

impl Report {
    /// As [`Checked::read`], and then of every file that is read again at each use: tokens, CAs, a hook, a binding.
    pub fn read(file: &Path, environment: &Environment) -> Report {
        let config = match config::load(file, environment) {
            Ok(config) => config,
            Err(mistakes) => {
                return Report {
                    mistakes: lines(&mistakes.0),
                    warnings: Vec::new(),
                };
            }
        };
        let mut further = secrets::unusable_tokens(&config);
        further.extend(secrets::unusable_authorities(&config));
        let mut warnings: Vec<String> = secrets::exposed_tokens(&config).into_iter().collect();
        let mut mistakes = Vec::new();
        match Checked::of(config, &CertStore::default()) {
            Ok(checked) => {
                warnings.splice(..0, self::warnings(&checked.config, &checked.certificates));
            }
            Err(found) => mistakes = found,
        }
        mistakes.extend(further);
        Report { mistakes, warnings }
    }
}

/// Servers of the file that are rota itself, a line each: a request would come back to it for ever, or reach its admin listener. What is
/// listed elsewhere, or by name, is refused as it is learnt.
fn own_servers(config: &Config) -> Vec<String> {
    let mut own: Vec<(SocketAddr, String)> = Vec::new();
    for listener in &config.listeners {
        let policy = &listener.policy;
        own.push((policy.address, format!("of listener {}", policy.name)));
    }
    if let AdminAddress::Tcp(address) = config.admin.address {
        own.push((address, "of [admin]".to_owned()));
    }
    let mut mistakes = Vec::new();
    for service in &config.services {
        let ServerSource::Servers(servers) = &service.source else {
            continue;
        };
        for server in servers {
            let ServerHost::Ip(ip) = server.host else {
                continue;
            };
            let server = SocketAddr::new(ip, server.port);
            if let Some((_, whose)) = own.iter().find(|(own, _)| control::is_at(*own, server)) {
                let name = service.name.as_str();
                mistakes.push(format!(
                    "service {name}: servers: {server} is the address {whose}: rota would ask itself"
                ));
            }
        }
    }
    mistakes
}

/// What is no mistake and perhaps not what was meant, a line each.
pub fn warnings(config: &Config, certificates: &CertStore) -> Vec<String> {
    let is_meant = |warning: &&CertWarning| match warning {
        // Its certificates come later, by themselves.
        CertWarning::NoCertificates { .. } => {
            !acme::orders_any(config, certificates, SystemTime::now()) && !may_learn_names(config)
        }
        CertWarning::Expired { .. }
        | CertWarning::NotYetValid { .. }
        | CertWarning::NameTaken { .. } => true,
    };
    let of_certificates = certificates.warnings().iter().filter(is_meant);
    let mut all: Vec<String> = of_certificates.map(ToString::to_string).collect();
    all.extend(unanswered_challenge(config));
    all
}

/// A line if no listener could show a CA its proof.
fn unanswered_challenge(config: &Config) -> Option<String> {
    let (name, wanted, protocol) = match config.acme.as_ref()?.challenge {
        Challenge::Http01 => ("http-01", Scheme::Http, "http"),
        Challenge::TlsAlpn01 => ("tls-alpn-01", Scheme::Https, "https"),
        Challenge::Dns01 => return None,
    };
    let mut listeners = config.listeners.iter();
    let is_there = listeners.any(|listener| listener.policy.scheme == wanted);
    (!is_there).then(|| {
        format!(
            "acme.challenge = \"{name}\": no listener has protocol = \"{protocol}\", so nobody here answers the CA"
        )
    })
}

/// Whether documents in KV can name what certificates are ordered for.
fn may_learn_names(config: &Config) -> bool {
    config.acme.is_some() && config.consul.is_some()
}

fn lines<T: ToString>(mistakes: &[T]) -> Vec<String> {
    mistakes.iter().map(T::to_string).collect()
}
