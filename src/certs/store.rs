//! All certificates, by listener and name: one immutable value, replaced as a whole. Hot path: looked up at each handshake.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;

use super::certificate::Certificate;
use super::challenge::{Challenges, HttpProof, Pending};
use super::mistake::{CertMistake, CertWarning};
use super::terms::Terms;

/// The longest name DNS can carry (RFC 1035 section 2.3.4), in octets; a longer one is nobody's.
const MAX_NAME_LEN: usize = 253;

/// The certificates of every listener. Looking one up costs two hashes at most, however many there are, and allocates nothing.
#[derive(Debug, Default)]
pub struct CertStore {
    listeners: BTreeMap<Arc<str>, Shelf>,
    challenges: Challenges,
    warnings: Vec<CertWarning>,
}

/// One listener's certificates.
#[derive(Debug, Default)]
struct Shelf {
    terms: Terms,
    /// As configured.
    all: Vec<Arc<Certificate>>,
    /// For clients without SNI; None: they are refused.
    default: Option<Arc<Certificate>>,
    exact: HashMap<Box<str>, Arc<Certificate>>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Arc<Certificate>>,
}

impl CertStore {
    pub fn builder() -> CertStoreBuilder {
        CertStoreBuilder::default()
    }

    /// The certificate that a client of `listener` is served: by SNI (any case), exact before wildcard; without SNI the first that was
    /// read for the listener, or what [`CertStore::with_defaults`] found. None: nobody has the name, or there is no such certificate.
    pub fn certificate(&self, listener: &str, sni: Option<&str>) -> Option<&Arc<Certificate>> {
        let shelf = self.listeners.get(listener)?;
        match sni {
            Some(name) => shelf.by_name(name),
            None => shelf.default.as_ref(),
        }
    }

    /// Whether [`CertStore::certificate`] has one.
    pub fn knows(&self, listener: &str, sni: Option<&str>) -> bool {
        self.certificate(listener, sni).is_some()
    }

    /// What a listener asks of its clients; None: it is unknown.
    pub fn terms(&self, listener: &str) -> Option<&Terms> {
        self.listeners.get(listener).map(|shelf| &shelf.terms)
    }

    /// Every certificate with its listener, listeners by name, certificates as configured.
    pub fn list(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Certificate>)> {
        self.listeners
            .iter()
            .flat_map(|(listener, shelf)| shelf.all.iter().map(move |one| (listener, one)))
    }

    /// What a CA is to be answered, if this is its question.
    pub fn http_proof(&self, host: &str, path_and_query: &str) -> HttpProof {
        self.challenges.http(host, path_and_query)
    }

    /// The settings of a handshake by which a CA is shown a proof for this name, in lower case; None: none is pending.
    pub(super) fn tls_proof(&self, name: &str) -> Option<&Arc<ServerConfig>> {
        self.challenges.tls(name)
    }

    /// For a name, in lower case, that [`CertStore::knows`] not: whether it may have a certificate. None: it is a stranger's.
    pub(super) fn pending(&self, name: &str) -> Option<Pending> {
        self.challenges.pending(name)
    }

    /// This store with further certificates on some listeners, whose names it does not have already, and with what can be proven. None
    /// of them is for clients without SNI.
    pub fn joined<'a>(
        &self,
        listeners: &[Arc<str>],
        others: impl Iterator<Item = &'a Arc<Certificate>> + Clone,
        challenges: Challenges,
        now: SystemTime,
    ) -> CertStore {
        let mut builder = CertStore::builder();
        for (listener, shelf) in &self.listeners {
            builder.listener(listener);
            builder.terms(listener, shelf.terms.clone());
            for own in &shelf.all {
                builder.add(listener, own.clone());
            }
        }
        for listener in listeners {
            for other in others.clone() {
                builder.put(listener, other.clone());
            }
        }
        builder.store.challenges = challenges;
        builder.build(now)
    }

    /// This store with a certificate for clients without SNI at each listener that has none of its own for them: that of the first of
    /// these names that has one.
    pub fn with_defaults<'a>(mut self, names: impl Iterator<Item = &'a str> + Clone) -> CertStore {
        for shelf in self.listeners.values_mut() {
            if shelf.default.is_none() {
                let found = names.clone().find_map(|name| shelf.by_name(name));
                shelf.default = found.cloned();
            }
        }
        self
    }

    /// What is served but doubtful, as found when the store was made.
    pub fn warnings(&self) -> &[CertWarning] {
        &self.warnings
    }
}

