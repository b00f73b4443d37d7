//! A file in memory alone, with a path: what reads files is fuzzed without a disk.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};

/// What files with secrets are to be.
pub const OWNERS_ALONE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Gone when it is dropped.
pub struct MemoryFile {
    path: PathBuf,
    _file: File,
}

impl MemoryFile {
    pub fn with(content: &[u8], mode: Mode) -> MemoryFile {
        let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory for a file");
        fchmod(&file, mode).expect("our own file");
        let mut file = File::from(file);
        file.write_all(content).expect("memory for a file");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        MemoryFile {
            path: path.into(),
            _file: file,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
