//! Handshakes over real sockets: who is served what, who waits, and who is told what instead.
//!
//! Long because all of them need the same listener, its clients, and a CA that looks for itself.

use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use rustls::{ProtocolVersion, SupportedProtocolVersion, version};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::challenge::Challenges;
use super::super::fixture::{Folder, Made, made};
use super::super::proof::Proof;
use super::super::server::server_config;
use super::super::terms::Terms;
use super::super::tickets::TicketKeys;
use super::super::{wants, x509};
use super::*;
use crate::config::{ClientCertificates, Demand, ListenerTls, TlsPolicy};
use crate::routing::swap::{self, Publisher};

const TLS: &str = "tls";

/// A listener with certificates, and what a client needs to trust it.
struct Site {
    roots: RootCertStore,
    publisher: Publisher<CertStore>,
    store: Reader<CertStore>,
    config: Arc<ServerConfig>,
    wants: Wants,
    taken: mpsc::Receiver<Arc<str>>,
}

impl Site {
    fn new(certificates: &[&[&str]]) -> Site {
        Site::asking(Terms::default(), certificates)
    }

    fn asking(terms: Terms, certificates: &[&[&str]]) -> Site {
        let made: Vec<Made> = certificates.iter().map(|names| made(names)).collect();
        let mut roots = RootCertStore::empty();
        for one in &made {
            let leaf = one.certificate().served().cert[0].clone();
            roots.add(leaf).unwrap();
        }
        let (publisher, store) = swap::channel(store_on(terms, &made));
        let (_, keys) = swap::channel(TicketKeys::default());
        let config = server_config(store.clone(), keys, TLS.into()).unwrap();
        let config = Arc::new(config);
        let (wants, taken) = wants::channel();
        Site {
            roots,
            publisher,
            store,
            config,
            wants,
            taken,
        }
    }

    fn entrance(&self) -> Entrance<'_> {
        Entrance {
            config: self.config.clone(),
            store: &self.store,
            listener: TLS,
            wants: &self.wants,
            client: None,
            waiting_handshakes: 1,
        }
    }

    /// Publishes these certificates, with what can be proven.
    fn publish(&mut self, made: &[Made], challenges: Challenges) {
        for one in made {
            let leaf = one.certificate().served().cert[0].clone();
            self.roots.add(leaf).unwrap();
        }
        let own = store_of(made);
        let none = std::iter::empty();
        let store = own.joined(&[TLS.into()], none, challenges, SystemTime::now());
        self.publisher.publish(store);
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    async fn meet(&self, client: &Arc<ClientConfig>, name: &str) -> (Served, Met) {
        meet(&self.entrance(), client, name).await
    }
}

/// One connection: what the server and what the client make of it.
async fn meet(entrance: &Entrance<'_>, client: &Arc<ClientConfig>, name: &str) -> (Served, Met) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        match accept(tcp, entrance, || Some(())).await? {
            Accepted::Client(Client { mut stream, .. }) => {
                stream.write_all(b"x").await.unwrap();
                Ok(stream)
            }
            Accepted::Proof => panic!("a proof nobody asked for"),
        }
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(client.clone());
    let client = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect(name, tcp).await?;
        // The tickets of TLS 1.3 come with the first data.
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(server, client)
}

type Served = Result<Box<TlsStream<TcpStream>>, AcceptError>;
type Met = io::Result<tokio_rustls::client::TlsStream<TcpStream>>;

fn store_of(made: &[Made]) -> CertStore {
    store_on(Terms::default(), made)
}

fn store_on(terms: Terms, made: &[Made]) -> CertStore {
    let mut builder = CertStore::builder();
    builder.terms(&TLS.into(), terms);
    for one in made {
        builder.add(&TLS.into(), Arc::new(one.certificate()));
    }
    builder.build(SystemTime::now())
}

