//! rota's HTTP/1 codec held against hyper's, and against itself under any split of the input into reads.
//!
//! Whatever both accept must mean the same message: from method or status to the byte where the next message begins. rota may refuse
//! what hyper accepts, that is its purpose. `tests/codec.rs` runs the same checks on stable Rust.

mod ours;
mod theirs;

use std::collections::BTreeMap;

pub use ours::{answer, request};

/// Names in lower case; values in order.
pub type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// All that a message says, as one of the two codecs read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Method and target, or status and phrase.
    pub start: String,
    /// The authority of an absolute target.
    pub authority: Option<String>,
    /// Of HTTP/1.
    pub minor_version: u8,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

/// What rota makes of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Whole {
        message: Message,
        /// Where the next message begins.
        end: usize,
        next: Next,
    },
    /// More would have to come.
    Part,
    Refused(String),
}

/// What can stand behind a message on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Message,
    /// The connection is closed behind it.
    Nothing,
    /// It ended with the connection.
    Ended,
}

/// How a comparison came out, where it found no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both accept, and agree.
    Agreed,
    /// hyper refuses what rota accepts.
    OursAlone,
    /// rota refuses, or waits for more.
    NotOurs,
}

/// Which answers have no body, whatever they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Get,
    Head,
}

/// Sizes of reads, over and over; 0 counts as 1.
pub type Reads = [u8; 3];

/// An input of the targets for requests: three sizes of reads, a line feed, and what was sent. Like this a seed can be written by hand.
pub struct RequestCase<'a> {
    pub reads: Reads,
    pub sent: &'a [u8],
}

impl<'a> RequestCase<'a> {
    pub fn of(case: &'a [u8]) -> Option<RequestCase<'a>> {
        match case {
            [a, b, c, b'\n', sent @ ..] => Some(RequestCase {
                reads: [*a, *b, *c],
                sent,
            }),
            _ => None,
        }
    }
}

/// An input of the targets for answers: the same, after the first letter of the method that is answered.
pub struct AnswerCase<'a> {
    pub asked: Asked,
    pub reads: Reads,
    pub sent: &'a [u8],
}

impl<'a> AnswerCase<'a> {
    pub fn of(case: &'a [u8]) -> Option<AnswerCase<'a>> {
        let (first, rest) = case.split_first()?;
        let RequestCase { reads, sent } = RequestCase::of(rest)?;
        let asked = match first {
            b'H' => Asked::Head,
            _ => Asked::Get,
        };
        Some(AnswerCase { asked, reads, sent })
    }
}

fn sizes(reads: Reads) -> impl Iterator<Item = usize> {
    reads
        .into_iter()
        .map(|size| usize::from(size.max(1)))
        .cycle()
}

/// All in one read.
pub fn at_once() -> impl Iterator<Item = usize> {
    std::iter::repeat(usize::MAX)
}

/// Stands where rota says that the next request begins.
const NEXT_REQUEST: &[u8] = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n";
const NEXT_ANSWER: &[u8] = b"HTTP/1.1 299 Next\r\nContent-Length: 0\r\n\r\n";

/// A request means the same to both, and ends at the same byte.
///
/// # Panics
/// When they differ.
pub fn compare_requests(sent: &[u8], reads: Reads) -> Verdict {
    let Read::Whole { message, end, next } = request(sent, at_once()) else {
        return Verdict::NotOurs;
    };
    let spliced = [&sent[..end], NEXT_REQUEST].concat();
    let seen = theirs::requests(&spliced, reads);
    let Some((first, more)) = seen.split_first() else {
        return Verdict::OursAlone;
    };
    assert_eq!(message, *first, "ours, theirs");
    let is_next = |message: &Message| message.start == "GET /next";
    assert!(
        more.len() <= 1 && more.iter().all(is_next),
        "smuggled: {more:?}"
    );
    if next == Next::Message {
        assert_eq!(more.len(), 1, "we go on, they don't");
    }
    Verdict::Agreed
}

/// The same for an answer.
///
/// # Panics
/// When they differ.
pub fn compare_answers(sent: &[u8], asked: Asked, reads: Reads) -> Verdict {
    let Read::Whole { message, end, next } = answer(sent, asked, at_once()) else {
        return Verdict::NotOurs;
    };
    let Some((theirs, goes_on)) = theirs::answer(&sent[..end], asked, next, reads) else {
        return Verdict::OursAlone;
    };
    assert_eq!(message, theirs, "ours, theirs");
    if next == Next::Message {
        assert!(goes_on, "we go on, they don't");
    }
    Verdict::Agreed
}

/// No split of a request into reads changes what rota makes of it.
///
/// # Panics
/// When one does.
pub fn split_request(sent: &[u8], reads: Reads) -> Read {
    let whole = request(sent, at_once());
    assert_eq!(whole, request(sent, sizes(reads)), "at once, in {reads:?}");
    if let Read::Whole { end, .. } = &whole {
        let alone = request(&sent[..*end], sizes(reads));
        assert_eq!(whole, alone, "what follows is not looked at");
    }
    whole
}

/// The same for an answer.
///
/// # Panics
/// When one does.
pub fn split_answer(sent: &[u8], asked: Asked, reads: Reads) -> Read {
    let whole = answer(sent, asked, at_once());
    let split = answer(sent, asked, sizes(reads));
    assert_eq!(whole, split, "at once, in {reads:?}");
    if let Read::Whole { end, .. } = &whole {
        let alone = answer(&sent[..*end], asked, sizes(reads));
        assert_eq!(whole, alone, "what follows is not looked at");
    }
    whole
}
