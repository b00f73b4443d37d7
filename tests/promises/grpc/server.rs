//! An app server that speaks HTTP/2, in clear text or TLS, on a runtime of its own, and ends as it is told.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, request::Parts};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

type Behaviour = dyn Fn(Call) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// How a server is to be.
#[derive(Clone, Default)]
pub struct Manner {
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub max_streams: Option<u32>,
}

/// Dropped, it ends at once with all its connections.
pub struct Server {
    pub address: SocketAddr,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
    shared: Arc<Shared>,
}

struct Shared {
    behaviour: Box<Behaviour>,
    manner: Manner,
    connections: AtomicUsize,
    /// Most requests at once on one connection.
    peak: AtomicUsize,
    requests: Mutex<Vec<(usize, Parts)>>,
    leave: watch::Sender<()>,
}

/// One request to the server.
pub struct Call {
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
}

impl Server {
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        behaviour: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Server {
        Server::start_with(Manner::default(), behaviour)
    }

    pub fn start_with<F: Future<Output = ()> + Send + 'static>(
        manner: Manner,
        behaviour: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour: Box::new(move |call| Box::pin(behaviour(call))),
            manner,
            connections: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            requests: Mutex::default(),
            leave: watch::channel(()).0,
        });
        runtime.spawn(accept(listener, shared.clone()));
        Server {
            address,
            runtime: Mutex::new(Some(runtime)),
            shared,
        }
    }

    /// Answers every request with this text.
    pub fn fixed(text: &'static str) -> Server {
        Server::start(move |mut call| async move { call.answer(text).await })
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    pub fn peak(&self) -> usize {
        self.shared.peak.load(SeqCst)
    }

    /// The requests so far, each with its connection's number.
    pub fn requests(&self) -> Vec<(usize, Parts)> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Sends GOAWAY on all connections; what is under way goes on.
    pub fn go_away(&self) {
        self.shared.leave.send_replace(());
    }

    /// Ends at once: sockets are closed, the port refuses.
    pub fn kill(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let shared = shared.clone();
        tokio::spawn(async move {
            match shared.manner.tls.clone() {
                None => serve(stream, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin>(stream: T, shared: Arc<Shared>) {
    let mut builder = h2::server::Builder::new();
    if let Some(most) = shared.manner.max_streams {
        builder.max_concurrent_streams(most);
    }
    let mut leave = shared.leave.subscribe();
    let Ok(mut connection) = builder.handshake(stream).await else {
        return;
    };
    let number = shared.connections.fetch_add(1, SeqCst);
    let at_once = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Ok(()) = leave.changed() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else {
            return;
        };
        let (parts, body) = request.into_parts();
        shared.requests.lock().unwrap().push((number, parts));
        let now = at_once.fetch_add(1, SeqCst) + 1;
        shared.peak.fetch_max(now, SeqCst);
        let work = (shared.behaviour)(Call { body, respond });
        let at_once = at_once.clone();
        tokio::spawn(async move {
            work.await;
            at_once.fetch_sub(1, SeqCst);
        });
    }
}

impl Call {
    /// The next piece of the body; None: it has ended.
    pub async fn next(&mut self) -> Option<Result<Bytes, h2::Error>> {
        next(&mut self.body).await
    }

    pub async fn read_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    }

    /// Sends a head with this content type.
    pub fn begin(&mut self, kind: &str) -> SendStream<Bytes> {
        let head = Response::builder().header("content-type", kind);
        self.respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap()
    }

    /// A whole answer in plain text. A client that is gone is none of our business.
    pub async fn answer(&mut self, text: &str) {
        let head = Response::builder().header("content-length", text.len());
        let head = head.body(()).unwrap();
        if let Ok(mut stream) = self.respond.send_response(head, text.is_empty()) {
            let _ = stream.send_data(Bytes::copy_from_slice(text.as_bytes()), true);
        }
    }

    /// The client's RST_STREAM.
    pub async fn reset(&mut self) -> Reason {
        poll_fn(|cx| self.respond.poll_reset(cx)).await.unwrap()
    }
}

/// The next piece of a body.
pub async fn next(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let piece = body.data().await?;
    if let Ok(piece) = &piece {
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    Some(piece)
}

/// Sends bytes as the peer's window allows.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let piece = bytes.split_to(room.unwrap().unwrap().min(bytes.len()));
        stream.send_data(piece, false).unwrap();
    }
}

/// `grpc-status: 0` and a message.
pub fn ok() -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", "0".parse().unwrap());
    fields.insert("grpc-message", "fine".parse().unwrap());
    fields
}
