//! One certificate with its key, ready to serve, and what it is valid for.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};

use super::mistake::CertMistake;
use super::x509::{self, Names};
use crate::seal::Digest;

/// A chain, its key, and what the first certificate of the chain says of itself.
pub struct Certificate {
    served: Arc<CertifiedKey>,
    key_text: Digest,
    names: Names,
    issuer: String,
    not_before: SystemTime,
    not_after: SystemTime,
    source: PathBuf,
}

/// A private key, and which text it was in.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub signing: Arc<dyn SigningKey>,
    pub text: Digest,
}

impl Certificate {
    /// Takes PEM texts (the chain leaf first; the key unencrypted) and where they came from, for messages and status. Gives the
    /// certificate, or the first mistake.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        source: &Path,
        key_source: &Path,
    ) -> Result<Certificate, CertMistake> {
        let key = parse_key(key, key_source)?;
        Certificate::assemble(parse_chain(chain, source)?, key, source, key_source)
    }

    /// As [`Certificate::from_pem`], from what was parsed before.
    pub(super) fn assemble(
        chain: Vec<CertificateDer<'static>>,
        key: Key,
        source: &Path,
        key_source: &Path,
    ) -> Result<Certificate, CertMistake> {
        let malformed = |why: String| CertMistake::Malformed {
            path: source.into(),
            why,
        };
        let facts = x509::read(&chain[0]).map_err(malformed)?;
        if facts.names.is_empty() {
            return Err(CertMistake::NoNames {
                path: source.into(),
            });
        }
        let served = CertifiedKey::new(chain, key.signing);
        match served.keys_match() {
            // Unknown: a key that cannot name its public half, as one in a hardware module; nothing speaks against it.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(CertMistake::Mismatch {
                    certificate: source.into(),
                    key: key_source.into(),
                });
            }
            Err(error) => return Err(malformed(error.to_string())),
        }
        Ok(Certificate {
            served: Arc::new(served),
            key_text: key.text,
            names: facts.names,
            issuer: facts.issuer,
            not_before: facts.not_before,
            not_after: facts.not_after,
            source: source.into(),
        })
    }

    /// What rustls serves.
    pub fn served(&self) -> &Arc<CertifiedKey> {
        &self.served
    }

    /// Whether a client that trusts this certificate may be answered for `host`: a name or address literal without port, in any
    /// case, an IPv6 address with or without brackets. A wildcard stands for exactly one label (RFC 9525 section 6.3).
    pub fn covers(&self, host: &str) -> bool {
        if self
            .exact_names()
            .any(|name| name.eq_ignore_ascii_case(host))
        {
            return true;
        }
        if let Some(address) = literal(host) {
            return self.names.addresses.contains(&address);
        }
        match host.split_once('.') {
            Some((label, rest)) if !label.is_empty() => self
                .wildcard_suffixes()
                .any(|suffix| suffix.eq_ignore_ascii_case(rest)),
            Some(_) | None => false,
        }
    }

    /// All names as a person writes them: `shop.example.com`, `*.example.com`, `127.0.0.1`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let exact = self.names.exact.iter().map(ToString::to_string);
        let wildcards = self.names.wildcards.iter().map(|name| format!("*.{name}"));
        let addresses = self.names.addresses.iter().map(ToString::to_string);
        exact.chain(wildcards).chain(addresses)
    }

    /// Lower case.
    pub fn exact_names(&self) -> impl Iterator<Item = &str> {
        self.names.exact.iter().map(AsRef::as_ref)
    }

    /// What follows `*.`, lower case.
    pub fn wildcard_suffixes(&self) -> impl Iterator<Item = &str> {
        self.names.wildcards.iter().map(AsRef::as_ref)
    }

    /// The issuer's distinguished name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it has begun and not ended.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The end of its validity in seconds since 1970, as the metric shows it.
    pub fn not_after_seconds(&self) -> u64 {
        self.not_after
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
    }

    pub(super) fn key(&self) -> Key {
        Key {
            signing: self.served.key.clone(),
            text: self.key_text,
        }
    }

    /// Whether [`Certificate::assemble`] would make the same of these.
    pub(super) fn is_made_of(&self, chain: &[CertificateDer<'_>], key: &Key) -> bool {
        self.key_text == key.text && self.served.cert == chain
    }

    /// The file it was read from, or what stands for one.
    pub fn source(&self) -> &Path {
        &self.source
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Takes PEM; gives the first private key in it. `source` names it in the mistake.
pub(super) fn parse_key(pem: &[u8], source: &Path) -> Result<Key, CertMistake> {
    let unusable = |why: String| CertMistake::UnusableKey {
        path: source.into(),
        why,
    };
    let der = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(der) => der,
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            return Err(if memchr::memmem::find(pem, b"ENCRYPTED").is_some() {
                unusable("the key is encrypted, it is needed without a passphrase".to_owned())
            } else {
                CertMistake::NoKey {
                    path: source.into(),
                }
            });
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    let signing = provider()
        .key_provider
        .load_private_key(der)
        .map_err(|_| unusable("not an RSA, ECDSA or Ed25519 key that TLS can use".to_owned()))?;
    Ok(Key {
        signing,
        text: Digest::of(pem),
    })
}

/// At least one certificate, the leaf first.
pub(super) fn parse_chain(
    pem: &[u8],
    source: &Path,
) -> Result<Vec<CertificateDer<'static>>, CertMistake> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| CertMistake::Malformed {
            path: source.into(),
            why: error.to_string(),
        })?;
    if chain.is_empty() {
        return Err(CertMistake::NoCertificate {
            path: source.into(),
        });
    }
    Ok(chain)
}

