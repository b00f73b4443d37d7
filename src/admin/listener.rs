//! Where the admin API is reached: TCP, or a Unix socket that only its owner can open.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// An admin address as configuration and command line write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Takes `ip:port`, `http://ip:port` (a slash at its end is fine), `localhost:port` or `unix:PATH`. The error is a message.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: needs a path behind it".into())
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        let plain = text.strip_prefix("http://").unwrap_or(text);
        let plain = plain.strip_suffix('/').unwrap_or(plain);
        let literal = match plain.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => plain.to_owned(),
        };
        literal.parse().map(Address::Tcp).map_err(|_| {
            format!("{text:?} is no admin address: it is IP:PORT, http://IP:PORT or unix:PATH")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound listener, not yet served.
#[derive(Debug)]
pub enum AdminListener {
    Tcp(TcpListener),
    Unix(SocketFile, UnixListener),
}

/// The file of a Unix socket: removed when dropped, unless another one has taken its place. To be dropped before its listener, whose
/// file's number nobody else gets while it is open.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        let path = std::path::absolute(path)?;
        let identity = identity(&path)?;
        Ok(SocketFile { path, identity })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Opens the address. A Unix socket gets mode 0600; one left behind by a process that is gone is replaced, one that somebody
/// listens on or a file that is no socket is an error. The error names the address.
pub fn bind(address: &Address) -> io::Result<AdminListener> {
    let bound = match address {
        Address::Tcp(at) => TcpListener::bind(at).map(AdminListener::Tcp),
        Address::Unix(path) => bind_unix(path),
    };
    bound.map_err(|error| io::Error::new(error.kind(), format!("admin address {address}: {error}")))
}

/// The socket is made within a directory that only we can enter, closed to others, and only then moved to where it is looked for:
/// there is no moment at which somebody else could connect.
fn bind_unix(path: &Path) -> io::Result<AdminListener> {
    remove_stale(path)?;
    let mut closed = path.as_os_str().to_owned();
    closed.push(format!(".{}", std::process::id()));
    let closed = PathBuf::from(closed);
    match fs::remove_dir_all(&closed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::DirBuilder::new().mode(0o700).create(&closed)?,
    }
    let listener = bind_within(&closed, path);
    let _ = fs::remove_dir_all(&closed);
    let listener = listener?;
    Ok(AdminListener::Unix(SocketFile::at(path)?, listener))
}

fn bind_within(closed: &Path, path: &Path) -> io::Result<UnixListener> {
    let inside = closed.join("s");
    let listener = UnixListener::bind(&inside)?;
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&inside, path)?;
    Ok(listener)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        let message = "there is a file that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "somebody listens there",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rota-{name}-{}.sock", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn an_address_is_written_in_four_ways() {
        let tcp = Ok(Address::Tcp("127.0.0.1:9900".parse().unwrap()));
        for text in [
            "127.0.0.1:9900",
            "http://127.0.0.1:9900",
            "http://127.0.0.1:9900/",
            "localhost:9900",
        ] {
            assert_eq!(Address::parse(text), tcp, "{text}");
        }
        assert_eq!(
            Address::parse("unix:/run/x"),
            Ok(Address::Unix("/run/x".into()))
        );
        for text in ["", "unix:", "9900", "https://127.0.0.1:1", "example.com:80"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_unix_socket_is_its_owners_alone() {
        let path = scratch("mode");
        let _listener = bind(&Address::Unix(path.clone())).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_socket_goes_with_its_listener_unless_it_is_anothers() {
        let path = scratch("gone");
        let address = Address::Unix(path.clone());
        drop(bind(&address).unwrap());
        assert!(!path.exists());
        let first = bind(&address).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = bind(&address).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let path = scratch("stale");
        let address = Address::Unix(path.clone());
        let first = bind(&address).unwrap();
        let error = bind(&address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        drop(first);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&address).unwrap());
        fs::write(&path, "mine").unwrap();
        assert!(bind(&address).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(path).unwrap();
    }
}
