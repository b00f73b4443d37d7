//! The admin listener: metrics, health, status, explanations for whoever asks; orders from whoever may give them.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the status page |
//! | `GET /metrics` | text exposition format (METRICS.md) |
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200, or 503 and what is missing, a line each |
//! | `GET /v1/status` | [`views::StatusView`] |
//! | `GET /v1/services` | [`views::ServiceView`]s by name |
//! | `GET /v1/services/NAME` | one [`views::ServiceView`] |
//! | `GET /v1/routes` | [`views::RouteView`]s by host and path |
//! | `GET /v1/why?q=…` | [`why::Explained`]: of a service, a server, a host, a URL or a request |
//! | `GET /v1/fleet` | a [`fleet::FleetView`] |
//! | `GET /v1/certificates` | [`views::CertificateRow`]s |
//! | `POST /v1/plan` | takes a [`Staged`](crate::routing::staged::Staged), gives a [`Plan`](crate::routing::staged::Plan); changes nothing |
//! | `POST /v1/apply` | takes a [`staging::ApplyRequest`], gives a [`Written`](crate::routing::staged::Written) |
//! | `GET /v1/history` | [`RevisionRow`](crate::routing::staged::RevisionRow)s, newest first |
//! | `GET /v1/canary` | a [`CanaryView`](crate::routing::canary::CanaryView) |
//! | `POST /v1/canary/promote`, `POST /v1/canary/abort` | takes a [`staging::EndRequest`], gives `{"message": …}` |
//! | `POST /v1/diff` | takes a [`staging::DiffRequest`], gives [`Difference`](crate::routing::staged::Difference)s |
//! | `POST /v1/rollback` | takes a [`staging::RollbackRequest`], gives a [`Written`](crate::routing::staged::Written) |
//! | `POST /v1/drain`, `POST /v1/undrain` | takes an [`orders::Request`], gives `{"message": …}` |
//! | `POST /v1/shift` | takes a [`shift::ShiftRequest`], gives `{"message": …}` |
//! | `POST /v1/certificates/renew`, `…/revoke`, `…/rekey` | takes an [`orders::CertificateRequest`], gives `{"message": …}` |
//!
//! Whatever goes wrong is `{"error": …}` with a status that fits. Fields are added, never renamed or removed, within `/v1`. Moments
//! are RFC 3339 in UTC, spans whole seconds in fields that end in `_s`.
//!
//! Reading needs a `Host` that no web page of somebody else can bring about, and no foreign `Origin` ([`access`]). Changes
//! need the token besides, or the Unix socket, which only its owner can open.

pub mod access;
pub mod canary;
pub mod fleet;
pub mod listener;
mod near;
pub mod orders;
mod page;
mod server;
pub mod shift;
pub mod staging;
pub mod state;
pub mod token;
pub mod trouble;
pub mod views;
pub mod why;

pub use listener::{Address, AdminListener, bind};
pub use orders::Control;
pub use server::start;
pub use state::State;
pub use token::Token;
pub use views::CertificateRow;
