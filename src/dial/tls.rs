//! TLS settings towards servers: who is trusted, what we show.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

/// Settings for TLS 1.2 and 1.3 with verification, which cannot be turned off. Trusted is what `ca` holds (PEM) and nothing
/// else, or without it the system's store. `identity` (certificate chain, key) is shown to servers that ask. `alpn` is
/// what is offered, preferred first. Blocking. Errors name the path.
pub fn client_config(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, String> {
    let roots = match ca {
        Some(path) => Arc::new(roots_of(&read(path)?, &path.display())?),
        None => system_roots()?,
    };
    let trusting = builder()?.with_root_certificates(roots);
    let config = match identity {
        None => trusting.with_no_client_auth(),
        Some((certificate, key)) => {
            let (chain, private) = read_identity(certificate, key)?;
            trusting
                .with_client_auth_cert(chain, private)
                .map_err(|error| {
                    let (certificate, key) = (certificate.display(), key.display());
                    format!("{key}: cannot be used with the certificate in {certificate}: {error}")
                })?
        }
    };
    Ok(offering(config, alpn))
}

/// As [`client_config`], trusting the certificates of a PEM text; `source` stands before each message.
pub fn trusting(
    ca: &[u8],
    source: &dyn std::fmt::Display,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, String> {
    let roots = roots_of(ca, source)?;
    let config = builder()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(offering(config, alpn))
}

/// What a server's certificate must be valid for: a DNS name or an IP address, IPv6 with or without brackets.
pub fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| format!("`{name}` is neither a DNS name nor an IP address"))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    // Named explicitly: a second provider in the tree would make an implicit one panic.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("tls versions: {error}"))
}

fn offering(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Read once per process: it is some hundred files. A failure is not kept, the store may be there the next time.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some of a system's certificates may be broken or odd; one that is usable will do.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "it is empty; name a CA file".to_owned());
        return Err(format!("the system's store of trusted certificates: {why}"));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

/// `source` stands before each message.
fn roots_of(pem: &[u8], source: &dyn std::fmt::Display) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain_of(pem, source)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{source}: not a CA's certificate: {error}"))?;
    }
    Ok(roots)
}

fn chain_of(
    pem: &[u8],
    source: &dyn std::fmt::Display,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{source}: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{source}: no certificate in it (PEM)"));
    }
    Ok(chain)
}

fn read_identity(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = chain_of(&read(certificate)?, &certificate.display())?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|_| format!("{}: no usable private key in it (PEM)", key.display()))?;
    Ok((chain, private))
}

/// A whole file. Blocking. The error names the path.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let why = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{}: no such file", path.display()),
        _ => format!("{}: {error}", path.display()),
    };
    std::fs::read(path).map_err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap()
    }

    /// A handshake over a pipe with a server that shows `made`; gives what ALPN agreed on.
    async fn meet(
        made: &rcgen::CertifiedKey<rcgen::KeyPair>,
        client: Arc<ClientConfig>,
        name: &str,
    ) -> std::io::Result<Option<Vec<u8>>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (near, far) = tokio::io::duplex(16 * 1024);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let connector = tokio_rustls::TlsConnector::from(client);
        let name = server_name(name).unwrap();
        let (met, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        met.map(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    }

    #[tokio::test]
    async fn a_server_is_verified_against_the_ca_and_the_name() {
        let server = made("server.test");
        let trusted = trusting(server.cert.pem().as_bytes(), &"ca", &[b"http/1.1"]).unwrap();
        let alpn = meet(&server, trusted.clone(), "server.test").await.unwrap();
        assert_eq!(alpn.unwrap(), b"http/1.1");
        meet(&server, trusted, "other.test").await.unwrap_err();
        let stranger = trusting(made("server.test").cert.pem().as_bytes(), &"ca", &[]).unwrap();
        meet(&server, stranger, "server.test").await.unwrap_err();
    }

    #[tokio::test]
    async fn an_identity_is_read_and_a_key_foreign_to_it_is_named() {
        let (server, ours) = (made("server.test"), made("lb.test"));
        let folder = std::env::temp_dir().join(format!("rota-dial-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ca = write("ca.pem", server.cert.pem());
        let certificate = write("lb.pem", ours.cert.pem());
        let key = write("lb.key", ours.signing_key.serialize_pem());
        let foreign = write("foreign.key", server.signing_key.serialize_pem());
        let client = client_config(Some(&ca), Some((&certificate, &key)), &[]);
        let mismatched = client_config(Some(&ca), Some((&certificate, &foreign)), &[]);
        std::fs::remove_dir_all(&folder).unwrap();

        let error = mismatched.unwrap_err();
        assert!(error.starts_with(&foreign.display().to_string()), "{error}");
        let client = client.unwrap();
        assert!(client.client_auth_cert_resolver.has_certs());
        meet(&server, client, "server.test").await.unwrap();
    }

    #[test]
    fn errors_name_the_path() {
        let missing = Path::new("no/such/ca.pem");
        let error = client_config(Some(missing), None, &[]).unwrap_err();
        assert!(error.starts_with("no/such/ca.pem: "), "{error}");
        let error = trusting(b"", &"ca", &[]).unwrap_err();
        assert!(error.contains("no certificate"), "{error}");
    }

    #[test]
    fn a_server_name_is_a_dns_name_or_an_address() {
        for name in ["blog.internal", "127.0.0.1", "::1", "[::1]"] {
            server_name(name).unwrap();
        }
        assert_eq!(server_name("[::1]"), server_name("::1"));
        for name in ["", "a b", "a:80", "[::1"] {
            assert!(server_name(name).unwrap_err().contains(name), "{name}");
        }
    }
}
