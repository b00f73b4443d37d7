//! Opens listeners: one SO_REUSEPORT group each, a socket for every worker.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::admin::{self, AdminListener};
use crate::config::{AdminAddress, Config};
use crate::routing::ListenerPolicy;

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

/// A listener's group: a socket for each worker.
pub type Group = (Arc<ListenerPolicy>, Vec<TcpListener>);

/// All that a configuration listens on.
pub struct Opened {
    pub groups: Vec<Group>,
    pub admin: AdminListener,
}

/// An address that could not be opened, shown as one line.
#[derive(Debug)]
pub struct Refused {
    pub address: SocketAddr,
    pub error: io::Error,
}

impl Refused {
    pub fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { address, error } = self;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "{address} is in use: another process listens there")
            }
            io::ErrorKind::AddrNotAvailable => write!(f, "{address} is no address of this machine"),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "{address}: not permitted (a port below 1024 needs CAP_NET_BIND_SERVICE)"
            ),
            _ => write!(f, "{address}: {error}"),
        }
    }
}

/// Opens every listener and the admin listener. The error is one line.
pub fn open_all(config: &Config) -> Result<Opened, String> {
    let mut groups = Vec::new();
    for listener in &config.listeners {
        let policy = listener.policy.clone();
        let sockets = open_group(policy.address, config.node.workers.get(), Taken::Refuse)
            .map_err(|error| format!("listener {}: {error}", policy.name))?;
        groups.push((policy, sockets));
    }
    let address = match &config.admin.address {
        AdminAddress::Tcp(address) => admin::Address::Tcp(*address),
        AdminAddress::Unix(path) => admin::Address::Unix(path.clone()),
    };
    let admin = admin::bind(&address).map_err(|error| error.to_string())?;
    Ok(Opened { groups, admin })
}

/// Opens a group of `count` sockets. Port 0 becomes one free port for all of them.
pub fn open_group(
    address: SocketAddr,
    count: usize,
    taken: Taken,
) -> Result<Vec<TcpListener>, Refused> {
    open(address, count, taken).map_err(|error| Refused { address, error })
}

fn open(mut address: SocketAddr, count: usize, taken: Taken) -> io::Result<Vec<TcpListener>> {
    let mut group = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(address)?;
        // The first one listens alone before it lets the others in: of two processes that come at the same moment one is refused,
        // which a bind tried beforehand would not do.
        let is_alone = group.is_empty() && taken == Taken::Refuse;
        if !is_alone {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        if is_alone {
            socket.set_reuse_port(true)?;
        }
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
            error.is_in_use() && error.to_string().contains(&address.to_string()),
            "{error}"
        );
        open_group(address, 1, Taken::Ours).unwrap();
    }

    #[test]
    fn of_many_who_open_one_address_at_the_same_moment_one_gets_it() {
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let together = std::sync::Barrier::new(8);
            let got = std::thread::scope(|scope| {
                let open = || {
                    together.wait();
                    open_group(address, 2, Taken::Refuse)
                };
                let all = [(); 8].map(|()| scope.spawn(open));
                let all = all.map(|thread| thread.join().unwrap());
                for refused in all.iter().filter_map(|opened| opened.as_ref().err()) {
                    assert!(refused.is_in_use(), "{refused}");
                }
                all.iter().filter(|opened| opened.is_ok()).count()
            });
            assert_eq!(got, 1, "{address}");
        }
    }

    #[test]
    fn each_socket_of_a_group_gets_connections() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let group = open_group(any, 2, Taken::Refuse).unwrap();
        let address = group[0].local_addr().unwrap();
        let clients: Vec<_> = (0..64)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let accepted = group
            .iter()
            .map(|socket| std::iter::from_fn(|| socket.accept().ok()).count());
        let accepted: Vec<usize> = accepted.collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[test]
    fn an_address_is_taken_also_by_who_listens_on_all_of_them() {
        let all = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = all.local_addr().unwrap().port();
        let here = SocketAddr::from(([127, 0, 0, 1], port));
        assert!(open_group(here, 1, Taken::Refuse).unwrap_err().is_in_use());
    }
}
