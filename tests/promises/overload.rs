//! More than there is strength for: requests beyond what a service may have at once, and connections beyond what workers keep up with.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::attack::{secure, secured};
use crate::crowds::connect_from;
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::rota::{Place, Signal, edge, edge_with};
use crate::support::{Authority, Origin, PATIENCE, Rota, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const WEBSOCKET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Holds answers back until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let is_shut = |open: &mut bool| !*open;
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), is_shut));
    }
}

/// A server that answers once its gate is open.
fn gated() -> (Origin, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::start(move |exchange| {
        held.wait();
        exchange.answer(200, &[], b"done")
    });
    (origin, gate)
}

fn limited(origin: &Origin, limit: &str) -> String {
    let log = "[access_log]\npath = \"{dir}/access.log\"\n";
    let service = format!("servers = [\"{}\"]\n{limit}\n", origin.address());
    format!("{log}[node]\nworkers = 2\n{}", edge_with(&service))
}

fn asking(rota: &Rota) -> Client {
    let mut client = Client::connect(rota.http());
    client.send(GET);
    client
}

fn of_app(rota: &Rota, name: &str) -> f64 {
    rota.metric(name, &[("service", "app")])
}

fn waiting(rota: &Rota, count: usize) {
    eventually("as many wait", || {
        of_app(rota, "rota_service_waiting") == count as f64
    });
}

#[test]
fn requests_beyond_a_service_s_limit_wait_and_beyond_its_queue_are_503_at_once() {
    let (origin, gate) = gated();
    let limit = "max_in_flight = 2\nqueue = 2\nqueue_wait = \"60s\"";
    let rota = Rota::start(&limited(&origin, limit));
    let mut served: Vec<Client> = (0..2).map(|_| asking(&rota)).collect();
    eventually("the server has both", || origin.count() == 2);
    served.extend((0..2).map(|_| asking(&rota)));
    waiting(&rota, 2);
    let refused = rota.ask(GET);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(of_app(&rota, "rota_service_in_flight"), 2.0);
    assert_eq!(of_app(&rota, "rota_service_overloaded_total"), 1.0);
    assert_eq!(origin.count(), 2, "nobody else was sent to it");
    gate.open();
    for client in &mut served {
        assert_eq!(client.answer().text(), "done");
    }
    eventually("all is over", || {
        of_app(&rota, "rota_service_in_flight") == 0.0
    });
    let ended = |reason| rota.metric("rota_requests_ended_total", &[("reason", reason)]);
    assert_eq!((ended("overloaded"), ended("answered")), (1.0, 4.0));
    let log = rota.directory().join("access.log");
    eventually("the log says why", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"overloaded\""))
    });
}

#[test]
fn a_request_that_has_waited_long_enough_is_503_and_its_connection_lives_on() {
    let (origin, gate) = gated();
    let limit = "max_in_flight = 1\nqueue_wait = \"200ms\"";
    let rota = Rota::start(&limited(&origin, limit));
    let mut first = asking(&rota);
    eventually("the server has it", || origin.count() == 1);
    let mut second = asking(&rota);
    assert_eq!(second.answer().status, 503);
    gate.open();
    assert_eq!(first.answer().status, 200);
    assert_eq!(second.get("a", "/").status, 200);
}

#[test]
fn streams_of_one_connection_wait_and_are_refused_each_by_itself() {
    let (authority, place, (origin, gate)) = (Authority::new(), Place::new(), gated());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let limit = "name = \"app\"\nmax_in_flight = 1\nqueue = 1\nqueue_wait = \"60s\"";
    let rota = place.start(&secured("", &origin).replace("name = \"app\"", limit));
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    let asked: Vec<_> = (0..5).map(|_| client.begin_get("shop.test", "/")).collect();
    eventually("three are refused", || {
        of_app(&rota, "rota_service_overloaded_total") == 3.0
    });
    gate.open();
    let mut statuses: Vec<u16> = asked
        .into_iter()
        .map(|task| client.end(task).unwrap().status)
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503, 503]);
}

#[test]
fn a_websocket_is_under_way_as_long_as_it_is_open() {
    let origin = Origin::start(|exchange| {
        if exchange.request.field("upgrade").is_none() {
            return exchange.answer(200, &[], b"done");
        }
        exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
        exchange.echo()
    });
    let rota = Rota::start(&limited(&origin, "max_in_flight = 1\nqueue = 0"));
    let mut socket = Client::connect(rota.http());
    assert_eq!(socket.send(WEBSOCKET).answer_head().status, 101);
    assert_eq!(rota.get("a", "/").status, 503);
    drop(socket);
    eventually("there is room again", || rota.get("a", "/").status == 200);
}

