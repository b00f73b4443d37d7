//! rota's own process, as an operator runs it: a file, a command, signals, the admin listener.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

use super::client::{self, Answer};
use super::{PATIENCE, eventually};

/// The binary under test; `ROTA_BIN` names another build of it, for figures.
pub fn binary() -> PathBuf {
    std::env::var_os("ROTA_BIN").map_or_else(|| env!("CARGO_BIN_EXE_rota").into(), PathBuf::from)
}

/// A directory that goes away with the value, unless the test failed.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("rota-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Directory {
    fn default() -> Self {
        Directory::new()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A port nobody listens on, below those that the kernel gives to outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 600) as u16 * 20;
    for _ in 0..12_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}

/// What a test writes before it starts: a directory and ports by name, filled into `{dir}`, `{http}`, `{https}`, `{admin}`.
pub struct Place {
    pub directory: Directory,
    pub http: u16,
    pub https: u16,
    pub admin: u16,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
    disk: Option<String>,
}

impl Place {
    pub fn new() -> Place {
        Place {
            directory: Directory::new(),
            http: free_port(),
            https: free_port(),
            admin: free_port(),
            environment: Vec::new(),
            descriptors: None,
            disk: None,
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Adds a variable to the process's environment.
    pub fn with_variable(mut self, name: &str, value: &str) -> Place {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Lets the process have so many descriptors at most.
    pub fn with_descriptors(mut self, limit: u32) -> Place {
        self.descriptors = Some(limit);
        self
    }

    /// A file system of this size at `folder`, which the process alone sees: in namespaces of its own.
    pub fn with_small_disk(mut self, folder: &str, size: &str) -> Place {
        let at = self.path().join(folder);
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={size},mode=700");
        self.disk = Some(format!("mount -t tmpfs -o {options} none {}", at.display()));
        self
    }

    /// Fills the placeholders; adds `[admin]` where the text has none.
    pub fn fill(&self, text: &str) -> String {
        let admin = match text.contains("[admin]") {
            true => "",
            false => "[admin]\naddress = \"127.0.0.1:{admin}\"\n",
        };
        format!("{admin}{text}")
            .replace("{dir}", self.path().to_str().unwrap())
            .replace("{http}", &self.http.to_string())
            .replace("{https}", &self.https.to_string())
            .replace("{admin}", &self.admin.to_string())
    }

    /// Writes `rota.toml` and starts; ready means `/readyz` says 200.
    pub fn start(self, text: &str) -> Rota {
        let rota = self.start_unready(text);
        rota.wait_until_ready();
        rota
    }

    /// Writes `rota.toml` and starts; waits only until the admin listener answers.
    pub fn start_unready(self, text: &str) -> Rota {
        let rota = self.spawn(text);
        eventually("the admin listener answers", || {
            rota.assert_running();
            rota.try_admin("GET /healthz").is_ok()
        });
        rota
    }

    /// Writes `rota.toml` and starts; waits for nothing.
    pub fn spawn(self, text: &str) -> Rota {
        let config = self.path().join("rota.toml");
        fs::write(&config, self.fill(text)).unwrap();
        let stderr = File::create(self.path().join("stderr")).unwrap();
        let stdout = File::create(self.path().join("stdout")).unwrap();
        let within = |shell: &[&str], first: &str| {
            let mut command = Command::new(shell[0]);
            let script = format!("{first} && exec \"$0\" \"$@\"");
            command
                .args(&shell[1..])
                .args(["-c", &script])
                .arg(binary());
            command
        };
        let mut command = match (self.descriptors, &self.disk) {
            (None, None) => Command::new(binary()),
            (Some(limit), _) => within(&["sh"], &format!("ulimit -n {limit}")),
            (None, Some(mount)) => within(&["unshare", "-Urm", "sh"], mount),
        };
        command
            .args(["run", "--config"])
            .arg(&config)
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let child = command.spawn().unwrap();
        Rota {
            child: std::sync::Mutex::new(child),
            place: self,
        }
    }
}

impl Default for Place {
    fn default() -> Self {
        Place::new()
    }
}

/// A running rota. Dropped, it is killed; a failed test prints its log.
pub struct Rota {
    child: std::sync::Mutex<Child>,
    place: Place,
}

/// `[[listener]]` for plain HTTP at `{http}`.
pub const PLAIN: &str = r#"
[[listener]]
name = "web"
address = "127.0.0.1:{http}"
protocol = "http"
"#;

/// A plain listener, one service `app` with these servers, one route `*`.
pub fn edge(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers
        .iter()
        .map(|s| format!("{:?}", s.to_string()))
        .collect();
    edge_with(&format!("servers = [{}]", servers.join(", ")))
}

/// As [`edge`], with these keys of the service (and tables below it).
pub fn edge_with(service: &str) -> String {
    format!(
        "{PLAIN}\n[[service]]\nname = \"app\"\n{service}\n\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
    )
}

impl Rota {
    pub fn start(text: &str) -> Rota {
        Place::new().start(text)
    }

    pub fn http(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.place.http).into()
    }

    pub fn https(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.place.https).into()
    }

    pub fn admin(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.place.admin).into()
    }

    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// One GET through the plain listener, on a connection of its own.
    pub fn get(&self, host: &str, path: &str) -> Answer {
        client::get(self.http(), host, path)
    }

