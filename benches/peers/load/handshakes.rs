//! Full TLS 1.3 handshakes by one name after the other, one request each; the certificate must be the name's own.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::certificates::name;
use crate::{Failure, connect, exchange};

/// Handshakes under way at a time.
const AT_A_TIME: usize = 16;

/// A line: how many were answered, `count` if all went well. Names are drawn at random, so that none is next to the one before.
pub fn run(
    address: SocketAddr,
    authority: &Path,
    count: usize,
    names: usize,
) -> Result<String, Failure> {
    let config = client_config(authority)?;
    let begun = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let one = || -> Result<(), Failure> {
            while begun.fetch_add(1, Ordering::Relaxed) < count {
                let host = name(fastrand::usize(..names));
                let mut stream = handshaken(address, &config, &host)?;
                exchange(&mut stream, &host)?;
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(one)).collect();
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(count.to_string())
    })
}

/// TLS 1.3 over X25519 and no session kept: what a handshake costs at its fullest, with what the peers' clients offer.
pub fn client_config(authority: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let provider = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A connection on which the handshake happens with the first bytes.
pub fn handshaken(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    host: &str,
) -> Result<StreamOwned<ClientConnection, TcpStream>, Failure> {
    let name = ServerName::try_from(host.to_owned())?;
    let connection = ClientConnection::new(config.clone(), name)?;
    Ok(StreamOwned::new(connection, connect(address)?))
}
