//! What other documents would change against what is in force, as people read it. Pure.
//!
//! Both sides are models ([`Rehearsal`]): the one that hears the documents as they are, the other those that are staged besides. So
//! who wins, what is shadowed and what is doubted is found by the decisions that would follow, and by nothing written twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use super::live::Live;
use crate::certs::CertStore;
use crate::config::{DomainName, RouteEntry, ServerSource, ServiceEntry};
use crate::control::acme::to_be_ordered;
use crate::control::mistake::Mistake;
use crate::control::model::{Model, Rehearsal};
use crate::control::service_state::ServiceState;
use crate::routing::staged::{
    Change, DocumentChange, Kind, Plan, RouteChange, ServerChange, ServiceChange, Staged, Traffic,
};
use crate::routing::{HostPattern, Prefix, ServiceName};

/// Hosts that one warning names; more are counted.
const NAMED: usize = 3;

/// Compares what is in force with what would be.
pub fn plan(
    rehearsal: &Rehearsal,
    live: &Live,
    staged: &Staged,
    served: &CertStore,
    now: SystemTime,
) -> Plan {
    let heard = live.answers();
    let before = rehearsal.after(heard.clone(), now);
    let staged_too = heard.into_iter().chain(live.answers_with(staged));
    let after = rehearsal.after(staged_too.collect(), now);
    let documents = live.changes(staged);
    let routes = routes(&before, &after);
    let mut warnings = new_mistakes(&before, &after);
    warnings.extend(unserved(&after, &routes));
    warnings.extend(unrouted(&after, &documents));
    warnings.extend(unasked(&after));
    Plan {
        services: services(before.services(), after.services()),
        servers: servers(&before, &after),
        certificates: certificates(&before, &after, served, now),
        tuning: before.tuning() != after.tuning(),
        basis: live.basis(&staged.kinds),
        documents,
        routes,
        warnings,
    }
}

type Services = BTreeMap<ServiceName, ServiceState>;
type Place<'a> = (&'a HostPattern, &'a Prefix);

fn services(before: &Services, after: &Services) -> Vec<ServiceChange> {
    let names: BTreeSet<&ServiceName> = before.keys().chain(after.keys()).collect();
    let changed = names.into_iter().filter_map(|name| {
        let (change, how) = match (before.get(name), after.get(name)) {
            (None, Some(new)) => (Change::Added, vec![source(new.entry())]),
            (Some(_), None) => (Change::Removed, Vec::new()),
            (Some(old), Some(new)) => match differences(old, new) {
                how if how.is_empty() => return None,
                how => (Change::Changed, how),
            },
            (None, None) => return None,
        };
        Some(ServiceChange {
            name: name.to_string(),
            change,
            how,
        })
    });
    changed.collect()
}

/// In what two versions of a service differ; empty: in nothing.
fn differences(old: &ServiceState, new: &ServiceState) -> Vec<String> {
    let (origins, old, new) = ((old.origin(), new.origin()), old.entry(), new.entry());
    let mut how = Vec::new();
    let mut told = |is_so: bool, words: String| how.extend(is_so.then_some(words));
    told(
        origins.0 != origins.1,
        format!("from {} instead of {}", origins.1, origins.0),
    );
    told(
        old.source != new.source,
        format!("{} instead of {}", source(new), source(old)),
    );
    told(
        old.protocol != new.protocol,
        format!("{:?} instead of {:?}", new.protocol, old.protocol).to_lowercase(),
    );
    told(
        old.groups != new.groups,
        "other shares of its groups".to_owned(),
    );
    told(old.active != new.active, "another probe".to_owned());
    told(old.retry != new.retry, "another retry".to_owned());
    told(old.tls != new.tls, "another tls".to_owned());
    told(
        old.pool != new.pool,
        format!("pool {} instead of {}", new.pool, old.pool),
    );
    let is_equal = **old == **new;
    if how.is_empty() && !is_equal {
        how.push("other settings".to_owned());
    }
    how
}

