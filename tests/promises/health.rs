//! A server leaves the rota when there is reason to, and comes back when there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Duration;

use crate::support::client::Client;
use crate::support::rota::{Place, edge, edge_with, said};
use crate::support::{Origin, Rota, eventually, stays};

/// A server whose `/healthz` says what the number says, and its name elsewhere.
fn with_health(name: &'static str) -> (Origin, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let said = status.clone();
    let origin = Origin::start(move |exchange| {
        exchange.read_body()?;
        match exchange.request.target.as_str() {
            "/healthz" => exchange.answer(said.load(SeqCst), &[], b""),
            _ => exchange.answer(200, &[], name.as_bytes()),
        }
    });
    (origin, status)
}

fn probed(origins: &[&Origin], probe: &str) -> Rota {
    let servers: Vec<_> = origins
        .iter()
        .map(|o| format!("\"{}\"", o.address()))
        .collect();
    Rota::start(&edge_with(&format!(
        "servers = [{}]\n[service.health.active]\ninterval = \"50ms\"\nfall = 2\nrise = 2\n{probe}",
        servers.join(", ")
    )))
}

fn bodies(rota: &Rota, count: usize) -> std::collections::BTreeSet<String> {
    (0..count).map(|_| rota.get("a", "/").text()).collect()
}

#[test]
fn a_failing_probe_takes_a_server_off_and_a_good_one_brings_it_back() {
    let ((one, health), (two, _)) = (with_health("one"), with_health("two"));
    let rota = probed(&[&one, &two], "path = \"/healthz\"");
    rota.wait_until_up("app", one.address());
    health.store(500, SeqCst);
    rota.wait_until_down("app", one.address());
    assert_eq!(bodies(&rota, 8), ["two".to_owned()].into());
    let why = said(&rota.command(&["why", &one.address().to_string()]));
    assert!(why.contains("500"), "the reason is named: {why}");
    health.store(200, SeqCst);
    rota.wait_until_up("app", one.address());
    assert_eq!(
        bodies(&rota, 8),
        ["one".to_owned(), "two".to_owned()].into()
    );
}

#[test]
fn a_probe_expects_the_statuses_it_was_told() {
    let ((one, health), (two, _)) = (with_health("one"), with_health("two"));
    health.store(418, SeqCst);
    let rota = probed(&[&one, &two], "path = \"/healthz\"\nstatus = [200, 418]");
    eventually("both were probed", || one.count() > 4 && two.count() > 4);
    assert!(rota.is_up("app", one.address()) && rota.is_up("app", two.address()));
    health.store(204, SeqCst);
    rota.wait_until_down("app", one.address());
}

#[test]
fn a_tcp_probe_sees_that_nobody_listens() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = probed(&[&one, &two], "");
    rota.wait_until_up("app", one.address());
    one.stop();
    rota.wait_until_down("app", one.address());
    one.restart();
    rota.wait_until_up("app", one.address());
}

#[test]
fn a_refused_connection_ejects_at_once_and_the_server_comes_back() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = Rota::start(&edge(&[one.address(), two.address()]));
    assert_eq!(bodies(&rota, 8).len(), 2);
    one.stop();
    assert_eq!(bodies(&rota, 8), ["two".to_owned()].into());
    assert!(!rota.is_up("app", one.address()));
    one.restart();
    rota.wait_until_up("app", one.address());
    assert_eq!(bodies(&rota, 8).len(), 2);
}

#[test]
fn servers_that_reset_in_a_row_are_ejected_but_never_more_than_half() {
    let bad: Vec<_> = (0..3)
        .map(|_| Origin::start(|exchange| exchange.reset()))
        .collect();
    let well = Origin::fixed("well");
    let mut servers: Vec<_> = bad.iter().map(Origin::address).collect();
    servers.push(well.address());
    let rota = Rota::start(&edge(&servers));
    for _ in 0..60 {
        rota.get("a", "/");
    }
    let up = servers.iter().filter(|s| rota.is_up("app", **s)).count();
    assert_eq!(up, 2, "half of four");
    assert!(rota.is_up("app", well.address()));
}

