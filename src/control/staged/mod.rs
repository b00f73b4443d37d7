//! Documents staged: what others would change is shown before anything is written.
//!
//! `live` and `check` read both sides, [`plan`] compares them and does no I/O; the [`Desk`] asks Consul and answers operators.

mod apply;
pub mod batches;
mod check;
mod desk;
pub mod live;
pub mod plan;

pub use desk::Desk;
