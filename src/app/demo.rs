//! rota at its main job with nothing prepared: servers, certificate and configuration made on the spot.

pub mod authority;
pub mod servers;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::authority::{CaFile, Issued};
use self::servers::AppServers;
use super::sockets::{Opened, Refused, Taken, open_group};
use crate::admin::AdminListener;
use crate::certs::CertStore;
use crate::config::{
    ActiveCheck, Admin, AdminAddress, Config, Listener, ListenerTls, Node, RouteEntry, ServerEntry,
    ServerHost, ServerSource, ServiceEntry, ServiceProtocol, ServiceTls, Tuning,
};
use crate::routing::{HostPattern, ListenerPolicy, Prefix, Scheme, ServiceName};

/// How long app-2 is well, and then sick.
pub const TURN: Duration = Duration::from_secs(10);

/// How many ports are tried, beginning with the one wanted.
const PORTS_TRIED: u16 = 100;

/// Idle connections to one server, as the configuration file's default.
const POOL: usize = 128;

const HTTP: &str = "http";
const HTTPS: &str = "https";

/// All that the demo needs. `running` must be kept as long as it lasts; the rest may be moved out.
pub struct Demo {
    pub config: Config,
    /// For the listener named `https`, which has no files of its own.
    pub certificates: CertStore,
    /// Both listeners and admin, on ports that nobody else can take any more.
    pub opened: Opened,
    pub running: Running,
    opening: String,
}

/// The app servers and the CA's file: stopped and removed when dropped.
#[must_use = "the servers stop when this is dropped"]
pub struct Running {
    pub servers: AppServers,
    pub ca_file: CaFile,
}

/// The ports that are tried first.
#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    https: u16,
    admin: u16,
}

const WANTED: Ports = Ports {
    http: 8080,
    https: 8443,
    admin: 9900,
};

/// Starts the app servers, makes a CA and a certificate, opens three free ports and describes it all as a configuration. Nobody
/// accepts on those ports yet. The error is one line.
pub fn prepare() -> Result<Demo, String> {
    prepare_at(WANTED)
}

impl Demo {
    /// The text to print before anything else, in one write: the three URLs (HTTP, HTTPS, admin), then the servers, ports that were
    /// taken and what to try.
    pub fn opening(&self) -> String {
        self.opening.clone()
    }
}

fn prepare_at(wanted: Ports) -> Result<Demo, String> {
    let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let (ports, sockets) = ChosenPorts::choose(wanted, workers)?;
    let servers = servers::start(TURN)?;
    let issued = authority::issue(SystemTime::now())?;
    let ca_file = CaFile::write(&issued.ca_pem)?;
    let config = config(&ports, &servers.addresses(), workers);
    let opened = sockets.for_listeners(&config);
    let certificates = certificates(&issued)?;
    let opening = opening(&ports, &servers.addresses(), &ca_file);
    Ok(Demo {
        config,
        certificates,
        opened,
        running: Running { servers, ca_file },
        opening,
    })
}

struct ChosenPorts {
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    /// A sentence for each port that was taken.
    taken: Vec<String>,
}

/// What listens on the chosen ports.
struct Sockets {
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
    admin: TcpListener,
}

impl ChosenPorts {
    fn choose(wanted: Ports, workers: NonZeroUsize) -> Result<(ChosenPorts, Sockets), String> {
        let group = |address| open_group(address, workers.get(), Taken::Refuse);
        let one = |address| TcpListener::bind(address).map_err(|error| Refused { address, error });
        let (http, http_sockets) = first_free(wanted.http, group)?;
        let (https, https_sockets) = first_free(wanted.https, group)?;
        let (admin, admin_socket) = first_free(wanted.admin, one)?;
        let pairs = [
            (wanted.http, http),
            (wanted.https, https),
            (wanted.admin, admin),
        ];
        let moved = pairs.iter().filter(|(wanted, got)| got.port() != *wanted);
        let taken = moved.map(|(wanted, got)| format!("{wanted} is taken, using {}", got.port()));
        let chosen = ChosenPorts {
            http,
            https,
            admin,
            taken: taken.collect(),
        };
        let sockets = Sockets {
            http: http_sockets,
            https: https_sockets,
            admin: admin_socket,
        };
        Ok((chosen, sockets))
    }
}

