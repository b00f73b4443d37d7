//! A change on some load balancers first: in force there beside what KV has, judged by what they and the others counted, then
//! everybody's or nobody's.
//!
//! What is tried lies below `canary/`, its head written last and deleted first; what is counted and what came of it below `canaries/`.

mod attendant;
pub mod counts;
mod durations;
pub mod judge;
mod nodes;
mod proposal;
pub mod register;
mod standing;
mod trials;

pub use attendant::Attendant;
pub use proposal::Proposal;
pub use register::Register;
pub use trials::Trials;
