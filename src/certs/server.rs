//! TLS settings towards clients: what a listener's terms say, forward secrecy and AEAD only, certificates from the store of the moment.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::provider;
use super::store::CertStore;
use super::tickets::{FleetTickets, TicketKeys};
use crate::routing::swap::Reader;

/// What is offered by ALPN, preferred first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Tickets sent after a full TLS 1.3 handshake. Each is good for one more connection (RFC 8446 appendix C.4); a client that
/// opens two at once finds two.
pub const TICKETS: usize = 2;

/// The settings of one listener that the store knows, by its terms of this moment; to be made anew when those change, and only then,
/// since the certificates come from `store` and the keys of tickets from `keys` at each
/// handshake. Sessions are resumed from tickets alone, so that nothing is kept per client, and a ticket is good only for the SNI it
/// was made for (that is rustls's). rustls' default suites are all ECDHE with AEAD, and X25519MLKEM768 comes first; a test
/// holds it to that.
pub fn server_config(
    store: Reader<CertStore>,
    keys: Reader<TicketKeys>,
    listener: Arc<str>,
) -> Result<ServerConfig, String> {
    let terms = store.load().terms(&listener).cloned();
    let terms =
        terms.ok_or_else(|| format!("listener {listener}: its certificates are unknown"))?;
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(terms.versions())
        .map_err(|error| format!("tls versions: {error}"))?
        .with_client_cert_verifier(terms.verifier())
        .with_cert_resolver(Arc::new(FromStore { store, listener }));
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(FleetTickets::new(keys, terms.tickets())?);
    config.send_tls13_tickets = TICKETS;
    Ok(config)
}

/// Answers rustls from the store that is in force when it asks.
struct FromStore {
    store: Reader<CertStore>,
    listener: Arc<str>,
}

impl std::fmt::Debug for FromStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FromStore({})", self.listener)
    }
}

impl ResolvesServerCert for FromStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let store = self.store.load();
        let certificate = store.certificate(&self.listener, hello.server_name())?;
        Some(certificate.served().clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::NamedGroup;

    use super::*;
    use crate::routing::swap;

    #[test]
    fn only_forward_secret_aead_suites_are_offered_and_post_quantum_comes_first() {
        let mut builder = CertStore::builder();
        builder.listener(&"tls".into());
        let (_publisher, reader) = swap::channel(builder.build(SystemTime::now()));
        let (_publisher, keys) = swap::channel(TicketKeys::default());
        let config = server_config(reader, keys, "tls".into()).unwrap();
        let provider = config.crypto_provider();
        assert_eq!(
            provider.kx_groups[0].name(),
            NamedGroup::X25519MLKEM768,
            "the feature prefer-post-quantum"
        );
        for suite in &provider.cipher_suites {
            let name = format!("{:?}", suite.suite());
            let forward = name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_");
            let aead = name.contains("_GCM_") || name.contains("CHACHA20_POLY1305");
            assert!(forward && aead, "{name}");
        }
    }
}
