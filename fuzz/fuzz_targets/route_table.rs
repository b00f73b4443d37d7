//! The route table against a reader that looks at every route: the same route for every request, the same losers.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rota::routing::{HostPattern, NoRoute, Prefix, Route, RouteTable, Service};
use rota_fuzz::forwarded::service;

#[derive(Arbitrary, Debug)]
struct Case {
    routes: Vec<(Vec<u8>, bool, Vec<u8>)>,
    requests: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A small alphabet, so that requests meet routes: labels `a`, `b`, `c`, `ab`.
fn words<'a>(choice: &'a [u8]) -> impl Iterator<Item = &'static str> + 'a {
    choice
        .iter()
        .map(|byte| ["a", "b", "c", "ab"][usize::from(byte % 4)])
}

fn host(choice: &[u8]) -> String {
    words(&choice[..choice.len().min(5)])
        .collect::<Vec<_>>()
        .join(".")
}

fn path(choice: &[u8]) -> String {
    words(&choice[..choice.len().min(24)]).fold(String::new(), |path, word| path + "/" + word)
}

fn route(
    number: usize,
    (at, is_wildcard, below): &(Vec<u8>, bool, Vec<u8>),
    service: &Arc<Service>,
) -> Arc<Route> {
    let pattern = match (host(at), is_wildcard) {
        (name, _) if name.is_empty() => "*".to_owned(),
        (name, true) => format!("*.{name}"),
        (name, false) => name,
    };
    let prefix = path(below) + "/";
    Arc::new(Route {
        name: number.to_string().into(),
        host: HostPattern::parse(&pattern).expect("made of plain labels"),
        path: Prefix::parse(&prefix).expect("made of plain segments"),
        service: service.clone(),
        number: number as u32,
    })
}

/// How specific a pattern is for a host: exact above wildcards, longer wildcards above shorter, `*` last.
fn fit(pattern: &HostPattern, host: &str) -> Option<usize> {
    match pattern {
        HostPattern::Exact(name) => (name.as_str() == host).then_some(usize::MAX),
        HostPattern::Wildcard(suffix) => {
            let is_below = host
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.ends_with('.'));
            is_below.then(|| suffix.as_str().len())
        }
        HostPattern::Any => Some(0),
    }
}

fn naive<'a>(routes: &'a [Arc<Route>], host: &str, path: &str) -> Result<&'a Arc<Route>, NoRoute> {
    let best = routes
        .iter()
        .filter_map(|r| fit(&r.host, host))
        .max()
        .ok_or(NoRoute::Host)?;
    let of_host = routes.iter().filter(|r| fit(&r.host, host) == Some(best));
    let of_path = of_host.filter(|r| r.path.has(path));
    of_path
        .max_by_key(|r| r.path.as_key().len())
        .ok_or(NoRoute::Path)
}

fuzz_target!(|case: Case| {
    let service = service();
    let all: Vec<_> = case
        .routes
        .iter()
        .enumerate()
        .map(|(n, r)| route(n, r, &service))
        .collect();
    let (table, losers) = RouteTable::build(all.iter().cloned());
    let is_loser = |r: &Arc<Route>| losers.iter().any(|l| l.number == r.number);
    let (lost, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(is_loser);
    for loser in &lost {
        let is_claimed = |r: &&Arc<Route>| {
            r.number < loser.number && r.host == loser.host && r.path == loser.path
        };
        assert!(
            kept.iter().find(is_claimed).is_some(),
            "the earlier of two equal claims wins"
        );
    }
    assert_eq!(table.routes().count(), kept.len());
    for (at, below) in &case.requests {
        let (host, path) = (host(at), path(below) + "/");
        for path in [path.as_str(), path.trim_end_matches('/')] {
            let path = if path.is_empty() { "/" } else { path };
            let (found, expected) = (table.find(&host, path), naive(&kept, &host, path));
            assert_eq!(
                found.map(|r| r.number),
                expected.map(|r| r.number),
                "{host}{path}"
            );
        }
    }
});
