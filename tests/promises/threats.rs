//! Lines of attack that are tried by bytes here, since elsewhere only their parts are: retries of a sick service, fields that are nominated
//! away, old ways of TLS, sessions taken to another host, names in any case.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};

use crate::attack::secure;
use crate::support::client::Client;
use crate::support::rota::{PLAIN, Place, edge};
use crate::support::{Authority, Origin, Rota};

/// Retries that a service may spend before any request earned one.
const AT_FIRST: usize = 100;

#[test]
fn retries_of_a_service_whose_servers_all_fail_stay_within_its_budget() {
    let sick: Vec<Origin> = (0..4)
        .map(|_| Origin::start(|exchange| exchange.reset()))
        .collect();
    let servers: Vec<_> = sick.iter().map(Origin::address).collect();
    let rota = Rota::start(&format!("[node]\nworkers = 1\n{}", edge(&servers)));
    let (asked, begun) = (600, Instant::now());
    for _ in 0..asked {
        assert_eq!(rota.get("a", "/").status, 502);
    }
    let reached: usize = sick.iter().map(Origin::count).sum();
    let denied = rota.metric("rota_retries_denied_total", &[]);
    println!(
        "{reached} for {asked}, {denied} denied, {:?}",
        begun.elapsed()
    );
    // A fifth of what was asked, whatever span the budget looks back over.
    assert!(reached <= asked + AT_FIRST + asked / 5, "{reached}");
    assert!(
        reached > asked && denied > 0.0,
        "{reached}, {denied} denied"
    );
}

#[test]
fn what_frames_or_names_a_message_cannot_be_nominated_away_in_requests_or_answers() {
    let fields = "Transfer-Encoding, Content-Length, Host, Cookie, Authorization, X-Forwarded-For, X-Forwarded-Proto, Set-Cookie";
    let origin = Origin::start(move |exchange| {
        exchange.read_body()?;
        let fields = [("Connection", fields), ("Set-Cookie", "a=1")];
        exchange.answer(200, &fields, b"whole")
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    for framing in [
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "Content-Length: 3\r\n\r\nabc",
    ] {
        origin.forget();
        let mut client = Client::connect(rota.http());
        for connection in ["close", "keep-alive"] {
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: shop.test\r\nCookie: c=1\r\nAuthorization: Basic eA==\r\nConnection: {connection}, {fields}\r\n{framing}"
            ));
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, "whole".to_owned()));
            assert_eq!(answer.field("set-cookie"), Some("a=1"));
            client = Client::connect(rota.http());
        }
        for request in origin.requests() {
            assert_eq!(request.body, b"abc", "{framing:?}");
            assert_eq!(request.field("host"), Some("shop.test"));
            assert_eq!(request.field("cookie"), Some("c=1"));
            assert_eq!(request.field("authorization"), Some("Basic eA=="));
            assert_eq!(request.fields("x-forwarded-for"), ["127.0.0.1"]);
            assert_eq!(request.fields("x-forwarded-proto"), ["http"]);
        }
        assert_eq!(origin.count(), 2);
    }
}

/// `openssl s_client` at rota's TLS listener, told `input`, left alone after a while: what it said.
fn openssl(rota: &Rota, ca: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &rota.https().to_string(), "-CAfile"])
        .arg(ca)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have gone by itself.
    let _ = stdin.write_all(input.as_bytes());
    let begun = Instant::now();
    if !input.is_empty() {
        while child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    crate::support::rota::said(&output)
}

fn world() -> (Authority, Origin) {
    (Authority::new(), Origin::fixed("ok"))
}

#[test]
fn a_client_that_wants_to_renegotiate_is_refused_and_its_connection_carries_no_request() {
    let (authority, origin) = world();
    let rota = secure(&authority, &origin, "[timeouts]\nhead = \"2s\"\n");
    let ca = rota.directory().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let arguments = ["-tls1_2", "-servername", "shop.test"];
    let said = openssl(&rota, &ca, &arguments, "R\n");
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(
        said.contains("no renegotiation")
            || said.contains("unexpected eof")
            || said.contains("alert"),
        "{said}"
    );
    assert_eq!(origin.count(), 0);
    let mut client = Client::connect_tls(rota.https(), &authority.client("shop.test")).unwrap();
    assert_eq!(client.get("shop.test", "/").status, 200);
}

/// A rota with certificates of their own for shop.test and last.test.
fn two_names(authority: &Authority, origin: &Origin) -> Rota {
    let place = Place::new();
    for name in ["shop", "last"] {
        let host = format!("{name}.test");
        authority.leaf(&[&host]).write(place.path(), name);
    }
    let pair = |name: &str| format!("{{ certificate = \"{name}.pem\", key = \"{name}.key\" }}");
    let listener = format!(
        "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\ncertificates = [{}, {}]\n",
        pair("shop"),
        pair("last")
    );
    place.start(&format!("{listener}{}", edge(&[origin.address()])))
}

