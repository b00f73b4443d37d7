//! What an order counts against at a CA: the week of its registered domain, and the hours of the account. Pure.

use std::time::Duration;

use crate::config::DomainName;

/// Let's Encrypt counts certificates of a registered domain over so long, and refuses the 51st. `acme.domain_orders` says how many of
/// them rota begins; beyond it a name waits until the oldest is out of the window.
pub const DOMAIN_SPAN: Duration = Duration::from_secs(7 * 24 * 3600);
/// Let's Encrypt counts an account's orders over so long, and refuses the 301st. `acme.account_orders` says how many rota begins.
pub const ACCOUNT_SPAN: Duration = Duration::from_secs(3 * 3600);

/// What somebody registered: one label more than the public suffix, by the list of public suffixes as it was when this version was
/// built, its private part included, as CAs count. A name that is a public suffix itself is its own.
pub fn registered_domain(name: &DomainName) -> &str {
    let zone = name.zone();
    psl::domain_str(zone).unwrap_or(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_domain_is_one_label_more_than_its_public_suffix() {
        for (name, registered) in [
            ("example.com", "example.com"),
            ("a.b.example.com", "example.com"),
            ("*.example.com", "example.com"),
            ("www.example.co.uk", "example.co.uk"),
            ("*.shop.example.co.uk", "example.co.uk"),
            // Of the list's private part: each of its customers counts alone.
            ("someone.github.io", "someone.github.io"),
            ("a.someone.github.io", "someone.github.io"),
            ("github.io", "github.io"),
            // A wildcard in the list, and an exception from it.
            ("a.b.city.ck", "b.city.ck"),
            ("x.www.ck", "www.ck"),
            // Of no list: the last label is the suffix.
            ("a.b.pod.test", "pod.test"),
            ("www.xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            let parsed = DomainName::parse(name).unwrap();
            assert_eq!(registered_domain(&parsed), registered, "{name}");
        }
    }
}
