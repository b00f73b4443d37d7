//! What a listener asks of a client before it lets it in: which versions of TLS, and a certificate from whom.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};

use super::certificate::provider;
use super::load::read_file;
use super::mistake::CertMistake;
use super::tickets::ClientPolicy;
use crate::config::{ClientCertificates, Demand, ListenerTls, TlsPolicy};
use crate::seal::Digest;

/// One listener's, ready to serve. Two are the same if they were written with the same words and their authorities are the same:
/// then the settings made from one stay in force when the file is read again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    versions: TlsPolicy,
    clients: Option<Clients>,
}

#[derive(Clone)]
struct Clients {
    demand: Demand,
    verifier: Arc<dyn ClientCertVerifier>,
    /// Of all authorities' certificates, by SHA-256.
    authorities: [u8; 32],
}

impl Terms {
    /// Reads the authorities' file, if one is named. Blocking.
    pub(super) fn read(written: &ListenerTls) -> Result<Terms, CertMistake> {
        Ok(Terms {
            versions: written.policy,
            clients: written.clients.as_ref().map(Clients::read).transpose()?,
        })
    }

    pub(super) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match self.versions {
            TlsPolicy::Intermediate => &BOTH,
            TlsPolicy::Modern => &BOTH[..1],
        }
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        match &self.clients {
            Some(clients) => clients.verifier.clone(),
            None => WebPkiClientVerifier::no_client_auth(),
        }
    }

    /// Whose tickets are good here.
    pub(super) fn tickets(&self) -> ClientPolicy {
        match &self.clients {
            None => ClientPolicy::Anybody,
            Some(clients) => match clients.demand {
                Demand::Require => ClientPolicy::Required(clients.authorities),
                Demand::Request => ClientPolicy::Requested(clients.authorities),
            },
        }
    }
}

impl Clients {
    fn read(written: &ClientCertificates) -> Result<Clients, CertMistake> {
        let path = || written.ca.clone();
        let malformed = |why: String| CertMistake::Malformed { path: path(), why };
        let pem = read_file(&written.ca)?;
        let authorities: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| malformed(error.to_string()))?;
        if authorities.is_empty() {
            return Err(CertMistake::NoCertificate { path: path() });
        }
        let mut roots = RootCertStore::empty();
        let mut all = Vec::new();
        for authority in authorities {
            // Their lengths too, so that no other division of the same bytes is the same.
            all.extend_from_slice(&(authority.len() as u64).to_be_bytes());
            all.extend_from_slice(&authority);
            roots
                .add(authority)
                .map_err(|error| malformed(error.to_string()))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider().clone());
        let verifier = match written.demand {
            Demand::Require => verifier,
            Demand::Request => verifier.allow_unauthenticated(),
        };
        Ok(Clients {
            demand: written.demand,
            verifier: verifier
                .build()
                .map_err(|error| malformed(error.to_string()))?,
            authorities: *Digest::of(&all).bytes(),
        })
    }
}

impl PartialEq for Clients {
    fn eq(&self, other: &Clients) -> bool {
        self.demand == other.demand && self.authorities == other.authorities
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clients({:?})", self.demand)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::fixture::{Folder, made};
    use super::*;

    fn terms(ca: &std::path::Path, demand: Demand) -> Result<Terms, CertMistake> {
        Terms::read(&ListenerTls {
            policy: TlsPolicy::Intermediate,
            clients: Some(ClientCertificates {
                ca: ca.into(),
                demand,
            }),
        })
    }

    #[test]
    fn terms_are_the_same_if_words_and_authorities_are() {
        let folder = Folder::new();
        let (one, other) = (made(&["one.test"]), made(&["other.test"]));
        let ca = folder.write("one.pem", &one.chain_pem);
        let copy = folder.write("copy.pem", &("a comment\n".to_owned() + &one.chain_pem));
        let both = folder.write("both.pem", &(one.chain_pem.clone() + &other.chain_pem));
        let of = |path: &PathBuf, demand| terms(path, demand).unwrap();
        let first = of(&ca, Demand::Require);
        assert_eq!(first, of(&copy, Demand::Require));
        for another in [
            of(&ca, Demand::Request),
            of(&both, Demand::Require),
            Terms::default(),
        ] {
            assert_ne!(first, another);
            assert_ne!(first.tickets(), another.tickets());
        }
    }

    #[test]
    fn a_file_without_an_authority_is_a_mistake_with_its_path() {
        let folder = Folder::new();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (file, why) in [
            (folder.path("missing.pem"), "no such file"),
            (folder.write("empty.pem", ""), "no certificate in it (PEM)"),
            (folder.write("broken.pem", broken), "not a certificate"),
        ] {
            let mistake = terms(&file, Demand::Require).unwrap_err().to_string();
            let start = format!("{}: {why}", file.display());
            assert!(mistake.starts_with(&start), "{mistake}");
        }
    }
}
