//! Whom a client's certificate names, in the words that servers are told: RFC 4514 for its subject, SHA-256 for the whole.

use std::fmt;
use std::time::SystemTime;

use rustls::{HandshakeKind, ServerConnection};

use super::x509::{self, Attribute};
use crate::seal::Digest;

/// Characters of a subject. A longer one is left out and never cut: what is left of it could be somebody else's.
pub const MAX_SUBJECT: usize = 2048;

/// Of a client whose certificate was verified in this handshake, or in the one that it resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Visible ASCII and inner spaces alone; None: it is empty, or longer than [`MAX_SUBJECT`].
    subject: Option<String>,
    fingerprint: String,
}

/// Why a verified certificate is good for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Useless {
    Unreadable,
    /// Since the session began that it was shown in.
    Expired,
}

impl fmt::Display for Useless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Useless::Unreadable => "it cannot be read",
            Useless::Expired => "it has expired since the session began that is resumed",
        })
    }
}

impl ClientIdentity {
    /// The subject's distinguished name.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The certificate's SHA-256, 64 lower-case hex digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// After a handshake; None: the client showed no certificate. A resumed session carries the certificate in its ticket, and
    /// nobody but us asks whether it has expired since.
    pub(super) fn of(
        session: &ServerConnection,
        now: SystemTime,
    ) -> Result<Option<ClientIdentity>, Useless> {
        let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else {
            return Ok(None);
        };
        let holder = x509::holder(leaf).map_err(|_| Useless::Unreadable)?;
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        if is_resumed && !(holder.not_before..=holder.not_after).contains(&now) {
            return Err(Useless::Expired);
        }
        let subject = distinguished_name(&holder.subject);
        let fits = (1..=MAX_SUBJECT).contains(&subject.len());
        Ok(Some(ClientIdentity {
            subject: fits.then_some(subject),
            fingerprint: hex(Digest::of(leaf).bytes()),
        }))
    }
}

/// RFC 4514 section 2: the last set of attributes first.
fn distinguished_name(sets: &[Vec<Attribute>]) -> String {
    let set = |set: &Vec<Attribute>| set.iter().map(attribute).collect::<Vec<_>>().join("+");
    sets.iter().rev().map(set).collect::<Vec<_>>().join(",")
}

/// Types by name: those of RFC 4514 section 3, and what else certificates of people and devices have.
const NAMES: [(&str, &str); 14] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Section 2.3 and 2.4: what has no name here, or is no text, is its bytes in hex.
fn attribute(attribute: &Attribute) -> String {
    let oid = attribute.oid.as_str();
    let name = NAMES.iter().find(|(known, _)| *known == oid);
    match (name, &attribute.text) {
        (Some((_, name)), Some(text)) => format!("{name}={}", escaped(text)),
        (Some((_, name)), None) => format!("{name}=#{}", hex(&attribute.der)),
        (None, _) => format!("{oid}=#{}", hex(&attribute.der)),
    }
}

/// Everything but visible ASCII and inner spaces as `\XX`, byte by byte: no line can be ended and no field be begun.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => out.extend(['\\', byte as char]),
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(byte as char),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn subject(attributes: &[(DnType, DnValue)]) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        distinguished_name(&x509::holder(made.der()).unwrap().subject)
    }

    fn common_name(text: &str) -> String {
        subject(&[(DnType::CommonName, DnValue::Utf8String(text.to_owned()))])
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_says() {
        let text = |text: &str| DnValue::Utf8String(text.to_owned());
        let found = subject(&[
            (DnType::CountryName, text("DE")),
            (DnType::OrganizationName, text("Sue, Grabbit and Runn")),
            (DnType::CommonName, text("Lučić")),
        ]);
        assert_eq!(
            found,
            "CN=Lu\\C4\\8Di\\C4\\87,O=Sue\\, Grabbit and Runn,C=DE"
        );
        assert_eq!(common_name(" #1 "), "CN=\\ #1\\ ");
        assert_eq!(common_name("#1"), "CN=\\#1");
        assert_eq!(
            common_name("a\"b+c;d<e>f\\g=h"),
            "CN=a\\\"b\\+c\\;d\\<e\\>f\\\\g=h"
        );
        assert_eq!(subject(&[]), "");
        let own = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, 1]);
        assert_eq!(
            subject(&[(own, text("hi"))]),
            "1.3.6.1.4.1.99999.1=#0c026869"
        );
        let wide = DnValue::BmpString("hi".try_into().unwrap());
        assert_eq!(subject(&[(DnType::CommonName, wide)]), "CN=#1e0400680069");
    }

    #[test]
    fn no_line_can_be_smuggled_and_no_name_be_made_of_another() {
        assert_eq!(
            common_name("a\r\nX-Admin: 1\0"),
            "CN=a\\0D\\0AX-Admin: 1\\00"
        );
        assert_eq!(common_name("a,O=Admin"), "CN=a\\,O=Admin");
        assert_eq!(common_name("a\\2C"), "CN=a\\\\2C");
    }

    proptest! {
        #[test]
        fn a_value_is_visible_ascii_and_can_be_read_back(text in "\\PC{0,20}|.{0,20}") {
            let written = escaped(&text);
            prop_assert!(written.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(written.trim_start(), written.as_str());
            let mut read = Vec::new();
            let mut bytes = written.bytes();
            while let Some(byte) = bytes.next() {
                match (byte, bytes.clone().next()) {
                    (b'\\', Some(digit)) if digit.is_ascii_hexdigit() => {
                        let pair: Vec<u8> = bytes.by_ref().take(2).collect();
                        let pair = std::str::from_utf8(&pair).unwrap();
                        read.push(u8::from_str_radix(pair, 16).unwrap());
                    }
                    (b'\\', _) => read.extend(bytes.next()),
                    _ => read.push(byte),
                }
            }
            prop_assert_eq!(read, text.as_bytes());
        }
    }
}
