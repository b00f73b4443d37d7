//! What a CA is shown as proof that names are ours: http-01 (RFC 8555 section 8.3) and tls-alpn-01 (RFC 8737); and which names those
//! are. Hot path only for its own path and protocol, and for handshakes without a certificate.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;

use super::proof::Proof;

/// Where a CA asks. Nothing below it is ever carried to a server while certificates are ordered.
pub const PATH: &str = "/.well-known/acme-challenge/";
/// Characters of a token; a CA's have 43.
const MAX_TOKEN: usize = 128;

/// What can be proven at this moment. Default: nothing, since nothing is ordered.
#[derive(Clone, Debug, Default)]
pub struct Challenges {
    /// Of the account's key: with it any token of the account is answered, whoever ordered.
    thumbprint: Option<Box<str>>,
    /// Lower case.
    names: HashSet<Arc<str>>,
    /// Those of `names` that are wildcards, by what follows `*.`.
    wildcards: HashMap<Box<str>, Arc<str>>,
    /// By name.
    proofs: HashMap<Arc<str>, Proof>,
    wait: Duration,
    /// By name: until when nobody orders it.
    rests: HashMap<Arc<str>, SystemTime>,
}

/// A name that may have a certificate and has none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// As it is ordered, so perhaps a wildcard.
    pub(super) name: Arc<str>,
    /// How long a handshake waits for it.
    pub(super) wait: Duration,
    /// Until when nobody orders it, after a failure.
    rests_until: Option<SystemTime>,
}

impl Pending {
    /// Whether nobody orders it before who waits from `now` on has waited in vain.
    pub(super) fn rests(&self, now: SystemTime) -> bool {
        self.rests_until
            .is_some_and(|until| until >= now + self.wait)
    }
}

/// What is to be said to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpProof {
    /// It is a request like any other.
    NotAsked,
    Proven(String),
    /// No CA asks so, or not about a name that may have a certificate.
    Refused,
}

impl Challenges {
    /// Takes the names that may have a certificate, in lower case, wildcards among them; what is pending by tls-alpn-01; and how
    /// long the handshake of a client waits for a certificate that is not there yet, 0: not at all.
    pub fn new(
        thumbprint: Option<&str>,
        names: impl IntoIterator<Item = Arc<str>>,
        proofs: impl IntoIterator<Item = Proof>,
        wait: Duration,
    ) -> Challenges {
        let names: HashSet<Arc<str>> = names.into_iter().collect();
        let suffix = |name: &Arc<str>| Some((name.strip_prefix("*.")?.into(), name.clone()));
        let named = |proof: Proof| (proof.name().clone(), proof);
        Challenges {
            thumbprint: thumbprint.map(Into::into),
            wildcards: names.iter().filter_map(suffix).collect(),
            names,
            proofs: proofs.into_iter().map(named).collect(),
            wait,
            rests: HashMap::new(),
        }
    }

    /// With names that nobody orders before a moment, since something went wrong: nobody waits for them in vain.
    pub fn resting(self, rests: impl IntoIterator<Item = (Arc<str>, SystemTime)>) -> Challenges {
        Challenges {
            rests: rests.into_iter().collect(),
            ..self
        }
    }

    /// The settings of a handshake in which a CA is shown the proof for this name; None: none is pending.
    pub(super) fn tls(&self, name: &str) -> Option<&Arc<ServerConfig>> {
        self.proofs.get(name).map(Proof::settings)
    }

    /// Takes a name in lower case; None: it may not have a certificate.
    pub(super) fn pending(&self, name: &str) -> Option<Pending> {
        let exact = self.names.get(name);
        let wildcard = || self.wildcards.get(name.split_once('.')?.1);
        let name = exact.or_else(wildcard)?.clone();
        Some(Pending {
            rests_until: self.rests.get(&name).copied(),
            name,
            wait: self.wait,
        })
    }

