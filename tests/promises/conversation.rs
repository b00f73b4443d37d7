//! Who speaks when: interim answers, expectations, early answers, half-closed clients, pipelines, and clients of HTTP/1.0.

use std::time::Duration;

use crate::attack::secure;
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::rota::{Place, edge};
use crate::support::{Authority, Origin, Rota};

/// One worker, so that a connection to the server that is kept is used again.
fn single(origin: &Origin) -> Rota {
    Place::new().start(&format!(
        "[node]\nworkers = 1\n{}",
        edge(&[origin.address()])
    ))
}

/// A server that answers with the request's target, once it has the body.
fn echo_target() -> Origin {
    Origin::start(|exchange| {
        exchange.read_body()?;
        let target = exchange.request.target.clone();
        exchange.answer(200, &[], target.as_bytes())
    })
}

const HINTS: &str = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\nX: y\r\n\r\nHTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn interim_answers_are_relayed_each_in_its_turn_without_what_is_for_one_hop() {
    let origin = Origin::start(|exchange| exchange.send(HINTS));
    let rota = single(&origin);
    let mut client = Client::connect(rota.http());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let expected = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\nX: y\r\n\r\nHTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let got = client.read_exactly(expected.len());
        assert_eq!(String::from_utf8(got).unwrap(), expected);
    }
    assert_eq!(origin.connections(), 1, "kept, since nothing is left over");
}

#[test]
fn interim_answers_reach_a_client_of_http_2_without_what_is_for_one_hop() {
    let authority = Authority::new();
    let origin = Origin::start(|exchange| exchange.send(HINTS));
    let rota = secure(&authority, &origin, "");
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    let answer = client.get("shop.test", "/").unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
    let told: Vec<_> = answer
        .interims
        .iter()
        .map(|one| (one.status().as_u16(), one.headers().get("link")))
        .collect();
    let link = |text: &'static str| http::HeaderValue::from_static(text);
    let (first, second) = (link("</a.css>"), link("</b.css>"));
    let expected = [
        (102, None),
        (103, Some(&first)),
        (103, Some(&second)),
        (199, None),
    ];
    assert_eq!(told, expected);
    let fields = answer.interims.iter().flat_map(|one| one.headers().keys());
    assert!(fields.into_iter().all(|name| name == "link" || name == "x"));
}

#[test]
fn interim_answers_have_a_limit_and_the_client_s_word_of_it_is_502() {
    let origin = Origin::start(|exchange| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(17);
        exchange.send(format!(
            "{hints}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        ))
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..16 {
        assert_eq!(client.try_any_answer().unwrap().status, 103);
    }
    assert_eq!(client.try_any_answer().unwrap().status, 502);
    origin.wait_until_left(1);
}

#[test]
fn a_switch_to_another_protocol_than_was_asked_for_is_502() {
    const ASKED: &str =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\n\r\nsmuggled",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ] {
        let origin = Origin::start(move |exchange| exchange.send(answer));
        let rota = Rota::start(&edge(&[origin.address()]));
        assert_eq!(rota.ask(ASKED).status, 502, "{answer:?}");
    }
}

#[test]
fn bytes_behind_a_request_for_websocket_wait_for_the_server_s_word() {
    let origin = Origin::start(|exchange| {
        std::thread::sleep(Duration::from_millis(50));
        exchange.answer(403, &[], b"no")
    });
    let rota = single(&origin);
    let mut client = Client::connect(rota.http());
    client.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 403);
    assert_eq!(client.answer().status, 403);
    let targets: Vec<_> = origin
        .requests()
        .into_iter()
        .map(|one| one.target)
        .collect();
    assert_eq!(targets, ["/chat", "/next"], "a request of its own");
    let bytes = String::from_utf8(origin.received().concat()).unwrap();
    assert_eq!(bytes.matches("GET ").count(), 2);
}

#[test]
fn a_100_of_the_server_is_the_client_s_only_one_and_its_connection_is_kept() {
    let origin = Origin::start(|exchange| {
        if exchange.request.field("expect").is_some() {
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        exchange.read_body()?;
        exchange.answer(200, &[], b"got it")
    });
    let rota = single(&origin);
    let mut client = Client::connect(rota.http());
    for (framing, body) in [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\nExpect: 100-Continue\r\n\r\n"
        ));
        let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(client.read_exactly(go_on.len()), go_on.as_bytes());
        client.send(body);
        let answer = client.try_any_answer().unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, "got it"));
        assert_eq!(origin.requests().last().unwrap().body, b"hello");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_client_that_waits_for_a_100_hears_it_though_its_server_never_says_it() {
    let (authority, origin) = (Authority::new(), echo_target());
    let rota = secure(&authority, &origin, "");
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let mut plain = Client::connect(rota.http());
    let mut encrypted = Client::connect_tls(rota.https(), &tls).unwrap();
    for client in [&mut plain, &mut encrypted] {
        client.send("POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(client.read_exactly(go_on.len()), go_on.as_bytes());
        client.send("hello");
        let answer = client.try_any_answer().unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, "/a"));
        assert_eq!(origin.requests().last().unwrap().body, b"hello");
    }
}

