//! A real Consul agent of one's own: on free ports of the loopback, in a directory of its own, gone when dropped.
//!
//! Used by `#[path = "support/consul.rs"] mod consul_agent;`. All calls block: from async tests use them between awaits.

#![allow(dead_code)] // Each test binary uses its part.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// From start to a leader; an agent takes about 2 s on a quiet machine.
const START_DEADLINE: Duration = Duration::from_secs(40);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The token that may do everything where [`ACL_DENY`] is on.
pub const MASTER_TOKEN: &str = "7d0a5f0e-2b0c-4a52-9f0a-000000000001";

/// For [`Agent::start_with`]: access control on, and without a token nothing is allowed.
pub const ACL_DENY: &str = r#"{"acl": {"enabled": true, "default_policy": "deny",
    "tokens": {"master": "7d0a5f0e-2b0c-4a52-9f0a-000000000001", "agent": "7d0a5f0e-2b0c-4a52-9f0a-000000000001"}}}"#;

/// A server and agent in one, with itself as the leader.
pub struct Agent {
    child: Option<Child>,
    directory: PathBuf,
    ports: Ports,
    /// Who it is, and whom it joins.
    role: Vec<String>,
    /// Sent with every call of the helpers.
    pub token: Option<String>,
}

#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    server: u16,
    serf: u16,
}

/// A token of one policy.
pub struct Token {
    pub secret: String,
    policy: String,
}

/// The first value of a key in a text of JSON.
fn word(json: &str, key: &str) -> String {
    let rest = json.split(&format!("\"{key}\":\"")).nth(1);
    let word = rest.and_then(|rest| rest.split('"').next());
    word.unwrap_or_else(|| panic!("no {key} in {json}"))
        .to_owned()
}

