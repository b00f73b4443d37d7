//! A wall clock that is set by days under a running rota: nothing that waits, lasts or is counted goes by it.

use std::time::Duration;

use crate::support::client::handshake;
use crate::support::faketime::FakeTime;
use crate::support::rota::{Place, edge_with, said};
use crate::support::{Authority, Client, Origin, Rota, Signal, Tls, eventually};

const JUMPS: [&str; 5] = ["+95d", "-400d", "+4000d", "-1d", "+0d"];

const SECURE: &str = "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{https}\"\nprotocol = \"https\"\ncertificates = [{ certificate = \"shop.pem\", key = \"shop.key\" }]\n";

struct World {
    rota: Rota,
    clock: FakeTime,
    tls: Tls,
    origins: [Origin; 2],
}

fn start() -> World {
    let authority = Authority::new();
    let (place, clock) = FakeTime::of(Place::new());
    authority.leaf(&["shop.test"]).write(place.path(), "shop");
    let origins = ["one", "two"].map(|name| {
        Origin::start(move |exchange| match &*exchange.request.target {
            "/slow" => {
                std::thread::sleep(Duration::from_millis(1500));
                exchange.answer(200, &[], b"slow")
            }
            "/tunnel" => {
                exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
                exchange.echo()
            }
            _ => exchange.answer(200, &[], name.as_bytes()),
        })
    });
    let [one, two] = [&origins[0], &origins[1]].map(Origin::address);
    let log = "[admin]\naddress = \"unix:{dir}/admin.sock\"\n[access_log]\npath = \"{dir}/access.log\"\n[node]\nstate_dir = \"state\"\n";
    let servers = edge_with(&format!("servers = [\"{one}\", \"{two}\"]"));
    let rota = place.start(&format!("{log}{SECURE}{servers}"));
    World {
        rota,
        clock,
        tls: authority.client("shop.test"),
        origins,
    }
}

impl World {
    /// Sets the clock, and waits until a line of the access log says another day.
    fn jump(&self, offset: &str) {
        let file = self.rota.directory().join("access.log");
        let day = || {
            assert_eq!(self.rota.get("a", "/").status, 200);
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default().to_owned();
            let at = last.split("\"time\":\"").nth(1).unwrap_or_default();
            at.chars().take(10).collect::<String>()
        };
        let mut before = String::new();
        eventually("there is a line", || {
            before = day();
            !before.is_empty()
        });
        self.clock.set(offset);
        eventually("the log goes by the other clock", || day() != before);
    }
}

fn websocket(rota: &Rota) -> Client {
    let mut client = Client::connect(rota.http());
    client.send("GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(client.answer_head().status, 101);
    client
}

#[test]
fn a_clock_that_is_set_by_days_disturbs_no_request_no_timer_and_no_session() {
    let world = start();
    let rota = &world.rota;
    let (mut idle, mut tunnel) = (Client::connect(rota.http()), websocket(rota));
    assert_eq!(idle.get("a", "/").status, 200);
    handshake(rota.https(), &world.tls).unwrap();
    for offset in JUMPS {
        let mut slow = Client::connect(rota.http());
        slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        world.jump(offset);
        assert_eq!(slow.answer().text(), "slow", "{offset}");
        assert_eq!(idle.get("a", "/").status, 200, "{offset}");
        tunnel.send("still there");
        assert_eq!(tunnel.read_exactly(11), b"still there", "{offset}");
        // With a ticket of before: resumed, or a whole handshake.
        let mut secure = Client::connect_tls(rota.https(), &world.tls).expect(offset);
        assert_eq!(secure.get("shop.test", "/").status, 200, "{offset}");
        let reloads = rota.metric("rota_reloads_total", &[("outcome", "ok")]);
        rota.signal(Signal::HUP);
        eventually(&format!("{offset}: the file is read"), || {
            rota.metric("rota_reloads_total", &[("outcome", "ok")]) > reloads
        });
    }
    drop((idle, tunnel));
    assert_eq!(rota.metric("rota_panics_total", &[]), 0.0);
    assert!(!rota.log().contains("panic"), "{}", rota.log());
    assert!(rota.stop().success());
}

#[test]
fn what_is_drained_for_a_while_is_drained_for_that_while_whatever_the_clock_says() {
    let world = start();
    let (rota, origin) = (&world.rota, &world.origins[0]);
    let whom = format!("app/{}", origin.address());
    let drained = rota.command(&["drain", &whom, "--here", "--for", "1h"]);
    assert!(drained.status.success(), "{}", said(&drained));
    rota.wait_until_down("app", origin.address());
    for offset in JUMPS {
        world.jump(offset);
        assert!(!rota.is_up("app", origin.address()), "{offset}");
        let why = said(&rota.command(&["why", &whom]));
        let in_days = |word: &str| {
            let (days, hours) = word.split_once('d').unwrap_or_default();
            let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
            is_number(days) && is_number(hours)
        };
        assert!(!why.split_whitespace().any(in_days), "{offset}: {why}");
    }
}
