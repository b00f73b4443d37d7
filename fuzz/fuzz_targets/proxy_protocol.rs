//! A PROXY header is the same however its bytes arrive, ends where a plain reader of the specification says, and names the same client.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use rota::proxy::proxy_protocol::{Found, MAX_HEADER, find};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Length and client of what both versions' sections 2.1 and 2.2 allow; None: no whole header, or no good one.
fn naive(bytes: &[u8]) -> Option<(usize, Option<IpAddr>)> {
    if bytes.starts_with(SIGNATURE) {
        return version_2(bytes);
    }
    let end = bytes.iter().position(|&b| b == b'\n')?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    let words = line.strip_prefix("PROXY ")?.strip_suffix('\r')?;
    if end + 1 > 107 {
        return None;
    }
    let mut words = words.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some((end + 1, None));
    }
    let [source, target]: [IpAddr; 2] = [words.next()?.parse().ok()?, words.next()?.parse().ok()?];
    let is_of_family = |ip: &IpAddr| match family {
        "TCP4" => ip.is_ipv4(),
        "TCP6" => ip.is_ipv6(),
        _ => false,
    };
    let is_port = |text: &str| {
        text.parse::<u16>()
            .is_ok_and(|port| port.to_string() == text)
    };
    let are_ports = is_port(words.next()?) && is_port(words.next()?) && words.next().is_none();
    let is_fine = is_of_family(&source) && is_of_family(&target) && are_ports;
    is_fine.then_some((end + 1, Some(source)))
}

fn version_2(bytes: &[u8]) -> Option<(usize, Option<IpAddr>)> {
    let (fixed, rest) = (bytes.get(12..16)?, &bytes[16..]);
    let stated = usize::from(fixed[2]) * 256 + usize::from(fixed[3]);
    let block = rest.get(..stated)?;
    if !matches!(fixed[0], 0x20 | 0x21) || 16 + stated > MAX_HEADER {
        return None;
    }
    let is_local = fixed[0] == 0x20;
    let (family, transport) = (fixed[1] / 16, fixed[1] % 16);
    let client = match family {
        _ if is_local => None,
        _ if transport > 2 => return None,
        1 => Some(IpAddr::from(
            <[u8; 4]>::try_from(block.get(..12)?.get(..4)?).ok()?,
        )),
        2 => Some(IpAddr::from(
            <[u8; 16]>::try_from(block.get(..36)?.get(..16)?).ok()?,
        )),
        0 | 3 => None,
        _ => return None,
    };
    Some((16 + stated, client))
}

fuzz_target!(|bytes: &[u8]| {
    let found = find(bytes);
    let header = match found {
        Found::Header { length, client } => Some((length, client)),
        Found::Part | Found::Malformed => None,
    };
    assert_eq!(header, naive(bytes));
    assert!(
        found != Found::Part || bytes.len() < MAX_HEADER,
        "more could not come"
    );
    for cut in 0..bytes.len() {
        match (find(&bytes[..cut]), found) {
            (Found::Part, _) => {}
            (early @ Found::Header { length, .. }, _) => {
                assert!(length <= cut);
                assert_eq!(early, found, "what follows is not looked at");
            }
            (Found::Malformed, _) => assert_eq!(found, Found::Malformed, "a refusal is final"),
        }
    }
});
