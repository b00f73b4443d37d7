//! One whole request through the real connection code, with an in-memory pipe on either side.
//!
//! The pipes are pairs of Unix sockets, whose near ends the runtime takes for TCP connections: bytes go from memory to memory, without a network
//! and without another thread. The connection to the server lies in the pool, as it does in the steady state: nothing is dialled.
//! What is measured has three turns of the event loop in it, and what client and server do: a third of the instructions.

use std::cell::RefCell;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use rota::certs::{CertStore, wants};
use rota::dial::Stream;
use rota::drain;
use rota::proxy::http1::connection;
use rota::proxy::io::Io;
use rota::proxy::pool::ServerConnection;
use rota::proxy::worker::Worker;
use rota::proxy::{Descriptors, Start};
use rota::routing::{Snapshot, swap};
use rota::telemetry::Vitals;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::Instant;

use super::heads::ANSWER;
use super::tables;

/// The answer's body.
const BODY: [u8; 1024] = [b'x'; 1024];

/// A client's connection and a server's, on one worker.
pub struct Exchange {
    runtime: Runtime,
    tasks: LocalSet,
    far: Rc<FarEnds>,
}

impl Exchange {
    pub fn of(request: &'static [u8]) -> Exchange {
        let (client, from_client) = pair();
        let (server, to_server) = pair();
        let runtime = Builder::new_current_thread().enable_all().build();
        let mut exchange = Exchange {
            runtime: runtime.expect("a runtime"),
            tasks: LocalSet::new(),
            far: Rc::new(FarEnds {
                client,
                server,
                request,
                answer: [ANSWER, &BODY].concat(),
                received: RefCell::new(vec![0; 4096]),
            }),
        };
        exchange.tasks.block_on(&exchange.runtime, async {
            serve(stream(from_client), stream(to_server));
        });
        (0..10).for_each(|_| exchange.run());
        exchange
    }

    /// Client's bytes in, server's bytes out, and the answer back.
    pub fn run(&mut self) {
        let far = self.far.clone();
        // A task of its own: woken behind the connection's, it finds in the same turn what that one wrote.
        let exchanged = self.tasks.block_on(&self.runtime, async {
            spawn_local(async move { far.exchange().await }).await
        });
        exchanged.expect("no panic");
    }
}

/// What client and server do.
struct FarEnds {
    client: UnixStream,
    server: UnixStream,
    request: &'static [u8],
    answer: Vec<u8>,
    received: RefCell<Vec<u8>>,
}

impl FarEnds {
    async fn exchange(&self) {
        (&self.client).write_all(self.request).expect("room");
        self.receive(&self.server, b"\r\n\r\n").await;
        (&self.server).write_all(&self.answer).expect("room");
        self.receive(&self.client, &BODY).await;
    }

    /// Until what came ends with `end`.
    async fn receive(&self, mut from: &UnixStream, end: &[u8]) {
        let mut count = 0;
        loop {
            yield_now().await;
            let mut received = self.received.borrow_mut();
            match from.read(&mut received[count..]) {
                Ok(0) => panic!("the connection was closed"),
                Ok(more) => count += more,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            if received[..count].ends_with(end) {
                return;
            }
        }
    }
}

/// A worker that serves one client, with a connection to its server in the pool.
fn serve(client: Stream, server: Stream) {
    let service = tables::service(&["127.0.0.1:1".into()]);
    let upstream = service.members[0].upstream.number();
    let (worker, ..) = Worker::new(start(tables::snapshot(service)));
    let now = Instant::now();
    let connection = ServerConnection::new(Io::new(server), worker.buffers.empty(), now);
    worker
        .pool
        .borrow_mut()
        .put(upstream, connection, now, 1, 1);
    spawn_local(connection::serve(
        worker,
        tables::peer(),
        Io::new(client),
        now,
    ));
}

fn start(snapshot: Snapshot) -> Start {
    Start {
        id: tables::WORKER,
        workers: 1,
        table: swap::channel(snapshot).1,
        certificates: swap::channel(CertStore::default()).1,
        wants: wants::channel().0,
        vitals: Arc::new(Vitals::new(1)),
        gate: drain::channel().1,
        passive: mpsc::channel(1).0,
        log: None,
        orders: mpsc::channel(1).1,
        open: Arc::default(),
        clients: Arc::default(),
        descriptors: Descriptors::of_process(),
    }
}

/// The far end, and the near one.
fn pair() -> (UnixStream, UnixStream) {
    let (far, near) = UnixStream::pair().expect("a pair of sockets");
    for end in [&far, &near] {
        end.set_nonblocking(true).expect("a socket");
    }
    (far, near)
}

fn stream(near: UnixStream) -> Stream {
    let tcp = std::net::TcpStream::from(OwnedFd::from(near));
    Stream::Plain(tokio::net::TcpStream::from_std(tcp).expect("a runtime"))
}
