//! Promises about a zone of a pod and the names below it: taken on, taken back, and served by who cannot prove it.

use super::consul_agent::Agent;
use super::fleet::{Front, PREFIX, allow, at_the_ca, file, place, within_a_minute};
use super::pebble::Pebble;
use super::support::{Origin, eventually, stays};
use super::{HOURS, is_served, leaf, orders};

#[test]
fn a_zone_is_served_by_who_cannot_prove_it_and_on_below_it_after_it_was_taken_back() {
    let (agent, origin, front) = (Agent::start(), Origin::fixed("ok"), Front::new());
    let pebble = Pebble::start(front.port, HOURS);
    let file = |node: &str, keys: &str| {
        let table = pebble.table();
        let text = file(node, &agent, &pebble, &origin);
        text.replace(&table, &format!("{table}domain_orders = 1\n{keys}"))
    };
    let home = place();
    pebble.write_dns_hook(&home.path().join("hook"));
    let with_hook = file("lb-1", "dns_hook = [\"./hook\"]\n");
    let first = home.start(&with_hook);
    front.send_to(&[&first]);
    for name in ["*.pod.test", "a.pod.test"] {
        allow(&agent, name);
    }
    let (below, beside) = (pebble.client("a.pod.test"), pebble.client("q.pod.test"));
    within_a_minute("the zone's", || is_served(&first, &beside));
    let second = place().start(&file("lb-2", ""));
    front.send_to(&[&first, &second]);
    for client in [&below, &beside] {
        eventually(&client.name, || is_served(&second, client));
        assert_eq!(leaf(&second, client), leaf(&first, client));
    }
    assert_eq!(orders(&second, "ok") + orders(&second, "failed"), 0.0);
    first.reload(&with_hook.replace("dns_hook = [\"./hook\"]\n", ""));
    eventually("the file is read", || super::reloads(&first, "ok") == 1.0);
    assert!(is_served(&first, &beside), "as the pod has it");

    // There is no room for a certificate of a.pod.test's own.
    let key = format!("/v1/kv/{PREFIX}/config/domains/*.pod.test");
    agent.try_call("DELETE", &key, b"").unwrap();
    stays("it is served on", std::time::Duration::from_secs(5), || {
        is_served(&first, &below) && is_served(&second, &below)
    });
    assert_eq!(at_the_ca(&pebble), (1, 1));
}
