//! Clients over HTTP/2: many requests at once on a connection, some of them slow, some given up.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::Request;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{Door, Expected, GENEROUS};
use super::content::bytes as content_of;
use super::desk::{Desk, Pace, Tally};
use super::ledger::{Kind, Seen, Turn};
use super::servers::receipt;
use super::support::Tls;

const CONNECTIONS: usize = 4;
/// Requests a second of each connection, and how many of it may be under way.
const PACE: f64 = 60.0;
const STREAMS: usize = 16;
/// After so many a connection is left for another one.
const REQUESTS: u32 = 5000;

/// All of them on one thread.
pub fn start(desk: &Arc<Desk>, door: &Door) -> JoinHandle<()> {
    let (desk, door) = (desk.clone(), door.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let tls = door.names2[number % door.names2.len()].clone();
            let client = drive(desk.clone(), door.clone(), tls, 4000 + number as u64);
            clients.spawn_on(client, runtime.handle());
        }
        runtime.block_on(async { while clients.join_next().await.is_some() {} });
    })
}

async fn drive(desk: Arc<Desk>, door: Door, tls: Tls, whose: u64) {
    let mut random = desk.random(whose);
    let mut pace = Pace::of(PACE, &mut random);
    while !desk.is_over() {
        let connected = timeout(GENEROUS, connect(&desk, &door, &tls)).await;
        let Ok(Ok(sender)) = connected else {
            let why = format!("no connection: {:?}", connected.map(|c| c.err()));
            desk.close(desk.ticket(Kind::Get), Seen::Nothing { why }, Turn::First);
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let mut streams = JoinSet::new();
        for _ in 0..REQUESTS {
            tokio::time::sleep(pace.until_due()).await;
            if desk.is_over() || sender.clone().ready().await.is_err() {
                break;
            }
            if streams.len() >= STREAMS {
                streams.join_next().await;
            }
            let (sender, name) = (sender.clone(), tls.name.clone());
            streams.spawn(stream(desk.clone(), sender, name, random.fork()));
        }
        while streams.join_next().await.is_some() {}
    }
}

async fn connect(desk: &Desk, door: &Door, tls: &Tls) -> io::Result<SendRequest<Bytes>> {
    let tcp = tokio::net::TcpStream::connect(door.secure).await?;
    tcp.set_nodelay(true)?;
    Tally::count(&desk.connections.opened);
    let name = rustls_pki_types::ServerName::try_from(tls.name.clone()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
    let stream = connector.connect(name, tcp).await?;
    Tally::count(&desk.connections.shaken);
    let (sender, connection) = h2::client::handshake(stream)
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request.
async fn stream(
    desk: Arc<Desk>,
    sender: SendRequest<Bytes>,
    host: String,
    mut random: fastrand::Rng,
) {
    let length = random.u64(0..16 << 10);
    let ms = if random.u8(0..50) == 0 {
        random.u64(50..1500)
    } else {
        0
    };
    let kind = match random.u8(0..100) {
        0 => Kind::Leaver,
        1..=2 => Kind::SlowReader,
        3..=15 => Kind::Post,
        _ => Kind::Get,
    };
    let ticket = desk.ticket(kind);
    let id = ticket.id;
    let uri = |rest: String| format!("https://{host}{rest}");
    let seen = match kind {
        Kind::Post => {
            let head = Request::post(uri(format!("/take?id={id}")))
                .body(())
                .unwrap();
            let expected = Expected::Text(receipt(id, "whole"));
            let body = content_of(id, length);
            exchange(sender, head, body, &expected, Duration::ZERO).await
        }
        Kind::SlowReader => {
            let length = length * 32;
            let head = Request::get(uri(format!("/bytes?id={id}&n={length}")));
            let expected = Expected::Content { id, length };
            let rest = Duration::from_millis(200);
            exchange(sender, head.body(()).unwrap(), Vec::new(), &expected, rest).await
        }
        Kind::Leaver => {
            let head = Request::get(uri(format!("/bytes?id={id}&n=500000&ms={ms}")));
            let expected = Expected::Content { id, length };
            let rest = Duration::from_secs(1);
            let asked = exchange(sender, head.body(()).unwrap(), Vec::new(), &expected, rest);
            // What is dropped is reset.
            let _ = timeout(Duration::from_millis(random.u64(1..500)), asked).await;
            Seen::Left
        }
        _ => {
            let head = Request::get(uri(format!("/bytes?id={id}&n={length}&ms={ms}")));
            let expected = Expected::Content { id, length };
            exchange(
                sender,
                head.body(()).unwrap(),
                Vec::new(),
                &expected,
                Duration::ZERO,
            )
            .await
        }
    };
    desk.close(ticket, seen, Turn::Later);
}

/// Sends a request, reads its answer with a rest after each piece.
async fn exchange(
    sender: SendRequest<Bytes>,
    head: Request<()>,
    body: Vec<u8>,
    expected: &Expected,
    rest: Duration,
) -> Seen {
    let nothing = |why: String| Seen::Nothing { why };
    let begun = async {
        let mut sender = sender.ready().await?;
        let (answer, mut stream) = sender.send_request(head, body.is_empty())?;
        // Who was refused in the middle of his request has an answer all the same.
        let _ = send_body(&mut stream, Bytes::from(body)).await;
        answer.await
    };
    let answer = match patiently(begun).await {
        Ok(answer) => answer,
        Err(why) => return nothing(why),
    };
    let status = answer.status().as_u16();
    read(answer.into_body(), status, expected, rest).await
}

async fn read(mut body: RecvStream, status: u16, expected: &Expected, rest: Duration) -> Seen {
    let (mut content, mut text) = (expected.content(), Vec::new());
    loop {
        let piece = match patiently(async { body.data().await.transpose() }).await {
            Ok(None) if status != 200 || expected.is(&content, &text) => {
                return Seen::Whole { status };
            }
            Ok(None) => return Seen::Garbled { status },
            Ok(Some(piece)) => piece,
            Err(why) => return Seen::Truncated { status, why },
        };
        content.compare(&piece);
        text.extend_from_slice(&piece[..piece.len().min(64)]);
        tokio::time::sleep(rest).await;
        let _ = body.flow_control().release_capacity(piece.len());
    }
}

async fn patiently<T>(asked: impl Future<Output = Result<T, h2::Error>>) -> Result<T, String> {
    match timeout(GENEROUS, asked).await {
        Ok(said) => said.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing within {GENEROUS:?}")),
    }
}

async fn send_body(stream: &mut h2::SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let room = room.transpose()?.unwrap_or_default();
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, body.is_empty())?;
    }
    Ok(())
}