fn source(entry: &ServiceEntry) -> String {
    match &entry.source {
        ServerSource::Servers(servers) => match servers.len() {
            1 => "1 server".to_owned(),
            count => format!("{count} servers"),
        },
        ServerSource::Consul(watch) => {
            let tag = watch.tag.as_ref().map(|tag| format!(" tagged {tag}"));
            let datacenter = watch.datacenter.as_ref().map(|dc| format!(" in {dc}"));
            format!(
                "consul's {}{}{}",
                watch.service,
                tag.unwrap_or_default(),
                datacenter.unwrap_or_default()
            )
        }
    }
}

fn by_place(model: &Model) -> HashMap<Place<'_>, &ServiceName> {
    let routes = model.routes().iter();
    routes
        .map(|route| ((&route.host, &route.path), &route.service))
        .collect()
}

fn routes(before: &Model, after: &Model) -> Vec<RouteChange> {
    let (old, new) = (by_place(before), by_place(after));
    let places: HashSet<Place<'_>> = old.keys().chain(new.keys()).copied().collect();
    let changed = places.into_iter().filter_map(|place| {
        let (from, to) = (old.get(&place), new.get(&place));
        let change = match (from, to) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (from, to) if from != to => Change::Changed,
            _ => return None,
        };
        Some(RouteChange {
            host: place.0.to_string(),
            path: place.1.to_string(),
            change,
            from: from.map(ToString::to_string),
            to: to.map(ToString::to_string),
        })
    });
    let mut changed: Vec<RouteChange> = changed.collect();
    changed.sort_by(|a, b| (&a.host, &a.path).cmp(&(&b.host, &b.path)));
    changed
}

/// What of a service's requests a server gets: a share of those of these hosts and paths.
#[derive(PartialEq, Eq)]
struct Load<'a> {
    weight: u32,
    places: &'a BTreeSet<String>,
}

/// Servers that take turns for at least one route, by service and label.
fn loads<'a>(
    model: &Model,
    places: &'a BTreeMap<&ServiceName, BTreeSet<String>>,
) -> BTreeMap<String, Load<'a>> {
    let mut loads = BTreeMap::new();
    for (name, service) in model.services() {
        let Some(places) = places.get(name) else {
            continue;
        };
        for member in service.members().values() {
            let weight = member.facts.weight;
            if weight > 0 && service.weight_of(member) > 0 {
                let server = format!("{name}/{}", member.facts.label);
                loads.insert(server, Load { weight, places });
            }
        }
    }
    loads
}

fn places(model: &Model) -> BTreeMap<&ServiceName, BTreeSet<String>> {
    let mut places: BTreeMap<&ServiceName, BTreeSet<String>> = BTreeMap::new();
    for route in model.routes() {
        let place = format!("{}{}", route.host, route.path);
        places.entry(&route.service).or_default().insert(place);
    }
    places
}

fn servers(before: &Model, after: &Model) -> Vec<ServerChange> {
    let (old_places, new_places) = (places(before), places(after));
    let (old, new) = (loads(before, &old_places), loads(after, &new_places));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let mut tell = |traffic, why: String| {
            changes.push(ServerChange {
                server: name.clone(),
                traffic,
                why,
            });
        };
        match (old.get(name), new.get(name)) {
            (None, Some(load)) => tell(Traffic::Gains, few(load.places.iter())),
            (Some(load), None) => tell(Traffic::Loses, few(load.places.iter())),
            (Some(old), Some(new)) if old != new => {
                let mut gained = new.places.difference(old.places).peekable();
                if gained.peek().is_some() {
                    tell(Traffic::Gains, few(gained));
                }
                let mut lost = old.places.difference(new.places).peekable();
                if lost.peek().is_some() {
                    tell(Traffic::Loses, few(lost));
                }
                let weights = format!("weight {} instead of {}", new.weight, old.weight);
                match new.weight.cmp(&old.weight) {
                    std::cmp::Ordering::Greater => tell(Traffic::Gains, weights),
                    std::cmp::Ordering::Less => tell(Traffic::Loses, weights),
                    std::cmp::Ordering::Equal => {}
                }
            }
            _ => {}
        }
    }
    changes
}

