//! HTTP/2 to servers, and gRPC above all: messages one by one both ways, trailers, cancellation, and servers that come and go.

mod server;

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::sync::{Notify, mpsc};

use self::server::{Call, Manner, Server, next, ok, send};
use crate::support::client::Client;
use crate::support::rota::{Place, edge_with};
use crate::support::{Authority, Load, Origin, PATIENCE, Rota, eventually};

const GRPC: &str = "application/grpc";

/// Runs a test's story; panics if it takes too long.
fn within<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * PATIENCE, story).await.unwrap() })
}

/// A rota with a plain and a TLS listener and one service.
fn start_with(authority: &Authority, place: Place, servers: &[&Server], more: &str) -> Rota {
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let listener = "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{https}\"\nprotocol = \"https\"\ncertificates = [{ certificate = \"shop.pem\", key = \"shop.key\" }]\n";
    let service = service(servers, more);
    place.start(&format!("[node]\nworkers = 1\n{listener}{service}"))
}

fn service(servers: &[&Server], more: &str) -> String {
    let servers: Vec<_> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.address))
        .collect();
    edge_with(&format!("servers = [{}]\n{more}", servers.join(", ")))
}

const H2C: &str = "protocol = \"h2c\"\n";

fn start(authority: &Authority, servers: &[&Server]) -> Rota {
    start_with(authority, Place::new(), servers, H2C)
}

/// A rota with one worker and a plain listener.
fn plain(servers: &[&Server]) -> Rota {
    Rota::start(&format!("[node]\nworkers = 1\n{}", service(servers, H2C)))
}

/// An HTTP/2 client's connection to rota.
async fn connect(rota: &Rota, authority: &Authority) -> SendRequest<Bytes> {
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let tcp = tokio::net::TcpStream::connect(rota.https()).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(tls.name).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.config));
    let stream = connector.connect(name, tcp).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Begins a call: the answer to come, and the body to send.
fn call(sender: &SendRequest<Bytes>, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let head = Request::post(format!("https://shop.test{path}"))
        .header("content-type", GRPC)
        .header("te", "trailers")
        .body(())
        .unwrap();
    sender.clone().send_request(head, false).unwrap()
}

/// A message with gRPC's prefix of five bytes.
fn message(text: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.into()
}

async fn rest(answer: Response<RecvStream>) -> (Vec<u8>, Option<HeaderMap>) {
    let mut body = answer.into_body();
    let mut all = Vec::new();
    while let Some(piece) = next(&mut body).await {
        all.extend_from_slice(&piece.unwrap());
    }
    (all, body.trailers().await.unwrap())
}

/// Sends one message and reads all of the answer.
async fn unary(
    sender: &SendRequest<Bytes>,
    text: &str,
) -> (http::StatusCode, Vec<u8>, Option<HeaderMap>) {
    let (answer, mut stream) = call(sender, "/pkg.Service/Unary");
    stream.send_data(message(text), true).unwrap();
    let answer = answer.await.unwrap();
    let status = answer.status();
    let (body, trailers) = rest(answer).await;
    (status, body, trailers)
}

async fn echo(mut call: Call) {
    let body = call.read_all().await;
    let mut stream = call.begin(GRPC);
    send(&mut stream, body.into()).await;
    stream.send_trailers(ok()).unwrap();
}

#[test]
fn a_unary_call_reaches_an_h2c_server_and_its_trailers_come_back() {
    let (authority, server) = (Authority::new(), Server::start(echo));
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        let (status, body, trailers) = unary(&client, "hello").await;
        assert_eq!((status.as_u16(), &body[..]), (200, &message("hello")[..]));
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["grpc-message"], "fine");
    });
    let (_, head) = &server.requests()[0];
    assert_eq!(head.uri, "http://shop.test/pkg.Service/Unary");
    assert_eq!(head.method, "POST");
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.headers["content-type"], GRPC);
    assert_eq!(head.headers["x-forwarded-proto"], "https");
    assert!(!head.headers.contains_key("host"));
}

