//! An account's key, and the key by which a CA knows its customer: what both sign when an account is made (RFC 7515, 8555 section 7.3).
//!
//! instant-acme signs all else. It cannot bind an account whose key was there before (0.8), and the pod's one key has to be there before:
//! it answers http-01 for the accounts at all directories.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Value, json};

use crate::config::Eab;
use crate::seal::{self, Plain};

/// Written without padding; CAs hand out keys with it.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// ECDSA P-256.
pub struct AccountKey {
    pair: EcdsaKeyPair,
    pkcs8: Plain,
}

impl AccountKey {
    pub fn generate() -> AccountKey {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new());
        let document = made.expect("the system has random bytes");
        let pkcs8 = Plain::new(document.as_ref().to_vec());
        AccountKey::from_pkcs8(pkcs8).expect("it was just made")
    }

    /// None: not such a key.
    pub fn from_pkcs8(pkcs8: Plain) -> Option<AccountKey> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).ok()?;
        Some(AccountKey { pair, pkcs8 })
    }

    /// None: not what [`AccountKey::to_text`] gives.
    pub(super) fn from_text(text: &str) -> Option<AccountKey> {
        AccountKey::from_pkcs8(Plain::new(BASE64_URL.decode(text).ok()?))
    }

    /// PKCS#8, in base64url. Secret.
    pub(super) fn to_text(&self) -> String {
        BASE64_URL.encode(&*self.pkcs8)
    }

    pub fn pkcs8(&self) -> &Plain {
        &self.pkcs8
    }

    /// Of its public half (RFC 7638): with it any token of any account with this key can be answered.
    pub fn thumbprint(&self) -> String {
        // Members by name, without spaces: serde_json keeps a map in this order.
        let canonical = self.jwk().to_string();
        BASE64_URL.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "crv": "P-256",
            "kty": "EC",
            "x": BASE64_URL.encode(x),
            "y": BASE64_URL.encode(y),
        })
    }

    /// What asks for an account with this key, as it is posted to `url`.
    pub(super) fn sign_registration(&self, url: &str, nonce: &str, payload: &Value) -> String {
        let header = json!({ "alg": "ES256", "jwk": self.jwk(), "nonce": nonce, "url": url });
        let sign = |text: &str| {
            let signed = self.pair.sign(&SystemRandom::new(), text.as_bytes());
            BASE64_URL.encode(signed.expect("a P-256 key signs whatever it is given"))
        };
        signed(&header, payload, sign).to_string()
    }
}

/// By which the CA knows whose account it is.
pub struct Binding {
    kid: String,
    key: hmac::Key,
}

impl Binding {
    /// Reads the key's file, which nobody but its owner may open. Blocking. The error is a line with its path.
    pub fn read(eab: &Eab) -> Result<Binding, String> {
        let path = &eab.hmac_file;
        let text = seal::read_secret(path).map_err(|mistake| mistake.to_string())?;
        let key = BASE64_URL.decode(text.trim_ascii()).map(Plain::new);
        let key = key.ok().filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| format!("{}: not a key in base64url", path.display()))?;
        Ok(Binding {
            kid: eab.kid.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        })
    }

    /// The CA's customer says with this that the account's key is theirs.
    pub(super) fn bind(&self, url: &str, key: &AccountKey) -> Value {
        let header = json!({ "alg": "HS256", "kid": self.kid, "url": url });
        let sign = |text: &str| BASE64_URL.encode(hmac::sign(&self.key, text.as_bytes()));
        signed(&header, &key.jwk(), sign)
    }
}

/// A JWS in its flattened form.
fn signed(header: &Value, payload: &Value, sign: impl Fn(&str) -> String) -> Value {
    let protected = BASE64_URL.encode(header.to_string());
    let payload = BASE64_URL.encode(payload.to_string());
    let signature = sign(&format!("{protected}.{payload}"));
    json!({ "protected": protected, "payload": payload, "signature": signature })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_the_same_after_it_was_kept() {
        let key = AccountKey::generate();
        let again = AccountKey::from_text(&key.to_text()).unwrap();
        assert_eq!(again.thumbprint(), key.thumbprint());
        assert_eq!(key.thumbprint().len(), 43);
        assert_ne!(AccountKey::generate().thumbprint(), key.thumbprint());
        for text in ["", "AAAA", "not base64"] {
            assert!(AccountKey::from_text(text).is_none(), "{text}");
        }
    }

    /// The form that RFC 7638 hashes: no other members, by name, no spaces.
    #[test]
    fn what_a_thumbprint_is_of_is_in_canonical_form() {
        let text = AccountKey::generate().jwk().to_string();
        assert!(text.starts_with("{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\""));
        assert!(!text.contains(' '));
    }

    #[test]
    fn a_binding_is_read_from_a_file_that_only_its_owner_can_open() {
        let folder = std::env::temp_dir().join(format!("rota-eab-{:x}", fastrand::u64(..)));
        fs::create_dir(&folder).unwrap();
        let eab = Eab {
            kid: "k".into(),
            hmac_file: folder.join("key"),
        };
        let said = |text: &str, mode: u32| {
            fs::write(&eab.hmac_file, text).unwrap();
            fs::set_permissions(&eab.hmac_file, fs::Permissions::from_mode(mode)).unwrap();
            Binding::read(&eab).err().unwrap_or_default()
        };
        assert_eq!(said("c2VjcmV0LXNlY3JldA==\n", 0o600), "");
        assert_eq!(said("_-8", 0o400), "");
        assert!(said("c2VjcmV0", 0o644).ends_with("others can open it (mode 0644): expected 0600"));
        for text in ["", "+/8", "no key"] {
            assert!(
                said(text, 0o600).ends_with("key: not a key in base64url"),
                "{text}"
            );
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
