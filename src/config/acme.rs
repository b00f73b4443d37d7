//! `[acme]`: who issues certificates, how names are proven, and what seals them; `[[domain]]`: which names may have one.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::model::{
    Acme, Challenge, Directory, DnsHook, DomainEntry, DomainName, Eab, KeyType, Preflight,
};
use super::names::{LABEL, PLAIN_NAME, dns_name, label};
use super::section::{Section, path_in};
use super::written::Value;
use crate::routing::{Host, ServiceName};

pub(super) const KEYS: &[&str] = &[
    "directory",
    "ca_file",
    "profile",
    "eab",
    "fallback",
    "contact",
    "key_file",
    "preflight",
    "challenge",
    "dns_hook",
    "key_type",
    "domain_orders",
    "account_orders",
    "wait",
];

/// Of `[acme.fallback]`.
pub(super) const DIRECTORY_KEYS: &[&str] = &["directory", "ca_file", "profile", "eab"];

pub(super) const EAB: &[&str] = &["kid", "hmac_file"];

pub(super) const DOMAIN: &[&str] = &["name", "service"];

const DIRECTORY: &str = "\"https://HOST/PATH\", the URL of an ACME directory";
const CONTACT: &str = "\"mailto:NAME@HOST\"";
const NAME: &str = "a host name of two labels or more, such as \"shop.example.com\"";
const HOOK: &str = "a list of texts: a program's path and its arguments";

/// How long a handshake waits for a certificate; no CA is faster than a second, no client stays for a minute.
const WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Expiry notices need few readers; a CA takes hardly more.
const MAX_CONTACTS: usize = 10;
/// Parts of a hook's command line.
const MAX_ARGUMENTS: usize = 32;
/// Beyond it nobody's budget lies.
const MAX_ORDERS: usize = 1_000_000;
/// Let's Encrypt issues 50 certificates for a registered domain in a week, and renewals by ARI beside them; ten are left for orders
/// that others place for the same domain.
const DOMAIN_ORDERS: usize = 40;
/// Let's Encrypt takes 300 orders of an account in three hours; some are left for what is not counted here.
const ACCOUNT_ORDERS: usize = 250;

const PREFLIGHTS: [(&str, Preflight); 3] = [
    ("require", Preflight::Require),
    ("warn", Preflight::Warn),
    ("off", Preflight::Off),
];

const CHALLENGES: [Challenge; 3] = [Challenge::Http01, Challenge::TlsAlpn01, Challenge::Dns01];

const KEY_TYPES: [(&str, KeyType); 4] = [
    ("p256", KeyType::P256),
    ("p384", KeyType::P384),
    ("rsa2048", KeyType::Rsa2048),
    ("rsa4096", KeyType::Rsa4096),
];

/// Reads `[acme]`; a mistake leaves a default in its place, since the report refuses the whole.
pub(super) fn read(from: &Section<'_>) -> Acme {
    Acme {
        primary: read_directory(from),
        fallback: from
            .table("fallback", DIRECTORY_KEYS)
            .map(|table| read_directory(&table)),
        contact: read_contact(from),
        key_file: from.file("key_file"),
        preflight: from
            .word("preflight", &PREFLIGHTS)
            .unwrap_or(Preflight::Require),
        challenge: from
            .word("challenge", &CHALLENGES.map(|one| (one.word(), one)))
            .unwrap_or(Challenge::Http01),
        dns_hook: read_hook(from),
        key_type: from.word("key_type", &KEY_TYPES).unwrap_or(KeyType::P256),
        domain_orders: read_budget(from, "domain_orders", DOMAIN_ORDERS),
        account_orders: read_budget(from, "account_orders", ACCOUNT_ORDERS),
        wait: from
            .duration("wait", Duration::ZERO..=LONGEST_WAIT)
            .unwrap_or(WAIT),
    }
}

fn read_directory(from: &Section<'_>) -> Directory {
    from.need("directory", DIRECTORY);
    Directory {
        url: from
            .text("directory", DIRECTORY, directory)
            .unwrap_or_default(),
        ca_file: from.file("ca_file"),
        profile: from.text("profile", LABEL, label),
        eab: from.table("eab", EAB).and_then(|table| read_eab(&table)),
    }
}

fn read_eab(from: &Section<'_>) -> Option<Eab> {
    from.need("kid", "the key's name, as the CA gave it");
    from.need("hmac_file", "the path of a file with the key in base64url");
    Some(Eab {
        kid: from.text("kid", LABEL, label)?,
        hmac_file: from.file("hmac_file")?,
    })
}

/// A program without a slash is searched for along `PATH`, others are relative to the file.
fn read_hook(from: &Section<'_>) -> Option<DnsHook> {
    let parts = from.list("dns_hook", HOOK);
    if parts.len() > MAX_ARGUMENTS {
        from.blame_key(
            "dns_hook",
            format!("expected at most {MAX_ARGUMENTS} parts"),
        );
    }
    let text = |value: &Value| match value {
        Value::Text(text) if !text.contains('\0') => Some(text.clone()),
        _ => None,
    };
    let mut words = parts.iter().filter_map(|part| part.read("a text", text));
    let program = words.next().filter(|program| !program.is_empty());
    if program.is_none() && from.has("dns_hook") {
        from.blame_key("dns_hook", format!("expected {HOOK}"));
    }
    let program = program?;
    let program = match (program.contains('/'), from.directory()) {
        (true, Some(directory)) => path_in(directory, &program)?,
        (true, None) | (false, _) => program.into(),
    };
    Some(DnsHook {
        program,
        arguments: words.collect(),
    })
}