#[test]
fn a_server_s_own_refusal_of_an_expectation_is_relayed_without_a_100() {
    let origin = Origin::start(|exchange| {
        exchange.answer(417, &[], b"no")?;
        exchange.close()
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.try_any_answer().unwrap();
    assert_eq!((answer.status, &*answer.text()), (417, "no"));
    assert_eq!(answer.field("connection"), Some("close"));
}

#[test]
fn an_expectation_that_is_not_known_is_417_and_no_byte_reaches_a_server() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    for expected in ["200-ok", "100-continue, x", "100-continue;x", ""] {
        let mut client = Client::connect(rota.http());
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: {expected}\r\n\r\nhello"
        ));
        assert_eq!(client.answer().status, 417, "{expected:?}");
        assert!(client.is_closed(), "{expected:?}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn an_expectation_without_a_body_or_of_http_1_0_asks_nothing_of_the_server() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab",
    ] {
        let origin = Origin::fixed("ok");
        let rota = Rota::start(&edge(&[origin.address()]));
        let mut client = Client::connect(rota.http());
        client.send(request);
        assert_eq!(client.try_any_answer().unwrap().status, 200, "{request:?}");
        assert_eq!(origin.only_request().field("expect"), None, "{request:?}");
    }
}

#[test]
fn a_client_that_closed_its_side_is_answered_for_all_it_had_sent() {
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let (authority, origin) = (Authority::new(), echo_target());
    let place = Place::new();
    authority.leaf(&["a"]).write(place.path(), "a");
    let rota = place.start(&format!(
        "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\ncertificates = [{{ certificate = \"a.pem\", key = \"a.key\" }}]\n{}",
        edge(&[origin.address()])
    ));
    let mut plain = Client::connect(rota.http());
    let mut tls = Client::connect_tls(rota.https(), &authority.client("a")).unwrap();
    for client in [&mut plain, &mut tls] {
        client.send(requests).finish();
        for target in ["/1", "/2", "/3"] {
            assert_eq!(client.answer().text(), target);
        }
        assert!(client.is_closed());
    }
}

#[test]
fn a_client_that_closes_its_side_within_a_body_never_completes_its_request() {
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n",
    ] {
        let origin = echo_target();
        let rota = Rota::start(&edge(&[origin.address()]));
        let mut client = Client::connect(rota.http());
        client.send(request).finish();
        assert!(client.read_to_end().is_empty(), "{request:?}");
        origin.wait_until_left(1);
        assert!(!origin.only_request().is_complete, "{request:?}");
    }
}

#[test]
fn pipelined_requests_of_all_kinds_are_answered_in_order_even_if_the_first_is_slow() {
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        if exchange.request.target == "/1" {
            std::thread::sleep(Duration::from_millis(100));
        }
        let text = format!(
            "{} {}",
            exchange.request.target,
            exchange.request.body.len()
        );
        exchange.answer(200, &[], text.as_bytes())
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: a\r\n\r\nPOST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: 1\r\n\r\nPUT /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n";
    // In two writes, so that a request is cut in its middle.
    client.send(&requests[..150]);
    rota.get("a", "/between");
    client.send(&requests[150..]);
    assert_eq!(client.answer().text(), "/1 0");
    assert_eq!(client.answer_head().field("content-length"), Some("4"));
    for text in ["/3 2", "/4 3", "/5 0"] {
        assert_eq!(client.answer().text(), text);
    }
    assert!(client.is_closed(), "nothing follows a close");
    assert!(!origin.requests().iter().any(|one| one.target == "/never"));
}

