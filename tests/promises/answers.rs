//! What a server may answer: a bad answer is a 502 and never relayed, a good one ends where it says, a cut one is never made whole.

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use crate::support::client::{Answer, Client};
use crate::support::rota::{Place, edge};
use crate::support::{Origin, Rota, eventually};

/// What rota says itself where a server's answer is none.
const NOT_HTTP: &str = "the server did not answer in http\n";

/// What is wrong, and answers that are wrong like this.
type Bad = (&'static str, &'static [&'static str]);

const BAD_FRAMING: &[Bad] = &[
    (
        "a length with a coding",
        &[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        ],
    ),
    (
        "more than one length, different or equal",
        &[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
        ],
    ),
    (
        "a length that is not digits alone, or too large",
        &[
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nab",
        ],
    ),
    (
        "a coding that is not exactly chunked",
        &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: \r\n\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    (
        "a first chunk that is none, in one read with its head",
        &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 2\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\0\r\nab\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n",
        ],
    ),
];

const BAD_HEADS: &[Bad] = &[
    (
        "a folded line",
        &[
            "HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n X: 1\r\nContent-Length: 0\r\n\r\n",
        ],
    ),
    (
        "a carriage return or line feed that ends no line",
        &[
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
            "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
        ],
    ),
    (
        "a name that is no token right before its colon",
        &[
            "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX Y: 0\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: 0\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n",
        ],
    ),
    (
        "a NUL or another control character",
        &[
            "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\x7f\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX\0: a\r\nContent-Length: 0\r\n\r\n",
        ],
    ),
    (
        "a status line that is none",
        &[
            "nonsense\r\n\r\n",
            "\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            " HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
            "ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        ],
    ),
    (
        "an upgrade that nobody asked for",
        &[
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ],
    ),
    (
        "an interim answer with a body",
        &[
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ],
    ),
];

/// An app server that answers `/good` with `good`, and anything else with what the test says.
struct Scripted {
    origin: Origin,
    answer: Arc<Mutex<Vec<u8>>>,
    rota: Rota,
}

impl Scripted {
    fn start() -> Scripted {
        let answer = Arc::new(Mutex::new(Vec::new()));
        let said = answer.clone();
        let origin = Origin::start(move |exchange| {
            exchange.read_body()?;
            if exchange.request.target == "/good" {
                return exchange.answer(200, &[], b"good");
            }
            let bytes = said.lock().unwrap().clone();
            exchange.send(bytes)
        });
        // One worker: whatever is kept is used again.
        let config = format!("[node]\nworkers = 1\n{}", edge(&[origin.address()]));
        Scripted {
            rota: Place::new().start(&config),
            origin,
            answer,
        }
    }

    /// The next answers are these bytes.
    fn says(&self, answer: &str) {
        *self.answer.lock().unwrap() = answer.into();
    }

    /// The connection that the last request came on.
    fn last_connection(&self) -> usize {
        self.origin.requests().last().unwrap().connection
    }

    /// The client's connection is good for another request, and its server's is not used again.
    fn assert_server_is_left(&self, client: &mut Client, what: &str) {
        let spoiled = self.last_connection();
        assert_eq!(client.get("a", "/good").text(), "good", "{what}");
        assert_ne!(self.last_connection(), spoiled, "{what}");
        eventually("only the good connection is left", || {
            self.origin.open_connections() == 1
        });
    }
}

fn assert_bad(bad: &[Bad]) {
    let world = Scripted::start();
    for (what, answers) in bad {
        for answer in *answers {
            println!("{what}: {answer:?}");
            world.says(answer);
            let mut client = Client::connect(world.rota.http());
            let got = client.get("a", "/bad");
            assert_eq!((got.status, &*got.text()), (502, NOT_HTTP), "{answer:?}");
            world.assert_server_is_left(&mut client, answer);
        }
    }
}

#[test]
fn an_answer_with_ambiguous_framing_is_502() {
    assert_bad(BAD_FRAMING);
}

#[test]
fn an_answer_whose_head_two_readers_could_read_differently_is_502() {
    assert_bad(BAD_HEADS);
}

#[test]
fn an_answer_s_head_beyond_its_limits_is_502() {
    let world = Scripted::start();
    let long = "x".repeat(100 << 10);
    let many: String = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect();
    for fields in [format!("X: {long}\r\n"), many] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
        world.says(&answer);
        let mut client = Client::connect(world.rota.http());
        assert_eq!(client.get("a", "/bad").text(), NOT_HTTP);
        world.assert_server_is_left(&mut client, &answer[..30]);
    }
}

/// An answer to another request, which nobody sent.
const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// Method, answer up to its end, its status and body as the client gets them.
const WHOLE: &[(&str, &str, u16, &str)] = &[
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
        200,
        "ab",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        200,
        "",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        200,
        "ab",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nX: 1\r\n\r\n",
        200,
        "ab",
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        200,
        "",
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        200,
        "",
    ),
    ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", 200, ""),
    ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
    (
        "POST",
        "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        204,
        "",
    ),
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        304,
        "",
    ),
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        304,
        "",
    ),
    (
        "GET",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        204,
        "",
    ),
];

/// Answers that declare a body which their status does not have (RFC 9110 section 8.6, RFC 9112 section 6.1).
const UNDUE: &[(&str, &str, u16, &str)] = &[
    (
        "POST",
        "HTTP/1.1 204 No Content\r\nContent-Length: 45\r\n\r\n",
        204,
        "",
    ),
    (
        "GET",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        204,
        "",
    ),
];

fn ask(client: &mut Client, method: &str) -> Answer {
    client.send(format!("{method} /asked HTTP/1.1\r\nHost: a\r\n\r\n"));
    if method == "HEAD" {
        client.answer_head()
    } else {
        client.answer()
    }
}

