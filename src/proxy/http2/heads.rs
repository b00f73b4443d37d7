//! Heads of streams as they come in: by when the one under way has to be whole, and how many h2 ended by itself. Hot path.
//!
//! h2 shows a stream once its head is whole and good. For one that does not end it has no deadline, and of one that it answers (431) or
//! resets it tells nobody. Both are seen below it, from the heads of frames (`meter`).

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::STREAMS;
use super::conduct::ABANDONED;

/// Heads that may have come in and not been accepted: all that h2 keeps until then, and as many refused as are borne at once.
const UNSEEN: usize = STREAMS as usize + ABANDONED;

/// One connection's.
#[derive(Debug)]
pub struct Heads {
    /// The first one has to be whole by then.
    first_due: Instant,
    /// One was whole.
    is_begun: Cell<bool>,
    /// A block's last frame is still to come.
    is_open: Cell<bool>,
    /// When the one that is under way began.
    since: Cell<Option<Instant>>,
    newest_stream: Cell<u32>,
    /// Those that h2 has shown nobody so far.
    unseen: Cell<usize>,
}

impl Heads {
    pub fn new(first_due: Instant) -> Heads {
        Heads {
            first_due,
            is_begun: Cell::new(false),
            is_open: Cell::new(false),
            since: Cell::new(None),
            newest_stream: Cell::new(0),
            unseen: Cell::new(0),
        }
    }

    /// A HEADERS frame began; true: it opens a stream.
    pub fn began(&self, stream: u32) -> bool {
        self.since.set(None);
        let opens = stream > self.newest_stream.get();
        if opens {
            self.newest_stream.set(stream);
            self.unseen.set(self.unseen.get() + 1);
        }
        opens
    }

    /// A frame of another kind began: what was a part of a frame's head was none of a stream's.
    pub fn passed(&self) {
        if !self.is_open.get() {
            self.nothing_under_way();
        }
    }

    /// What a HEADERS or CONTINUATION frame says of its block.
    pub fn continues(&self, is_last: bool) {
        self.is_open.set(!is_last);
    }

    /// All that came was looked at; `in_frame`: it ends where a head may be under way.
    pub fn came(&self, in_frame: bool) {
        if in_frame || self.is_open.get() {
            if !self.is_part() {
                self.since.set(Some(Instant::now()));
            }
        } else {
            self.nothing_under_way();
        }
    }

    fn nothing_under_way(&self) {
        self.since.set(None);
        self.is_begun.set(self.newest_stream.get() > 0);
    }

    /// A head came in part.
    pub fn is_part(&self) -> bool {
        self.since.get().is_some()
    }

    pub fn part_since(&self) -> Option<Instant> {
        self.since.get()
    }

    /// By when a head has to be whole, if one is waited for.
    pub fn due(&self, patience: Duration) -> Option<Instant> {
        let part = self.since.get().map(|since| since + patience);
        let first = (!self.is_begun.get()).then_some(self.first_due);
        part.into_iter().chain(first).min()
    }

    /// It is not, or none came.
    pub fn is_late(&self, now: Instant, patience: Duration) -> bool {
        self.due(patience).is_some_and(|due| due <= now)
    }

    pub fn are_too_many(&self) -> bool {
        self.unseen.get() > UNSEEN
    }

    /// h2 showed one.
    pub fn accepted(&self) {
        self.unseen.set(self.unseen.get().saturating_sub(1));
    }

    /// h2 has shown all that it will: how many it ended by itself since it was asked last.
    pub fn refused(&self) -> usize {
        match self.is_part() {
            // The newest is not among them yet.
            true => 0,
            false => self.unseen.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_due_from_accept_on_and_each_other_from_its_first_byte_on() {
        let due = Instant::now() + Duration::from_secs(7);
        let heads = Heads::new(due);
        heads.came(false);
        assert_eq!(heads.due(PATIENCE), Some(due), "settings alone are none");
        heads.began(1);
        heads.continues(false);
        heads.came(false);
        assert_eq!(heads.due(PATIENCE), Some(due), "a part of the first");
        heads.continues(true);
        heads.came(false);
        assert_eq!(heads.due(PATIENCE), None);
        tokio::time::advance(10 * PATIENCE).await;
        let begun = Instant::now();
        heads.came(true);
        assert_eq!(heads.due(PATIENCE), Some(begun + PATIENCE));
        tokio::time::advance(PATIENCE / 2).await;
        heads.came(true);
        assert_eq!(heads.due(PATIENCE), Some(begun + PATIENCE), "not by bytes");
        heads.began(3);
        heads.continues(true);
        heads.came(true);
        let next = Instant::now();
        assert_eq!(heads.due(PATIENCE), Some(next + PATIENCE), "another one");
        // An upload each read of which ends in the head of its next frame.
        tokio::time::advance(PATIENCE / 2).await;
        heads.passed();
        heads.came(true);
        let last = Instant::now();
        assert_eq!(heads.due(PATIENCE), Some(last + PATIENCE), "none it was");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_opened_and_never_shown_was_refused() {
        let heads = Heads::new(Instant::now());
        assert!(heads.began(1) && heads.began(3) && heads.began(5));
        assert!(!heads.began(5), "its trailers");
        heads.accepted();
        heads.came(true);
        assert_eq!(heads.refused(), 0, "the last is not whole");
        heads.came(false);
        assert_eq!(heads.refused(), 2);
        assert_eq!(heads.refused(), 0);
    }
}
