//! Certificates of one's own, put into the pod's store by a command on a load balancer's machine, and taken out of it.
//!
//! It reads the load balancer's own file and writes to the store itself: a private key goes through no listener.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::secrets;
use crate::certs::CertWarning;
use crate::certs::load::{Pair, load_pair};
use crate::config::{self, CertificateFiles, Config, Environment};
use crate::control::acme::own::OwnName;
use crate::control::acme::own::change;
use crate::control::consul::Client;
use crate::control::store::Store;
use crate::seal::Keyring;

const NAME: &str = "expected letters, digits and . - _ :, or \"*.\" and such a name";

/// Imports the files' certificate under a name, by default the first of its own. Gives what was done; the error is all that is wrong, a
/// line each.
pub fn import(
    file: &Path,
    certificate: &Path,
    key: &Path,
    name: Option<&str>,
) -> Result<String, String> {
    let mut mistakes = Vec::new();
    let place = told(Place::read(file), &mut mistakes);
    let pair = told(checked_pair(certificate, key), &mut mistakes);
    let name = match (name, &pair) {
        (Some(name), _) => told(parsed(name), &mut mistakes),
        (None, Some(pair)) => {
            let nameless = || vec![format!("{}: --name is needed", certificate.display())];
            told(
                OwnName::of(&pair.certificate).ok_or_else(nameless),
                &mut mistakes,
            )
        }
        (None, None) => None,
    };
    let (Some(place), Some(pair), Some(name)) = (place, pair, name) else {
        return Err(mistakes.join("\n"));
    };
    place.run(async |store| change::import(store, &name, &pair).await)
}

/// Takes out what lies under the name. Gives what was done; the error is a message.
pub fn forget(file: &Path, name: &str) -> Result<String, String> {
    let mut mistakes = Vec::new();
    let place = told(Place::read(file), &mut mistakes);
    let name = told(parsed(name), &mut mistakes);
    let (Some(place), Some(name)) = (place, name) else {
        return Err(mistakes.join("\n"));
    };
    place.run(async |store| change::forget(store, &name).await)
}

fn told<T>(result: Result<T, Vec<String>>, mistakes: &mut Vec<String>) -> Option<T> {
    result.map_err(|found| mistakes.extend(found)).ok()
}

fn parsed(name: &str) -> Result<OwnName, Vec<String>> {
    OwnName::parse(name).ok_or_else(|| vec![format!("{name:?} is no name: {NAME}")])
}

/// As a listener's files are checked; what has ended is refused here, since nobody could want it.
fn checked_pair(certificate: &Path, key: &Path) -> Result<Pair, Vec<String>> {
    let files = CertificateFiles {
        certificate: absolute(certificate),
        key: absolute(key),
    };
    let pair = load_pair(&files).map_err(|mistakes| {
        let lines = mistakes.iter().map(ToString::to_string);
        lines.collect::<Vec<_>>()
    })?;
    match CertWarning::of_validity(&pair.certificate, SystemTime::now()) {
        Some(expired @ CertWarning::Expired { .. }) => Err(vec![expired.to_string()]),
        Some(early) => {
            eprintln!("rota: warning: {early}");
            Ok(pair)
        }
        None => Ok(pair),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Where a load balancer's file says that certificates are kept.
struct Place {
    config: Config,
    keyring: Arc<Keyring>,
}

impl Place {
    fn read(file: &Path) -> Result<Place, Vec<String>> {
        let environment = Environment::of_this_process();
        let config = config::load(file, &environment);
        let config = config.map_err(|mistakes| {
            let lines = mistakes.0.iter().map(ToString::to_string);
            lines.collect::<Vec<_>>()
        })?;
        let mut mistakes = Vec::new();
        if config.consul.is_none() && config.node.state_dir.is_none() {
            mistakes.push(format!(
                "{}: neither [consul] nor node.state_dir: there is nowhere to keep a certificate",
                file.display()
            ));
        }
        let keyring = match secrets::keyring(&config) {
            Ok(None) => {
                mistakes.push(format!(
                    "{}: acme.key_file: missing: a private key is kept sealed or not at all",
                    file.display()
                ));
                None
            }
            Ok(keyring) => keyring,
            Err(mistake) => {
                mistakes.push(mistake);
                None
            }
        };
        match keyring {
            Some(keyring) if mistakes.is_empty() => Ok(Place { config, keyring }),
            Some(_) | None => Err(mistakes),
        }
    }

    /// On a runtime of this thread, over the store.
    fn run(
        self,
        change: impl AsyncFnOnce(&Store) -> Result<String, String>,
    ) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let store = self.store()?;
            change(&store).await
        })
    }

    fn store(self) -> Result<Store, String> {
        let Place { config, keyring } = self;
        if let Some(settings) = &config.consul {
            let client = Client::new(settings).map_err(|error| format!("consul: {error}"))?;
            let name = &config.node.name;
            return Ok(Store::in_consul(
                client,
                &settings.prefix,
                name,
                Some(keyring),
            ));
        }
        let state_dir = config.node.state_dir.as_deref();
        let state_dir = state_dir.ok_or("node.state_dir: missing")?;
        Store::beside_directory(state_dir, Some(keyring))
    }
}
