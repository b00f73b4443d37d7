//! What is sent again and what never is.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::rota::{Place, edge, edge_with};
use crate::support::{Origin, Rota, eventually};

fn service(servers: &[SocketAddr], more: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|s| format!("\"{s}\"")).collect();
    edge_with(&format!("servers = [{}]\n{more}", servers.join(", ")))
}

/// Reads the request's head and ends the connection with a reset.
fn resets() -> Origin {
    Origin::start(|exchange| exchange.reset())
}

/// A port that refuses connections.
fn refusing() -> Origin {
    let origin = Origin::fixed("never");
    origin.stop();
    origin
}

#[test]
fn a_refused_request_goes_to_another_server_at_once_whatever_its_method() {
    for method in ["GET", "POST", "PATCH", "DELETE"] {
        let (dead, well) = (refusing(), Origin::fixed("well"));
        let rota = Rota::start(&edge(&[dead.address(), well.address()]));
        for _ in 0..4 {
            let answer = rota.ask(&format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
            ));
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "well"),
                "{method}"
            );
        }
        assert!(
            well.requests()
                .iter()
                .all(|request| request.body == b"body")
        );
    }
}

#[test]
fn a_get_is_retried_when_the_server_resets_before_its_first_byte() {
    let (bad, well) = (resets(), Origin::fixed("well"));
    let rota = Rota::start(&edge(&[bad.address(), well.address()]));
    for _ in 0..4 {
        assert_eq!(rota.get("a", "/").text(), "well");
    }
    assert!(bad.count() >= 1, "it was asked");
    assert!(rota.metric("rota_retries_total", &[("service", "app")]) >= 1.0);
}

#[test]
fn a_post_is_never_sent_twice_once_its_bytes_were_written() {
    let origins = [resets(), resets()];
    let rota = Rota::start(&edge(&[origins[0].address(), origins[1].address()]));
    for number in 1..=4 {
        let answer = rota.ask(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
        );
        assert_eq!(answer.status, 502);
        assert_eq!(
            origins[0].count() + origins[1].count(),
            number,
            "one server each"
        );
    }
}

#[test]
fn a_get_whose_answer_has_begun_is_not_sent_again() {
    let origins: Vec<_> = (0..2)
        .map(|_| {
            Origin::start(|exchange| {
                exchange.send("HTTP/1.1 200 OK\r\nContent-Le")?;
                exchange.close()
            })
        })
        .collect();
    let rota = Rota::start(&edge(&[origins[0].address(), origins[1].address()]));
    assert_eq!(rota.get("a", "/").status, 502);
    assert_eq!(origins[0].count() + origins[1].count(), 1);
}

#[test]
fn a_pooled_connection_that_the_server_closed_costs_no_request() {
    let origin = Origin::fixed("ok");
    let rota = Place::new().start(&format!(
        "[node]\nworkers = 1\n{}",
        edge(&[origin.address()])
    ));
    for method in ["GET", "POST", "POST", "GET"] {
        assert_eq!(
            rota.ask(&format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
            ))
            .status,
            200
        );
        origin.close_connections();
    }
    assert_eq!(origin.count(), 4, "each was sent once");
}

#[test]
fn a_get_goes_on_to_other_servers_up_to_its_attempts() {
    for (attempts, expected) in [(0, 1), (1, 2), (2, 3), (5, 4)] {
        let origins: Vec<_> = (0..4).map(|_| resets()).collect();
        let servers: Vec<_> = origins.iter().map(Origin::address).collect();
        let rota = Rota::start(&service(
            &servers,
            &format!("[service.retry]\nattempts = {attempts}"),
        ));
        assert_eq!(rota.get("a", "/").status, 502);
        let asked: Vec<_> = origins.iter().map(Origin::count).collect();
        assert_eq!(
            asked.iter().sum::<usize>(),
            expected,
            "attempts = {attempts}"
        );
        assert!(
            asked.iter().all(|&count| count <= 1),
            "never the same server twice"
        );
    }
}

#[test]
fn a_listed_status_of_an_idempotent_request_is_retried_and_of_others_is_passed_on() {
    let busy = Origin::start(|exchange| exchange.answer(503, &[], b"busy"));
    let well = Origin::fixed("well");
    let rota = Rota::start(&service(
        &[busy.address(), well.address()],
        "[service.retry]\nattempts = 2\nstatuses = [503]",
    ));
    for _ in 0..4 {
        assert_eq!(rota.get("a", "/").text(), "well");
    }
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let statuses: Vec<_> = (0..4).map(|_| rota.ask(post).status).collect();
    assert!(
        statuses.contains(&503) || !rota.is_up("app", busy.address()),
        "{statuses:?}"
    );
}

#[test]
fn no_status_is_retried_unless_it_is_listed() {
    let busy = Origin::start(|exchange| exchange.answer(503, &[("X-Mine", "1")], b"busy"));
    let rota = Rota::start(&edge(&[busy.address()]));
    let answer = rota.get("a", "/");
    assert_eq!((answer.status, answer.field("x-mine")), (503, Some("1")));
    assert_eq!(busy.count(), 1);
}

#[test]
fn the_last_answer_is_the_clients_when_every_server_gives_a_listed_status() {
    let origins: Vec<_> = (0..3)
        .map(|_| Origin::start(|exchange| exchange.answer(503, &[], b"busy")))
        .collect();
    let servers: Vec<_> = origins.iter().map(Origin::address).collect();
    let rota = Rota::start(&service(&servers, "[service.retry]\nstatuses = [503]"));
    let answer = rota.get("a", "/");
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
}

#[test]
fn an_idempotent_body_is_sent_again_whole() {
    let bad = Origin::start(|exchange| {
        exchange.read_body()?;
        exchange.reset()
    });
    let well = Origin::fixed("well");
    let rota = Rota::start(&edge(&[bad.address(), well.address()]));
    for _ in 0..2 {
        let answer = rota.ask(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole",
        );
        assert_eq!(answer.text(), "well");
    }
    assert!(
        well.requests()
            .iter()
            .all(|request| request.body == b"whole")
    );
}

#[test]
fn a_timeout_is_504_and_not_retried() {
    let origins: Vec<_> = (0..2)
        .map(|_| {
            Origin::start(|exchange| {
                exchange.is_left_within(Duration::from_secs(10));
                Ok(())
            })
        })
        .collect();
    let config = edge(&[origins[0].address(), origins[1].address()]);
    let rota = Place::new().start(&format!("[timeouts]\nresponse = \"200ms\"\n{config}"));
    assert_eq!(rota.get("a", "/").status, 504);
    assert_eq!(origins[0].count() + origins[1].count(), 1);
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::start(|exchange| {
        exchange.answer(413, &[("Connection", "close")], b"too much")?;
        exchange.is_left_within(Duration::from_secs(5));
        Ok(())
    });
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut client = Client::connect(rota.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
    let mut rest = Vec::new();
    let _ = client.tcp().read_to_end(&mut rest);
    assert!(rest.is_empty());
    eventually("nothing is in flight", || {
        rota.metric("rota_upstream_in_flight", &[]) == 0.0
    });
}
