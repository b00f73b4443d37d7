//! `[acme]`: who issues certificates, and what seals them; `[[domain]]`: which names may have one.

use super::model::{Acme, DomainEntry, DomainName, Preflight};
use super::names::{PLAIN_NAME, dns_name};
use super::section::Section;
use super::written::Value;
use crate::routing::{Host, ServiceName};

pub(super) const KEYS: &[&str] = &["directory", "ca_file", "contact", "key_file", "preflight"];

pub(super) const DOMAIN: &[&str] = &["name", "service"];

const DIRECTORY: &str = "\"https://HOST/PATH\", the URL of an ACME directory";
const CONTACT: &str = "\"mailto:NAME@HOST\"";
const NAME: &str = "a host name of two labels or more, such as \"shop.example.com\"";

/// Expiry notices need few readers; a CA takes hardly more.
const MAX_CONTACTS: usize = 10;

const PREFLIGHTS: [(&str, Preflight); 3] = [
    ("require", Preflight::Require),
    ("warn", Preflight::Warn),
    ("off", Preflight::Off),
];

/// Reads `[acme]`; a mistake leaves a default in its place, since the report refuses the whole.
pub(super) fn read(from: &Section<'_>) -> Acme {
    from.need("directory", DIRECTORY);
    Acme {
        directory: from
            .text("directory", DIRECTORY, directory)
            .unwrap_or_default(),
        ca_file: from.file("ca_file"),
        contact: read_contact(from),
        key_file: from.file("key_file"),
        preflight: from
            .word("preflight", &PREFLIGHTS)
            .unwrap_or(Preflight::Require),
    }
}

fn read_contact(from: &Section<'_>) -> Vec<String> {
    let parts = from.list("contact", &format!("a list of {CONTACT}"));
    if parts.len() > MAX_CONTACTS {
        from.blame_key("contact", format!("expected at most {MAX_CONTACTS}"));
    }
    parts
        .iter()
        .filter_map(|part| {
            part.read(CONTACT, |value| match value {
                Value::Text(text) => contact(text),
                _ => None,
            })
        })
        .collect()
}

/// Plain http is refused: the directory says where the account's key signs what.
fn directory(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://")?;
    let authority = rest.split('/').next().unwrap_or_default();
    Host::parse(authority).ok()?;
    let is_fine = text.bytes().all(|b| b.is_ascii_graphic())
        && text.len() <= 2048
        && !text.contains(['?', '#']);
    is_fine.then(|| text.to_owned())
}

/// One address and no header fields (RFC 8555 section 7.3).
fn contact(text: &str) -> Option<String> {
    let (name, host) = text.strip_prefix("mailto:")?.split_once('@')?;
    let is_plain = |text: &str| !text.is_empty() && !text.contains([',', '?', ':', '"', '<', '>']);
    let is_fine = text.len() <= 320
        && text.bytes().all(|b| b.is_ascii_graphic())
        && is_plain(name)
        && is_plain(host);
    (is_fine && Host::parse(host).is_ok()).then(|| text.to_owned())
}

/// Reads a domain; None (and a mistake): its name is none that a certificate can have.
pub(super) fn read_domain(from: &Section<'_>) -> Option<DomainEntry> {
    from.need("name", NAME);
    let service = from.text("service", PLAIN_NAME, ServiceName::parse);
    if from
        .quiet_text("name")
        .is_some_and(|name| name.starts_with("*."))
    {
        from.blame_key(
            "name",
            "a wildcard is proven by dns-01, which is not in this version: name a certificate of your own in [[listener]] certificates",
        );
        return None;
    }
    let name = from.text("name", NAME, DomainName::parse)?;
    Some(DomainEntry { name, service })
}

impl DomainName {
    /// A name that a CA issues for: letters, digits and inner hyphens (an internationalised name in its `xn--` form), at least two
    /// labels, no address. In lower case, without a trailing dot.
    pub fn parse(text: &str) -> Option<DomainName> {
        let name = dns_name(text)?;
        let is_label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
        };
        let is_name = name.contains('.') && name.split('.').all(is_label);
        is_name.then_some(DomainName(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_what_a_ca_issues_for() {
        for (text, name) in [
            ("Shop.Example.com", "shop.example.com"),
            ("xn--bcher-kva.example.", "xn--bcher-kva.example"),
            ("a-1.b2.test", "a-1.b2.test"),
        ] {
            assert_eq!(DomainName::parse(text).unwrap().as_str(), name);
        }
        let long = format!("{}.test", "a".repeat(64));
        for text in [
            "",
            "localhost",
            "10.0.0.1",
            "[::1]",
            "*.a.test",
            "a_b.test",
            "-a.test",
            "a-.test",
            "a..test",
            "a.test:443",
            "a.test/",
            "bücher.example",
            &long,
        ] {
            assert!(DomainName::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_contact_is_one_address_and_a_directory_is_an_https_url() {
        assert!(contact("mailto:ops@example.com").is_some());
        for text in [
            "ops@example.com",
            "mailto:ops",
            "mailto:@example.com",
            "mailto:a@b,c@d",
            "mailto:a@b?subject=x",
            "tel:1",
            "mailto:a b@c",
            "mailto:ops@example.com:25",
        ] {
            assert!(contact(text).is_none(), "{text}");
        }
        assert!(directory("https://127.0.0.1:14000/dir").is_some());
        for text in [
            "",
            "http://ca.test/dir",
            "https://",
            "https://u@ca.test/",
            "https://ca.test/a b",
            "ca.test",
        ] {
            assert!(directory(text).is_none(), "{text}");
        }
    }
}
