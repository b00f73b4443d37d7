//! What can be seen from outside: the outcome of each request, counters, metrics, access log, log.

pub mod outcome;
pub mod vitals;

pub use outcome::{Outcome, Reason};
pub use vitals::{ListenerCells, Vitals, WorkerVitals};
