//! The handshake with a client, from its first byte to an encrypted stream. Hot path, once per connection.
//!
//! rustls answers a resolver that has no certificate with the alert `access_denied`, and leaves no choice. So the ClientHello is
//! read first ([`LazyConfigAcceptor`], which parses it once for both), and a name that nobody has is refused here with
//! `unrecognized_name` (RFC 6066 section 3), which tells a client that it is at the wrong door rather than unwelcome.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::store::CertStore;
use crate::routing::swap::Reader;

/// Why a client's handshake came to nothing.
#[derive(Debug)]
pub enum AcceptError {
    /// The client asked for a name that no certificate of the listener has; it was told `unrecognized_name`.
    UnknownName,
    /// The client named nobody and the listener has no certificate; it was told `handshake_failure`.
    NoCertificate,
    /// Not TLS, no version or suite in common, a broken record (rustls sent its alert), or the connection ended.
    Failed(io::Error),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcceptError::UnknownName => f.write_str("the client asked for a name nobody has"),
            AcceptError::NoCertificate => f.write_str("the listener has no certificate"),
            AcceptError::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for AcceptError {}

/// A fatal alert in a record of its own, in the clear: type 21, version 3.3, two bytes, level 2.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// Does the handshake on a connection just accepted. `config` is what [`super::server_config`] made for `listener`, and
/// `store` the reader it was made with. There is no timer in here: the caller's deadline runs from accept. SNI, ALPN,
/// version and resumption are then to be had from the stream's `get_ref().1`, the certificate from
/// [`CertStore::certificate`] with that SNI.
pub async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    store: &Reader<CertStore>,
    listener: &str,
) -> Result<Box<TlsStream<TcpStream>>, AcceptError> {
    // In a box of its own: the state of a handshake is some kilobytes, which a connection's task would otherwise hold for life.
    Box::pin(shake_hands(tcp, config, store, listener)).await
}

async fn shake_hands(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    store: &Reader<CertStore>,
    listener: &str,
) -> Result<Box<TlsStream<TcpStream>>, AcceptError> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp)
        .await
        .map_err(AcceptError::Failed)?;
    let refusal = refusal(&store.load(), listener, hello.client_hello().server_name());
    match refusal {
        None => match hello.into_stream(config).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(AcceptError::Failed(error)),
        },
        Some(refusal) => {
            refuse(hello.io, &refusal).await;
            Err(refusal)
        }
    }
}

fn refusal(store: &CertStore, listener: &str, sni: Option<&str>) -> Option<AcceptError> {
    match (store.knows(listener, sni), sni) {
        (true, _) => None,
        (false, Some(_)) => Some(AcceptError::UnknownName),
        (false, None) => Some(AcceptError::NoCertificate),
    }
}

/// Sends the alert and closes. A client that is gone already need not be told.
async fn refuse(mut tcp: TcpStream, refusal: &AcceptError) {
    let alert = match refusal {
        AcceptError::UnknownName => &UNRECOGNIZED_NAME,
        AcceptError::NoCertificate | AcceptError::Failed(_) => &HANDSHAKE_FAILURE,
    };
    if tcp.write_all(alert).await.is_ok() {
        let _ = tcp.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::pki_types::ServerName;
    use rustls::{AlertDescription, ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
    use rustls::{ProtocolVersion, SupportedProtocolVersion, version};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::super::fixture::{Made, made};
    use super::super::server::server_config;
    use super::super::tickets::TicketKeys;
    use super::*;
    use crate::routing::swap::{self, Publisher};

    const TLS: &str = "tls";

    /// A listener with certificates, and what a client needs to trust it.
    struct Site {
        roots: RootCertStore,
        publisher: Publisher<CertStore>,
        store: Reader<CertStore>,
        config: Arc<ServerConfig>,
    }

    impl Site {
        fn new(certificates: &[&[&str]]) -> Site {
            let made: Vec<Made> = certificates.iter().map(|names| made(names)).collect();
            let mut roots = RootCertStore::empty();
            for one in &made {
                let leaf = one.certificate().served().cert[0].clone();
                roots.add(leaf).unwrap();
            }
            let (publisher, store) = swap::channel(store_of(&made));
            let (_, keys) = swap::channel(TicketKeys::default());
            let config = server_config(store.clone(), keys, TLS.into()).unwrap();
            Site {
                roots,
                publisher,
                store,
                config,
            }
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

        /// One connection: what the server and what the client make of it.
        async fn meet(&self, client: &Arc<ClientConfig>, name: &str) -> (Served, Met) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = async {
                let (tcp, _) = listener.accept().await.unwrap();
                let mut stream = accept(tcp, self.config.clone(), &self.store, TLS).await?;
                stream.write_all(b"x").await.unwrap();
                Ok(stream)
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
    }

    type Served = Result<Box<TlsStream<TcpStream>>, AcceptError>;
    type Met = io::Result<tokio_rustls::client::TlsStream<TcpStream>>;

    fn store_of(made: &[Made]) -> CertStore {
        let mut builder = CertStore::builder();
        builder.listener(&TLS.into());
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
            let served = accept(tcp, site.config.clone(), &site.store, TLS).await;
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
}
