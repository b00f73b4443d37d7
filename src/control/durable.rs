//! Files that a crash leaves as they were or as they are to be, and folders that one process uses at a time. Blocking.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::seal::Plain;

/// In the state directory: locked for as long as a process uses it.
pub(super) const LOCK: &str = "lock";
/// Around the name of what is being written, until it is whole. Nothing that is whole has such a name.
const FRESH: (char, char) = ('.', '~');

/// Held until the file is closed, so also when the process dies.
pub(super) fn locked(path: &Path) -> Result<File, String> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| error.to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err("another rota process uses this state directory".to_owned())
        }
        Err(TryLockError::Error(error)) => Err(error.to_string()),
    }
}

/// Files of a folder and of those in it; what cannot be listed has none.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            Ok(_) | Err(_) => vec![entry.path()],
        })
        .collect()
}

/// What was being written when a process ended.
pub(super) fn remove_halves(folder: &Path) {
    for path in files_below(folder) {
        let name = path.file_name().map(std::ffi::OsStr::to_string_lossy);
        if name.is_some_and(|name| name.starts_with(FRESH.0) && name.ends_with(FRESH.1)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A whole file of at most so many bytes.
pub(super) fn read_bounded(path: &Path, at_most: usize) -> io::Result<Plain> {
    let mut text = Plain::default();
    File::open(path)?
        .take(at_most as u64 + 1)
        .read_to_end(&mut text)?;
    match text.len() > at_most {
        true => Err(io::Error::other(format!("longer than {at_most} bytes"))),
        false => Ok(text),
    }
}

/// What is being written beside `path` until it is whole.
pub(super) fn fresh(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{}{name}{}", FRESH.0, FRESH.1))
}

/// Writes it beside `path`, to the disk; readable by its owner alone.
pub(super) fn write_fresh(path: &Path, text: &[u8]) -> io::Result<()> {
    make_folder(path.parent().unwrap_or(path))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(fresh(path))?;
    file.write_all(text)?;
    file.sync_all()
}

/// What was written beside `path` is there from now on.
pub(super) fn put_in_place(path: &Path) -> io::Result<()> {
    fs::rename(fresh(path), path)?;
    // The rename itself has to be on disk too.
    sync_folder(path)
}

/// Of the folder that `path` is in.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// With those above it; 0700 each that is made.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
