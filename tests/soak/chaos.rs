//! What happens meanwhile: to the servers one thing after another, to the pod another, both by a seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::consul_agent::Agent;
use super::desk::{Desk, spawn};
use super::ledger::Harm;
use super::pod::{NAMES, Pod, SERVERS, route, service, within};
use super::support::Signal;

/// How long all of Consul is away, once in a run that is long enough for it.
const OUTAGE: Duration = Duration::from_secs(20);
const LONG_ENOUGH: Duration = Duration::from_secs(150);

/// Something that is done and undone again; `random` says how long and to whom.
type Deed = (&'static str, fn(&Desk, &Pod, &mut fastrand::Rng));

const TO_SERVERS: [Deed; 7] = [
    ("a server is killed and comes back", killed),
    (
        "a server is killed, its check says so later",
        killed_and_told,
    ),
    ("a server hangs", hung),
    ("a check is critical", critical),
    ("a server is deregistered", deregistered),
    ("a server is drained", drained),
    ("a server is drained here alone", drained_here),
];

const TO_POD: [Deed; 8] = [
    ("a burst of documents", documents),
    ("a wrong document", wrong_document),
    ("shares are shifted", shifted),
    ("the file is read again", reloaded),
    ("the log is moved away", log_moved),
    ("a certificate is renewed by order", renewed),
    ("a domain comes and goes", domain),
    ("consul's leader is killed", leader),
];

pub fn start(desk: &Arc<Desk>, pod: &Arc<Pod>, span: Duration) -> Vec<JoinHandle<()>> {
    let (first, second) = (pod.clone(), pod.clone());
    let servers = spawn(desk, 1, move |desk, mut random| {
        in_turn(&TO_SERVERS, desk, &first, &mut random, |_, _| {});
    });
    let pod = spawn(desk, 2, move |desk, mut random| {
        let mut is_due = span >= LONG_ENOUGH;
        in_turn(&TO_POD, desk, &second, &mut random, |desk, pod| {
            if is_due && desk.start.elapsed() > span / 2 {
                is_due = false;
                outage(desk, pod);
            }
        });
    });
    vec![servers, pod]
}

/// Each deed in an order of chance, then each again: none is left out of a short run for long.
fn in_turn(
    deeds: &[Deed],
    desk: &Desk,
    pod: &Pod,
    random: &mut fastrand::Rng,
    mut between: impl FnMut(&Desk, &Pod),
) {
    desk.rest(Duration::from_secs(3));
    loop {
        let mut order: Vec<&Deed> = deeds.iter().collect();
        random.shuffle(&mut order);
        for (name, deed) in order {
            if desk.is_over() {
                return;
            }
            desk.note(name);
            deed(desk, pod, random);
            desk.rest(Duration::from_millis(random.u64(500..4000)));
            between(desk, pod);
        }
    }
}

fn seconds(random: &mut fastrand::Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.u64(from * 1000..to * 1000))
}

/// Tells what is done to which server.
fn victim(desk: &Desk, random: &mut fastrand::Rng, what: &str) -> usize {
    let number = random.usize(0..SERVERS);
    desk.tell(&format!("app-{number} {what}"));
    number
}

fn kill(desk: &Desk, pod: &Pod, number: usize) {
    let server = &pod.servers[number];
    desk.begin_trouble(server.address().to_string(), Harm::Killed);
    server.kill();
}

fn revive(desk: &Desk, pod: &Pod, number: usize) {
    let server = &pod.servers[number];
    server.revive();
    desk.end_trouble(&server.address().to_string());
}

fn killed(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let number = victim(desk, random, "is killed");
    kill(desk, pod, number);
    desk.rest(seconds(random, 1, 6));
    revive(desk, pod, number);
}

fn killed_and_told(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let number = victim(desk, random, "is killed, and its check told");
    kill(desk, pod, number);
    desk.rest(seconds(random, 1, 3));
    pod.register(number, "critical");
    desk.rest(seconds(random, 1, 4));
    revive(desk, pod, number);
    pod.register(number, "passing");
}

/// Longer than an answer may take, or not.
fn hung(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let number = victim(desk, random, "hangs");
    let server = &pod.servers[number];
    desk.begin_trouble(server.address().to_string(), Harm::Hung);
    server.signal(Signal::STOP);
    desk.rest(seconds(random, 2, 14));
    server.signal(Signal::CONT);
    desk.end_trouble(&server.address().to_string());
}

fn critical(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let number = victim(desk, random, "is critical");
    pod.register(number, "critical");
    desk.rest(seconds(random, 1, 5));
    pod.register(number, "passing");
}

