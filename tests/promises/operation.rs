//! What an operator does to a running rota: signals, files, the admin listener, logs.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::attack::secure;
use crate::support::client::{self, Client};
use crate::support::http2::Http2;
use crate::support::rota::{PLAIN, Place, Signal, edge, run, said, sum_of};
use crate::support::{Authority, Origin, Rota, eventually, stays};

/// A server whose `/slow` answers once `go` is sent.
fn gated() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let origin = Origin::start(move |exchange| {
        if exchange.request.target == "/slow" {
            let _ = gate.lock().unwrap().recv();
        }
        exchange.answer(200, &[], b"done")
    });
    (origin, go)
}

#[test]
fn term_finishes_what_is_in_flight_and_ends_well() {
    let (origin, go) = gated();
    let rota = Rota::start(&edge(&[origin.address()]));
    let mut busy = Client::connect(rota.http());
    let mut idle = Client::connect(rota.http());
    assert_eq!(idle.get("a", "/").status, 200);
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the server has it", || origin.count() == 2);
    rota.signal(Signal::TERM);
    eventually("nothing is accepted", || {
        TcpStream::connect(rota.http()).is_err()
    });
    assert!(
        idle.read_to_end().is_empty(),
        "an idle connection is closed"
    );
    go.send(()).unwrap();
    let answer = busy.answer();
    assert_eq!(answer.text(), "done");
    assert_eq!(
        answer
            .field("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("close")
    );
    assert!(rota.wait().success());
}

#[test]
fn who_keeps_a_connection_busy_is_told_that_it_ends_and_loses_no_request() {
    for delay in ["0s", "300ms"] {
        let origin = Origin::fixed("ok");
        let rota = Place::new().start(&format!(
            "[timeouts]\ndrain_delay = \"{delay}\"\n{}",
            edge(&[origin.address()])
        ));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let mut client = Client::connect(rota.http());
                std::thread::spawn(move || {
                    loop {
                        let answer = client.get("a", "/");
                        assert_eq!(answer.status, 200);
                        if answer.field("connection") == Some("close") {
                            return;
                        }
                    }
                })
            })
            .collect();
        eventually("they are busy", || origin.count() > 100);
        rota.signal(Signal::TERM);
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        assert!(rota.wait().success());
    }
}

#[test]
fn readiness_goes_first_and_connections_are_accepted_until_the_delay_is_over() {
    let origin = Origin::fixed("ok");
    let rota = Place::new().start(&format!(
        "[timeouts]\ndrain_delay = \"500ms\"\n{}",
        edge(&[origin.address()])
    ));
    rota.signal(Signal::TERM);
    eventually("/readyz says 503", || rota.readiness() == Some(503));
    assert_eq!(rota.get("a", "/").status, 200, "still accepting");
    assert!(rota.wait().success());
}

#[test]
fn what_is_not_finished_in_time_is_cut_and_logged_as_stopped() {
    let (origin, _go) = gated();
    let rota = Place::new().start(&format!(
        "[access_log]\npath = \"{{dir}}/access.log\"\n[timeouts]\ndrain = \"300ms\"\n{}",
        edge(&[origin.address()])
    ));
    let log = rota.directory().join("access.log");
    let mut busy = Client::connect(rota.http());
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the server has it", || origin.count() == 1);
    rota.stop();
    busy.read_to_end();
    let lines = fs::read_to_string(log).unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(
        (&line["target"], &line["reason"]),
        (&"/slow".into(), &"stopped".into())
    );
}

#[test]
fn a_second_term_stops_at_once() {
    let (origin, _go) = gated();
    let rota = Rota::start(&edge(&[origin.address()]));
    Client::connect(rota.http())
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .answer();
    let mut busy = Client::connect(rota.http());
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the server has it", || origin.count() == 2);
    rota.signal(Signal::TERM);
    eventually("it drains", || TcpStream::connect(rota.http()).is_err());
    rota.signal(Signal::TERM);
    rota.wait(); // the drain itself would take 30 s, longer than this waits
}

#[test]
fn http_2_streams_in_flight_are_finished_on_term() {
    let (origin, go) = gated();
    let (authority, place) = (Authority::new(), Place::new());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let listener = "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{https}\"\nprotocol = \"https\"\ncertificates = [{ certificate = \"shop.pem\", key = \"shop.key\" }]\n";
    let rota = place.start(&(listener.to_owned() + &edge(&[origin.address()])));
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    let slow = client.begin_get("shop.test", "/slow");
    eventually("the server has it", || origin.count() == 1);
    rota.signal(Signal::TERM);
    eventually("nothing is accepted", || {
        TcpStream::connect(rota.https()).is_err()
    });
    go.send(()).unwrap();
    assert_eq!(client.end(slow).unwrap().body, b"done");
    assert!(client.closes_well());
    assert!(rota.wait().success());
}