#[test]
fn a_session_is_no_way_to_another_host_in_either_version() {
    let (authority, origin) = world();
    let rota = two_names(&authority, &origin);
    for version in [&TLS12, &TLS13] {
        let tls = authority.client_with("shop.test", &["http/1.1"], &[version]);
        let resumed = || rota.metric("rota_tls_handshakes_total", &[("resumed", "true")]);
        let before = resumed();
        for _ in 0..2 {
            let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
            assert_eq!(client.get("shop.test", "/").status, 200);
            assert_eq!(
                client.get("last.test", "/").status,
                421,
                "also where it is resumed"
            );
        }
        assert_eq!(resumed(), before + 1.0);
    }
    assert_eq!(origin.count(), 4);
}

#[test]
fn a_ticket_that_is_shown_for_another_name_resumes_nothing() {
    let (authority, origin) = world();
    let rota = two_names(&authority, &origin);
    let ca = rota.directory().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let ticket = rota.directory().join("ticket");
    let ticket = ticket.to_str().unwrap();
    let begin = ["-tls1_2", "-servername", "shop.test", "-sess_out", ticket];
    assert!(openssl(&rota, &ca, &begin, "").contains("New, "));
    let with = |name| ["-tls1_2", "-servername", name, "-sess_in", ticket];
    let same = openssl(&rota, &ca, &with("shop.test"), "");
    assert!(same.contains("Reused, "), "{same}");
    let other = openssl(&rota, &ca, &with("last.test"), "");
    assert!(
        other.contains("New, ") && !other.contains("Reused, "),
        "{other}"
    );
}

#[test]
fn among_hundreds_of_routes_a_host_is_found_in_any_case_with_any_port_and_a_dot() {
    let (origin, other) = (Origin::fixed("here"), Origin::fixed("elsewhere"));
    let service = |name: &str, origin: &Origin| {
        format!(
            "[[service]]\nname = \"{name}\"\nservers = [\"{}\"]\n",
            origin.address()
        )
    };
    let mut text = format!(
        "{PLAIN}{}{}",
        service("here", &origin),
        service("else", &other)
    );
    for number in 0..300 {
        let (host, to) = match number % 3 {
            0 => (format!("H{number}.Test"), "here"),
            1 => (format!("*.w{number}.TEST"), "here"),
            _ => (format!("h{number}.test"), "else"),
        };
        text += &format!("[[route]]\nhost = \"{host}\"\nservice = \"{to}\"\n");
    }
    let rota = Rota::start(&text);
    for host in [
        "h3.test",
        "H3.TEST",
        "h3.tEsT:8080",
        "H297.test.",
        "a.W1.test",
        "A.w298.Test:443",
        "b.w298.test.:80",
    ] {
        assert_eq!(rota.get(host, "/").text(), "here", "{host}");
    }
    for host in ["h2.test", "H299.TEST"] {
        assert_eq!(rota.get(host, "/").text(), "elsewhere", "{host}");
    }
    assert_eq!(rota.get("h300.test", "/").status, 404);
}

#[test]
fn a_proof_is_never_read_from_a_disk() {
    let (authority, origin) = world();
    let place = Place::new();
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    for folder in ["", "state/", "state/kv/acme/"] {
        let folder = place.path().join(folder).join(".well-known/acme-challenge");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "from a disk").unwrap();
    }
    std::fs::write(place.path().join("token"), "from a disk").unwrap();
    let state = "[node]\nstate_dir = \"state\"\n[acme]\ndirectory = \"https://127.0.0.1:1/\"\n[[domain]]\nname = \"later.test\"\n";
    let only_ours = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(place.path().join("state"), only_ours).unwrap();
    let rota = place.start_unready(&crate::attack::secured(state, &origin));
    for path in ["token", "../token", "..%2ftoken", "%2e%2e/token"] {
        let answer = rota.get("later.test", &format!("/.well-known/acme-challenge/{path}"));
        assert!(!answer.text().contains("disk"), "{path}: {}", answer.text());
        assert!(path != "token" || answer.status == 404, "{}", answer.status);
    }
}

#[test]
fn an_upgrade_with_a_body_or_among_others_is_none_and_what_is_behind_it_no_tunnel() {
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        exchange.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )?;
        exchange.close()
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    for rest in [
        "Upgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        "Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Upgrade: h2c, websocket\r\n\r\n",
        "Upgrade: websocket, h2c\r\n\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    ] {
        origin.forget();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{rest}"
        );
        assert_eq!(rota.ask(&request).status, 502, "{rest:?}");
        for request in origin.requests() {
            assert_eq!(request.field("upgrade"), None, "{rest:?}");
            assert_eq!(request.field("http2-settings"), None, "{rest:?}");
        }
        assert!(origin.count() > 0, "{rest:?}");
    }
}
