//! Which names are to have certificates by ACME: what the file names, and what documents in KV add. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::sync::Held;
use crate::certs::{CertStore, Certificate};
use crate::config::{Acme, Config, DomainName};
use crate::control::documents::Documents;
use crate::routing::{HostPattern, Scheme};

/// The names that documents in KV add to the file's, as of one moment.
///
/// It is made from documents and from nothing else: who may register an instance in Consul's catalogue, and so write its tags, is not
/// who may have certificates ordered. Hosts from there have no way in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvNames {
    names: BTreeSet<DomainName>,
    /// Wildcards that this file has no way to prove: other load balancers of the pod may.
    of_others: BTreeSet<DomainName>,
    is_whole: bool,
}

impl KvNames {
    /// Those of documents in force: what is doubted stays, what is wrong has its last good version.
    pub fn of(documents: &Documents, acme: &Acme) -> KvNames {
        let routes = documents.routes.in_force();
        let hosts = routes.filter_map(|(_, route)| exact(&route.host));
        let domains = documents.domains.in_force();
        let domains = domains.map(|(_, domain)| domain.name.clone());
        let (domains, of_others): (BTreeSet<_>, _) =
            domains.partition(|name| can_prove(acme, name));
        KvNames {
            names: hosts.chain(domains).collect(),
            of_others,
            is_whole: documents.routes.is_answered() && documents.domains.is_answered(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &DomainName> {
        self.names.iter()
    }

    /// False until KV has said all it has: a name that is not here may still come, so nobody may lose a certificate over it.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }
}

/// Whether there is a way to prove the name: a wildcard's alone needs a program of the operator's.
pub fn can_prove(acme: &Acme, name: &DomainName) -> bool {
    !name.is_wildcard() || acme.dns_hook.is_some()
}

/// With neither Consul nor a state directory nothing would outlive the process, and nobody orders.
pub(super) fn in_use(config: &Config) -> Option<&Acme> {
    let can_keep = config.consul.is_some() || config.node.state_dir.is_some();
    config.acme.as_ref().filter(|_| can_keep)
}

/// The exact hosts of routes and the domains of the file, in its order.
pub(super) fn of_file(config: &Config) -> impl Iterator<Item = DomainName> {
    let hosts = config.routes.iter().filter_map(|route| exact(&route.host));
    hosts.chain(config.domains.iter().map(|domain| domain.name.clone()))
}

/// The certificates of a moment. What is not valid stands for nothing.
pub(super) struct Present<'a> {
    /// Of the file.
    pub(super) own: &'a CertStore,
    /// One's own, of the store: at every listener.
    pub(super) imported: &'a [&'a Arc<Certificate>],
    /// By ACME.
    pub(super) held: &'a BTreeMap<DomainName, Held>,
    pub(super) now: SystemTime,
}

impl Present<'_> {
    /// When the next of those begins or ends that stand for other names than one.
    pub(super) fn next_turn(&self) -> Option<SystemTime> {
        let zones = self.held.iter().filter(|(name, _)| name.is_wildcard());
        let zones = zones.map(|(_, held)| &held.certificate);
        let own = self.own.list().map(|(_, one)| one);
        let all = own.chain(self.imported.iter().copied()).chain(zones);
        let turns = all.map(|one| match self.now < one.not_before() {
            true => one.not_before(),
            false => one.not_after(),
        });
        turns.filter(|at| self.now <= *at).min()
    }

    fn holds_valid(&self, name: &DomainName) -> bool {
        let held = self.held.get(name);
        held.is_some_and(|held| held.certificate.is_valid(self.now))
    }

    /// Whether a name needs none because its zone is to have one. It keeps needing its own for as long as the zone has none yet, or one
    /// that is not valid. But a name without one waits for the zone's first: thousands would leave it no room in the domain's budget.
    fn zone_stands_for(&self, name: &DomainName, zone: &DomainName) -> bool {
        match self.held.get(zone) {
            Some(held) => held.certificate.is_valid(self.now),
            None => !self.held.contains_key(name),
        }
    }
}

