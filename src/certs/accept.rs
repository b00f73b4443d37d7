//! The handshake with a client, from its first byte to an encrypted stream. Hot path, once per connection.
//!
//! rustls answers a resolver that has no certificate with the alert `access_denied`, and leaves no choice. So the ClientHello is
//! read first ([`LazyConfigAcceptor`], which parses it once for both), and a name that nobody has is refused here with
//! `unrecognized_name` (RFC 6066 section 3), which tells a client that it is at the wrong door rather than unwelcome.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::Acceptor;
use rustls::{CertificateError, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::challenge::Pending;
use super::identity::ClientIdentity;
use super::proof;
use super::store::CertStore;
use super::wants::Wants;
use crate::routing;
use crate::routing::swap::Reader;

/// What came of a handshake.
#[derive(Debug)]
pub enum Accepted {
    Client(Client),
    /// A CA was shown the proof for a name, and the connection is closed.
    Proof,
}

/// One that was let in.
#[derive(Debug)]
pub struct Client {
    pub stream: Box<TlsStream<TcpStream>>,
    /// None: it showed no certificate.
    pub identity: Option<ClientIdentity>,
}

/// Why a client's handshake came to nothing.
#[derive(Debug)]
pub enum AcceptError {
    /// The client asked for a name that no certificate of the listener has; it was told `unrecognized_name`.
    UnknownName,
    /// For a name that may have a certificate, and none came in time; it was told `unrecognized_name`.
    NotYet,
    /// The same, and too many waited already; it was told `unrecognized_name` at once.
    TooManyWaiting,
    /// Too many handshakes were under way; it was told nothing.
    TooMany,
    /// The client named nobody and the listener has no certificate; it was told `handshake_failure`.
    NoCertificate,
    /// The client showed no certificate where one is required (rustls sent `certificate_required`, or over TLS 1.2
    /// `handshake_failure`), a wrong one, or resumed a session with one that has expired since. Why, in words.
    ClientCertificate(String),
    /// Not TLS, no version or suite in common, a broken record (rustls sent its alert), or the connection ended.
    Failed(io::Error),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcceptError::UnknownName => f.write_str("the client asked for a name nobody has"),
            AcceptError::NotYet => f.write_str("the name's certificate is not there yet"),
            AcceptError::TooManyWaiting => {
                f.write_str("too many handshakes wait for certificates that are not there yet")
            }
            AcceptError::TooMany => f.write_str("too many handshakes are under way"),
            AcceptError::NoCertificate => f.write_str("the listener has no certificate"),
            AcceptError::ClientCertificate(why) => {
                write!(f, "a client's certificate was refused: {why}")
            }
            AcceptError::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for AcceptError {}

/// What the handshakes of one listener are done with.
pub struct Entrance<'a> {
    /// What [`super::server_config`] made for the listener.
    pub config: Arc<ServerConfig>,
    /// The reader it was made with.
    pub store: &'a Reader<CertStore>,
    pub listener: &'a str,
    pub wants: &'a Wants,
    /// Whose connection it is; None: of somebody who stands for many.
    pub client: Option<routing::Client>,
    /// `limits.waiting_handshakes`, of all workers together.
    pub waiting_handshakes: usize,
}

/// A fatal alert in a record of its own, in the clear: type 21, version 3.3, two bytes, level 2.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// Does the handshake on a connection just accepted. The caller's deadline runs from accept and ends it, the wait for a
/// certificate included. SNI, ALPN, version and resumption are then to be had from the stream's `get_ref().1`, the certificate from
/// [`CertStore::certificate`] with that SNI.
///
/// `begin` is asked before anything is computed for the client, and what it gives is held to the handshake's end; None: too many are
/// under way.
pub async fn accept<P>(
    tcp: TcpStream,
    entrance: &Entrance<'_>,
    begin: impl FnOnce() -> Option<P>,
) -> Result<Accepted, AcceptError> {
    // In a box of its own: the state of a handshake is some kilobytes, which a connection's task would otherwise hold for life.
    Box::pin(shake_hands(tcp, entrance, begin)).await
}

async fn shake_hands<P>(
    tcp: TcpStream,
    entrance: &Entrance<'_>,
    begin: impl FnOnce() -> Option<P>,
) -> Result<Accepted, AcceptError> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp)
        .await
        .map_err(AcceptError::Failed)?;
    let hello = start.client_hello();
    if proof::is_asked(&hello) {
        let name = hello.server_name().unwrap_or_default();
        let settings = entrance.store.load().tls_proof(name).cloned();
        return show_proof(start, settings).await;
    }
    let is_there = tokio::select! {
        // Who need not wait costs no look at the socket.
        biased;
        is_there = certificate_is_there(entrance, hello.server_name()) => is_there,
        error = end_of(&start.io) => Err(AcceptError::Failed(error)),
    };
    if let Err(refusal) = is_there {
        return Err(refuse(start.io, refusal).await);
    }
    let Some(_under_way) = begin() else {
        // Reset, so that nothing of a flood is left waiting in the kernel; fails only on a connection that is gone.
        let _ = start.io.set_zero_linger();
        return Err(AcceptError::TooMany);
    };
    match start.into_stream(entrance.config.clone()).await {
        Ok(stream) => let_in(stream),
        Err(error) => Err(failure(error)),
    }
}

