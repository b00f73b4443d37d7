//! The planes that run on the main thread's runtime: control and admin.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::Semaphore;

use super::{Process, fleet};
use crate::admin::orders::{Answered, Carried};
use crate::admin::state::LARGE_BODIES;
use crate::admin::{self, CertificateRow};
use crate::certs::{CertStore, Certificate};
use crate::config::{AdminAddress, DomainName};
use crate::control;
use crate::control::acme::task::SOURCE;
use crate::control::acme::{Overview, Standing, own};
use crate::routing::operator::{CertificateOrder, Order, ShiftOrder};
use crate::routing::staged::Staging;

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
            own_certificates: self.own_certificates.take().expect(taken),
            certificates: self.certificates.take().expect(taken),
            overview: self.overview_publisher.take().expect(taken),
            hurried: self.hurried.take().expect(taken),
            fleet: self.fleet_publisher.take().expect(taken),
            gate: self.gate.clone(),
        })?;
        for group in std::mem::take(&mut self.queued) {
            self.open_door(group).await?;
        }
        let (certificates, overview) = (self.certificate_reader.clone(), self.overview.clone());
        let seen = self.fleet.clone();
        let state = admin::State {
            node: self.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            table: self.table.clone(),
            certificates: Arc::new(move || {
                certificate_rows(&certificates.load(), &overview.load())
            }),
            fleet: Arc::new(move || fleet::view(&seen.load(), Instant::now())),
            vitals: self.vitals.clone(),
            gate: self.gate.clone(),
            control: Arc::new(Ordering(handle.clone())),
            token: self
                .config
                .admin
                .token_file
                .clone()
                .map(admin::Token::in_file),
            large_bodies: Semaphore::new(LARGE_BODIES),
        };
        let listener = self.admin.take().expect(taken);
        admin::start(Arc::new(state), listener).map_err(|error| format!("admin: {error}"))?;
        Ok(handle)
    }
}

/// What is served, by listener; then what is to be ordered and is not there.
fn certificate_rows(store: &CertStore, overview: &Overview) -> Vec<CertificateRow> {
    let error_of = |certificate: &Certificate| {
        let source = certificate.source().to_str()?;
        let own = overview.refused.get(own::name_of(source)?)?;
        Some(own.clone())
    };
    let standing_of = |certificate: &Certificate| {
        let is_ordered = certificate.source() == Path::new(SOURCE);
        let name = certificate.names().next().filter(|_| is_ordered)?;
        overview.ordered.get(&DomainName::parse(&name)?)
    };
    let served = store.list().flat_map(|(listener, certificate)| {
        let standing = standing_of(certificate);
        certificate.names().map(move |domain| CertificateRow {
            domain,
            listener: listener.to_string(),
            source: certificate.source().display().to_string(),
            issuer: certificate.issuer().to_owned(),
            not_after: i64::try_from(certificate.not_after_seconds()).unwrap_or(i64::MAX),
            renewal: standing.and_then(|standing| standing.next).map(seconds),
            error: match standing {
                Some(standing) => standing.error.clone(),
                None => error_of(certificate),
            },
        })
    });
    let is_missing = |(_, standing): &(&DomainName, &Standing)| standing.validity.is_none();
    let missing = overview.ordered.iter().filter(is_missing);
    let missing = missing.map(|(name, standing)| CertificateRow {
        domain: name.to_string(),
        listener: String::new(),
        source: SOURCE.to_owned(),
        issuer: String::new(),
        not_after: 0,
        renewal: standing.next.map(seconds),
        error: standing.error.clone(),
    });
    let sources = store.list().filter_map(|(_, one)| one.source().to_str());
    let imported: BTreeSet<&str> = sources.filter_map(own::name_of).collect();
    let refused = overview.refused.iter();
    let refused = refused.filter(|(name, _)| !imported.contains(name.as_str()));
    let refused = refused.map(|(name, why)| CertificateRow {
        domain: name.clone(),
        listener: String::new(),
        source: own::source_of(name),
        issuer: String::new(),
        not_after: 0,
        renewal: None,
        error: Some(why.clone()),
    });
    served.chain(missing).chain(refused).collect()
}

/// Since 1970.
fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Hands an operator's orders from the admin listener to the control plane.
struct Ordering(control::Handle);

impl admin::Control for Ordering {
    fn order(&self, order: Order) -> Carried {
        let handle = self.0.clone();
        Box::pin(async move { handle.order(order).await })
    }

    fn shift(&self, order: ShiftOrder) -> Carried {
        let handle = self.0.clone();
        Box::pin(async move { handle.shift(order).await })
    }

    fn order_certificate(&self, order: CertificateOrder) -> Carried {
        let handle = self.0.clone();
        Box::pin(async move { handle.order_certificate(order).await })
    }

    fn stage(&self, staging: Staging) -> Answered {
        let handle = self.0.clone();
        Box::pin(async move { handle.stage(staging).await })
    }
}
