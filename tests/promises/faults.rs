//! Servers that break off, reset, hang or dawdle in the middle of an answer, over either protocol: what is not whole never looks it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::attack::{secure, secured};
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::rota::{Place, edge};
use crate::support::{Authority, Exchange, Origin, Rota, Signal, eventually};

/// How a server's answer comes to nothing after its first half.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Closes,
    Resets,
    Hangs,
}

const FAULTS: [Fault; 3] = [Fault::Closes, Fault::Resets, Fault::Hangs];

/// First halves, by each framing that says where an answer ends.
const HALVES: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX: 1\r\n",
];

impl Fault {
    fn strike(self, exchange: &mut Exchange) -> io::Result<()> {
        match self {
            Fault::Closes => exchange.close(),
            Fault::Resets => exchange.reset(),
            Fault::Hangs => {
                exchange.is_left_within(Duration::from_secs(30));
                Ok(())
            }
        }
    }
}

/// A server whose next answer is half a one; `/whole` is answered well.
struct Faulty {
    origin: Origin,
    next: Arc<Mutex<(&'static str, Fault)>>,
}

impl Faulty {
    fn start() -> Faulty {
        let next = Arc::new(Mutex::new((HALVES[0], Fault::Closes)));
        let told = next.clone();
        let origin = Origin::start(move |exchange| {
            if exchange.request.target == "/whole" {
                return exchange.answer(200, &[], b"whole");
            }
            let (half, fault) = *told.lock().unwrap();
            exchange.send(half)?;
            // So that the half has reached the client before a reset could overtake it.
            std::thread::sleep(Duration::from_millis(50));
            fault.strike(exchange)
        });
        Faulty { origin, next }
    }

    fn all(&self, mut each: impl FnMut(&str)) {
        for half in HALVES {
            for fault in FAULTS {
                *self.next.lock().unwrap() = (half, fault);
                each(&format!("{fault:?} behind {half:?}"));
            }
        }
    }
}

/// Short enough for a server that hangs, long enough for one that is slow since the machine is.
const TIMEOUTS: &str = "[timeouts]\nresponse = \"1s\"\ntunnel = \"1s\"\n";

fn truncated(rota: &Rota) -> f64 {
    let labels = [("reason", "upstream_truncated")];
    rota.metric("rota_requests_ended_total", &labels)
}

#[test]
fn an_answer_that_its_server_does_not_end_is_a_reset_stream_and_its_connection_lives_on() {
    let (authority, faulty) = (Authority::new(), Faulty::start());
    let rota = secure(&authority, &faulty.origin, TIMEOUTS);
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    faulty.all(|what| {
        let error = client.get("shop.test", "/half").expect_err(what);
        assert!(error.is_reset(), "{what}: {error}");
        let whole = client.get("shop.test", "/whole").expect(what);
        assert_eq!(whole.body, b"whole", "{what}");
    });
    assert_eq!(truncated(&rota), 12.0);
    rota.signal(Signal::TERM);
    assert!(client.closes_well());
}

#[test]
fn an_answer_that_its_server_does_not_end_is_a_reset_connection_over_tls_too() {
    let (authority, faulty) = (Authority::new(), Faulty::start());
    let rota = secure(&authority, &faulty.origin, TIMEOUTS);
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    for version in ["1.0", "1.1"] {
        faulty.all(|what| {
            let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
            client.send(format!(
                "GET /half HTTP/{version}\r\nHost: shop.test\r\n\r\n"
            ));
            assert_eq!(client.answer_head().status, 200, "{what}");
            let end = loop {
                if let Err(error) = client.try_read_exactly(1) {
                    break error.kind();
                }
            };
            assert_eq!(end, io::ErrorKind::ConnectionReset, "{what} {version}");
        });
    }
    assert_eq!(truncated(&rota), 24.0);
}

#[test]
fn a_server_that_answers_slowly_is_waited_for_as_long_as_it_goes_on() {
    let origin = Origin::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")?;
        for _ in 0..30 {
            std::thread::sleep(Duration::from_millis(100));
            exchange.send("x")?;
        }
        Ok(())
    });
    let settings = format!(
        "[timeouts]\nresponse = \"2s\"\n{}",
        edge(&[origin.address()])
    );
    let rota = Rota::start(&settings);
    let begun = Instant::now();
    assert_eq!(rota.get("a", "/").body.len(), 30);
    assert!(
        begun.elapsed() > Duration::from_secs(2),
        "longer than any one wait"
    );
}