impl Shelf {
    fn by_name(&self, sni: &str) -> Option<&Arc<Certificate>> {
        // rustls gives names in lower case; others are folded on the stack so that no caller need know.
        let mut folded = [0; MAX_NAME_LEN];
        let name = if sni.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let room = folded.get_mut(..sni.len())?;
            room.copy_from_slice(sni.as_bytes());
            room.make_ascii_lowercase();
            std::str::from_utf8(room).ok()?
        } else {
            sni
        };
        if let Some(exact) = self.exact.get(name) {
            return Some(exact);
        }
        let (label, rest) = name.split_once('.')?;
        if label.is_empty() {
            return None;
        }
        self.wildcards.get(rest)
    }

    /// Gives each name to the first certificate that has it, those that are not valid now last.
    fn share_out(&mut self, now: SystemTime) -> Vec<CertWarning> {
        let all = self.all.iter().cloned();
        let (valid, others): (Vec<_>, Vec<_>) = all.partition(|one| one.is_valid(now));
        let mut warnings = Vec::new();
        for certificate in valid.iter().chain(&others) {
            for (name, by) in self.claim(certificate, now) {
                warnings.push(CertWarning::NameTaken {
                    path: certificate.source().into(),
                    name,
                    by: by.source().into(),
                });
            }
        }
        warnings
    }

    /// The names that others have, and who.
    fn claim(
        &mut self,
        certificate: &Arc<Certificate>,
        now: SystemTime,
    ) -> Vec<(String, Arc<Certificate>)> {
        let mut taken = Vec::new();
        for name in certificate.exact_names() {
            let parent = name.split_once('.').map_or("", |(_, parent)| parent);
            // One that is not valid goes behind a wildcard that is, too.
            let zone = self.wildcards.get(parent);
            let zone = zone.filter(|zone| !certificate.is_valid(now) && zone.is_valid(now));
            let by = zone
                .cloned()
                .or_else(|| claim(&mut self.exact, name, certificate));
            taken.extend(by.map(|by| (name.to_owned(), by)));
        }
        for suffix in certificate.wildcard_suffixes() {
            let by = claim(&mut self.wildcards, suffix, certificate);
            taken.extend(by.map(|by| (format!("*.{suffix}"), by)));
        }
        taken
    }
}

/// Collects certificates; of those that are valid what is added first wins a name. What is added first of all serves clients without
/// SNI.
#[derive(Debug, Default)]
pub struct CertStoreBuilder {
    store: CertStore,
}

impl CertStoreBuilder {
    /// Makes a listener known; without a certificate it refuses all handshakes.
    pub fn listener(&mut self, listener: &Arc<str>) -> &mut Self {
        self.store.listeners.entry(listener.clone()).or_default();
        self
    }

    /// What a listener asks of its clients; by default all that it may ask for is nothing.
    pub(super) fn terms(&mut self, listener: &Arc<str>, terms: Terms) {
        self.store
            .listeners
            .entry(listener.clone())
            .or_default()
            .terms = terms;
    }

    /// Adds a certificate to a listener.
    pub fn add(&mut self, listener: &Arc<str>, certificate: Arc<Certificate>) -> &mut Self {
        let shelf = self.put(listener, certificate.clone());
        shelf.default.get_or_insert(certificate);
        self
    }

    /// Adds one for its names alone.
    fn put(&mut self, listener: &Arc<str>, certificate: Arc<Certificate>) -> &mut Shelf {
        let shelf = self.store.listeners.entry(listener.clone()).or_default();
        shelf.all.push(certificate);
        shelf
    }

    /// Adds a certificate from PEM texts that are in no file; `source` stands for the path in messages and status.
    pub fn add_pem(
        &mut self,
        listener: &Arc<str>,
        chain: &[u8],
        key: &[u8],
        source: &str,
    ) -> Result<&mut Self, CertMistake> {
        let source = Path::new(source);
        let certificate = Certificate::from_pem(chain, key, source, source)?;
        Ok(self.add(listener, Arc::new(certificate)))
    }