#[test]
fn hup_applies_the_file_and_a_bad_file_changes_nothing() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = Rota::start(&edge(&[one.address()]));
    let mut open = Client::connect(rota.http());
    assert_eq!(open.get("a", "/").text(), "one");
    rota.reload(&edge(&[two.address()]));
    eventually("the new file is in force", || {
        open.get("a", "/").text() == "two"
    });
    rota.reload(&edge(&[one.address()]).replace("servers", "serverz"));
    eventually("the mistake is named", || rota.log().contains("serverz"));
    stays("the last good file", Duration::from_millis(200), || {
        open.get("a", "/").text() == "two"
    });
    assert_eq!(
        rota.metric("rota_reloads_total", &[("outcome", "failed")]),
        1.0
    );
}

#[test]
fn what_hup_cannot_change_is_named_and_stays() {
    let origin = Origin::fixed("one");
    let rota = Rota::start(&edge(&[origin.address()]));
    for name in ["other", "third"] {
        rota.reload(&format!(
            "[node]\nname = \"{name}\"\n{}",
            edge(&[origin.address()])
        ));
    }
    eventually("what stays is named", || {
        let log = rota.log();
        let is_named = |line: &&str| line.contains("[node]") && line.contains("restart");
        log.lines().any(|line| is_named(&line))
    });
    rota.assert_running();
}

#[test]
fn many_hups_at_once_are_few_reloads_and_term_ends_it_after_them() {
    let origin = Origin::fixed("one");
    let rota = Rota::start(&edge(&[origin.address()]));
    for _ in 0..500 {
        rota.signal(Signal::HUP);
    }
    assert_eq!(rota.get("a", "/").text(), "one");
    assert!(rota.metric("rota_reloads_total", &[("outcome", "ok")]) < 500.0);
    assert!(rota.stop().success());
}

#[test]
fn an_access_log_that_cannot_be_opened_at_hup_is_named_and_the_old_one_stays() {
    let origin = Origin::fixed("one");
    let log = "[access_log]\npath = \"{dir}/access.log\"\n";
    let rota = Rota::start(&format!("{log}{}", edge(&[origin.address()])));
    let wrong = log.replace("access.log", "absent/access.log");
    rota.reload(&format!("{wrong}{}", edge(&[origin.address()])));
    eventually("the path is named", || {
        rota.log().contains("absent/access.log")
    });
    assert_eq!(rota.get("a", "/kept").text(), "one");
    let file = rota.directory().join("access.log");
    eventually("the line is in the old log", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("/kept"))
    });
}

#[test]
fn a_listener_can_be_added_and_removed_by_hup() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let more = edge(&[origin.address()])
        + "[[listener]]\nname = \"more\"\naddress = \"127.0.0.1:{https}\"\nprotocol = \"http\"\n";
    rota.reload(&more);
    eventually("the new listener answers", || {
        Client::try_connect(rota.https()).is_ok()
    });
    assert_eq!(client::get(rota.https(), "a", "/").text(), "ok");
    rota.reload(&edge(&[origin.address()]));
    eventually("it is gone", || Client::try_connect(rota.https()).is_err());
    assert_eq!(rota.get("a", "/").text(), "ok");
}

#[test]
fn the_access_log_has_a_line_for_each_request_and_is_reopened_on_usr1() {
    let origin = Origin::fixed("ok");
    let log = "[access_log]\npath = \"{dir}/access.log\"\n";
    let rota = Place::new().start(&format!("{log}{}", edge(&[origin.address()])));
    let (path, moved) = (
        rota.directory().join("access.log"),
        rota.directory().join("access.log.1"),
    );
    let lines = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default();
    rota.get("Shop.test", "/first?x=\"1\"");
    eventually("the line is written", || lines(&path).ends_with('\n'));
    let line: serde_json::Value = serde_json::from_str(lines(&path).trim()).unwrap();
    assert_eq!(
        (&line["status"], &line["method"]),
        (&200.into(), &"GET".into())
    );
    assert_eq!(line["target"], "/first?x=\"1\"");
    assert_eq!(
        (&line["reason"], &line["service"]),
        (&"answered".into(), &"app".into())
    );
    assert_eq!(line["upstream"], origin.address().to_string());
    assert_eq!(
        line["request_id"],
        origin.only_request().field("x-request-id").unwrap()
    );
    fs::rename(&path, &moved).unwrap();
    rota.signal(Signal::USR1);
    eventually("the file is there again", || path.exists());
    rota.get("a", "/second");
    eventually("the line is in the new file", || {
        lines(&path).contains("/second")
    });
    assert!(!lines(&moved).contains("/second"));
}

