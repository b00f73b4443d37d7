//! The figures that README shows, each printed as one line `figure: …` and held to its bar.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::consul_agent::Agent;
use crate::support::load::{Load, Tally};
use crate::support::rota::{PLAIN, Place, edge};
use crate::support::{Origin, Rota, eventually};
use crate::{alone, echo_or, still_echoes, websocket};

/// `PREFIX_ROUNDS` and the like, for a shorter or longer run.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median, and in brackets the least and the most.
pub fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::MAX, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({low:.2} to {high:.2})", median(values.to_vec()))
}

fn consul(agent: &Agent) -> String {
    format!(
        "[consul]\naddress = \"{}\"\nprefix = \"rota/figures\"\nallow_upstreams = [\"127.0.0.0/8\"]\n{PLAIN}[[service]]\nname = \"app\"\nconsul = {{ service = \"app\" }}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
        agent.http_address()
    )
}

/// A server that remembers when it was last asked.
fn timed(epoch: Instant) -> (Origin, Arc<AtomicU64>) {
    let last = Arc::new(AtomicU64::new(0));
    let seen = last.clone();
    let origin = Origin::start(move |exchange| {
        seen.store(epoch.elapsed().as_micros() as u64, SeqCst);
        exchange.answer(200, &[], b"ok")
    });
    origin.stop_recording();
    (origin, last)
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn check_critical_to_last_request() {
    let _alone = alone();
    let (agent, epoch) = (Agent::start(), Instant::now());
    let ((one, last), (two, _)) = (timed(epoch), timed(epoch));
    agent.register_passing("app", "one", one.address().port());
    agent.register_passing("app", "two", two.address().port());
    let rota = Place::new().start(&consul(&agent));
    let load = Load::new(rota.http(), 16).rate(2000).start();
    let rounds = setting("ROUNDS", 20);
    let mut delays = Vec::new();
    for _ in 0..rounds {
        rota.wait_until_up("app", one.address());
        std::thread::sleep(Duration::from_millis(200));
        let critical = epoch.elapsed().as_micros() as u64;
        agent.set_check("one", "fail");
        rota.wait_until_down("app", one.address());
        std::thread::sleep(Duration::from_millis(300));
        delays.push(last.load(SeqCst).saturating_sub(critical) as f64 / 1000.0);
        agent.set_check("one", "pass");
    }
    let tally = load.finish();
    let most = delays.iter().copied().fold(0.0, f64::max);
    let middle = median(delays);
    println!(
        "figure: check critical to last request: {middle:.1} ms median, {most:.1} ms at most, {rounds} rounds, {} failed",
        tally.failed()
    );
    assert!(middle < 50.0 && tally.failed() == 0);
}

/// When each request was answered that needed more than one server, in milliseconds of its day, from the access log.
fn retried(log: &Path) -> Vec<u64> {
    let text = fs::read_to_string(log).unwrap();
    let at = |line: &serde_json::Value| {
        let time = line["time"].as_str().unwrap();
        let number = |from: usize, to: usize| time[from..to].parse::<u64>().unwrap();
        ((number(11, 13) * 60 + number(14, 16)) * 60 + number(17, 19)) * 1000 + number(20, 23)
    };
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let retried = lines.filter(|line: &serde_json::Value| line["attempts"].as_u64() > Some(1));
    retried.map(|line| at(&line)).collect()
}

/// From the first request that a dead server refused to the last that tried it, and how many did. What comes half a second
/// later is the trial that follows a back-off.
fn refusals(log: &Path) -> (u64, usize) {
    let mut times = retried(log);
    times.sort_unstable();
    let first = *times.first().expect("a request was refused");
    times.retain(|time| time - first < 500);
    (times[times.len() - 1] - first, times.len())
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn server_killed_under_5000_requests_a_second() {
    let _alone = alone();
    let epoch = Instant::now();
    let servers: Vec<_> = (0..3).map(|_| timed(epoch)).collect();
    let addresses: Vec<_> = servers.iter().map(|(origin, _)| origin.address()).collect();
    let access = "[access_log]\npath = \"{dir}/access.log\"\n";
    let rounds = setting("ROUNDS", 5);
    let (mut failed, mut total, mut spans, mut tried) = (0, 0, Vec::new(), Vec::new());
    let mut rates = Vec::new();
    for _ in 0..rounds {
        // A new process each time: the back-off of a server that keeps failing doubles.
        let rota = Place::new().start(&format!("{access}{}", edge(&addresses)));
        let log = rota.directory().join("access.log");
        let (load, begin) = (
            Load::new(rota.http(), 64).rate(5000).start(),
            Instant::now(),
        );
        std::thread::sleep(Duration::from_secs(1));
        servers[0].0.stop();
        rota.wait_until_down("app", addresses[0]);
        std::thread::sleep(Duration::from_secs(1));
        let tally = load.finish();
        rates.push(tally.total() as f64 / begin.elapsed().as_secs_f64());
        failed += tally.failed();
        total += tally.total();
        eventually("the log is written", || {
            fs::read_to_string(&log).unwrap().lines().count() as u64 >= tally.total()
        });
        let (span, count) = refusals(&log);
        spans.push(span as f64);
        tried.push(count as f64);
        servers[0].0.restart();
    }
    let most = spans.iter().copied().fold(0.0, f64::max);
    println!(
        "figure: killed under {:.0} requests/s: {failed} of {total} failed; first refusal to last request that tried it {:.0} ms median, {most:.0} ms at most, {:.0} requests tried it",
        median(rates),
        median(spans.clone()),
        median(tried)
    );
    assert_eq!(failed, 0);
    assert!(median(spans) <= 10.0);
}

/// CPU time so far of the data plane's threads and of all others.
pub fn cpu_by_plane(rota: &Rota) -> (f64, f64) {
    let (mut workers, mut others) = (0.0, 0.0);
    for thread in fs::read_dir(format!("/proc/{}/task", rota.pid())).unwrap() {
        let read = |file| fs::read_to_string(thread.as_ref().unwrap().path().join(file));
        let (Ok(name), Ok(spent)) = (read("comm"), read("schedstat")) else {
            continue; // it has ended
        };
        let nanos: f64 = spent.split(' ').next().unwrap().parse().unwrap();
        match name.starts_with("worker-") {
            true => workers += nanos / 1000.0,
            false => others += nanos / 1000.0,
        }
    }
    (workers, others)
}

/// One round of load.
struct Round {
    /// µs of the data plane's CPU a request.
    cost: f64,
    /// µs of the other threads' CPU in all, and swaps.
    control: f64,
    swaps: f64,
    /// How long swaps were asked for.
    span: Duration,
    tally: Tally,
}

/// A round with `act` done every 10 ms.
fn round(rota: &Rota, act: &dyn Fn(u32)) -> Round {
    let ((workers, others), generation) = (cpu_by_plane(rota), rota.generation());
    let load = Load::new(rota.http(), 32).rate(2000).start();
    let begin = Instant::now();
    let span = Duration::from_secs(setting("ROUND_SECONDS", 10));
    let mut number = 0;
    while begin.elapsed() < span {
        number += 1;
        act(number);
        let next = Duration::from_millis(10) * number;
        std::thread::sleep(next.saturating_sub(begin.elapsed()));
    }
    let span = begin.elapsed();
    let tally = load.finish();
    let spent = cpu_by_plane(rota);
    Round {
        cost: (spent.0 - workers) / tally.total() as f64,
        control: spent.1 - others,
        swaps: rota.generation() - generation,
        span,
        tally,
    }
}

/// Two servers, and a service beside them that `pool` changes.
fn swapped(addresses: &[SocketAddr], pool: u32) -> String {
    let other =
        format!("[[service]]\nname = \"other\"\nservers = [\"127.0.0.1:1\"]\npool = {pool}\n");
    format!("{}{other}", edge(addresses))
}

fn echoes() -> Vec<Origin> {
    let origins: Vec<_> = (0..2)
        .map(|_| Origin::start(|exchange| echo_or(exchange, "ok")))
        .collect();
    origins.iter().for_each(Origin::stop_recording);
    origins
}

/// Rounds with `swap` every 10 ms beside rounds with `calm`, while WebSockets stay open.
fn measure_swaps(way: &str, rota: &Rota, swap: &dyn Fn(u32), calm: &dyn Fn(u32)) -> Swapping {
    let mut sockets: Vec<_> = (0..100).map(|_| websocket(rota)).collect();
    round(rota, swap);
    let memory = rota.memory_kib("VmRSS");
    let (mut cost, mut tail, mut each) = (Vec::new(), Vec::new(), Vec::new());
    let (mut failed, mut swaps, rounds) = (0, Vec::new(), setting("ROUNDS", 5));
    for number in 0..rounds {
        // By turns first and second, so that a machine that slows down or speeds up is for neither.
        let (calm, swapped) = if number % 2 == 0 {
            let calm = round(rota, calm);
            (calm, round(rota, swap))
        } else {
            let swapped = round(rota, swap);
            (round(rota, calm), swapped)
        };
        let p99 = |round: &Round| round.tally.percentile(0.99).as_secs_f64();
        cost.push(swapped.cost / calm.cost);
        tail.push(p99(&swapped) / p99(&calm));
        each.push((swapped.control - calm.control) / swapped.swaps);
        // The last of the round before may come in it.
        assert!(calm.swaps <= 1.0, "nothing is swapped while calm");
        swaps.push(swapped.swaps / swapped.span.as_secs_f64());
        failed += calm.tally.failed() + swapped.tally.failed();
        sockets.iter_mut().for_each(still_echoes);
    }
    let after = rota.memory_kib("VmRSS");
    println!(
        "figure: swaps by {way}: {} a second, {failed} failed, workers' CPU a request x {}, p99 x {}, {:.0} µs of control a swap, memory {memory} to {after} KiB, {} WebSockets open, {rounds} rounds of {span} s",
        spread(&swaps),
        spread(&cost),
        spread(&tail),
        median(each),
        sockets.len(),
        span = setting("ROUND_SECONDS", 10),
    );
    assert_eq!(failed, 0);
    // What every round adds would be five times as much after five.
    assert!(after < memory + memory / 10, "memory grows");
    Swapping {
        rate: median(swaps),
        cost: median(cost),
        tail: median(tail),
    }
}

/// What swaps do to requests, medians of rounds.
struct Swapping {
    /// A second.
    rate: f64,
    /// The workers' CPU a request, and p99, against rounds without.
    cost: f64,
    tail: f64,
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn one_hundred_swaps_a_second() {
    let _alone = alone();
    let origins = echoes();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let rota = Place::new().start(&swapped(&addresses, 10));
    let swap = |number: u32| rota.reload(&swapped(&addresses, 11 + number % 50));
    // While calm a file of the same size is written as often and nobody reads it: what the test itself costs is in both.
    let calm = |number: u32| rota.write(&swapped(&addresses, 11 + number % 50), "unread.toml");
    let swapping = measure_swaps("HUP", &rota, &swap, &calm);
    assert!(swapping.rate > 95.0);
    assert!(swapping.cost < 1.05 && swapping.tail < 1.5);
}

/// The same through the whole way of a document. Two subtrees by turns: a watch is held to 50 questions a second. While calm, the
/// agent is written to as often, elsewhere. Recorded: the agent shares the machine's cores with the workers.
#[test]
#[ignore = "a figure: scripts/figures"]
fn one_hundred_swaps_a_second_through_kv() {
    let _alone = alone();
    let agent = Agent::start();
    let origins = echoes();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let discovery = format!(
        "[consul]\naddress = \"{}\"\nprefix = \"figures\"\n",
        agent.http_address()
    );
    let rota = Place::new().start(&format!("{discovery}{}", edge(&addresses)));
    let write = |prefix: &str, number: u32| {
        let value = 11 + number / 2 % 50;
        match number % 2 {
            0 => agent.put(
                &format!("{prefix}/config/services/other"),
                format!("servers = [\"192.0.2.1:1\"]\npool = {value}\n").as_bytes(),
            ),
            _ => agent.put(
                &format!("{prefix}/config/tuning"),
                format!("[limits]\ntarget_bytes = \"{value}KiB\"\n").as_bytes(),
            ),
        }
    };
    let swap = |number: u32| write("figures", number);
    let swapping = measure_swaps("KV", &rota, &swap, &|number| write("elsewhere", number));
    assert!(swapping.tail < 1.5);
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn consul_killed_for_a_minute_and_started_again_empty() {
    let _alone = alone();
    let mut agent = Agent::start();
    let origins: Vec<_> = ["one", "two"].map(Origin::fixed).into();
    for (origin, name) in origins.iter().zip(["one", "two"]) {
        origin.stop_recording();
        agent.register_passing("app", name, origin.address().port());
    }
    let rota = Place::new().start(&consul(&agent));
    origins
        .iter()
        .for_each(|origin| rota.wait_until_up("app", origin.address()));
    let load = Load::new(rota.http(), 16).rate(500).start();
    agent.kill();
    std::thread::sleep(Duration::from_secs(setting("SECONDS_AWAY", 60)));
    agent.restart_empty();
    std::thread::sleep(Duration::from_secs(10));
    let tally = load.finish();
    println!(
        "figure: Consul killed for a minute and back empty: {} of {} failed",
        tally.failed(),
        tally.total()
    );
    assert_eq!(tally.failed(), 0);
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn ten_thousand_hosts_cost_no_more_than_ten() {
    let _alone = alone();
    let origin = Origin::fixed("ok");
    origin.stop_recording();
    let with_hosts = |count: u32| {
        let mut text = format!(
            "{PLAIN}[[service]]\nname = \"app\"\nservers = [\"{}\"]\n",
            origin.address()
        );
        for number in 0..count {
            text += &format!("[[route]]\nhost = \"h{number}.test\"\nservice = \"app\"\n");
        }
        Place::new().start(&format!("[node]\nworkers = 1\n{text}"))
    };
    let rotas = [with_hosts(10), with_hosts(10_000)];
    let mut ratios = Vec::new();
    for _ in 0..setting("ROUNDS", 5) {
        let [few, many] = rotas.each_ref().map(|rota| {
            let (before, mut load) = (rota.cpu_time(), Load::new(rota.http(), 16));
            load.host = "h7.test".into();
            let tally = load.run_count(40_000);
            assert_eq!(tally.failed(), 0);
            (rota.cpu_time() - before).as_secs_f64()
        });
        ratios.push(many / few);
    }
    println!(
        "figure: CPU a request with 10,000 hosts: x {:.3} of 10 hosts",
        median(ratios)
    );
}
