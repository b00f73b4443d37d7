//! A stream that two directions of one task use at once: borrowed only while it is polled, never across an await. Hot path.

use std::cell::{Cell, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::acknowledged::acknowledged;
use super::buffer::Buf;
use super::timer::Timer;
use crate::dial::Stream;

/// How much is dropped by one system call.
const UNREAD_PIECE: usize = 16 * 1024;
/// How much is dropped before others have their turn.
const UNREAD_AT_ONCE: usize = 256 * 1024;
/// When the peer's kernel is asked for the first time how much it has of what was written, while a write waits.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// What it has to have more when patience is over, if the socket itself took nothing.
const LEAST_PROGRESS: u64 = 16 * 1024;

/// See the module.
pub struct Io(RefCell<Stream>);

impl Io {
    pub fn new(stream: Stream) -> Io {
        Io(RefCell::new(stream))
    }

    pub fn into_stream(self) -> Stream {
        self.0.into_inner()
    }

    /// For one poll, never across an await.
    pub fn stream(&self) -> RefMut<'_, Stream> {
        self.0.borrow_mut()
    }

    pub fn is_tls(&self) -> bool {
        self.0.borrow().is_tls()
    }

    /// Reads once into the buffer's space; 0 is the end. While nothing comes, an empty buffer's memory is given back.
    pub async fn read(&self, buf: &RefCell<Buf>) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_or_rest(cx, &mut buf.borrow_mut())).await
    }

    /// The same, for a buffer that nobody else looks at.
    pub async fn read_into(&self, buf: &mut Buf) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_or_rest(cx, buf)).await
    }

    fn poll_read_or_rest(&self, cx: &mut Context<'_>, buf: &mut Buf) -> Poll<io::Result<usize>> {
        let result = self.poll_read(cx, buf);
        if result.is_pending() {
            buf.rest();
        }
        result
    }

    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut Buf) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(buf.space());
        ready!(Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        buf.fill(count);
        Poll::Ready(Ok(count))
    }

    /// Writes all slices, in as few system calls and TLS records as it can, and flushes.
    pub async fn write_all(&self, slices: &[&[u8]]) -> io::Result<()> {
        self.write_counting(slices, &Cell::new(0)).await
    }

    /// The same; `written` tells how many bytes were taken, also when it fails.
    pub async fn write_counting(&self, slices: &[&[u8]], written: &Cell<usize>) -> io::Result<()> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        while written.get() < total {
            let count = poll_fn(|cx| self.poll_write(cx, slices, written.get())).await?;
            written.set(written.get() + count);
        }
        if self.is_tls() {
            poll_fn(|cx| self.poll_flush(cx)).await
        } else {
            Ok(())
        }
    }

    /// Writes all slices as [`Io::write_all`] does; each write has `patience` to make progress. False: it made none, or failed, and
    /// the close that follows is a reset: in an orderly one the kernel would go on sending what it holds, for minutes and counted by
    /// nobody, and an end behind it, so that a part of an answer looks whole.
    pub async fn write_patiently(
        &self,
        slices: &[&[u8]],
        timer: &Timer,
        patience: Duration,
    ) -> bool {
        let mut done = 0;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        while done < total {
            let write = poll_fn(|cx| self.poll_write(cx, slices, done));
            match self.patiently(timer, patience, write).await {
                Some(Ok(written)) => done += written,
                Some(Err(_)) | None => return self.give_up(),
            }
        }
        if !self.is_tls() {
            return true;
        }
        let flush = poll_fn(|cx| self.poll_flush(cx));
        matches!(self.patiently(timer, patience, flush).await, Some(Ok(()))) || self.give_up()
    }

    #[cold]
    fn give_up(&self) -> bool {
        self.reset_on_close();
        false
    }

    /// What a write gives. None: for `patience` the socket took nothing, and the peer's kernel not much of what the socket holds.
    async fn patiently<T>(
        &self,
        timer: &Timer,
        patience: Duration,
        write: impl Future<Output = io::Result<T>>,
    ) -> Option<io::Result<T>> {
        let mut write = pin!(write);
        // Nobody is asked for as long as a write takes less.
        let first = FIRST_LOOK.min(patience / 2);
        if let Ok(written) = timer.patiently(first, &mut write).await {
            return Some(written);
        }
        loop {
            let before = self.acknowledged();
            if let Ok(written) = timer.patiently(patience - first, &mut write).await {
                return Some(written);
            }
            if self.acknowledged()? < before? + LEAST_PROGRESS {
                return None;
            }
        }
    }

    /// Bytes of all that was written that the peer's kernel has; see [`acknowledged`].
    pub fn acknowledged(&self) -> Option<u64> {
        acknowledged(self.0.borrow().tcp())
    }

    /// Writes once of what follows `done` bytes of the slices (8 of them at most).
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[&[u8]],
        done: usize,
    ) -> Poll<io::Result<usize>> {
        let mut vector = [IoSlice::new(&[]); 8];
        let mut count = 0;
        let mut skip = done;
        for slice in slices {
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            vector[count] = IoSlice::new(&slice[skip..]);
            skip = 0;
            count += 1;
        }
        let mut stream = self.0.borrow_mut();
        let written = match &vector[..count] {
            [one] => ready!(Pin::new(&mut *stream).poll_write(cx, one)),
            many => ready!(Pin::new(&mut *stream).poll_write_vectored(cx, many)),
        }?;
        if written == 0 {
            Poll::Ready(Err(io::ErrorKind::WriteZero.into()))
        } else {
            Poll::Ready(Ok(written))
        }
    }

    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    /// Ends our direction: TLS close_notify, FIN.
    pub async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)).await
    }

    /// Reads and drops what the peer still sends, as it is on the wire: until the peer ends its direction, or `most` bytes came.
    pub async fn drop_unread(&self, most: usize) {
        let mut left = most;
        poll_fn(|cx| {
            // Here, so that no connection's task holds it while it waits.
            let mut bytes = [0; UNREAD_PIECE];
            let stream = self.0.borrow();
            let rest = left.saturating_sub(UNREAD_AT_ONCE);
            while left > 0 {
                if left <= rest {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let most = UNREAD_PIECE.min(left - rest);
                match stream.tcp().try_read(&mut bytes[..most]) {
                    Ok(0) => break,
                    Ok(count) => left -= count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if ready!(stream.tcp().poll_read_ready(cx)).is_err() {
                            break;
                        }
                    }
                    Err(_) => break,
                }
            }
            Poll::Ready(())
        })
        .await
    }

    /// Makes the close that follows a reset, so that a cut answer is never taken for a complete one.
    pub fn reset_on_close(&self) {
        // Fails only on a socket that is gone already, where there is nothing left to say.
        let _ = socket2::SockRef::from(self.0.borrow().tcp())
            .set_linger(Some(std::time::Duration::ZERO));
    }

    /// Whether an idle connection has anything to read; see [`Stream::has_news`].
    pub fn has_news(&self, cx: &mut Context<'_>) -> bool {
        self.0.borrow().has_news(cx)
    }

    /// Ready when the peer reset the connection. An orderly end is not one: a client may close its direction and still
    /// wait for the answer (RFC 9112 section 9.6). Bytes that wait to be read hide what comes after them.
    pub fn poll_aborted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let stream = self.0.borrow();
        let tcp = stream.tcp();
        if tcp.poll_read_ready(cx).is_pending() {
            return Poll::Pending;
        }
        let mut byte = [0u8; 1];
        let mut space = ReadBuf::new(&mut byte);
        match tcp.poll_peek(cx, &mut space) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::task::Waker;

    use super::*;

    /// Writes until nothing more is taken.
    fn fill(mut peer: &TcpStream) -> usize {
        let mut count = 0;
        while let Ok(written) = peer.write(&[b'x'; UNREAD_PIECE]) {
            count += written;
        }
        count
    }

    #[tokio::test]
    async fn what_is_dropped_unread_leaves_others_their_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        for stream in [&peer, &ours] {
            stream.set_nonblocking(true).unwrap();
        }
        let mut rest = ours.try_clone().unwrap();
        let sent = fill(&peer);
        assert!(sent > 2 * UNREAD_AT_ONCE, "{sent}");
        let ours = tokio::net::TcpStream::from_std(ours).unwrap();
        ours.readable().await.unwrap();
        let io = Io::new(Stream::Plain(ours));
        let mut dropping = pin!(io.drop_unread(usize::MAX));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(dropping.as_mut().poll(&mut cx).is_pending());
        // All that is left can be read.
        rest.set_nonblocking(false).unwrap();
        rest.set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let (mut left, mut bytes) = (sent - UNREAD_AT_ONCE, [0; UNREAD_PIECE]);
        while left > 0 {
            let most = left.min(UNREAD_PIECE);
            left -= rest.read(&mut bytes[..most]).unwrap();
        }
    }
}
