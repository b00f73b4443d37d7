//! rota: a service-discovery-driven edge load balancer. ARCHITECTURE.md is the map of these rooms.

pub mod admin;
pub mod app;
pub mod certs;
pub mod config;
pub mod control;
pub mod dial;
pub mod drain;
pub mod proxy;
pub mod routing;
pub mod seal;
pub mod telemetry;