/// The address that a host is, if it is one.
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')?
            .parse::<Ipv6Addr>()
            .ok()
            .map(Into::into),
        None => host.parse().ok(),
    }
}

/// The cryptography of the whole room, named explicitly: a second provider in the tree would make an implicit one panic. Made
/// once, since making it copies its lists.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Made, made};
    use super::*;

    fn certificate(names: &[&str]) -> Certificate {
        made(names).certificate()
    }

    #[test]
    fn a_certificate_covers_its_names_in_any_case_and_its_addresses() {
        let served = certificate(&["Shop.example.com", "127.0.0.1", "::1"]);
        for host in [
            "shop.example.com",
            "SHOP.example.COM",
            "127.0.0.1",
            "[::1]",
            "::1",
        ] {
            assert!(served.covers(host), "{host}");
        }
        for host in [
            "example.com",
            "a.shop.example.com",
            "127.0.0.2",
            "[::2]",
            "",
            "[",
        ] {
            assert!(!served.covers(host), "{host}");
        }
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let served = certificate(&["*.example.com"]);
        assert!(served.covers("a.example.com"));
        assert!(served.covers("A.Example.com"));
        for host in ["example.com", "a.b.example.com", ".example.com", "*.com"] {
            assert!(!served.covers(host), "{host}");
        }
    }

    #[test]
    fn a_mismatched_key_is_named_with_both_paths() {
        let (one, other) = (made(&["a.test"]), made(&["a.test"]));
        let mistake = Certificate::from_pem(
            one.chain_pem.as_bytes(),
            other.key_pem.as_bytes(),
            Path::new("tls/a.pem"),
            Path::new("tls/b.key"),
        )
        .unwrap_err();
        assert_eq!(
            mistake.to_string(),
            "tls/b.key: the key does not belong to the certificate in tls/a.pem"
        );
    }

    #[test]
    fn a_certificate_without_names_or_with_foreign_bytes_is_a_mistake() {
        let nameless = made(&[]);
        let read = |made: &Made, chain: &str| {
            Certificate::from_pem(
                chain.as_bytes(),
                made.key_pem.as_bytes(),
                Path::new("c"),
                Path::new("k"),
            )
            .unwrap_err()
            .to_string()
        };
        assert!(read(&nameless, &nameless.chain_pem).contains("no names"));
        assert!(read(&nameless, "").contains("no certificate"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(read(&nameless, broken).starts_with("c: "));
    }

    #[test]
    fn an_encrypted_or_missing_key_says_so() {
        let encrypted =
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let mistake = parse_key(encrypted, Path::new("k")).unwrap_err();
        assert!(mistake.to_string().contains("passphrase"), "{mistake}");
        let mistake = parse_key(b"", Path::new("k")).unwrap_err();
        assert!(mistake.to_string().contains("no private key"), "{mistake}");
    }
}