fn alert_of(met: Met) -> AlertDescription {
    let error = met.map(|_| ()).unwrap_err();
    let tls = error.get_ref().and_then(|e| e.downcast_ref()).unwrap();
    match tls {
        rustls::Error::AlertReceived(alert) => *alert,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sni_chooses_exact_then_wildcard_in_both_versions() {
    let site = Site::new(&[&["first.test"], &["*.b.test"], &["a.b.test"]]);
    for one in [&version::TLS12, &version::TLS13] {
        let client = Arc::new(site.client(&[one]));
        for (sni, expected) in [
            ("first.test", 0),
            ("x.b.test", 1),
            ("a.b.test", 2),
            ("A.B.test", 2),
        ] {
            let (served, met) = site.meet(&client, sni).await;
            let (served, met) = (served.unwrap(), met.unwrap());
            let server = served.get_ref().1;
            assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(server.protocol_version(), Some(one.version));
            let store = site.store.load();
            let found = store.certificate(TLS, server.server_name()).unwrap();
            assert_eq!(
                store.list().position(|(_, c)| Arc::ptr_eq(c, found)),
                Some(expected)
            );
            let shown = &met.get_ref().1.peer_certificates().unwrap()[0];
            assert_eq!(shown, &found.served().cert[0], "{sni}");
        }
    }
}

#[tokio::test]
async fn a_client_without_sni_gets_the_first_certificate() {
    let site = Site::new(&[&["127.0.0.1"], &["a.test"]]);
    let client = Arc::new(site.client(&[&version::TLS13]));
    let (served, met) = site.meet(&client, "127.0.0.1").await;
    assert_eq!(served.unwrap().get_ref().1.server_name(), None);
    met.unwrap();
}

#[tokio::test]
async fn a_name_nobody_has_gets_unrecognized_name() {
    let site = Site::new(&[&["a.test"]]);
    for one in [&version::TLS12, &version::TLS13] {
        let client = Arc::new(site.client(&[one]));
        let (served, met) = site.meet(&client, "b.test").await;
        assert!(matches!(served, Err(AcceptError::UnknownName)));
        assert_eq!(alert_of(met), AlertDescription::UnrecognisedName);
    }
}

#[tokio::test]
async fn a_listener_without_certificates_refuses_everybody() {
    let site = Site::new(&[]);
    let client = Arc::new(site.client(&[&version::TLS13]));
    let (served, met) = site.meet(&client, "127.0.0.1").await;
    assert!(matches!(served, Err(AcceptError::NoCertificate)));
    assert_eq!(alert_of(met), AlertDescription::HandshakeFailure);
    let (served, _) = site.meet(&client, "a.test").await;
    assert!(matches!(served, Err(AcceptError::UnknownName)));
}

#[tokio::test]
async fn what_is_not_tls_fails_and_so_does_a_client_that_leaves() {
    let site = Site::new(&[&["a.test"]]);
    for sent in [&b"GET / HTTP/1.1\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let served = accept(tcp, &site.entrance(), || Some(())).await;
        assert!(matches!(served, Err(AcceptError::Failed(_))));
    }
}

#[tokio::test]
async fn the_post_quantum_group_is_agreed_on_when_the_client_has_it() {
    let site = Site::new(&[&["a.test"]]);
    let group = |met: Met| {
        let (_, connection) = met.as_ref().unwrap().get_ref();
        let group = connection.negotiated_key_exchange_group();
        group.map(|group| group.name())
    };
    let modern = Arc::new(site.client(&[&version::TLS13]));
    let (_, met) = site.meet(&modern, "a.test").await;
    assert_eq!(group(met), Some(NamedGroup::X25519MLKEM768));

    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let classical = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(site.roots.clone())
        .with_no_client_auth();
    let (served, met) = site.meet(&Arc::new(classical), "a.test").await;
    assert_eq!(group(met), Some(NamedGroup::X25519));
    assert_eq!(served.unwrap().get_ref().1.alpn_protocol(), None);
}

#[tokio::test]
async fn a_session_is_resumed_for_its_own_name_only_and_not_after_its_certificate_is_gone() {
    let mut site = Site::new(&[&["a.test", "b.test"]]);
    for one in [&version::TLS12, &version::TLS13] {
        let client = Arc::new(site.client(&[one]));
        let kind = async |name: &str| {
            let (served, _) = site.meet(&client, name).await;
            served.unwrap().get_ref().1.handshake_kind()
        };
        assert_eq!(kind("a.test").await, Some(HandshakeKind::Full));
        assert_eq!(kind("a.test").await, Some(HandshakeKind::Resumed));
        assert_eq!(kind("b.test").await, Some(HandshakeKind::Full));
    }
    let client = Arc::new(site.client(&[&version::TLS13]));
    site.meet(&client, "a.test").await.0.unwrap();
    site.publisher.publish(store_of(&[made(&["c.test"])]));
    let (served, met) = site.meet(&client, "a.test").await;
    assert!(matches!(served, Err(AcceptError::UnknownName)));
    assert_eq!(alert_of(met), AlertDescription::UnrecognisedName);
}

#[tokio::test]
async fn a_new_store_is_in_force_from_the_next_handshake_on() {
    let mut site = Site::new(&[&["a.test"]]);
    let client = Arc::new(site.client(&[&version::TLS12, &version::TLS13]));
    let (served, met) = site.meet(&client, "a.test").await;
    let (mut served, mut met) = (served.unwrap(), met.unwrap());
    let next = made(&["b.test"]);
    let leaf = next.certificate().served().cert[0].clone();
    site.roots.add(leaf).unwrap();
    site.publisher.publish(store_of(&[next]));

    let newer = Arc::new(site.client(&[&version::TLS13]));
    let (later, _) = site.meet(&newer, "b.test").await;
    let version = later.unwrap().get_ref().1.protocol_version();
    assert_eq!(version, Some(ProtocolVersion::TLSv1_3));
    served.write_all(b"y").await.unwrap();
    assert_eq!(met.read_u8().await.unwrap(), b'y', "open connections go on");
}

/// A CA: it looks at the certificate itself.
#[derive(Debug)]
struct Looks;

impl ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A client that offers exactly this by ALPN.
fn ca(site: &Site, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> ClientConfig {
    let mut config = site.client(&[version]);
    config.dangerous().set_certificate_verifier(Arc::new(Looks));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// What a CA sees, and what came of it here; the connection was read to its end, which brought nothing.
async fn ask_for_proof(
    site: &Site,
    client: ClientConfig,
    name: &str,
) -> (Result<Accepted, AcceptError>, io::Result<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        accept(tcp, &site.entrance(), || Some(())).await
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, tcp).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        assert!(rest.is_empty());
        let connection = stream.get_ref().1;
        assert_eq!(connection.alpn_protocol(), Some(&b"acme-tls/1"[..]));
        assert_eq!(connection.tls13_tickets_received(), 0);
        Ok(connection.peer_certificates().unwrap()[0].to_vec())
    };
    tokio::join!(server, client)
}

#[tokio::test]
async fn a_ca_is_shown_the_pending_proof_and_nothing_after_it() {
    let mut site = Site::asking(required(&made(&["client.test"])), &[]);
    let digest = std::array::from_fn(|n| n as u8);
    let proof = Proof::new("A.test", digest).unwrap();
    site.publish(
        &[made(&["a.test"])],
        Challenges::new(None, [], [proof], Duration::ZERO),
    );
    for version in [&version::TLS12, &version::TLS13] {
        // The listener asks for client certificates, of which a CA knows nothing.
        let client = ca(&site, version, &[b"acme-tls/1"]);
        let (served, seen) = ask_for_proof(&site, client, "a.test").await;
        assert!(matches!(served, Ok(Accepted::Proof)), "{served:?}");
        let seen = seen.unwrap();
        // RFC 8737 section 3: id-pe-acmeIdentifier, critical, an OCTET STRING of 32 bytes in the extension's own.
        let mut extension = vec![6, 8, 43, 6, 1, 5, 5, 7, 1, 31, 1, 1, 255, 4, 34, 4, 32];
        extension.extend(digest);
        assert!(memchr::memmem::find(&seen, &extension).is_some());
        let names = x509::read(&seen).unwrap().names;
        assert_eq!(*names.exact, ["a.test".into()]);
        assert!(names.wildcards.is_empty() && names.addresses.is_empty());
    }
}

#[tokio::test]
async fn without_a_pending_proof_a_ca_is_refused_and_others_never_see_one() {
    let mut site = Site::new(&[]);
    let proof = Proof::new("b.test", [0; 32]).unwrap();
    let challenges = Challenges::new(None, ["c.test".into()], [proof], Duration::from_secs(60));
    site.publish(&[made(&["a.test"]), made(&["b.test"])], challenges);
    for name in ["a.test", "c.test", "unknown.test"] {
        let client = ca(&site, &version::TLS13, &[b"acme-tls/1"]);
        let (served, seen) = ask_for_proof(&site, client, name).await;
        assert!(matches!(served, Err(AcceptError::UnknownName)), "{name}");
        let alert = seen.unwrap_err().downcast::<rustls::Error>().unwrap();
        let expected = rustls::Error::AlertReceived(AlertDescription::UnrecognisedName);
        assert_eq!(alert, expected, "{name}");
    }
    let both = ca(&site, &version::TLS13, &[b"acme-tls/1", b"http/1.1"]);
    let (served, _) = site.meet(&Arc::new(both), "b.test").await;
    let served = served.unwrap();
    assert_eq!(served.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_first_handshake_waits_until_its_certificate_is_published() {
    let mut site = Site::new(&[]);
    let names = || ["a.test".into(), "*.b.test".into()];
    let pending = || Challenges::new(None, names(), [], Duration::from_secs(60));
    for (sni, ordered) in [("a.test", "a.test"), ("x.b.test", "*.b.test")] {
        site.publish(&[], pending());
        let coming = made(&[ordered]);
        let leaf = coming.certificate().served().cert[0].clone();
        site.roots.add(leaf).unwrap();
        let client = Arc::new(site.client(&[&version::TLS13]));
        let (publisher, taken) = (&mut site.publisher, &mut site.taken);
        let publish = async {
            assert_eq!(&*taken.recv().await.unwrap(), ordered);
            // A store without it is not what is waited for.
            let stores = [&[][..], &[coming]];
            for made in stores {
                let none = std::iter::empty();
                let now = SystemTime::now();
                publisher.publish(store_of(made).joined(&[TLS.into()], none, pending(), now));
                tokio::task::yield_now().await;
            }
        };
        let entrance = Entrance {
            config: site.config.clone(),
            store: &site.store,
            listener: TLS,
            wants: &site.wants,
            client: None,
            waiting_handshakes: 1,
        };
        let ((served, met), ()) = tokio::join!(meet(&entrance, &client, sni), publish);
        served.unwrap();
        met.unwrap();
        assert_eq!(site.wants.waiting(), 0);
    }
}

#[tokio::test]
async fn a_handshake_waits_no_longer_than_it_may_and_no_more_of_them_than_may() {
    let mut site = Site::new(&[]);
    let client = Arc::new(site.client(&[&version::TLS13]));
    let wait = Duration::from_millis(200);
    site.publish(&[], Challenges::new(None, ["a.test".into()], [], wait));
    let begun = Instant::now();
    let second = async {
        // Once the first waits.
        somebody_waits(&site.wants).await;
        let met = site.meet(&client, "a.test").await;
        (met, begun.elapsed())
    };
    let (first, (second, refused_after)) = tokio::join!(site.meet(&client, "a.test"), second);
    assert!(matches!(first.0, Err(AcceptError::NotYet)));
    assert!(begun.elapsed() >= wait && refused_after < wait);
    assert!(matches!(second.0, Err(AcceptError::TooManyWaiting)));
    for met in [first.1, second.1] {
        assert_eq!(alert_of(met), AlertDescription::UnrecognisedName);
    }
    let none = Challenges::new(None, ["a.test".into()], [], Duration::ZERO);
    site.publish(&[], none);
    let (served, _) = site.meet(&client, "a.test").await;
    assert!(matches!(served, Err(AcceptError::NotYet)));
}

#[tokio::test]
async fn a_name_whose_order_rests_keeps_nobody_waiting_whether_they_came_before_or_after() {
    let mut site = Site::new(&[]);
    let client = Arc::new(site.client(&[&version::TLS13]));
    let hour = Duration::from_secs(3600);
    let pending = || Challenges::new(None, ["a.test".into()], [], hour);
    site.publish(&[], pending());
    let failed = pending().resting([("a.test".into(), SystemTime::now() + hour * 2)]);
    let now = SystemTime::now();
    let store = store_of(&[]).joined(&[TLS.into()], std::iter::empty(), failed, now);
    let entrance = Entrance {
        config: site.config.clone(),
        store: &site.store,
        listener: TLS,
        wants: &site.wants,
        client: None,
        waiting_handshakes: 1,
    };
    let publisher = &mut site.publisher;
    let fail = async {
        somebody_waits(&site.wants).await;
        publisher.publish(store);
    };
    let ((before, _), ()) = tokio::join!(meet(&entrance, &client, "a.test"), fail);
    assert!(matches!(before, Err(AcceptError::NotYet)));
    let (after, met) = site.meet(&client, "a.test").await;
    assert!(matches!(after, Err(AcceptError::NotYet)));
    assert_eq!(alert_of(met), AlertDescription::UnrecognisedName);
    assert_eq!(site.wants.waiting(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_waits_no_longer() {
    let mut site = Site::new(&[]);
    let client = Arc::new(site.client(&[&version::TLS13]));
    let hour = Duration::from_secs(3600);
    site.publish(&[], Challenges::new(None, ["a.test".into()], [], hour));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for is_reset in [false, true] {
        let mut hello = Vec::new();
        let name = "a.test".try_into().unwrap();
        let mut session = rustls::ClientConnection::new(client.clone(), name).unwrap();
        session.write_tls(&mut hello).unwrap();
        let leaving = async {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            // A reset, or a farewell.
            if is_reset {
                tcp.set_zero_linger().unwrap();
            }
            tcp.write_all(&hello).await.unwrap();
            somebody_waits(&site.wants).await;
        };
        let serving = async {
            let (tcp, _) = listener.accept().await.unwrap();
            accept(tcp, &site.entrance(), || Some(())).await
        };
        let (served, ()) = tokio::join!(serving, leaving);
        assert!(matches!(served, Err(AcceptError::Failed(_))), "{served:?}");
        assert_eq!(site.wants.waiting(), 0);
    }
}

async fn somebody_waits(wants: &Wants) {
    while wants.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_unknown_name_waits_for_nothing_and_asks_for_nothing() {
    let mut site = Site::new(&[]);
    let client = Arc::new(site.client(&[&version::TLS13]));
    let hour = Duration::from_secs(3600);
    site.publish(&[], Challenges::new(None, ["a.test".into()], [], hour));
    for name in ["b.test", "x.a.test"] {
        let (served, _) = site.meet(&client, name).await;
        assert!(matches!(served, Err(AcceptError::UnknownName)));
    }
    assert!(site.taken.try_recv().is_err() && site.wants.waiting() == 0);
}

/// Certificates of clients that are signed by this one, which signs itself.
fn required(client: &Made) -> Terms {
    let folder = Folder::new();
    let ca = folder.write("clients.pem", &client.chain_pem);
    let clients = ClientCertificates {
        ca,
        demand: Demand::Require,
    };
    Terms::read(&ListenerTls {
        policy: TlsPolicy::Intermediate,
        clients: Some(clients),
    })
    .unwrap()
}

#[tokio::test]
async fn a_resumed_session_with_a_certificate_that_has_expired_since_is_not_let_in() {
    let shown = made(&["client.test"]);
    let site = Site::asking(required(&shown), &[&["a.test"]]);
    for version in [&version::TLS12, &version::TLS13] {
        let mut client = site.client(&[version]);
        let certificate = SingleCertAndKey::from(shown.certificate().served().clone());
        client.client_auth_cert_resolver = Arc::new(certificate);
        let client = Arc::new(client);
        let after = shown.certificate().not_after() + Duration::from_secs(1);
        for (kind, is_let_in) in [(HandshakeKind::Full, true), (HandshakeKind::Resumed, false)] {
            let (served, _) = site.meet(&client, "a.test").await;
            let served = served.unwrap();
            let session = served.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(kind));
            let now = ClientIdentity::of(session, SystemTime::now());
            assert!(now.unwrap().is_some());
            assert_eq!(ClientIdentity::of(session, after).is_ok(), is_let_in);
        }
    }
}
