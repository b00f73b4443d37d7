//! Clients that are slow, leave before the end, or ask for what is not there.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::connection::{Connection, Door, Expected};
use super::content::bytes;
use super::desk::{Desk, Pace, Tally, Ticket, spawn};
use super::ledger::{Kind, Seen, Turn};
use super::servers::receipt;
use super::support::client::handshake;

/// One request of such a client, on a connection of its own.
type Ask = fn(&mut Connection, u64, &mut fastrand::Rng) -> Seen;

pub fn start(desk: &Arc<Desk>, door: &Door) -> Vec<JoinHandle<()>> {
    let kinds: [(Kind, usize, f64, Ask); 9] = [
        (Kind::SlowReader, 6, 0.2, slow_reader),
        (Kind::SlowBody, 4, 0.2, slow_body),
        (Kind::SlowHead, 4, 0.2, slow_head),
        (Kind::EndlessHead, 3, 0.1, endless_head),
        (Kind::EndlessBody, 3, 0.1, endless_body),
        (Kind::Leaver, 2, 1.0, leaves_its_upload),
        (Kind::Leaver, 2, 1.0, leaves_its_answer),
        (Kind::Cut, 1, 0.5, is_cut),
        (Kind::Stranger, 1, 0.5, asks_for_a_stranger),
    ];
    let mut clients = Vec::new();
    for (kind, count, pace, ask) in kinds {
        for number in 0..count {
            let (whose, door) = (2000 + clients.len() as u64, door.clone());
            clients.push(spawn(desk, whose, move |desk, mut random| {
                let mut pace = Pace::of(pace, &mut random);
                while pace.wait(desk) {
                    let ticket = desk.ticket(kind);
                    once(desk, &door, ticket, number, |line, id| {
                        ask(line, id, &mut random)
                    });
                }
            }));
        }
    }
    let door = door.clone();
    clients.push(spawn(desk, 2999, move |desk, random| {
        names_nobody(desk, &door, random)
    }));
    clients
}

/// Every second client of a kind speaks TLS.
fn once(
    desk: &Desk,
    door: &Door,
    ticket: Ticket,
    number: usize,
    ask: impl FnOnce(&mut Connection, u64) -> Seen,
) {
    let line = match number % 2 {
        0 => Connection::plain(desk, door, &door.names[0].name),
        _ => Connection::secure(desk, door, &door.names[number % door.names.len()]),
    };
    let seen = match line {
        Ok(mut line) => ask(&mut line, ticket.id),
        Err(error) => Seen::Nothing {
            why: format!("no connection: {error}"),
        },
    };
    desk.close(ticket, seen, Turn::First);
}

/// Some 10 s for its answer, which fits into no buffer on its way.
fn slow_reader(line: &mut Connection, id: u64, random: &mut fastrand::Rng) -> Seen {
    let length = random.u64(4 << 20..6 << 20);
    let head = line.head("GET", &format!("/bytes?id={id}&n={length}"), "");
    let expected = Expected::Content { id, length };
    let mut unrested = 0;
    line.exchange(
        |line| line.send(head.as_bytes()),
        &expected,
        |came| {
            unrested += came;
            while unrested >= 128 << 10 {
                unrested -= 128 << 10;
                std::thread::sleep(Duration::from_millis(250));
            }
        },
    )
}

/// 2 KiB a second, for some 10 s.
fn slow_body(line: &mut Connection, id: u64, _: &mut fastrand::Rng) -> Seen {
    let body = bytes(id, 20 << 10);
    let framing = format!("Content-Length: {}\r\n", body.len());
    let head = line.head("POST", &format!("/take?id={id}"), &framing);
    let send = |line: &mut Connection| {
        line.send(head.as_bytes())?;
        for piece in body.chunks(512) {
            std::thread::sleep(Duration::from_millis(250));
            line.send(piece)?;
        }
        Ok(())
    };
    line.exchange(send, &Expected::Text(receipt(id, "whole")), |_| {})
}

