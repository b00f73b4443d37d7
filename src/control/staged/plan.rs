//! What other documents would change against what is in force, as people read it. Pure.
//!
//! Both sides are models ([`Rehearsal`]): the one that hears the documents as they are, the other those that are staged besides. So
//! who wins, what is shadowed and what is doubted is found by the decisions that would follow, and by nothing written twice.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::SystemTime;

use super::live::Live;
use super::places::{Place, Places};
use crate::certs::CertStore;
use crate::config::{DomainName, RouteEntry, ServerSource, ServiceEntry};
use crate::control::acme::to_be_ordered;
use crate::control::member::Member;
use crate::control::mistake::Mistake;
use crate::control::model::{Model, Rehearsal};
use crate::control::service_state::ServiceState;
use crate::routing::staged::{
    Change, DocumentChange, Kind, Plan, RouteChange, ServerChange, ServiceChange, Staged, Traffic,
};
use crate::routing::{GroupName, Groups, HostPattern, Prefix, ServiceName};

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
    let (old, new) = (Places::of(&before), Places::of(&after));
    let routes = routes(&old, &new);
    let held = rehearsal.held().map(|why| {
        format!("documents are held: {why}; none that is written comes into force before rota accept documents")
    });
    let mut warnings: Vec<String> = held.into_iter().collect();
    warnings.extend(new_mistakes(&before, &after));
    warnings.extend(unserved(&before, &after, &routes));
    warnings.extend(hidden(&old, &new));
    warnings.extend(unrouted(&after, &documents));
    warnings.extend(unasked(&after));
    Plan {
        services: services(before.services(), after.services()),
        servers: servers((&before, &old), (&after, &new)),
        certificates: certificates(&before, &after, served, now),
        tuning: before.tuning() != after.tuning(),
        basis: live.basis(&staged.kinds),
        revision: None,
        documents,
        routes,
        warnings,
    }
}

type Services = BTreeMap<ServiceName, ServiceState>;

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
    let sources = (source(old), source(new));
    told(
        old.source != new.source,
        match sources.0 == sources.1 {
            true => "other servers".to_owned(),
            false => format!("{} instead of {}", sources.1, sources.0),
        },
    );
    told(
        old.protocol != new.protocol,
        format!("{:?} instead of {:?}", new.protocol, old.protocol).to_lowercase(),
    );
    told(
        old.groups != new.groups,
        shares(old.groups.as_ref(), new.groups.as_ref()),
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

/// Which groups would have other weights: `group blue 0 instead of 90, group green 10 instead of none`.
fn shares(old: Option<&Groups>, new: Option<&Groups>) -> String {
    let (Some(old), Some(new)) = (old, new) else {
        let pair = |(name, weight)| format!("{name} {weight}");
        let pairs: Vec<String> = new.into_iter().flat_map(Groups::iter).map(pair).collect();
        return match pairs.is_empty() {
            true => "no groups any more: all its servers are alike".to_owned(),
            false => format!("divided into groups: {}", pairs.join(", ")),
        };
    };
    let names: BTreeSet<&GroupName> = old.iter().chain(new.iter()).map(|(name, _)| name).collect();
    let said = |weight: Option<u32>| weight.map_or("none".to_owned(), |weight| weight.to_string());
    let others = names.into_iter().filter_map(|name| {
        let of = |groups: &Groups| groups.iter().find(|(own, _)| *own == name).map(|(_, w)| w);
        let (before, after) = (of(old), of(new));
        let words = || format!("group {name} {} instead of {}", said(after), said(before));
        (before != after).then(words)
    });
    others.collect::<Vec<_>>().join(", ")
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

fn routes(before: &Places<'_>, after: &Places<'_>) -> Vec<RouteChange> {
    let places: HashSet<Place<'_>> = before.iter().chain(after.iter()).collect();
    let changed = places.into_iter().filter_map(|place| {
        let (from, to) = (before.route_for(place), after.route_for(place));
        let service = |route: Option<&RouteEntry>| route.map(|route| route.service.to_string());
        let change = match (from, to) {
            (None, Some(_)) => Change::Added,
            (Some(_), None) => Change::Removed,
            (Some(from), Some(to)) if from.service != to.service => Change::Changed,
            _ => return None,
        };
        let is_elsewhere = |route: &&RouteEntry| (&route.host, &route.path) != place;
        let by = [from, to].into_iter().flatten().find(is_elsewhere);
        Some(RouteChange {
            host: place.0.to_string(),
            path: place.1.to_string(),
            change,
            from: service(from),
            to: service(to),
            by: by.map(|route| format!("{}{}", route.host, route.path)),
        })
    });
    let mut changed: Vec<RouteChange> = changed.collect();
    changed.sort_by(|a, b| (&a.host, &a.path).cmp(&(&b.host, &b.path)));
    changed
}

/// Hosts that would have routes of their own, and take from a wider one what none of these has.
fn hidden(before: &Places<'_>, after: &Places<'_>) -> Vec<String> {
    let root = Prefix::parse("/").expect("a slash is a path");
    let new = after.hosts().filter(|(host, _)| !before.has_host(host));
    let hiding = new.filter_map(|(host, routes)| {
        let has_root = routes.iter().any(|route| route.path == root);
        let hidden = after.otherwise((host, &root)).filter(|_| !has_root)?;
        let paths: BTreeSet<String> = routes.iter().map(|route| route.path.to_string()).collect();
        Some(format!(
            "{host}: all paths but {} would be answered with 404: the most specific host decides, and {}{} would not have them any more",
            few(paths.iter()),
            hidden.host,
            hidden.path
        ))
    });
    let mut hiding: Vec<String> = hiding.collect();
    hiding.sort();
    hiding
}

/// What of a service's requests a server gets: a share of those of these hosts and paths.
#[derive(PartialEq, Eq)]
struct Load<'a> {
    weight: u32,
    /// The share of its group in hundredths of a per cent; None: there are no groups.
    group: Option<u64>,
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
                let load = Load {
                    weight,
                    group: group_share(service, member),
                    places,
                };
                loads.insert(server, load);
            }
        }
    }
    loads
}

