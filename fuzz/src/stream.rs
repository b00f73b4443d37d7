//! A stream's head as h2 gives it: fields in plain text, written as HPACK literals, through its own framing and checks.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::Builder;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A SETTINGS frame that says nothing.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The largest frame that h2 takes by default.
const FRAME: usize = 16_384;

/// The first request of a connection that brings one HEADERS frame with these lines, `name: value` each. None: h2 refuses it.
pub fn request(lines: &[u8], is_end: bool) -> Option<Parts> {
    let mut block = Vec::new();
    for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let colon = line.iter().skip(1).position(|&b| b == b':')? + 1;
        let value = &line[colon + 1..];
        // A literal without indexing, its name a literal too (RFC 7541 section 6.2.2).
        block.push(0);
        push_text(&mut block, &line[..colon]);
        push_text(&mut block, value.strip_prefix(b" ").unwrap_or(value));
    }
    if block.len() > FRAME {
        return None;
    }
    let flags = END_HEADERS | if is_end { END_STREAM } else { 0 };
    let length = (block.len() as u32).to_be_bytes();
    let frame = [length[1], length[2], length[3], 1, flags, 0, 0, 0, 1];
    let sent = [PREFACE, &SETTINGS, &frame, &block].concat();
    accepted(&sent)
}

/// A length in a prefix of 7 bits (RFC 7541 section 5.1), without Huffman's code, and the text.
fn push_text(block: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        short @ 0..127 => block.push(short as u8),
        long => {
            block.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                block.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            block.push(rest as u8);
        }
    }
    block.extend_from_slice(text);
}

fn accepted(sent: &[u8]) -> Option<Parts> {
    let mut cx = Context::from_waker(Waker::noop());
    let io = Canned {
        left: sent.to_vec(),
    };
    let handshake = pin!(Builder::new().handshake::<_, Bytes>(io));
    let Poll::Ready(Ok(mut connection)) = handshake.poll(&mut cx) else {
        return None;
    };
    match connection.poll_accept(&mut cx) {
        Poll::Ready(Some(Ok((request, _)))) => Some(request.into_parts().0),
        _ => None,
    }
}

/// Gives its bytes and then nothing; takes whatever is written.
struct Canned {
    left: Vec<u8>,
}

impl AsyncRead for Canned {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.is_empty() {
            return Poll::Pending;
        }
        let count = into.remaining().min(self.left.len());
        into.put_slice(&self.left[..count]);
        self.left.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Canned {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