/// Domains and the exact hosts of routes, of the file and of KV, but for those that certificates of one's own cover wherever clients
/// come in by tls (imported ones do everywhere), and those that a wildcard among them stands for: a zone is one certificate. A zone that
/// only others of the pod can prove is among them while there is a certificate for it, to be served and not to be ordered.
pub(super) fn wanted(config: &Config, kv: &KvNames, present: &Present<'_>) -> BTreeSet<DomainName> {
    let own = Own::of(config, present);
    let of_others = kv.of_others.iter().filter(|zone| present.holds_valid(zone));
    let named = of_file(config).chain(kv.iter().cloned());
    let named = named.chain(of_others.cloned());
    let named: BTreeSet<DomainName> = named.filter(|name| !own.has(name)).collect();
    let is_alone = |name: &&DomainName| {
        let zone = wildcard_of(name).filter(|zone| named.contains(zone));
        zone.is_none_or(|zone| !present.zone_stands_for(name, &zone))
    };
    named.iter().filter(is_alone).cloned().collect()
}

/// The wildcard that stands for a name, if there is a certificate for it; None: a wildcard's own name, or one that has none.
pub(super) fn wildcard_of(name: &DomainName) -> Option<DomainName> {
    let (_, parent) = name.as_str().split_once('.')?;
    let wildcard = (!name.is_wildcard()).then(|| format!("*.{parent}"))?;
    DomainName::parse(&wildcard)
}

/// Names that certificates would be ordered for if KV added these: those that none of `served` covers. Empty where nobody orders.
pub fn to_be_ordered(
    config: &Config,
    kv: &KvNames,
    served: &CertStore,
    now: SystemTime,
) -> BTreeSet<DomainName> {
    let present = Present {
        own: served,
        imported: &[],
        held: &BTreeMap::new(),
        now,
    };
    match in_use(config) {
        Some(_) => wanted(config, kv, &present),
        None => BTreeSet::new(),
    }
}

/// Whether any certificate of this file comes by ACME.
pub fn orders_any(config: &Config, own: &CertStore, now: SystemTime) -> bool {
    !to_be_ordered(config, &KvNames::default(), own, now).is_empty()
}

fn exact(host: &HostPattern) -> Option<DomainName> {
    match host {
        HostPattern::Exact(host) => DomainName::parse(host.as_str()),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    }
}

/// What certificates of one's own stand for at each listener with tls.
struct Own<'a> {
    listeners: Vec<Covered<'a>>,
    everywhere: Covered<'a>,
}

impl<'a> Own<'a> {
    fn of(config: &Config, present: &Present<'a>) -> Own<'a> {
        let listeners = config.listeners.iter();
        let with_tls = listeners.filter(|one| one.policy.scheme == Scheme::Https);
        Own {
            listeners: with_tls
                .map(|one| Covered::at(&one.policy.name, present))
                .collect(),
            everywhere: Covered::by(present.imported.iter().copied(), present.now),
        }
    }

    /// A listener that lacks it needs another one.
    fn has(&self, name: &DomainName) -> bool {
        let mut listeners = self.listeners.iter();
        let is_everywhere = self.everywhere.has(name);
        !self.listeners.is_empty() && listeners.all(|one| is_everywhere || one.has(name))
    }
}

/// What certificates of one listener stand for, so that a name is a look-up however many there are.
struct Covered<'a> {
    exact: HashSet<&'a str>,
    suffixes: HashSet<&'a str>,
}

impl<'a> Covered<'a> {
    fn at(listener: &str, present: &Present<'a>) -> Covered<'a> {
        let all = present.own.list();
        let of_it = all.filter(|(of, _)| ***of == *listener);
        Covered::by(of_it.map(|(_, certificate)| certificate), present.now)
    }

    fn by(all: impl Iterator<Item = &'a Arc<Certificate>>, now: SystemTime) -> Covered<'a> {
        let valid: Vec<_> = all.filter(|one| one.is_valid(now)).collect();
        let suffixes = valid.iter().flat_map(|one| one.wildcard_suffixes());
        Covered {
            exact: valid.iter().flat_map(|one| one.exact_names()).collect(),
            suffixes: suffixes.collect(),
        }
    }

    /// A wildcard stands for one label.
    fn has(&self, name: &DomainName) -> bool {
        let name = name.as_str();
        let parent = name.split_once('.').map_or("", |(_, parent)| parent);
        self.exact.contains(name) || self.suffixes.contains(parent)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::records::{self, CertificateRecord};
    use super::super::sync::read_certificate;
    use super::*;
    use crate::control::consul::Subtree;
    use crate::control::tests::World;

    const NONE: BTreeMap<DomainName, Held> = BTreeMap::new();

    fn present<'a>(own: &'a CertStore, imported: &'a [&'a Arc<Certificate>]) -> Present<'a> {
        Present {
            own,
            imported,
            held: const { &NONE },
            now: SystemTime::now(),
        }
    }

