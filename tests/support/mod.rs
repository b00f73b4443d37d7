//! A small world for tests against the real binary: rota's process, app servers, clients, certificates, load.
//!
//! Threads and blocking sockets, because a test's story is then read from top to bottom; only the HTTP/2 client has a runtime.
//! Every wait has a deadline, every port is free when it is taken, every process and listener ends with the value that holds it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    unused_imports,
    reason = "each test binary uses a part; a failed unwrap here is a failed test"
)]

pub mod authority;
pub mod client;
pub mod faketime;
pub mod http2;
pub mod load;
pub mod origin;
pub mod rota;
pub mod wire;

pub use authority::Authority;
pub use client::{Answer, Client, Tls};
pub use load::Load;
pub use origin::{Exchange, Origin};
pub use rota::{Rota, Signal};

use std::time::{Duration, Instant};

/// The longest that any single wait may take, on a machine with other things to do.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Asks until the answer is yes; panics naming `what` when [`PATIENCE`] is over.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Asks for a while and expects the answer to stay yes.
pub fn stays(what: &str, span: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < span {
        assert!(is_so(), "no longer so after {:?}: {what}", start.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}