#[test]
fn who_gives_up_waiting_makes_room_in_the_queue_and_reaches_no_server() {
    let (origin, gate) = gated();
    let limit = "max_in_flight = 1\nqueue = 1\nqueue_wait = \"60s\"";
    let rota = Rota::start(&limited(&origin, limit));
    let mut first = asking(&rota);
    eventually("the server has it", || origin.count() == 1);
    let second = asking(&rota);
    waiting(&rota, 1);
    let tcp = socket2::SockRef::from(second.tcp());
    tcp.set_linger(Some(Duration::ZERO)).unwrap();
    drop(second);
    waiting(&rota, 0);
    let mut third = asking(&rota);
    waiting(&rota, 1);
    gate.open();
    assert_eq!(first.answer().status, 200);
    assert_eq!(third.answer().status, 200);
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_service_that_is_overloaded_is_no_other_service_s_trouble_and_hup_may_lift_its_limit() {
    let (origin, gate) = gated();
    let other = Origin::fixed("other");
    let more = format!(
        "\n[[service]]\nname = \"other\"\nservers = [\"{}\"]\n[[route]]\nhost = \"other\"\nservice = \"other\"\n",
        other.address()
    );
    let limited = limited(&origin, "max_in_flight = 1\nqueue = 0") + &more;
    let rota = Rota::start(&limited);
    let mut first = asking(&rota);
    eventually("the server has it", || origin.count() == 1);
    assert_eq!(rota.get("a", "/").status, 503);
    assert_eq!(rota.get("other", "/").text(), "other");
    rota.reload(&limited.replace("max_in_flight = 1", ""));
    let mut lifted = Vec::new();
    eventually("the limit is gone", || {
        lifted.push(asking(&rota));
        origin.count() > 1
    });
    gate.open();
    assert_eq!(first.answer().status, 200);
}

/// A listener of one worker that takes so many handshakes at once.
fn shaking_hands(authority: &Authority, origin: &Origin, limits: &str) -> Rota {
    let settings = format!("[node]\nworkers = 1\n[limits]\n{limits}\n");
    secure(authority, origin, &settings)
}

/// A handshake that its client never ends, once the server's part of it is there.
fn begun(authority: &Authority, mut tcp: TcpStream) -> TcpStream {
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let name = rustls_pki_types::ServerName::try_from(tls.name).unwrap();
    let mut client = rustls::ClientConnection::new(tls.config, name).unwrap();
    client.write_tls(&mut tcp).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.read_exact(&mut [0; 1]).unwrap();
    tcp
}

fn is_let_in(rota: &Rota, authority: &Authority) -> bool {
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    Client::connect_tls(rota.https(), &tls).is_ok()
}

fn too_many(rota: &Rota) -> f64 {
    rota.metric("rota_tls_handshakes_total", &[("outcome", "too_many")])
}

#[test]
fn a_client_has_a_limit_of_handshakes_under_way_and_silent_connections_are_none() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let limits = "handshakes = 0\nhandshakes_per_client = 2";
    let rota = shaking_hands(&authority, &origin, limits);
    let _silent: Vec<TcpStream> = (0..9)
        .map(|_| TcpStream::connect(rota.https()).unwrap())
        .collect();
    let connect = || TcpStream::connect(rota.https()).unwrap();
    let held = [begun(&authority, connect()), begun(&authority, connect())];
    assert!(!is_let_in(&rota, &authority));
    eventually("it is counted", || too_many(&rota) == 1.0);
    let other = connect_from([127, 0, 0, 2], rota.https());
    drop(begun(&authority, other));
    drop(held);
    eventually("there is room again", || is_let_in(&rota, &authority));
}

#[test]
fn a_worker_has_a_limit_of_handshakes_under_way_whoever_its_clients_are() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let limits = "handshakes = 2\nhandshakes_per_client = 0";
    let rota = shaking_hands(&authority, &origin, limits);
    let held = [2, 3].map(|last| {
        let tcp = connect_from([127, 0, 0, last], rota.https());
        begun(&authority, tcp)
    });
    assert!(!is_let_in(&rota, &authority));
    eventually("it is counted", || too_many(&rota) == 1.0);
    assert_eq!(rota.get("a", "/").status, 200, "without TLS all is well");
    drop(held);
    eventually("there is room again", || is_let_in(&rota, &authority));
}

/// The process stands still for a while; a client that connects meanwhile gets an answer, or is reset.
fn stand_still(rota: &Rota, span: Duration) -> Option<u16> {
    rota.signal(Signal::STOP);
    let mut client = Client::connect(rota.http());
    let sent = client.try_send(GET.as_bytes());
    std::thread::sleep(span);
    rota.signal(Signal::CONT);
    let answer = sent.and_then(|()| client.try_answer());
    answer.ok().map(|answer| answer.status)
}

#[test]
fn a_worker_that_does_not_keep_up_refuses_new_connections_until_it_does_and_a_hiccup_is_none() {
    let origin = Origin::fixed("ok");
    let limits = "[node]\nworkers = 1\n[limits]\nloop_lag = \"60ms\"\n";
    let rota = Rota::start(&(limits.to_owned() + &edge(&[origin.address()])));
    assert_eq!(stand_still(&rota, Duration::from_millis(500)), Some(200));
    let shed = || rota.metric("rota_connections_shed_total", &[]);
    assert_eq!(shed(), 0.0, "one pause is a hiccup");
    let mut held = Client::connect(rota.http());
    assert_eq!(held.get("a", "/").status, 200);
    // Each tick comes late: the next one is due a tenth of a second after the one before it came.
    eventually("new connections are refused", || {
        stand_still(&rota, Duration::from_millis(250)).is_none()
    });
    assert!(rota.log().contains("new connections are refused"));
    assert_eq!(held.get("a", "/").status, 200, "who is there is served");
    eventually("it recovers by itself", || {
        Client::try_connect(rota.http()).is_ok_and(|mut client| {
            client.try_send(GET.as_bytes()).is_ok() && client.try_answer().is_ok()
        })
    });
    assert!(shed() > 0.0);
    assert!(rota.log().contains("has caught up"));
}
