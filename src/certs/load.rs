//! From the certificate files that listeners name to a store, or to every mistake in them at once. Blocking.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::SigningKey;

use super::certificate::{Certificate, parse_key};
use super::mistake::{CertMistake, CertWarning, PlacedMistake};
use super::store::CertStore;
use crate::config::{CertificateFiles, Listener};
use crate::routing::Scheme;

/// The most bytes of a certificate or key file; a larger one is refused unread.
pub const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Reads the files of all listeners: each key once and each pair once, however often they are named. Expired and not yet valid
/// certificates are loaded, and in [`CertStore::warnings`]. The error holds every mistake, each in one line with its path.
pub fn load(listeners: &[Listener]) -> Result<CertStore, Vec<PlacedMistake>> {
    let mut builder = CertStore::builder();
    let mut mistakes = Vec::new();
    let mut files = Files::default();
    for (number, listener) in listeners.iter().enumerate() {
        let name = &listener.policy.name;
        builder.listener(name);
        if listener.certificates.is_empty() && listener.policy.scheme == Scheme::Https {
            builder.warn(CertWarning::NoCertificates {
                listener: name.to_string(),
            });
        }
        for (index, pair) in listener.certificates.iter().enumerate() {
            let mut found = Vec::new();
            if let Some(certificate) = files.certificate(pair, &mut found) {
                builder.add(name, certificate);
            }
            mistakes.extend(found.into_iter().map(|mistake| PlacedMistake {
                listener: number,
                certificate: index,
                mistake,
            }));
        }
    }
    if mistakes.is_empty() {
        Ok(builder.build(SystemTime::now()))
    } else {
        Err(mistakes)
    }
}

/// What was read already in this run; None: it was a mistake, which has been told.
#[derive(Default)]
struct Files {
    keys: HashMap<PathBuf, Option<Arc<dyn SigningKey>>>,
    pairs: HashMap<(PathBuf, PathBuf), Option<Arc<Certificate>>>,
}

impl Files {
    fn certificate(
        &mut self,
        pair: &CertificateFiles,
        mistakes: &mut Vec<CertMistake>,
    ) -> Option<Arc<Certificate>> {
        let id = (pair.certificate.clone(), pair.key.clone());
        if let Some(known) = self.pairs.get(&id) {
            return known.clone();
        }
        let key = self.key(&pair.key, mistakes);
        let chain = told(read(&pair.certificate), mistakes);
        let certificate = key.zip(chain).and_then(|(key, chain)| {
            let made = Certificate::assemble(&chain, key, &pair.certificate, &pair.key);
            told(made, mistakes).map(Arc::new)
        });
        self.pairs.insert(id, certificate.clone());
        certificate
    }

    fn key(&mut self, path: &Path, mistakes: &mut Vec<CertMistake>) -> Option<Arc<dyn SigningKey>> {
        if let Some(known) = self.keys.get(path) {
            return known.clone();
        }
        let parsed = read(path).and_then(|pem| parse_key(&pem, path));
        let key = told(parsed, mistakes);
        self.keys.insert(path.to_path_buf(), key.clone());
        key
    }
}

fn told<T>(result: Result<T, CertMistake>, mistakes: &mut Vec<CertMistake>) -> Option<T> {
    result.map_err(|mistake| mistakes.push(mistake)).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, CertMistake> {
    let unreadable = |error| CertMistake::Unreadable {
        path: path.to_path_buf(),
        error,
    };
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut pem))
        .map_err(unreadable)?;
    if pem.len() as u64 > MAX_PEM_BYTES {
        return Err(CertMistake::TooLarge {
            path: path.to_path_buf(),
        });
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::fixture::{Folder, leaf_with_key, listener, made};
    use super::*;

    #[test]
    fn every_mistake_is_named_in_one_line_with_its_place_and_path() {
        let folder = Folder::new();
        let (one, other) = (made(&["a.test"]), made(&["b.test"]));
        let good = folder.write("a.pem", &one.chain_pem);
        let good_key = folder.write("a.key", &one.key_pem);
        let foreign_key = folder.write("b.key", &other.key_pem);
        let empty = folder.write("empty.pem", "");
        let missing = folder.path("missing.pem");
        let pairs = [
            (&good, &good_key),
            (&good, &foreign_key),
            (&missing, &good_key),
            (&empty, &good_key),
            (&good, &empty),
            (&missing, &empty),
        ];
        let mistakes = load(&[listener("tls", &pairs)]).unwrap_err();
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 5, "{lines:#?}");
        assert!(lines.iter().all(|line| !line.contains('\n')));
        for (line, (index, path, why)) in lines.iter().zip([
            (1, &foreign_key, "the key does not belong"),
            (2, &missing, "no such file"),
            (3, &empty, "no certificate"),
            (4, &empty, "no private key"),
            (5, &missing, "no such file"),
        ]) {
            let start = format!(
                "listener[0].certificates[{index}]: {}: {why}",
                path.display()
            );
            assert!(line.starts_with(&start), "{line}");
        }
    }

    #[test]
    fn a_file_named_by_two_listeners_is_loaded_once() {
        let folder = Folder::new();
        let one = made(&["a.test"]);
        let (chain, key) = (
            folder.write("a.pem", &one.chain_pem),
            folder.write("a.key", &one.key_pem),
        );
        let pairs = [(&chain, &key)];
        let store = load(&[listener("x", &pairs), listener("y", &pairs)]).unwrap();
        let of = |name| store.certificate(name, Some("a.test")).unwrap();
        assert!(Arc::ptr_eq(of("x"), of("y")));
    }

    #[test]
    fn an_https_listener_without_a_certificate_is_fine_and_warned_of() {
        let store = load(&[listener("tls", &[])]).unwrap();
        assert!(!store.knows("tls", None));
        assert!(
            store.warnings()[0]
                .to_string()
                .contains("every handshake is refused")
        );
    }

    #[test]
    fn five_thousand_certificates_of_one_key_load_in_seconds() {
        let folder = Folder::new();
        let key = rcgen::KeyPair::generate().unwrap();
        let key_path = folder.write("shared.key", &key.serialize_pem());
        let chains: Vec<PathBuf> = (0..5000)
            .map(|number| {
                let name = format!("host-{number}.test");
                folder.write(&format!("{number}.pem"), &leaf_with_key(&[&name], &key))
            })
            .collect();
        let pairs: Vec<_> = chains.iter().map(|chain| (chain, &key_path)).collect();
        let listener = listener("tls", &pairs);
        let begun = Instant::now();
        let store = load(&[listener]).unwrap();
        let took = begun.elapsed();
        assert!(store.knows("tls", Some("host-4999.test")));
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}
