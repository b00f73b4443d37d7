//! The key file: which texts are one, and who else may read it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::cipher::Secret;

/// A longer file is refused unread.
const MAX_BYTES: u64 = 16 * 1024;
/// Keys of one file; more than two or three are only there while they are exchanged.
pub const MAX_KEYS: usize = 64;

/// Why a key file cannot be used. Never shows any of its content.
#[derive(Debug)]
pub struct KeyFileMistake {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    NoFile,
    Exposed { mode: u32 },
    TooLong,
    Empty,
    TooMany,
    NoKey { line: usize },
    Repeated { line: usize, first: usize },
}

impl fmt::Display for KeyFileMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        const KEY: &str = "32 bytes in base64 (`head -c 32 /dev/urandom | base64`)";
        match &self.fault {
            Fault::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "{path}: no such file")
            }
            Fault::Unreadable(error) => write!(f, "{path}: {error}"),
            Fault::NoFile => write!(f, "{path}: not a plain file"),
            Fault::Exposed { mode } => write!(
                f,
                "{path}: others can open it (mode {mode:04o}): expected 0600"
            ),
            Fault::TooLong => write!(f, "{path}: longer than {MAX_BYTES} bytes, no key file is"),
            Fault::Empty => write!(f, "{path}: no key in it: expected a line of {KEY}"),
            Fault::TooMany => write!(f, "{path}: expected at most {MAX_KEYS} keys"),
            Fault::NoKey { line } => write!(f, "{path}:{line}: not a key: expected {KEY}"),
            Fault::Repeated { line, first } => {
                write!(f, "{path}:{line}: the same key as in line {first}")
            }
        }
    }
}

impl std::error::Error for KeyFileMistake {}

impl Fault {
    fn at(self, path: &Path) -> KeyFileMistake {
        KeyFileMistake {
            path: path.to_path_buf(),
            fault: self,
        }
    }
}

/// The keys of a file in its order, at least one. Blocking.
pub(super) fn read(path: &Path) -> Result<Vec<Secret>, KeyFileMistake> {
    let keys = read_text(path).and_then(|text| parse(&text));
    keys.map_err(|fault| fault.at(path))
}

/// The text of any file that only its owner may open: a secret of another kind. Blocking.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileMistake> {
    read_text(path).map_err(|fault| fault.at(path))
}

/// The mode is that of the file that was opened, not of what lies at its path a moment later.
fn read_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let file = File::open(path).map_err(Fault::Unreadable)?;
    let about = file.metadata().map_err(Fault::Unreadable)?;
    if !about.is_file() {
        return Err(Fault::NoFile);
    }
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Fault::Exposed { mode });
    }
    // As large as it may get, so that no copy of it stays behind when it grows.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize + 1));
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(Fault::Unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Fault::TooLong);
    }
    Ok(text)
}

/// A key a line; blank lines are passed over.
fn parse(text: &[u8]) -> Result<Vec<Secret>, Fault> {
    let mut keys: Vec<(usize, Secret)> = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line_number = index + 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let key = std::str::from_utf8(line).ok().and_then(Secret::from_base64);
        let key = key.ok_or(Fault::NoKey { line: line_number })?;
        if let Some((first, _)) = keys.iter().find(|(_, known)| *known == key) {
            return Err(Fault::Repeated {
                line: line_number,
                first: *first,
            });
        }
        keys.push((line_number, key));
    }
    match keys.len() {
        0 => Err(Fault::Empty),
        1..=MAX_KEYS => Ok(keys.into_iter().map(|(_, key)| key).collect()),
        _ => Err(Fault::TooMany),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> String {
        Secret::from_bytes([byte; 32]).to_base64().to_string()
    }

    fn told(text: &str) -> String {
        let fault = parse(text.as_bytes()).unwrap_err();
        let path = PathBuf::from("fleet.key");
        KeyFileMistake { path, fault }.to_string()
    }

    #[test]
    fn a_key_a_line_in_its_order() {
        let text = format!("{}\n\n  {}\r\n", key(1), key(2));
        let keys = parse(text.as_bytes()).unwrap();
        let first: Vec<u8> = keys.iter().map(|key| key.bytes()[0]).collect();
        assert_eq!(first, [1, 2]);
    }

    #[test]
    fn each_mistake_names_its_line_and_shows_nothing_of_a_key() {
        let (one, cut) = (key(1), &key(2)[..40]);
        assert!(told("").contains("no key in it"));
        let mistake = told(&format!("{one}\n\n{cut}\n"));
        assert!(
            mistake.starts_with("fleet.key:3: not a key: expected 32 bytes"),
            "{mistake}"
        );
        assert!(!mistake.contains(cut) && !mistake.contains(&one));
        let mistake = told(&format!("{one}\n{}\n{one}\n", key(2)));
        assert_eq!(mistake, "fleet.key:3: the same key as in line 1");
        let many: Vec<String> = (0..=MAX_KEYS as u8).map(key).collect();
        assert!(told(&many.join("\n")).contains("at most 64 keys"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let path = std::env::temp_dir().join(format!("rota-key-file-{}", std::process::id()));
        fs::write(&path, key(1)).unwrap();
        let with_mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path)
        };
        let results = [0o600, 0o400, 0o640, 0o604, 0o620].map(with_mode);
        fs::remove_file(&path).unwrap();
        let messages = results.map(|result| result.err().map(|mistake| mistake.to_string()));
        assert_eq!(messages[..2], [None, None]);
        for message in &messages[2..] {
            let message = message.as_deref().unwrap();
            assert!(message.contains("others can open it (mode 06"), "{message}");
        }
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .ends_with("no such file")
        );
        let folder = read(&std::env::temp_dir()).unwrap_err().to_string();
        assert!(folder.ends_with("not a plain file"), "{folder}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text: Vec<u8>) {
            let _ = parse(&text);
        }
    }
}