impl Sockets {
    /// In the order in which [`config`] names the listeners.
    fn for_listeners(self, config: &Config) -> Opened {
        let policies = config
            .listeners
            .iter()
            .map(|listener| listener.policy.clone());
        Opened {
            groups: policies.zip([self.http, self.https]).collect(),
            admin: AdminListener::Tcp(self.admin),
        }
    }
}

/// Opens the first free port from `wanted` on, and keeps it: one that was only looked at could be taken by another meanwhile.
fn first_free<T>(
    wanted: u16,
    open: impl Fn(SocketAddr) -> Result<T, Refused>,
) -> Result<(SocketAddr, T), String> {
    let last = wanted.saturating_add(PORTS_TRIED - 1);
    for port in wanted..=last {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match open(address) {
            Ok(opened) => return Ok((address, opened)),
            Err(refused) if refused.is_in_use() => {}
            Err(refused) => return Err(refused.to_string()),
        }
    }
    Err(format!(
        "127.0.0.1: all ports from {wanted} to {last} are taken"
    ))
}

fn config(ports: &ChosenPorts, servers: &[SocketAddr], workers: NonZeroUsize) -> Config {
    let app = ServiceName::parse("app").expect("it is letters only");
    Config {
        node: Node {
            name: "demo".to_owned(),
            pod: None,
            workers,
            state_dir: None,
            journal: 0,
        },
        admin: Admin {
            address: AdminAddress::Tcp(ports.admin),
            token_file: None,
        },
        consul: None,
        acme: None,
        access_log: None,
        listeners: vec![
            listener(HTTP, ports.http, Scheme::Http),
            listener(HTTPS, ports.https, Scheme::Https),
        ],
        services: vec![service(app.clone(), servers)],
        routes: vec![RouteEntry {
            name: "*/".to_owned(),
            host: HostPattern::Any,
            path: Prefix::parse("/").expect("the root is a prefix"),
            service: app,
        }],
        domains: Vec::new(),
        tuning: Tuning::default(),
        source: Arc::default(),
    }
}

fn listener(name: &str, address: SocketAddr, scheme: Scheme) -> Listener {
    Listener {
        policy: Arc::new(ListenerPolicy {
            name: name.into(),
            address,
            scheme,
            redirect: None,
            trusted_proxies: Arc::new([]),
            proxy_protocol: false,
        }),
        certificates: Vec::new(),
        tls: ListenerTls::default(),
    }
}

fn service(name: ServiceName, servers: &[SocketAddr]) -> ServiceEntry {
    let entry = |address: &SocketAddr| ServerEntry {
        host: ServerHost::Ip(address.ip()),
        port: address.port(),
        weight: 1,
        group: None,
    };
    ServiceEntry {
        name,
        source: ServerSource::Servers(servers.iter().map(entry).collect()),
        active: Some(ActiveCheck {
            path: Some("/healthz".to_owned()),
            host: None,
            port: None,
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(250),
            fall: 2,
            rise: 2,
            status: vec![(200, 399)],
            headers: Vec::new(),
        }),
        retry: None,
        protocol: ServiceProtocol::Http,
        tls: ServiceTls::default(),
        pool: POOL,
        in_flight: None,
        groups: None,
    }
}

fn certificates(issued: &Issued) -> Result<CertStore, String> {
    let mut builder = CertStore::builder();
    builder
        .listener(&HTTP.into())
        .add_pem(
            &HTTPS.into(),
            issued.chain_pem.as_bytes(),
            issued.key_pem.as_bytes(),
            "the demo's certificate",
        )
        .map_err(|mistake| mistake.to_string())?;
    Ok(builder.build(SystemTime::now()))
}