#[test]
fn every_request_is_counted_by_how_it_ended() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]).replace("host = \"*\"", "host = \"a\""));
    rota.get("a", "/");
    rota.get("b", "/");
    rota.get("a", "/%00");
    let ended = |reason| rota.metric("rota_requests_ended_total", &[("reason", reason)]);
    eventually("all three are counted", || {
        (ended("answered"), ended("no_route"), ended("bad_request")) == (1.0, 1.0, 1.0)
    });
    let labels = [("service", "app"), ("code", "200"), ("method", "GET")];
    assert_eq!(rota.metric("rota_requests_total", &labels), 1.0);
}

#[test]
fn what_was_accepted_has_ended_or_is_under_way() {
    let (authority, (origin, go)) = (Authority::new(), gated());
    let rota = secure(&authority, &origin, "");
    let counted = || {
        let text = rota.metrics();
        let sum = |name| sum_of(&text, name, &[]);
        (
            sum("rota_requests_accepted_total"),
            sum("rota_requests_ended_total"),
        )
    };
    let mut busy = Client::connect(rota.http());
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    assert_eq!(
        Http2::connect(rota.https(), &tls)
            .get("shop.test", "/")
            .unwrap()
            .status,
        200
    );
    rota.get("a", "/%00");
    rota.ask("no request at all\r\n\r\n");
    eventually("one of four is under way", || counted() == (4.0, 3.0));
    go.send(()).unwrap();
    assert_eq!(busy.answer().status, 200);
    eventually("it has ended", || counted() == (4.0, 4.0));
}

const SOCKET: &str = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n";

fn drain_body(target: &str) -> String {
    format!(r#"{{"target": "{target}", "reach": "here", "by": "tester"}}"#)
}

#[test]
fn the_admin_socket_is_its_owners_and_can_change_things() {
    let origin = Origin::fixed("ok");
    let rota = Place::new().start(&format!("{SOCKET}{}", edge(&[origin.address()])));
    let socket = rota.directory().join("admin.sock");
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(rota.admin_get("/v1/status").json()["ready"], true);
    let answer = rota
        .admin_with(
            "POST /v1/drain",
            "Content-Type: application/json\r\n",
            &drain_body("app"),
        )
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("it is drained", || rota.get("a", "/").status == 503);
    assert!(
        rota.log().contains("tester"),
        "who did it is logged: {}",
        rota.log()
    );
}

#[test]
fn nothing_changes_over_tcp_without_the_token() {
    let origin = Origin::fixed("ok");
    let place = Place::new();
    let token = place.path().join("token");
    fs::write(&token, "a-token-that-cannot-be-guessed\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let admin = "[admin]\naddress = \"127.0.0.1:{admin}\"\ntoken_file = \"token\"\n";
    let rota = place.start(&format!("{admin}{}", edge(&[origin.address()])));
    let json = "Content-Type: application/json\r\n";
    for wrong in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic eA==\r\n",
    ] {
        let answer = rota
            .admin_with(
                "POST /v1/drain",
                &format!("{json}{wrong}"),
                &drain_body("app"),
            )
            .unwrap();
        assert!(
            [401, 403].contains(&answer.status),
            "{wrong:?}: {}",
            answer.status
        );
    }
    assert_eq!(rota.get("a", "/").status, 200);
    let right = format!("{json}Authorization: Bearer a-token-that-cannot-be-guessed\r\n");
    let answer = rota
        .admin_with("POST /v1/drain", &right, &drain_body("app"))
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("it is drained", || rota.get("a", "/").status == 503);
}

#[test]
fn a_web_page_of_a_stranger_reaches_nothing() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    let status = |fields: &str| {
        rota.admin_with("GET /v1/status", fields, "")
            .unwrap()
            .status
    };
    assert_eq!(status(""), 200);
    for fields in [
        "Host: evil.test\r\n",
        "Origin: http://evil.test\r\n",
        "Origin: null\r\n",
    ] {
        assert!([403, 421].contains(&status(fields)), "{fields:?}");
    }
}

