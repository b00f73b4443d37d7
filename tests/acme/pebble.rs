//! A real CA of the test's own: pebble on free ports of the loopback, and the DNS server that it asks, to which all names are here.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::support::rota::{Directory, free_port};
use crate::support::{Authority, Client, Tls, eventually};

/// Never issues for this name.
pub const BLOCKED: &str = "blocked.test";

pub struct Pebble {
    directory: Directory,
    /// Of its own API.
    authority: Authority,
    api: u16,
    management: u16,
    dns: u16,
    /// Where records are put into the DNS.
    records: u16,
    program: PathBuf,
    /// Of the CA's process, beside its own.
    environment: Vec<(&'static str, &'static str)>,
    /// Ended with the value, the CA before the DNS server.
    children: Vec<Child>,
}

impl Pebble {
    /// It validates at this port of the loopback, and issues for so many seconds.
    pub fn start(http: u16, seconds: u64) -> Pebble {
        let mut pebble = Pebble::prepare(http, seconds);
        pebble.launch();
        pebble
    }

    /// As [`Pebble::start`], with other words in its configuration.
    pub fn start_with(http: u16, seconds: u64, words: Value) -> Pebble {
        let mut pebble = Pebble::prepare_with(http, seconds, words);
        pebble.launch();
        pebble
    }

    /// A later one, which offers kinds of certificates: for each its name and its seconds. Trixie's has none yet.
    pub fn start_with_profiles(http: u16, profiles: &[(&str, u64)]) -> Pebble {
        let profile = |(name, seconds): &(&str, u64)| {
            let about = json!({ "description": name, "validityPeriod": seconds });
            ((*name).to_owned(), about)
        };
        let profiles: serde_json::Map<_, _> = profiles.iter().map(profile).collect();
        let words = json!({ "profiles": profiles });
        let mut pebble = Pebble::prepare_with(http, 5 * 3600, words);
        pebble.program = found(&["fetch-debian", "forky", "pebble", "usr/bin/pebble"]);
        pebble.launch();
        pebble
    }

    /// As [`Pebble::start`], but nobody listens yet.
    pub fn prepare(http: u16, seconds: u64) -> Pebble {
        Pebble::prepare_with(http, seconds, json!({}))
    }

    pub fn prepare_with(http: u16, seconds: u64, words: Value) -> Pebble {
        let authority = Authority::new();
        let directory = Directory::new();
        let (certificate, key) = authority
            .leaf(&["localhost", "127.0.0.1"])
            .write(directory.path(), "api");
        fs::write(directory.path().join("api-ca.pem"), &authority.pem).unwrap();
        let pebble = Pebble {
            directory,
            authority,
            api: free_port(),
            management: free_port(),
            dns: free_port(),
            records: free_port(),
            program: binary().clone(),
            environment: Vec::new(),
            children: Vec::new(),
        };
        let mut config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", pebble.api),
            "managementListenAddress": format!("127.0.0.1:{}", pebble.management),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": http,
            "tlsPort": 1,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "domainBlocklist": [BLOCKED],
            "retryAfter": { "authz": 1, "order": 1 },
            "certificateValidityPeriod": seconds,
        }});
        for (word, value) in words.as_object().unwrap() {
            config["pebble"][word] = value.clone();
        }
        fs::write(pebble.path("config.json"), config.to_string()).unwrap();
        pebble
    }

    /// A variable of the CA's process, from its next start on.
    pub fn set(&mut self, variable: &'static str, value: &'static str) {
        self.environment.push((variable, value));
    }

    pub fn launch(&mut self) {
        let dns = format!("127.0.0.1:{}", self.dns);
        let mut names = self.command(&binary().with_file_name("pebble-challtestsrv"));
        names.args(["-dns01", &dns, "-defaultIPv6", ""]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""]);
        names.args(["-management", &format!("127.0.0.1:{}", self.records)]);
        let mut ca = self.command(&self.program);
        ca.arg("-config").arg(self.path("config.json"));
        ca.args(["-dnsserver", &dns]);
        ca.env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .envs(self.environment.iter().copied());
        for mut command in [ca, names] {
            self.children.push(command.spawn().unwrap());
        }
        for port in [self.dns, self.records, self.api, self.management] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            eventually("the ca listens", || TcpStream::connect(address).is_ok());
        }
    }

    /// At once, without a farewell. What it issued it forgets.
    pub fn kill(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.api)
    }

    /// Who issued the certificate of its own API, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.path("api-ca.pem")
    }

    /// `[acme]` for this CA.
    pub fn table(&self) -> String {
        format!(
            "[acme]\ndirectory = \"{}\"\nca_file = {:?}\npreflight = \"off\"\n",
            self.directory(),
            self.ca_file()
        )
    }

    /// A program that puts records into the DNS that this CA asks, and takes them out: an `acme.dns_hook`.
    pub fn write_dns_hook(&self, path: &Path) {
        let script = format!(
            "#!/bin/sh\nset -eu\ncase $1 in\n\
             present) what=set-txt body=\"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\" ;;\n\
             cleanup) what=clear-txt body=\"{{\\\"host\\\":\\\"$2.\\\"}}\" ;;\nesac\n\
             echo \"$@\" >>\"$0.calls\"\n\
             exec curl -fsS -d \"$body\" http://127.0.0.1:{}/$what\n",
            self.records
        );
        fs::write(path, script).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// What it says of a certificate by its serial number: `Valid` or `Revoked`.
    pub fn status_of(&self, serial: &str) -> String {
        let management = SocketAddr::from(([127, 0, 0, 1], self.management));
        let trusting = self.authority.client("127.0.0.1");
        let mut client = Client::connect_tls(management, &trusting).unwrap();
        let path = format!("/cert-status-by-serial/{serial}");
        let answer = client.get("127.0.0.1", &path).json();
        answer["Status"].as_str().unwrap().to_owned()
    }

    /// Who trusts what it issues, and speaks to `name`. Another one each time it is started.
    pub fn client(&self, name: &str) -> Tls {
        let management = SocketAddr::from(([127, 0, 0, 1], self.management));
        let trusting = self.authority.client("127.0.0.1");
        let mut client = Client::connect_tls(management, &trusting).unwrap();
        let root = client.get("127.0.0.1", "/roots/0").body;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&root).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Tls {
            config: Arc::new(config),
            name: name.to_owned(),
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(40);
            eprintln!("--- the ca's log\n{}\n---", lines[last..].join("\n"));
        }
    }
}

/// What `scripts/pebble` says, asked once.
fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| found(&["pebble"]))
}

/// The path that a script prints.
fn found(script: &[&str]) -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    let found = Command::new(format!("{root}/scripts/{}", script[0]))
        .args(&script[1..])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(found.status.success(), "{script:?} found no binary");
    PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
}
