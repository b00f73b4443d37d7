//! The tests' own app servers, clients and certificates do what the other tests rely on.

use std::time::Duration;

use crate::support::client::{self, Client};
use crate::support::wire::Hash;
use crate::support::{Authority, Load, Origin, rota};

#[test]
fn an_origin_remembers_the_bytes_of_each_request() {
    let origin = Origin::fixed("hello");
    let mut client = Client::connect(origin.address());
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(client.send(head).send("abc").answer().text(), "hello");
    assert_eq!(client.get("b", "/y").text(), "hello");
    let [first, second] = &origin.requests()[..] else {
        panic!("two requests")
    };
    assert_eq!(first.head.raw, head.as_bytes());
    assert_eq!(
        (&first.body[..], first.body_hash),
        (&b"abc"[..], Hash::of(b"abc"))
    );
    assert!(first.is_complete && second.is_complete);
    assert_eq!((second.connection, second.target.as_str()), (0, "/y"));
    assert_eq!((origin.count(), origin.connections()), (2, 1));
}

#[test]
fn chunks_and_trailers_are_read_both_ways() {
    let origin = Origin::start(|exchange| {
        exchange.read_body()?;
        exchange.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-end: 1\r\n\r\n",
        )
    });
    let answer = Client::connect(origin.address())
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 2\r\n\r\n")
        .answer();
    assert_eq!(answer.text(), "abcde");
    assert_eq!(answer.trailers, [("x-end".to_owned(), "1".to_owned())]);
    let request = origin.only_request();
    assert_eq!(request.body, b"hi");
    assert_eq!(request.trailers, [("X-Sum".to_owned(), "2".to_owned())]);
}

#[test]
fn a_stopped_origin_refuses_and_a_restarted_one_answers_on_the_same_port() {
    let origin = Origin::fixed("up");
    let mut open = Client::connect(origin.address());
    assert_eq!(open.get("a", "/").status, 200);
    origin.stop();
    assert!(open.is_closed());
    let refused = Client::try_connect(origin.address()).err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    origin.restart();
    assert_eq!(client::get(origin.address(), "a", "/").text(), "up");
}

#[test]
fn an_origin_can_reset_a_connection() {
    let origin = Origin::start(|exchange| exchange.reset());
    let mut client = Client::connect(origin.address());
    let error = client
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .try_answer();
    assert_eq!(
        error.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[test]
fn an_origin_sees_its_client_leave() {
    let (sender, seen) = std::sync::mpsc::channel();
    let origin = Origin::start(move |exchange| {
        sender
            .send(exchange.is_left_within(Duration::from_secs(10)))
            .unwrap();
        Ok(())
    });
    let mut client = Client::connect(origin.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(client);
    assert!(seen.recv().unwrap());
}

#[test]
fn a_tls_client_trusts_its_authority_alone() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["app.test"]);
    let origin = Origin::start_tls(leaf.server(), |exchange| exchange.answer(200, &[], b"tls"));
    let mut client = Client::connect_tls(origin.address(), &authority.client("app.test")).unwrap();
    assert_eq!(client.get("app.test", "/").text(), "tls");
    let stranger = Authority::new().client("app.test");
    assert!(Client::connect_tls(origin.address(), &stranger).is_err());
}

#[test]
fn load_counts_every_answer_and_every_error() {
    let origin = Origin::fixed("one");
    origin.stop_recording();
    let tally = Load::new(origin.address(), 4).run_count(400);
    assert_eq!((tally.total(), tally.failed()), (400, 0));
    assert_eq!(tally.bodies["one"], 400);
    assert_eq!(origin.count(), 400);
    let begin = std::time::Instant::now();
    let running = Load::new(origin.address(), 4).rate(200).start();
    std::thread::sleep(Duration::from_millis(500));
    origin.stop();
    let tally = running.finish();
    let most = begin.elapsed().as_secs_f64() * 200.0 + 8.0;
    assert!(tally.total() as f64 <= most, "{} > {most}", tally.total());
    assert!(tally.percentile(0.5) <= tally.percentile(0.99));
}

#[test]
fn a_metric_is_the_sum_of_its_series_with_the_labels() {
    let text = "# HELP a b\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total{x=\"2\"} 1\na_total_more 9\nb 2.5\n";
    assert_eq!(rota::sum_of(text, "a_total", &[("x", "1")]), 7.0);
    assert_eq!(
        rota::sum_of(text, "a_total", &[("x", "1"), ("y", "3")]),
        4.0
    );
    assert_eq!(rota::sum_of(text, "a_total", &[]), 8.0);
    assert_eq!(rota::sum_of(text, "b", &[]), 2.5);
    assert_eq!(rota::sum_of(text, "c", &[]), 0.0);
}
