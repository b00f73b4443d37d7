//! Which fields reach the server, which are rota's own word, and which end at the connection.

use std::time::{Duration, SystemTime};

use rota::telemetry::date::text;

use crate::attack::secure;
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::origin::Request;
use crate::support::rota::{PLAIN, edge};
use crate::support::{Authority, Origin, Rota};

/// What the server gets when the client sends these fields (each ended by CRLF).
fn forwarded(rota: &Rota, origin: &Origin, fields: &str) -> Request {
    let answer = rota.ask(&format!(
        "GET / HTTP/1.1\r\nHost: shop.test:81\r\n{fields}\r\n"
    ));
    assert_eq!(answer.status, 200);
    origin.requests().pop().unwrap()
}

fn trusting(origin: &Origin) -> Rota {
    let listener = format!("{PLAIN}trusted_proxies = [\"127.0.0.0/8\"]\n");
    Rota::start(&edge(&[origin.address()]).replace(PLAIN, &listener))
}

const CLAIMS: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nX-Request-Id: mine-1\r\n";

#[test]
fn a_strangers_forwarding_fields_are_replaced() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let request = forwarded(&rota, &origin, CLAIMS);
    assert_eq!(request.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.fields("x-forwarded-proto"), ["http"]);
    assert_eq!(request.fields("x-forwarded-host"), ["shop.test:81"]);
    let [id] = request.fields("x-request-id")[..] else {
        panic!("one id")
    };
    assert!(id != "mine-1" && id.len() >= 16, "{id}");
}

#[test]
fn a_trusted_proxys_forwarding_fields_are_kept_and_appended_to() {
    let origin = Origin::fixed("ok");
    let rota = trusting(&origin);
    let request = forwarded(&rota, &origin, CLAIMS);
    let hops = request.fields("x-forwarded-for").join(", ");
    assert_eq!(hops, "6.6.6.6, 127.0.0.1");
    assert_eq!(request.fields("x-forwarded-proto"), ["https"]);
    assert_eq!(request.fields("x-forwarded-host"), ["evil.test"]);
    assert_eq!(request.fields("x-request-id"), ["mine-1"]);
}

/// What other edges call the client's address. A server behind several of them may believe any.
const EDGES: [&str; 24] = [
    "X-Forwarded",
    "Forwarded-For",
    "X-Original-For",
    "X-Original-Host",
    "X-Host",
    "Proxy-Client-IP",
    "WL-Proxy-Client-IP",
    "Front-End-Https",
    "X-Url-Scheme",
    "X-Real-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "True-Client-IP",
    "Fastly-Client-IP",
    "X-Client-IP",
    "Client-IP",
    "X-Cluster-Client-IP",
    "X-Remote-IP",
    "X-Remote-Addr",
    "X-Originating-IP",
    "X-Azure-ClientIP",
    "X-AppEngine-User-IP",
    "X-Envoy-External-Address",
    "X-Original-Forwarded-For",
];

#[test]
fn a_client_cannot_say_who_it_is_in_any_edges_words_unless_it_is_trusted() {
    let origin = Origin::fixed("ok");
    let claims: String = EDGES
        .iter()
        .map(|name| format!("{name}: 6.6.6.6\r\n"))
        .collect();
    let strange = forwarded(&Rota::start(&edge(&[origin.address()])), &origin, &claims);
    let trusted = forwarded(&trusting(&origin), &origin, &claims);
    for name in EDGES {
        assert_eq!(strange.field(name), None, "{name}");
        assert_eq!(trusted.field(name), Some("6.6.6.6"), "{name}");
    }
}

#[test]
fn what_a_trusted_proxy_says_in_forwarded_is_kept_and_appended_to() {
    let origin = Origin::fixed("ok");
    let claim = "Forwarded: for=6.6.6.6;proto=https\r\n";
    let strange = forwarded(&Rota::start(&edge(&[origin.address()])), &origin, claim);
    assert_eq!(strange.field("forwarded"), None);
    let rota = trusting(&origin);
    let trusted = forwarded(&rota, &origin, claim);
    let said = trusted.fields("forwarded").join(", ");
    assert_eq!(said, "for=6.6.6.6;proto=https, for=127.0.0.1;proto=http");
    assert_eq!(forwarded(&rota, &origin, "").field("forwarded"), None);
}

