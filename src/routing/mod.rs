//! The decision core: which route, which service, whose turn. Pure: no I/O, no clock, no randomness, no globals.
//!
//! *Configured* state is an immutable [`Snapshot`]; *measured* state is the atomics in [`Upstream`] and
//! [`ServiceMeasured`], carried from snapshot to snapshot by identity.

pub mod admission;
pub mod canary;
pub mod client;
pub mod discovery;
pub mod group;
pub mod host;
pub mod likeness;
pub mod measured;
pub mod operator;
pub mod path;
pub mod policy;
pub mod service;
pub mod snapshot;
pub mod staged;
pub mod standing;
pub mod swap;
pub mod table;
pub mod turn;
pub mod upstream;

pub use admission::Admission;
pub use client::Client;
pub use discovery::{Discovery, PastTrouble, Trouble};
pub use group::{GroupName, GroupShare, Groups};
pub use host::{Host, HostPattern};
pub use measured::{Method, Moment, ServiceMeasured, UpstreamCell, WorkerId};
pub use path::Prefix;
pub use policy::{InFlightLimit, Limits, ListenerPolicy, RetryPolicy, Scheme, Timeouts};
pub use service::{Member, Protocol, Service, ServiceName, TlsToServer};
pub use snapshot::Snapshot;
pub use standing::{Signal, Standing, Verdict};
pub use table::{NoRoute, Route, RouteTable};
pub use turn::Turn;
pub use upstream::{PassiveFault, PassiveReport, Unfit, Upstream, UpstreamKey};
