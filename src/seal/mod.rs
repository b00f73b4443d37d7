//! Sealing: secrets that rest outside this process (in Consul's KV, in the state directory) are encrypted with a key from the key file.
//!
//! The ciphertext names its key and is bound to the place it was written to, so that who can write KV can neither read nor
//! change a secret, nor put one where another belongs. TLS reaches aws-lc-rs through rustls.

mod cipher;
mod key_file;
mod keyring;

pub use cipher::{Cipher, Digest, SECRET_BYTES, Secret};
pub use key_file::{KeyFileMistake, MAX_KEYS, read_secret};
pub use keyring::{Keyring, OpenError, hex};

/// Secret bytes of any length, erased from memory when dropped.
pub type Plain = zeroize::Zeroizing<Vec<u8>>;
