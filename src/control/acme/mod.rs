//! Certificates by ACME, for a pod or for one load balancer: [`model`] decides what is ordered when and does no I/O; `task` feeds it,
//! carries out what it asks for, and publishes the certificate store, in which certificates of one's own come first.
//!
//! Certificates that an operator imported lie in the same store (`own`) and go before those of a CA.
//!
//! What outlives an order lies in the store (`keys`, `records`): an `order` is made under a lock of it, by the account that `account`
//! finds or makes, and what comes of it is brought to every load balancer by `sync`.

mod account;
mod allowance;
pub mod authority;
pub mod budget;
mod budgets;
mod contention;
pub mod dns_hook;
pub mod failure;
mod give_back;
mod ground;
mod halt;
pub mod index;
pub mod jose;
pub mod keys;
mod live;
pub mod model;
mod operator;
mod order;
pub mod own;
mod patience;
pub mod pending;
mod preflight;
mod problem;
mod proofs;
pub mod records;
mod registration;
pub mod request;
mod shelf;
mod sweep;
mod sync;
pub mod task;
mod transport;
mod wanted;

pub use model::Standing;
pub use records::NodeRecord;
pub use task::{Inputs, Loaded, Memory, Order, Overview, Request};
pub use wanted::{KvNames, can_prove, orders_any, to_be_ordered};