#[test]
fn an_answer_of_trailers_alone_arrives_as_it_was_sent() {
    let authority = Authority::new();
    let server = Server::start(|mut call: Call| async move {
        call.read_all().await;
        let mut head = Response::new(());
        *head.headers_mut() = ok();
        head.headers_mut()
            .insert("content-type", GRPC.parse().unwrap());
        call.respond.send_response(head, true).unwrap();
    });
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        let (answer, mut stream) = call(&client, "/pkg.Service/None");
        stream.send_data(message("x"), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "0");
        assert!(!answer.headers().contains_key("content-length"));
        assert!(answer.body().is_end_stream());
    });
    let answer = rota.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        (answer.status, answer.field("grpc-status")),
        (200, Some("0"))
    );
    assert!(answer.body.is_empty());
}

fn over_tls(authority: &Authority, name: &str, alpn: &[&str]) -> Server {
    let mut config = (*authority.leaf(&[name]).server()).clone();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let manner = Manner {
        tls: Some(Arc::new(config)),
        ..Manner::default()
    };
    Server::start_with(manner, echo)
}

#[test]
fn an_h2_server_is_verified_and_has_to_agree_on_h2() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let cases = [
        (over_tls(&authority, "app.internal", &["h2"]), 200),
        (
            over_tls(&authority, "app.internal", &["http/1.1", "h2"]),
            200,
        ),
        (over_tls(&authority, "app.internal", &[]), 502),
        (over_tls(&authority, "other.internal", &["h2"]), 502),
        (over_tls(&stranger, "app.internal", &["h2"]), 502),
    ];
    for (number, (server, expected)) in cases.iter().enumerate() {
        let place = Place::new();
        std::fs::write(place.path().join("ca.pem"), &authority.pem).unwrap();
        let more = "protocol = \"h2\"\ntls = { ca = \"ca.pem\", server_name = \"app.internal\" }\n";
        let rota = start_with(&authority, place, &[server], more);
        within(async {
            let client = connect(&rota, &authority).await;
            let (status, body, trailers) = unary(&client, "hello").await;
            assert_eq!(status.as_u16(), *expected, "case {number}");
            if *expected == 200 {
                assert_eq!(body, message("hello"));
                assert_eq!(trailers.unwrap()["grpc-status"], "0");
            }
        });
        assert_eq!(server.requests().len(), usize::from(*expected == 200));
    }
}