fn opening(ports: &ChosenPorts, servers: &[SocketAddr], ca_file: &CaFile) -> String {
    let (http, https, admin) = (ports.http, ports.https, ports.admin);
    let taken: String = ports.taken.iter().map(|line| format!("{line}\n")).collect();
    let taken = if taken.is_empty() {
        taken
    } else {
        format!("\n{taken}")
    };
    let servers: Vec<String> = (1..)
        .zip(servers)
        .map(|(number, address)| format!("app-{number} = {address}"))
        .collect();
    let servers = servers.join(", ");
    let ca = ca_file.path().display();
    let rota = this_program();
    let rota = rota.display();
    let at = if admin.port() == WANTED.admin {
        String::new()
    } else {
        format!(" --admin {admin}")
    };
    let seconds = TURN.as_secs();
    let tls_port = https.port();
    format!(
        "\
http://{http}/   HTTP: three app servers, in turn
https://{https}/  HTTPS: the same; the certificate's CA was made for this run
http://{admin}/   admin: what rota knows and why
The servers: {servers}
{taken}
Try, in another terminal:
  for i in 1 2 3 4 5 6 7 8 9; do curl -s http://{http}/; done
  curl --cacert {ca} https://localhost:{tls_port}/
  curl -k https://{https}/headers
  curl -s http://{admin}/metrics
  {rota} status{at}
  {rota} why app{at}

app-2 turns sick and well again, {seconds} s each: watch it leave the rota and come back. No request fails meanwhile.
Ctrl-C ends it.

"
    )
}

/// How one calls this program again: its path from here if it lies below, else its name.
fn this_program() -> PathBuf {
    let below = std::env::current_exe().ok().and_then(|program| {
        let here = std::env::current_dir().ok()?;
        program.strip_prefix(here).map(PathBuf::from).ok()
    });
    below.unwrap_or_else(|| PathBuf::from("rota"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial;

    /// Three ports that are taken as long as the listeners live.
    fn taken() -> (Ports, [TcpListener; 3]) {
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [http, https, admin] = [0, 1, 2].map(|i: usize| held[i].local_addr().unwrap().port());
        let ports = Ports { http, https, admin };
        (ports, held)
    }

    #[test]
    fn a_taken_port_gives_way_to_the_next_free_one_and_the_text_says_so() {
        let (wanted, _held) = taken();
        let demo = prepare_at(wanted).unwrap();
        let [http, https] = [0, 1].map(|i: usize| demo.config.listeners[i].policy.address);
        let AdminAddress::Tcp(admin) = demo.config.admin.address else {
            panic!("admin is not on TCP");
        };
        let ports = [http.port(), https.port(), admin.port()];
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
        assert!(ports[0] > wanted.http && ports[1] > wanted.https && ports[2] > wanted.admin);

        let text = demo.opening();
        let urls: Vec<&str> = text
            .lines()
            .take(3)
            .map(|line| line.split_whitespace().next().unwrap())
            .collect();
        let expected = [
            format!("http://{http}/"),
            format!("https://{https}/"),
            format!("http://{admin}/"),
        ];
        assert_eq!(urls, expected);
        let said = format!("{} is taken, using {}", wanted.https, https.port());
        assert!(text.contains(&said), "{text}");
        assert!(text.contains(&format!("why app --admin {admin}")));
        for (number, address) in (1..).zip(demo.running.servers.addresses()) {
            assert!(
                text.contains(&format!("app-{number} = {address}")),
                "{text}"
            );
        }
    }

    #[test]
    fn the_certificate_is_for_localhost_and_verified_with_the_file_that_the_text_names() {
        let (wanted, _held) = taken();
        let demo = prepare_at(wanted).unwrap();
        let ca = demo.running.ca_file.path().to_path_buf();
        assert!(demo.opening().contains(&ca.display().to_string()));
        dial::tls::client_config(Some(&ca), None, &[]).unwrap();
        for sni in [
            None,
            Some("localhost"),
            Some("demo.localhost"),
            Some("x.localhost"),
        ] {
            let certificate = demo.certificates.certificate(HTTPS, sni).unwrap();
            for host in ["localhost", "a.localhost", "127.0.0.1", "[::1]"] {
                assert!(certificate.covers(host), "{host}");
            }
        }
        assert_eq!(demo.certificates.warnings(), &[]);
        drop(demo);
        assert!(!ca.exists(), "the file is removed at the end");
    }
}