/// The client has closed its side or is gone: nobody is left to wait for anything. Of one who has sent more it is not known.
async fn end_of(tcp: &TcpStream) -> io::Error {
    match tcp.peek(&mut [0]).await {
        Ok(0) => io::ErrorKind::UnexpectedEof.into(),
        Ok(_) => std::future::pending().await,
        Err(error) => error,
    }
}

fn let_in(stream: TlsStream<TcpStream>) -> Result<Accepted, AcceptError> {
    let identity = ClientIdentity::of(stream.get_ref().1, SystemTime::now());
    Ok(Accepted::Client(Client {
        identity: identity.map_err(|why| AcceptError::ClientCertificate(why.to_string()))?,
        stream: Box::new(stream),
    }))
}

/// Whether it was the client's certificate: we verify nothing else here.
fn failure(error: io::Error) -> AcceptError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::NoCertificatesPresented) => {
            AcceptError::ClientCertificate("none was shown".to_owned())
        }
        Some(rustls::Error::InvalidCertificate(why)) => AcceptError::ClientCertificate(words(why)),
        _ => AcceptError::Failed(error),
    }
}

/// What is wrong with a client's certificate, for who has to mend it.
fn words(why: &CertificateError) -> String {
    match why {
        // The second: one of the same name as one of them did.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority of client_ca issued it".to_owned()
        }
        CertificateError::BadEncoding => "it is not a certificate".to_owned(),
        // As `openssl x509 -req` makes them without -extfile. The cause is of a crate behind rustls, and has no type here.
        CertificateError::Other(other)
            if format!("{other:?}").contains("UnsupportedCertVersion") =>
        {
            "it is of X.509 version 1, and only version 3 is taken".to_owned()
        }
        why => why.to_string(),
    }
}

/// A CA gets its handshake, and nothing after it (RFC 8737 section 3).
async fn show_proof(
    start: StartHandshake<TcpStream>,
    settings: Option<Arc<ServerConfig>>,
) -> Result<Accepted, AcceptError> {
    let Some(settings) = settings else {
        return Err(refuse(start.io, AcceptError::UnknownName).await);
    };
    let mut stream = start
        .into_stream(settings)
        .await
        .map_err(AcceptError::Failed)?;
    // The CA has seen what it came for, and may be gone.
    let _ = stream.shutdown().await;
    Ok(Accepted::Proof)
}

/// Ends once the listener has a certificate for the client, or with why it gets none.
async fn certificate_is_there(
    entrance: &Entrance<'_>,
    sni: Option<&str>,
) -> Result<(), AcceptError> {
    let pending = {
        let store = entrance.store.load();
        match (store.knows(entrance.listener, sni), sni) {
            (true, _) => return Ok(()),
            (false, Some(name)) => store.pending(name).ok_or(AcceptError::UnknownName)?,
            (false, None) => return Err(AcceptError::NoCertificate),
        }
    };
    wait_for(entrance, sni, pending).await
}

/// Asks for the certificate and waits for a store that has it.
async fn wait_for(
    entrance: &Entrance<'_>,
    sni: Option<&str>,
    pending: Pending,
) -> Result<(), AcceptError> {
    if pending.wait.is_zero() || pending.rests(SystemTime::now()) {
        return Err(AcceptError::NotYet);
    }
    let limit = entrance.waiting_handshakes;
    let place = (entrance.wants).wait_for(&pending.name, entrance.client, limit);
    let _place = place.ok_or(AcceptError::TooManyWaiting)?;
    let arrival = async {
        let mut store = entrance.store.full();
        while !store.knows(entrance.listener, sni) {
            // What was ordered has failed: who is told now can come back.
            let still = sni.and_then(|name| store.pending(name));
            if still.is_some_and(|one| one.rests(SystemTime::now())) {
                return Err(AcceptError::NotYet);
            }
            store = entrance.store.newer(&store).await;
        }
        Ok(())
    };
    let arrived = timeout(pending.wait, arrival).await;
    arrived.unwrap_or(Err(AcceptError::NotYet))
}

/// Sends the alert and closes. A client that is gone already need not be told.
async fn refuse(mut tcp: TcpStream, refusal: AcceptError) -> AcceptError {
    let alert = match refusal {
        AcceptError::UnknownName | AcceptError::NotYet | AcceptError::TooManyWaiting => {
            &UNRECOGNIZED_NAME
        }
        AcceptError::NoCertificate
        | AcceptError::TooMany
        | AcceptError::ClientCertificate(_)
        | AcceptError::Failed(_) => &HANDSHAKE_FAILURE,
    };
    if tcp.write_all(alert).await.is_ok() {
        let _ = tcp.shutdown().await;
    }
    refusal
}

#[cfg(test)]
mod tests;
