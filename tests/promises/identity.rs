//! The PROXY protocol: who the client is, by the word of a trusted load balancer in front and of nobody else.

use std::net::TcpStream;

use crate::attack::secured;
use crate::support::client::Client;
use crate::support::rota::{PLAIN, Place, edge};
use crate::support::{Authority, Origin, PATIENCE, Rota};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn behind(origin: &Origin, trusted: &str) -> Rota {
    let listener = format!("{PLAIN}trusted_proxies = [\"{trusted}\"]\nproxy_protocol = true\n");
    Rota::start(&edge(&[origin.address()]).replace(PLAIN, &listener))
}

#[test]
fn the_client_is_the_one_that_the_proxy_header_names() {
    let origin = Origin::fixed("ok");
    let rota = behind(&origin, "127.0.0.0/8");
    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    version_2.extend([192, 0, 2, 9, 192, 0, 2, 1, 1, 2, 3, 4]);
    let headers: [(&[u8], &str); 3] = [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", "192.0.2.7"),
        (&version_2, "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ];
    for (header, client_address) in headers {
        let mut client = Client::connect(rota.http());
        client.send([header, REQUEST.as_bytes()].concat());
        assert_eq!(client.try_answer().unwrap().status, 200);
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.fields("x-forwarded-for"), [client_address]);
    }
}

#[test]
fn a_connection_without_a_proxy_header_is_closed_unanswered() {
    let origin = Origin::fixed("never");
    let rota = behind(&origin, "127.0.0.0/8");
    for bytes in [
        REQUEST,
        "PROXY TCP4 nonsense\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = Client::connect(rota.http());
        let _ = client.try_send(bytes.as_bytes());
        assert!(client.is_closed(), "{bytes}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_proxy_header_from_an_untrusted_address_is_not_believed() {
    let origin = Origin::fixed("never");
    let rota = behind(&origin, "10.0.0.0/8");
    let mut client = Client::connect(rota.http());
    let _ = client.try_send(
        [
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
            REQUEST.as_bytes(),
        ]
        .concat()
        .as_slice(),
    );
    assert!(client.is_closed());
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_front_that_names_no_client_vouches_for_no_words_of_its_own() {
    let origin = Origin::fixed("ok");
    let rota = behind(&origin, "127.0.0.0/8");
    let claims = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: mine-1\r\nConnection: close\r\n\r\n";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in [&b"PROXY UNKNOWN\r\n"[..], local] {
        let mut client = Client::connect(rota.http());
        client.send([header, claims.as_bytes()].concat());
        assert_eq!(client.answer().status, 200);
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.fields("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(request.field("x-real-ip"), None);
        assert_ne!(request.field("x-request-id"), Some("mine-1"));
    }
    // A proxy behind it that is trusted itself is believed.
    let mut client = Client::connect(rota.http());
    let header = b"PROXY TCP4 127.0.0.9 192.0.2.1 56324 443\r\n";
    client.send([&header[..], claims.as_bytes()].concat());
    assert_eq!(client.answer().status, 200);
    let request = origin.requests().pop().unwrap();
    let hops = request.fields("x-forwarded-for").join(", ");
    assert_eq!(hops, "6.6.6.6, 127.0.0.9");
}

/// A header of version 2 for TCP over IPv4, with so many bytes of further fields.
fn version_2(further: usize) -> Vec<u8> {
    let length = u16::try_from(12 + further).unwrap().to_be_bytes();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend(length);
    header.extend([192, 0, 2, 9, 192, 0, 2, 1, 1, 2, 3, 4]);
    header.extend(vec![4; further]);
    header
}

#[test]
fn a_header_of_version_2_may_have_further_fields_and_come_in_pieces() {
    let origin = Origin::fixed("ok");
    let rota = behind(&origin, "127.0.0.0/8");
    for further in [0, 3, 200] {
        let mut client = Client::connect(rota.http());
        for piece in version_2(further).chunks(5) {
            client.send(piece);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(client.send(REQUEST).answer().status, 200, "{further}");
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.fields("x-forwarded-for"), ["192.0.2.9"]);
    }
}

#[test]
fn a_header_of_version_2_that_is_none_too_long_or_a_strangers_is_closed_unanswered() {
    let origin = Origin::fixed("never");
    let (trusting, strange) = (
        behind(&origin, "127.0.0.0/8"),
        behind(&origin, "10.0.0.0/8"),
    );
    let mut family = version_2(0);
    family[13] = 0x41;
    let mut version = version_2(0);
    version[12] = 0x31;
    let mut short = version_2(0);
    short[15] = 4;
    for (rota, header) in [
        (&trusting, family),
        (&trusting, version),
        (&trusting, short),
        (&trusting, version_2(2100)),
        (&strange, version_2(0)),
    ] {
        let mut client = Client::connect(rota.http());
        let _ = client.try_send(&[&header[..], REQUEST.as_bytes()].concat());
        assert!(client.is_closed(), "{:02x?}", &header[12..16]);
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(
        trusting.metric("rota_proxy_protocol_refused_total", &[]),
        4.0
    );
}

#[test]
fn a_proxy_header_stands_before_a_client_hello() {
    let (authority, origin, place) = (Authority::new(), Origin::fixed("ok"), Place::new());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let asked =
        "protocol = \"https\"\ntrusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true\n";
    let rota = place.start(&secured("", &origin).replace("protocol = \"https\"\n", asked));
    for protocol in ["http/1.1", "h2"] {
        let tls = authority.client_with("shop.test", &[protocol], rustls::DEFAULT_VERSIONS);
        let mut stream = TcpStream::connect(rota.https()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Write::write_all(&mut stream, &version_2(3)).unwrap();
        let mut client = Client::on_tls(stream, &tls).unwrap();
        if protocol == "http/1.1" {
            assert_eq!(client.get("shop.test", "/").status, 200);
            let request = origin.requests().pop().unwrap();
            assert_eq!(request.fields("x-forwarded-for"), ["192.0.2.9"]);
        }
    }
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    assert!(Client::connect_tls(rota.https(), &tls).is_err());
}

#[test]
fn a_proxy_header_that_no_listener_asked_for_is_no_request() {
    let origin = Origin::fixed("never");
    let rota = Rota::start(&edge(&[origin.address()]));
    for header in [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n".to_vec(),
        version_2(0),
    ] {
        let mut client = Client::connect(rota.http());
        client.send([&header[..], REQUEST.as_bytes()].concat());
        assert_eq!(client.answer().status, 400);
    }
    assert_eq!(origin.count(), 0);
}
