//! Opens a worker's connection to a server, as the service's protocol asks.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::time::Instant;

use super::http2::upstream::{self, NotHttp2, Sender};
use super::io::Io;
use super::pool::ServerConnection;
use super::refusal::Fault;
use super::worker::Worker;
use crate::dial::{self, DialError, Stream};
use crate::routing::{Member, Protocol, TlsToServer};

/// An HTTP/1 connection to a member, by `deadline`.
pub async fn open(
    worker: &Worker,
    member: &Member,
    protocol: &Protocol,
    deadline: Instant,
) -> Result<ServerConnection, Fault> {
    let stream = connect(worker, member, protocol, deadline).await?;
    Ok(ServerConnection::new(
        Io::new(stream),
        worker.buffers.empty(),
        Instant::now(),
    ))
}

/// An HTTP/2 connection to a member, whose server has agreed on it by `deadline`.
pub async fn open_http2(
    worker: &Worker,
    member: &Member,
    protocol: &Protocol,
    deadline: Instant,
) -> Result<Sender, Fault> {
    let stream = connect(worker, member, protocol, deadline).await?;
    if let Stream::Dialled(tls) = &stream
        && tls.get_ref().1.alpn_protocol() != Some(b"h2")
    {
        return Err(Fault::NotHttp2);
    }
    let agreed = upstream::open(stream, worker.head_bytes.get());
    match tokio::time::timeout_at(deadline, agreed).await {
        Ok(agreed) => agreed.map_err(|NotHttp2| Fault::NotHttp2),
        Err(_) => Err(Fault::ConnectTimeout),
    }
}

/// Where descriptors have run out, idle connections give way, one at a time.
async fn connect(
    worker: &Worker,
    member: &Member,
    protocol: &Protocol,
    deadline: Instant,
) -> Result<Stream, Fault> {
    let address = member.upstream.address();
    let ceiling = worker.descriptors.ceiling();
    loop {
        let tls = match protocol {
            Protocol::Http | Protocol::H2c => None,
            Protocol::Https(tls) | Protocol::H2(tls) => {
                let name = server_name(tls, member).ok_or(Fault::Tls)?;
                Some((&tls.config, name))
            }
        };
        match dial::connect_below(ceiling, address, tls, deadline).await {
            Err(DialError::Local(_)) if worker.pool.borrow_mut().shed() => {}
            stream => return stream.map_err(|error| fault(&error)),
        }
    }
}

/// What the server's certificate has to be valid for: as configured, else the host name it was given as, else its address.
fn server_name(tls: &TlsToServer, member: &Member) -> Option<ServerName<'static>> {
    if let Some(name) = &tls.server_name {
        return Some(name.clone());
    }
    match &member.host_name {
        Some(name) => ServerName::try_from(Arc::clone(name).to_string()).ok(),
        None => Some(ServerName::IpAddress(member.upstream.address().ip().into())),
    }
}

fn fault(error: &DialError) -> Fault {
    match error {
        DialError::Refused(_) => Fault::Refused,
        DialError::TimedOut => Fault::ConnectTimeout,
        DialError::Tls(_) => Fault::Tls,
        DialError::Local(_) => Fault::Local,
    }
}
