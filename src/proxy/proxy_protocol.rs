//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2): who the client is, said before anything
//! else by a load balancer in front.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The longest header that is taken, version 2's TLVs included.
pub const MAX_HEADER: usize = 2048;
/// The longest version 1 line, CR LF included.
const MAX_LINE: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How long to wait for the rest of a header that came in pieces.
const PIECE_WAIT: Duration = Duration::from_millis(5);

/// What stands at the beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// More has to come.
    Part,
    /// A header of so many bytes; None: the proxy speaks for itself (LOCAL, UNKNOWN, another family).
    Header {
        length: usize,
        client: Option<IpAddr>,
    },
    /// No PROXY header: never to be taken for anything else.
    Malformed,
}

/// Looks at the first bytes of a connection.
pub fn find(bytes: &[u8]) -> Found {
    let shared = bytes.len().min(SIGNATURE.len());
    if bytes[..shared] == SIGNATURE[..shared] {
        return if shared < SIGNATURE.len() {
            Found::Part
        } else {
            version_2(bytes)
        };
    }
    let shared = bytes.len().min(6);
    if bytes[..shared] != b"PROXY "[..shared] {
        return Found::Malformed;
    }
    version_1(bytes)
}

fn version_1(bytes: &[u8]) -> Found {
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = line.iter().position(|&b| b == b'\n') else {
        return if bytes.len() < MAX_LINE {
            Found::Part
        } else {
            Found::Malformed
        };
    };
    let text = line[..end]
        .strip_suffix(b"\r")
        .and_then(|text| std::str::from_utf8(text).ok());
    let Some(text) = text else {
        return Found::Malformed;
    };
    let length = end + 1;
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Found::Header {
            length,
            client: None,
        },
        ["PROXY", family, source, target, source_port, target_port] => {
            let ports = [source_port, target_port].iter().all(|port| is_port(port));
            match (family_of(family, source, target), ports) {
                (Some(client), true) => Found::Header {
                    length,
                    client: Some(client),
                },
                _ => Found::Malformed,
            }
        }
        _ => Found::Malformed,
    }
}

fn is_port(text: &str) -> bool {
    let is_plain = text == "0" || !text.starts_with('0');
    is_plain && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn family_of(family: &str, source: &str, target: &str) -> Option<IpAddr> {
    match family {
        "TCP4" => target
            .parse::<Ipv4Addr>()
            .and(source.parse::<Ipv4Addr>())
            .ok()
            .map(IpAddr::V4),
        "TCP6" => target
            .parse::<Ipv6Addr>()
            .and(source.parse::<Ipv6Addr>())
            .ok()
            .map(IpAddr::V6),
        _ => None,
    }
}

fn version_2(bytes: &[u8]) -> Found {
    let [version_and_command, family, high, low] = match bytes[12..] {
        [a, b, c, d, ..] => [a, b, c, d],
        _ => return Found::Part,
    };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 || version_and_command & 15 > 1 || length > MAX_HEADER {
        return Found::Malformed;
    }
    if bytes.len() < length {
        return Found::Part;
    }
    let addresses = &bytes[16..length];
    // Section 2.2: "Receivers must drop connections presenting unexpected values here".
    let (family, transport) = (family >> 4, family & 15);
    let client = match (version_and_command & 15, family) {
        (0, _) => None,
        _ if transport > 2 => return Found::Malformed,
        (_, 1) => match addresses.first_chunk::<4>() {
            Some(octets) if addresses.len() >= 12 => Some(IpAddr::from(*octets)),
            _ => return Found::Malformed,
        },
        (_, 2) => match addresses.first_chunk::<16>() {
            Some(octets) if addresses.len() >= 36 => Some(IpAddr::from(*octets)),
            _ => return Found::Malformed,
        },
        // Unspecified, or a Unix socket's.
        (_, 0 | 3) => None,
        _ => return Found::Malformed,
    };
    Found::Header { length, client }
}

/// Reads exactly the header from a connection; what follows stays unread. Gives the client it names. There is no timer in here.
///
/// # Errors
/// The connection ended, or begins with something else.
pub async fn read(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut bytes = [0; MAX_HEADER];
    loop {
        let count = stream.peek(&mut bytes).await?;
        match find(&bytes[..count]) {
            Found::Header { length, client } => {
                stream.read_exact(&mut bytes[..length]).await?;
                return Ok(client.map(|address| address.to_canonical()));
            }
            Found::Part if count > 0 && count < MAX_HEADER => tokio::time::sleep(PIECE_WAIT).await,
            Found::Part | Found::Malformed => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "no proxy protocol header",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(bytes: &[u8]) -> Option<IpAddr> {
        match find(bytes) {
            Found::Header { length, client } if length == bytes.len() => client,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_names_the_client() {
        let line = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n";
        assert_eq!(client(line), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(
            client(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n"),
            Some("2001:db8::7".parse().unwrap())
        );
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert!((0..line.len()).all(|count| find(&line[..count]) == Found::Part));
    }

    #[test]
    fn version_2_names_the_client() {
        let mut header = [
            &SIGNATURE[..],
            &[0x21, 0x11, 0, 12],
            &[192, 0, 2, 7, 192, 0, 2, 1, 1, 2, 3, 4],
        ]
        .concat();
        assert_eq!(client(&header), Some("192.0.2.7".parse().unwrap()));
        assert!((0..header.len()).all(|count| find(&header[..count]) == Found::Part));
        header[12] = 0x20;
        assert_eq!(client(&header), None, "LOCAL speaks for itself");
        header[12] = 0x31;
        assert_eq!(find(&header), Found::Malformed);
    }

    #[test]
    fn a_family_or_transport_that_version_2_does_not_have_is_refused() {
        let header = |command, family| {
            let mut header = [&SIGNATURE[..], &[command, family, 0, 36]].concat();
            header.extend([0; 36]);
            find(&header)
        };
        let own = Found::Header {
            length: 52,
            client: None,
        };
        for family in [0x13, 0x1f, 0x23, 0x33, 0x03, 0x41, 0xf1] {
            assert_eq!(header(0x21, family), Found::Malformed, "{family:#x}");
            assert_eq!(header(0x20, family), own, "LOCAL asks nobody for it");
        }
        for family in [0x00, 0x31, 0x32] {
            assert_eq!(header(0x21, family), own, "{family:#x}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n",
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\0\0\0\0",
        ] {
            assert_eq!(
                find(bad),
                Found::Malformed,
                "{:?}",
                bad.escape_ascii().to_string()
            );
        }
        assert_eq!(
            find(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat()),
            Found::Malformed
        );
    }
}
