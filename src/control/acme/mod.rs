//! Certificates by ACME: [`model`] decides what is ordered when and does no I/O; [`task`] feeds it, carries out what it asks for, and
//! publishes the certificate store, in which certificates of one's own come first.

pub mod authority;
pub mod budget;
pub mod dns_hook;
pub mod failure;
pub mod jose;
mod keep;
pub mod model;
pub mod pending;
mod problem;
mod registration;
pub mod request;
pub mod task;
mod transport;
mod wanted;

pub use model::Standing;
pub use task::{Inputs, Order, Overview};
pub use wanted::{KvNames, orders_any};
