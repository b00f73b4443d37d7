//! HTTP/1 message bodies: where they end (RFC 9112 sections 6 and 7), strict and independent of how reads fall. Hot path.

use httparse::Header;

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes; at least one, but for an HTTP/2 stream whose end has yet to come.
    Length(u64),
    Chunked,
    /// Answers only: ends with the connection.
    UntilClose,
}

/// A chunk's size line may have so many bytes of extensions; beyond it the message is refused.
pub const CHUNK_EXTENSION_BYTES: usize = 256;
/// A body may have so many bytes of chunk extensions in all.
pub const CHUNK_EXTENSIONS_BYTES: usize = 16 * 1024;
/// The trailer section may have so many bytes and fields.
pub const TRAILER_BYTES: usize = 8 * 1024;
pub const TRAILER_FIELDS: usize = 64;
/// Hex digits of a chunk size: 2^60 is enough for anyone.
const SIZE_DIGITS: usize = 15;

/// What stands at the beginning of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of framing, to be dropped.
    Framing(usize),
    /// So many bytes of the body.
    Data(usize),
    /// A trailer section of so many bytes, its empty line included, that [`trailer_fields`] reads; the body ends behind it.
    Trailers(usize),
    /// The body has ended; what follows belongs to the next message.
    End,
    /// More has to be read. In a chunked body: an end of the connection here is a truncation.
    Read,
}

/// Why a body can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

const MALFORMED_TRAILERS: Malformed = Malformed("the trailer section is malformed");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of data are left, of a length or of a chunk.
    Data(u64),
    ChunkSize,
    ChunkEnd,
    Trailers,
    UntilClose,
    End,
}

/// Whether all of a body that was `received` with its head can be a part of it: what is malformed there is known before the
/// head is passed on.
pub fn check_received(framing: Framing, received: &[u8]) -> Result<(), Malformed> {
    let (mut decoder, mut rest) = (Decoder::new(framing), received);
    loop {
        match decoder.step(rest)? {
            Step::Framing(count) | Step::Data(count) | Step::Trailers(count) => {
                rest = &rest[count..];
            }
            Step::End | Step::Read => return Ok(()),
        }
    }
}

/// Walks through one body.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    state: State,
    chunked: bool,
    extensions: usize,
}

impl Decoder {
    pub fn new(framing: Framing) -> Decoder {
        let (state, chunked) = match framing {
            Framing::None => (State::End, false),
            Framing::Length(length) => (State::Data(length), false),
            Framing::Chunked => (State::ChunkSize, true),
            Framing::UntilClose => (State::UntilClose, false),
        };
        Decoder {
            state,
            chunked,
            extensions: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// Whether the end of the connection ends this body.
    pub fn ends_with_connection(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Looks at what was received and not yet consumed; moves on by what the step names, which the caller then consumes.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        match self.state {
            State::End => Ok(Step::End),
            _ if bytes.is_empty() => Ok(Step::Read),
            State::UntilClose => Ok(Step::Data(bytes.len())),
            State::Data(left) => Ok(self.data(left, bytes.len())),
            State::ChunkSize => self.chunk_size(bytes),
            State::ChunkEnd => self.chunk_end(bytes),
            State::Trailers => self.trailers(bytes),
        }
    }

    fn data(&mut self, left: u64, received: usize) -> Step {
        let count = usize::try_from(left).map_or(received, |left| left.min(received));
        let left = left - count as u64;
        self.state = match (left, self.chunked) {
            (0, true) => State::ChunkEnd,
            (0, false) => State::End,
            _ => State::Data(left),
        };
        Step::Data(count)
    }

    /// `1*HEXDIG [ chunk-ext ] CRLF`; extensions are checked, counted and dropped.
    fn chunk_size(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let digits = bytes
            .iter()
            .take(SIZE_DIGITS + 1)
            .take_while(|b| b.is_ascii_hexdigit())
            .count();
        if digits > SIZE_DIGITS || (digits == 0) {
            return Err(Malformed("a chunk's size is malformed"));
        }
        let rest = &bytes[digits..];
        let extension = match rest
            .iter()
            .take(CHUNK_EXTENSION_BYTES + 1)
            .position(|&b| b == b'\r' || b == b'\n')
        {
            Some(end) => end,
            None if rest.len() > CHUNK_EXTENSION_BYTES => {
                return Err(Malformed("a chunk's extensions are too long"));
            }
            None => return Ok(Step::Read),
        };
        check_extension(&rest[..extension])?;
        match rest[extension..] {
            [b'\r'] => return Ok(Step::Read),
            [b'\r', b'\n', ..] => {}
            _ => return Err(Malformed("a chunk's size line does not end in cr lf")),
        }
        self.extensions += extension;
        if self.extensions > CHUNK_EXTENSIONS_BYTES {
            return Err(Malformed("a body has too many chunk extensions"));
        }
        let size = bytes[..digits].iter().fold(0u64, |sum, &b| {
            sum << 4 | u64::from((b as char).to_digit(16).unwrap_or(0))
        });
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::Data(size)
        };
        Ok(Step::Framing(digits + extension + 2))
    }

    fn chunk_end(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        match bytes {
            [b'\r'] => Ok(Step::Read),
            [b'\r', b'\n', ..] => {
                self.state = State::ChunkSize;
                Ok(Step::Framing(2))
            }
            _ => Err(Malformed("a chunk does not end in cr lf")),
        }
    }

    fn trailers(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        match bytes {
            [b'\r'] => return Ok(Step::Read),
            [b'\r', b'\n', ..] => {
                self.state = State::End;
                return Ok(Step::Framing(2));
            }
            [b'\r' | b'\n', ..] => return Err(MALFORMED_TRAILERS),
            _ => {}
        }
        match super::head::find_end(bytes, 0) {
            super::head::Found::Whole(length) if length <= TRAILER_BYTES => {
                trailer_fields(&bytes[..length])?;
                self.state = State::End;
                Ok(Step::Trailers(length))
            }
            super::head::Found::Part if bytes.len() <= TRAILER_BYTES => Ok(Step::Read),
            _ => Err(Malformed("the trailer section is too large")),
        }
    }
}

/// `*( BWS ";" … )` without control characters; what is neither empty nor begins with `;` is no extension.
fn check_extension(extension: &[u8]) -> Result<(), Malformed> {
    let is_extension = matches!(extension.trim_ascii_start().first(), None | Some(b';'));
    let is_clean = extension
        .iter()
        .all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f));
    let is_bare_space = !extension.is_empty() && extension.trim_ascii().is_empty();
    if is_extension && is_clean && !is_bare_space {
        Ok(())
    } else {
        Err(Malformed("a chunk's extensions are malformed"))
    }
}

