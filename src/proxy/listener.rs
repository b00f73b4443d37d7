//! Accepts connections on one socket of a listener's group, and brings each to the protocol it speaks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{HandshakeKind, ProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::clients::Seat;
use super::handshakes::Most;
use super::http1;
use super::http2;
use super::io::Io;
use super::plan::Peer;
use super::proxy_protocol;
use super::rarely::Rarely;
use super::tls_facts::TlsFacts;
use super::worker::{Open, Place, Worker};
use crate::certs;
use crate::certs::accept::{AcceptError, Accepted, Client, Entrance};
use crate::dial::Stream;
use crate::routing::swap::Reader;
use crate::routing::{self, ListenerPolicy};
use crate::telemetry::ListenerCells;
use crate::telemetry::vitals::Handshake;

/// How long accept rests when descriptors or memory have run out, or the connection limit is reached.
const PAUSE: Duration = Duration::from_millis(10);

/// Accepts until `closes` ends, then what is queued already, then closes the socket.
pub async fn accept_all(
    worker: Rc<Worker>,
    policy: Arc<ListenerPolicy>,
    socket: std::net::TcpListener,
    tls: Option<Reader<rustls::ServerConfig>>,
    mut closes: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(listener = %policy.name, %error, "a socket can't be watched");
        }
    };
    let cells = worker.vitals.workers[worker.id.0].listener(&policy.name);
    let door = Rc::new(Door {
        policy,
        tls,
        cells,
        refusals: Rarely::default(),
    });
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => door.receive(&worker, stream, peer).await,
                Err(error) => rest(&worker, &error).await,
            },
            _ = closes.changed() => break,
        }
    }
    for (stream, peer) in queued(listener) {
        door.receive(&worker, stream, peer).await;
    }
}

/// A place for the connection just accepted: it waits while `limits.connections` are open, and so does everyone behind it.
async fn place(worker: &Rc<Worker>) -> Place {
    if let Some(place) = Place::take(worker) {
        return place;
    }
    worker.vitals.workers[worker.id.0].accept_paused.add(1);
    loop {
        tokio::time::sleep(PAUSE).await;
        if let Some(place) = Place::take(worker) {
            return place;
        }
    }
}

/// What is in the socket's queue, until it is empty; then the socket is closed. The kernel is asked, not tokio, which may not have
/// heard yet of what came last.
fn queued(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std().ok();
    std::iter::from_fn(move || {
        let (stream, peer) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, peer))
    })
}

async fn rest(worker: &Worker, error: &io::Error) {
    // ECONNABORTED and its like are the client's; what runs out is ours, and asking again at once would spin.
    let is_exhausted = matches!(error.raw_os_error(), Some(code) if {
        use rustix::io::Errno;
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].iter().any(|errno| errno.raw_os_error() == code)
    });
    if is_exhausted {
        worker.vitals.workers[worker.id.0].accept_failed.add(1);
        tokio::time::sleep(PAUSE).await;
    }
}

/// What the connections of one listener on one worker share.
struct Door {
    /// As of its opening; a snapshot's newer one goes first.
    policy: Arc<ListenerPolicy>,
    tls: Option<Reader<rustls::ServerConfig>>,
    cells: Arc<ListenerCells>,
    /// Of clients' certificates.
    refusals: Rarely,
}

/// Counts a connection as closed when its task ends, however it does.
struct Closing(Rc<Door>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.cells.closed.add(1);
    }
}

impl Door {
    /// Serves a connection once there is a place for it; one too many of its client's ends here, before it costs anything.
    async fn receive(self: &Rc<Self>, worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
        if worker.lag.is_behind() {
            worker.vitals.workers[worker.id.0].shed.add(1);
            return reset(&stream);
        }
        let newest = worker.table.load().listener(&self.policy.name).cloned();
        let policy = newest.unwrap_or_else(|| self.policy.clone());
        let address = peer.ip().to_canonical();
        match seat(worker, &policy, address) {
            Some(seat) => {
                let place = place(worker).await;
                self.admit(worker, (place, seat), policy, stream, address);
            }
            None => refuse(worker, &stream),
        }
    }

    fn admit(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        (place, seat): (Place, Seat),
        policy: Arc<ListenerPolicy>,
        stream: TcpStream,
        address: IpAddr,
    ) {
        self.cells.accepted.add(1);
        let closing = Closing(self.clone());
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            let open = Open::serve_at(place).await;
            serve(&worker, &closing.0, policy, stream, address).await;
            drop(open);
            drop(seat);
            drop(closing);
        });
    }
}

/// A seat among its client's connections. Proxies that are trusted stand for many clients: only those that they name are counted.
fn seat(worker: &Worker, policy: &ListenerPolicy, address: IpAddr) -> Option<Seat> {
    if policy.trusts(address) {
        return Some(Seat::uncounted());
    }
    let limit = worker.table.load().limits.connections_per_client;
    worker.clients.take(address, limit)
}

fn refuse(worker: &Worker, stream: &TcpStream) {
    worker.vitals.workers[worker.id.0].crowded.add(1);
    reset(stream);
}

/// So that nothing of a flood is left waiting in the kernel.
fn reset(stream: &TcpStream) {
    // Fails only on a connection that is gone.
    let _ = stream.set_zero_linger();
}

