//! Clients that do what most do: small requests, uploads and downloads over HTTP/1, plain and over TLS.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::connection::{Connection, Door, Expected, Kept};
use super::content::write_pieces;
use super::desk::{Desk, Pace, spawn};
use super::ledger::{Kind, Seen, Turn};
use super::servers::receipt;

/// Requests a second, of each client.
const SMALL: f64 = 20.0;
const LARGE: f64 = 0.7;

pub fn start(desk: &Arc<Desk>, door: &Door) -> Vec<JoinHandle<()>> {
    let plain = |most| {
        let door = door.clone();
        Kept::new(most, move |desk| {
            Connection::plain(desk, &door, &door.names[0].name)
        })
    };
    let secure = |name: usize, most| {
        let door = door.clone();
        Kept::new(most, move |desk| {
            Connection::secure(desk, &door, &door.names[name % door.names.len()])
        })
    };
    let mut clients = Vec::new();
    let mut add = |kept: Kept, pace: f64, ask: Ask| {
        let whose = 1000 + clients.len() as u64;
        clients.push(spawn(desk, whose, move |desk, random| {
            drive(desk, kept, pace, ask, random);
        }));
    };
    for name in 0..7 {
        add(plain(u32::MAX), SMALL, small);
        add(secure(name, 40), SMALL, small);
    }
    // Each request on a connection of its own.
    add(plain(1), SMALL / 4.0, small);
    add(secure(1, 1), SMALL / 10.0, small);
    for name in 0..2 {
        add(plain(100), LARGE, upload);
        add(plain(100), LARGE, download);
        add(secure(name, 100), LARGE, upload);
        add(secure(name, 100), LARGE, download);
    }
    clients
}

/// One request on a connection, and what became of it.
type Ask = fn(&mut Connection, &mut fastrand::Rng) -> (Kind, Sending);

/// What is to be sent, once it has its id.
type Sending = Box<dyn FnOnce(&mut Connection, u64) -> Seen>;

fn drive(desk: &Desk, mut kept: Kept, pace: f64, ask: Ask, mut random: fastrand::Rng) {
    let mut pace = Pace::of(pace, &mut random);
    while pace.wait(desk) {
        match kept.line(desk) {
            Ok(line) => {
                let (kind, sending) = ask(line, &mut random);
                let (ticket, turn) = (desk.ticket(kind), line.turn);
                let seen = sending(line, ticket.id);
                desk.close(ticket, seen, turn);
            }
            Err(seen) => desk.close(desk.ticket(Kind::Get), seen, Turn::First),
        }
    }
}

fn small(_: &mut Connection, random: &mut fastrand::Rng) -> (Kind, Sending) {
    let length = random.u64(0..8192);
    let path = ["/bytes", "/bytes", "/bytes", "/chunks"][random.usize(0..4)];
    // One in fifty takes its server a moment.
    let ms = if random.u8(0..50) == 0 {
        random.u64(50..1500)
    } else {
        0
    };
    if random.u8(0..8) == 0 {
        let sending: Sending = Box::new(move |line, id| send_body(line, id, length));
        return (Kind::Post, sending);
    }
    let sending: Sending = Box::new(move |line, id| {
        let target = format!("{path}?id={id}&n={length}&ms={ms}");
        line.get(&target, &Expected::Content { id, length })
    });
    (Kind::Get, sending)
}

fn upload(_: &mut Connection, random: &mut fastrand::Rng) -> (Kind, Sending) {
    let length = random.u64(64 << 10..1 << 20);
    (
        Kind::Upload,
        Box::new(move |line, id| send_body(line, id, length)),
    )
}

fn download(_: &mut Connection, random: &mut fastrand::Rng) -> (Kind, Sending) {
    let length = random.u64(256 << 10..4 << 20);
    let path = ["/bytes", "/chunks"][random.usize(0..2)];
    let sending: Sending = Box::new(move |line, id| {
        let target = format!("{path}?id={id}&n={length}");
        line.get(&target, &Expected::Content { id, length })
    });
    (Kind::Download, sending)
}

/// A POST of so many bytes; in chunks where the id is odd.
fn send_body(line: &mut Connection, id: u64, length: u64) -> Seen {
    let target = format!("/take?id={id}");
    let expected = Expected::Text(receipt(id, "whole"));
    let is_chunked = id % 2 == 1;
    let framing = match is_chunked {
        true => "Transfer-Encoding: chunked\r\n".to_owned(),
        false => format!("Content-Length: {length}\r\n"),
    };
    let head = line.head("POST", &target, &framing);
    let send = |line: &mut Connection| {
        line.send(head.as_bytes())?;
        if !is_chunked {
            return write_pieces(id, length, |piece| line.send(piece));
        }
        write_pieces(id, length, |piece| {
            line.send(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
        })?;
        line.send(b"0\r\n\r\n")
    };
    line.exchange(send, &expected, |_| {})
}
