//! WebSockets that echo throughout: each lives as long as its server does, whatever else happens.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connection::{Connection, Door};
use super::content::bytes;
use super::desk::{Desk, spawn};
use super::ledger::{Kind, Seen};

const SOCKETS: usize = 20;

pub fn start(desk: &Arc<Desk>, door: &Door) -> Vec<JoinHandle<()>> {
    let socket = |number: usize| {
        let door = door.clone();
        spawn(desk, 3000 + number as u64, move |desk, mut random| {
            while !desk.is_over() {
                // One in four lives for the whole run.
                let seconds = if number.is_multiple_of(4) {
                    u64::MAX
                } else {
                    random.u64(5..90)
                };
                once(desk, &door, number, Duration::from_secs(seconds));
                desk.rest(Duration::from_millis(random.u64(0..2000)));
            }
        })
    };
    (0..SOCKETS).map(socket).collect()
}

fn once(desk: &Desk, door: &Door, number: usize, life: Duration) {
    let ticket = desk.ticket(Kind::WebSocket);
    let line = match number % 2 {
        0 => Connection::plain(desk, door, &door.names[0].name),
        _ => Connection::secure(desk, door, &door.names[number % door.names.len()]),
    };
    let seen = match line {
        Ok(mut line) => lives(desk, &mut line, ticket.id, life),
        Err(error) => Seen::Nothing {
            why: format!("no connection: {error}"),
        },
    };
    desk.close(ticket, seen, super::ledger::Turn::First);
}

fn lives(desk: &Desk, line: &mut Connection, id: u64, life: Duration) -> Seen {
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = line.head("GET", &format!("/echo?id={id}"), fields);
    let sent = line.send(head.as_bytes());
    let status = match line.answer_head() {
        Ok((101, _)) => 101,
        Ok((status, _)) => return Seen::Whole { status },
        Err(seen) => return seen,
    };
    let begun = Instant::now();
    let mut echoed = sent;
    let mut count = 0;
    while !desk.is_over() && begun.elapsed() < life {
        count += 1;
        let said = bytes(id + count, 10 + count % 3000);
        let mut heard = vec![0; said.len()];
        echoed = echoed
            .and_then(|()| line.send(&said))
            .and_then(|()| line.read_exactly(&mut heard));
        match &echoed {
            Err(error) => {
                return Seen::Truncated {
                    status,
                    why: format!("{error} at echo {count}"),
                };
            }
            Ok(()) if heard != said => return Seen::Garbled { status },
            Ok(()) => desk.rest(Duration::from_secs(1)),
        }
    }
    Seen::Whole { status }
}