#[test]
fn an_answer_ends_where_it_says_and_its_connection_is_used_again() {
    let world = Scripted::start();
    for (method, answer, status, body) in WHOLE {
        world.says(answer);
        let mut client = Client::connect(world.rota.http());
        for _ in 0..2 {
            let got = ask(&mut client, method);
            assert_eq!((got.status, &*got.text()), (*status, *body), "{answer:?}");
        }
        assert_eq!(client.get("a", "/good").text(), "good", "{answer:?}");
    }
    assert_eq!(world.origin.connections(), 1);
}

#[test]
fn what_a_server_sends_beyond_its_answer_is_never_an_answer() {
    let world = Scripted::start();
    for (method, answer, status, body) in WHOLE.iter().chain(UNDUE) {
        for more in [POISON, "ab", "2\r\nab\r\n0\r\n\r\n", "\r\n"] {
            let bytes = format!("{answer}{more}");
            world.says(&bytes);
            let mut client = Client::connect(world.rota.http());
            let got = ask(&mut client, method);
            assert_eq!((got.status, &*got.text()), (*status, *body), "{bytes:?}");
            world.assert_server_is_left(&mut client, &bytes);
        }
    }
}

#[test]
fn a_body_that_an_answer_cannot_have_is_never_the_next_answer() {
    let world = Scripted::start();
    for (method, answer, status, _) in UNDUE {
        world.says(answer);
        let mut client = Client::connect(world.rota.http());
        assert_eq!(ask(&mut client, method).status, *status, "{answer:?}");
        // The body may come only once the next request is on that connection.
        world.assert_server_is_left(&mut client, answer);
    }
}

#[test]
fn what_a_server_sends_after_its_answer_was_taken_is_never_an_answer() {
    let (go_on, waits) = mpsc::channel::<()>();
    let (told, poisoned) = mpsc::channel::<()>();
    let waits = Mutex::new(waits);
    let origin = Origin::start(move |exchange| {
        exchange.answer(200, &[], b"good")?;
        if exchange.request.target == "/spoiled" {
            waits.lock().unwrap().recv().unwrap();
            exchange.send(POISON)?;
            told.send(()).unwrap();
        }
        Ok(())
    });
    let config = format!("[node]\nworkers = 1\n{}", edge(&[origin.address()]));
    let rota = Place::new().start(&config);
    let mut client = Client::connect(rota.http());
    assert_eq!(client.get("a", "/spoiled").text(), "good");
    go_on.send(()).unwrap();
    poisoned.recv().unwrap();
    assert_eq!(client.get("a", "/next").text(), "good");
    let connections: Vec<_> = origin.requests().iter().map(|one| one.connection).collect();
    assert_eq!(connections, [0, 1]);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_and_framed_for_the_client() {
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end"),
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end"),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nab",
            "ab",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
            "ab",
        ),
    ] {
        let origin = Origin::start(move |exchange| {
            exchange.send(answer)?;
            exchange.close()
        });
        let rota = Rota::start(&edge(&[origin.address()]));
        let mut client = Client::connect(rota.http());
        for round in 1..=2 {
            assert_eq!(client.get("a", "/").text(), body, "{answer:?}");
            assert_eq!(origin.connections(), round, "{answer:?}");
        }
    }
}

/// Answers that break off, cut or malformed, after their head has gone to the client.
const CUT: &[&[&str]] = &[
    &["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "half"],
    &[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nhalf\r\n",
    ],
    &[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "8\r\nhalf",
    ],
    &[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nhalf\r\n0\r\n",
    ],
    &[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nhalf\r\n0\r\nX: 1\r\n",
    ],
    &[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nhalf\r\n",
        "x\r\n",
    ],
    &[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nhalf",
        "x\r\n",
    ],
    &[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nhalf\r\n",
        "0\r\nX : 1\r\n\r\n",
    ],
];

/// The rest of an answer comes once its head has reached the client: what comes then can't be a 502 any more.
fn assert_cut(pieces: &[&str], version: &str) {
    let (go_on, waits) = mpsc::channel::<()>();
    let waits = Mutex::new(waits);
    let sent: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
    let origin = Origin::start(move |exchange| {
        for piece in &sent {
            exchange.send(piece)?;
            let _ = waits.lock().unwrap().recv();
        }
        exchange.close()
    });
    let what = pieces.concat();
    let what = &what[..what.len().min(80)];
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
    assert_eq!(client.answer_head().status, 200, "{what:?}");
    drop(go_on);
    let mut bytes = Vec::new();
    let end = loop {
        match client.try_read_exactly(1) {
            Ok(byte) => bytes.extend(byte),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(end, io::ErrorKind::ConnectionReset, "{what:?} {version}");
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.ends_with("0\r\n\r\n"), "{what:?}: {text:?}");
    assert!(!text.contains('x'), "{what:?}: {text:?}");
    origin.wait_until_left(1);
}

#[test]
fn an_answer_that_is_cut_is_cut_for_the_client_too() {
    for pieces in CUT {
        for version in ["1.0", "1.1"] {
            assert_cut(pieces, version);
        }
    }
}

#[test]
fn an_answer_whose_chunk_extensions_or_trailers_go_beyond_their_limits_is_cut() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(300);
    let extension = format!("4;{long}\r\nhalf\r\n0\r\n\r\n");
    let extensions = format!("1;{}\r\na\r\n", &long[..200]).repeat(100);
    let trailers: String = (0..65).map(|n| format!("X-{n}: x\r\n")).collect();
    let trailers = format!("0\r\n{trailers}\r\n");
    let trailer = format!("0\r\nX: {}\r\n\r\n", long.repeat(30));
    for beyond in [extension, extensions, trailers, trailer] {
        assert_cut(&[chunked, &beyond], "1.1");
    }
}