    pub fn ask(&self, request: &str) -> Answer {
        client::ask(self.http(), request)
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("stderr")).unwrap_or_default()
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.directory().join("stdout")).unwrap_or_default()
    }

    pub fn assert_running(&self) {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "rota ended: {ended:?}\n{}", self.log());
    }

    pub fn wait_until_ready(&self) {
        eventually("/readyz says 200", || {
            self.assert_running();
            self.readiness() == Some(200)
        });
    }

    /// The status of `/readyz`; `None` when nobody answers.
    pub fn readiness(&self) -> Option<u16> {
        self.try_admin("GET /readyz").ok().map(|a| a.status)
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(&self) -> ExitStatus {
        let mut status = None;
        eventually("rota ends", || {
            status = self.child.lock().unwrap().try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// TERM, and its end.
    pub fn stop(&self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// A new `rota.toml`, and HUP. What follows is for the test to wait for.
    pub fn reload(&self, text: &str) {
        self.write(text, "rota.toml");
        self.signal(Signal::HUP);
    }

    /// Writes a file beside `rota.toml`, as editors do it: it is whole at every moment.
    pub fn write(&self, text: &str, name: &str) {
        let fresh = self.directory().join(format!("{name}.new"));
        fs::write(&fresh, self.place.fill(text)).unwrap();
        fs::rename(fresh, self.directory().join(name)).unwrap();
    }

    /// The value of `rota_snapshot_generation`.
    pub fn generation(&self) -> f64 {
        self.metric("rota_snapshot_generation", &[])
    }

    /// Runs `rota ARGUMENTS… --admin` this one.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let admin = match self.socket() {
            Some(path) => format!("unix:{}", path.display()),
            None => self.admin().to_string(),
        };
        run(&[arguments, &["--admin", &admin]].concat())
    }

    fn socket(&self) -> Option<PathBuf> {
        let path = self.directory().join("admin.sock");
        path.exists().then_some(path)
    }

    /// GET on the admin listener.
    pub fn admin_get(&self, path: &str) -> Answer {
        self.try_admin(&format!("GET {path}")).unwrap()
    }

    /// `METHOD /path` on the admin listener, over its Unix socket if it has one.
    pub fn try_admin(&self, line: &str) -> io::Result<Answer> {
        self.admin_with(line, "", "")
    }

    /// As [`Rota::try_admin`], with more fields (each ended by CRLF) and a body.
    pub fn admin_with(&self, line: &str, fields: &str, body: &str) -> io::Result<Answer> {
        let host = if fields.to_ascii_lowercase().starts_with("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.admin())
        };
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        );
        match self.socket() {
            Some(path) => ask_socket(&path, &request),
            None => {
                let mut client = client::Client::try_connect(self.admin())?;
                client.try_send(request.as_bytes())?;
                client.try_answer()
            }
        }
    }

    pub fn metrics(&self) -> String {
        self.admin_get("/metrics").text()
    }

    /// The sum of all series of `name` that carry these labels; 0 without any.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum_of(&self.metrics(), name, labels)
    }

    /// A server of `service` takes turns (`rota_upstream_up`).
    pub fn is_up(&self, service: &str, upstream: SocketAddr) -> bool {
        let upstream = upstream.to_string();
        let labels = [("service", service), ("upstream", upstream.as_str())];
        self.metric("rota_upstream_up", &labels) == 1.0
    }

    pub fn wait_until_up(&self, service: &str, upstream: SocketAddr) {
        eventually("the server is on the rota", || {
            self.is_up(service, upstream)
        });
    }

    pub fn wait_until_down(&self, service: &str, upstream: SocketAddr) {
        eventually("the server is off the rota", || {
            !self.is_up(service, upstream)
        });
    }

    /// KiB of memory in use now, or at most so far (`VmRSS`, `VmHWM`).
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// CPU time spent, all threads, user and system.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.pid())
    }

    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }
}

impl Drop for Rota {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(|e| e.into_inner());
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            let text = fs::read_to_string(self.place.path().join("stderr")).unwrap_or_default();
            eprintln!(
                "--- rota's log ({})\n{text}---",
                self.place.path().display()
            );
        }
    }
}

fn ask_socket(path: &Path, request: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let mut reader = &text[..];
    let head = super::wire::read_head(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut answer = Answer {
        status: head.start.split(' ').nth(1).unwrap_or("0").parse().unwrap(),
        fields: head.fields,
        ..Answer::default()
    };
    let framing = super::wire::framing(&answer.fields, super::wire::Framing::UntilClose);
    let body = &mut answer.body;
    super::wire::read_body(&mut reader, framing, |piece| body.extend_from_slice(piece))?;
    Ok(answer)
}

/// Runs `rota ARGUMENTS…` to its end.
pub fn run(arguments: &[&str]) -> Output {
    let mut child = Command::new(binary())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("rota {arguments:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Both outputs of a command as text.
pub fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// CPU time of a process from `/proc`: fields 14 and 15 of `stat`, in ticks of 10 ms.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|t| t.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Sums the series of a Prometheus text that have `name` and all of `labels`.
pub fn sum_of(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let has = |(key, value): &(&str, &str)| {
            [',', '{']
                .iter()
                .any(|before| rest.contains(&format!("{before}{key}={value:?}")))
        };
        let is_it = rest.starts_with(' ') || rest.starts_with('{');
        (is_it && labels.iter().all(has)).then(|| rest.rsplit(' ').next())?
    });
    series.filter_map(|value| value.parse::<f64>().ok()).sum()
}
