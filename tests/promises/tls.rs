//! TLS at the edge: the right certificate for each name, both versions, both protocols, and no doubt about whose request it is.

use std::io;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request};
use rustls::version::{TLS12, TLS13};

use crate::support::authority::Leaf;
use crate::support::client::{Client, ask, handshake};
use crate::support::http2::Http2;
use crate::support::rota::{PLAIN, Place, Signal};
use crate::support::{Authority, Origin, Rota, Tls, eventually};

/// `[[listener]]` for HTTPS at `{https}` with these certificates, `NAME.pem` and `NAME.key` each.
fn secure(names: &[&str]) -> String {
    let files: Vec<_> = names
        .iter()
        .map(|name| format!("{{ certificate = \"{name}.pem\", key = \"{name}.key\" }}"))
        .collect();
    let files = files.join(", ");
    format!(
        "[[listener]]\nname = \"web-tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\ncertificates = [{files}]\n"
    )
}

fn to(origin: &Origin) -> String {
    format!(
        "[[service]]\nname = \"app\"\nservers = [\"{}\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
        origin.address()
    )
}

/// A rota with certificates for shop.test, *.wild.test and last.test, in this order.
fn start(authority: &Authority, origin: &Origin) -> Rota {
    start_with(authority, origin, "")
}

/// The same, with `more` at the beginning of its file.
fn start_with(authority: &Authority, origin: &Origin, more: &str) -> Rota {
    let place = Place::new();
    for (file, name) in [
        ("shop", "shop.test"),
        ("wild", "*.wild.test"),
        ("last", "last.test"),
    ] {
        authority.leaf(&[name]).write(place.path(), file);
    }
    place.start(&format!(
        "{more}{PLAIN}{}{}",
        secure(&["shop", "wild", "last"]),
        to(origin)
    ))
}

fn why_not(rota: &Rota, tls: &Tls) -> rustls::Error {
    let error: io::Error = handshake(rota.https(), tls).expect_err("no handshake");
    error.downcast::<rustls::Error>().expect("TLS's own word")
}

#[test]
fn each_name_gets_its_certificate_exact_or_wildcard() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    for name in ["shop.test", "a.wild.test", "last.test"] {
        // The client verifies the certificate for this very name.
        let mut client = Client::connect_tls(rota.https(), &authority.client(name)).unwrap();
        assert_eq!(client.get(name, "/").text(), "ok", "{name}");
    }
    assert_eq!(origin.requests()[0].fields("x-forwarded-proto"), ["https"]);
}

#[test]
fn a_name_that_nobody_has_is_told_so() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    for name in ["other.test", "wild.test", "a.b.wild.test"] {
        let error = why_not(&rota, &authority.client(name));
        let expected = rustls::Error::AlertReceived(rustls::AlertDescription::UnrecognisedName);
        assert_eq!(error, expected, "{name}");
    }
    let labels = [("outcome", "unrecognized_name")];
    eventually("it is counted", || {
        rota.metric("rota_tls_handshakes_total", &labels) == 3.0
    });
}

#[test]
fn a_client_that_names_nobody_gets_the_first_certificate() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let tls = authority.client_without_sni("shop.test");
    let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
    assert_eq!(
        client.get("last.test", "/").status,
        200,
        "no SNI, so nothing is misdirected"
    );
}

#[test]
fn both_versions_of_tls_are_spoken() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let tls = authority.client_with("shop.test", &[], &[version]);
        let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
        assert_eq!(client.get("shop.test", "/").status, 200);
        let labels = [("version", label), ("outcome", "ok")];
        assert_eq!(
            rota.metric("rota_tls_handshakes_total", &labels),
            1.0,
            "{label}"
        );
    }
}

#[test]
fn the_protocol_is_chosen_by_alpn_and_http_2_is_preferred() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let cases: [(&[&str], Option<&[u8]>); 4] = [
        (&["h2", "http/1.1"], Some(b"h2")),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ];
    for (offered, chosen) in cases {
        let tls = authority.client_with("shop.test", offered, rustls::DEFAULT_VERSIONS);
        let wire = handshake(rota.https(), &tls).unwrap();
        assert_eq!(wire.conn.alpn_protocol(), chosen, "{offered:?}");
    }
}