#[test]
fn a_server_killed_under_an_answer_costs_that_answer_and_no_other() {
    let (authority, place) = (Authority::new(), Place::new());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let (dying, well) = (Faulty::start(), Origin::fixed("well"));
    *dying.next.lock().unwrap() = (HALVES[0], Fault::Hangs);
    let both = edge(&[dying.origin.address(), well.address()]);
    let one = edge(&[dying.origin.address()]);
    let rota = place.start(&secured("", &dying.origin).replace(&one, &both));
    let tls = authority.client_with("shop.test", &["h2"], rustls::DEFAULT_VERSIONS);
    let client = Http2::connect(rota.https(), &tls);
    let asked: Vec<_> = (0..2).map(|_| client.begin_get("shop.test", "/")).collect();
    eventually("one of them is half answered", || dying.origin.count() == 1);
    dying.origin.stop();
    let ends: Vec<_> = asked.into_iter().map(|task| client.end(task)).collect();
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1, "{ends:?}");
    for _ in 0..10 {
        assert_eq!(client.get("shop.test", "/").unwrap().body, b"well");
    }
}

#[test]
fn a_full_disk_costs_lines_of_the_access_log_and_no_request() {
    let origin = Origin::fixed("ok");
    let log = "[access_log]\npath = \"/dev/full\"\n";
    let rota = Rota::start(&format!("{log}{}", edge(&[origin.address()])));
    for _ in 0..20 {
        assert_eq!(rota.get("a", "/").status, 200);
    }
    eventually("the lines are counted", || {
        rota.metric("rota_access_log_failed_total", &[]) == 20.0
    });
    rota.assert_running();
}

#[test]
fn a_certificate_file_that_is_gone_changes_nothing_and_is_named_at_hup() {
    let (authority, origin) = (Authority::new(), Origin::fixed("ok"));
    let rota = secure(&authority, &origin, "");
    let tls = authority.client_with("shop.test", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let is_served = || {
        let mut client = Client::connect_tls(rota.https(), &tls).unwrap();
        client.get("shop.test", "/").status == 200
    };
    std::fs::remove_file(rota.directory().join("shop.pem")).unwrap();
    assert!(is_served());
    rota.signal(Signal::HUP);
    eventually("it is named", || rota.log().contains("shop.pem"));
    assert!(is_served());
    let failed = [("outcome", "failed")];
    assert_eq!(rota.metric("rota_reloads_total", &failed), 1.0);
}

/// 50 MiB of a service's instances, more of them than a service may have.
fn fifty_mib() -> Vec<u8> {
    let padding = "x".repeat(400);
    let mut text = String::from("[");
    for number in 0.. {
        let (high, low) = (number / 250, number % 250 + 1);
        text += &format!(
            r#"{{"Node":{{"Node":"n","Address":"10.1.0.1"}},"Service":{{"ID":"i{number}","Address":"10.{}.{}.{low}","Port":80,"Meta":{{"m":"{padding}"}}}},"Checks":[]}}"#,
            high / 250,
            high % 250,
        );
        if text.len() > 50 << 20 {
            break;
        }
        text.push(',');
    }
    (text + "]").into_bytes()
}

#[test]
fn an_answer_of_consul_s_of_fifty_mib_costs_no_request() {
    let (answer, app) = (fifty_mib(), Origin::fixed("ok"));
    let agent = Origin::start(move |exchange| {
        let index = [("X-Consul-Index", "7"), ("X-Consul-KnownLeader", "true")];
        let target = exchange.request.target.clone();
        match &*target {
            large if large.contains("/health/service/large") && !large.contains("index=7") => {
                exchange.answer(200, &index, &answer)
            }
            leader if leader.contains("/status/leader") => {
                exchange.answer(200, &index, b"\"127.0.0.1:8300\"")
            }
            hangs if hangs.contains("index=7") => {
                exchange.is_left_within(Duration::from_secs(60));
                Ok(())
            }
            _ => exchange.answer(404, &index, b""),
        }
    });
    agent.stop_recording();
    let large = "\n[[service]]\nname = \"large\"\nconsul = { service = \"large\" }\n[[route]]\nhost = \"large\"\nservice = \"large\"\n";
    let consul = format!("[consul]\naddress = \"http://{}\"\n", agent.address());
    let rota = Place::new().start_unready(&(consul + &edge(&[app.address()]) + large));
    let labels = [("service", "large")];
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while rota.metric("rota_upstream_weight", &labels) == 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", rota.log());
        let asked = Instant::now();
        assert_eq!(rota.get("a", "/").status, 200);
        slowest = slowest.max(asked.elapsed());
    }
    println!(
        "read after {:?}, slowest request {slowest:?}",
        begun.elapsed()
    );
    rota.assert_running();
    assert!(rota.memory_kib("VmHWM") < 1 << 20, "less than 1 GiB");
}
