//! What the kernel says of this process: memory, descriptors, CPU time. Read when asked, kept nowhere.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// A reading; what the kernel does not tell is None.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessReading {
    pub resident_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    /// None: unlimited.
    pub max_fds: Option<u64>,
    pub cpu_seconds: f64,
}

/// Reads `/proc/self` and the process's CPU clock.
pub fn read() -> ProcessReading {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    ProcessReading {
        resident_bytes: fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| resident_bytes(&status)),
        // One of them is the directory that is being read.
        open_fds: fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| (entries.count() as u64).saturating_sub(1)),
        max_fds: getrlimit(Resource::Nofile).current,
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
    }
}

/// `VmRSS` of `/proc/self/status`, which counts in KiB.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_of_this_process_is_plausible() {
        let reading = read();
        assert!(reading.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(reading.open_fds.is_some_and(|count| count >= 3));
        assert!(reading.cpu_seconds > 0.0);
    }

    #[test]
    fn resident_memory_is_given_in_bytes() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t  12 kB\n"), Some(12_288));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }
}
