//! What a change of one customer's domain costs among thousands of them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::alone;
use crate::consul_agent::Agent;
use crate::figures::{cpu_by_plane, setting, spread};
use crate::support::rota::{PLAIN, Place};
use crate::support::{Origin, eventually};

/// `{"service": "one"}` as Consul's transactions take it.
const TO_ONE: &str = "eyJzZXJ2aWNlIjogIm9uZSJ9";
/// What a transaction may have at most.
const AT_ONCE: usize = 64;

fn write_domains(agent: &Agent, count: usize) {
    let names: Vec<usize> = (0..count).collect();
    for some in names.chunks(AT_ONCE) {
        let mut operations = String::new();
        for number in some {
            let comma = if operations.is_empty() { "" } else { "," };
            let key = format!("figures/config/domains/shop-{number}.customer.test");
            let _ = write!(
                operations,
                r#"{comma}{{"KV": {{"Verb": "set", "Key": "{key}", "Value": "{TO_ONE}"}}}}"#
            );
        }
        agent.must("PUT", "/v1/txn", format!("[{operations}]").as_bytes());
    }
}

/// From the write to the first request that goes by it; the bar is a tenth of a second, the agent on the same cores.
#[test]
#[ignore = "a figure: scripts/figures"]
fn one_domain_changed_among_thousands() {
    let _alone = alone();
    let agent = Agent::start();
    let count = setting("DOMAINS", 5_000) as usize;
    write_domains(&agent, count);
    let origins = ["one", "two"].map(Origin::fixed);
    origins.iter().for_each(Origin::stop_recording);
    let services = ["one", "two"].iter().zip(&origins).map(|(name, origin)| {
        let address = origin.address();
        format!("[[service]]\nname = \"{name}\"\nservers = [\"{address}\"]\n")
    });
    let place = Place::new();
    let key = place.path().join("fleet.key");
    fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let rota = place.start(&format!(
        "[acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nkey_file = \"fleet.key\"\n[consul]\naddress = \"{}\"\nprefix = \"figures\"\n{PLAIN}{}",
        agent.http_address(),
        services.collect::<String>()
    ));
    let mut times = Vec::new();
    let (mut cpu, rounds) = (0.0, setting("ROUNDS", 21) as usize);
    for round in 0..rounds {
        let number = round * (count / rounds) + count / rounds / 2;
        let host = format!("shop-{number}.customer.test");
        assert_eq!(rota.get(&host, "/").text(), "one");
        let before = cpu_by_plane(&rota);
        let begin = Instant::now();
        agent.put(
            &format!("figures/config/domains/{host}"),
            b"service = \"two\"",
        );
        eventually("the change is served", || {
            rota.get(&host, "/").text() == "two"
        });
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        cpu += (cpu_by_plane(&rota).1 - before.1) / 1e3;
    }
    let median = spread(&times);
    println!(
        "figure: one of {count} domains changed, from write to served: {median} ms, {:.1} ms of the control plane's CPU",
        cpu / rounds as f64
    );
    times.sort_by(f64::total_cmp);
    assert!(times[rounds / 2] < 100.0);
}
