//! How much of what was sent on a connection its peer's kernel has acknowledged: asked where a client seems to take nothing.
//!
//! From above, a slow client may look like one that stands still: what it is sent waits in TLS and in the socket's buffer, of which
//! nothing is heard before a third is free again. Asked by sock_diag(7), as `ss -i` does, which costs some microseconds: TCP_INFO itself
//! has no safe door.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
/// The attribute that holds `struct tcp_info`, and the bit that asks for it.
const INET_DIAG_INFO: u16 = 2;
const ASK_FOR_INFO: u8 = 1 << (INET_DIAG_INFO - 1);

/// `struct nlmsghdr`, and `struct inet_diag_msg` behind it.
const HEAD: usize = 16;
const MESSAGE: usize = 72;
/// Of `tcpi_bytes_acked` in `struct tcp_info`.
const BYTES_ACKED: usize = 120;

/// Bytes since the connection began. None: the kernel does not say, for want of a descriptor or by a sandbox's rule.
#[cold]
pub fn acknowledged(tcp: &TcpStream) -> Option<u64> {
    let question = question(tcp.local_addr().ok()?, tcp.peer_addr().ok()?);
    // The longest so far has some 400.
    let mut answer = [0; 4096];
    let count = ask(&question, &mut answer).ok()?;
    bytes_acked(&answer[..count])
}

/// The kernel answers before it returns from the question.
fn ask(question: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let family = Domain::from(AF_NETLINK);
    let protocol = Protocol::from(NETLINK_SOCK_DIAG);
    let mut socket = Socket::new(family, Type::RAW.nonblocking(), Some(protocol))?;
    socket.send(question)?;
    socket.read(answer)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { 2 } else { 10 };
    let mut asked = vec![family, IPPROTO_TCP, ASK_FOR_INFO, 0];
    // In whatever state it is.
    asked.extend(u32::MAX.to_ne_bytes());
    asked.extend(local.port().to_be_bytes());
    asked.extend(peer.port().to_be_bytes());
    for address in [local.ip(), peer.ip()] {
        let mut octets = [0; 16];
        match address {
            IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => octets = address.octets(),
        }
        asked.extend(octets);
    }
    // No interface; no cookie.
    asked.extend(0u32.to_ne_bytes());
    asked.extend([u8::MAX; 8]);
    let length = (HEAD + asked.len()) as u32;
    let mut question = Vec::from(length.to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend(asked);
    question
}

fn bytes_acked(answer: &[u8]) -> Option<u64> {
    if u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?) != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut attributes = answer.get(HEAD + MESSAGE..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == INET_DIAG_INFO {
            let count = attributes.get(4 + BYTES_ACKED..length)?;
            return Some(u64::from_ne_bytes(*count.first_chunk()?));
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    /// Whether all of `sent` is counted before long, though the other end reads nothing.
    fn is_counted(address: &str, sent: &[u8]) -> bool {
        let listener = TcpListener::bind(address).unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        ours.write_all(sent).unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = TcpStream::from_std(ours).unwrap();
        let begun = Instant::now();
        while acknowledged(&ours) != Some(sent.len() as u64) {
            if begun.elapsed() > Duration::from_secs(30) {
                return false;
            }
            std::thread::yield_now();
        }
        drop(peer);
        true
    }

    #[tokio::test]
    async fn what_the_peers_kernel_has_is_counted_over_either_protocol() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            assert!(is_counted(address, b""));
            assert!(is_counted(address, &[b'x'; 1000]));
        }
    }

    #[test]
    fn an_answer_that_is_none_counts_nothing() {
        assert_eq!(bytes_acked(&[]), None);
        let mut error = [0; 36];
        error[4] = 2;
        assert_eq!(bytes_acked(&error), None);
        let mut bare = [0; HEAD + MESSAGE];
        bare[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(bytes_acked(&bare), None);
    }
}
