//! Client certificates: who is let in, what a server is told of them, and that nobody else can say it.

use std::io;

use http::Request;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::support::authority::Leaf;
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::rota::{PLAIN, Place, Signal};
use crate::support::{Authority, Origin, Rota, Tls, eventually};

const NAME: &str = "shop.test";
const SUBJECT: &str = "x-client-certificate-subject";
const FINGERPRINT: &str = "x-client-certificate-fingerprint";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A rota with a listener whose clients have certificates of an authority of their own.
struct World {
    rota: Rota,
    /// Of rota's own certificate.
    authority: Authority,
    clients: Authority,
    origin: Origin,
}

impl World {
    fn new(demand: &str) -> World {
        World::with(demand, "")
    }

    /// `more` of the listener's keys.
    fn with(demand: &str, more: &str) -> World {
        let (authority, clients) = (Authority::new(), Authority::new());
        let origin = Origin::fixed("ok");
        let place = Place::new();
        authority.leaf(&[NAME]).write(place.path(), "shop");
        std::fs::write(place.path().join("clients.pem"), &clients.pem).unwrap();
        let rota = place.start(&file(&origin, demand, more));
        World {
            rota,
            authority,
            clients,
            origin,
        }
    }

    fn showing(&self, leaf: &Leaf, version: &'static SupportedProtocolVersion) -> Tls {
        self.authority.client_showing(leaf, NAME, &[], &[version])
    }

    fn showing_nothing(&self, version: &'static SupportedProtocolVersion) -> Tls {
        self.authority.client_with(NAME, &[], &[version])
    }

    /// A request on a connection of its own. Over TLS 1.3 a client hears only then that its certificate is refused.
    fn ask(&self, tls: &Tls) -> io::Result<u16> {
        let mut client = Client::connect_tls(self.rota.https(), tls)?;
        client.try_send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes())?;
        Ok(client.try_answer()?.status)
    }

    fn handshakes(&self, labels: &[(&str, &str)]) -> f64 {
        self.rota.metric("rota_tls_handshakes_total", labels)
    }

    fn refused(&self) -> f64 {
        self.handshakes(&[("outcome", "client_certificate")])
    }

    /// What the server was told in the last request.
    fn told(&self) -> (Vec<String>, Vec<String>) {
        let requests = self.origin.requests();
        let last = requests.last().unwrap();
        let of = |name: &str| last.fields(name).iter().map(ToString::to_string).collect();
        (of(SUBJECT), of(FINGERPRINT))
    }
}

fn file(origin: &Origin, demand: &str, more: &str) -> String {
    format!(
        "{PLAIN}{more}[[listener]]\nname = \"web-tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\n\
         certificates = [{{ certificate = \"shop.pem\", key = \"shop.key\" }}]\n\
         client_ca = \"clients.pem\"\nclient_certificate = \"{demand}\"\n{more}\
         [[service]]\nname = \"app\"\nservers = [\"{}\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
        origin.address()
    )
}

fn sha256(leaf: &Leaf) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf.der());
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    hex.collect()
}

#[test]
fn a_client_with_a_certificate_is_served_and_its_subject_told_over_both_protocols() {
    let world = World::new("require");
    let leaf = world.clients.client_leaf("Lučić, \"Ops\"");
    let told = (
        vec!["CN=Lu\\C4\\8Di\\C4\\87\\, \\\"Ops\\\"".to_owned()],
        vec![sha256(&leaf)],
    );
    for version in VERSIONS {
        assert_eq!(world.ask(&world.showing(&leaf, version)).unwrap(), 200);
        assert_eq!(world.told(), told);
        let tls = world
            .authority
            .client_showing(&leaf, NAME, &["h2"], &[version]);
        let client = Http2::connect(world.rota.https(), &tls);
        assert_eq!(client.get(NAME, "/").unwrap().status, 200);
        assert_eq!(world.told(), told);
    }
    assert_eq!(world.refused(), 0.0);
}

