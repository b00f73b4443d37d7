//! Tags name no host that they may not, and each counts by itself: all together make the routes that hosts and paths make one by one.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use rota::config::tags::{MAX_ROUTES, Tagged, asks_for_routes, read};
use rota::config::{MAX_SHOWN, TagGrammar, Tags};
use rota::routing::{HostPattern, Prefix};

/// Tags of one input; more would make pairs of them slow.
const TAGS: usize = 24;
/// A reason shows at most what was written as a host or path, in some words.
const WHY_BYTES: usize = 1000;

type Routes = BTreeSet<(HostPattern, Prefix)>;

/// Whether one who may name `allowed` may name a host like this: `x` stands for any label.
fn may_name(allowed: &HostPattern, host: &HostPattern) -> bool {
    let names: Vec<String> = match host {
        HostPattern::Any => return *allowed == HostPattern::Any,
        HostPattern::Exact(name) => vec![name.to_string()],
        HostPattern::Wildcard(zone) => vec![format!("x.{zone}"), format!("x.x.{zone}")],
    };
    names.iter().all(|name| match allowed {
        HostPattern::Any => true,
        HostPattern::Exact(only) => only.as_str() == name,
        HostPattern::Wildcard(zone) => {
            name.ends_with(&format!(".{zone}")) && name.len() > zone.as_str().len() + 1
        }
    })
}

fn routes_of(tags: &[&String], terms: &Tags) -> Tagged {
    let tags: Vec<String> = tags.iter().map(|tag| (*tag).clone()).collect();
    read(&tags, terms)
}

/// Each `rota.host` with each `rota.path`, and each fabio tag, asked for one by one.
fn one_by_one(tags: &[String], terms: &Tags) -> Routes {
    let begin = |word: &'static str| tags.iter().filter(move |tag| tag.starts_with(word));
    let is_path = |tag: &&String| {
        routes_of(&[tag], terms)
            .refused
            .iter()
            .all(|it| it.why.contains("beside it"))
    };
    let paths: Vec<&String> = begin("rota.path=").filter(is_path).collect();
    let mut routes = Routes::new();
    for host in begin("rota.host=") {
        match paths.is_empty() {
            true => routes.extend(routes_of(&[host], terms).routes),
            false => routes.extend(
                paths
                    .iter()
                    .flat_map(|path| routes_of(&[host, path], terms).routes),
            ),
        }
    }
    let others = tags.iter().filter(|tag| !tag.starts_with("rota."));
    routes.extend(others.flat_map(|tag| routes_of(&[tag], terms).routes));
    routes
}

// The first line: `rota` or `fabio`, and the hosts that tags may name; then a tag a line.
fuzz_target!(|text: &str| {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (grammar, hosts) = first.split_once(' ').unwrap_or((first, "*"));
    let grammar = match grammar {
        "fabio" => TagGrammar::Fabio,
        _ => TagGrammar::Rota,
    };
    let hosts = hosts
        .split(',')
        .filter_map(|host| HostPattern::parse(host).ok())
        .collect();
    let terms = Tags { grammar, hosts };
    let mut tags: Vec<String> = rest.split('\n').take(TAGS).map(str::to_owned).collect();

    let found = read(&tags, &terms);
    assert!(found.routes.len() <= MAX_ROUTES);
    for (host, _) in &found.routes {
        assert!(
            terms.hosts.iter().any(|allowed| may_name(allowed, host)),
            "{host}"
        );
    }
    let asks = tags.iter().any(|tag| asks_for_routes(tag, grammar));
    assert!(
        asks || found.routes.is_empty(),
        "a service that nobody looks at"
    );
    for refused in &found.refused {
        assert!(
            refused.tag.chars().count() <= MAX_SHOWN + 1 && refused.why.len() <= WHY_BYTES,
            "{refused:?}"
        );
        let text = [refused.tag.as_str(), refused.why.as_str()].concat();
        assert!(!text.contains(char::is_control), "{refused:?}");
    }
    let is_off = tags.iter().any(|tag| tag == "rota.enable=false");
    let alone = match is_off {
        true => Routes::new(),
        false => one_by_one(&tags, &terms),
    };
    assert_eq!(found.routes, alone.into_iter().take(MAX_ROUTES).collect());
    tags.reverse();
    assert_eq!(
        read(&tags, &terms).routes,
        found.routes,
        "in whatever order"
    );
});
