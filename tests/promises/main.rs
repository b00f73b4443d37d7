//! Promises to clients and operators, kept by the real binary on real sockets.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod attack;
mod bodies;
mod check;
mod client_certificates;
mod clock;
mod conversation;
mod crowds;
mod cuts;
mod demo;
mod disk;
mod endings;
mod faults;
mod floods;
mod forwarding;
mod framing;
mod grpc;
mod head_first;
mod headers;
mod health;
mod identity;
mod noted;
mod operation;
mod overload;
mod pace;
mod refused;
mod reload;
mod retry;
mod routing;
mod secrets;
mod slow;
mod stream_heads;
mod stream_rules;
mod stuck;
mod threats;
mod timeouts;
mod tls;
mod world;
