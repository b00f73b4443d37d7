//! The planes that run on the main thread's runtime: control and admin.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Process;
use crate::admin::{self, CertificateRow, orders::Carried};
use crate::certs::CertStore;
use crate::config::AdminAddress;
use crate::control;
use crate::routing::operator::Order;

impl Process {
    /// Starts control plane and admin on this thread's runtime. Workers accept only once the file's table is published: a
    /// connection of the first moment waits in its queue rather than finding no route.
    pub(super) async fn start_planes(&mut self) -> Result<control::Handle, String> {
        let taken = "taken once, at the start";
        let mut own_addresses: Vec<SocketAddr> = self
            .queued
            .iter()
            .map(|(policy, _)| policy.address)
            .collect();
        if let AdminAddress::Tcp(address) = self.config.admin.address {
            own_addresses.push(address);
        }
        let handle = control::start(control::Inputs {
            config: self.config.clone(),
            publisher: self.publisher.take().expect(taken),
            passive: self.passive.take().expect(taken),
            vitals: self.vitals.clone(),
            own_addresses,
            keyring: self.keyring.take(),
            ticket_keys: self.ticket_publisher.take().expect(taken),
        })?;
        for group in std::mem::take(&mut self.queued) {
            self.open_door(group).await?;
        }
        let certificates = self.certificate_reader.clone();
        let state = admin::State {
            node: self.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            table: self.table.clone(),
            certificates: Arc::new(move || certificate_rows(&certificates.load())),
            vitals: self.vitals.clone(),
            gate: self.gate.clone(),
            control: Arc::new(Ordering(handle.clone())),
            token: self
                .config
                .admin
                .token_file
                .clone()
                .map(admin::Token::in_file),
        };
        let listener = self.admin.take().expect(taken);
        admin::start(Arc::new(state), listener).map_err(|error| format!("admin: {error}"))?;
        Ok(handle)
    }
}

fn certificate_rows(store: &CertStore) -> Vec<CertificateRow> {
    let rows = store.list().flat_map(|(listener, certificate)| {
        certificate.names().map(|domain| CertificateRow {
            domain,
            listener: listener.to_string(),
            source: certificate.source().display().to_string(),
            not_after: i64::try_from(certificate.not_after_seconds()).unwrap_or(i64::MAX),
        })
    });
    rows.collect()
}

/// Hands an operator's orders from the admin listener to the control plane.
struct Ordering(control::Handle);

impl admin::Control for Ordering {
    fn order(&self, order: Order) -> Carried {
        let handle = self.0.clone();
        Box::pin(async move { handle.order(order).await })
    }
}
