//! A file with what the files that it names hold, read as a whole: at the start, for `rota check` and at HUP. Blocking.

use std::path::Path;
use std::sync::Arc;

use super::secrets;
use crate::certs::{self, CertStore, CertWarning};
use crate::config::{self, Config, Environment};
use crate::control::acme;
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
        let keyring = secrets::keyring(&config);
        let certificates = certs::load(&config.listeners, before);
        match (keyring, certificates) {
            (Ok(keyring), Ok(certificates)) => Ok(Checked {
                config,
                certificates,
                keyring,
            }),
            (keyring, certificates) => {
                let mut mistakes: Vec<String> = keyring.err().into_iter().collect();
                mistakes.extend(certificates.err().iter().flat_map(|more| lines(more)));
                Err(mistakes)
            }
        }
    }
}

/// What is no mistake and perhaps not what was meant, a line each.
pub fn warnings(config: &Config, certificates: &CertStore) -> Vec<String> {
    let is_meant = |warning: &&CertWarning| match warning {
        // Its certificates come later, by themselves.
        CertWarning::NoCertificates { .. } => !acme::orders_any(config, certificates),
        CertWarning::Expired { .. }
        | CertWarning::NotYetValid { .. }
        | CertWarning::NameTaken { .. } => true,
    };
    let of_certificates = certificates.warnings().iter().filter(is_meant);
    of_certificates.map(ToString::to_string).collect()
}

fn lines<T: ToString>(mistakes: &[T]) -> Vec<String> {
    mistakes.iter().map(T::to_string).collect()
}
