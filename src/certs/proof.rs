//! A proof by tls-alpn-01 (RFC 8737): a handshake of its own, in which a CA is shown a certificate made for it.
//!
//! What such a handshake needs is ready before anybody asks, so that a worker makes no key and no certificate. Nothing of it
//! is kept: no ticket, no session. It asks for no client certificate, whatever the listener asks of its clients.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::certificate::provider;

/// The protocol that a CA offers, and nobody else; it is not among [`super::server::ALPN`].
pub const ALPN: &[u8] = b"acme-tls/1";

/// Of the key authorization, by SHA-256.
pub type Digest = [u8; 32];

/// One that is pending, with the settings of its handshake. Cheap to clone: to be made once, and kept as long as it is pending.
#[derive(Clone)]
pub struct Proof {
    name: Arc<str>,
    digest: Digest,
    settings: Arc<ServerConfig>,
}

impl Proof {
    /// Makes a key and a certificate for `name` alone, with the digest in its critical extension acmeIdentifier. Not for a worker.
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn new(name: &str, digest: Digest) -> Result<Proof, String> {
        let name = name.to_ascii_lowercase();
        let settings = settings(&name, &digest)
            .map_err(|why| format!("the proof for {name} by tls-alpn-01: {why}"))?;
        Ok(Proof {
            name: name.into(),
            digest,
            settings: Arc::new(settings),
        })
    }

    /// Lower case.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Of a handshake in which it is shown.
    pub fn settings(&self) -> &Arc<ServerConfig> {
        &self.settings
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof({})", self.name)
    }
}

/// Whether a CA asks: it offers this protocol and no other (RFC 8737 section 3).
pub(super) fn is_asked(hello: &ClientHello<'_>) -> bool {
    hello
        .alpn()
        .is_some_and(|mut offered| offered.next() == Some(ALPN) && offered.next().is_none())
}

fn settings(name: &str, digest: &Digest) -> Result<ServerConfig, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params =
        CertificateParams::new([name.to_owned()]).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "acme-tls/1");
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let made = params
        .self_signed(&key)
        .map_err(|error| error.to_string())?;
    let key = provider()
        .key_provider
        .load_private_key(PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .map_err(|error| error.to_string())?;
    // `with_single_cert` would refuse the extension, which no other client knows.
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![made.into()], key));
    let mut settings = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    settings.alpn_protocols = vec![ALPN.to_vec()];
    settings.session_storage = Arc::new(NoServerSessionStorage {});
    settings.send_tls13_tickets = 0;
    Ok(settings)
}
