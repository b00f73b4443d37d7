//! How long a load balancer that joins takes until it has the certificates of a large pod.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rota::seal::{Digest, Keyring, Secret};
use serde_json::json;

use crate::alone;
use crate::consul_agent::Agent;
use crate::figures::spread;
use crate::support::client::handshake;
use crate::support::rota::Place;
use crate::support::{Authority, Rota};

pub const PREFIX: &str = "rota/many";
pub const MANY: usize = 5_000;
const BAR: Duration = Duration::from_secs(2);
/// At sixteen a quarter of a second from each of two it takes 40 s.
const MANY_BACK: Duration = Duration::from_secs(160);

fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

/// Fills the store as an order does: certificates sealed, each in the shard of its name.
pub fn fill(agent: &Agent, authority: &Authority) {
    let keyring = Keyring::of(&[secret()]);
    let mut shards: BTreeMap<String, serde_json::Map<String, serde_json::Value>> = BTreeMap::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    for number in 0..MANY {
        let name = format!("n{number}.many.test");
        let leaf = authority.leaf(&[&name]);
        let key = format!("{PREFIX}/acme/certs/{name}");
        let value = json!({ "chain": leaf.certificate, "key": leaf.key, "directory": "" });
        let sealed = keyring.seal(&key, value.to_string().as_bytes());
        agent.put(&key, sealed.as_bytes());
        let digit = &Digest::of(name.as_bytes()).to_hex()[..1];
        let entry = json!({
            "hash": Digest::of(leaf.certificate.as_bytes()).to_hex(),
            "not_before": now, "not_after": now + 90 * 86_400, "issuer": "", "at": now,
        });
        let shard = shards.entry(digit.to_owned()).or_default();
        shard.insert(name, entry);
    }
    for (digit, shard) in shards {
        let text = serde_json::Value::Object(shard).to_string();
        agent.put(&format!("{PREFIX}/acme/index/{digit}"), text.as_bytes());
    }
}

/// `fleet.key`.
pub fn write_key_file(folder: &Path) {
    let key = folder.join("fleet.key");
    fs::write(&key, secret().to_base64().as_bytes()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
}

fn start(agent: &Agent) -> (Rota, Duration) {
    let place = Place::new();
    write_key_file(place.path());
    let domains: String = (0..MANY)
        .map(|number| format!("[[domain]]\nname = \"n{number}.many.test\"\n"))
        .collect();
    let text = format!(
        "[consul]\naddress = \"{}\"\nprefix = \"{PREFIX}\"\n[[listener]]\nname = \"web-tls\"\naddress = \"127.0.0.1:{{https}}\"\n\
         protocol = \"https\"\n[acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nkey_file = \"fleet.key\"\n{domains}",
        agent.http_address()
    );
    let begun = Instant::now();
    let rota = place.start(&text);
    (rota, begun.elapsed())
}

/// How many the index names.
fn indexed(agent: &Agent) -> usize {
    let path = format!("/v1/kv/{PREFIX}/acme/index/?keys");
    let keys = agent.try_call("GET", &path, b"").map(|answer| answer.body);
    let keys: Vec<String> = serde_json::from_str(&keys.unwrap_or_default()).unwrap_or_default();
    let names = keys.iter().map(|key| {
        let shard = agent.must("GET", &format!("/v1/kv/{key}?raw"), b"").body;
        let shard: serde_json::Map<_, _> = serde_json::from_str(&shard).unwrap();
        shard.len()
    });
    names.sum()
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn five_thousand_certificates_until_a_consul_that_lost_them_has_them_again() {
    let _alone = alone();
    let (mut agent, authority) = (Agent::start(), Authority::new());
    fill(&agent, &authority);
    let rotas = [(); 2].map(|()| start(&agent).0);
    agent.restart_empty();
    let begun = Instant::now();
    while indexed(&agent) < MANY {
        assert!(begun.elapsed() < MANY_BACK, "{}", indexed(&agent));
        std::thread::sleep(Duration::from_secs(1));
    }
    let seconds = begun.elapsed().as_secs();
    println!("figure: {MANY} certificates back from two load balancers: {seconds} s");
    let client = authority.client("n7.many.test");
    for rota in &rotas {
        assert!(handshake(rota.https(), &client).is_ok());
    }
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn five_thousand_certificates_of_the_pod_until_ready() {
    let _alone = alone();
    let (agent, authority) = (Agent::start(), Authority::new());
    fill(&agent, &authority);
    let mut times = Vec::new();
    for _ in 0..5 {
        let (rota, time) = start(&agent);
        for number in [0, MANY / 2, MANY - 1] {
            let client = authority.client(&format!("n{number}.many.test"));
            assert!(handshake(rota.https(), &client).is_ok(), "{number}");
        }
        times.push(time.as_secs_f64());
        println!(
            "figure: {MANY} certificates of a pod, memory: {} MiB",
            rota.memory_kib("VmRSS") / 1024
        );
    }
    let seconds = spread(&times);
    println!("figure: {MANY} certificates of a pod, start to ready: {seconds} s");
    assert!(times.iter().all(|time| *time < BAR.as_secs_f64()));
}
