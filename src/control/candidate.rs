//! From what the file or Consul says of a service's servers to addresses that may serve; what may not is refused by name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::bounds::{Bounds, Origin};
use super::claims::{Claims, Reader};
use super::consul::{Check, CheckStatus, Instance};
use super::mistake::{IGNORED, Mistake};
use crate::config::{ServerEntry, ServerHost, Tags, groups};
use crate::routing::{GroupName, Verdict};

/// The most that is kept of a signal's evidence, in bytes; more is cut.
pub const MAX_EVIDENCE: usize = 512;

/// One server as its source gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub address: SocketAddr,
    /// `address:port`; `name@address:port` if it was given by name.
    pub label: Arc<str>,
    pub host_name: Option<Arc<str>>,
    pub weight: u32,
    pub weight_warning: u32,
    pub group: Option<GroupName>,
    /// The routes that its tags ask for; None: none.
    pub claims: Option<Arc<Claims>>,
    pub word: Word,
}

/// What the source says of its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub verdict: Verdict,
    pub reason: &'static str,
    pub evidence: Arc<str>,
}

/// The reason of servers in Consul's maintenance mode: an operator's word, although Consul passes it on.
pub const MAINTENANCE: &str = "maintenance";

/// What is known of a host name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Of the last good answer, sorted.
    pub addresses: Vec<IpAddr>,
    /// Why the newest answer is not the last good one.
    pub error: Option<String>,
}

/// What came of reading a source: one candidate for an address, and what was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    pub by_address: BTreeMap<SocketAddr, Candidate>,
    pub mistakes: Vec<Mistake>,
    /// Host names that have to be resolved.
    pub names: BTreeSet<String>,
}

impl Candidates {
    /// Servers that a file or a document lists; `entry` is what a mistake names.
    pub fn listed(
        servers: &[ServerEntry],
        names: &BTreeMap<String, Resolution>,
        bounds: &Bounds,
        origin: Origin,
        entry: &str,
    ) -> Candidates {
        let mut found = Candidates::default();
        let word = Word {
            verdict: Verdict::Unknown,
            reason: "not_in_consul",
            evidence: "".into(),
        };
        for server in servers {
            let host = match &server.host {
                ServerHost::Ip(ip) => Given::Address(*ip),
                ServerHost::Name(name) => Given::Name(name),
            };
            let named = Named {
                entry: format!("{entry}/{}:{}", host.text(), server.port),
                port: server.port,
                weights: (server.weight, server.weight),
                group: server.group.clone(),
                claims: None,
                word: word.clone(),
            };
            found.take(host, named, names, bounds, origin);
        }
        found
    }

    /// Instances that Consul lists. Of several with one address the best status decides, but maintenance before all.
    pub fn in_consul(
        service: &str,
        instances: &[Instance],
        names: &BTreeMap<String, Resolution>,
        bounds: &Bounds,
        tags: &Tags,
    ) -> Candidates {
        let mut found = Candidates::default();
        let mut reader = Reader::new(tags);
        let mut ordered: Vec<&Instance> = instances.iter().collect();
        ordered.sort_by_key(|instance| match instance.status() {
            CheckStatus::Maintenance => 0,
            CheckStatus::Passing => 1,
            CheckStatus::Warning => 2,
            CheckStatus::Critical => 3,
        });
        for instance in ordered {
            let text = instance.address.trim();
            let host = match unbracketed(text).parse::<IpAddr>() {
                Ok(ip) => Given::Address(ip),
                Err(_) => Given::Name(text),
            };
            let entry = format!("consul:{service}/{text}:{}", instance.port);
            let (claims, weight) = reader.read(instance);
            let group = groups::of_instance(&instance.tags, instance.group.as_deref());
            let group = group.unwrap_or_else(|message| {
                let mistake = Mistake::new(entry.clone(), message, IGNORED);
                found.mistakes.push(mistake);
                None
            });
            let named = Named {
                entry,
                port: instance.port,
                weights: (
                    weight.unwrap_or(instance.weight_passing),
                    instance.weight_warning,
                ),
                group,
                claims: claims.map(Arc::new),
                word: word_of(instance),
            };
            found.take(host, named, names, bounds, Origin::Consul);
        }
        found.mistakes.extend(reader.mistakes(service));
        found
    }

