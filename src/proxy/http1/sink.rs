//! An answer on its way to an HTTP/1 client: head and small pieces are gathered, large ones written from where they lie. Hot path.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Duration;

use httparse::Header;

use super::body::chunk_line;
use super::head::{self, AnswerHead, Version, field_space};
use crate::proxy::answer::{self, BodyOut, Then};
use crate::proxy::exchange::{ClientGone, Sink};
use crate::proxy::io::Io;
use crate::proxy::refusal::Refusal;
use crate::proxy::story::trailer_section;
use crate::proxy::timer::Timer;

/// Pieces up to this size are copied and sent together with what stands around them.
const GATHERED_PIECE: usize = 4 * 1024;
/// What is gathered is sent at this size.
const GATHERED: usize = 16 * 1024;

pub struct AnswerSink<'c> {
    io: &'c Io,
    out: &'c mut Vec<u8>,
    timer: &'c Timer,
    patience: Duration,
    version: Version,
    body: BodyOut,
    sent: u64,
    answered: &'c Cell<bool>,
    /// All of the answer went out.
    is_whole: bool,
}

/// Whatever ends an answer early, a drain that waits no longer and a panic included: its connection's end must not look like its own.
impl Drop for AnswerSink<'_> {
    fn drop(&mut self) {
        if self.answered.get() && !self.is_whole {
            self.io.reset_on_close();
        }
    }
}

impl<'c> AnswerSink<'c> {
    /// `patience`: how long a client may take no byte.
    pub fn new(
        io: &'c Io,
        out: &'c mut Vec<u8>,
        timer: &'c Timer,
        patience: Duration,
        version: Version,
        answered: &'c Cell<bool>,
    ) -> AnswerSink<'c> {
        out.clear();
        AnswerSink {
            io,
            out,
            timer,
            patience,
            version,
            body: BodyOut::None,
            sent: 0,
            answered,
            is_whole: false,
        }
    }

    async fn write(&mut self, rest: &[&[u8]]) -> Result<(), ClientGone> {
        let mut slices: [&[u8]; 4] = [&[]; 4];
        slices[0] = self.out.as_slice();
        slices[1..=rest.len()].copy_from_slice(rest);
        let written = self
            .io
            .write_patiently(&slices[..=rest.len()], self.timer, self.patience)
            .await;
        self.out.clear();
        if written { Ok(()) } else { Err(ClientGone) }
    }
}

impl Sink for AnswerSink<'_> {
    async fn interim(&mut self, raw: &[u8]) -> Result<(), ClientGone> {
        if self.version != Version::Http11 {
            return Ok(());
        }
        {
            // Gone before the write: the space would otherwise be part of the task.
            let mut space = field_space();
            if let Ok(interim) = head::answer(raw, &mut space) {
                answer::write_interim(self.out, &interim);
            }
        }
        self.write(&[]).await
    }

    fn head(&mut self, head: &AnswerHead<'_>, body: BodyOut, then: Then) {
        self.answered.set(true);
        self.body = body;
        if head.status == 101 {
            // What follows is no part of it.
            self.is_whole = true;
            answer::write_interim(self.out, head);
        } else {
            answer::write_answer(self.out, head, self.version, body, then);
        }
    }

    async fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        self.sent += bytes.len() as u64;
        let mut line = [0u8; 18];
        let size: &[u8] = if self.body == BodyOut::Chunked {
            chunk_line(&mut line, bytes.len())
        } else {
            &[]
        };
        let end: &[u8] = if self.body == BodyOut::Chunked {
            b"\r\n"
        } else {
            &[]
        };
        if bytes.len() > GATHERED_PIECE {
            return self.write(&[size, bytes, end]).await;
        }
        for part in [size, bytes, end] {
            self.out.extend_from_slice(part);
        }
        if self.out.len() >= GATHERED {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), ClientGone> {
        if self.out.is_empty() {
            Ok(())
        } else {
            self.write(&[]).await
        }
    }

    fn takes_large_reads(&self) -> bool {
        true
    }

    async fn end(&mut self, trailers: &[Header<'_>]) -> Result<(), ClientGone> {
        if self.body == BodyOut::Chunked {
            if trailers.is_empty() {
                self.out.extend_from_slice(b"0\r\n\r\n");
            } else {
                self.out.extend_from_slice(&trailer_section(trailers));
            }
        }
        self.flush().await?;
        self.is_whole = true;
        Ok(())
    }

    async fn refuse(
        &mut self,
        refusal: Refusal,
        is_head: bool,
        then: Then,
    ) -> Result<(), ClientGone> {
        self.out.clear();
        answer::write_refusal(self.out, refusal, is_head, then);
        self.write(&[]).await
    }

    fn cut(&mut self) {
        self.out.clear();
        self.io.reset_on_close();
    }

    fn poll_aborted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_aborted(cx)
    }

    fn sent(&self) -> u64 {
        self.sent
    }
}