#[test]
fn post_quantum_key_exchange_is_preferred() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let wire = handshake(rota.https(), &authority.client("shop.test")).unwrap();
    let group = wire.conn.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

fn http2(rota: &Rota, authority: &Authority) -> Http2 {
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    Http2::connect(rota.https(), &tls)
}

#[test]
fn http_2_requests_are_forwarded_with_bodies_and_trailers() {
    let authority = Authority::new();
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        let length = exchange.request.body_length.to_string();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{length}\r\n0\r\nX-Sum: {length}\r\n\r\n",
            length.len()
        ))
    });
    let rota = start(&authority, &origin);
    let client = http2(&rota, &authority);
    let head = Request::post("https://shop.test/a?b")
        .header("te", "trailers")
        .header("x-asked", "1");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-mine", HeaderValue::from_static("2"));
    let answer = client
        .ask(head.body(()).unwrap(), vec![b'x'; 300_000], Some(trailers))
        .unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"300000"[..]));
    assert_eq!(answer.trailers.unwrap()["x-sum"], "300000");
    let request = origin.only_request();
    assert_eq!(
        (request.target.as_str(), request.field("host")),
        ("/a?b", Some("shop.test"))
    );
    assert_eq!(request.field("x-asked"), Some("1"));
    assert_eq!(request.trailers, [("x-mine".into(), "2".into())]);
}

#[test]
fn many_streams_of_one_connection_are_answered_at_once() {
    let authority = Authority::new();
    let gate = std::sync::Arc::new(std::sync::Barrier::new(20));
    let origin = Origin::start(move |exchange| {
        gate.wait(); // twenty requests have to be here together
        exchange.answer(200, &[], b"ok")
    });
    let rota = start(&authority, &origin);
    let client = http2(&rota, &authority);
    let streams: Vec<_> = (0..20)
        .map(|n| client.begin_get("shop.test", &format!("/{n}")))
        .collect();
    for stream in streams {
        assert_eq!(client.end(stream).unwrap().status, 200);
    }
}

#[test]
fn a_cookie_split_by_http_2_arrives_as_one_field() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let head = Request::get("https://shop.test/")
        .header("cookie", "a=1")
        .header("cookie", "b=2");
    let answer = http2(&rota, &authority).ask(head.body(()).unwrap(), Vec::new(), None);
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(origin.only_request().fields("cookie"), ["a=1; b=2"]);
}

#[test]
fn an_unknown_expectation_is_417_over_http_2_too() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let client = http2(&rota, &authority);
    let ask = |expected: &str| {
        let head = http::Request::post("https://shop.test/").header("expect", expected);
        let answer = client.ask(head.body(()).unwrap(), b"body".to_vec(), None);
        answer.unwrap().status
    };
    assert_eq!((ask("a-miracle"), ask("100-continue")), (417, 200));
}

#[test]
fn a_refused_stream_is_logged_with_nothing_of_another_request() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start_with(
        &authority,
        &origin,
        "[access_log]\npath = \"{dir}/access.log\"\n[node]\nworkers = 1\n",
    );
    let client = http2(&rota, &authority);
    assert_eq!(client.get("shop.test", "/secret").unwrap().status, 200);
    let head = http::Request::get("https://shop.test/").header("host", "a");
    let head = head.header("host", "b").body(()).unwrap();
    assert_eq!(client.ask(head, Vec::new(), None).unwrap().status, 400);
    let path = rota.directory().join("access.log");
    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("both are logged", || lines().lines().count() == 2);
    let lines = lines();
    let [first, refused] = lines.lines().collect::<Vec<_>>()[..] else {
        panic!("{lines}");
    };
    assert!(first.contains("/secret") && refused.contains("bad_request"));
    assert!(!refused.contains("/secret"), "{refused}");
}