#[test]
fn a_stream_of_messages_arrives_one_by_one() {
    let authority = Authority::new();
    let go_on = Arc::new(Notify::new());
    let released = go_on.clone();
    let server = Server::start(move |mut call: Call| {
        let go_on = released.clone();
        async move {
            call.read_all().await;
            let mut stream = call.begin(GRPC);
            for text in ["one", "two", "three"] {
                go_on.notified().await;
                send(&mut stream, message(text)).await;
            }
            stream.send_trailers(ok()).unwrap();
        }
    });
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        let (answer, mut stream) = call(&client, "/pkg.Service/Stream");
        stream.send_data(message("begin"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        for text in ["one", "two", "three"] {
            // The server sends a message only after the one before has arrived.
            go_on.notify_one();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), message(text));
        }
        assert!(next(&mut body).await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn both_sides_of_a_call_speak_in_turn_even_after_a_silence_longer_than_a_body_may_take() {
    let authority = Authority::new();
    let server = Server::start(|mut call: Call| async move {
        let mut stream = call.begin(GRPC);
        while let Some(piece) = call.next().await {
            send(&mut stream, piece.unwrap()).await;
        }
        stream.send_trailers(ok()).unwrap();
    });
    let limits = "[timeouts]\nbody = \"1s\"\nresponse = \"1s\"\n";
    let rota = start_with(
        &authority,
        Place::new(),
        &[&server],
        &format!("{H2C}{limits}"),
    );
    within(async {
        let client = connect(&rota, &authority).await;
        let (answer, mut stream) = call(&client, "/pkg.Service/Chat");
        let mut body = answer.await.unwrap().into_body();
        for turn in 0..4 {
            let text = format!("turn {turn}");
            stream.send_data(message(&text), false).unwrap();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), message(&text));
            if turn == 1 {
                tokio::time::sleep(Duration::from_millis(2500)).await;
            }
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(next(&mut body).await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_call_whose_client_speaks_slowly_loses_no_message() {
    let authority = Authority::new();
    let server = Server::start(echo);
    let text = "[timeouts]\nbody = \"200ms\"\n";
    let rota = start_with(
        &authority,
        Place::new(),
        &[&server],
        &format!("{H2C}{text}"),
    );
    within(async {
        let client = connect(&rota, &authority).await;
        let (answer, mut stream) = call(&client, "/pkg.Service/Collect");
        let messages: Vec<Bytes> = (0..6).map(|n| message(&format!("note {n}"))).collect();
        for message in &messages {
            send(&mut stream, message.clone()).await;
            tokio::time::sleep(Duration::from_millis(110)).await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
        let (body, _) = rest(answer.await.unwrap()).await;
        assert_eq!(body, messages.concat());
    });
}

#[test]
fn an_http1_client_is_served_by_an_h2c_server() {
    let server = Server::start(|mut call: Call| async move {
        let body = call.read_all().await;
        let mut early = Response::new(());
        *early.status_mut() = http::StatusCode::EARLY_HINTS;
        early.headers_mut().insert("link", "</a>".parse().unwrap());
        call.respond.send_informational(early).unwrap();
        let mut stream = call.begin("text/plain");
        send(&mut stream, body.into()).await;
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", "5".parse().unwrap());
        stream.send_trailers(fields).unwrap();
    });
    let rota = plain(&[&server]);
    let mut client = Client::connect(rota.http());
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        client.send(format!("POST /a HTTP/1.1\r\nHost: a.test:81\r\n{body}"));
        let early = client.try_any_answer().unwrap();
        assert_eq!((early.status, early.field("link")), (103, Some("</a>")));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "5".to_owned())]);
    }
    client.send("HEAD /a HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.try_any_answer().unwrap();
    assert_eq!(client.answer_head().status, 200);
    assert_eq!(server.requests()[0].1.uri, "http://a.test:81/a");
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_early_or_trailing_field_that_is_none_over_http_1_is_left_out() {
    let fields = || {
        let quoted = http::HeaderName::from_lowercase(b"x\"y").unwrap();
        let named = [(quoted, "1"), (http::HeaderName::from_static("x-z"), "1")];
        let field = |(name, value): (_, &str)| (name, value.parse().unwrap());
        named.into_iter().map(field).collect::<HeaderMap>()
    };
    let server = Server::start(move |mut call: Call| async move {
        let mut early = Response::new(());
        *early.status_mut() = http::StatusCode::EARLY_HINTS;
        *early.headers_mut() = fields();
        call.respond.send_informational(early).unwrap();
        let mut stream = call.begin("text/plain");
        stream.send_trailers(fields()).unwrap();
    });
    let rota = plain(&[&server]);
    let mut client = Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let early = client.try_any_answer().unwrap();
    assert_eq!((early.field("x-z"), early.field("x\"y")), (Some("1"), None));
    let trailers = client.answer().trailers;
    assert_eq!(trailers, [("x-z".to_owned(), "1".to_owned())]);
}

#[test]
fn a_client_that_owes_its_body_makes_no_http_2_server_late() {
    let server = Server::start(echo);
    let timeouts = "[timeouts]\nbody = \"2s\"\nresponse = \"300ms\"\n";
    let rota = Rota::start(&format!("{timeouts}{}", service(&[&server], H2C)));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nsome");
    std::thread::sleep(Duration::from_secs(1));
    client.send("more");
    let answer = client.answer();
    assert_eq!((answer.status, &*answer.text()), (200, "somemore"));
}

#[test]
fn an_empty_piece_of_a_servers_body_is_not_taken_for_its_end() {
    let server = Server::start(|mut call: Call| async move {
        let mut stream = call.begin("text/plain");
        for piece in ["", "hel", "", "lo"] {
            stream.send_data(piece.into(), false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let rota = plain(&[&server]);
    let mut client = Client::connect(rota.http());
    for _ in 0..3 {
        assert_eq!(client.get("a.test", "/").text(), "hello");
    }
}

#[test]
fn an_answer_with_a_field_that_is_none_over_http_1_is_502() {
    for (name, value) in [("x\"y", "1"), ("x", " 1"), ("x", "1\t")] {
        let server = Server::start(move |mut call: Call| async move {
            let head = Response::builder().header(name, value).body(()).unwrap();
            call.respond.send_response(head, true).unwrap();
        });
        let answer = Client::connect(plain(&[&server]).http()).get("a.test", "/");
        assert_eq!(answer.status, 502, "{name:?}: {value:?}");
    }
}

#[test]
fn a_body_that_the_status_forbids_is_not_taken_for_the_next_answer() {
    let server = Server::start(|mut call: Call| async move {
        let head = Response::builder().status(204).body(()).unwrap();
        let mut stream = call.respond.send_response(head, false).unwrap();
        let _ = stream.send_data("HTTP/1.1 200 OK\r\n\r\n".into(), true);
    });
    let rota = plain(&[&server]);
    let mut client = Client::connect(rota.http());
    for _ in 0..3 {
        assert_eq!(client.get("a.test", "/").status, 204);
    }
}

#[test]
fn large_bodies_go_both_ways_whole() {
    let (authority, server) = (Authority::new(), Server::start(echo));
    let rota = start(&authority, &[&server]);
    let body: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    within(async {
        let client = connect(&rota, &authority).await;
        let (answer, mut stream) = call(&client, "/large");
        let sent = Bytes::from(body.clone());
        let upload = tokio::spawn(async move {
            send(&mut stream, sent).await;
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let (received, trailers) = rest(answer.await.unwrap()).await;
        upload.await.unwrap();
        assert!(received == body, "{} bytes", received.len());
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    });
    let mut client = Client::connect(rota.http());
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    let answer = client.send(&body).answer();
    assert!(answer.body == body, "{} bytes", answer.body.len());
}

#[test]
fn a_client_that_cancels_is_felt_by_the_server_as_cancel() {
    let authority = Authority::new();
    let (sender, mut resets) = mpsc::unbounded_channel();
    let server = Server::start(move |mut call: Call| {
        let sender = sender.clone();
        async move {
            let mut stream = call.begin(GRPC);
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            sender.send(reason.unwrap()).unwrap();
        }
    });
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        let (answer, mut stream) = call(&client, "/pkg.Service/Watch");
        let answer = answer.await.unwrap();
        stream.send_reset(Reason::CANCEL);
        assert_eq!(resets.recv().await.unwrap(), Reason::CANCEL);
        drop(answer);
        // And by a client that speaks HTTP/1, which resets its connection.
        let mut client = Client::connect(rota.http());
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .answer_head();
        let tcp = socket2::SockRef::from(client.tcp());
        tcp.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(resets.recv().await.unwrap(), Reason::CANCEL);
    });
}

#[test]
fn a_cancel_before_the_answer_reaches_the_server() {
    let authority = Authority::new();
    let (sender, mut heard) = mpsc::unbounded_channel();
    let server = Server::start(move |mut call: Call| {
        let sender = sender.clone();
        async move {
            sender.send(None).unwrap();
            sender.send(Some(call.reset().await)).unwrap();
        }
    });
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        let (_answer, mut stream) = call(&client, "/pkg.Service/Slow");
        assert_eq!(heard.recv().await.unwrap(), None);
        stream.send_reset(Reason::CANCEL);
        assert_eq!(heard.recv().await.unwrap(), Some(Reason::CANCEL));
    });
}

#[test]
fn a_server_killed_under_load_costs_no_get() {
    let servers = [Server::fixed("one"), Server::fixed("two")];
    let rota = plain(&[&servers[0], &servers[1]]);
    let running = Load::new(rota.http(), 8).rate(1000).start();
    eventually("both are asked", || {
        servers.iter().all(|server| server.requests().len() > 100)
    });
    servers[0].kill();
    let seen = servers[1].requests().len();
    eventually("the other one carries on", || {
        servers[1].requests().len() > seen + 500
    });
    let tally = running.finish();
    assert_eq!(tally.failed(), 0, "{:?} {:?}", tally.statuses, tally.errors);
}

#[test]
fn a_request_that_a_server_refused_unread_goes_elsewhere_whatever_its_method() {
    let refusing = Server::start(|mut call: Call| async move {
        call.respond.send_reset(Reason::REFUSED_STREAM);
    });
    let well = Server::fixed("well");
    let rota = plain(&[&refusing, &well]);
    for _ in 0..4 {
        let answer = rota.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!((answer.status, answer.text().as_str()), (200, "well"));
    }
    assert!(!refusing.requests().is_empty(), "it was asked");
}

#[test]
fn a_post_that_may_have_been_read_is_not_sent_twice() {
    let failing = || {
        Server::start(|mut call: Call| async move {
            call.respond.send_reset(Reason::INTERNAL_ERROR);
        })
    };
    let servers = [failing(), failing()];
    let rota = plain(&[&servers[0], &servers[1]]);
    let answer = rota.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(answer.status, 502);
    let asked: usize = servers.iter().map(|server| server.requests().len()).sum();
    assert_eq!(asked, 1);
}

#[test]
fn a_connection_that_its_server_ends_in_good_order_costs_nobody_anything() {
    let authority = Authority::new();
    let server = Server::start(|mut call: Call| async move {
        let mut stream = call.begin(GRPC);
        while let Some(piece) = call.next().await {
            send(&mut stream, piece.unwrap()).await;
        }
        stream.send_trailers(ok()).unwrap();
    });
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        // While idle.
        assert_eq!(unary(&client, "a").await.1, message("a"));
        server.go_away();
        assert_eq!(unary(&client, "b").await.1, message("b"));
        // With a call under way: it goes on, others go over another connection.
        let (answer, mut stream) = call(&client, "/pkg.Service/Chat");
        let mut body = answer.await.unwrap().into_body();
        server.go_away();
        for round in 0..5 {
            let text = format!("round {round}");
            assert_eq!(unary(&client, &text).await.1, message(&text));
            stream.send_data(message(&text), false).unwrap();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), message(&text));
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(next(&mut body).await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
    assert!(server.connections() >= 2, "{}", server.connections());
}

/// Reads frames (RFC 9113 section 4.1) until one of `kind`; false: the connection ended first.
fn read_until(stream: &mut TcpStream, kind: u8) -> bool {
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        if head[3] == kind {
            return true;
        }
    }
    false
}

/// Says that it looked at no stream `after` it was asked; over its next connection it answers.
fn goodbye_then_ok(after: Duration) -> (SocketAddr, JoinHandle<usize>) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    // "I looked at no stream", and a 200 without a body on stream 1.
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const OK: [u8; 10] = [0, 0, 1, HEADERS, 5, 0, 0, 0, 1, 0x88];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut asked = 0;
        for (pause, answer) in [(after, &GOAWAY[..]), (Duration::ZERO, &OK[..])] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut [0; 24]).unwrap();
            stream.write_all(&SETTINGS).unwrap();
            asked += usize::from(read_until(&mut stream, HEADERS));
            std::thread::sleep(pause);
            stream.write_all(answer).unwrap();
            std::thread::spawn(move || read_until(&mut stream, u8::MAX));
        }
        asked
    });
    (address, server)
}

