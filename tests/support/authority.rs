//! A certificate authority of the test's own, and TLS settings that trust it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Tls;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A leaf and its key, PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Authority { issuer, pem }
    }

    /// A certificate for these names (or addresses).
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, &KeyPair::generate().unwrap())
    }

    /// The same with a key of another kind.
    pub fn leaf_with(&self, names: &[&str], key: &KeyPair) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.signed(CertificateParams::new(names).unwrap(), key)
    }

    /// A certificate for a client of this common name.
    pub fn client_leaf(&self, common_name: &str) -> Leaf {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        self.signed(params, &KeyPair::generate().unwrap())
    }

    /// One that has ended some years ago.
    pub fn expired_leaf(&self, names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.signed(params, &KeyPair::generate().unwrap())
    }

    /// One that ends so soon.
    pub fn short_leaf(&self, names: &[&str], life: Duration) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since + life;
        self.signed(params, &KeyPair::generate().unwrap())
    }

    fn signed(&self, params: CertificateParams, key: &KeyPair) -> Leaf {
        let certificate = params.signed_by(key, &self.issuer).unwrap().pem();
        Leaf {
            certificate,
            key: key.serialize_pem(),
        }
    }

    /// A client that trusts this authority alone and speaks to `name`.
    pub fn client(&self, name: &str) -> Tls {
        self.client_with(name, &[], rustls::DEFAULT_VERSIONS)
    }

    pub fn client_with(
        &self,
        name: &str,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Tls {
        let mut config = trusting(&self.pem, versions);
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Tls {
            config: Arc::new(config),
            name: name.to_owned(),
        }
    }

    /// As [`Authority::client_with`], and it shows this certificate to whoever asks for one.
    pub fn client_showing(
        &self,
        leaf: &Leaf,
        name: &str,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Tls {
        let mut tls = self.client_with(name, alpn, versions);
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let key = provider().key_provider.load_private_key(key).unwrap();
        let shown = rustls::sign::CertifiedKey::new(vec![leaf.der()], key);
        let config = Arc::make_mut(&mut tls.config);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
        tls
    }

    /// As [`Authority::client`], but the ClientHello names nobody.
    pub fn client_without_sni(&self, name: &str) -> Tls {
        let mut tls = self.client(name);
        Arc::make_mut(&mut tls.config).enable_sni = false;
        tls
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

impl Leaf {
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    /// Writes `NAME.pem` and `NAME.key` into `dir`.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = dir.join(format!("{name}.pem"));
        let key = dir.join(format!("{name}.key"));
        std::fs::write(&certificate, &self.certificate).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        (certificate, key)
    }

    /// For an [`super::Origin`] over TLS.
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        let certificate = self.der();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Arc::new(config)
    }
}

/// For a client that trusts this authority alone (PEM).
pub fn trusting(
    pem: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
