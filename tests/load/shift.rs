//! How long a shift between a service's groups takes until every load balancer of a pod serves by it.

use std::time::{Duration, Instant};

use crate::alone;
use crate::consul_agent::Agent;
use crate::figures::spread;
use crate::support::rota::{PLAIN, Place, said};
use crate::support::{Origin, Rota, eventually};

const BAR: Duration = Duration::from_secs(1);
const ROUNDS: usize = 9;
const PREFIX: &str = "rota/shift";

fn start(agent: &Agent, number: usize) -> Rota {
    let text = format!(
        "[node]\nname = \"lb-{number}\"\nworkers = 1\n[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n\
         [consul]\naddress = \"{}\"\nprefix = \"{PREFIX}\"\nallow_upstreams = [\"127.0.0.0/8\"]\n{PLAIN}",
        agent.http_address()
    );
    Place::new().start(&text)
}

/// Two answers in a row by one group: none is left to the other.
fn eventually_says(rota: &Rota, body: &str) {
    eventually(&format!("it says {body}"), || {
        (0..2).all(|_| rota.get("shop.test", "/").text() == body)
    });
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn a_shift_until_three_load_balancers_serve_by_it() {
    let _alone = alone();
    let agent = Agent::start();
    let groups = ["blue", "green"].map(Origin::fixed);
    let server = |origin: &Origin, group: &str| {
        format!(
            "{{ address = \"{}\", group = \"{group}\" }}",
            origin.address()
        )
    };
    let [blue, green] = &groups;
    let service = format!(
        "servers = [{}, {}]\ngroups = {{ blue = 1, green = 1 }}\n",
        server(blue, "blue"),
        server(green, "green")
    );
    agent.put(
        &format!("{PREFIX}/config/services/shop"),
        service.as_bytes(),
    );
    let route = "host = \"shop.test\"\nservice = \"shop\"\n";
    agent.put(&format!("{PREFIX}/config/routes/shop"), route.as_bytes());
    let fleet: Vec<Rota> = (0..3).map(|number| start(&agent, number)).collect();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let group = ["green", "blue"][round % 2];
        let begun = Instant::now();
        let elapsed = std::thread::scope(|scope| {
            let waiting = fleet.iter().map(|rota| {
                scope.spawn(move || {
                    eventually_says(rota, group);
                    begun.elapsed()
                })
            });
            let waiting: Vec<_> = waiting.collect();
            let output = fleet[round % 3].command(&["shift", "shop", &format!("{group}=100")]);
            assert!(output.status.success(), "{}", said(&output));
            waiting.into_iter().map(|one| one.join().unwrap()).max()
        });
        // The first one ends with halves that may look whole for two answers.
        if round > 0 {
            times.push(elapsed.unwrap().as_secs_f64());
        }
    }
    println!(
        "figure: shift until in force on three: {} s",
        spread(&times)
    );
    assert!(times.iter().all(|time| *time < BAR.as_secs_f64()));
}