#[test]
fn a_client_without_a_certificate_or_with_a_strangers_is_refused_and_counted() {
    let world = World::new("require");
    let strange = Authority::new().client_leaf("ops");
    for (number, version) in VERSIONS.into_iter().enumerate() {
        assert!(world.ask(&world.showing_nothing(version)).is_err());
        assert!(world.ask(&world.showing(&strange, version)).is_err());
        eventually("both are counted", || {
            world.refused() == 2.0 * (number as f64 + 1.0)
        });
    }
    assert_eq!(world.origin.count(), 0);
}

#[test]
fn where_a_certificate_is_requested_who_shows_none_is_served_and_a_stranger_is_not() {
    let world = World::new("request");
    let (own, strange) = (
        world.clients.client_leaf("ops"),
        Authority::new().client_leaf("ops"),
    );
    for version in VERSIONS {
        assert_eq!(world.ask(&world.showing_nothing(version)).unwrap(), 200);
        assert_eq!(world.told(), (vec![], vec![]));
        assert_eq!(world.ask(&world.showing(&own, version)).unwrap(), 200);
        assert_eq!(world.told(), (vec!["CN=ops".into()], vec![sha256(&own)]));
        assert!(world.ask(&world.showing(&strange, version)).is_err());
    }
    eventually("it is counted", || world.refused() == 2.0);
}

#[test]
fn a_refused_certificate_leaves_one_line_with_the_reason_a_second_at_most() {
    let world = World::new("require");
    let strange = Authority::new().client_leaf("ops");
    let tls = world.showing(&strange, &TLS13);
    let lines = || {
        let log = world.rota.log();
        let is_ours = |line: &&str| {
            line.contains("refused: no authority of client_ca issued it")
                && line.contains("listener=web-tls client=127.0.0.1 unsaid=")
        };
        log.lines().filter(is_ours).count()
    };
    let begin = std::time::Instant::now();
    for _ in 0..10 {
        assert!(world.ask(&tls).is_err());
    }
    eventually("all are counted", || world.refused() == 10.0);
    let most = begin.elapsed().as_secs() as usize + 1;
    // Each worker has a second of its own.
    let workers = std::thread::available_parallelism().unwrap().get();
    assert!(
        (1..=most * workers).contains(&lines()),
        "{}",
        world.rota.log()
    );
    eventually("who shows none is told of, too", || {
        assert!(world.ask(&world.showing_nothing(&TLS13)).is_err());
        world.rota.log().contains("refused: none was shown")
    });
}

/// Every way to say it.
const FORGED: [&str; 8] = [
    "X-Client-Certificate-Subject",
    "x-client-certificate-fingerprint",
    "X_Client_Certificate_Subject",
    "X-Client_Certificate-Fingerprint",
    "X-Client-Certificate-Verified",
    "X-Client-Certificate",
    "Client-Cert",
    "Client-Cert-Chain",
];

#[test]
fn no_client_can_forge_what_servers_are_told_not_even_a_trusted_proxy() {
    let world = World::with("request", "trusted_proxies = [\"127.0.0.0/8\"]\n");
    let forged: String = FORGED
        .iter()
        .map(|name| format!("{name}: CN=admin\r\n"))
        .collect();
    let nominated = format!("{forged}Connection: {SUBJECT}, {FINGERPRINT}\r\n");
    let leaf = world.clients.client_leaf("ops");
    let own = (vec!["CN=ops".to_owned()], vec![sha256(&leaf)]);
    let tls = [
        (world.showing_nothing(&TLS13), (vec![], vec![])),
        (world.showing(&leaf, &TLS13), own.clone()),
    ];
    let is_clean = || {
        let requests = world.origin.requests();
        let head = format!("{:?}", requests.last().unwrap());
        assert!(!head.contains("admin"), "{head}");
    };
    for fields in [&forged, &nominated] {
        let head = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n{fields}\r\n");
        let mut plain = Client::connect(world.rota.http());
        assert_eq!(plain.send(&head).answer().status, 200);
        assert_eq!(world.told(), (vec![], vec![]));
        is_clean();
        for (tls, told) in &tls {
            let mut client = Client::connect_tls(world.rota.https(), tls).unwrap();
            assert_eq!(client.send(&head).answer().status, 200);
            assert_eq!(world.told(), *told);
            is_clean();
        }
    }
    let http2 = world
        .authority
        .client_showing(&leaf, NAME, &["h2"], &[&TLS13]);
    let client = Http2::connect(world.rota.https(), &http2);
    let mut head = Request::get(format!("https://{NAME}/"));
    for name in FORGED {
        head = head.header(name, "CN=admin");
    }
    let answer = client.ask(head.body(()).unwrap(), Vec::new(), None);
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(world.told(), own);
    is_clean();
}

