//! rota and nginx side by side: the same app server, the same load, one core each, round by round in turn.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::alone;
use crate::figures::{median, spread};
use crate::support::client;
use crate::support::eventually;
use crate::support::rota::{Directory, Place, cpu_time, edge, free_port};

/// nginx in its own directory: the app server (1 KiB answers) or a proxy before it.
struct Nginx {
    child: Child,
    port: u16,
    _directory: Directory,
}

fn tool(name: &str) -> PathBuf {
    let variable = format!("{}_BIN", name.to_uppercase());
    std::env::var_os(&variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{variable} names no {name}: run scripts/figures"))
}

impl Nginx {
    /// `core`: the CPU it may use. `http`: what stands in its `http` block, `{port}` for its own.
    fn start(core: &str, http: &str) -> Nginx {
        let (directory, port) = (Directory::new(), free_port());
        let root = directory.path().display();
        let text = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\nevents {{ worker_connections 4096; }}\nhttp {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; keepalive_requests 100000000;\n{} }}\n",
            http.replace("{port}", &port.to_string())
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let child = pinned(core, &tool("nginx"))
            .args(["-p", &root.to_string(), "-c"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = ([127, 0, 0, 1], port).into();
        eventually("nginx answers", || {
            client::Client::try_connect(address).is_ok()
        });
        Nginx {
            child,
            port,
            _directory: directory,
        }
    }

    /// CPU time of master and worker.
    fn cpu_time(&self) -> Duration {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let workers = fs::read_to_string(children).unwrap();
        let workers = workers
            .split_whitespace()
            .map(|pid| cpu_time(pid.parse().unwrap()));
        cpu_time(self.child.id()) + workers.sum::<Duration>()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // QUIT, not KILL: a killed master leaves its worker behind.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Requests a second as wrk counts them, and how many it sent.
fn wrk(core: &str, port: u16, seconds: u64) -> (f64, f64) {
    let output = pinned(core, &tool("wrk"))
        .args(["-t1", "-c64", &format!("-d{seconds}s")])
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{text}"
    );
    let number = |line: &str, at: usize| {
        line.split_whitespace()
            .nth(at)
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    let rate = text
        .lines()
        .find(|l| l.contains("Requests/sec"))
        .map(|l| number(l, 1))
        .expect(&text);
    let sent = text
        .lines()
        .find(|l| l.contains("requests in"))
        .map(|l| number(l, 0))
        .expect(&text);
    (rate, sent)
}

/// Requests a second and µs of CPU a request of one round.
fn measure(port: u16, seconds: u64, cpu: impl Fn() -> Duration) -> (f64, f64) {
    let before = cpu();
    let (rate, sent) = wrk("1", port, seconds);
    (rate, (cpu() - before).as_secs_f64() * 1e6 / sent)
}

#[test]
#[ignore = "a figure: scripts/figures"]
fn against_nginx_on_one_core_each() {
    let _alone = alone();
    let body = "x".repeat(1024);
    let app = Nginx::start(
        "1",
        &format!(
            "server {{ listen 127.0.0.1:{{port}} reuseport; location / {{ return 200 '{body}'; }} }}"
        ),
    );
    let nginx = Nginx::start(
        "0",
        &format!(
            "upstream app {{ server 127.0.0.1:{}; keepalive 128; keepalive_requests 100000000; }}\nserver {{ listen 127.0.0.1:{{port}}; location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; }} }}",
            app.port
        ),
    );
    let address = ([127, 0, 0, 1], app.port).into();
    let rota = Place::new().start(&format!("[node]\nworkers = 1\n{}", edge(&[address])));
    let pin = Command::new("taskset")
        .args(["-a", "-c", "-p", "0", &rota.pid().to_string()])
        .output();
    assert!(pin.unwrap().status.success());

    let seconds = std::env::var("ROUND_SECONDS").map_or(5, |text| text.parse().unwrap());
    let rounds = std::env::var("ROUNDS").map_or(5, |text| text.parse().unwrap());
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    measure(nginx.port, 1, || nginx.cpu_time());
    measure(rota.http().port(), 1, || rota.cpu_time());
    let begin = Instant::now();
    for _ in 0..rounds {
        let peer = measure(nginx.port, seconds, || nginx.cpu_time());
        let own = measure(rota.http().port(), seconds, || rota.cpu_time());
        rates.push(own.0 / peer.0);
        costs.push(own.1 / peer.1);
        ours.push(own);
        theirs.push(peer);
    }
    let middle = |rounds: &[(f64, f64)]| {
        let (rate, cost) = rounds.iter().copied().unzip();
        format!("{:.0} rps, {:.1} µs a request", median(rate), median(cost))
    };
    println!("figure: rota {}; nginx {}", middle(&ours), middle(&theirs));
    println!(
        "figure: rota/nginx: rps x {}, CPU a request x {}, {rounds} rounds in {:?}",
        spread(&rates),
        spread(&costs),
        begin.elapsed()
    );
}
