//! A message as rota's codec reads it, driven as the data plane drives it.

use httparse::Header;
use rota::proxy::http1::body::{Decoder, Framing, Step, trailer_fields};
use rota::proxy::http1::head::{self, Found, RequestHead, Version, field_space};
use rota::routing::Limits;

use super::{Asked, Fields, Message, Next, Read};

/// Interim answers that are passed over.
const INTERIMS: usize = 16;

/// What was received of some bytes, and not yet consumed.
struct Buffer<'s, S> {
    sent: &'s [u8],
    start: usize,
    received: usize,
    sizes: S,
}

impl<'s, S: Iterator<Item = usize>> Buffer<'s, S> {
    fn new(sent: &'s [u8], sizes: S) -> Self {
        Buffer {
            sent,
            start: 0,
            received: 0,
            sizes,
        }
    }

    fn filled(&self) -> &'s [u8] {
        &self.sent[self.start..self.received]
    }

    /// False: the connection has ended.
    fn read(&mut self) -> bool {
        let size = self.sizes.next().expect("sizes go on");
        let before = self.received;
        self.received = before.saturating_add(size).min(self.sent.len());
        self.received > before
    }

    fn consume(&mut self, count: usize) -> &'s [u8] {
        let filled = self.filled();
        assert!(count <= filled.len(), "a step is within what was received");
        self.start += count;
        &filled[..count]
    }
}

/// The first request of `sent`.
pub fn request(sent: &[u8], sizes: impl Iterator<Item = usize>) -> Read {
    let limits = Limits::default();
    let mut buffer = Buffer::new(sent, sizes);
    let mut seen = 0;
    let mut is_line_refused = false;
    let within = loop {
        if seen == 0 {
            buffer.consume(head::leading_empty_lines(buffer.filled()));
            if let Err(refusal) = head::check_beginning(buffer.filled()) {
                return Read::Refused(refusal.text().into());
            }
        }
        match find_head(buffer.filled(), seen) {
            Found::Whole(within) => break within,
            Found::Part => {
                is_line_refused |= head::check_line(buffer.filled(), seen).is_err();
                seen = match buffer.filled() {
                    [b'\r'] => 0,
                    begun => begun.len(),
                }
            }
        }
        if !buffer.read() {
            return Read::Part;
        }
    };
    let mut space = field_space();
    let begun = &buffer.filled()[..within];
    let head = match head::request(begun, &mut space, &limits) {
        Ok(head) => head,
        Err(refusal) => return Read::Refused(refusal.text().into()),
    };
    assert!(!is_line_refused, "what is refused early is refused late");
    assert_eq!(head::find_end(begun, 0), Found::Whole(head.length));
    buffer.consume(head.length);
    let next = if head.keeps_alive() {
        Next::Message
    } else {
        Next::Nothing
    };
    finish(buffer, head.framing, next, message_of(&head))
}

/// As the connection looks for a head: mostly it is all that has come, else the parser ends at the first.
fn find_head(filled: &[u8], seen: usize) -> Found {
    if filled.ends_with(b"\r\n\r\n") {
        Found::Whole(filled.len())
    } else {
        head::find_end(filled, seen)
    }
}

fn message_of(head: &RequestHead<'_>) -> Message {
    let is_absolute = head.target != head.path_and_query;
    Message {
        start: format!("{} {}", head.method, head.path_and_query),
        authority: is_absolute.then(|| head.host.to_owned()),
        minor_version: minor(head.version),
        fields: collect(head.fields),
        body: Vec::new(),
        trailers: Fields::new(),
    }
}

/// The first final answer of `sent`.
pub fn answer(sent: &[u8], asked: Asked, sizes: impl Iterator<Item = usize>) -> Read {
    let mut buffer = Buffer::new(sent, sizes);
    for _ in 0..=INTERIMS {
        let mut seen = 0;
        let length = loop {
            match head::find_end(buffer.filled(), seen) {
                Found::Whole(length) => break length,
                Found::Part => seen = buffer.filled().len(),
            }
            if !buffer.read() {
                return Read::Part;
            }
        };
        let mut space = field_space();
        let head = match head::answer(buffer.consume(length), &mut space) {
            Ok(head) => head,
            Err(why) => return Read::Refused(why.into()),
        };
        if head.status == 101 {
            return Read::Refused("nobody asked for it".into());
        }
        if head.is_interim() {
            continue;
        }
        let framing = head.framing_for(asked == Asked::Head);
        let next = match framing {
            Framing::UntilClose => Next::Ended,
            _ if head.keeps_alive() => Next::Message,
            _ => Next::Nothing,
        };
        let message = Message {
            start: format!("{} {}", head.status, head.phrase),
            authority: None,
            minor_version: minor(head.version),
            fields: collect(head.fields),
            body: Vec::new(),
            trailers: Fields::new(),
        };
        return finish(buffer, framing, next, message);
    }
    Read::Refused("too many interim answers".into())
}

/// Reads the body.
fn finish<S: Iterator<Item = usize>>(
    mut buffer: Buffer<'_, S>,
    framing: Framing,
    next: Next,
    mut message: Message,
) -> Read {
    let mut decoder = Decoder::new(framing);
    loop {
        let step = match decoder.step(buffer.filled()) {
            Ok(step) => step,
            Err(malformed) => return Read::Refused(malformed.0.into()),
        };
        match step {
            Step::Framing(count) => drop(buffer.consume(count)),
            Step::Data(count) => {
                assert!(count > 0, "a step is forward");
                message.body.extend_from_slice(buffer.consume(count));
            }
            Step::Trailers(count) => {
                let section = buffer.consume(count);
                let fields = trailer_fields(section).expect("the decoder has read it");
                message.trailers = collect(&fields);
            }
            Step::End => break,
            Step::Read if buffer.read() => {}
            Step::Read if decoder.ends_with_connection() => break,
            Step::Read => return Read::Part,
        }
    }
    Read::Whole {
        message,
        end: buffer.start,
        next,
    }
}

fn collect(fields: &[Header<'_>]) -> Fields {
    let mut all = Fields::new();
    for field in fields {
        let values = all.entry(field.name.to_ascii_lowercase()).or_default();
        values.push(field.value.to_vec());
    }
    all
}

fn minor(version: Version) -> u8 {
    match version {
        Version::Http10 => 0,
        Version::Http11 => 1,
        Version::H2 => unreachable!("no head of HTTP/1"),
    }
}
