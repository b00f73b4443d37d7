//! Certificates by listener and name: read from PEM once, replaced as a whole, looked up at each handshake.
//!
//! The way of a connection: [`accept()`] peeks at the ClientHello, refuses names that nobody has with the alert meant for it, and
//! lets rustls do the rest with the settings of [`server_config`]. Both read the [`CertStore`] of the moment, so that a
//! new store is in force from the next handshake on and no open connection notices.

pub mod accept;
pub mod certificate;
pub mod challenge;
pub mod identity;
pub mod load;
pub mod mistake;
pub mod proof;
pub mod server;
pub mod store;
pub mod terms;
pub mod tickets;
pub mod wants;
mod x509;

#[cfg(test)]
mod fixture;

pub use accept::{AcceptError, accept};
pub use certificate::Certificate;
pub use identity::ClientIdentity;
pub use load::load;
pub use mistake::{CertMistake, CertWarning, PlacedMistake};
pub use proof::Proof;
pub use server::server_config;
pub use store::{CertStore, CertStoreBuilder};
pub use terms::Terms;
pub use tickets::TicketKeys;
pub use wants::Wants;