fn deregistered(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let number = victim(desk, random, "is deregistered");
    pod.deregister(number);
    desk.rest(seconds(random, 1, 5));
    pod.register(number, "passing");
}

fn drained(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let number = victim(desk, random, "is drained");
    let whom = format!("app/{}", pod.servers[number].address());
    pod.order(&["drain", &whom]);
    desk.rest(seconds(random, 1, 5));
    pod.order(&["undrain", &whom]);
}

fn drained_here(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let number = victim(desk, random, "is drained here");
    let whom = format!("app/{}", pod.servers[number].address());
    pod.order(&["drain", &whom, "--here"]);
    desk.rest(seconds(random, 1, 5));
    pod.order(&["undrain", &whom, "--here"]);
}

/// Tables swap ten times a second.
fn documents(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    desk.tell("documents change");
    for number in 0..random.u32(10..40) {
        pod.put("services/app", &service(100 + number % 2));
        let path = format!("routes/passing-{}", number % 4);
        match number / 4 % 2 {
            0 => pod.put(&path, &route(&format!("/passing/{number}"))),
            _ => pod.delete(&path),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    (0..4).for_each(|number| pod.delete(&format!("routes/passing-{number}")));
}

fn wrong_document(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    desk.tell("a document is wrong");
    pod.put(
        "services/app",
        "consul = { service = \"app\"\npool = \"many\"\n",
    );
    pod.put("routes/wrong", "{\"host\": 7}");
    desk.rest(seconds(random, 1, 3));
    pod.put("services/app", &service(100));
    pod.delete("routes/wrong");
}

fn shifted(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let blue = random.u32(0..=100);
    let shares = format!("blue={blue},green={}", 100 - blue);
    desk.tell(&format!("shares are {shares}"));
    pod.order(&["shift", "app", &shares]);
    desk.rest(seconds(random, 1, 4));
    pod.order(&["shift", "app", "blue=50,green=50"]);
}

fn reloaded(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    desk.tell("the file is read again and again");
    for _ in 0..random.u32(2..6) {
        let pool = random.u32(1000..4000);
        pod.rota.reload(&format!("{}pool = {pool}\n", pod.text));
        desk.rest(seconds(random, 0, 1));
    }
}

fn log_moved(desk: &Desk, pod: &Pod, _: &mut fastrand::Rng) {
    desk.tell("the access log is moved away");
    let path = pod.rota.directory().join("access.log");
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    pod.rota.signal(Signal::USR1);
    within("there is another log", || path.exists());
    // What comes late into the old one is read before the next is moved.
    std::thread::sleep(Duration::from_secs(5));
}

fn renewed(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let name = NAMES[random.usize(0..NAMES.len())];
    desk.tell(&format!("{name} is to have another certificate"));
    pod.order(&["certs", "renew", name]);
}

fn domain(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    desk.tell("another domain comes");
    pod.put("domains/passing.soak.test", r#"{"service": "app"}"#);
    desk.rest(seconds(random, 3, 8));
    pod.delete("domains/passing.soak.test");
}

fn leader(desk: &Desk, pod: &Pod, random: &mut fastrand::Rng) {
    let leads = || pod.consul.read().unwrap().iter().position(Agent::is_leader);
    within("consul has a leader", || leads().is_some());
    let Some(leader) = leads() else { return };
    desk.tell(&format!("consul's leader, server {leader}, is killed"));
    pod.consul.write().unwrap()[leader].kill();
    desk.rest(seconds(random, 3, 10));
    let mut agents = pod.consul.write().unwrap();
    agents[leader].spawn_again();
    assert!(
        agents[leader].wait_until_ready(),
        "consul did not come back"
    );
}

fn outage(desk: &Desk, pod: &Pod) {
    desk.note("all of consul is killed");
    desk.tell("all servers of consul are killed");
    pod.consul.write().unwrap().iter_mut().for_each(Agent::kill);
    desk.rest(OUTAGE);
    let mut agents = pod.consul.write().unwrap();
    agents.iter_mut().for_each(Agent::spawn_again);
    assert!(
        agents.iter_mut().all(Agent::wait_until_ready),
        "consul did not come back"
    );
    let begun = Instant::now();
    drop(agents);
    within("rota's watches work again", || {
        pod.sum("rota_discovery_failing", &[]) == Some(0.0)
    });
    desk.tell(&format!(
        "consul is back, rota follows it {:?} later",
        begun.elapsed()
    ));
}

/// How often what was done.
pub fn summary(done: &BTreeMap<&'static str, u32>) -> String {
    let words: Vec<String> = done
        .iter()
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    words.join(", ")
}
