//! Another time of day for one process, which a test moves while it runs: libfaketime, by `scripts/faketime`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::rota::Place;

/// The clock of a rota started in the place that [`FakeTime::of`] gives.
pub struct FakeTime(PathBuf);

impl FakeTime {
    /// Timers go by another clock, which stays as it is.
    pub fn of(place: Place) -> (Place, FakeTime) {
        let file = place.path().join("clock");
        let clock = FakeTime(file.clone());
        clock.set("+0d");
        let library = library().to_str().unwrap();
        let place = place
            .with_variable("LD_PRELOAD", library)
            .with_variable("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
            .with_variable("FAKETIME_NO_CACHE", "1")
            .with_variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .with_variable("DONT_FAKE_MONOTONIC", "1");
        (place, clock)
    }

    /// So far from the real time, from now on: `+90d`, `-400d`.
    pub fn set(&self, offset: &str) {
        let fresh = self.0.with_extension("new");
        fs::write(&fresh, format!("{offset}\n")).unwrap();
        fs::rename(fresh, &self.0).unwrap();
    }
}

/// What `scripts/faketime` says, asked once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let root = env!("CARGO_MANIFEST_DIR");
        let found = Command::new(format!("{root}/scripts/faketime"))
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(found.status.success(), "no libfaketime");
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
    })
}