#[test]
fn a_resumed_session_still_knows_its_subject() {
    let world = World::new("require");
    let leaf = world.clients.client_leaf("ops");
    for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let tls = world.showing(&leaf, version);
        for _ in 0..2 {
            assert_eq!(world.ask(&tls).unwrap(), 200);
            assert_eq!(world.told(), (vec!["CN=ops".into()], vec![sha256(&leaf)]));
        }
        let labels = [("version", label), ("resumed", "true")];
        assert_eq!(world.handshakes(&labels), 1.0, "{label}");
    }
}

#[test]
fn another_authority_is_in_force_on_hup_and_the_old_ones_tickets_resume_nothing() {
    let world = World::new("require");
    let old = world.clients.client_leaf("old");
    let tls = VERSIONS.map(|version| world.showing(&old, version));
    for tls in &tls {
        assert_eq!(world.ask(tls).unwrap(), 200);
    }
    let mut open = Client::connect_tls(world.rota.https(), &tls[1]).unwrap();
    assert_eq!(open.get(NAME, "/").status, 200);
    let resumed = world.handshakes(&[("resumed", "true")]);

    let newer = Authority::new();
    let ca = world.rota.directory().join("clients.pem");
    std::fs::write(&ca, &newer.pem).unwrap();
    world.rota.signal(Signal::HUP);
    let young = newer.client_leaf("new");
    eventually("its clients are let in", || {
        world.ask(&world.showing(&young, &TLS13)).is_ok()
    });
    for tls in &tls {
        assert!(world.ask(tls).is_err(), "with a ticket of before");
    }
    assert_eq!(world.handshakes(&[("resumed", "true")]), resumed);
    assert_eq!(open.get(NAME, "/").status, 200, "no connection was cut");

    std::fs::write(&ca, "nonsense").unwrap();
    world.rota.signal(Signal::HUP);
    let named = format!("listener[1].client_ca: {}: no certificate", ca.display());
    eventually("a bad file is named", || world.rota.log().contains(&named));
    assert_eq!(world.ask(&world.showing(&young, &TLS13)).unwrap(), 200);
}

#[test]
fn a_listener_that_asks_as_before_keeps_its_tickets_on_hup() {
    let world = World::new("require");
    let tls = world.showing(&world.clients.client_leaf("ops"), &TLS12);
    assert_eq!(world.ask(&tls).unwrap(), 200);
    world.rota.signal(Signal::HUP);
    eventually("the file was read again", || {
        world.rota.log().contains("read again and is in force")
    });
    assert_eq!(world.ask(&tls).unwrap(), 200);
    assert_eq!(world.handshakes(&[("resumed", "true")]), 1.0);
}

#[test]
fn a_bad_file_of_authorities_is_named_with_its_path_and_nothing_starts() {
    let place = Place::new();
    Authority::new().leaf(&[NAME]).write(place.path(), "shop");
    let ca = place.path().join("clients.pem");
    let rota = place.spawn(&file(&Origin::fixed("never"), "require", ""));
    assert_eq!(rota.wait().code(), Some(1));
    let named = format!("listener[1].client_ca: {}: no such file", ca.display());
    assert!(rota.log().contains(&named), "{}", rota.log());
}
