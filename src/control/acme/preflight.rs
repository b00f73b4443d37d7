//! Asks a name itself for a proof: whoever does not reach this pod by it would fail the CA too, at the account's cost.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::transport;
use crate::certs::challenge;
use crate::certs::proof::{self, Digest};
use crate::config::DomainName;

/// Where a CA looks by http-01: port 80. The error is in words.
pub(super) async fn reach(thumbprint: &str, name: &DomainName) -> Result<(), String> {
    let token = format!("preflight-{:032x}", fastrand::u128(..));
    let expected = format!("{token}.{thumbprint}");
    let path = format!("{}{token}", challenge::PATH);
    let found = transport::fetch(name.as_str(), &path)
        .await
        .map_err(|why| format!("preflight: http://{name}: {why}"))?;
    match found.trim_ascii() == expected.as_bytes() {
        true => Ok(()),
        false => Err(format!(
            "preflight: http://{name} is answered by somebody else"
        )),
    }
}

/// Where a CA looks by tls-alpn-01: port 443 unless another one is named. What is shown there is to have this digest in it. The error
/// is in words.
pub(super) async fn reach_by_tls(name: &str, digest: Digest) -> Result<(), String> {
    let reached = match looks_for(digest) {
        Ok(config) => transport::shake_hands(name, &config).await,
        Err(error) => Err(error.to_string()),
    };
    reached.map_err(|why| format!("preflight: https://{name} by acme-tls/1: {why}"))
}

fn looks_for(digest: Digest) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let shown = Arc::new(Shown {
        digest,
        provider: provider.clone(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(shown)
        .with_no_client_auth();
    config.alpn_protocols = vec![proof::ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Believes a certificate that holds what was just put into the store, and was told to nobody else. Nothing is sent over the
/// connection, so whose key it is does not matter; and a verifier of chains would not take the extension.
#[derive(Debug)]
struct Shown {
    digest: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut parts = certificate.windows(self.digest.len());
        match parts.any(|part| part == self.digest) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General("it is answered by somebody else".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::certs::proof::Proof;

    /// A port of the loopback where a CA is shown the proof of this digest.
    async fn shown(digest: Digest) -> String {
        let proof = Proof::new("localhost", digest).unwrap();
        let acceptor = TlsAcceptor::from(proof.settings().clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = acceptor.accept(tcp).await;
            }
        });
        format!("localhost:{port}")
    }

    #[tokio::test]
    async fn a_name_is_reached_by_tls_where_its_proof_is_shown_and_nowhere_else() {
        let (ours, theirs) = ([7; 32], [8; 32]);
        let place = shown(ours).await;
        assert_eq!(reach_by_tls(&place, ours).await, Ok(()));
        let error = reach_by_tls(&place, theirs).await.unwrap_err();
        assert!(error.contains("answered by somebody else"), "{error}");
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = format!("localhost:{}", nobody.local_addr().unwrap().port());
        drop(nobody);
        let error = reach_by_tls(&place, ours).await.unwrap_err();
        assert!(
            error.starts_with(&format!("preflight: https://{place}")),
            "{error}"
        );
    }
}