/// What one call of a helper was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Agent {
    pub fn start() -> Agent {
        Agent::start_with("{}")
    }

    /// With a further configuration in Consul's JSON; with [`ACL_DENY`] the helpers use [`MASTER_TOKEN`].
    pub fn start_with(config: &str) -> Agent {
        let directory = new_directory();
        std::fs::write(directory.join("config.json"), config).unwrap();
        let token = config.contains(MASTER_TOKEN).then(|| MASTER_TOKEN.into());
        // Another process may take a free port before the agent does: then others are tried.
        for _ in 0..5 {
            let mut agent = Agent {
                child: None,
                directory: directory.clone(),
                ports: Ports::free(),
                role: ["-bootstrap-expect=1", "-node=agent"]
                    .map(String::from)
                    .into(),
                token: Option::clone(&token),
            };
            if agent.launch() {
                return agent;
            }
            agent.directory = PathBuf::new(); // Not its to remove: the next one uses it.
        }
        panic!(
            "consul did not start; its log is in {}",
            directory.display()
        );
    }

    /// Three servers that elect a leader; each is an agent, too. Configured as [`Agent::start_with`] does it.
    pub fn start_three(config: &str) -> [Agent; 3] {
        let token = config.contains(MASTER_TOKEN).then(|| MASTER_TOKEN.into());
        for _ in 0..5 {
            let ports = [(); 3].map(|()| Ports::free());
            let joins = ports.map(|ports| format!("-retry-join=127.0.0.1:{}", ports.serf));
            let mut agents = [0, 1, 2].map(|number| {
                let directory = new_directory();
                std::fs::write(directory.join("config.json"), config).unwrap();
                let own = [
                    "-bootstrap-expect=3".to_owned(),
                    format!("-node=server-{number}"),
                ];
                let interval = "-retry-interval=1s".to_owned();
                Agent {
                    child: None,
                    directory,
                    ports: ports[number],
                    role: own
                        .into_iter()
                        .chain(joins.clone())
                        .chain([interval])
                        .collect(),
                    token: Option::clone(&token),
                }
            });
            agents.iter_mut().for_each(Agent::spawn);
            if agents.iter_mut().all(Agent::wait_until_ready) {
                return agents;
            }
        }
        panic!("three servers of consul did not start");
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        let own = format!("\"127.0.0.1:{}\"", self.ports.server);
        let said = self.try_call("GET", "/v1/status/leader", b"");
        said.is_ok_and(|answer| answer.body.trim() == own)
    }

    /// Forgets all that it knew; for one that does not run.
    pub fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.directory.join("data"));
    }

    /// An instance of a service in the catalogue, on a node that no agent answers for; `status`: `passing`, `critical`, ….
    pub fn put_instance(&self, name: &str, id: &str, port: u16, status: &str) {
        let entry = format!(
            r#"{{"Node": "apps", "Address": "127.0.0.1", "Service": {{"ID": "{id}", "Service": "{name}", "Address": "127.0.0.1", "Port": {port}}},
                "Check": {{"Node": "apps", "CheckID": "service:{id}", "Name": "alive", "ServiceID": "{id}", "Status": "{status}"}}}}"#
        );
        self.must("PUT", "/v1/catalog/register", entry.as_bytes());
    }

    pub fn remove_instance(&self, id: &str) {
        let entry = format!(r#"{{"Node": "apps", "ServiceID": "{id}"}}"#);
        self.must("PUT", "/v1/catalog/deregister", entry.as_bytes());
    }

    /// `http://127.0.0.1:PORT`.
    pub fn http_address(&self) -> String {
        format!("http://{}", self.authority())
    }

    fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.ports.http)
    }

    /// At once, without a farewell.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `STOP`, `CONT`, `TERM`, ….
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Starts it again on the same ports with the state it had.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "consul did not start again");
    }

    /// Starts it again on the same ports, knowing nothing.
    pub fn restart_empty(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(self.directory.join("data"));
        assert!(self.launch(), "consul did not start again");
    }

    /// Starts the process without waiting for it to answer.
    pub fn spawn_again(&mut self) {
        self.kill();
        self.spawn();
    }

    /// Whether it came up; says so once it has a leader and its own node is in the catalogue.
    pub fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            let nodes = self.try_call("GET", "/v1/catalog/nodes", b"");
            if nodes.is_ok_and(|answer| answer.status == 200 && answer.body.contains("\"Node\"")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn launch(&mut self) -> bool {
        self.spawn();
        self.wait_until_ready()
    }

    fn spawn(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .unwrap();
        let Ports { http, server, serf } = self.ports;
        let child = Command::new(binary())
            .args(["agent", "-server"])
            .args(&self.role)
            .args(["-bind=127.0.0.1", "-client=127.0.0.1"])
            .args(["-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1"])
            .arg(format!("-http-port={http}"))
            .arg(format!("-server-port={server}"))
            .arg(format!("-serf-lan-port={serf}"))
            .arg(format!(
                "-data-dir={}",
                self.directory.join("data").display()
            ))
            .arg(format!(
                "-config-file={}",
                self.directory.join("fast.json").display()
            ))
            .arg(format!(
                "-config-file={}",
                self.directory.join("config.json").display()
            ))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        self.child = Some(child);
    }

    /// Registers a service of the agent's own node: `{"Name": …, "ID": …, "Port": …, "Check": …}`.
    pub fn register(&self, service: &str) {
        self.must("PUT", "/v1/agent/service/register", service.as_bytes());
    }

    /// A service with one TTL check `service:ID`, which is passing.
    pub fn register_passing(&self, name: &str, id: &str, port: u16) {
        self.register(&format!(
            r#"{{"Name": "{name}", "ID": "{id}", "Address": "127.0.0.1", "Port": {port},
                "Check": {{"CheckID": "service:{id}", "TTL": "1h", "Status": "passing"}}}}"#
        ));
    }

    pub fn deregister(&self, id: &str) {
        self.must("PUT", &format!("/v1/agent/service/deregister/{id}"), b"");
    }

    /// `status`: `pass`, `warn` or `fail`.
    pub fn set_check(&self, id: &str, status: &str) {
        self.must(
            "PUT",
            &format!("/v1/agent/check/{status}/service:{id}"),
            b"",
        );
    }

    /// A token with one policy of its own, whose rules are in HCL with each `"` escaped.
    pub fn new_token(&self, rules: &str) -> Token {
        let named = format!(r#"{{"Name": "p{}", "Rules": "{rules}"}}"#, self.ports.http);
        // Several servers agree on how access is controlled a moment after they have a leader.
        let deadline = Instant::now() + START_DEADLINE;
        let put = || self.try_call("PUT", "/v1/acl/policy", named.as_bytes());
        let policy = loop {
            match put() {
                Ok(answer) if answer.status == 200 => break word(&answer.body, "ID"),
                said => assert!(Instant::now() < deadline, "no policy: {said:?}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let of_policy = format!(r#"{{"Policies": [{{"ID": "{policy}"}}]}}"#);
        let token = self.must("PUT", "/v1/acl/token", of_policy.as_bytes());
        Token {
            secret: word(&token.body, "SecretID"),
            policy,
        }
    }

    /// From now on the token may do nothing; it is still there.
    pub fn take_rights(&self, token: &Token) {
        self.change_rights(token, "");
    }

    /// `rules` as JSON has them in a text.
    pub fn change_rights(&self, token: &Token, rules: &str) {
        let path = format!("/v1/acl/policy/{}", token.policy);
        let named = format!(r#"{{"Name": "p{}", "Rules": "{rules}"}}"#, self.ports.http);
        self.must("PUT", &path, named.as_bytes());
    }

    pub fn put(&self, key: &str, value: &[u8]) {
        self.must("PUT", &format!("/v1/kv/{key}"), value);
    }

    pub fn delete(&self, key: &str) {
        self.must("DELETE", &format!("/v1/kv/{key}"), b"");
    }

    pub fn must(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let answer = self.try_call(method, path, body).unwrap();
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        answer
    }

    /// One call over a connection of its own; `path` is sent as it is.
    pub fn try_call(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(self.authority())?;
        stream.set_read_timeout(Some(CALL_TIMEOUT))?;
        let token = match &self.token {
            Some(token) => format!("X-Consul-Token: {token}\r\n"),
            None => String::new(),
        };
        // HTTP/1.0: the answer ends with the connection and is never chunked.
        let mut request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{token}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.write_all(&request)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.unwrap_or(0),
            body: body.to_owned(),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() && !self.directory.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

impl Ports {
    fn free() -> Ports {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [http, server, serf] = listeners.map(|listener| listener.local_addr().unwrap().port());
        Ports { http, server, serf }
    }
}

/// A lone server needs no patience for elections; and check updates are passed on at once.
const FAST: &str = r#"{"performance": {"raft_multiplier": 1}, "check_update_interval": "0s", "disable_update_check": true,
    "disable_remote_exec": true, "leave_on_terminate": false}"#;

fn new_directory() -> PathBuf {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("rota-consul-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("fast.json"), FAST).unwrap();
    directory
}

/// What `scripts/consul` says, asked once.
pub fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let root = env!("CARGO_MANIFEST_DIR");
        let found = Command::new(format!("{root}/scripts/consul"))
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(found.status.success(), "scripts/consul found no binary");
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
    })
}
