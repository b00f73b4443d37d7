//! One byte stream, plain or TLS, either side: what is read and written everywhere. Hot path.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// Encrypted bytes that a connection holds while its peer takes none, unless one write is larger: rustls's default.
const TLS_HELD: usize = 64 * 1024;

/// Plain TCP, TLS that a client opened to us, or TLS that we opened to a server.
pub enum Stream {
    Plain(TcpStream),
    Accepted(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    Dialled(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// Refused, unreachable, reset while connecting: certainly no byte of a request was taken.
    Refused(io::Error),
    TimedOut,
    /// The certificate is not valid for the name, or TLS could not be agreed on.
    Tls(io::Error),
    /// Ours: no descriptor, no local port.
    Local(io::Error),
}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DialError::Refused(error) | DialError::Local(error) => write!(f, "{error}"),
            DialError::TimedOut => f.write_str("connecting took too long"),
            DialError::Tls(error) => write!(f, "tls: {error}"),
        }
    }
}

impl std::error::Error for DialError {}

/// Opens a connection; `tls` names the settings and the name the certificate must be valid for. All of it ends by `deadline`.
pub async fn connect(
    address: SocketAddr,
    tls: Option<(&Arc<rustls::ClientConfig>, ServerName<'static>)>,
    deadline: Instant,
) -> Result<Stream, DialError> {
    connect_below(i32::MAX, address, tls, deadline).await
}

/// The same, unless its descriptor would be `ceiling` or above: those are kept for others.
pub async fn connect_below(
    ceiling: i32,
    address: SocketAddr,
    tls: Option<(&Arc<rustls::ClientConfig>, ServerName<'static>)>,
    deadline: Instant,
) -> Result<Stream, DialError> {
    match tokio::time::timeout_at(deadline, open(ceiling, address, tls)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::TimedOut),
    }
}

async fn open(
    ceiling: i32,
    address: SocketAddr,
    tls: Option<(&Arc<rustls::ClientConfig>, ServerName<'static>)>,
) -> Result<Stream, DialError> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(DialError::Local)?;
    if socket.as_raw_fd() >= ceiling {
        let kept = io::Error::other("the descriptors that are left are kept for others");
        return Err(DialError::Local(kept));
    }
    socket.set_nodelay(true).map_err(DialError::Local)?;
    let plain = socket
        .connect(address)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => DialError::Local(error),
            _ => DialError::Refused(error),
        })?;
    let Some((config, name)) = tls else {
        return Ok(Stream::Plain(plain));
    };
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let encrypted = connector
        .connect(name, plain)
        .await
        .map_err(DialError::Tls)?;
    Ok(Stream::Dialled(Box::new(encrypted)))
}

impl Stream {
    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Accepted(stream) => stream.get_ref().0,
            Stream::Dialled(stream) => stream.get_ref().0,
        }
    }

    /// A large write goes to TLS as a whole, and from there to the socket in one system call: whoever has so much to write was
    /// lent it. Small ones are held up to rustls's own limit while the peer takes nothing.
    fn hold_at_most(&mut self, write: usize) {
        let limit = Some(TLS_HELD.max(write + write / 32));
        match self {
            Stream::Plain(_) => {}
            Stream::Accepted(stream) => stream.get_mut().1.set_buffer_limit(limit),
            Stream::Dialled(stream) => stream.get_mut().1.set_buffer_limit(limit),
        }
    }

    pub fn is_tls(&self) -> bool {
        !matches!(self, Stream::Plain(_))
    }

    /// Whether an idle connection has anything to read: an end, an error, or bytes nobody asked for. No system call.
    pub fn has_news(&self, cx: &mut Context<'_>) -> bool {
        let holds_more = match self {
            Stream::Plain(_) => false,
            // What came in one record with bytes that were read waits in the session, where the socket knows nothing of it.
            Stream::Accepted(stream) => !stream.get_ref().1.wants_read(),
            Stream::Dialled(stream) => !stream.get_ref().1.wants_read(),
        };
        holds_more || self.tcp().poll_read_ready(cx).is_ready()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Accepted(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Dialled(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.as_mut().hold_at_most(buf.len());
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Accepted(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Dialled(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.as_mut()
            .hold_at_most(bufs.iter().map(|one| one.len()).sum());
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Accepted(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Dialled(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Accepted(stream) => stream.is_write_vectored(),
            Stream::Dialled(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Accepted(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Dialled(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Accepted(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Dialled(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
