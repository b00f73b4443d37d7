//! Addresses that no server may have, whoever says so, or that Consul may not give one. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Addresses that may not be upstreams.
#[derive(Clone)]
pub struct Bounds {
    /// Networks from which Consul's servers are taken although they are loopback or link-local.
    pub allow: Vec<IpNet>,
    /// The listeners and the admin address: never an upstream.
    pub own: Vec<SocketAddr>,
    /// Whether an address is this machine's: what a wildcard listener is bound to, and who trusts the machine itself.
    pub is_local: fn(IpAddr) -> bool,
}

impl std::fmt::Debug for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bounds")
            .field("allow", &self.allow)
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Bounds {
    fn is_own(&self, address: SocketAddr) -> bool {
        let covers = |own: &SocketAddr| covers(*own, address, self.is_local);
        self.own.iter().any(covers)
    }

    /// Why a server may not be one; None: it may.
    pub fn against(&self, address: SocketAddr, origin: Origin) -> Option<String> {
        let ip = behind_nat64(address.ip().to_canonical());
        if address.port() == 0 {
            return Some("port 0 is no server's".into());
        }
        if self.is_own(address) {
            return Some(format!("{address} is an address of rota's own"));
        }
        let kind = if ip.is_unspecified() {
            "unspecified"
        } else if ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
            "multicast"
        } else if origin == Origin::File || self.allow.iter().any(|net| net.contains(&ip)) {
            return None;
        } else if ip.is_loopback() {
            "loopback"
        } else if is_link_local(ip) {
            "link-local"
        } else if ip == METADATA {
            "a cloud's metadata"
        } else if (self.is_local)(ip) {
            "this machine's own"
        } else {
            return None;
        };
        if origin == Origin::File {
            return Some(format!("{ip} is {kind}"));
        }
        Some(format!(
            "{ip} is {kind}, and not in [consul] allow_upstreams"
        ))
    }
}

/// Whether a socket bound to `own` is what answers at `address`.
pub fn covers(own: SocketAddr, address: SocketAddr, is_local: fn(IpAddr) -> bool) -> bool {
    let (bound, ip) = (own.ip().to_canonical(), address.ip().to_canonical());
    own.port() == address.port() && (bound == ip || bound.is_unspecified() && is_local(ip))
}

/// Whose word an address is. Who can write into Consul (its catalogue or its KV) is trusted less than who can write the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    File,
    Consul,
}

/// Where EC2's instances are told their credentials over IPv6; over IPv4 it is a link-local address.
const METADATA: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254));

/// The IPv4 address that the well-known prefix of a NAT64 leads to (RFC 6052 section 2.1); any other as it is.
fn behind_nat64(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into()
            }
            _ => ip,
        },
        IpAddr::V4(_) => ip,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
