//! What this load balancer's workers counted, summed for its report. It walks whole tables: for blocking threads.

use std::collections::BTreeMap;

use super::status::{Counts, Fingerprint};
use crate::certs::CertStore;
use crate::routing::{ServiceName, Snapshot};

/// Since each service came into the table.
pub fn by_service(snapshot: &Snapshot) -> BTreeMap<ServiceName, Counts> {
    let of_service = |service: &crate::routing::Service| {
        let cells = service.measured.cells().iter();
        cells
            .flat_map(|cell| cell.codes())
            .fold(Counts::default(), |sum, (_, code, count)| Counts {
                requests: sum.requests + count,
                failed: sum.failed + if code >= 500 { count } else { 0 },
            })
    };
    let services = snapshot.services.iter();
    services
        .map(|(name, service)| (name.clone(), of_service(service)))
        .collect()
}

/// What came since `before`; a service that is new or was made anew counts from its beginning.
pub fn since(
    now: &BTreeMap<ServiceName, Counts>,
    before: &BTreeMap<ServiceName, Counts>,
) -> Counts {
    now.iter().fold(Counts::default(), |sum, (name, counts)| {
        let before = before.get(name).copied();
        let before = before.filter(|before| before.requests <= counts.requests);
        let before = before.unwrap_or_default();
        Counts {
            requests: sum.requests + (counts.requests - before.requests),
            failed: sum.failed + counts.failed.saturating_sub(before.failed),
        }
    })
}

/// Requests that servers are working on.
pub fn in_flight(snapshot: &Snapshot) -> u64 {
    let members = snapshot
        .services
        .values()
        .flat_map(|service| &service.members);
    let cells = members.flat_map(|member| member.upstream.cells());
    cells.map(|cell| u64::from(cell.in_flight())).sum()
}

/// Of the certificates that are served, by listener and name, in whatever order.
pub fn certificates(store: &CertStore) -> Fingerprint {
    let one = |(listener, certificate): (&std::sync::Arc<str>, &std::sync::Arc<_>)| {
        let certificate: &crate::certs::Certificate = certificate;
        let mut text = format!("{listener}\n").into_bytes();
        let chain = &certificate.served().cert;
        chain.iter().for_each(|part| text.extend_from_slice(part));
        Fingerprint::of(&text)
    };
    store
        .list()
        .map(one)
        .fold(Fingerprint::default(), Fingerprint::with)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(requests: u64, failed: u64) -> BTreeMap<ServiceName, Counts> {
        BTreeMap::from([("shop".into(), Counts { requests, failed })])
    }

    #[test]
    fn a_window_is_what_came_since_and_a_service_made_anew_counts_from_its_beginning() {
        let window = |now, before| {
            let counts = since(&now, &before);
            (counts.requests, counts.failed)
        };
        assert_eq!(window(counted(12, 3), counted(10, 1)), (2, 2));
        assert_eq!(window(counted(4, 1), counted(10, 1)), (4, 1));
        assert_eq!(window(counted(4, 1), BTreeMap::new()), (4, 1));
        assert_eq!(window(BTreeMap::new(), counted(4, 1)), (0, 0));
    }
}
