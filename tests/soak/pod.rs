//! What a run is about: three servers of Consul, a CA, app servers as processes, and one rota.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::connection::Door;
use super::consul_agent::Agent;
use super::pebble::Pebble;
use super::servers::Server;
use super::support::client::handshake;
use super::support::rota::{Directory, Place, binary, sum_of};
use super::support::{Rota, Tls};

pub const PREFIX: &str = "rota/soak";
/// With a route and a certificate each, throughout.
pub const NAMES: [&str; 3] = ["one.soak.test", "two.soak.test", "three.soak.test"];
/// Of `app`; half of them blue, half green.
pub const SERVERS: usize = 6;

/// What the CA's certificates live: they are renewed after some two thirds of it, and outlive Consul's longest outage.
const CERTIFICATE_SECONDS: u64 = 150;

/// Failed requests that rota keeps for who asks why. By default it is 4,096, which a run of half an hour fills until its middle (some 5
/// a second, about 1 KiB each): memory would grow for a reason that ends, and hide what does not. So few are there within the warm-up.
const NOTED: usize = 256;

/// The longest that anything may take that comes by itself.
const LONG: Duration = Duration::from_secs(120);

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub struct Pod {
    pub consul: RwLock<[Agent; 3]>,
    pub pebble: Pebble,
    pub servers: Vec<Server>,
    /// Sends less than it says; nothing is done to it.
    _cut: Server,
    pub rota: Rota,
    /// `rota.toml`; its last table is `[limits]`.
    pub text: String,
    _directory: Directory,
}

impl Pod {
    pub fn start() -> Pod {
        let directory = Directory::new();
        let place = Place::new();
        let consul = Agent::start_three("{}");
        let pebble = Pebble::start(place.http, CERTIFICATE_SECONDS);
        let servers: Vec<Server> = (0..SERVERS)
            .map(|number| Server::start(directory.path(), &format!("app-{number}")))
            .collect();
        let cut = Server::start(directory.path(), "cut");
        for (number, server) in servers.iter().enumerate() {
            consul[0].must(
                "PUT",
                "/v1/catalog/register",
                &instance(number, server, "passing"),
            );
        }
        let put = |path: &str, text: &str| {
            consul[0].put(&format!("{PREFIX}/config/{path}"), text.as_bytes());
        };
        put("services/app", &service(100));
        // One that stays: where there are none left, rota doubts that it is meant.
        put("routes/kept", &route("/kept"));
        for name in NAMES {
            put(&format!("domains/{name}"), r#"{"service": "app"}"#);
        }
        let key = place.path().join("fleet.key");
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let text = file(&consul[0], &pebble, &cut);
        let rota = place.spawn(&text);
        let pod = Pod {
            consul: RwLock::new(consul),
            pebble,
            servers,
            _cut: cut,
            rota,
            text,
            _directory: directory,
        };
        pod.wait_until_served();
        pod
    }

    fn wait_until_served(&self) {
        within("the admin socket is there", || {
            self.rota.assert_running();
            self.rota.directory().join("admin.sock").exists()
        });
        for name in NAMES {
            let tls = self.pebble.client(name);
            within("each name has its certificate", || {
                handshake(self.rota.https(), &tls).is_ok()
            });
        }
        within("all servers are on the rota", || {
            let up = [("service", "app")];
            self.sum("rota_upstream_up", &up) == Some(SERVERS as f64)
        });
    }

    pub fn door(&self) -> Door {
        let names: Vec<Tls> = NAMES.map(|name| self.pebble.client(name)).into();
        let offering = |protocol: &str| {
            let with = |tls: &Tls| {
                let mut config = (*tls.config).clone();
                config.alpn_protocols = vec![protocol.into()];
                let name = tls.name.clone();
                Tls {
                    config: Arc::new(config),
                    name,
                }
            };
            names.iter().map(with).collect()
        };
        Door {
            plain: self.rota.http(),
            secure: self.rota.https(),
            names: offering("http/1.1"),
            names2: offering("h2"),
        }
    }

    pub fn metrics(&self) -> Option<String> {
        let answer = self.rota.try_admin("GET /metrics").ok()?;
        (answer.status == 200).then(|| answer.text())
    }

    /// None: rota does not say it now.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        Some(sum_of(&self.metrics()?, name, labels))
    }

