//! Documents staged: what others would change is shown before anything is written.
//!
//! `live` and `check` read both sides, [`plan`] compares them and does no I/O; the [`Desk`] asks Consul and answers operators.

pub(super) mod apply;
pub mod batches;
mod check;
mod desk;
pub mod ledger;
pub mod live;
mod places;
pub mod plan;

mod recorder;
pub mod revision;
mod shifting;
mod spent;
mod unified;

pub use desk::Desk;
pub use ledger::Ledger;
pub use live::Heard;
pub use recorder::Recorder;
