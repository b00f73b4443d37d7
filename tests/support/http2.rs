//! A client for HTTP/2 over TLS, on a runtime of its own.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::{PATIENCE, Tls};

pub struct Http2 {
    runtime: tokio::runtime::Runtime,
    sender: h2::client::SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

#[derive(Clone, Debug)]
pub struct Answer2 {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// The 1xx answers before it.
    pub interims: Vec<http::Response<()>>,
}

impl Http2 {
    /// `tls` has to offer `h2` by ALPN.
    pub fn connect(address: SocketAddr, tls: &Tls) -> Http2 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let tls = tls.clone();
        let connecting = async move {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let name = rustls_pki_types::ServerName::try_from(tls.name).unwrap();
            let stream = tokio_rustls::TlsConnector::from(Arc::clone(&tls.config))
                .connect(name, tcp)
                .await
                .unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            h2::client::handshake(stream).await.unwrap()
        };
        let (sender, connection) =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, connecting).await.unwrap() });
        let driver = runtime.spawn(connection);
        Http2 {
            runtime,
            sender,
            driver,
        }
    }

    pub fn get(&self, authority: &str, path: &str) -> Result<Answer2, h2::Error> {
        let uri = format!("https://{authority}{path}");
        self.ask(Request::get(uri).body(()).unwrap(), Vec::new(), None)
    }

    /// Sends head, body and trailers; reads the answer to its end.
    pub fn ask(
        &self,
        head: Request<()>,
        body: Vec<u8>,
        trailers: Option<HeaderMap>,
    ) -> Result<Answer2, h2::Error> {
        // On the one thread that drives the connection: h2 drops a 1xx that arrives between the two questions of `exchange`.
        let sender = self.sender.clone();
        self.end(self.runtime.spawn(exchange(sender, head, body, trailers)))
    }

    /// Begins a request in the background; its end is asked for later.
    pub fn begin_get(
        &self,
        authority: &str,
        path: &str,
    ) -> tokio::task::JoinHandle<Result<Answer2, h2::Error>> {
        let head = Request::get(format!("https://{authority}{path}"))
            .body(())
            .unwrap();
        let sender = self.sender.clone();
        self.runtime.spawn(exchange(sender, head, Vec::new(), None))
    }

    pub fn end<T: Send + 'static>(&self, task: tokio::task::JoinHandle<T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap() })
    }

    /// The server ended the connection in good order (GOAWAY without an error).
    pub fn closes_well(self) -> bool {
        drop(self.sender);
        let closed = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, self.driver).await });
        match closed {
            Ok(Ok(Ok(()))) => true,
            other => panic!("the connection's end: {other:?}"),
        }
    }
}

async fn exchange(
    sender: h2::client::SendRequest<Bytes>,
    head: Request<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
) -> Result<Answer2, h2::Error> {
    let mut sender = sender.ready().await?;
    let ends = body.is_empty() && trailers.is_none();
    let (mut answer, mut stream) = sender.send_request(head, ends)?;
    if !ends {
        // A server may answer before it has the body, and stop its coming (RFC 9113 section 8.1): its answer counts.
        let _ = send_body(&mut stream, Bytes::from(body), trailers).await;
    }
    let mut interims = Vec::new();
    let head = std::future::poll_fn(|context| {
        while let Poll::Ready(Some(interim)) = answer.poll_informational(context) {
            interims.push(interim?);
        }
        Pin::new(&mut answer).poll(context)
    });
    let (head, mut stream) = head.await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(Answer2 {
        status: head.status.as_u16(),
        fields: head.headers,
        body,
        trailers: stream.trailers().await?,
        interims,
    })
}

async fn send_body(
    stream: &mut h2::SendStream<Bytes>,
    mut body: Bytes,
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let room = room.transpose()?.unwrap_or_default();
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, body.is_empty() && trailers.is_none())?;
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => Ok(()),
    }
}
