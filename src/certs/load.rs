//! From the certificate files that listeners name to a store, or to every mistake in them at once. Blocking.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::certificate::{Certificate, Key, parse_chain, parse_key};
use super::mistake::{CertMistake, CertWarning, FileKey, PlacedMistake};
use super::store::CertStore;
use super::terms::Terms;
use crate::config::{CertificateFiles, Listener};
use crate::routing::Scheme;
use crate::seal::{Digest, Plain};

/// The most bytes of a certificate or key file; a larger one is refused unread.
pub const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Reads the files of all listeners: each key once and each pair once, however often they are named. What is in `before` and stands
/// in its files as it did is taken over from there: reading costs then little, and no certificate is in memory twice. Expired and
/// not yet valid certificates are loaded, and in [`CertStore::warnings`]. The error holds every mistake, each in one line with its
/// path.
pub fn load(listeners: &[Listener], before: &CertStore) -> Result<CertStore, Vec<PlacedMistake>> {
    let mut builder = CertStore::builder();
    let mut mistakes = Vec::new();
    let mut files = Files::new(before);
    for (number, listener) in listeners.iter().enumerate() {
        let name = &listener.policy.name;
        builder.listener(name);
        match Terms::read(&listener.tls) {
            Ok(terms) => builder.terms(name, terms),
            Err(mistake) => mistakes.push(PlacedMistake {
                listener: number,
                key: FileKey::ClientCa,
                mistake,
            }),
        }
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
                key: FileKey::Certificates(index),
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

/// A certificate and the texts that it was read from.
pub struct Pair {
    pub certificate: Certificate,
    pub chain: Vec<u8>,
    pub key: Plain,
}

/// One pair of files, checked as those of listeners are. The error holds every mistake in them.
pub fn load_pair(files: &CertificateFiles) -> Result<Pair, Vec<CertMistake>> {
    let mut mistakes = Vec::new();
    let key_text = told(read_file(&files.key).map(Plain::new), &mut mistakes);
    let key = key_text.as_ref().map(|pem| parse_key(pem, &files.key));
    let key = key.and_then(|key| told(key, &mut mistakes));
    let chain_text = told(read_file(&files.certificate), &mut mistakes);
    let chain = chain_text
        .as_ref()
        .map(|pem| parse_chain(pem, &files.certificate));
    let chain = chain.and_then(|chain| told(chain, &mut mistakes));
    let made = key.zip(chain).and_then(|(key, chain)| {
        let made = Certificate::assemble(chain, key, &files.certificate, &files.key);
        told(made, &mut mistakes)
    });
    match (made, chain_text, key_text) {
        (Some(certificate), Some(chain), Some(key)) => Ok(Pair {
            certificate,
            chain,
            key,
        }),
        (Some(_) | None, _, _) => Err(mistakes),
    }
}

/// What was read already; None: it was a mistake, which has been told.
struct Files<'a> {
    keys: HashMap<PathBuf, Option<Key>>,
    pairs: HashMap<(PathBuf, PathBuf), Option<Arc<Certificate>>>,
    keys_before: HashMap<Digest, Key>,
    before: HashMap<&'a Path, &'a Arc<Certificate>>,
}

impl<'a> Files<'a> {
    fn new(before: &'a CertStore) -> Files<'a> {
        let known = || before.list().map(|(_, certificate)| certificate);
        Files {
            keys: HashMap::new(),
            pairs: HashMap::new(),
            keys_before: known().map(|one| (one.key().text, one.key())).collect(),
            before: known().map(|one| (one.source(), one)).collect(),
        }
    }

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
        let chain =
            read_file(&pair.certificate).and_then(|pem| parse_chain(&pem, &pair.certificate));
        let chain = told(chain, mistakes);
        let known = self.before.get(pair.certificate.as_path());
        let certificate = key.zip(chain).and_then(|(key, chain)| match known {
            Some(known) if known.is_made_of(&chain, &key) => Some(Arc::clone(known)),
            Some(_) | None => {
                let made = Certificate::assemble(chain, key, &pair.certificate, &pair.key);
                told(made, mistakes).map(Arc::new)
            }
        });
        self.pairs.insert(id, certificate.clone());
        certificate
    }

    fn key(&mut self, path: &Path, mistakes: &mut Vec<CertMistake>) -> Option<Key> {
        if let Some(known) = self.keys.get(path) {
            return known.clone();
        }
        let parsed =
            read_file(path).and_then(|pem| match self.keys_before.get(&Digest::of(&pem)) {
                Some(known) => Ok(known.clone()),
                None => parse_key(&pem, path),
            });
        let key = told(parsed, mistakes);
        self.keys.insert(path.to_path_buf(), key.clone());
        key
    }
}

fn told<T>(result: Result<T, CertMistake>, mistakes: &mut Vec<CertMistake>) -> Option<T> {
    result.map_err(|mistake| mistakes.push(mistake)).ok()
}

/// A whole file of at most [`MAX_PEM_BYTES`].
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, CertMistake> {
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

    use super::super::fixture::{Folder, Made, leaf_with_key, listener, made};
    use super::*;

    fn nothing() -> CertStore {
        CertStore::default()
    }

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
        let mistakes = load(&[listener("tls", &pairs)], &nothing()).unwrap_err();
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
        let store = load(&[listener("x", &pairs), listener("y", &pairs)], &nothing()).unwrap();
        let of = |name| store.certificate(name, Some("a.test")).unwrap();
        assert!(Arc::ptr_eq(of("x"), of("y")));
    }

    #[test]
    fn read_again_what_stands_as_it_did_is_taken_over_and_what_does_not_is_made_anew() {
        let folder = Folder::new();
        let write = |name: &str, made: &Made| {
            let chain = folder.write(&format!("{name}.pem"), &made.chain_pem);
            (chain, folder.write(&format!("{name}.key"), &made.key_pem))
        };
        let pairs = ["a", "b", "c"].map(|name| write(name, &made(&[&format!("{name}.test")])));
        let pairs = pairs.each_ref().map(|(chain, key)| (chain, key));
        let listeners = [listener("tls", &pairs)];
        let before = load(&listeners, &nothing()).unwrap();
        write("b", &made(&["b.test"]));
        let foreign = folder.write("c.key", &made(&["c.test"]).key_pem);
        let error = load(&listeners, &before).unwrap_err();
        assert_eq!(error.len(), 1, "{error:?}");
        assert!(error[0].to_string().contains(foreign.to_str().unwrap()));

        write("c", &made(&["c.test"]));
        let after = load(&listeners, &before).unwrap();
        let is_the_same = |name| {
            let of = |store: &CertStore| store.certificate("tls", Some(name)).unwrap().clone();
            Arc::ptr_eq(&of(&before), &of(&after))
        };
        assert!(is_the_same("a.test"));
        assert!(!is_the_same("b.test") && !is_the_same("c.test"));
    }

    #[test]
    fn an_https_listener_without_a_certificate_is_fine_and_warned_of() {
        let store = load(&[listener("tls", &[])], &nothing()).unwrap();
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
        let store = load(&[listener], &nothing()).unwrap();
        let took = begun.elapsed();
        assert!(store.knows("tls", Some("host-4999.test")));
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}
