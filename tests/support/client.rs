//! A client on raw sockets: it sends exactly the bytes a test says, and reads answers by their framing.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::PATIENCE;
use super::wire::{self, Fields, Framing, Wire};

/// An answer, read to its end.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    pub raw_head: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        wire::field(&self.fields, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }
}

/// How a TLS client introduces itself.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<rustls::ClientConfig>,
    /// Also what the certificate is verified for.
    pub name: String,
}

/// One connection.
pub struct Client {
    reader: BufReader<Box<dyn Wire>>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).unwrap()
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Client> {
        Ok(Client::over(Box::new(dial(address)?)))
    }

    /// On a connection that was made elsewhere.
    pub fn on(stream: TcpStream) -> Client {
        Client::over(Box::new(stream))
    }

    /// Connects and completes the handshake, or says why not.
    pub fn connect_tls(address: SocketAddr, tls: &Tls) -> io::Result<Client> {
        Ok(Client::over(Box::new(handshake(address, tls)?)))
    }

    /// TLS on a connection that was made elsewhere.
    pub fn on_tls(stream: TcpStream, tls: &Tls) -> io::Result<Client> {
        Ok(Client::over(Box::new(handshake_on(stream, tls)?)))
    }

    fn over(wire: Box<dyn Wire>) -> Client {
        Client {
            reader: BufReader::with_capacity(64 << 10, wire),
        }
    }

    pub fn tcp(&self) -> &TcpStream {
        self.reader.get_ref().tcp()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.try_send(bytes.as_ref()).unwrap();
        self
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)?;
        self.reader.get_mut().flush()
    }

    /// A GET without a body, on a connection that stays open.
    pub fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.answer()
    }

    /// The final answer, interim ones passed over.
    pub fn answer(&mut self) -> Answer {
        self.try_answer().unwrap()
    }

    pub fn try_answer(&mut self) -> io::Result<Answer> {
        loop {
            let answer = self.try_any_answer()?;
            if !(100..200).contains(&answer.status) || answer.status == 101 {
                return Ok(answer);
            }
        }
    }

    /// The next answer, interim or final.
    pub fn try_any_answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.try_answer_head()?;
        let otherwise = match answer.status {
            100..200 | 204 | 304 => return Ok(answer),
            _ => Framing::UntilClose,
        };
        self.read_body_into(&mut answer, otherwise)?;
        Ok(answer)
    }

    /// The answer to a HEAD: fields, and no body whatever they say.
    pub fn answer_head(&mut self) -> Answer {
        self.try_answer_head().unwrap()
    }

    pub fn try_answer_head(&mut self) -> io::Result<Answer> {
        let head = wire::read_head(&mut self.reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.start.split(' ').nth(1).and_then(|s| s.parse().ok());
        Ok(Answer {
            status: status.ok_or_else(|| io::Error::other(head.start.clone()))?,
            fields: head.fields,
            raw_head: head.raw,
            ..Answer::default()
        })
    }

    fn read_body_into(&mut self, answer: &mut Answer, otherwise: Framing) -> io::Result<()> {
        let framing = wire::framing(&answer.fields, otherwise);
        let body = &mut answer.body;
        answer.trailers = wire::read_body(&mut self.reader, framing, |piece| {
            body.extend_from_slice(piece);
        })?;
        Ok(())
    }

    /// Exactly `count` bytes as they come.
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        self.try_read_exactly(count).unwrap()
    }

    pub fn try_read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Everything up to the end; also when that is a reset.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.reader.read_to_end(&mut bytes) {
            Err(e) if is_timeout(&e) => panic!("not closed: {e}"),
            _ => bytes,
        }
    }

    /// The other side closes without another byte.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.reader.read(&mut byte) {
            Ok(count) => count == 0,
            Err(e) => !is_timeout(&e),
        }
    }

    /// No more is sent; answers can still be read.
    pub fn finish(&mut self) {
        self.tcp().shutdown(std::net::Shutdown::Write).unwrap();
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub type TlsWire = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A finished handshake: certificate, version and protocol can be asked of it.
pub fn handshake(address: SocketAddr, tls: &Tls) -> io::Result<TlsWire> {
    handshake_on(dial(address)?, tls)
}

fn handshake_on(stream: TcpStream, tls: &Tls) -> io::Result<TlsWire> {
    let name =
        rustls_pki_types::ServerName::try_from(tls.name.clone()).map_err(io::Error::other)?;
    let session =
        rustls::ClientConnection::new(tls.config.clone(), name).map_err(io::Error::other)?;
    let mut wire = rustls::StreamOwned::new(session, stream);
    while wire.conn.is_handshaking() {
        wire.conn.complete_io(&mut wire.sock)?;
    }
    Ok(wire)
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
}

/// The answer to some bytes on a connection of its own.
pub fn ask(address: SocketAddr, request: &str) -> Answer {
    Client::connect(address).send(request).answer()
}
