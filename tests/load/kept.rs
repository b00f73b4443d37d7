//! How soon a load balancer of a large pod serves that starts while Consul is down.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::alone;
use crate::certificates::{MANY, PREFIX, fill, write_key_file};
use crate::consul_agent::Agent;
use crate::figures::{setting, spread};
use crate::support::client::handshake;
use crate::support::rota::{PLAIN, Place};
use crate::support::{Authority, Client, Origin, Signal};

/// Issue 5's.
const BAR: Duration = Duration::from_secs(1);
const SERVICES: usize = 1_000;
const SERVERS: usize = 10;
/// What a transaction may have at most.
const AT_ONCE: usize = 64;

/// Services of a node elsewhere, and a document for each name that has a certificate.
fn fill_the_catalogue(agent: &Agent) {
    let node = br#"{"Node": "far", "Address": "10.9.0.1"}"#;
    agent.must("PUT", "/v1/catalog/register", node);
    let servers = (0..SERVICES * SERVERS).map(|number| {
        let (service, port) = (number / SERVERS, 1 + number % SERVERS);
        let address = format!("10.9.{}.{}", service / 250, 1 + service % 250);
        format!(
            r#"{{"Service": {{"Verb": "set", "Node": "far", "Service": {{"ID": "s{number}", "Service": "many-{service}", "Address": "{address}", "Port": {port}}}}}}}"#
        )
    });
    let documents = (0..SERVICES).map(|number| {
        // {"consul":{"service":"many-N"}}
        let value = base64(format!(r#"{{"consul":{{"service":"many-{number}"}}}}"#).as_bytes());
        set(&format!("config/services/many-{number}"), &value)
    });
    let domains = (0..MANY).map(|number| {
        let value = base64(format!(r#"{{"service":"many-{}"}}"#, number % SERVICES).as_bytes());
        set(&format!("config/domains/n{number}.many.test"), &value)
    });
    let operations: Vec<String> = servers.chain(documents).chain(domains).collect();
    for some in operations.chunks(AT_ONCE) {
        let text = format!("[{}]", some.join(","));
        agent.must("PUT", "/v1/txn", text.as_bytes());
    }
}

fn set(key: &str, value: &str) -> String {
    format!(r#"{{"KV": {{"Verb": "set", "Key": "{PREFIX}/{key}", "Value": "{value}"}}}}"#)
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn file(agent: &Agent) -> String {
    format!(
        "[node]\nstate_dir = \"state\"\n[consul]\naddress = \"{}\"\nprefix = \"{PREFIX}\"\nallow_upstreams = [\"127.0.0.0/8\"]\n\
         {PLAIN}[[listener]]\nname = \"web-tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\n\
         [acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nkey_file = \"fleet.key\"\n\
         [[service]]\nname = \"app\"\nconsul = {{ service = \"app\" }}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
        agent.http_address()
    )
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let there = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &there),
            false => drop(fs::copy(&path, there).unwrap()),
        }
    }
}

/// How many certificates are kept, once the table has the last of them.
fn kept(state: &Path) -> usize {
    fs::read_dir(state.join("kept/acme/certs")).map_or(0, Iterator::count)
}

/// Until a moment that nothing was written in, with all there is.
fn wait_until_kept(state: &Path) {
    let begun = Instant::now();
    let modified = || {
        fs::metadata(state.join("kept/table"))
            .and_then(|facts| facts.modified())
            .ok()
    };
    let mut before = None;
    while kept(state) < MANY || modified().is_none() || modified() != before {
        assert!(
            begun.elapsed() < Duration::from_secs(150),
            "{} are kept",
            kept(state)
        );
        before = modified();
        std::thread::sleep(Duration::from_secs(3));
    }
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn from_the_start_to_serving_while_consul_is_down() {
    let _alone = alone();
    let (mut agent, authority, origin) = (Agent::start(), Authority::new(), Origin::fixed("ok"));
    fill(&agent, &authority);
    fill_the_catalogue(&agent);
    agent.register_passing("app", "one", origin.address().port());
    let place = Place::new();
    write_key_file(place.path());
    let text = file(&agent);
    let rota = place.start(&text);
    wait_until_kept(&rota.directory().join("state"));
    rota.signal(Signal::KILL);
    rota.wait();
    agent.kill();
    let (mut plain, mut secure, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting("ROUNDS", 5) {
        let place = Place::new();
        write_key_file(place.path());
        copy_folder(&rota.directory().join("state"), &place.path().join("state"));
        let last = authority.client(&format!("n{}.many.test", MANY - 1));
        let begun = Instant::now();
        let again = place.spawn(&text);
        let within = |is_so: &dyn Fn() -> bool| {
            while !is_so() {
                assert!(begun.elapsed() < Duration::from_secs(30), "never");
                std::thread::sleep(Duration::from_millis(1));
            }
            begun.elapsed().as_secs_f64()
        };
        plain.push(within(&|| {
            let client = Client::try_connect(again.http());
            client.is_ok_and(|mut client| client.get("any.test", "/").status == 200)
        }));
        secure.push(within(&|| handshake(again.https(), &last).is_ok()));
        ready.push(within(&|| again.readiness() == Some(200)));
        let size = fs::metadata(again.directory().join("state/kept/table"))
            .unwrap()
            .len();
        let memory = again.memory_kib("VmRSS") / 1024;
        println!(
            "figure: kept: a table of {} KiB, {memory} MiB of memory",
            size / 1024
        );
    }
    let what =
        format!("{SERVICES} services of {SERVERS} servers, {MANY} domains with certificates");
    println!(
        "figure: start with Consul down, {what}: http {} s",
        spread(&plain)
    );
    println!(
        "figure: start with Consul down, {what}: https {} s",
        spread(&secure)
    );
    println!(
        "figure: start with Consul down, {what}: ready {} s",
        spread(&ready)
    );
    let all = plain.iter().chain(&secure);
    assert!(all.clone().all(|time| *time < BAR.as_secs_f64()));
}
