//! Who counts as one client where what clients take is limited. Hot path, once per connection.

use std::net::IpAddr;

/// An IPv4 address, or an IPv6 network of 64 bits, which one subscriber has all to himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    V4(u32),
    V6(u64),
}

impl Client {
    pub fn at(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(v4) => Client::V4(v4.to_bits()),
            IpAddr::V6(v6) => Client::V6((v6.to_bits() >> 64) as u64),
        }
    }
}
