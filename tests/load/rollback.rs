//! How long a rollback takes until every load balancer of a pod serves by it.

use std::fs;
use std::time::{Duration, Instant};

use crate::alone;
use crate::consul_agent::Agent;
use crate::figures::spread;
use crate::support::rota::{Directory, PLAIN, Place, said};
use crate::support::{Origin, Rota, eventually};

const BAR: Duration = Duration::from_secs(1);
const ROUNDS: usize = 9;

fn start(agent: &Agent, number: usize) -> Rota {
    let text = format!(
        "[node]\nname = \"lb-{number}\"\n[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n\
         [consul]\naddress = \"{}\"\nprefix = \"rota/back\"\nallow_upstreams = [\"127.0.0.0/8\"]\n{PLAIN}",
        agent.http_address()
    );
    Place::new().start(&text)
}

fn folder(origin: &Origin) -> Directory {
    let folder = Directory::new();
    for kind in ["services", "routes"] {
        fs::create_dir(folder.path().join(kind)).unwrap();
    }
    let service = format!("servers = [\"{}\"]\n", origin.address());
    fs::write(folder.path().join("services/shop.toml"), service).unwrap();
    let route = "host = \"shop.test\"\nservice = \"shop\"\n";
    fs::write(folder.path().join("routes/shop.toml"), route).unwrap();
    folder
}

fn eventually_says(rota: &Rota, body: &str) {
    eventually(&format!("it says {body}"), || {
        rota.get("shop.test", "/").text() == body
    });
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn a_rollback_until_three_load_balancers_serve_by_it() {
    let _alone = alone();
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let fleet: Vec<Rota> = (0..3).map(|number| start(&agent, number)).collect();
    for origin in [&one, &two] {
        let folder = folder(origin);
        let applied = fleet[0].command(&["apply", folder.path().to_str().unwrap()]);
        assert!(applied.status.success(), "{}", said(&applied));
    }
    fleet.iter().for_each(|rota| eventually_says(rota, "two"));
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let (to, body) = [("1", "one"), ("2", "two")][round % 2];
        let begun = Instant::now();
        let elapsed = std::thread::scope(|scope| {
            let waiting = fleet.iter().map(|rota| {
                scope.spawn(move || {
                    eventually_says(rota, body);
                    begun.elapsed()
                })
            });
            let waiting: Vec<_> = waiting.collect();
            let output = fleet[round % 3].command(&["rollback", to]);
            assert!(output.status.success(), "{}", said(&output));
            waiting.into_iter().map(|one| one.join().unwrap()).max()
        });
        times.push(elapsed.unwrap().as_secs_f64());
    }
    println!(
        "figure: rollback until in force on three: {} s",
        spread(&times)
    );
    assert!(times.iter().all(|time| *time < BAR.as_secs_f64()));
}
