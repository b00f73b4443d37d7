//! Promises about certificates that nobody wants any more: what ended long ago goes, and nothing else.

use std::time::{Duration, SystemTime};

use rota::seal::{Digest, Keyring, Secret};

use super::fleet::{Front, PREFIX, file, place, within_a_minute};
use super::pebble::Pebble;
use super::support::Origin;
use super::{HOURS, KEY, SECOND_KEY, consul_agent::Agent};

/// As rota writes it, sealed with the key of this key file, of a certificate that ended so long ago; the index names it.
fn put(agent: &Agent, key_file: &str, name: &str, ended: Duration) {
    let not_after = SystemTime::now() - ended;
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = not_after.into();
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let record = serde_json::json!({"chain": chain, "key": key.serialize_pem()}).to_string();
    let place = format!("{PREFIX}/acme/certs/{name}");
    let secret = Secret::from_base64(key_file).unwrap();
    let sealed = Keyring::of(&[secret]).seal(&place, record.as_bytes());
    agent.put(&place, sealed.as_bytes());
    let digit = Digest::of(name.as_bytes()).to_hex().chars().next().unwrap();
    let shard = format!("{PREFIX}/acme/index/{digit}");
    let present = agent
        .try_call("GET", &format!("/v1/kv/{shard}?raw"), b"")
        .unwrap();
    let mut named: serde_json::Value =
        serde_json::from_str(&present.body).unwrap_or(serde_json::json!({}));
    // Whatever the index says of its end.
    named[name] = serde_json::json!({
        "hash": Digest::of(chain.as_bytes()).to_hex(),
        "not_before": 1, "not_after": 2, "issuer": "CN=x", "at": 3
    });
    agent.put(&shard, named.to_string().as_bytes());
}

fn kept(agent: &Agent) -> Vec<String> {
    let path = format!("/v1/kv/{PREFIX}/acme/certs/?keys");
    let keys: Vec<String> = serde_json::from_str(&agent.must("GET", &path, b"").body).unwrap();
    let name = |key: &String| key.rsplit('/').next().unwrap().to_owned();
    keys.iter().map(name).collect()
}

#[test]
fn what_nobody_wants_and_ended_a_week_ago_is_taken_out_with_its_entry_and_nothing_else_is() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    // Nothing can be ordered.
    let pebble = Pebble::prepare(front.port, HOURS);
    let day = Duration::from_secs(86_400);
    put(&agent, KEY, "gone.test", day * 8);
    put(&agent, KEY, "lately.test", day * 6);
    put(&agent, KEY, "wanted.test", day * 400);
    put(&agent, SECOND_KEY, "foreign.test", day * 400);
    let text = file("lb-1", &agent, &pebble, &origin);
    let rota = place().start_unready(&format!("{text}[[domain]]\nname = \"wanted.test\"\n"));
    within_a_minute("one is gone", || {
        rota.assert_running();
        kept(&agent) == ["foreign.test", "lately.test", "wanted.test"]
    });
    let path = format!("/v1/kv/{PREFIX}/acme/index/?recurse&raw");
    let shards = agent.must("GET", &path, b"");
    let shards: serde_json::Value = serde_json::from_str(&shards.body).unwrap();
    let decoded = |one: &serde_json::Value| {
        use base64::Engine as _;
        let text = one["Value"].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let index: String = shards.as_array().unwrap().iter().map(decoded).collect();
    assert!(!index.contains("gone.test"), "{index}");
    for name in ["foreign.test", "lately.test", "wanted.test"] {
        assert!(index.contains(name), "{name}: {index}");
    }
    within_a_minute("and that is said", || {
        rota.log()
            .contains("nobody wants it, and it ended long ago")
    });
}