#[test]
fn a_request_that_crossed_its_servers_goodbye_is_sent_again_to_the_same_server() {
    let (address, server) = goodbye_then_ok(Duration::ZERO);
    let service = edge_with(&format!("servers = [\"{address}\"]\n{H2C}"));
    let rota = Rota::start(&format!("[node]\nworkers = 1\n{service}"));
    let answer = rota.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(server.join().unwrap(), 2);
}

#[test]
fn a_client_that_was_slow_with_its_body_makes_nobody_late_who_is_asked_after_a_goodbye() {
    // Longer than timeouts.response.
    let (address, server) = goodbye_then_ok(Duration::from_secs(3));
    let service = edge_with(&format!("servers = [\"{address}\"]\n{H2C}"));
    let settings = "[node]\nworkers = 1\n[timeouts]\nresponse = \"2s\"\n";
    let rota = Rota::start(&format!("{settings}{service}"));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(server.join().unwrap(), 2);
}

#[test]
fn requests_share_a_connection_up_to_what_its_server_allows() {
    let at_once = Arc::new(tokio::sync::Barrier::new(6));
    for (most, connections) in [(None, 1), (Some(1), 6), (Some(3), 2)] {
        let authority = Authority::new();
        let gate = at_once.clone();
        let manner = Manner {
            max_streams: most,
            ..Manner::default()
        };
        let server = Server::start_with(manner, move |mut call: Call| {
            let gate = gate.clone();
            async move {
                call.read_all().await;
                gate.wait().await; // six requests have to be here together
                call.answer("ok").await;
            }
        });
        let rota = start(&authority, &[&server]);
        within(async {
            let client = connect(&rota, &authority).await;
            let calls: Vec<_> = (0..6)
                .map(|_| {
                    let client = client.clone();
                    tokio::spawn(async move { unary(&client, "x").await })
                })
                .collect();
            for call in calls {
                assert_eq!(call.await.unwrap().0, 200);
            }
        });
        assert_eq!(server.connections(), connections, "{most:?}");
        assert!(server.peak() <= most.unwrap_or(6) as usize, "{most:?}");
    }
}

