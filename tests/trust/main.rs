//! What an operator may rely on when Consul fails or errs: three servers of Consul, three load balancers, load on all of them.
#![allow(
    clippy::unwrap_used,
    reason = "these are tests: what cannot be unwrapped has failed"
)]

#[path = "../support/consul.rs"]
mod consul_agent;
#[path = "../support/mod.rs"]
mod support;

mod canary;
mod losses;
mod outages;

use std::sync::{Mutex, MutexGuard};

use consul_agent::Agent;
use support::load::Load;
use support::rota::{PLAIN, Place, said};
use support::{Origin, Rota, eventually};

/// Three load balancers, each with a server of Consul as its agent, and the servers of `app`.
struct Pod {
    consul: [Agent; 3],
    rotas: Vec<Rota>,
    servers: Vec<Origin>,
    _alone: MutexGuard<'static, ()>,
}

impl Pod {
    /// `config` is Consul's; `token` is the load balancers'.
    fn start(servers: usize, config: &str, token: Option<&str>) -> Pod {
        let alone = alone();
        let consul = Agent::start_three(config);
        Pod::with(consul, servers, token, alone)
    }

    fn with(
        consul: [Agent; 3],
        servers: usize,
        token: Option<&str>,
        alone: MutexGuard<'static, ()>,
    ) -> Pod {
        let servers: Vec<Origin> = (0..servers).map(|_| Origin::fixed("well")).collect();
        for (number, server) in servers.iter().enumerate() {
            server.stop_recording();
            let port = server.address().port();
            consul[0].put_instance("app", &format!("app-{number}"), port, "passing");
        }
        let rota = |(number, agent): (usize, &Agent)| {
            let place = match token {
                Some(token) => Place::new().with_variable("CONSUL_HTTP_TOKEN", token),
                None => Place::new(),
            };
            place.start(&format!(
                "[node]\nname = \"lb-{number}\"\n[consul]\naddress = \"{}\"\nprefix = \"rota/trust\"\nallow_upstreams = [\"127.0.0.0/8\"]\n{PLAIN}[[service]]\nname = \"app\"\nconsul = {{ service = \"app\" }}\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
                agent.http_address()
            ))
        };
        let rotas: Vec<Rota> = consul.iter().enumerate().map(rota).collect();
        let pod = Pod {
            consul,
            rotas,
            servers,
            _alone: alone,
        };
        let all = pod.servers.len() as f64;
        pod.everywhere("all servers are on the rota", |rota| {
            rota.metric("rota_upstream_up", &[]) == all
        });
        pod
    }

    /// Waits until it holds on each load balancer.
    fn everywhere(&self, what: &str, is_so: impl Fn(&Rota) -> bool) {
        for rota in &self.rotas {
            eventually(what, || is_so(rota));
        }
    }

    /// Load on each load balancer while `trouble` happens; nothing may fail.
    fn nothing_fails<T>(&mut self, trouble: impl FnOnce(&mut Pod) -> T) -> T {
        let start = |rota: &Rota| Load::new(rota.http(), 4).rate(100).start();
        let loads: Vec<_> = self.rotas.iter().map(start).collect();
        let result = trouble(self);
        let mut total = 0;
        for load in loads {
            let tally = load.finish();
            assert!(tally.total() > 0, "there was no load");
            assert_eq!(tally.failed(), 0, "{:?} {:?}", tally.statuses, tally.errors);
            total += tally.total();
        }
        println!("figure: 0 of {total} requests failed");
        result
    }

    fn why(&self, rota: &Rota) -> String {
        rota.admin_get("/v1/why?q=app").text()
    }

    /// `rota why app` on this load balancer says all of these, sooner or later. Gives what it said.
    fn is_told(&self, number: usize, words: &[&str]) -> String {
        let mut told = String::new();
        eventually(&format!("rota why says {words:?}"), || {
            told = said(&self.rotas[number].command(&["why", "app"]));
            words.iter().all(|word| told.contains(word))
        });
        told
    }
}

/// Held by each test: several clusters at once would be a load of their own.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

fn pause(seconds: u64) {
    std::thread::sleep(std::time::Duration::from_secs(seconds));
}
