//! Promises about Consul, kept with a real agent: what it says is followed, and what it loses is not lost here.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

#[path = "../support/consul.rs"]
mod consul_agent;
#[path = "../support/mod.rs"]
mod support;

mod accept;
mod between;
mod compose;
mod documents;
mod domains;
mod fleet;
mod groups;
mod journal;
mod kept;
mod loss;
mod plans;
mod revisions;
mod servers;
mod staged;
mod tags;
mod tickets;
mod writers;

use std::collections::BTreeSet;

use consul_agent::Agent;
use support::rota::{PLAIN, Place};
use support::{Origin, Rota, eventually};

/// Where this pod's documents are.
const PREFIX: &str = "rota/test";

/// `[consul]` for an agent.
fn consul(agent: &Agent) -> String {
    format!(
        "[consul]\naddress = \"{}\"\nprefix = \"{PREFIX}\"\nallow_upstreams = [\"127.0.0.0/8\"]\n",
        agent.http_address()
    )
}

/// A plain listener, and everything to the Consul service `app`.
fn app(agent: &Agent) -> String {
    format!(
        "{}{PLAIN}[[service]]\nname = \"app\"\nconsul = {{ service = \"app\" }}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
        consul(agent)
    )
}

/// Servers `one` and `two`, registered and on the rota.
fn with_two_servers(agent: &Agent) -> (Rota, Origin, Origin) {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    agent.register_passing("app", "one", one.address().port());
    agent.register_passing("app", "two", two.address().port());
    let rota = Place::new().start(&app(agent));
    rota.wait_until_up("app", one.address());
    rota.wait_until_up("app", two.address());
    (rota, one, two)
}

/// Who answers in some requests in a row.
fn bodies(rota: &Rota) -> BTreeSet<String> {
    (0..8).map(|_| rota.get("a", "/").text()).collect()
}

fn eventually_answers(rota: &Rota, expected: &[&str]) {
    let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
    eventually(&format!("{expected:?} answer"), || bodies(rota) == expected);
}

/// Writes a document of this pod.
fn document(agent: &Agent, name: &str, text: &str) {
    agent.put(&format!("{PREFIX}/config/{name}"), text.as_bytes());
}