/// The fields of a trailer section as [`Step::Trailers`] cuts it. Names are checked by httparse.
pub fn trailer_fields(section: &[u8]) -> Result<Vec<Header<'_>>, Malformed> {
    let line_feeds =
        memchr::memchr_iter(b'\n', section).all(|at| at > 0 && section[at - 1] == b'\r');
    let returns = memchr::memchr_iter(b'\r', section).all(|at| section.get(at + 1) == Some(&b'\n'));
    if !line_feeds || !returns {
        return Err(MALFORMED_TRAILERS);
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((_, fields))) => Ok(fields.to_vec()),
        _ => Err(MALFORMED_TRAILERS),
    }
}

/// Writes a chunk's size line into `line`; gives what was written.
pub fn chunk_line(line: &mut [u8; 18], size: usize) -> &[u8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    line[16] = b'\r';
    line[17] = b'\n';
    let mut at = 16;
    let mut rest = size;
    loop {
        at -= 1;
        line[at] = DIGITS[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return &line[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `piece` bytes; gives the body, what is left over, and whether there were trailers.
    fn decode(
        framing: Framing,
        bytes: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, Vec<u8>, bool), Malformed> {
        let mut decoder = Decoder::new(framing);
        let (mut held, mut body, mut trailers) = (Vec::new(), Vec::new(), false);
        let mut source = bytes.chunks(piece.max(1));
        loop {
            match decoder.step(&held)? {
                Step::Framing(count) => drop(held.drain(..count)),
                Step::Data(count) => body.extend(held.drain(..count)),
                Step::Trailers(count) => {
                    trailers = true;
                    trailer_fields(&held[..count])?;
                    held.drain(..count);
                }
                Step::End => {
                    source.for_each(|rest| held.extend_from_slice(rest));
                    return Ok((body, held, trailers));
                }
                Step::Read => match source.next() {
                    Some(more) => held.extend_from_slice(more),
                    None => return Err(Malformed("truncated")),
                },
            }
        }
    }

    #[test]
    fn no_split_of_the_input_changes_the_outcome() {
        let bytes = b"5;a=b\r\nhello\r\n00A ;x\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\nGET";
        for piece in 1..bytes.len() + 1 {
            let (body, rest, trailers) = decode(Framing::Chunked, bytes, piece).unwrap();
            assert_eq!(
                (body.as_slice(), rest.as_slice(), trailers),
                (&b"hello0123456789"[..], &b"GET"[..], true),
                "{piece}"
            );
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        assert_eq!(
            decode(Framing::Length(3), b"abcdef", 2).unwrap(),
            (b"abc".to_vec(), b"def".to_vec(), false)
        );
        assert_eq!(decode(Framing::None, b"abc", 2).unwrap().1, b"abc");
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for bad in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n",
            b"0x1\r\na\r\n",
            b" 1\r\na\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"1\na\r\n",
            b"1;\na\r\n",
            b"1;a\rb\r\na\r\n",
            b"1;\x00\r\na\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nBad Name: x\r\n\r\n",
            b"0\r\nX: a\n\r\n",
            b"0\r\nX: a\n\n",
        ] {
            for piece in [1, 2, 100] {
                let outcome = decode(Framing::Chunked, bad, piece);
                assert!(
                    matches!(outcome, Err(Malformed(why)) if why != "truncated"),
                    "{:?} {outcome:?}",
                    bad.escape_ascii().to_string()
                );
            }
        }
        let long = [b"1;".as_slice(), &[b'a'; 300], b"\r\na\r\n"].concat();
        assert!(decode(Framing::Chunked, &long, 7).is_err());
    }

    #[test]
    fn a_chunk_line_is_lower_case_hex() {
        let mut line = [0; 18];
        assert_eq!(chunk_line(&mut line, 0), b"0\r\n");
        assert_eq!(chunk_line(&mut line, 0xbeef), b"beef\r\n");
    }
}
