//! The app server behind the proxies, for a loop that has other things to do too: 1 KiB for each GET, no allocation an answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use crate::Failure;

/// Bytes of each answer's body.
pub const BODY: usize = 1024;

pub struct AppServer {
    listener: TcpListener,
    links: Vec<Option<Link>>,
    vacant: Vec<usize>,
    answer: Vec<u8>,
}

/// A proxy's connection.
struct Link {
    stream: TcpStream,
    buffer: [u8; 4096],
    filled: usize,
}

impl AppServer {
    /// Events of its listener come with `token`.
    pub fn listen(address: SocketAddr, epoll: &OwnedFd, token: u64) -> Result<AppServer, Failure> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let token = epoll::EventData::new_u64(token);
        epoll::add(epoll, &listener, token, epoll::EventFlags::IN)?;
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nServer: peers-load\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n"
        )
        .into_bytes();
        answer.resize(answer.len() + BODY, b'x');
        Ok(AppServer {
            listener,
            links: Vec::new(),
            vacant: Vec::new(),
            answer,
        })
    }

    /// Takes the connections that wait; `token` makes an event's token of a connection's number.
    pub fn accept(&mut self, epoll: &OwnedFd, token: fn(usize) -> u64) -> Result<(), Failure> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let number = self.vacant.pop().unwrap_or_else(|| {
                self.links.push(None);
                self.links.len() - 1
            });
            let data = epoll::EventData::new_u64(token(number));
            epoll::add(epoll, &stream, data, epoll::EventFlags::IN)?;
            self.links[number] = Some(Link {
                stream,
                buffer: [0; 4096],
                filled: 0,
            });
        }
    }

    /// Reads what has come on a connection, and answers if that is a whole request.
    pub fn serve(&mut self, number: usize) -> Result<(), Failure> {
        let Some(link) = &mut self.links[number] else {
            return Ok(());
        };
        match link.stream.read(&mut link.buffer[link.filled..]) {
            Ok(read) if read > 0 => link.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Ok(_) | Err(_) => {
                // Closing it takes it out of the epoll too.
                self.links[number] = None;
                self.vacant.push(number);
                return Ok(());
            }
        }
        // A proxy sends one request at a time, and none of these has a body.
        if link.buffer[..link.filled].ends_with(b"\r\n\r\n") {
            link.filled = 0;
            // The socket's buffer is empty: what went before was read, else nothing would be asked.
            link.stream.write_all(&self.answer)?;
        }
        Ok(())
    }
}