    fn answer(&self, host: &str, token: &str) -> HttpProof {
        let is_token = (1..=MAX_TOKEN).contains(&token.len())
            && token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        match &self.thumbprint {
            Some(thumbprint) if is_token && self.names.contains(host) => {
                HttpProof::Proven(format!("{token}.{thumbprint}"))
            }
            Some(_) | None => HttpProof::Refused,
        }
    }

    /// Takes a host as routes mean it and the path as it was sent.
    pub(super) fn http(&self, host: &str, path_and_query: &str) -> HttpProof {
        match path_and_query.strip_prefix(PATH) {
            Some(token) if !self.names.is_empty() => self.answer(host, token),
            Some(_) | None => HttpProof::NotAsked,
        }
    }
}

/// Whether a request may be a CA's, so that it is worth asking.
pub fn is_challenge(path_and_query: &str) -> bool {
    path_and_query.starts_with(PATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_for_a_name_that_may_have_a_certificate_and_for_no_other() {
        let challenges = Challenges::new(Some("thumb"), ["a.test".into()], [], Duration::ZERO);
        let asked = |host: &str, path: &str| challenges.http(host, path);
        let proof = HttpProof::Proven("to-k_en1.thumb".into());
        assert_eq!(
            asked("a.test", "/.well-known/acme-challenge/to-k_en1"),
            proof
        );
        let long = format!("/.well-known/acme-challenge/{}", "a".repeat(129));
        for (host, path) in [
            ("b.test", "/.well-known/acme-challenge/token"),
            ("a.test", "/.well-known/acme-challenge/"),
            ("a.test", "/.well-known/acme-challenge/../secret"),
            ("a.test", "/.well-known/acme-challenge/token?x"),
            ("a.test", &long),
        ] {
            assert_eq!(asked(host, path), HttpProof::Refused, "{host} {path}");
        }
        let other = "/.well-known/acme-challenger/token";
        assert_eq!(asked("a.test", other), HttpProof::NotAsked);
    }

    #[test]
    fn a_name_that_rests_for_longer_than_anybody_waits_is_waited_for_by_nobody() {
        let (wait, now) = (Duration::from_secs(5), SystemTime::now());
        let names = ["a.test".into(), "*.b.test".into(), "c.test".into()];
        let rests = [
            ("a.test".into(), now + wait),
            ("*.b.test".into(), now + wait * 9),
            ("c.test".into(), now + wait / 2),
        ];
        let challenges = Challenges::new(None, names, [], wait).resting(rests);
        let rests = |name, at| challenges.pending(name).unwrap().rests(at);
        assert!(rests("a.test", now) && rests("x.b.test", now));
        assert!(!rests("c.test", now), "it is ordered while somebody waits");
        assert!(!rests("a.test", now + wait / 5));
    }

    #[test]
    fn without_orders_the_path_is_like_any_other() {
        let none = Challenges::default();
        let path = "/.well-known/acme-challenge/token";
        assert_eq!(none.http("a.test", path), HttpProof::NotAsked);
        let no_account = Challenges::new(None, ["a.test".into()], [], Duration::ZERO);
        assert_eq!(no_account.http("a.test", path), HttpProof::Refused);
    }

    #[test]
    fn a_name_is_pending_if_it_or_its_wildcard_may_have_a_certificate() {
        let wait = Duration::from_secs(5);
        let names = ["a.test".into(), "*.b.test".into()];
        let challenges = Challenges::new(None, names, [], wait);
        let pending = |name| challenges.pending(name).map(|one| one.name.to_string());
        assert_eq!(pending("a.test").unwrap(), "a.test");
        assert_eq!(pending("x.b.test").unwrap(), "*.b.test");
        assert_eq!(challenges.pending("a.test").unwrap().wait, wait);
        for name in ["b.test", "x.y.b.test", "x.a.test", "test", ""] {
            assert_eq!(pending(name), None, "{name}");
        }
    }
}
