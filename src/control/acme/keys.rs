//! Where what is shared for ACME lies: keys of the store, by name, directory and registered domain. Pure.

use crate::config::DomainName;
use crate::seal::Digest;

/// Of certificates, by shard; watched as one prefix.
pub const INDEX: &str = "acme/index/";
/// Pending proofs by tls-alpn-01, by name; watched as one prefix.
pub(super) const PROOFS: &str = "acme/proofs/";
/// What each live load balancer has in force; watched as one prefix.
pub(super) const NODES: &str = "nodes/";
/// The account's key, one for all directories. Its thumbprint is taken from here and from nowhere in the clear: who can write KV
/// must not have us answer for an account of his own.
pub(super) const ACCOUNT_KEY: &str = "acme/account/key";
/// An id that is written once: another one, or none, is another pod's, or that of a store that lost its state.
pub(super) const POD: &str = "pod";
/// Held by who makes the key or an account.
pub(super) const ACCOUNT_LOCK: &str = "acme/locks/account";

/// Orders of each registered domain, below each directory.
const DOMAIN_BUDGETS: &str = "acme/budget/domain/";
/// Hex digits of a directory's name.
const DIRECTORY_DIGITS: usize = 16;

/// Certificates, by name.
pub(super) const CERTIFICATES: &str = "acme/certs/";

pub(super) fn certificate(name: &DomainName) -> String {
    format!("{CERTIFICATES}{}", name.key_part())
}

/// The name that [`certificate`] made this of.
pub(super) fn name_of_certificate(key: &str) -> Option<DomainName> {
    DomainName::from_key_part(key.strip_prefix(CERTIFICATES)?)
}

/// The index shard that has a name.
pub fn shard(name: &DomainName) -> String {
    format!("{INDEX}{}", shard_digit(name))
}

/// The first hex digit of the name's SHA-256.
pub(super) fn shard_digit(name: &DomainName) -> char {
    let digits = Digest::of(name.as_str().as_bytes()).to_hex();
    digits.chars().next().expect("there are 64 digits")
}

/// Held by who orders for a name.
pub(super) fn lock(name: &DomainName) -> String {
    format!("acme/locks/{}", name.key_part())
}

pub(super) fn order(name: &DomainName) -> String {
    format!("acme/orders/{}", name.key_part())
}

pub(super) fn attempts(name: &DomainName) -> String {
    format!("acme/attempts/{}", name.key_part())
}

pub(super) fn proof(name: &DomainName) -> String {
    format!("{PROOFS}{}", name.key_part())
}

pub(super) fn account(directory: &str) -> String {
    format!("acme/account/{}", directory_digits(directory))
}

pub(super) fn account_budget(directory: &str) -> String {
    format!("acme/budget/account/{}", directory_digits(directory))
}

/// Each CA counts for itself: what was tried at one leaves the other's allowance alone.
pub(super) fn domain_budget(directory: &str, registered: &str) -> String {
    let directory = directory_digits(directory);
    format!("{DOMAIN_BUDGETS}{directory}/{registered}")
}

/// The registered domain that a budget is of; None: it is an account's.
pub(super) fn domain_of_budget(key: &str) -> Option<&str> {
    let (_, registered) = key.strip_prefix(DOMAIN_BUDGETS)?.split_once('/')?;
    Some(registered)
}

fn directory_digits(directory: &str) -> String {
    let mut digits = Digest::of(directory.as_bytes()).to_hex();
    digits.truncate(DIRECTORY_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_the_design_says() {
        let name = DomainName::parse("shop.example.com").unwrap();
        assert_eq!(certificate(&name), "acme/certs/shop.example.com");
        assert_eq!(lock(&name), "acme/locks/shop.example.com");
        // printf shop.example.com | sha256sum
        assert_eq!(shard(&name), "acme/index/9");
        // printf https://ca.test/dir | sha256sum
        assert_eq!(
            account("https://ca.test/dir"),
            "acme/account/3f0f069f145c3cbd"
        );
    }
}
