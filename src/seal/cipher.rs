//! Secrets of 32 bytes, what is derived from them, and the AEAD that they key.
//!
//! AES-256-GCM-SIV (RFC 8452): should two of a fleet's load balancers ever draw the same nonce under one key, it is only seen
//! whether they sealed the same bytes, where plain GCM would lose its authenticity.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The length of every secret and key.
pub const SECRET_BYTES: usize = 32;

/// 32 secret bytes, erased from memory when dropped. `Debug` never shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// Fresh from the system's generator.
    pub fn random() -> Secret {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        fill_randomly(&mut *bytes);
        Secret(bytes)
    }

    /// Another secret for one purpose (HKDF-SHA256, RFC 5869). From what is derived nothing is learnt of the secret, or of what
    /// is derived for another purpose.
    pub fn derive(&self, purpose: &[&[u8]]) -> Secret {
        struct Length;
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                SECRET_BYTES
            }
        }
        let fits = "32 bytes are within hkdf's limit";
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(&*self.0)
            .expand(purpose, Length)
            .and_then(|material| material.fill(&mut *bytes))
            .expect(fits);
        Secret(bytes)
    }

    /// Takes 32 bytes in base64, padded; None: anything else.
    pub fn from_base64(text: &str) -> Option<Secret> {
        let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
        let bytes: [u8; SECRET_BYTES] = decoded.as_slice().try_into().ok()?;
        Some(Secret::from_bytes(bytes))
    }

    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    pub fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Encrypts and authenticates with one secret.
pub struct Cipher(LessSafeKey);

impl Cipher {
    pub fn new(secret: &Secret) -> Cipher {
        let key = UnboundKey::new(&AES_256_GCM_SIV, secret.bytes());
        Cipher(LessSafeKey::new(key.expect("a secret is as long as a key")))
    }

    /// Nonce, ciphertext and tag in one. Opens only with the same `place`.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        fill_randomly(&mut nonce);
        let mut text = plain.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place),
                &mut text,
            )
            .expect("what fits in memory is within the aead's limit of 64 GiB");
        let mut sealed = Vec::with_capacity(NONCE_LEN + text.len());
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut text);
        sealed
    }

    /// What [`Cipher::seal`] was given; None: another key, another place, or changed bytes. Which of these cannot be told.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut text);
        let length = opened.ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(…)")
    }
}

/// What stands for bytes that are not to be kept: SHA-256, so that nobody can make others that pass for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; digest::SHA256_OUTPUT_LEN]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        let digest = digest::digest(&digest::SHA256, bytes);
        let bytes = digest.as_ref().try_into();
        Digest(bytes.expect("SHA-256 gives 32 bytes"))
    }

    pub fn bytes(&self) -> &[u8; digest::SHA256_OUTPUT_LEN] {
        &self.0
    }

    /// 64 hex digits.
    pub fn to_hex(self) -> String {
        super::hex(&self.0)
    }
}

fn fill_randomly(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the system's generator gives bytes or the process cannot be secure");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_secret_is_read_from_base64_and_never_shown() {
        let secret = Secret::random();
        assert_eq!(Secret::from_base64(&secret.to_base64()).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        for text in ["", "AAAA", "not base64", &"A".repeat(44), &"A".repeat(48)] {
            assert!(Secret::from_base64(text).is_none(), "{text}");
        }
    }

    /// RFC 5869 has no vector of this shape; these bytes are what HKDF-SHA256 with an empty salt gives elsewhere (Python's hmac).
    #[test]
    fn what_is_derived_is_hkdf_sha256_and_differs_by_purpose() {
        let secret = Secret::from_bytes([7; SECRET_BYTES]);
        let derived = secret.derive(&[b"rota ", b"test"]);
        assert_eq!(derived, secret.derive(&[b"rota test"]));
        assert_ne!(derived, secret.derive(&[b"rota rest"]));
        assert_ne!(derived, secret);
        let hex: String = derived.bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "ee1255a92da1696c36542fac90acee77f8e9071e99132b14713ef9a00c9080ac"
        );
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_with_its_key_at_its_place_and_nowhere_else(
            place in ".{0,40}", other in ".{0,40}", plain: Vec<u8>,
        ) {
            let cipher = Cipher::new(&Secret::random());
            let sealed = cipher.seal(place.as_bytes(), &plain);
            let opened = cipher.open(place.as_bytes(), &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), plain.as_slice());
            prop_assert!(Cipher::new(&Secret::random()).open(place.as_bytes(), &sealed).is_none());
            if other != place {
                prop_assert!(cipher.open(other.as_bytes(), &sealed).is_none());
            }
        }

        #[test]
        fn no_bit_can_be_turned_and_no_byte_be_cut(plain: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let cipher = Cipher::new(&Secret::random());
            let sealed = cipher.seal(b"place", &plain);
            let mut turned = sealed.clone();
            turned[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(cipher.open(b"place", &turned).is_none());
            prop_assert!(cipher.open(b"place", &sealed[..at.index(sealed.len())]).is_none());
        }

        #[test]
        fn no_bytes_make_opening_panic(sealed: Vec<u8>) {
            prop_assert!(Cipher::new(&Secret::random()).open(b"", &sealed).is_none());
        }
    }
}