async fn serve(
    worker: &Rc<Worker>,
    door: &Door,
    policy: Arc<ListenerPolicy>,
    mut stream: TcpStream,
    mut address: IpAddr,
) {
    let accepted = Instant::now();
    let deadline = accepted + worker.table.load().timeouts.head;
    // Fails only on a connection that is gone already, which the first read finds.
    let _ = stream.set_nodelay(true);
    // Held to the end.
    let mut behind = None;
    // A front that names no client passes on what that client says: it speaks for nobody, whoever is trusted.
    let mut is_named = true;
    if policy.proxy_protocol {
        // In a box: its buffer would otherwise be part of the connection's task for life.
        match Box::pin(client_behind(&policy, address, &mut stream, deadline)).await {
            Some(Some(client)) => address = client,
            Some(None) => is_named = false,
            None => return worker.vitals.workers[worker.id.0].proxy_refused.add(1),
        }
        behind = seat(worker, &policy, address);
        if behind.is_none() {
            return refuse(worker, &stream);
        }
    }
    let mut peer = Peer {
        is_trusted: is_named && policy.trusts(address),
        listener: policy,
        address,
        address_text: address.to_string(),
        tls: None,
    };
    let Some(config) = &door.tls else {
        return http1::connection::serve(
            worker.clone(),
            peer,
            Io::new(Stream::Plain(stream)),
            accepted,
        )
        .await;
    };
    let handshake = shake_hands(worker, door, config.full(), stream, &peer);
    let client = match tokio::time::timeout_at(deadline, handshake).await {
        Ok(Some(client)) => client,
        Ok(None) => return,
        Err(_) => return door.cells.handshake(Handshake::TimedOut),
    };
    let session = client.stream.get_ref().1;
    door.cells.handshake(kind_of(session));
    let sni: Option<Box<str>> = session.server_name().map(Into::into);
    let speaks_h2 = session.alpn_protocol() == Some(b"h2");
    let certificate = worker
        .certificates
        .load()
        .certificate(&door.policy.name, sni.as_deref())
        .cloned();
    peer.tls = Some(TlsFacts::new(sni, certificate, client.identity.as_ref()));
    let stream = Stream::Accepted(client.stream);
    if speaks_h2 {
        http2::serve(worker.clone(), peer, stream, deadline).await;
    } else {
        http1::connection::serve(worker.clone(), peer, Io::new(stream), accepted).await;
    }
    drop(behind);
}

/// None: there is no client to serve, which is counted.
async fn shake_hands(
    worker: &Worker,
    door: &Door,
    config: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    peer: &Peer,
) -> Option<Client> {
    let stands_for_many = peer.listener.trusts(peer.address);
    let entrance = Entrance {
        config,
        // Proxies that are trusted stand for many clients, whether they name them or not.
        client: (!stands_for_many).then(|| routing::Client::at(peer.address)),
        store: &worker.certificates,
        listener: &door.policy.name,
        wants: &worker.wants,
        waiting_handshakes: worker.table.load().limits.waiting_handshakes,
    };
    let begin = || {
        let limits = &worker.table.load().limits;
        let most = Most {
            in_all: limits.handshakes,
            per_client: limits.handshakes_per_client,
        };
        let client = (!stands_for_many).then_some(peer.address);
        worker.handshakes.begin(client, most)
    };
    let end = match certs::accept(stream, &entrance, begin).await {
        Ok(Accepted::Client(client)) => return Some(client),
        Ok(Accepted::Proof) => Handshake::Proof,
        Err(error) => {
            tell(door, &error, peer.address);
            end_of(&error)
        }
    };
    door.cells.handshake(end);
    None
}

/// A client hears an alert at most; why its certificate was refused only the operator can be told.
fn tell(door: &Door, error: &AcceptError, client: IpAddr) {
    if !matches!(error, AcceptError::ClientCertificate(_)) {
        return;
    }
    if let Some(unsaid) = door.refusals.may_say(std::time::Instant::now()) {
        tracing::info!(listener = %door.policy.name, %client, unsaid, "{error}");
    }
}

/// The client that a trusted load balancer in front names, if it knows one; None: it is not trusted, or says nothing in time.
async fn client_behind(
    policy: &ListenerPolicy,
    front: IpAddr,
    stream: &mut TcpStream,
    deadline: Instant,
) -> Option<Option<IpAddr>> {
    if !policy.trusts(front) {
        return None;
    }
    let read = tokio::time::timeout_at(deadline, proxy_protocol::read(stream)).await;
    read.ok()?.ok()
}

fn end_of(error: &AcceptError) -> Handshake {
    match error {
        AcceptError::UnknownName => Handshake::UnknownName,
        AcceptError::NotYet => Handshake::NotYet,
        AcceptError::TooManyWaiting => Handshake::TooManyWaiting,
        AcceptError::TooMany => Handshake::TooMany,
        AcceptError::ClientCertificate(_) => Handshake::ClientCertificate,
        AcceptError::NoCertificate | AcceptError::Failed(_) => Handshake::Failed,
    }
}

fn kind_of(session: &rustls::ServerConnection) -> Handshake {
    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    match (session.protocol_version(), is_resumed) {
        (Some(ProtocolVersion::TLSv1_2), true) => Handshake::Tls12Resumed,
        (Some(ProtocolVersion::TLSv1_2), false) => Handshake::Tls12Full,
        (_, true) => Handshake::Tls13Resumed,
        (_, false) => Handshake::Tls13Full,
    }
}
