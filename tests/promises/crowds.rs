//! Too many connections: of one client, and more than there are descriptors for.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::attack::secure;
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::rota::{PLAIN, Place, edge};
use crate::support::{Authority, Origin, Rota, eventually};

const REFUSED: &str = "rota_client_connections_refused_total";

/// A connection from an address of one's own choice.
pub fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

#[test]
fn one_connection_too_many_of_a_client_is_closed_before_tls_and_other_clients_are_served() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(
        &authority,
        &origin,
        "[limits]\nconnections_per_client = 3\n",
    );
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let mut held: Vec<Client> = (0..3)
        .map(|_| Client::connect_tls(rota.https(), &tls).unwrap())
        .collect();
    assert!(Client::connect_tls(rota.https(), &tls).is_err());
    let refused = Client::try_connect(rota.http());
    assert!(refused.is_err() || refused.is_ok_and(|mut client| client.is_closed()));
    assert_eq!(rota.metric(REFUSED, &[]), 2.0);
    let handshakes = rota.metric("rota_tls_handshakes_total", &[]);
    assert_eq!(handshakes, 3.0, "nobody shook hands with the fourth");
    let other = connect_from([127, 0, 0, 2], rota.http());
    assert_eq!(Client::on(other).get("a", "/").status, 200);
    assert_eq!(held[0].get("shop.test", "/").status, 200);
    drop(held.pop());
    eventually("there is room again", || {
        Client::connect_tls(rota.https(), &tls).is_ok()
    });
}

#[test]
fn behind_the_proxy_protocol_a_client_is_the_address_that_the_header_names() {
    let origin = Origin::fixed("ok");
    let listener = format!(
        "{PLAIN}trusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true\n[limits]\nconnections_per_client = 2\n"
    );
    let rota = Rota::start(&edge(&[origin.address()]).replace(PLAIN, &listener));
    let connect = |client: &str| {
        let mut connection = Client::connect(rota.http());
        connection.send(format!(
            "PROXY TCP4 {client} 192.0.2.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        connection
    };
    let mut held = [connect("192.0.2.7"), connect("192.0.2.7")];
    for client in &mut held {
        assert_eq!(client.answer().status, 200);
    }
    assert!(connect("192.0.2.7").is_closed());
    assert_eq!(connect("192.0.2.8").answer().status, 200);
    assert_eq!(rota.metric(REFUSED, &[]), 1.0);
}

#[test]
fn a_trusted_proxy_stands_for_many_clients_and_is_not_counted() {
    let origin = Origin::fixed("ok");
    let listener =
        format!("{PLAIN}trusted_proxies = [\"127.0.0.1\"]\n[limits]\nconnections_per_client = 1\n");
    let rota = Rota::start(&edge(&[origin.address()]).replace(PLAIN, &listener));
    let mut held: Vec<Client> = (0..5).map(|_| Client::connect(rota.http())).collect();
    for client in &mut held {
        assert_eq!(client.get("a", "/").status, 200);
    }
}

#[test]
fn idle_connections_beyond_the_descriptors_wait_and_servers_and_admin_have_theirs() {
    let origin = Origin::start(|exchange| {
        exchange.answer(200, &[("Connection", "close")], b"ok")?;
        exchange.close()
    });
    let rota = Place::new()
        .with_descriptors(128)
        .start(&edge(&[origin.address()]));
    assert!(rota.log().contains("limits.connections = 20000"));
    let mut early = Client::connect(rota.http());
    assert_eq!(early.get("a", "/").status, 200);
    let flood: Vec<Client> = (0..300).map(|_| Client::connect(rota.http())).collect();
    eventually("accepting pauses", || {
        rota.metric("rota_accept_paused_total", &[]) > 0.0
    });
    for _ in 0..100 {
        assert_eq!(early.get("a", "/").status, 200);
    }
    assert!(rota.metric("process_open_fds", &[]) < 112.0);
    assert_eq!(rota.metric("rota_accept_failed_total", &[]), 0.0);
    drop(flood);
    assert_eq!(rota.get("a", "/").status, 200, "served behind the flood");
}

#[test]
fn streams_for_which_no_descriptor_is_left_are_503_and_rota_keeps_some_for_itself() {
    let authority = Authority::new();
    let origin = Origin::start(|exchange| {
        exchange.is_left_within(Duration::from_secs(1));
        exchange.answer(200, &[], b"ok")
    });
    let place = Place::new().with_descriptors(96);
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let rota = place.start(&crate::attack::secured("", &origin));
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    let asked: Vec<_> = (0..120)
        .map(|_| client.begin_get("shop.test", "/"))
        .collect();
    eventually("all servers' share is used", || {
        rota.metric("rota_requests_ended_total", &[("reason", "exhausted")]) > 0.0
    });
    let answers: Vec<_> = asked
        .into_iter()
        .map(|task| client.end(task).unwrap())
        .collect();
    let served = answers.iter().filter(|a| a.status == 200).count();
    let refused = answers.iter().filter(|a| a.status == 503).count();
    assert_eq!(served + refused, 120);
    assert!(served >= 40 && refused >= 20, "{served} {refused}");
    let refused = answers.iter().filter(|a| a.status == 503);
    assert!(refused.map(|a| &a.fields).all(|f| f["retry-after"] == "1"));
    assert_eq!(rota.get("a", "/").status, 200);
}