#[test]
fn a_host_that_the_certificate_does_not_cover_is_421() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let mut client = Client::connect_tls(rota.https(), &authority.client("shop.test")).unwrap();
    assert_eq!(client.get("last.test", "/").status, 421);
    let mut wild = Client::connect_tls(rota.https(), &authority.client("a.wild.test")).unwrap();
    assert_eq!(
        wild.get("b.wild.test:8443", "/").status,
        200,
        "the same certificate covers it"
    );
    assert_eq!(
        http2(&rota, &authority)
            .get("last.test", "/")
            .unwrap()
            .status,
        421
    );
    assert_eq!(origin.count(), 1);
}

#[test]
fn certificates_are_read_again_on_hup() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let served = || {
        let wire = handshake(rota.https(), &authority.client("shop.test")).unwrap();
        wire.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let (before, mut open) = (
        served(),
        Client::connect_tls(rota.https(), &authority.client("shop.test")).unwrap(),
    );
    assert_eq!(open.get("shop.test", "/").status, 200);
    authority
        .leaf(&["shop.test"])
        .write(rota.directory(), "shop");
    rota.signal(Signal::HUP);
    eventually("the new certificate is served", || served() != before);
    assert_eq!(
        open.get("shop.test", "/").status,
        200,
        "and no connection was cut"
    );
    let good = served();
    std::fs::write(rota.directory().join("shop.pem"), "nonsense").unwrap();
    rota.signal(Signal::HUP);
    eventually("a bad one is named", || rota.log().contains("shop.pem"));
    assert_eq!(served(), good, "and the last good one is served");
}

#[test]
fn a_listener_may_only_redirect_to_https() {
    let place = Place::new();
    let plain = |more: &str| PLAIN.to_owned() + "redirect_to_https = true\n" + more;
    let origin = Origin::fixed("never");
    let rota = place.start(&(plain("redirect_port = 8443\n") + &to(&origin)));
    let answer = rota.get("Shop.Test:8080", "/a?b=c");
    assert_eq!(answer.status, 308);
    let location = answer.field("location").unwrap();
    assert!(
        location.eq_ignore_ascii_case("https://shop.test:8443/a?b=c"),
        "{location}"
    );
    let rota = Place::new().start(&(plain("") + &to(&origin)));
    let answer = ask(
        rota.http(),
        "POST /x HTTP/1.1\r\nHost: shop.test:8080\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(
        (answer.status, answer.field("location")),
        (308, Some("https://shop.test/x"))
    );
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_listener_without_a_certificate_starts_warns_and_refuses_handshakes() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&format!("{PLAIN}{}{}", secure(&[]), to(&origin)));
    assert!(rota.log().contains("web-tls"), "{}", rota.log());
    assert!(handshake(rota.https(), &Authority::new().client("shop.test")).is_err());
    assert_eq!(rota.get("a", "/").status, 200);
}

#[test]
fn plain_bytes_at_a_tls_listener_harm_nobody() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = start(&authority, &origin);
    let mut client = Client::connect(rota.https());
    client.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    client.read_to_end();
    let mut client = Client::connect_tls(rota.https(), &authority.client("shop.test")).unwrap();
    assert_eq!(client.get("shop.test", "/").status, 200);
}

#[test]
fn a_key_of_another_certificate_is_named_and_nothing_starts() {
    let (authority, place) = (Authority::new(), Place::new());
    let (one, two) = (
        authority.leaf(&["shop.test"]),
        authority.leaf(&["shop.test"]),
    );
    let mixed = Leaf {
        certificate: one.certificate,
        key: two.key,
    };
    let (_, key) = mixed.write(place.path(), "shop");
    let rota = place.spawn(&(secure(&["shop"]) + &to(&Origin::fixed("never"))));
    assert_eq!(rota.wait().code(), Some(1));
    let log = rota.log();
    let named: Vec<_> = log
        .lines()
        .filter(|line| line.contains(key.to_str().unwrap()))
        .collect();
    assert_eq!(named.len(), 1, "one line with the path: {log}");
}

