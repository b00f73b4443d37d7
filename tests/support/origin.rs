//! An app server on raw sockets that remembers every byte it was sent and behaves as badly as a test wants.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wire::{self, Fields, Framing, Hash, Head, Wire};

/// Of a longer body only the length and hash are kept.
const BODY_KEPT: usize = 1 << 20;
/// Of each connection so many bytes are kept as they came.
const BYTES_KEPT: usize = 64 << 10;
/// What comes after so many bytes is counted, not hashed: an unoptimised build takes seconds for a GiB.
pub const BODY_HASHED: u64 = 16 << 20;
/// The longest that a connection here waits for its next byte.
const IDLE: Duration = Duration::from_secs(60);

/// One request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Which connection to this server it came on, from 0.
    pub connection: usize,
    pub method: String,
    pub target: String,
    pub head: Head,
    pub body: Vec<u8>,
    pub body_length: u64,
    pub body_hash: Hash,
    pub trailers: Fields,
    /// The body came whole.
    pub is_complete: bool,
}

impl Request {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// All values of that name.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let named = self.head.fields.iter();
        let named = named.filter(|(k, _)| k.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

type Behaviour = dyn Fn(&mut Exchange) -> io::Result<()> + Send + Sync;

/// A listening app server. Dropped, it stops.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    behaviour: Box<Behaviour>,
    tls: Option<Arc<rustls::ServerConfig>>,
    seen: Mutex<Vec<Request>>,
    received: Mutex<BTreeMap<usize, Vec<u8>>>,
    open: Mutex<Vec<(usize, TcpStream)>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
    served: AtomicUsize,
    is_recording: AtomicBool,
}

impl Origin {
    /// Listens on a free port of 127.0.0.1; `behaviour` is called once a request's head is there.
    pub fn start(
        behaviour: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static,
    ) -> Origin {
        Origin::listen(0, Box::new(behaviour), None)
    }

    /// The same on a port of one's own choice.
    pub fn start_at(
        port: u16,
        behaviour: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static,
    ) -> Origin {
        Origin::listen(port, Box::new(behaviour), None)
    }

    /// The same over TLS.
    pub fn start_tls(
        tls: Arc<rustls::ServerConfig>,
        behaviour: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static,
    ) -> Origin {
        Origin::listen(0, Box::new(behaviour), Some(tls))
    }

    /// Answers everything with 200 and `body`.
    pub fn fixed(body: &'static str) -> Origin {
        Origin::start(move |exchange| {
            exchange.read_body()?;
            exchange.answer(200, &[], body.as_bytes())
        })
    }

    /// Answers with the length and hash of the request's body.
    pub fn digest() -> Origin {
        Origin::start(|exchange| {
            exchange.read_body()?;
            let text = format!(
                "{} {:x}",
                exchange.request.body_length, exchange.request.body_hash.0
            );
            exchange.answer(200, &[], text.as_bytes())
        })
    }

    fn listen(
        port: u16,
        behaviour: Box<Behaviour>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Origin {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour,
            tls,
            seen: Mutex::default(),
            received: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            served: AtomicUsize::new(0),
            is_recording: AtomicBool::new(true),
        });
        let acceptor = Mutex::new(Some(accept_on(listener, shared.clone())));
        Origin {
            address,
            shared,
            acceptor,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The bytes that came on each connection, requests or not; connections without any are left out.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let received = self.shared.received.lock().unwrap();
        received.values().cloned().collect()
    }

    /// The only request so far.
    pub fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.pop().unwrap()
    }

    /// Requests whose head came, recorded or not.
    pub fn count(&self) -> usize {
        self.shared.served.load(SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Waits until so many connections in all have come and are gone.
    pub fn wait_until_left(&self, connections: usize) {
        super::eventually("all connections have come and are gone", || {
            self.connections() == connections && self.open_connections() == 0
        });
    }

    pub fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
        self.shared.received.lock().unwrap().clear();
        self.shared.served.store(0, SeqCst);
    }

    /// From now on requests are counted, not kept: for load.
    pub fn stop_recording(&self) {
        self.shared.is_recording.store(false, SeqCst);
    }

    /// As a killed process: connects are refused, open connections are closed.
    pub fn stop(&self) {
        self.stop_accepting();
        for (_, stream) in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Connects are refused, what is open goes on.
    pub fn stop_accepting(&self) {
        let Some(acceptor) = self.acceptor.lock().unwrap().take() else {
            return;
        };
        self.shared.stopped.store(true, SeqCst);
        drop(TcpStream::connect(self.address)); // wakes the acceptor, which sees the flag
        acceptor.join().unwrap();
    }

    /// Closes open connections, goes on accepting: pooled connections become stale.
    pub fn close_connections(&self) {
        for (_, stream) in self.shared.open.lock().unwrap().iter() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        super::eventually("the connections are gone", || self.open_connections() == 0);
    }

    /// Listens again on the same port.
    pub fn restart(&self) {
        self.stop();
        self.shared.stopped.store(false, SeqCst);
        let mut listener = TcpListener::bind(self.address);
        super::eventually("the port is free again", || {
            if listener.is_err() {
                listener = TcpListener::bind(self.address);
            }
            listener.is_ok()
        });
        let acceptor = accept_on(listener.unwrap(), self.shared.clone());
        *self.acceptor.lock().unwrap() = Some(acceptor);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept_on(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.stopped.load(SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let number = shared.connections.load(SeqCst);
            let clone = stream.try_clone().unwrap();
            shared.open.lock().unwrap().push((number, clone));
            shared.connections.store(number + 1, SeqCst);
            let shared = shared.clone();
            std::thread::spawn(move || {
                let _ = serve(stream, number, &shared);
                shared.open.lock().unwrap().retain(|(n, _)| *n != number);
            });
        }
    })
}

fn serve(stream: TcpStream, connection: usize, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let wire: Box<dyn Wire> = match &shared.tls {
        None => Box::new(stream),
        Some(config) => {
            let session =
                rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            Box::new(rustls::StreamOwned::new(session, stream))
        }
    };
    let wire: Box<dyn Wire> = Box::new(Recorded {
        wire,
        connection,
        shared: shared.clone(),
    });
    let mut reader = BufReader::with_capacity(64 << 10, wire);
    while let Some(head) = wire::read_head(&mut reader)? {
        let mut exchange = Exchange::new(head, connection, reader, shared.clone());
        (shared.behaviour)(&mut exchange)?;
        if exchange.is_closing {
            return Ok(());
        }
        exchange.read_body()?;
        reader = exchange.reader;
    }
    Ok(())
}

/// A connection whose bytes are kept as they are read.
struct Recorded {
    wire: Box<dyn Wire>,
    connection: usize,
    shared: Arc<Shared>,
}

impl Read for Recorded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.wire.read(into) {
                // A process that was stopped and goes on: reads with a timeout are interrupted by that.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count > 0 && self.shared.is_recording.load(SeqCst) {
            let mut received = self.shared.received.lock().unwrap();
            let kept = received.entry(self.connection).or_default();
            let room = BYTES_KEPT.saturating_sub(kept.len());
            kept.extend_from_slice(&into[..count.min(room)]);
        }
        Ok(count)
    }
}

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wire.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wire.flush()
    }
}