#[test]
fn an_order_that_servers_take_from_an_edge_is_nobodys_to_give_not_even_a_trusted_proxys() {
    let origin = Origin::fixed("ok");
    let claims = "Proxy: http://evil.test\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n";
    let request = forwarded(&trusting(&origin), &origin, claims);
    for name in ["proxy", "x-original-url", "x-rewrite-url"] {
        assert_eq!(request.field(name), None, "{name}");
    }
}

#[test]
fn a_request_without_an_id_gets_one_of_its_own() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let request = forwarded(&rota, &origin, "");
        assert!(seen.insert(request.field("x-request-id").unwrap().to_owned()));
    }
}

#[test]
fn a_valid_traceparent_is_kept_and_any_other_begun_anew() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = forwarded(&rota, &origin, &format!("traceparent: {valid}\r\n"));
    assert_eq!(request.fields("traceparent"), [valid]);
    let invalid = [
        "",
        "traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01\r\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01\r\n",
        "traceparent: ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
        "traceparent: 00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01\r\n",
        "traceparent: nonsense\r\n",
    ];
    for fields in invalid {
        let request = forwarded(&rota, &origin, fields);
        let [begun] = request.fields("traceparent")[..] else {
            panic!("one traceparent for {fields:?}")
        };
        assert!(!fields.contains(begun), "{begun}");
        let lengths: Vec<_> = begun.split('-').map(str::len).collect();
        assert_eq!(lengths, [2, 32, 16, 2], "{begun}");
    }
}

#[test]
fn a_trace_that_is_begun_anew_has_no_state_of_another_and_two_of_them_are_none() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let other = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-01";
    let state = "tracestate: a=1\r\ntracestate: b=2\r\n";
    let kept = forwarded(&rota, &origin, &format!("{state}traceparent: {valid}\r\n"));
    assert_eq!(kept.fields("traceparent"), [valid]);
    assert_eq!(kept.fields("tracestate"), ["a=1", "b=2"]);
    for parents in [
        String::new(),
        "traceparent: nonsense\r\n".to_owned(),
        format!("traceparent: {valid}\r\ntraceparent: {valid}\r\n"),
        format!("traceparent: {valid}\r\ntraceparent: {other}\r\ntraceparent: {other}\r\n"),
        format!("traceparent: nonsense\r\ntraceparent: {other}\r\n"),
    ] {
        let begun = forwarded(&rota, &origin, &format!("{parents}{state}"));
        let [parent] = begun.fields("traceparent")[..] else {
            panic!("one traceparent for {parents:?}")
        };
        assert!(!parents.contains(parent), "{parents:?}");
        assert_eq!(begun.field("tracestate"), None, "{parents:?}");
    }
}

