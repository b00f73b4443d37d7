//! A WebSocket, once it is agreed on: bytes both ways until either side ends or nothing moves any more.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::buffer::{Buf, Buffers};
use super::io::Io;
use super::pool::ServerConnection;
use super::timer::Timer;

/// Bytes that went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub up: u64,
    pub down: u64,
}

/// Runs until both directions have ended, one failed, or neither moved a byte for `idle`. Bytes that either side sent
/// before the switch are in its buffer, and go first.
pub async fn run(
    client: &Io,
    early: &mut Buf,
    server: ServerConnection,
    idle: Duration,
    buffers: &Buffers,
) -> Moved {
    let (up, down) = (Cell::new(0), Cell::new(0));
    let last = Cell::new(Instant::now());
    let mut answered = server.buf.replace(buffers.empty());
    {
        let mut upward = pin!(copy(client, early, &server.io, &up, &last));
        let mut downward = pin!(copy(&server.io, &mut answered, client, &down, &last));
        let (mut up_ended, mut down_ended) = (false, false);
        let both = poll_fn(|cx| {
            for (ended, direction) in [
                (
                    &mut up_ended,
                    upward.as_mut() as std::pin::Pin<&mut dyn Future<Output = bool>>,
                ),
                (&mut down_ended, downward.as_mut()),
            ] {
                if !*ended && let Poll::Ready(is_clean) = direction.poll(cx) {
                    *ended = true;
                    if !is_clean {
                        return Poll::Ready(());
                    }
                }
            }
            if up_ended && down_ended {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let mut both = pin!(both);
        let timer = Timer::default();
        while timer
            .within(last.get() + idle, both.as_mut())
            .await
            .is_err()
            && last.get() + idle > Instant::now()
        {}
    }
    Moved {
        up: up.get(),
        down: down.get(),
    }
}

/// One direction; true when it ended in an orderly way and that was passed on.
async fn copy(from: &Io, buf: &mut Buf, to: &Io, moved: &Cell<u64>, last: &Cell<Instant>) -> bool {
    loop {
        if !buf.is_empty() {
            if to.write_all(&[buf.filled()]).await.is_err() {
                return false;
            }
            moved.set(moved.get() + buf.len() as u64);
            last.set(Instant::now());
            buf.consume(buf.len());
        }
        match from.read_into(buf).await {
            Ok(0) => return to.shutdown().await.is_ok(),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}