    pub(super) fn warn(&mut self, warning: CertWarning) {
        self.store.warnings.push(warning);
    }

    /// The store; `now` decides what is expired or not yet valid, which is served where nothing valid is.
    pub fn build(self, now: SystemTime) -> CertStore {
        let mut store = self.store;
        for shelf in store.listeners.values_mut() {
            store.warnings.append(&mut shelf.share_out(now));
        }
        let mut doubtful: Vec<CertWarning> = store
            .list()
            .filter_map(|(_, certificate)| CertWarning::of_validity(certificate, now))
            .collect();
        store.warnings.append(&mut doubtful);
        store
    }
}

/// Puts a certificate in for a name; gives the other certificate that has the name already.
fn claim(
    names: &mut HashMap<Box<str>, Arc<Certificate>>,
    name: &str,
    certificate: &Arc<Certificate>,
) -> Option<Arc<Certificate>> {
    match names.get(name) {
        Some(by) if Arc::ptr_eq(by, certificate) => None,
        Some(by) => Some(by.clone()),
        None => {
            names.insert(name.into(), certificate.clone());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{made, made_for};
    use super::*;

    fn store(certificates: &[&[&str]]) -> CertStore {
        let mut builder = CertStore::builder();
        for names in certificates {
            builder.add(&"tls".into(), Arc::new(made(names).certificate()));
        }
        builder.build(SystemTime::now())
    }

    fn first_name(store: &CertStore, sni: Option<&str>) -> Option<String> {
        store
            .certificate("tls", sni)
            .and_then(|certificate| certificate.names().next())
    }

    #[test]
    fn an_exact_name_wins_over_a_wildcard_and_no_sni_gets_the_first() {
        let store = store(&[&["first.test"], &["*.example.com"], &["a.example.com"]]);
        let found = |sni| first_name(&store, sni);
        assert_eq!(found(None).unwrap(), "first.test");
        assert_eq!(found(Some("a.example.com")).unwrap(), "a.example.com");
        assert_eq!(found(Some("A.Example.COM")).unwrap(), "a.example.com");
        assert_eq!(found(Some("b.example.com")).unwrap(), "*.example.com");
        assert_eq!(found(Some("B.EXAMPLE.com")).unwrap(), "*.example.com");
    }

    #[test]
    fn a_name_that_nobody_has_finds_nothing() {
        let store = store(&[&["*.example.com"]]);
        let long = "A".repeat(5000);
        for sni in ["example.com", "a.b.example.com", ".example.com", "", &long] {
            assert!(!store.knows("tls", Some(sni)), "{sni}");
        }
        assert!(!store.knows("other", None));
        assert!(!store.knows("other", Some("a.example.com")));
    }

    #[test]
    fn the_first_to_have_a_name_serves_it_and_the_other_is_warned_of() {
        let store = store(&[&["a.test"], &["b.test", "a.test"]]);
        assert_eq!(first_name(&store, Some("a.test")).unwrap(), "a.test");
        assert_eq!(store.warnings().len(), 1, "{:?}", store.warnings());
        assert!(store.warnings()[0].to_string().contains("a.test"));
        assert_eq!(store.list().count(), 2);
    }

    #[test]
    fn further_certificates_come_after_ones_own() {
        let own = store(&[&["own.test", "both.test"]]);
        let other = Arc::new(made(&["other.test", "both.test"]).certificate());
        let (listeners, now) = (["tls".into(), "more".into()], SystemTime::now());
        let joined = own.joined(&listeners, [&other].into_iter(), Challenges::default(), now);
        let found = |sni| first_name(&joined, sni);
        assert_eq!(found(None).unwrap(), "own.test");
        assert_eq!(found(Some("both.test")).unwrap(), "own.test");
        assert_eq!(found(Some("other.test")).unwrap(), "other.test");
        assert!(joined.knows("more", Some("both.test")));
        assert!(!own.knows("tls", Some("other.test")));
    }

    #[test]
    fn without_sni_a_further_certificate_is_served_only_if_its_name_was_said_to_stand_for_all() {
        let own = store(&[&["own.test"]]);
        let further = [&["000.customer"], &["*.pod.test"], &["shop.test"]];
        let further = further.map(|names| Arc::new(made(names).certificate()));
        let (listeners, now) = (["tls".into(), "more".into()], SystemTime::now());
        let served = |names: &[&str]| {
            let joined = own.joined(&listeners, further.iter(), Challenges::default(), now);
            let store = joined.with_defaults(names.iter().copied());
            let name_at = |listener| {
                let found = store.certificate(listener, None)?;
                assert!(store.knows(listener, None));
                found.names().next()
            };
            (name_at("tls").unwrap(), name_at("more"))
        };
        let own = || "own.test".to_owned();
        assert_eq!(served(&[]), (own(), None));
        assert_eq!(served(&["not-yet.test"]), (own(), None));
        let shop = Some("shop.test".to_owned());
        assert_eq!(served(&["not-yet.test", "shop.test"]), (own(), shop));
        let zone = Some("*.pod.test".to_owned());
        assert_eq!(served(&["*.pod.test", "shop.test"]), (own(), zone.clone()));
        assert_eq!(served(&["a.pod.test"]), (own(), zone));
    }

    #[test]
    fn one_that_is_not_valid_is_served_only_where_no_other_one_is() {
        let names = ["both.test", "a.zone.test", "alone.test"];
        let ended = Arc::new(made_for(&names, 2020..2021).certificate());
        let early = Arc::new(made_for(&["both.test", "*.zone.test"], 2100..2101).certificate());
        let valid = [&["both.test"], &["*.zone.test"]];
        let valid = valid.map(|names| Arc::new(made(names).certificate()));
        let mut builder = CertStore::builder();
        for certificate in [&ended, &early, &valid[0], &valid[1]] {
            builder.add(&"tls".into(), certificate.clone());
        }
        let store = builder.build(SystemTime::now());
        for (sni, served) in [
            (Some("both.test"), &valid[0]),
            (Some("a.zone.test"), &valid[1]),
            (Some("alone.test"), &ended),
            (None, &ended),
        ] {
            let found = store.certificate("tls", sni).unwrap();
            assert!(Arc::ptr_eq(found, served), "{sni:?}: {found:?}");
        }
        assert_eq!(store.list().count(), 4);
    }

    #[test]
    fn an_expired_certificate_is_served_with_a_warning() {
        let mut builder = CertStore::builder();
        let certificate = Arc::new(made(&["a.test"]).certificate());
        let later = certificate.not_after() + std::time::Duration::from_secs(3 * 86_400);
        builder.add(&"tls".into(), certificate);
        let store = builder.build(later);
        assert!(store.knows("tls", Some("a.test")));
        assert!(
            store.warnings()[0]
                .to_string()
                .contains("expired 3 days ago")
        );
    }

    /// `cargo test --release --lib -- --ignored --nocapture bytes_a_certificate`
    #[test]
    #[ignore = "it prints figures, of a process that does nothing else"]
    fn bytes_a_certificate_and_nanoseconds_a_lookup() {
        let texts: Vec<_> = (0..5000)
            .map(|number| made(&[&format!("host-{number}.test")]))
            .collect();
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
            pages * 4096
        };
        let time = |store: &CertStore| {
            let begun = std::time::Instant::now();
            for _ in 0..100_000 {
                assert!(store.knows("tls", Some("host-5.test")));
                assert!(!store.knows("tls", Some("nobody.test")));
            }
            begun.elapsed().as_nanos() / 200_000
        };
        let of = |texts: &[super::super::fixture::Made]| {
            let mut builder = CertStore::builder();
            for one in texts {
                builder.add(&"tls".into(), Arc::new(one.certificate()));
            }
            builder.build(SystemTime::now())
        };
        let few = of(&texts[..10]);
        let (before, begun) = (resident(), std::time::Instant::now());
        let store = of(&texts);
        let (took, bytes) = (begun.elapsed(), (resident() - before) / texts.len());
        println!("{bytes} bytes a certificate with a key of its own; 5,000 in {took:?}");
        println!(
            "a lookup: {} ns of 10, {} ns of 5,000",
            time(&few),
            time(&store)
        );
    }
}
