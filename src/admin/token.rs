//! The secret that allows changes over TCP: read from its file at each use, so that a new one is in force at once.

use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A shorter token is refused: it could be guessed.
pub const MIN_TOKEN_LEN: usize = 16;
/// A longer file is no token.
pub const MAX_TOKEN_LEN: usize = 4096;

/// Where the token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    path: PathBuf,
}

/// A token as read. Never shown.
pub struct Secret(Box<str>);

impl Token {
    pub fn in_file(path: impl Into<PathBuf>) -> Token {
        Token { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, white space at its ends aside. Errors: it cannot be read, others than its owner can read it, it is too short or too
    /// long or holds what no header may.
    pub fn read(&self) -> io::Result<Secret> {
        self.try_read().map_err(|error| {
            let path = self.path.display();
            let message = match error.kind() {
                io::ErrorKind::NotFound => format!("token file {path}: no such file"),
                _ => format!("token file {path}: {error}"),
            };
            io::Error::new(error.kind(), message)
        })
    }

    fn try_read(&self) -> io::Result<Secret> {
        let file = File::open(&self.path)?;
        // Of the open file, not of its name: it cannot change in between.
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let message = format!("others can read it (mode {mode:04o}; 0600 is right)");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let mut text = String::new();
        file.take(MAX_TOKEN_LEN as u64 + 1)
            .read_to_string(&mut text)?;
        let token = text.trim();
        let is_sendable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if text.len() > MAX_TOKEN_LEN || token.len() < MIN_TOKEN_LEN || !is_sendable {
            let message = format!(
                "a token is one word of {MIN_TOKEN_LEN} to {MAX_TOKEN_LEN} printable ASCII characters"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Secret(token.into()))
    }
}

impl Secret {
    /// Takes the same time whichever byte differs; only the length can be learned.
    pub fn is(&self, given: &[u8]) -> bool {
        let known = self.0.as_bytes();
        let differences = known
            .iter()
            .zip(given)
            .fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
        known.len() == given.len() && differences == 0
    }

    /// The value of an `Authorization` field.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn token(name: &str, content: &str, mode: u32) -> Token {
        let path = std::env::temp_dir().join(format!("rota-token-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Token::in_file(path)
    }

    #[test]
    fn a_token_is_the_files_word_and_is_compared_whole() {
        let token = token("good", "0123456789abcdef\n", 0o600);
        let secret = token.read().unwrap();
        assert!(secret.is(b"0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcdeF",
            "0123456789abcde",
            "0123456789abcdef0",
        ] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{secret:?}").contains("0123"));
        fs::remove_file(token.path()).unwrap();
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_by_name() {
        for mode in [0o644, 0o640, 0o604] {
            let token = token("open", "0123456789abcdef", mode);
            let error = token.read().unwrap_err().to_string();
            assert!(error.contains("others can read it"), "{error}");
            assert!(error.contains(&token.path().display().to_string()));
            fs::remove_file(token.path()).unwrap();
        }
    }

    #[test]
    fn short_empty_and_unsendable_tokens_are_refused() {
        for content in ["", "short", "0123456789 abcdef", "0123456789\u{e9}abcdef0"] {
            let token = token("bad", content, 0o600);
            assert!(token.read().is_err(), "{content:?}");
            fs::remove_file(token.path()).unwrap();
        }
    }
}
