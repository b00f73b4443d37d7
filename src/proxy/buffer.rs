//! Buffers that workers lend to connections while they have bytes in flight, and take back when idle. Hot path.

use std::cell::RefCell;
use std::rc::Rc;

/// What a connection gets first; a head larger than this makes it grow up to `limits.head_bytes`.
pub const BASE_SIZE: usize = 16 * 1024;
/// What a body that keeps filling its buffer gets: large enough that a system call moves much, small enough for the cache.
pub const BODY_SIZE: usize = 256 * 1024;
/// How many buffers of the base size a worker keeps for later.
const KEPT: usize = 256;
/// How many of the body size a worker keeps.
const BODY_KEPT: usize = 8;
/// How many of the body size a worker lends at once (32 MiB, and over TLS as much again, encrypted); bodies beyond that go on in the base size, so that ten thousand
/// slow clients don't hold more than ten thousand small buffers.
pub const BODY_LENT: usize = 128;

/// A worker's free buffers.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<RefCell<Free>>);

#[derive(Debug, Default)]
struct Free {
    base: Vec<Box<[u8]>>,
    body: Vec<Box<[u8]>>,
    body_lent: usize,
}

/// Bytes between a read and a write. Holds no memory until something is to be read into it.
#[derive(Debug)]
pub struct Buf {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// What it takes when it has none: the body size in the middle of a large body, whose pauses are short.
    next_size: usize,
    home: Buffers,
}

impl Buffers {
    pub fn empty(&self) -> Buf {
        Buf {
            bytes: Box::new([]),
            start: 0,
            end: 0,
            next_size: BASE_SIZE,
            home: self.clone(),
        }
    }

    fn may_lend_body(&self) -> bool {
        self.0.borrow().body_lent < BODY_LENT
    }

    fn take(&self, size: usize) -> Box<[u8]> {
        let mut free = self.0.borrow_mut();
        let kept = match size {
            BASE_SIZE => free.base.pop(),
            BODY_SIZE => {
                free.body_lent += 1;
                free.body.pop()
            }
            _ => None,
        };
        kept.unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    fn give(&self, bytes: Box<[u8]>) {
        let mut free = self.0.borrow_mut();
        let (shelf, kept) = match bytes.len() {
            BASE_SIZE => (&mut free.base, KEPT),
            BODY_SIZE => {
                free.body_lent -= 1;
                (&mut free.body, BODY_KEPT)
            }
            _ => return,
        };
        if shelf.len() < kept {
            shelf.push(bytes);
        }
    }
}

impl Buf {
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room to read into; takes a buffer if there is none, moves bytes to the front if the end is reached.
    pub fn space(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            let size = match self.home.may_lend_body() {
                true => self.next_size,
                false => BASE_SIZE,
            };
            self.bytes = self.home.take(size);
        }
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Says that `count` bytes of [`Buf::space`] were filled.
    pub fn fill(&mut self, count: usize) {
        debug_assert!(count <= self.bytes.len() - self.end);
        self.end += count;
    }

    /// Takes all parts behind what is filled, or none of them where they don't fit.
    pub fn append(&mut self, parts: &[&[u8]]) -> bool {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.space().len() < total {
            return false;
        }
        for part in parts {
            self.space()[..part.len()].copy_from_slice(part);
            self.fill(part.len());
        }
        true
    }

    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
    }

    /// Whether the last read filled everything: there is probably more.
    pub fn is_full(&self) -> bool {
        self.end == self.bytes.len() && !self.bytes.is_empty()
    }

    /// Grows for a body that keeps filling it, unless the worker has lent too many of that size already.
    pub fn grow_for_body(&mut self) {
        if self.home.may_lend_body() {
            self.next_size = BODY_SIZE;
            self.grow(BODY_SIZE);
        }
    }

    /// The body is over: what comes next begins small again.
    pub fn end_body(&mut self) {
        self.next_size = BASE_SIZE;
    }

    /// Grows to hold `size` bytes, keeping what is filled.
    pub fn grow(&mut self, size: usize) {
        if size <= self.bytes.len() {
            return;
        }
        let mut larger = self.home.take(size);
        let len = self.len();
        larger[..len].copy_from_slice(&self.bytes[self.start..self.end]);
        let old = std::mem::replace(&mut self.bytes, larger);
        self.start = 0;
        self.end = len;
        self.home.give(old);
    }

    /// Makes room for more of a head of at most `most` bytes: twice as much as before, until there is enough for all of it.
    pub fn grow_if_full(&mut self, most: usize) {
        if self.is_full() {
            self.grow((self.size() * 2).min(most.max(self.size() + 1)));
        }
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Gives the memory back if nothing is in it.
    pub fn rest(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            self.home.give(std::mem::take(&mut self.bytes));
            self.start = 0;
            self.end = 0;
        }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.give(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_growing_and_moving() {
        let mut buf = Buffers::default().empty();
        buf.space()[..5].copy_from_slice(b"hello");
        buf.fill(5);
        buf.consume(1);
        buf.grow(BODY_SIZE);
        assert_eq!(buf.filled(), b"ello");
        let rest = buf.space().len();
        buf.fill(rest);
        assert!(buf.is_full());
        buf.consume(2);
        assert_eq!(buf.space().len(), 2);
        assert_eq!(&buf.filled()[..2], b"lo");
    }

    #[test]
    fn a_large_body_goes_on_in_large_reads_behind_a_pause() {
        let mut buf = Buffers::default().empty();
        buf.space();
        buf.grow_for_body();
        buf.rest();
        assert_eq!((buf.size(), buf.space().len()), (0, BODY_SIZE));
        buf.end_body();
        buf.rest();
        assert_eq!(buf.space().len(), BASE_SIZE);
    }

    #[test]
    fn an_idle_buffer_holds_no_memory() {
        let home = Buffers::default();
        let mut buf = home.empty();
        assert_eq!(buf.size(), 0);
        buf.space();
        buf.rest();
        assert_eq!(buf.size(), 0);
        assert_eq!(home.0.borrow().base.len(), 1);
    }
}