/// 5 s for its head, a byte at a time.
fn slow_head(line: &mut Connection, id: u64, _: &mut fastrand::Rng) -> Seen {
    let head = line.head("GET", &format!("/bytes?id={id}&n=100"), "");
    let pause = Duration::from_secs(5) / head.len() as u32;
    let send = |line: &mut Connection| {
        head.bytes().try_for_each(|byte| {
            std::thread::sleep(pause);
            line.send(&[byte])
        })
    };
    line.exchange(send, &Expected::Content { id, length: 100 }, |_| {})
}

/// A byte a second, and no end.
fn endless_head(line: &mut Connection, id: u64, _: &mut fastrand::Rng) -> Seen {
    let head = line.head("GET", &format!("/bytes?id={id}&n=100"), "");
    let send = |line: &mut Connection| {
        // Less than the deadline for a head, so that no byte meets a closed connection.
        for byte in head.bytes().take(9) {
            line.send(&[byte])?;
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    };
    line.exchange(send, &Expected::Content { id, length: 100 }, |_| {})
}

/// Some bytes of its body, and no end.
fn endless_body(line: &mut Connection, id: u64, _: &mut fastrand::Rng) -> Seen {
    let head = line.head(
        "POST",
        &format!("/take?id={id}"),
        "Content-Length: 100000\r\n",
    );
    let send = |line: &mut Connection| {
        line.send(head.as_bytes())?;
        for piece in bytes(id, 500).chunks(100) {
            line.send(piece)?;
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    };
    line.exchange(send, &Expected::Text(receipt(id, "whole")), |_| {})
}

fn leaves_its_upload(line: &mut Connection, id: u64, random: &mut fastrand::Rng) -> Seen {
    let framing = "Content-Length: 500000\r\n";
    let head = line.head("POST", &format!("/take?id={id}"), framing);
    let sent = line.send(head.as_bytes());
    let _ = sent.and_then(|()| line.send(&bytes(id, random.u64(0..400_000))));
    std::thread::sleep(Duration::from_millis(random.u64(0..500)));
    Seen::Left
}

fn leaves_its_answer(line: &mut Connection, id: u64, random: &mut fastrand::Rng) -> Seen {
    let ms = random.u64(0..1000);
    let head = line.head("GET", &format!("/bytes?id={id}&n=3000000&ms={ms}"), "");
    let _ = line.send(head.as_bytes());
    match random.bool() {
        true => std::thread::sleep(Duration::from_millis(random.u64(0..500))),
        false => drop(line.read_some(&mut [0; 1000])),
    }
    Seen::Left
}

fn is_cut(line: &mut Connection, id: u64, random: &mut fastrand::Rng) -> Seen {
    line.host = "cut.soak.test".into();
    let length = random.u64(1000..300_000);
    let target = format!("/cut?id={id}&n={length}");
    line.get(&target, &Expected::Content { id, length })
}

fn asks_for_a_stranger(line: &mut Connection, id: u64, _: &mut fastrand::Rng) -> Seen {
    line.host = "stranger.test".into();
    let expected = Expected::Content { id, length: 0 };
    line.get(&format!("/bytes?id={id}&n=0"), &expected)
}

/// Handshakes for a name that nobody has.
fn names_nobody(desk: &Desk, door: &Door, mut random: fastrand::Rng) {
    let mut pace = Pace::of(0.5, &mut random);
    let mut tls = door.names[0].clone();
    tls.name = "stranger.test".into();
    while pace.wait(desk) {
        let Err(error) = handshake(door.secure, &tls) else {
            panic!("a stranger's name was served");
        };
        match error.to_string().contains("UnrecognisedName") {
            true => Tally::count(&desk.connections.unknown),
            false => desk.tell(&format!("a stranger's handshake: {error}")),
        }
    }
}