#[test]
fn when_nobody_is_fit_those_serve_whose_only_fault_is_a_checks_word() {
    let ((one, first), (two, second)) = (with_health("one"), with_health("two"));
    let rota = probed(&[&one, &two], "path = \"/healthz\"");
    first.store(500, SeqCst);
    second.store(500, SeqCst);
    rota.wait_until_down("app", one.address());
    rota.wait_until_down("app", two.address());
    assert_eq!(bodies(&rota, 8).len(), 2, "panic: better them than nobody");
}

#[test]
fn nobody_left_that_accepts_connections_is_503() {
    let one = Origin::fixed("one");
    let rota = Rota::start(&edge(&[one.address()]));
    assert_eq!(rota.get("a", "/").status, 200);
    one.stop();
    let first = rota.get("a", "/").status;
    assert!([502, 503].contains(&first), "{first}");
    eventually("then nobody is on the rota", || {
        rota.get("a", "/").status == 503
    });
    assert!(rota.get("a", "/").field("retry-after").is_some());
}

#[test]
fn a_drained_server_finishes_what_it_has_and_gets_nothing_new() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let one = Origin::start(move |exchange| {
        if exchange.request.target == "/slow" {
            gate.lock().unwrap().recv().unwrap();
        }
        exchange.answer(200, &[], b"one")
    });
    let two = Origin::start(|exchange| exchange.answer(200, &[], b"two"));
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    let rota = Place::new().start(&format!(
        "{socket}{}",
        edge(&[one.address(), two.address()])
    ));
    let mut slow = Client::connect(rota.http());
    while one.count() == 0 {
        assert_eq!(rota.get("a", "/").status, 200);
    }
    one.forget();
    // Until it is `one`'s turn: `two` answers at once.
    loop {
        let answered = two.count();
        slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("either has it", || {
            one.count() > 0 || two.count() > answered
        });
        if one.count() > 0 {
            break;
        }
        slow.answer();
    }
    let target = format!("app/{}", one.address());
    let output = rota.command(&["drain", &target, "--here"]);
    assert!(output.status.success(), "{}", said(&output));
    eventually("it is off the rota", || !rota.is_up("app", one.address()));
    assert_eq!(bodies(&rota, 8), ["two".to_owned()].into());
    go.send(()).unwrap();
    assert_eq!(slow.answer().text(), "one");
    let why = said(&rota.command(&["why", "app"]));
    assert!(why.contains("drain"), "{why}");
    assert!(
        rota.command(&["undrain", &target, "--here"])
            .status
            .success()
    );
    eventually("it is on the rota", || rota.is_up("app", one.address()));
}

#[test]
fn a_service_drained_whole_is_503_and_not_panic() {
    let one = Origin::fixed("one");
    let socket = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";
    let rota = Place::new().start(&format!("{socket}{}", edge(&[one.address()])));
    let drained = rota.command(&["drain", "app", "--here"]);
    assert!(drained.status.success(), "{}", said(&drained));
    eventually("nobody is left", || rota.get("a", "/").status == 503);
    stays("nobody serves", Duration::from_millis(200), || {
        rota.get("a", "/").status == 503
    });
    assert!(rota.command(&["undrain", "app", "--here"]).status.success());
    eventually("it serves again", || rota.get("a", "/").status == 200);
}

#[test]
fn a_weight_of_nothing_takes_no_turn() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let config = edge_with(&format!(
        "servers = [{{ address = \"{}\", weight = 0 }}, \"{}\"]",
        one.address(),
        two.address()
    ));
    let rota = Rota::start(&config);
    assert_eq!(bodies(&rota, 10), ["two".to_owned()].into());
}
