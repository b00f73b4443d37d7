//! Promises under load, one at a time, and the figures that README shows.
//!
//! The figures are ignored unless asked for (`scripts/figures`): they want a release build (`ROTA_BIN`) and a quiet machine.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

#[path = "../support/consul.rs"]
mod consul_agent;
#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod certificates;
mod domains;
mod figures;
mod kept;
mod peers;
mod promises;
mod rollback;
mod scale;
mod shift;

use std::sync::{Mutex, MutexGuard};

/// Held by each test: two at once would disturb each other's times.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// A WebSocket server's behaviour: 101 and an echo; `/` gets `body`.
fn echo_or(exchange: &mut support::Exchange, body: &str) -> std::io::Result<()> {
    if exchange.request.field("upgrade").is_none() {
        return exchange.answer(200, &[], body.as_bytes());
    }
    exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
    exchange.echo()
}

/// An open WebSocket through rota.
fn websocket(rota: &support::Rota) -> support::Client {
    let mut client = support::Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\nHost: load.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(client.answer_head().status, 101);
    client
}

/// What was sent comes back.
fn still_echoes(client: &mut support::Client) {
    client.send("still there");
    assert_eq!(client.read_exactly(11), b"still there");
}
