//! What is wrong or doubtful with certificate files, each in one line with its place and path.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::certificate::Certificate;

/// Why a certificate cannot be served.
#[derive(Debug)]
pub enum CertMistake {
    Unreadable {
        path: PathBuf,
        error: io::Error,
    },
    /// Larger than [`super::load::MAX_PEM_BYTES`].
    TooLarge {
        path: PathBuf,
    },
    /// No `BEGIN CERTIFICATE` in it.
    NoCertificate {
        path: PathBuf,
    },
    Malformed {
        path: PathBuf,
        why: String,
    },
    /// No `BEGIN … PRIVATE KEY` in it.
    NoKey {
        path: PathBuf,
    },
    UnusableKey {
        path: PathBuf,
        why: String,
    },
    Mismatch {
        certificate: PathBuf,
        key: PathBuf,
    },
    NoNames {
        path: PathBuf,
    },
}

/// A mistake, and where the file names it first. `Display` is one line: `listener[1].certificates[2]: …`.
#[derive(Debug)]
pub struct PlacedMistake {
    /// Counted from 0.
    pub listener: usize,
    pub key: FileKey,
    pub mistake: CertMistake,
}

/// A listener's key that names files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKey {
    /// One pair of `certificates`, counted from 0.
    Certificates(usize),
    ClientCa,
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileKey::Certificates(index) => write!(f, "certificates[{index}]"),
            FileKey::ClientCa => f.write_str("client_ca"),
        }
    }
}

impl fmt::Display for PlacedMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlacedMistake {
            listener,
            key,
            mistake,
        } = self;
        write!(f, "listener[{listener}].{key}: {mistake}")
    }
}

impl std::error::Error for PlacedMistake {}

impl fmt::Display for CertMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertMistake::Unreadable { path, error } => match error.kind() {
                io::ErrorKind::NotFound => write!(f, "{}: no such file", path.display()),
                _ => write!(f, "{}: {error}", path.display()),
            },
            CertMistake::TooLarge { path } => write!(
                f,
                "{}: larger than {} bytes, no certificate or key is",
                path.display(),
                super::load::MAX_PEM_BYTES
            ),
            CertMistake::NoCertificate { path } => {
                write!(f, "{}: no certificate in it (PEM)", path.display())
            }
            CertMistake::Malformed { path, why } => {
                write!(f, "{}: not a certificate: {why}", path.display())
            }
            CertMistake::NoKey { path } => {
                write!(f, "{}: no private key in it (PEM)", path.display())
            }
            CertMistake::UnusableKey { path, why } => write!(f, "{}: {why}", path.display()),
            CertMistake::Mismatch { certificate, key } => write!(
                f,
                "{}: the key does not belong to the certificate in {}",
                key.display(),
                certificate.display()
            ),
            CertMistake::NoNames { path } => write!(
                f,
                "{}: the certificate has no names (subjectAltName), nobody could be served with it",
                path.display()
            ),
        }
    }
}

impl std::error::Error for CertMistake {}

/// What is served all the same, but not as somebody meant it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertWarning {
    Expired {
        path: PathBuf,
        ago: Duration,
    },
    NotYetValid {
        path: PathBuf,
        until: Duration,
    },
    /// A name is in two certificates of a listener; the first one is served for it.
    NameTaken {
        path: PathBuf,
        name: String,
        by: PathBuf,
    },
    /// An https listener without any certificate refuses every handshake.
    NoCertificates {
        listener: String,
    },
}

impl CertWarning {
    /// What is wrong with a certificate's validity at `now`, if anything.
    pub fn of_validity(certificate: &Certificate, now: SystemTime) -> Option<CertWarning> {
        let path = || certificate.source().to_path_buf();
        if let Ok(ago) = now.duration_since(certificate.not_after())
            && !ago.is_zero()
        {
            return Some(CertWarning::Expired { path: path(), ago });
        }
        match certificate.not_before().duration_since(now) {
            Ok(until) if !until.is_zero() => Some(CertWarning::NotYetValid {
                path: path(),
                until,
            }),
            Ok(_) | Err(_) => None,
        }
    }
}

impl fmt::Display for CertWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertWarning::Expired { path, ago } => {
                write!(f, "{}: expired {} ago", shown(path), Rough(*ago))
            }
            CertWarning::NotYetValid { path, until } => {
                write!(
                    f,
                    "{}: not valid for another {}",
                    shown(path),
                    Rough(*until)
                )
            }
            CertWarning::NameTaken { path, name, by } => write!(
                f,
                "{}: {name} is in {} too, which is the one served",
                shown(path),
                shown(by)
            ),
            CertWarning::NoCertificates { listener } => write!(
                f,
                "listener {listener}: https without a certificate, every handshake is refused"
            ),
        }
    }
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}

/// A length of time in its largest whole unit, as one says it.
struct Rough(Duration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (count, unit) = match seconds {
            0..120 => (seconds, "s"),
            120..7200 => (seconds / 60, "min"),
            7200..172_800 => (seconds / 3600, "h"),
            _ => (seconds / 86_400, "days"),
        };
        write!(f, "{count} {unit}")
    }
}
