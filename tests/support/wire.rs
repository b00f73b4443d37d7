//! Bytes to HTTP/1 messages and back, strict and simple, for both ends of a test.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;

/// A connection of either kind. `tcp` is the socket below.
pub trait Wire: Read + Write + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

impl Wire for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

pub type Fields = Vec<(String, String)>;

/// The start line and fields of a message, and its bytes as they came.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub start: String,
    pub fields: Fields,
    pub raw: Vec<u8>,
}

impl Head {
    /// The first field of that name, whatever its case.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }
}

pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let mut found = fields.iter().filter(|(k, _)| k.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.as_str())
}

/// Reads one head; `None` at a clean end before its first byte.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut head = Head::default();
    if read_line(from, &mut head.raw)? == 0 {
        return Ok(None);
    }
    head.start = text(&head.raw)?;
    loop {
        let begin = head.raw.len();
        if read_line(from, &mut head.raw)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = text(&head.raw[begin..])?;
        if line.is_empty() {
            return Ok(Some(head));
        }
        head.fields.push(split_field(&line)?);
    }
}

fn read_line(from: &mut impl BufRead, into: &mut Vec<u8>) -> io::Result<usize> {
    from.read_until(b'\n', into)
}

fn text(line: &[u8]) -> io::Result<String> {
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or_else(|| io::Error::other(format!("a line without CRLF: {line:?}")))?;
    Ok(String::from_utf8_lossy(line).into_owned())
}

fn split_field(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| io::Error::other(format!("a field without a colon: {line:?}")))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What a message's own fields say; `otherwise` when they say nothing.
pub fn framing(fields: &Fields, otherwise: Framing) -> Framing {
    if field(fields, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked;
    }
    match field(fields, "content-length").and_then(|v| v.parse().ok()) {
        Some(length) => Framing::Length(length),
        None => otherwise,
    }
}

/// Gives the body piece by piece to `sink` as it comes; returns the trailers.
pub fn read_body(
    from: &mut impl BufRead,
    framing: Framing,
    mut sink: impl FnMut(&[u8]),
) -> io::Result<Fields> {
    match framing {
        Framing::None => Ok(Vec::new()),
        Framing::Length(length) => copy(from, length, &mut sink).map(|()| Vec::new()),
        Framing::UntilClose => loop {
            let piece = from.fill_buf()?;
            if piece.is_empty() {
                return Ok(Vec::new());
            }
            sink(piece);
            let taken = piece.len();
            from.consume(taken);
        },
        Framing::Chunked => read_chunks(from, &mut sink),
    }
}

fn read_chunks(from: &mut impl BufRead, sink: &mut impl FnMut(&[u8])) -> io::Result<Fields> {
    loop {
        let mut line = Vec::new();
        read_line(from, &mut line)?;
        let line = text(&line)?;
        let size = line.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16)
            .map_err(|e| io::Error::other(format!("chunk size {line:?}: {e}")))?;
        if size == 0 {
            return read_trailers(from);
        }
        copy(from, size, sink)?;
        let mut end = [0; 2];
        from.read_exact(&mut end)?;
        if &end != b"\r\n" {
            return Err(io::Error::other("a chunk without CRLF at its end"));
        }
    }
}

fn read_trailers(from: &mut impl BufRead) -> io::Result<Fields> {
    let mut trailers = Vec::new();
    loop {
        let mut line = Vec::new();
        read_line(from, &mut line)?;
        match text(&line)? {
            line if line.is_empty() => return Ok(trailers),
            line => trailers.push(split_field(&line)?),
        }
    }
}

fn copy(from: &mut impl BufRead, length: u64, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let piece = from.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        sink(&piece[..taken]);
        from.consume(taken);
        left -= taken as u64;
    }
    Ok(())
}

/// FNV-1a, to compare bodies that are too large to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(pub u64);

impl Default for Hash {
    fn default() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    pub fn of(bytes: &[u8]) -> Hash {
        let mut hash = Hash::default();
        hash.add(bytes);
        hash
    }
}