#[test]
fn a_server_that_does_not_speak_http2_is_502_and_no_hang() {
    let origin = Origin::fixed("http/1");
    let more = format!("servers = [\"{}\"]\n{H2C}", origin.address());
    let rota = Rota::start(&edge_with(&more));
    let answer = rota.get("a", "/");
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(!answer.text().contains("http/1\n"), "nothing of it leaks");
}

#[test]
fn a_websocket_for_an_http2_service_is_501() {
    let server = Server::fixed("never");
    let rota = plain(&[&server]);
    let answer = rota.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    assert_eq!(answer.status, 501);
    assert!(answer.text().contains("websocket"), "{}", answer.text());
    assert!(server.requests().is_empty());
}

#[test]
fn a_server_that_breaks_off_its_answer_is_not_taken_for_one_that_ended_it() {
    let authority = Authority::new();
    let arrived = Arc::new(Notify::new());
    let half_arrived = arrived.clone();
    let server = Server::start(move |mut call: Call| {
        let half_arrived = half_arrived.clone();
        async move {
            let mut stream = call.begin(GRPC);
            send(&mut stream, message("half")).await;
            half_arrived.notified().await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
    });
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        let (answer, _stream) = call(&client, "/pkg.Service/Half");
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), message("half"));
        arrived.notify_one();
        assert!(next(&mut body).await.unwrap().unwrap_err().is_reset());
    });
    let mut client = Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer_head().status, 200);
    arrived.notify_one();
    let whole = client.read_to_end();
    assert!(!whole.ends_with(b"0\r\n\r\n"), "{whole:?}");
}

