//! `[[listener]]`: an address, what is spoken there, and who is believed.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::model::{
    CertificateFiles, ClientCertificates, Demand, Listener, ListenerTls, TlsPolicy,
};
use super::names::{LABEL, NETWORK, label, network};
use super::section::Section;
use super::written::Value;
use crate::routing::policy::Redirect;
use crate::routing::{ListenerPolicy, Scheme};

pub(super) const KEYS: &[&str] = &[
    "name",
    "address",
    "protocol",
    "redirect_to_https",
    "redirect_port",
    "trusted_proxies",
    "proxy_protocol",
    "certificates",
    "tls_policy",
    "client_ca",
    "client_certificate",
];

pub(super) const CERTIFICATE: &[&str] = &["certificate", "key"];

const ADDRESS: &str = "an IP address with a port, such as \"0.0.0.0:80\" or \"[::]:443\"";

const PROTOCOLS: [(&str, Scheme); 2] = [("http", Scheme::Http), ("https", Scheme::Https)];

const TLS_POLICIES: [(&str, TlsPolicy); 2] = [
    ("intermediate", TlsPolicy::Intermediate),
    ("modern", TlsPolicy::Modern),
];

const DEMANDS: [(&str, Demand); 2] = [("require", Demand::Require), ("request", Demand::Request)];

/// Reads a listener; None (and a mistake): it has no address.
pub(super) fn read(from: &Section<'_>) -> Option<Listener> {
    from.need("address", ADDRESS);
    let address = from.text("address", ADDRESS, |text| text.parse::<SocketAddr>().ok());
    let name = from.text("name", LABEL, label);
    let scheme = from.word("protocol", &PROTOCOLS).unwrap_or(Scheme::Http);
    let redirect = read_redirect(from, scheme);
    let trusted_proxies = read_networks(from, "trusted_proxies");
    let proxy_protocol = from.flag("proxy_protocol").unwrap_or(false);
    if proxy_protocol && trusted_proxies.is_empty() && !from.has_parts("trusted_proxies") {
        from.blame_key(
            "proxy_protocol",
            "needs trusted_proxies: nobody would be let in",
        );
    }
    let certificates = read_certificates(from, scheme);
    let tls = read_tls(from, scheme);
    let address = address?;
    Some(Listener {
        policy: Arc::new(ListenerPolicy {
            name: name.unwrap_or_else(|| address.to_string()).into(),
            address,
            scheme,
            redirect,
            trusted_proxies: trusted_proxies.into(),
            proxy_protocol,
        }),
        certificates,
        tls,
    })
}

fn read_redirect(from: &Section<'_>, scheme: Scheme) -> Option<Redirect> {
    let redirects = from.flag("redirect_to_https");
    let port = from.number("redirect_port", 1..=u16::MAX);
    if redirects == Some(true) && scheme == Scheme::Https {
        from.blame_key("redirect_to_https", "only for protocol \"http\"");
    }
    if from.has("redirect_port") && redirects != Some(true) {
        from.blame_key("redirect_port", "needs redirect_to_https = true");
    }
    (redirects == Some(true)).then_some(Redirect { port })
}

/// A list of networks and addresses.
pub(super) fn read_networks(from: &Section<'_>, key: &str) -> Vec<IpNet> {
    from.list(key, "a list of networks")
        .iter()
        .filter_map(|part| {
            part.read(NETWORK, |value| match value {
                Value::Text(text) => network(text),
                _ => None,
            })
        })
        .collect()
}

fn read_certificates(from: &Section<'_>, scheme: Scheme) -> Vec<CertificateFiles> {
    if from.has_parts("certificates") && scheme == Scheme::Http {
        from.blame_key("certificates", "only for protocol \"https\"");
    }
    from.list("certificates", "a list of { certificate, key }")
        .iter()
        .filter_map(|part| {
            let pair = part.table(CERTIFICATE)?;
            pair.need("certificate", "the path of a PEM file");
            pair.need("key", "the path of a PEM file");
            let (certificate, key) = (pair.file("certificate"), pair.file("key"));
            Some(CertificateFiles {
                certificate: certificate?,
                key: key?,
            })
        })
        .collect()
}

fn read_tls(from: &Section<'_>, scheme: Scheme) -> ListenerTls {
    for key in ["tls_policy", "client_ca", "client_certificate"] {
        if from.has(key) && scheme == Scheme::Http {
            from.blame_key(key, "only for protocol \"https\"");
        }
    }
    if from.has("client_certificate") && !from.has("client_ca") {
        from.blame_key(
            "client_certificate",
            "needs client_ca: nobody's certificate would be believed",
        );
    }
    let demand = from.word("client_certificate", &DEMANDS);
    ListenerTls {
        policy: from.word("tls_policy", &TLS_POLICIES).unwrap_or_default(),
        clients: from.file("client_ca").map(|ca| ClientCertificates {
            ca,
            demand: demand.unwrap_or(Demand::Require),
        }),
    }
}