#[test]
fn a_listener_may_speak_tls_1_3_alone_and_another_policy_is_in_force_on_hup() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let place = Place::new();
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let modern = secure(&["shop"]) + "tls_policy = \"modern\"\n";
    let rota = place.start(&format!("{PLAIN}{modern}{}", to(&origin)));
    let client = |version| authority.client_with("shop.test", &[], &[version]);
    assert!(handshake(rota.https(), &client(&TLS13)).is_ok());
    let refused = rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion);
    assert_eq!(why_not(&rota, &client(&TLS12)), refused);

    let file = rota.directory().join("rota.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"modern\"", "\"intermediate\"")).unwrap();
    rota.signal(Signal::HUP);
    eventually("TLS 1.2 is spoken", || {
        handshake(rota.https(), &client(&TLS12)).is_ok()
    });
    assert!(handshake(rota.https(), &client(&TLS13)).is_ok());
}

#[test]
fn an_rsa_certificate_of_ones_own_is_served_in_both_versions() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let place = Place::new();
    let kind = (&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let key = rcgen::KeyPair::generate_rsa_for(kind.0, kind.1).unwrap();
    let leaf = authority.leaf_with(&["shop.test"], &key);
    leaf.write(place.path(), "shop");
    let rota = place.start(&format!("{PLAIN}{}{}", secure(&["shop"]), to(&origin)));
    for version in [&TLS12, &TLS13] {
        let tls = authority.client_with("shop.test", &[], &[version]);
        let wire = handshake(rota.https(), &tls).unwrap();
        assert_eq!(wire.conn.peer_certificates().unwrap(), [leaf.der()]);
        let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
        assert_eq!(client.get("shop.test", "/").status, 200);
    }
}

/// `[acme]` with a CA that nobody reaches, and a domain whose certificate therefore never comes.
fn ordering(wait: &str) -> String {
    ordering_at(1, wait)
}

/// The same, with a CA at this port.
fn ordering_at(port: u16, wait: &str) -> String {
    format!(
        "[node]\nstate_dir = \"state\"\n[acme]\ndirectory = \"https://127.0.0.1:{port}/\"\nwait = \"{wait}\"\n\
         [[domain]]\nname = \"later.test\"\n"
    )
}

#[test]
fn a_name_whose_certificate_does_not_come_is_refused_after_its_wait_and_a_strangers_at_once() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    // It takes connections and never says a word, so that the order is under way all the while.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let rota = start_with(&authority, &origin, &ordering_at(port, "300ms"));
    let told = rustls::Error::AlertReceived(rustls::AlertDescription::UnrecognisedName);
    for (name, outcome, waits) in [
        ("later.test", "no_certificate_yet", true),
        ("stranger.test", "unrecognized_name", false),
    ] {
        let begun = Instant::now();
        assert_eq!(why_not(&rota, &authority.client(name)), told, "{name}");
        assert_eq!(
            begun.elapsed() >= Duration::from_millis(300),
            waits,
            "{name}"
        );
        eventually("it is counted", || {
            rota.metric("rota_tls_handshakes_total", &[("outcome", outcome)]) == 1.0
        });
    }
}

#[test]
fn a_name_whose_order_failed_and_rests_for_longer_than_the_wait_is_refused_at_once() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    // Tried again after 2 s at the soonest, and later each time.
    let rota = start_with(&authority, &origin, &ordering("1500ms"));
    let client = authority.client("later.test");
    let told = rustls::Error::AlertReceived(rustls::AlertDescription::UnrecognisedName);
    eventually("nobody waits any more", || {
        let begun = Instant::now();
        assert_eq!(why_not(&rota, &client), told);
        begun.elapsed() < Duration::from_millis(1500)
    });
}

#[test]
fn beyond_limits_waiting_handshakes_a_name_without_a_certificate_is_refused_at_once() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let more = ordering("1m") + "[limits]\nwaiting_handshakes = 0\n";
    let rota = start_with(&authority, &origin, &more);
    let told = rustls::Error::AlertReceived(rustls::AlertDescription::UnrecognisedName);
    assert_eq!(why_not(&rota, &authority.client("later.test")), told);
    eventually("it is counted", || {
        rota.metric(
            "rota_tls_handshakes_total",
            &[("outcome", "too_many_waiting")],
        ) == 1.0
    });
}
