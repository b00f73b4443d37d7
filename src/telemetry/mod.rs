//! What can be seen from outside: the outcome of each request, counters, metrics, access log, log.

pub mod access_log;
pub mod busy;
pub mod date;
pub mod fleet;
pub mod log;
pub mod metrics;
pub mod noted;
pub mod outcome;
pub mod process;
pub mod rfc3339;
pub mod vitals;

pub use access_log::{AccessLog, WorkerLog};
pub use noted::{Attempt, NotedRequest};
pub use outcome::{Outcome, Reason};
pub use vitals::{ListenerCells, Vitals, WorkerVitals};
