//! The one door to Consul: watches go in, observations come out. consulrs is named nowhere else.

mod client;
mod endpoints;
mod error;
mod middleware;
pub mod observation;
mod parse;
mod transport;

pub use client::{Client, VALUE_BYTES};
pub use error::ConsulError;
pub use middleware::Consistency;
pub use observation::{Check, CheckStatus, Document, Instance, Observation, Subtree};
