//! Opens listeners: one SO_REUSEPORT group each, a socket for every worker.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, on each socket; the kernel's `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// What happens if somebody listens on an address already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An error: SO_REUSEPORT alone would let two rotas share the port without a word.
    Refuse,
    /// It is this process itself, which is about to leave it.
    Ours,
}

/// Opens a group of `count` sockets. Port 0 becomes one free port for all of them.
///
/// # Errors
/// One line with the address.
pub fn open_group(
    address: SocketAddr,
    count: usize,
    taken: Taken,
) -> Result<Vec<TcpListener>, String> {
    open(address, count, taken).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{address} is in use: another process listens there"),
        io::ErrorKind::AddrNotAvailable => format!("{address} is no address of this machine"),
        io::ErrorKind::PermissionDenied => {
            format!("{address}: not permitted (a port below 1024 needs CAP_NET_BIND_SERVICE)")
        }
        _ => format!("{address}: {error}"),
    })
}

fn open(mut address: SocketAddr, count: usize, taken: Taken) -> io::Result<Vec<TcpListener>> {
    if taken == Taken::Refuse && address.port() != 0 {
        let probe = socket(address)?;
        probe.bind(&address.into())?;
    }
    let mut group = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener: TcpListener = socket.into();
        address = listener.local_addr()?;
        group.push(listener);
    }
    Ok(group)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // As with nginx: [::]:80 and 0.0.0.0:80 are two listeners.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_shares_one_port_and_a_second_group_is_refused() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let group = open_group(any, 3, Taken::Refuse).unwrap();
        let address = group[0].local_addr().unwrap();
        assert!(
            group
                .iter()
                .all(|socket| socket.local_addr().unwrap() == address)
        );
        let error = open_group(address, 1, Taken::Refuse).unwrap_err();
        assert!(
            error.contains("is in use") && error.contains(&address.to_string()),
            "{error}"
        );
        open_group(address, 1, Taken::Ours).unwrap();
    }
}
