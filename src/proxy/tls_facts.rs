//! What a TLS handshake settled, for all requests of its connection.

use std::sync::Arc;

use super::fields::push_field;
use crate::certs::{Certificate, ClientIdentity};

/// What a TLS handshake settled.
pub struct TlsFacts {
    pub sni: Option<Box<str>>,
    pub certificate: Option<Arc<Certificate>>,
    /// Ready-made; empty: the client showed no certificate.
    client: Box<[u8]>,
}

impl TlsFacts {
    pub fn new(
        sni: Option<Box<str>>,
        certificate: Option<Arc<Certificate>>,
        client: Option<&ClientIdentity>,
    ) -> TlsFacts {
        TlsFacts {
            sni,
            certificate,
            client: client.map(client_fields).unwrap_or_default(),
        }
    }

    /// The lines that tell a server whose certificate the client showed.
    pub fn client_fields(&self) -> &[u8] {
        &self.client
    }
}

fn client_fields(client: &ClientIdentity) -> Box<[u8]> {
    let mut fields = Vec::new();
    if let Some(subject) = client.subject() {
        push_field(
            &mut fields,
            "X-Client-Certificate-Subject",
            subject.as_bytes(),
        );
    }
    let fingerprint = client.fingerprint().as_bytes();
    push_field(&mut fields, "X-Client-Certificate-Fingerprint", fingerprint);
    fields.into()
}
