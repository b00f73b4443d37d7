//! Certificates, files and listeners made for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertificateParams, KeyPair};

use super::certificate::Certificate;
use crate::config::{CertificateFiles, Listener, ListenerTls};
use crate::routing::{ListenerPolicy, Scheme};

pub(super) struct Made {
    pub(super) chain_pem: String,
    pub(super) key_pem: String,
}

impl Made {
    pub(super) fn certificate(&self) -> Certificate {
        let (chain, key) = (self.chain_pem.as_bytes(), self.key_pem.as_bytes());
        Certificate::from_pem(chain, key, Path::new("made.pem"), Path::new("made.key")).unwrap()
    }
}

/// Signed by itself, so that it is its own CA for a client.
pub(super) fn made(names: &[&str]) -> Made {
    let key = KeyPair::generate().unwrap();
    Made {
        chain_pem: leaf_with_key(names, &key),
        key_pem: key.serialize_pem(),
    }
}

/// The same, valid from the first of these years until the last begins.
pub(super) fn made_for(names: &[&str], years: std::ops::Range<i32>) -> Made {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    let key = KeyPair::generate().unwrap();
    Made {
        chain_pem: params.self_signed(&key).unwrap().pem(),
        key_pem: key.serialize_pem(),
    }
}

pub(super) fn leaf_with_key(names: &[&str], key: &KeyPair) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names).unwrap();
    params.self_signed(key).unwrap().pem()
}

pub(super) fn listener(name: &str, pairs: &[(&PathBuf, &PathBuf)]) -> Listener {
    Listener {
        policy: Arc::new(ListenerPolicy {
            name: name.into(),
            address: "127.0.0.1:0".parse().unwrap(),
            scheme: Scheme::Https,
            redirect: None,
            trusted_proxies: Arc::new([]),
            proxy_protocol: false,
        }),
        tls: ListenerTls::default(),
        certificates: pairs
            .iter()
            .map(|(certificate, key)| CertificateFiles {
                certificate: (*certificate).clone(),
                key: (*key).clone(),
            })
            .collect(),
    }
}

/// A folder of its own, removed with what is in it.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rota-certs-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