#[test]
fn an_answer_that_comes_before_the_request_was_read_is_whole() {
    // h2's server then asks for no more of the request: RST_STREAM with NO_ERROR, behind the end of its answer.
    let (authority, server) = (Authority::new(), Server::fixed("early"));
    let rota = start(&authority, &[&server]);
    within(async {
        let client = connect(&rota, &authority).await;
        for _ in 0..20 {
            let (answer, mut stream) = call(&client, "/early");
            stream
                .send_data(Bytes::from_static(&[0; 9000]), false)
                .unwrap();
            let (body, _) = rest(answer.await.unwrap()).await;
            assert_eq!(body, b"early");
        }
    });
}

#[test]
fn clients_that_take_nothing_hold_up_their_own_streams_alone() {
    const PIECE: usize = 64 << 10;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let server = Server::start(move |mut call: Call| {
        let counted = counted.clone();
        async move {
            if call.read_all().await.is_empty() {
                return call.answer("small").await;
            }
            let mut stream = call.begin("text/plain");
            loop {
                send(&mut stream, vec![b'x'; PIECE].into()).await;
                counted.fetch_add(PIECE, SeqCst);
            }
        }
    });
    let rota = plain(&[&server]);
    let stuck: Vec<_> = (0..10)
        .map(|_| {
            let mut client = Client::connect(rota.http());
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nbig");
            assert_eq!(client.answer_head().status, 200);
            client
        })
        .collect();
    let mut before = usize::MAX;
    eventually("the server is held back", || {
        let is_still = sent.load(SeqCst) == before;
        before = sent.load(SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        is_still
    });
    for _ in 0..10 {
        assert_eq!(rota.get("a", "/").text(), "small");
    }
    assert_eq!(server.connections(), 1, "one connection carries them all");
    drop(stuck);
}

#[test]
fn idle_connections_end_after_their_time() {
    let server = Server::fixed("ok");
    let config = format!(
        "[timeouts]\npool_idle = \"1s\"\n{}",
        service(&[&server], H2C)
    );
    let rota = Rota::start(&format!("[node]\nworkers = 1\n{config}"));
    assert_eq!(rota.get("a", "/").status, 200);
    assert_eq!(rota.get("a", "/").status, 200);
    assert_eq!(server.connections(), 1);
    eventually("the connection is idle", || {
        rota.metric("rota_pool_idle_connections", &[]) == 1.0
    });
    eventually("the idle connection is gone", || {
        rota.metric("rota_pool_idle_connections", &[]) == 0.0
    });
    assert_eq!(rota.get("a", "/").status, 200);
    assert_eq!(server.connections(), 2);
}
