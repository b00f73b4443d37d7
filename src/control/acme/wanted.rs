//! Which names of a file are to have certificates by ACME. Pure.

use std::collections::BTreeSet;

use crate::certs::CertStore;
use crate::config::{Acme, Config, DomainName};
use crate::routing::HostPattern;

/// With Consul the fleet would have to agree on who orders, which is not in this version; without a state directory nothing would
/// outlive the process.
pub(super) fn in_use(config: &Config) -> Option<&Acme> {
    let is_alone = config.consul.is_none() && config.node.state_dir.is_some();
    config.acme.as_ref().filter(|_| is_alone)
}

/// Domains and the exact hosts of routes, but for those that a certificate of one's own covers.
pub(super) fn wanted(config: &Config, own: &CertStore) -> BTreeSet<DomainName> {
    let hosts = config.routes.iter().filter_map(|route| match &route.host {
        HostPattern::Exact(host) => DomainName::parse(host.as_str()),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    });
    let domains = config.domains.iter().map(|domain| domain.name.clone());
    let is_uncovered = |name: &DomainName| !own.list().any(|(_, one)| one.covers(name.as_str()));
    hosts.chain(domains).filter(is_uncovered).collect()
}

/// Whether any certificate of this file comes by ACME.
pub fn orders_any(config: &Config, own: &CertStore) -> bool {
    in_use(config).is_some() && !wanted(config, own).is_empty()
}
