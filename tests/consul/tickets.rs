//! What lies where the fleet's session ticket keys are and is none, over a real agent, in minutes that pass quickly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rota::certs::TicketKeys;
use rota::control::consul::Client;
use rota::control::fleet::{TicketTask, tickets};
use rota::routing::swap;
use rota::seal::{Keyring, Secret};
use tokio::sync::watch;

use crate::consul_agent::Agent;
use crate::wait;
use crate::watching::{PATIENCE, settings};

const KEY: &str = "rota/keys/tickets";

fn keyring(byte: u8) -> Keyring {
    Keyring::of(&[Secret::from_bytes([byte; 32])])
}

fn stored(agent: &Agent) -> String {
    let path = format!("/v1/kv/{KEY}?raw");
    agent.must("GET", &path, b"").body
}

/// So long for the task; the agent has a moment of real time each two seconds, so that no question to it times out.
async fn pass(time: Duration) {
    for _ in 0..time.as_secs() / 2 {
        tokio::time::sleep(Duration::from_millis(15)).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
    }
}

/// Runs the task over this value; gives what lies there 50 seconds later, and once `is_over` or another two minutes have gone by.
fn left_alone(value: &str, is_over: impl Fn(&str) -> bool) -> (String, String) {
    let agent = Agent::start();
    agent.put(KEY, value.as_bytes());
    wait(async {
        let client = Client::new(&settings(&agent.http_address())).unwrap();
        let (_keyrings, given) = watch::channel(Some(Arc::new(keyring(1))));
        let (publisher, _reader) = swap::channel(TicketKeys::default());
        tokio::spawn(TicketTask::new(client, "rota", given, publisher, None).run());
        pass(Duration::from_secs(50)).await;
        let early = stored(&agent);
        let start = Instant::now();
        let mut rounds = 0..60;
        while !is_over(&stored(&agent)) && start.elapsed() < PATIENCE && rounds.next().is_some() {
            pass(Duration::from_secs(2)).await;
        }
        (early, stored(&agent))
    })
}

#[test]
fn ticket_keys_that_nobody_can_read_are_replaced_once_they_have_lain_there_for_a_minute() {
    let opened = |value: &str| keyring(1).open(KEY, value.as_bytes());
    let (early, late) = left_alone("rota1:0123", |value| opened(value).is_ok());
    assert_eq!(early, "rota1:0123");
    let keys = tickets::read(&opened(&late).unwrap()).unwrap();
    assert_eq!(keys.generations().len(), 2);
}

#[test]
fn ticket_keys_that_another_key_opens_are_never_replaced() {
    let foreign = keyring(2).seal(KEY, b"{}");
    let (_, late) = left_alone(&foreign, |_| false);
    assert_eq!(late, foreign);
}