#[test]
fn hop_by_hop_fields_and_nominated_ones_end_here() {
    let origin = Origin::start(|exchange| {
        exchange.answer(
            200,
            &[
                ("Connection", "X-Server-Hop"),
                ("X-Server-Hop", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Authenticate", "Basic"),
                ("X-Stays", "1"),
            ],
            b"ok",
        )
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer = rota.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop , x-other\r\nX-Hop: 1\r\nX-Other: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: gzip\r\nX-Stays: 1\r\n\r\n");
    let request = origin.only_request();
    for name in [
        "x-hop",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
    ] {
        assert_eq!(request.field(name), None, "{name}");
    }
    assert_ne!(request.field("te"), Some("gzip"));
    assert_eq!(request.field("x-stays"), Some("1"));
    for name in ["x-server-hop", "keep-alive"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
    assert_eq!(answer.field("x-stays"), Some("1"));
}

#[test]
fn what_rota_relies_on_cannot_be_nominated_away() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let request = forwarded(
        &rota,
        &origin,
        "Connection: close, Host, X-Forwarded-For, X-Request-Id, Content-Length\r\nContent-Length: 0\r\n",
    );
    assert_eq!(request.field("host"), Some("shop.test:81"));
    assert_eq!(request.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert!(request.field("x-request-id").is_some());
}

#[test]
fn repeated_fields_stay_apart_and_in_order() {
    let origin = Origin::start(|exchange| {
        exchange.answer(200, &[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], b"")
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    let answer = client
        .send("GET / HTTP/1.1\r\nHost: a\r\nX-Many: 1\r\nAccept: x\r\nX-Many: 2\r\n\r\n")
        .answer();
    let cookies: Vec<_> = answer
        .fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"))
        .collect();
    assert_eq!(
        cookies.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(),
        ["a=1", "b=2"]
    );
    assert_eq!(origin.only_request().fields("x-many"), ["1", "2"]);
}

/// What servers and frameworks take for something that only an edge may say, or for a field with another name.
const ALIASES: [&str; 14] = [
    "X.Forwarded.For",
    "X~Real~IP",
    "Content.Length",
    "Transfer!Encoding",
    "X.Forwarded-Anything",
    "Proxy",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Forwarded-Prefix",
    "X-Forwarded-Port",
    "X_Forwarded_For",
    "X-Forwarded_For",
    "Content_Length",
    "X_Client_Certificate_Subject",
];

#[test]
fn what_a_server_may_take_for_an_edges_word_is_dropped_over_both_protocols() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let claims: String = ALIASES
        .iter()
        .map(|name| format!("{name}: 6\r\n"))
        .collect();
    let first = forwarded(&rota, &origin, &claims);
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let head = http::Request::get("https://shop.test/");
    let head = ALIASES
        .iter()
        .fold(head, |head, name| head.header(*name, "6"));
    let client = Http2::connect(rota.https(), &tls);
    client
        .ask(head.body(()).unwrap(), Vec::new(), None)
        .unwrap();
    let second = origin.requests().pop().unwrap();
    for name in ALIASES {
        assert_eq!(
            (first.field(name), second.field(name)),
            (None, None),
            "{name}"
        );
    }
}

#[test]
fn a_name_with_an_underscore_is_dropped_from_a_trusted_proxy_too() {
    let origin = Origin::fixed("ok");
    let request = forwarded(
        &trusting(&origin),
        &origin,
        "X-Forwarded-Client-Cert: proxy's\r\nX-Forwarded-Client_Cert: client's\r\n",
    );
    assert_eq!(request.field("x-forwarded-client-cert"), Some("proxy's"));
    assert_eq!(request.field("x-forwarded-client_cert"), None);
}

#[test]
fn answers_of_rota_s_own_say_when_they_were_given() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let before = SystemTime::now();
    let http1 = [
        "(",
        "GET / HTTP/1.1\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    .map(|request| {
        let answer = rota.ask(request);
        assert!(answer.status >= 400);
        answer.field("date").map(str::to_owned)
    });
    let client = Http2::connect(
        rota.https(),
        &authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS),
    );
    let refused = client.get("shop.test", "/%00").unwrap();
    assert_eq!(refused.status, 400);
    let http2 = refused
        .fields
        .get("date")
        .map(|date| date.to_str().unwrap().to_owned());
    let spent = before.elapsed().unwrap().as_secs() + 1;
    let texts: Vec<String> = (0..=spent)
        .map(|second| {
            String::from_utf8(text(before + Duration::from_secs(second)).to_vec()).unwrap()
        })
        .collect();
    for date in http1.into_iter().chain([http2]) {
        assert!(texts.contains(&date.expect("a date")), "{texts:?}");
    }
}

#[test]
fn a_name_that_no_server_takes_for_an_edges_goes_on_whatever_its_characters() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let request = forwarded(&rota, &origin, "X.App.Version: 1\r\nMy~Name!: 2\r\n");
    assert_eq!(request.field("x.app.version"), Some("1"));
    assert_eq!(request.field("my~name!"), Some("2"));
    let disguised = "X-Forwarded-Client-Cert: proxy's\r\nX-Forwarded-Client.Cert: client's\r\n";
    let request = forwarded(&trusting(&origin), &origin, disguised);
    assert_eq!(request.field("x-forwarded-client-cert"), Some("proxy's"));
    assert_eq!(request.field("x-forwarded-client.cert"), None);
}

#[test]
fn what_controls_or_modifies_a_message_is_no_trailer_either_way() {
    const NO_TRAILERS: &str = "If-Match: *\r\nIf-None-Match: *\r\nIf-Modified-Since: x\r\nIf-Unmodified-Since: x\r\nIf-Range: x\r\nRange: bytes=0-0\r\nWWW-Authenticate: Basic\r\nAuthentication-Info: x\r\nLocation: /\r\nExpires: 0\r\nDate: x\r\nAge: 1\r\nVary: *\r\nPragma: x\r\nRetry-After: 1\r\nX.Real.IP: 6\r\nCookie: a\r\nHost: b\r\n";
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        exchange.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{NO_TRAILERS}X-Sum: 1\r\n\r\n"))
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let answer = rota.ask(&format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{NO_TRAILERS}X-Sum: 2\r\n\r\n"
    ));
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    let sent = origin.only_request().trailers;
    assert_eq!(sent, [("X-Sum".to_owned(), "2".to_owned())]);
}