/// The first of some names, and how many more there are.
fn few<'a>(mut names: impl Iterator<Item = &'a String>) -> String {
    let first: Vec<&str> = names.by_ref().take(NAMED).map(String::as_str).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn certificates(before: &Model, after: &Model, served: &CertStore, now: SystemTime) -> Vec<String> {
    let of = |model: &Model| to_be_ordered(model.file(), model.kv_names(), served, now);
    let known = of(before);
    let wanted: Vec<DomainName> = of(after).into_iter().collect();
    let new = wanted.iter().filter(|name| !known.contains(name));
    new.map(ToString::to_string).collect()
}

/// What would be wrong and is not now, without what every document's place begins with.
fn new_mistakes(before: &Model, after: &Model) -> Vec<String> {
    let key = |mistake: &Mistake| (mistake.entry.clone(), mistake.message.clone());
    let known: HashSet<(String, String)> = before.mistakes().iter().map(key).collect();
    let root = format!("kv:{}/config/", after.prefix().unwrap_or_default());
    let new = after.mistakes().into_iter();
    let new = new.filter(|mistake| !known.contains(&key(mistake)));
    new.map(|mistake| {
        let entry = mistake.entry.strip_prefix(&root).unwrap_or(&mistake.entry);
        let message = mistake.message.replace(&root, "");
        format!("{entry}: {message} (in force: {})", mistake.in_force)
    })
    .collect()
}

/// Hosts that would come to a service without a single server.
fn unserved(after: &Model, routes: &[RouteChange]) -> Vec<String> {
    let mut hosts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for route in routes {
        let Some(to) = &route.to else { continue };
        let has_nobody = after.services().get(to.as_str()).is_some_and(|service| {
            let is_known = service.watch().is_none_or(|watch| after.has_answer(watch));
            is_known && service.members().is_empty() && service.names().is_empty()
        });
        if has_nobody {
            let place = format!("{}{}", route.host, route.path);
            hosts.entry(to).or_default().push(place);
        }
    }
    let warning = |(service, hosts): (&str, Vec<String>)| {
        format!(
            "nobody would serve {}: service {service} has no server",
            few(hosts.iter())
        )
    };
    hosts.into_iter().map(warning).collect()
}

/// Domains that may have a certificate and that no route knows.
fn unrouted(after: &Model, documents: &[DocumentChange]) -> Vec<String> {
    let has_route = |name: &DomainName| after.routes().iter().any(|route| serves(route, name));
    let written = documents.iter().filter_map(|document| {
        let is_there = document.change != Change::Removed;
        let (kind, name) = Kind::parted(&document.path).filter(|_| is_there)?;
        (kind == Kind::Domains).then_some((
            &document.path,
            DomainName::from_key_part(name).or_else(|| DomainName::parse(name))?,
        ))
    });
    let unrouted = written.filter(|(_, name)| !has_route(name));
    unrouted
        .map(|(path, name)| format!("{path}: no route serves {name}: it is answered with 404"))
        .collect()
}

fn serves(route: &RouteEntry, name: &DomainName) -> bool {
    let name = name.as_str();
    match &route.host {
        HostPattern::Any => true,
        HostPattern::Exact(host) => host.as_str() == name,
        HostPattern::Wildcard(suffix) => name
            .strip_suffix(suffix.as_str())
            .is_some_and(|rest| rest.ends_with('.')),
    }
}

/// Services whose servers are not known, so that nothing can be said of them.
fn unasked(after: &Model) -> Vec<String> {
    let services = after.services().values();
    let unasked = services.filter(|service| {
        service
            .watch()
            .is_some_and(|watch| !after.has_answer(watch))
    });
    let name = |service: &ServiceState| {
        let name = &service.entry().name;
        format!("services/{name}: consul has not said which servers it has")
    };
    unasked.map(name).collect()
}
