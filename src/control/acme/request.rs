//! A key for a certificate, and the request that asks a CA to certify it.

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, RsaKeySize,
};

use super::failure::Failure;
use crate::config::{DomainName, KeyType};
use crate::seal::Plain;

/// What is kept before it is sent: with the key a successor can finish the order.
pub struct CertificateRequest {
    /// PKCS#8 as a PEM text.
    pub key_pem: Plain,
    /// PKCS#10.
    pub der: Vec<u8>,
}

impl CertificateRequest {
    /// With a new key. Some milliseconds of work, for RSA up to seconds; not done on this thread.
    pub async fn generate(name: &DomainName, key_type: KeyType) -> Result<Self, Failure> {
        let made = name.clone();
        made_elsewhere(name, move || request(generate(key_type)?, &made)).await
    }

    /// With the key of an order that somebody else began.
    pub async fn again(name: &DomainName, key_pem: &Plain) -> Result<Self, Failure> {
        let (made, key_pem) = (name.clone(), key_pem.clone());
        made_elsewhere(name, move || {
            let text = String::from_utf8_lossy(&key_pem);
            request(KeyPair::from_pem(&text)?, &made)
        })
        .await
    }
}

async fn made_elsewhere(
    name: &DomainName,
    work: impl FnOnce() -> Result<CertificateRequest, rcgen::Error> + Send + 'static,
) -> Result<CertificateRequest, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::Local(error.to_string()))?
        .map_err(|error| Failure::Local(format!("a key for {name}: {error}")))
}

fn generate(key_type: KeyType) -> Result<KeyPair, rcgen::Error> {
    match key_type {
        KeyType::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    }
}

fn request(key: KeyPair, name: &DomainName) -> Result<CertificateRequest, rcgen::Error> {
    let mut params = CertificateParams::new([name.as_str().to_owned()])?;
    // The name stands among the alternative names; a common name of rcgen's own making would be refused.
    params.distinguished_name = DistinguishedName::new();
    let der = params.serialize_request(&key)?.der().to_vec();
    Ok(CertificateRequest {
        key_pem: Plain::new(key.serialize_pem().into_bytes()),
        der,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_of_each_type_is_asked_for_again_after_it_was_kept() {
        let name = DomainName::parse("*.shop.test").unwrap();
        let all = [
            KeyType::P256,
            KeyType::P384,
            KeyType::Rsa2048,
            KeyType::Rsa4096,
        ];
        for key_type in all {
            let first = CertificateRequest::generate(&name, key_type).await.unwrap();
            let again = CertificateRequest::again(&name, &first.key_pem)
                .await
                .unwrap();
            assert_eq!(again.key_pem, first.key_pem, "{key_type:?}");
        }
        let broken = Plain::new(b"no key".to_vec());
        let failure = CertificateRequest::again(&name, &broken)
            .await
            .err()
            .unwrap();
        assert!(failure.text().starts_with("a key for *.shop.test: "));
    }
}
