//! The texts that name something: which letters they may have, and how a mistake says so.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::model::ServerHost;
use crate::routing::{Host, ServiceName};

/// What [`plain_name`] takes, in words.
pub(super) const PLAIN_NAME: &str = "1 to 128 of the characters A-Z a-z 0-9 . _ -";

/// What [`label`] takes, in words.
pub(super) const LABEL: &str = "1 to 128 visible ASCII characters without quotes and backslashes";

/// What [`server_address`] takes, in words.
pub(super) const SERVER_ADDRESS: &str =
    "\"host:port\", \"ip:port\" or \"[ipv6]:port\" with a port from 1 to 65535";

/// What [`network`] takes, in words.
pub(super) const NETWORK: &str =
    "a network such as \"10.0.0.0/8\" or an address such as \"10.0.0.1\"";

/// A name that can stand in a URL, a KV key, a metric label and a header as it is.
pub(super) fn plain_name(text: &str) -> Option<String> {
    ServiceName::parse(text).map(|name| name.as_str().to_owned())
}

/// A name for people, metric labels and logs.
pub(super) fn label(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'`');
    ((1..=128).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.to_owned())
}

/// Where a server is: a host name in lower case, or an address that can be connected to.
pub(super) fn server_address(text: &str) -> Option<(ServerHost, u16)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let ip = address.ip();
        let usable = address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast();
        let scoped = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
        return (usable && !scoped).then_some((ServerHost::Ip(ip), address.port()));
    }
    let (name, port) = text.rsplit_once(':')?;
    let port = port_number(port)?;
    Some((ServerHost::Name(dns_name(name)?), port))
}

/// A host name that DNS can carry. A name whose last label is a number is none: some resolvers take it for an address.
pub(super) fn dns_name(text: &str) -> Option<String> {
    if text.contains([':', '[']) {
        return None;
    }
    let name = Host::parse(text).ok()?;
    let labels_fit = name.as_str().split('.').all(|label| label.len() <= 63);
    let last = name.as_str().rsplit('.').next()?;
    let is_numeric = last.bytes().all(|b| b.is_ascii_digit());
    (labels_fit && !is_numeric).then(|| name.as_str().to_owned())
}

/// A host name or an IP address without port, as a certificate names it.
pub(super) fn certificate_name(text: &str) -> Option<String> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_string()),
        Err(_) => dns_name(text),
    }
}

/// A network, or an address as the network of itself. IPv4 networks in IPv6 clothes are refused: peers are compared as IPv4.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net.trunc(),
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    let is_mapped = |v6: Ipv6Addr| v6.to_ipv4_mapped().is_some();
    match net {
        IpNet::V6(v6) if is_mapped(v6.network()) => None,
        net => Some(net),
    }
}

/// 1 to 65,535 in plain digits.
fn port_number(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_name_or_an_address_with_a_port() {
        for (text, host) in [
            ("app.internal:80", "app.internal"),
            ("APP:65535", "app"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
        ] {
            let (found, _) = server_address(text).expect(text);
            let found = match found {
                ServerHost::Ip(ip) => ip.to_string(),
                ServerHost::Name(name) => name,
            };
            assert_eq!(found, host);
        }
        for text in [
            "",
            "app",
            "app:",
            "app:0",
            "app:65536",
            "app:+1",
            ":80",
            "a b:80",
            "http://app:80",
            "::1:80",
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.1:80",
            "10.0.0:80",
            "256.0.0.1:80",
            "127.1:80",
            "u@h:80",
            "a:1:2",
            "[fe80::1%1]:80",
            "10.0.0.1:0",
        ] {
            assert_eq!(server_address(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_is_cut_to_its_prefix() {
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        for text in [
            "",
            "10.0.0.0/33",
            "localhost",
            "10.0.0",
            "::ffff:10.0.0.0/104",
        ] {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