    /// One of Consul's servers that answers takes it, at last.
    pub fn consul(&self, method: &str, path: &str, body: &[u8]) {
        within(path, || {
            let agents = self.consul.read().unwrap();
            agents.iter().any(|agent| {
                let answer = agent.try_call(method, path, body);
                answer.is_ok_and(|answer| answer.status == 200)
            })
        });
    }

    pub fn put(&self, path: &str, text: &str) {
        let path = format!("/v1/kv/{PREFIX}/config/{path}");
        self.consul("PUT", &path, text.as_bytes());
    }

    pub fn delete(&self, path: &str) {
        self.consul("DELETE", &format!("/v1/kv/{PREFIX}/config/{path}"), b"");
    }

    pub fn register(&self, number: usize, status: &str) {
        let entry = instance(number, &self.servers[number], status);
        self.consul("PUT", "/v1/catalog/register", &entry);
    }

    pub fn deregister(&self, number: usize) {
        let entry = format!(r#"{{"Node": "apps", "ServiceID": "app-{number}"}}"#);
        self.consul("PUT", "/v1/catalog/deregister", entry.as_bytes());
    }

    /// `rota ARGUMENTS…`, until it succeeds.
    pub fn order(&self, arguments: &[&str]) {
        let mut last = None;
        let begun = Instant::now();
        while begun.elapsed() < LONG {
            let output = self.command(arguments);
            if output.status.success() {
                return;
            }
            last = Some(output);
            std::thread::sleep(Duration::from_millis(500));
        }
        panic!("rota {arguments:?}: {last:?}");
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let socket = self.rota.directory().join("admin.sock");
        let mut child = Command::new(binary())
            .args(arguments)
            .args(["--admin", &format!("unix:{}", socket.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > LONG {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().unwrap()
    }
}

/// Waits until it is so, however loaded the machine is.
pub fn within(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An instance of `app` in the catalogue, on a node that no agent answers for.
fn instance(number: usize, server: &Server, status: &str) -> Vec<u8> {
    let port = server.address().port();
    let group = if number < SERVERS / 2 {
        "blue"
    } else {
        "green"
    };
    let entry = serde_json::json!({
        "Node": "apps", "Address": "127.0.0.1",
        "Service": { "ID": format!("app-{number}"), "Service": "app", "Address": "127.0.0.1", "Port": port, "Meta": { "rota-group": group } },
        "Check": { "Node": "apps", "CheckID": format!("service:app-{number}"), "Name": "alive", "ServiceID": format!("app-{number}"), "Status": status },
    });
    entry.to_string().into_bytes()
}

/// The document of `app`.
pub fn service(pool: u32) -> String {
    format!(
        "consul = {{ service = \"app\" }}\npool = {pool}\ngroups = {{ blue = 50, green = 50 }}\n[health.active]\npath = \"/well\"\ninterval = \"1s\"\n"
    )
}

/// The document of a route to `app`.
pub fn route(path: &str) -> String {
    format!("host = \"two.soak.test\"\npath = \"{path}\"\nservice = \"app\"\n")
}

fn file(agent: &Agent, pebble: &Pebble, cut: &Server) -> String {
    format!(
        r#"
[node]
name = "lb-soak"
state_dir = "state"
[admin]
address = "unix:{{dir}}/admin.sock"
[access_log]
path = "access.log"
[consul]
address = "{}"
prefix = "{PREFIX}"
allow_upstreams = ["127.0.0.0/8"]
[timeouts]
response = "8s"
body = "15s"
pool_idle = "10s"
{}key_file = "fleet.key"
domain_orders = 0
account_orders = 0
[[listener]]
name = "web"
address = "127.0.0.1:{{http}}"
protocol = "http"
[[listener]]
name = "web-tls"
address = "127.0.0.1:{{https}}"
protocol = "https"
[[service]]
name = "cut"
servers = ["{}"]
[[route]]
host = "cut.soak.test"
service = "cut"
[limits]
noted_requests = {NOTED}
"#,
        agent.http_address(),
        pebble.table(),
        cut.address(),
    )
}