#[test]
fn status_and_why_explain_to_people() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = Rota::start(&edge(&[one.address(), two.address()]));
    one.stop();
    eventually("it is refused", || {
        rota.get("a", "/");
        !rota.is_up("app", one.address())
    });
    let status = said(&rota.command(&["status"]));
    assert!(status.contains("app"), "{status}");
    let server = one.address().to_string();
    for about in ["app", "shop.test", server.as_str()] {
        let output = rota.command(&["why", about]);
        assert!(output.status.success(), "{about}: {}", said(&output));
        assert!(
            said(&output).contains(&server),
            "{about}: {}",
            said(&output)
        );
    }
    let json = rota.command(&["status", "--json"]);
    assert!(
        serde_json::from_slice::<serde_json::Value>(&json.stdout).is_ok(),
        "{}",
        said(&json)
    );
    assert_eq!(
        rota.command(&["why", "no-such-thing"]).status.code(),
        Some(1)
    );
    let unknown = rota.command(&["why", "no-such-thing", "--json"]);
    assert_eq!(unknown.status.code(), Some(1), "also for programs");
    let answer: serde_json::Value = serde_json::from_slice(&unknown.stdout).unwrap();
    assert_eq!(answer["kind"], "unknown");
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text =
        edge(&["127.0.0.1:1".parse().unwrap()]).replace("127.0.0.1:{http}", &address.to_string());
    let rota = Place::new().spawn(&text);
    assert_eq!(rota.wait().code(), Some(1));
    let log = rota.log();
    assert_eq!(
        log.lines()
            .filter(|line| line.contains(&address.to_string()))
            .count(),
        1,
        "{log}"
    );
}

#[test]
fn two_rotas_do_not_share_a_port_silently() {
    let origin = Origin::fixed("ok");
    let first = Rota::start(&edge(&[origin.address()]));
    let text = edge(&[origin.address()]).replace("127.0.0.1:{http}", &first.http().to_string());
    assert_eq!(Place::new().spawn(&text).wait().code(), Some(1));
    assert_eq!(first.get("a", "/").status, 200);
}

#[test]
fn a_listener_may_be_on_ipv6() {
    let origin = Origin::fixed("six");
    let text = edge(&[origin.address()]).replace("127.0.0.1:{http}", "[::1]:{http}");
    let place = Place::new();
    let address: SocketAddr = format!("[::1]:{}", place.http).parse().unwrap();
    let _rota = place.start(&text);
    assert_eq!(client::get(address, "[::1]", "/").text(), "six");
    assert_eq!(origin.only_request().fields("x-forwarded-for"), ["::1"]);
}

#[test]
fn more_connections_than_the_limit_wait_and_are_served_later() {
    let origin = Origin::fixed("ok");
    let rota = Place::new().start(&format!(
        "[node]\nworkers = 1\n[limits]\nconnections = 4\n{}",
        edge(&[origin.address()])
    ));
    let mut first: Vec<_> = (0..4).map(|_| Client::connect(rota.http())).collect();
    for client in &mut first {
        assert_eq!(client.get("a", "/").status, 200);
    }
    let mut late = Client::connect(rota.http());
    late.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stays("it waits", Duration::from_millis(200), || {
        origin.count() == 4
    });
    drop(first.pop());
    assert_eq!(late.answer().status, 200);
}

#[test]
fn nonsense_on_every_port_does_not_end_it() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    for address in [rota.http(), rota.admin()] {
        for nonsense in [
            &b"\0\0\0\0"[..],
            b"\r\n\r\n\r\n",
            &[0xff; 4096],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            let _ = stream.write_all(nonsense);
        }
    }
    rota.assert_running();
    assert_eq!(rota.get("a", "/").status, 200);
    assert_eq!(rota.metric("rota_panics_total", &[]), 0.0);
}

#[test]
fn descriptors_do_not_leak() {
    let origin = Origin::fixed("ok");
    let rota = Rota::start(&edge(&[origin.address()]));
    rota.get("a", "/");
    let before = rota.open_files();
    for _ in 0..200 {
        rota.get("a", "/");
    }
    eventually("as many as before", || rota.open_files() <= before + 4);
}

#[test]
fn a_usage_error_is_2_and_help_is_0() {
    assert_eq!(run(&["no-such-verb"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    let absent = run(&["run", "--config", "/nonexistent/rota.toml"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(
        said(&absent).contains("/nonexistent/rota.toml"),
        "{}",
        said(&absent)
    );
    assert!(PLAIN.contains("{http}"));
}
