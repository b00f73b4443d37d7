//! The PROXY protocol: who the client is, by the word of a trusted load balancer in front and of nobody else.

use crate::support::client::Client;
use crate::support::rota::{PLAIN, edge};
use crate::support::{Origin, Rota};

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
