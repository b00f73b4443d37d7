//! What travels: bytes that both ends can work out by themselves, so that each checks every one of them.

use std::io::{self, Write};
use std::sync::LazyLock;

const TABLE_LENGTH: usize = 64 << 10;

/// Twice the same, so that a turn of it is one slice wherever it begins.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(1);
    let once: Vec<u8> = (0..TABLE_LENGTH).map(|_| random.u8(..)).collect();
    once.repeat(2)
});

/// The bytes of one id: written in pieces, or held against those that come.
pub struct Content {
    next: usize,
    pub length: u64,
    is_other: bool,
}

impl Content {
    pub fn of(id: u64) -> Content {
        Content {
            next: (id.wrapping_mul(7919) % TABLE_LENGTH as u64) as usize,
            length: 0,
            is_other: false,
        }
    }

    /// The next bytes, `most` or fewer.
    pub fn piece(&mut self, most: usize) -> &'static [u8] {
        let piece = &TABLE[self.next..][..most.min(TABLE_LENGTH)];
        self.advance(piece.len());
        piece
    }

    /// Of bytes that came.
    pub fn compare(&mut self, mut came: &[u8]) {
        while !came.is_empty() {
            let (now, later) = came.split_at(came.len().min(TABLE_LENGTH));
            self.is_other |= self.piece(now.len()) != now;
            came = later;
        }
    }

    /// Whether so many bytes have come, and each as it should be.
    pub fn is_whole(&self, length: u64) -> bool {
        !self.is_other && self.length == length
    }

    fn advance(&mut self, count: usize) {
        self.next = (self.next + count) % TABLE_LENGTH;
        self.length += count as u64;
    }
}

/// Writes the `length` bytes of `id`, each piece by `write`.
pub fn write_pieces(
    id: u64,
    length: u64,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut content = Content::of(id);
    while content.length < length {
        let left = usize::try_from(length - content.length).unwrap_or(usize::MAX);
        write(content.piece(left))?;
    }
    Ok(())
}

pub fn bytes(id: u64, length: u64) -> Vec<u8> {
    let mut all = Vec::new();
    write_pieces(id, length, |piece| all.write_all(piece)).expect("a Vec takes every byte");
    all
}

/// A number in the query of a target: `/bytes?id=7&n=100`.
pub fn number(target: &str, key: &str) -> Option<u64> {
    let query = target.split_once('?')?.1;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(name, _)| *name == key);
    found.next()?.1.parse().ok()
}

#[test]
fn what_is_written_compares_and_what_was_changed_or_cut_does_not() {
    for length in [0, 1, 65_535, 65_536, 200_000] {
        let whole = bytes(9, length);
        let is_whole = |came: &[u8]| {
            let mut content = Content::of(9);
            came.chunks(1000).for_each(|piece| content.compare(piece));
            content.is_whole(length)
        };
        assert!(is_whole(&whole));
        assert_eq!(is_whole(&bytes(10, length)), length == 0);
        assert_eq!(is_whole(&whole[..whole.len() / 2]), length == 0);
    }
    assert_eq!(number("/bytes?id=7&n=100", "n"), Some(100));
}
