//! Connections that rota opens: plain or TLS, with one deadline. Used by the data plane, the probes and the Consul transport.

pub mod stream;
pub mod tls;

pub use stream::{DialError, Stream, connect, connect_below};