impl Wire for Recorded {
    fn tcp(&self) -> &TcpStream {
        self.wire.tcp()
    }
}

/// One request and the connection it came on: what a behaviour works with.
pub struct Exchange {
    pub request: Request,
    reader: BufReader<Box<dyn Wire>>,
    shared: Arc<Shared>,
    record: Option<usize>,
    is_closing: bool,
}

impl Exchange {
    fn new(
        head: Head,
        connection: usize,
        reader: BufReader<Box<dyn Wire>>,
        shared: Arc<Shared>,
    ) -> Exchange {
        let mut words = head.start.split(' ');
        let request = Request {
            connection,
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            is_complete: wire::framing(&head.fields, Framing::None) == Framing::None,
            head,
            ..Request::default()
        };
        shared.served.fetch_add(1, SeqCst);
        let record = shared.is_recording.load(SeqCst).then(|| {
            let mut seen = shared.seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        });
        Exchange {
            request,
            reader,
            shared,
            record,
            is_closing: false,
        }
    }

    /// Reads the rest of the body, if there is any left.
    pub fn read_body(&mut self) -> io::Result<()> {
        if self.request.is_complete {
            return Ok(());
        }
        let framing = wire::framing(&self.request.head.fields, Framing::None);
        let request = &mut self.request;
        let trailers = wire::read_body(&mut self.reader, framing, |piece| {
            let room = BODY_KEPT.saturating_sub(request.body.len());
            request
                .body
                .extend_from_slice(&piece[..piece.len().min(room)]);
            let hashed = BODY_HASHED.saturating_sub(request.body_length);
            request.body_length += piece.len() as u64;
            let hashed = piece
                .len()
                .min(usize::try_from(hashed).unwrap_or(usize::MAX));
            request.body_hash.add(&piece[..hashed]);
        })?;
        request.trailers = trailers;
        request.is_complete = true;
        self.update_record();
        Ok(())
    }

    fn update_record(&self) {
        let mut seen = self.shared.seen.lock().unwrap();
        if let Some(record) = self.record.and_then(|at| seen.get_mut(at)) {
            *record = self.request.clone();
        }
    }

    /// Sends a whole answer with a Content-Length.
    pub fn answer(&mut self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut message = format!(
            "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in fields {
            message += &format!("{name}: {value}\r\n");
        }
        message += "\r\n";
        let mut message = message.into_bytes();
        if self.request.method != "HEAD" {
            message.extend_from_slice(body);
        }
        self.send(&message)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())?;
        self.reader.get_mut().flush()
    }

    /// Bytes as they come, past the head: for tunnels.
    pub fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }

    /// Sends back whatever comes until the other side closes.
    pub fn echo(&mut self) -> io::Result<()> {
        self.is_closing = true;
        let mut piece = [0; 4096];
        loop {
            let count = self.read_some(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            self.send(&piece[..count])?;
        }
    }

    /// Waits for the other side to close or reset; true when it did within `patience`.
    pub fn is_left_within(&mut self, patience: Duration) -> bool {
        self.is_closing = true;
        let _ = self.reader.get_ref().tcp().set_read_timeout(Some(patience));
        let mut piece = [0; 4096];
        loop {
            match self.read_some(&mut piece) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    let timed_out = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                    return !timed_out.contains(&error.kind());
                }
            }
        }
    }

    /// The connection ends when the behaviour returns.
    pub fn close(&mut self) -> io::Result<()> {
        self.is_closing = true;
        self.reader
            .get_ref()
            .tcp()
            .shutdown(std::net::Shutdown::Both)
    }

    /// The connection ends with a reset.
    pub fn reset(&mut self) -> io::Result<()> {
        self.is_closing = true;
        let tcp = self.reader.get_ref().tcp();
        let no_linger = Some(Duration::ZERO);
        socket2::SockRef::from(tcp).set_linger(no_linger)?;
        // A reset is sent when the last descriptor closes, and there is a clone in `open`.
        let number = self.request.connection;
        let mut open = self.shared.open.lock().unwrap();
        open.retain(|(n, _)| *n != number);
        Ok(())
    }
}