    /// Of the listener "web".
    fn own(names: &[&str]) -> CertStore {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let mut store = CertStore::builder();
        let added = store.add_pem(&"web".into(), chain.as_bytes(), key.as_bytes(), "own");
        added.unwrap();
        store.build(SystemTime::now())
    }

    const ACME: &str =
        "[acme]\ndirectory = \"https://ca.test/dir\"\nkey_file = \"/k\"\ndns_hook = [\"/hook\"]\n";
    const WEB: &str =
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:443\"\nprotocol = \"https\"\n";

    fn wanted_of(rest: &str, domains: &[&str], own: &CertStore) -> Vec<String> {
        let mut world = World::with_consul(&format!("{ACME}{rest}"));
        let documents: Vec<_> = domains.iter().map(|name| (*name, "", 1)).collect();
        world.documents(Subtree::Domains, &documents);
        let config = world.model.file().clone();
        let wanted = wanted(&config, world.model.kv_names(), &present(own, &[]));
        wanted.iter().map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn a_wildcard_zone_is_one_certificate() {
        let names = [
            "*.pod.test",
            "a.pod.test",
            "b.pod.test",
            "a.b.pod.test",
            "pod.test",
        ];
        let nothing = CertStore::builder().build(SystemTime::now());
        assert_eq!(
            wanted_of(WEB, &names, &nothing),
            ["*.pod.test", "a.b.pod.test", "pod.test"]
        );
        // One of one's own stands for the zone, and for nothing that a listener lacks.
        assert_eq!(
            wanted_of(WEB, &names, &own(&["*.pod.test"])),
            ["a.b.pod.test", "pod.test"]
        );
    }

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    /// By ACME, until this moment.
    fn held(text: &str, not_after: SystemTime) -> (DomainName, Held) {
        let mut params = rcgen::CertificateParams::new([text.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        let since = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since;
        let key = rcgen::KeyPair::generate().unwrap();
        let record = CertificateRecord {
            chain: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
            directory: "https://ca.test/dir".into(),
        };
        let held = read_certificate(&name(text), &records::write(&record));
        (name(text), held.unwrap())
    }

    #[test]
    fn a_name_needs_its_own_certificate_until_its_zone_has_one_and_again_once_that_has_ended() {
        let hosts = ["*.pod.test", "a.pod.test", "b.pod.test"];
        let mut world = World::with_consul(&format!("{ACME}{WEB}"));
        let documents: Vec<_> = hosts.iter().map(|name| (*name, "", 1)).collect();
        world.documents(Subtree::Domains, &documents);
        let config = world.model.file().clone();
        let nothing = CertStore::builder().build(SystemTime::now());
        let now = SystemTime::now();
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        let mut all = BTreeMap::from([held("a.pod.test", now + hour)]);
        let wanted_at = |all: &BTreeMap<DomainName, Held>, now| {
            let present = Present {
                held: all,
                now,
                ..present(&nothing, &[])
            };
            let wanted = wanted(&config, world.model.kv_names(), &present);
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            (wanted.join(" "), present.next_turn())
        };
        // b.pod.test has none and waits for the zone's.
        let before = "*.pod.test a.pod.test".to_owned();
        assert_eq!(wanted_at(&all, now), (before.clone(), None));
        assert_eq!(wanted_at(&all, now + 2 * hour), (before, None));
        all.extend([held("*.pod.test", now + day)]);
        let (with_zone, end) = wanted_at(&all, now);
        assert_eq!(with_zone, "*.pod.test");
        let end = end.unwrap();
        assert!(end > now + day - Duration::from_secs(2) && end <= now + day);
        let after = end + Duration::from_secs(1);
        assert_eq!(wanted_at(&all, after), (hosts.join(" "), None));
    }

    #[test]
    fn a_zone_that_only_others_can_prove_is_wanted_while_they_have_a_certificate_for_it() {
        let without_hook = ACME.replace("dns_hook = [\"/hook\"]\n", "");
        let mut world = World::with_consul(&format!("{without_hook}{WEB}"));
        let documents = ["*.pod.test", "a.pod.test"].map(|name| (name, "", 1));
        world.documents(Subtree::Domains, &documents);
        let config = world.model.file().clone();
        let (nothing, now) = (
            CertStore::builder().build(SystemTime::now()),
            SystemTime::now(),
        );
        let zone = BTreeMap::from([held("*.pod.test", now + Duration::from_secs(60))]);
        for (held, at, expected) in [
            (&NONE, now, "a.pod.test"),
            (&zone, now, "*.pod.test"),
            (&zone, now + Duration::from_secs(61), "a.pod.test"),
        ] {
            let present = Present {
                held,
                now: at,
                ..present(&nothing, &[])
            };
            let wanted = wanted(&config, world.model.kv_names(), &present);
            assert_eq!(wanted, BTreeSet::from([name(expected)]));
        }
    }

    #[test]
    fn one_of_ones_own_that_has_ended_keeps_nothing_from_being_ordered() {
        let (_, zone) = held("*.kv.test", SystemTime::now() - Duration::from_secs(60));
        let mut world = World::with_consul(&format!("{ACME}{WEB}"));
        world.documents(Subtree::Domains, &[("a.kv.test", "", 1)]);
        let config = world.model.file().clone();
        let nothing = CertStore::builder().build(SystemTime::now());
        let mut of_web = CertStore::builder();
        of_web.add(&"web".into(), zone.certificate.clone());
        let of_web = of_web.build(SystemTime::now());
        let imported = [&zone.certificate];
        for present in [present(&nothing, &imported), present(&of_web, &[])] {
            let wanted = wanted(&config, world.model.kv_names(), &present);
            assert_eq!(wanted, BTreeSet::from([name("a.kv.test")]));
            assert_eq!(present.next_turn(), None);
        }
    }

    #[test]
    fn a_certificate_of_ones_own_keeps_no_name_from_another_listener() {
        let inner = WEB.replace("web", "inner").replace("443", "8443");
        let own = own(&["own.test"]);
        assert!(wanted_of(WEB, &["own.test"], &own).is_empty());
        assert_eq!(
            wanted_of(&format!("{WEB}{inner}"), &["own.test"], &own),
            ["own.test"]
        );
    }

    #[test]
    fn what_was_imported_keeps_its_names_from_being_ordered_at_every_listener() {
        let inner = WEB.replace("web", "inner").replace("443", "8443");
        let names = ["a.kv.test", "b.a.kv.test", "kv.test", "own.test"];
        let mut world = World::with_consul(&format!("{ACME}{WEB}{inner}"));
        let documents: Vec<_> = names.iter().map(|name| (*name, "", 1)).collect();
        world.documents(Subtree::Domains, &documents);
        let config = world.model.file().clone();
        let (of_web, imported) = (own(&["own.test"]), own(&["*.kv.test", "kv.test"]));
        let imported: Vec<_> = imported.list().map(|(_, one)| one).collect();
        let left = wanted(
            &config,
            world.model.kv_names(),
            &present(&of_web, &imported),
        );
        let left: Vec<&str> = left.iter().map(DomainName::as_str).collect();
        assert_eq!(left, ["b.a.kv.test", "own.test"]);
    }

    #[test]
    fn names_of_the_file_and_of_kv_are_wanted_but_for_those_that_have_a_certificate_of_their_own() {
        let text = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:443\"\nprotocol = \"https\"\n[acme]\ndirectory = \"https://ca.test/dir\"\nkey_file = \"/k\"\n[[domain]]\nname = \"file.test\"\n\
                    [[route]]\nhost = \"www.own.test\"\nservice = \"app\"\n[[route]]\nhost = \"a.b.own.test\"\nservice = \"app\"\n";
        let mut world = World::with_consul(text);
        world.documents(
            Subtree::Domains,
            &[
                ("kv.test", "", 1),
                ("exact.test", "", 2),
                ("own.test", "", 3),
            ],
        );
        let config = world.model.file().clone();
        let own = own(&["exact.test", "*.own.test"]);
        let wanted = wanted(&config, world.model.kv_names(), &present(&own, &[]));
        let wanted: Vec<&str> = wanted.iter().map(DomainName::as_str).collect();
        assert_eq!(wanted, ["a.b.own.test", "file.test", "kv.test", "own.test"]);
    }
}