/// 0: no limit.
fn read_budget(from: &Section<'_>, key: &str, default: usize) -> Option<NonZeroUsize> {
    let orders = from.number(key, 0..=MAX_ORDERS);
    NonZeroUsize::new(orders.unwrap_or(default))
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

/// Reads a domain; None (and a mistake): its name is none that a certificate can have. `name` is the document's.
pub(super) fn read_domain(from: &Section<'_>, name: Option<&DomainName>) -> Option<DomainEntry> {
    if name.is_none() {
        from.need("name", NAME);
    }
    let service = from.text("service", PLAIN_NAME, ServiceName::parse);
    let given = from.text("name", NAME, DomainName::parse);
    if let (Some(document), Some(given)) = (name, &given)
        && document != given
    {
        from.blame_key(
            "name",
            format!("expected \"{document}\", the document's own name, or nothing"),
        );
    }
    let name = name.cloned().or(given)?;
    Some(DomainEntry { name, service })
}

/// The name that a key of KV stands for: itself, in any case; `_wildcard.z` is `*.z` for whoever cannot write `*` there.
pub(super) fn name_of_key(key: &str) -> Result<DomainName, String> {
    let name = DomainName::from_key_part(key).or_else(|| DomainName::parse(key));
    name.ok_or_else(|| format!("expected {NAME}"))
}

impl Challenge {
    /// As it is written in a file, and by CAs.
    pub fn word(self) -> &'static str {
        match self {
            Challenge::Http01 => "http-01",
            Challenge::TlsAlpn01 => "tls-alpn-01",
            Challenge::Dns01 => "dns-01",
        }
    }
}

impl Acme {
    /// How a name is proven.
    pub fn challenge_for(&self, name: &DomainName) -> Challenge {
        match name.is_wildcard() {
            true => Challenge::Dns01,
            false => self.challenge,
        }
    }

    /// The first one, then the other, if there is one.
    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        std::iter::once(&self.primary).chain(&self.fallback)
    }
}

/// In a key a wildcard's star is written so, since `*` is no letter of one.
const WILDCARD_PART: &str = "_wildcard.";

impl DomainName {
    /// A name that a CA issues for: letters, digits and inner hyphens (an internationalised name in its `xn--` form), at least two
    /// labels, no address; or `*.` and such a name. In lower case, without a trailing dot.
    pub fn parse(text: &str) -> Option<DomainName> {
        match text.strip_prefix("*.") {
            Some(zone) => Some(DomainName(format!("*.{}", issuable(zone)?).into())),
            None => Some(DomainName(issuable(text)?.into())),
        }
    }

    pub fn is_wildcard(&self) -> bool {
        self.as_str().starts_with("*.")
    }

    /// The name itself, or the zone that a wildcard is for.
    pub fn zone(&self) -> &str {
        self.as_str().trim_start_matches("*.")
    }

    /// Whether a certificate for this name is valid for the other one too.
    pub fn covers(&self, other: &DomainName) -> bool {
        let rest = other.as_str().split_once('.').map(|(_, rest)| rest);
        self == other || (self.is_wildcard() && rest == Some(self.zone()))
    }

    /// As it stands in keys and names of files: `*.example.com` is `_wildcard.example.com`.
    pub fn key_part(&self) -> String {
        match self.is_wildcard() {
            true => format!("{WILDCARD_PART}{}", self.zone()),
            false => self.as_str().to_owned(),
        }
    }

    /// The name that [`DomainName::key_part`] made this of.
    pub fn from_key_part(part: &str) -> Option<DomainName> {
        match part.strip_prefix(WILDCARD_PART) {
            Some(zone) => DomainName::parse(&format!("*.{zone}")),
            None => DomainName::parse(part).filter(|name| !name.is_wildcard()),
        }
    }
}

/// The name in lower case, if CAs issue for it.
fn issuable(text: &str) -> Option<String> {
    let name = dns_name(text)?;
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_name = name.contains('.') && name.split('.').all(is_label);
    is_name.then_some(name)
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
            ("*.Example.com.", "*.example.com"),
        ] {
            assert_eq!(DomainName::parse(text).unwrap().as_str(), name);
        }
        let long = format!("{}.test", "a".repeat(64));
        for text in [
            "",
            "localhost",
            "10.0.0.1",
            "[::1]",
            "*.test",
            "*.*.a.test",
            "*a.test",
            "a.*.test",
            "_wildcard.a.test",
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
    fn a_wildcard_has_a_zone_covers_one_label_and_is_a_key_without_a_star() {
        let name = |text: &str| DomainName::parse(text).unwrap();
        let wildcard = name("*.a.test");
        assert!(wildcard.is_wildcard() && !name("a.test").is_wildcard());
        assert_eq!(
            (wildcard.zone(), name("b.test").zone()),
            ("a.test", "b.test")
        );
        for (other, is_covered) in [
            ("*.a.test", true),
            ("x.a.test", true),
            ("a.test", false),
            ("x.y.a.test", false),
            ("x.b.test", false),
        ] {
            assert_eq!(wildcard.covers(&name(other)), is_covered, "{other}");
        }
        assert!(name("x.a.test").covers(&name("x.a.test")));
        assert!(!name("x.a.test").covers(&wildcard));
        for (name, part) in [(wildcard, "_wildcard.a.test"), (name("a.test"), "a.test")] {
            assert_eq!(name.key_part(), part);
            assert_eq!(DomainName::from_key_part(part), Some(name));
        }
        assert_eq!(DomainName::from_key_part("*.a.test"), None);
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
