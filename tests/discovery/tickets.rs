//! Sessions that any load balancer of the fleet resumes: real processes, one Consul, both versions of TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rota::certs::tickets::{Generation, TURN, TicketKeys};
use rota::control::fleet::{TICKETS, tickets};
use rota::seal::{Keyring, Secret};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::{Agent, PREFIX, consul};
use crate::support::client::handshake;
use crate::support::rota::Place;
use crate::support::{Authority, Rota, Tls, eventually};

const NAME: &str = "shop.test";

fn secret(byte: u8) -> Secret {
    Secret::from_bytes([byte; 32])
}

fn key() -> String {
    format!("{PREFIX}/{TICKETS}")
}

/// What a fleet has in KV that has run for an hour, sealed with the key of this byte.
fn running_fleet(byte: u8) -> String {
    let began = SystemTime::now() - Duration::from_secs(3600);
    let keys = TicketKeys::new(vec![
        Generation::new(secret(101), began),
        Generation::new(secret(102), began + TURN),
    ]);
    Keyring::of(&[secret(byte)]).seal(&key(), &tickets::write(&keys))
}

/// A load balancer of the pod, with a certificate for [`NAME`] and a key file with the keys of these bytes.
fn start(agent: &Agent, authority: &Authority, keys: &[u8]) -> Rota {
    let place = Place::new();
    authority.leaf(&[NAME]).write(place.path(), "shop");
    write_key_file(place.path(), keys);
    place.start(&file(agent))
}

fn file(agent: &Agent) -> String {
    format!(
        "{}[acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nkey_file = \"fleet.key\"\n\
         [[listener]]\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\n\
         certificates = [{{ certificate = \"shop.pem\", key = \"shop.key\" }}]\n",
        consul(agent)
    )
}