/// Of the groups that have somebody.
fn group_share(service: &ServiceState, member: &Member) -> Option<u64> {
    let groups = service.entry().groups.as_ref()?;
    let having: BTreeSet<&GroupName> = service
        .members()
        .values()
        .filter(|member| service.weight_of(member) > 0)
        .filter_map(|member| member.facts.group.as_ref())
        .collect();
    let weight = |group| u64::from(groups.weight_of(Some(group)));
    let sum: u64 = having.into_iter().map(weight).sum();
    let own = member.facts.group.as_ref().map_or(0, weight);
    Some(own * 10_000 / sum.max(1))
}

/// Which of these places each service has.
fn places<'a>(
    of: &Places<'a>,
    all: &HashSet<Place<'_>>,
) -> BTreeMap<&'a ServiceName, BTreeSet<String>> {
    let mut places: BTreeMap<&ServiceName, BTreeSet<String>> = BTreeMap::new();
    for place in all {
        if let Some(route) = of.route_for(*place) {
            let (host, path) = place;
            let of_service = places.entry(&route.service).or_default();
            of_service.insert(format!("{host}{path}"));
        }
    }
    places
}

fn servers(
    (before, old): (&Model, &Places<'_>),
    (after, new): (&Model, &Places<'_>),
) -> Vec<ServerChange> {
    let all: HashSet<Place<'_>> = old.iter().chain(new.iter()).collect();
    let (old_places, new_places) = (places(old, &all), places(new, &all));
    let (old, new) = (loads(before, &old_places), loads(after, &new_places));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let told = match (old.get(name), new.get(name)) {
            (None, Some(load)) => vec![(Traffic::Gains, few(load.places.iter()))],
            (Some(load), None) => vec![(Traffic::Loses, few(load.places.iter()))],
            (Some(old), Some(new)) => moves(old, new),
            (None, None) => Vec::new(),
        };
        changes.extend(told.into_iter().map(|(traffic, why)| ServerChange {
            server: name.clone(),
            traffic,
            why,
        }));
    }
    changes
}

/// What a server that stays would gain and lose.
fn moves(old: &Load<'_>, new: &Load<'_>) -> Vec<(Traffic, String)> {
    let mut told = Vec::new();
    let mut gained = new.places.difference(old.places).peekable();
    if gained.peek().is_some() {
        told.push((Traffic::Gains, few(gained)));
    }
    let mut lost = old.places.difference(new.places).peekable();
    if lost.peek().is_some() {
        told.push((Traffic::Loses, few(lost)));
    }
    let percent = |hundredths: u64| format!("{} %", hundredths as f64 / 100.0);
    let mut compare = |old: u64, new: u64, why: String| match new.cmp(&old) {
        Ordering::Greater => told.push((Traffic::Gains, why)),
        Ordering::Less => told.push((Traffic::Loses, why)),
        Ordering::Equal => {}
    };
    let weights = format!("weight {} instead of {}", new.weight, old.weight);
    compare(old.weight.into(), new.weight.into(), weights);
    if let (Some(before), Some(after)) = (old.group, new.group) {
        let shares = format!(
            "its group has {} of the requests instead of {}",
            percent(after),
            percent(before)
        );
        compare(before, after, shares);
    }
    told
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

/// Hosts that would come to a service without a single server: those that change, and those whose service has somebody now.
fn unserved(before: &Model, after: &Model, changes: &[RouteChange]) -> Vec<String> {
    let has_nobody = |model: &Model, service: &ServiceName| {
        model.services().get(service).is_some_and(|service| {
            let is_known = service.watch().is_none_or(|watch| model.has_answer(watch));
            is_known && service.members().is_empty() && service.names().is_empty()
        })
    };
    let moved: HashSet<(&str, &str)> = changes.iter().map(|it| (&*it.host, &*it.path)).collect();
    let mut hosts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for route in after.routes() {
        let (host, path) = (route.host.to_string(), route.path.to_string());
        let is_news =
            moved.contains(&(host.as_str(), path.as_str())) || !has_nobody(before, &route.service);
        if is_news && has_nobody(after, &route.service) {
            let of_service = hosts.entry(route.service.as_str()).or_default();
            of_service.push(format!("{host}{path}"));
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