#[test]
fn a_server_that_answers_before_the_upload_has_ended_is_heard() {
    let origin = Origin::start(|exchange| {
        exchange.answer(413, &[], b"too much")?;
        exchange.close()
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nsome of it");
    let answer = client.answer();
    assert_eq!((answer.status, &*answer.text()), (413, "too much"));
    assert_eq!(answer.field("connection"), Some("close"));
    let _ = client.try_send(b"more of it");
    assert!(client.is_closed());
}

#[test]
fn a_server_that_answers_a_head_alone_is_heard_before_a_byte_of_the_body_comes() {
    let origin = Origin::start(|exchange| exchange.answer(401, &[], b"who are you?"));
    let rota = Rota::start(&edge(&[origin.address()]));
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(rota.http());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        assert_eq!(client.answer().status, 401, "{framing}");
        assert!(client.is_closed(), "{framing}");
    }
}

#[test]
fn a_server_that_answered_early_and_keeps_its_connection_is_not_asked_on_it_again() {
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let origin = Origin::start(|exchange| exchange.answer(200, &[], b"early"));
        let rota = single(&origin);
        let mut client = Client::connect(rota.http());
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n5\r\nhello"
        ));
        let answer = client.answer();
        assert_eq!(answer.text(), "early");
        assert_eq!(answer.field("connection"), Some("close"));
        let _ = client.try_send(b"\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.is_closed());
        assert_eq!(rota.get("a", "/next").text(), "early");
        let requests = origin.requests();
        let seen: Vec<_> = requests
            .iter()
            .map(|r| (r.connection, &*r.target))
            .collect();
        assert_eq!(seen, [(0, "/"), (1, "/next")]);
    }
}

#[test]
fn an_answer_flows_while_its_request_still_does() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        exchange.read_body()?;
        exchange.send("3\r\nend\r\n0\r\n\r\n")
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    let answer = client.answer_head();
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    client.send("llo");
    assert_eq!(client.read_exactly(13), b"3\r\nend\r\n0\r\n\r\n");
    assert_eq!(origin.only_request().body, b"hello");
}

/// What a client of HTTP/1.0 asks with, and whether its connection lives on.
const OLD: &[(&str, bool)] = &[
    ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", false),
    ("GET / HTTP/1.0\r\n\r\n", false),
    ("GET http://a/ HTTP/1.0\r\n\r\n", false),
    (
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        true,
    ),
    ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    (
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
        true,
    ),
    (
        "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        false,
    ),
];

#[test]
fn a_client_of_http_1_0_is_kept_only_if_it_asks_for_it() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    for (request, is_kept) in OLD {
        let mut client = Client::connect(rota.http());
        for _ in 0..2 {
            client.send(request);
            let answer = client.answer();
            assert_eq!((answer.status, &*answer.text()), (200, "ok"), "{request:?}");
            let said = answer.field("connection");
            if !is_kept {
                assert_eq!(said, Some("close"), "{request:?}");
                assert!(client.is_closed(), "{request:?}");
                break;
            }
            assert_eq!(said, Some("keep-alive"), "{request:?}");
        }
    }
    let starts: Vec<_> = origin
        .requests()
        .into_iter()
        .map(|one| one.head.start)
        .collect();
    assert!(
        starts.iter().all(|start| start.ends_with(" / HTTP/1.1")),
        "{starts:?}"
    );
    let hosts = origin
        .requests()
        .iter()
        .filter(|one| one.fields("host").len() == 1)
        .count();
    assert_eq!(
        hosts,
        starts.len(),
        "a server of HTTP/1.1 gets a Host, be it empty"
    );
}

#[test]
fn a_client_of_http_1_0_gets_neither_chunks_nor_interim_answers() {
    for connection in ["", "Connection: keep-alive\r\n"] {
        let origin = Origin::start(|exchange| {
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n")
        });
        let rota = Rota::start(&edge(&[origin.address()]));
        let mut client = Client::connect(rota.http());
        client.send(format!("GET / HTTP/1.0\r\nHost: a\r\n{connection}\r\n"));
        let answer = client.try_any_answer().unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, "ok"));
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(answer.field("content-length"), None);
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(client.is_closed());
    }
}

#[test]
fn a_client_of_http_1_0_is_told_of_a_refusal_that_its_connection_lives_on() {
    let origin = Origin::fixed("never");
    origin.stop();
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert!(answer.status >= 502);
        assert_eq!(answer.field("connection"), Some("keep-alive"));
    }
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().field("connection"), Some("close"));
    assert!(client.is_closed());
}