fn write_key_file(folder: &std::path::Path, keys: &[u8]) {
    let path = folder.join("fleet.key");
    let lines = keys.iter().map(|byte| secret(*byte).to_base64());
    let lines: Vec<String> = lines.map(|line| line.to_string()).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What lies in KV, with the indexes of its creation and of its last change.
fn stored(agent: &Agent) -> Option<(Vec<u8>, u64, u64)> {
    let answer = agent
        .try_call("GET", &format!("/v1/kv/{}", key()), b"")
        .unwrap();
    let pairs: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    let pair = pairs.get(0)?;
    let value = STANDARD.decode(pair["Value"].as_str()?).ok()?;
    Some((
        value,
        pair["CreateIndex"].as_u64()?,
        pair["ModifyIndex"].as_u64()?,
    ))
}

/// One connection with one request, so that tickets have arrived; says how the session came about.
fn visit(rota: &Rota, tls: &Tls) -> HandshakeKind {
    use std::io::{Read, Write};
    let mut wire = handshake(rota.https(), tls).unwrap();
    let kind = wire.conn.handshake_kind().unwrap();
    wire.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = wire.read_to_end(&mut answer);
    assert!(
        answer.starts_with(b"HTTP/1.1 404"),
        "no route is configured"
    );
    kind
}

/// A client that has met `one` resumes at `other`.
fn carries(authority: &Authority, one: &Rota, other: &Rota) -> bool {
    let resumed = [&TLS12, &TLS13].map(|version| {
        let tls = authority.client_with(NAME, &[], &[version]);
        assert_eq!(visit(one, &tls), HandshakeKind::Full);
        visit(other, &tls) == HandshakeKind::Resumed
    });
    assert_eq!(resumed[0], resumed[1], "in both versions or in none");
    resumed[0]
}

#[test]
fn a_session_begun_at_one_load_balancer_is_resumed_at_another_in_both_versions() {
    let (agent, authority) = (Agent::start(), Authority::new());
    agent.put(&key(), running_fleet(1).as_bytes());
    let one = start(&agent, &authority, &[1]);
    let other = start(&agent, &authority, &[2, 1]);
    eventually("both have the fleet's keys", || {
        carries(&authority, &one, &other)
    });
    assert!(carries(&authority, &other, &one));
    let labels = [("resumed", "true"), ("outcome", "ok")];
    eventually("it is counted", || {
        other.metric("rota_tls_handshakes_total", &labels) >= 2.0
    });
}

#[test]
fn a_fleet_that_starts_with_nothing_agrees_on_one_set_of_keys() {
    let (agent, authority) = (Agent::start(), Authority::new());
    let fleet = [(); 3].map(|()| start(&agent, &authority, &[1]));
    eventually("there are keys", || stored(&agent).is_some());
    let (value, created, modified) = stored(&agent).unwrap();
    assert_eq!(created, modified, "written once");
    let plain = Keyring::of(&[secret(1)]).open(&key(), &value).unwrap();
    let keys = tickets::read(&plain).unwrap();
    assert_eq!(keys.generations().len(), 2);
    let rested = keys.generations()[0]
        .from()
        .duration_since(SystemTime::now());
    assert!(
        rested.unwrap() > Duration::from_secs(30),
        "nobody seals with it before all others have it"
    );
    // Until then each has keys of its own.
    assert!(carries(&authority, &fleet[0], &fleet[0]));
    assert!(!carries(&authority, &fleet[0], &fleet[1]));
}

#[test]
fn keys_that_were_tampered_with_or_sealed_by_a_foreign_key_are_refused_and_named_and_the_last_good_ones_stay()
 {
    let (agent, authority) = (Agent::start(), Authority::new());
    agent.put(&key(), running_fleet(1).as_bytes());
    let one = start(&agent, &authority, &[1]);
    let other = start(&agent, &authority, &[1]);
    eventually("both have the fleet's keys", || {
        carries(&authority, &one, &other)
    });
    let mut tampered = running_fleet(1);
    let middle = tampered.len() / 2;
    let turned = if tampered.as_bytes()[middle] == b'A' {
        "B"
    } else {
        "A"
    };
    tampered.replace_range(middle..=middle, turned);
    for (value, told) in [
        (tampered, "changed since it was sealed"),
        (running_fleet(9), "which the key file does not have"),
        ("{}".to_owned(), "not sealed by rota"),
    ] {
        agent.put(&key(), value.as_bytes());
        for rota in [&one, &other] {
            eventually(told, || rota.log().contains(told));
        }
        assert!(carries(&authority, &one, &other), "{told}");
        assert_eq!(stored(&agent).unwrap().0, value.as_bytes());
    }
    assert!(
        one.log().contains(&format!("kv:{}", key())),
        "{}",
        one.log()
    );

    write_key_file(other.directory(), &[1, 9]);
    agent.put(&key(), running_fleet(9).as_bytes());
    other.reload(&file(&agent));
    eventually("the new key file is in force", || {
        other.log().contains("session ticket keys: mended")
    });
    assert!(carries(&authority, &one, &other));
}

#[test]
fn a_ticket_says_nothing_to_a_load_balancer_without_the_fleets_key() {
    let (agent, authority) = (Agent::start(), Authority::new());
    agent.put(&key(), running_fleet(1).as_bytes());
    let member = start(&agent, &authority, &[1]);
    let stranger = start(&agent, &authority, &[7]);
    eventually("it is told", || {
        stranger.log().contains("which the key file does not have")
    });
    assert!(!carries(&authority, &member, &stranger));
    assert!(!carries(&authority, &stranger, &member));
    assert!(carries(&authority, &stranger, &stranger));
}

#[test]
fn a_load_balancer_that_starts_while_consul_is_down_resumes_sessions_with_the_keys_it_kept() {
    let (mut agent, authority) = (Agent::start(), Authority::new());
    agent.put(&key(), running_fleet(1).as_bytes());
    let one = start(&agent, &authority, &[1]);
    let keeps = format!("[node]\nstate_dir = \"state\"\n{}", file(&agent));
    let place = |keys: &[u8]| {
        let place = Place::new();
        authority.leaf(&[NAME]).write(place.path(), "shop");
        write_key_file(place.path(), keys);
        place
    };
    let other = place(&[1]).start(&keeps);
    eventually("both have the fleet's keys", || {
        carries(&authority, &one, &other)
    });
    let kept = "state/kept/keys/tickets";
    eventually("they are kept", || other.directory().join(kept).exists());
    agent.kill();
    let again = |keys: &[u8]| {
        let place = place(keys);
        fs::create_dir_all(place.path().join("state/kept/keys")).unwrap();
        fs::copy(other.directory().join(kept), place.path().join(kept)).unwrap();
        place.start_unready(&keeps)
    };
    let member = again(&[2, 1]);
    eventually("it listens", || {
        handshake(member.https(), &authority.client(NAME)).is_ok()
    });
    assert!(carries(&authority, &one, &member), "{}", member.log());
    let stranger = again(&[7]);
    eventually("it listens", || {
        handshake(stranger.https(), &authority.client(NAME)).is_ok()
    });
    assert!(!carries(&authority, &one, &stranger));
    let log = stranger.log();
    assert!(
        log.contains("keys/tickets") && log.contains("which the key file does not have"),
        "{log}"
    );
}
