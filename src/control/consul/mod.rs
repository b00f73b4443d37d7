//! The one door to Consul: watches go in, observations come out. consulrs is named nowhere else.

pub mod observation;

pub use observation::{Check, CheckStatus, Document, Instance, Observation, Subtree};