    fn take(
        &mut self,
        host: Given<'_>,
        named: Named,
        names: &BTreeMap<String, Resolution>,
        bounds: &Bounds,
        origin: Origin,
    ) {
        match host {
            Given::Address(ip) => self.add(ip, None, named, bounds, origin),
            Given::Name(name) if !is_host_name(name) => {
                let message = format!("{name:?} is neither an address nor a host name");
                self.mistakes
                    .push(Mistake::new(named.entry, message, IGNORED));
            }
            Given::Name(name) => {
                self.names.insert(name.to_owned());
                let addresses = names.get(name).map_or(&[][..], |known| &known.addresses);
                for &ip in addresses {
                    self.add(ip, Some(name), named.clone(), bounds, origin);
                }
            }
        }
    }

    fn add(
        &mut self,
        ip: IpAddr,
        name: Option<&str>,
        named: Named,
        bounds: &Bounds,
        origin: Origin,
    ) {
        let address = SocketAddr::new(ip.to_canonical(), named.port);
        if let Some(message) = bounds.against(address, origin) {
            self.mistakes
                .push(Mistake::new(named.entry, message, IGNORED));
            return;
        }
        let label = match name {
            None => address.to_string(),
            Some(name) => format!("{name}@{address}"),
        };
        self.by_address.entry(address).or_insert_with(|| Candidate {
            address,
            label: label.into(),
            host_name: name.map(Arc::from),
            weight: named.weights.0,
            weight_warning: named.weights.1,
            group: named.group,
            claims: named.claims,
            word: named.word,
        });
    }
}

enum Given<'a> {
    Address(IpAddr),
    Name(&'a str),
}

impl Given<'_> {
    fn text(&self) -> String {
        match self {
            Given::Address(ip) => ip.to_string(),
            Given::Name(name) => (*name).to_owned(),
        }
    }
}

#[derive(Clone)]
struct Named {
    entry: String,
    port: u16,
    weights: (u32, u32),
    group: Option<GroupName>,
    claims: Option<Arc<Claims>>,
    word: Word,
}

fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text)
}

fn is_host_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let looks_like_ip = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (1..=253).contains(&text.len())
        && text.bytes().all(allowed)
        && !looks_like_ip
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
}

/// An instance's checks as a signal: the worst one speaks, with its name and output.
fn word_of(instance: &Instance) -> Word {
    let status = instance.status();
    let worst = instance.checks.iter().find(|check| check.status == status);
    let (verdict, reason) = match status {
        CheckStatus::Passing => (Verdict::Fit, "passing"),
        CheckStatus::Warning => (Verdict::Warning, "warning"),
        CheckStatus::Critical if is_only_its_node(&instance.checks) => {
            (Verdict::Unfit, "node_down")
        }
        CheckStatus::Critical => (Verdict::Unfit, "critical"),
        CheckStatus::Maintenance => (Verdict::Unfit, MAINTENANCE),
    };
    let evidence = worst.map_or_else(String::new, |check| {
        match (check.name.trim(), check.output.trim()) {
            ("", words) | (words, "") => words.to_owned(),
            (name, output) => format!("{name}: {output}"),
        }
    });
    Word {
        verdict,
        reason,
        evidence: cut(&evidence).into(),
    }
}

fn is_only_its_node(checks: &[Check]) -> bool {
    checks
        .iter()
        .filter(|check| check.status == CheckStatus::Critical)
        .all(|check| check.id == "serfHealth")
}

/// At most [`MAX_EVIDENCE`] bytes of a text, whole characters.
pub fn cut(text: &str) -> &str {
    if text.len() <= MAX_EVIDENCE {
        return text;
    }
    let end = (0..=MAX_EVIDENCE)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            own: vec![
                "0.0.0.0:8080".parse().unwrap(),
                "127.0.0.1:9900".parse().unwrap(),
            ],
            is_local: |ip| ip.is_loopback() || ip == "10.0.0.9".parse::<IpAddr>().unwrap(),
        }
    }

    fn instance(address: &str, port: u16, status: CheckStatus) -> Instance {
        Instance {
            node: "n".into(),
            id: "i".into(),
            address: address.into(),
            port,
            tags: vec![],
            group: None,
            weight_passing: 1,
            weight_warning: 1,
            checks: vec![Check {
                id: "service:i".into(),
                name: "its check".into(),
                status,
                output: "says so".into(),
            }],
            create_index: 1,
        }
    }

    fn read(instances: &[Instance]) -> Candidates {
        let tags = Tags::default();
        Candidates::in_consul("app", instances, &BTreeMap::new(), &bounds(), &tags)
    }

    #[test]
    fn addresses_that_no_server_may_have_are_refused_each_by_itself() {
        for (address, port, word) in [
            ("10.0.0.1", 0, "port 0"),
            ("", 80, "neither"),
            ("300.1.1.1", 80, "neither"),
            ("a b", 80, "neither"),
            ("0.0.0.0", 80, "unspecified"),
            ("::", 80, "unspecified"),
            ("224.0.0.1", 80, "multicast"),
            ("169.254.169.254", 80, "link-local"),
            ("fe80::1", 80, "link-local"),
            ("::1", 80, "loopback"),
            ("::ffff:169.254.1.1", 80, "link-local"),
            ("127.0.0.1", 9900, "own"),
            ("127.0.0.1", 8080, "own"),
            ("10.0.0.9", 8080, "own"),
            ("10.0.0.9", 22, "this machine's own"),
            ("fd00:ec2::254", 80, "metadata"),
            ("64:ff9b::a9fe:a9fe", 80, "link-local"),
        ] {
            let found = read(&[
                instance(address, port, CheckStatus::Passing),
                instance("10.0.0.2", 80, CheckStatus::Passing),
            ]);
            assert_eq!(found.by_address.len(), 1, "{address}:{port}");
            assert!(
                found.mistakes[0].message.contains(word),
                "{address}: {:?}",
                found.mistakes
            );
        }
    }

    #[test]
    fn allowed_loopback_bracketed_ipv6_and_names_are_taken() {
        let found = read(&[
            instance("127.0.0.1", 80, CheckStatus::Passing),
            instance("[2001:db8::1]", 80, CheckStatus::Passing),
            instance("app.internal", 80, CheckStatus::Passing),
        ]);
        assert_eq!(found.by_address.len(), 2);
        assert!(found.names.contains("app.internal") && found.mistakes.is_empty());
    }

    #[test]
    fn a_name_that_resolves_to_a_refused_address_is_refused_too() {
        let names = [(
            "evil.example".to_owned(),
            Resolution {
                addresses: vec!["169.254.169.254".parse().unwrap()],
                error: None,
            },
        )];
        let instances = [instance("evil.example", 80, CheckStatus::Passing)];
        let found = Candidates::in_consul(
            "app",
            &instances,
            &names.into(),
            &bounds(),
            &Tags::default(),
        );
        assert!(found.by_address.is_empty());
        assert!(found.mistakes[0].message.contains("link-local"));
    }

    #[test]
    fn of_several_instances_with_one_address_the_best_status_decides_but_maintenance_first() {
        use CheckStatus::{Critical, Maintenance, Passing};
        let verdict = |statuses: &[CheckStatus]| {
            let instances: Vec<_> = statuses
                .iter()
                .map(|&status| instance("10.0.0.1", 80, status))
                .collect();
            let found = read(&instances).by_address;
            assert_eq!(found.len(), 1);
            found.into_values().next().unwrap().word.reason
        };
        assert_eq!(verdict(&[Critical, Passing]), "passing");
        assert_eq!(verdict(&[Passing, Maintenance]), MAINTENANCE);
    }

    #[test]
    fn evidence_is_cut_at_a_whole_character() {
        let long = "é".repeat(400);
        assert_eq!(cut(&long).len(), 512);
        assert_eq!(cut(&format!("x{long}")).len(), 511);
    }
}
