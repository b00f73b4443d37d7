//! Where requests for a host and path go in a model: by a route of exactly that place, or by the one that has it otherwise. Pure.

use std::collections::HashMap;

use crate::config::RouteEntry;
use crate::control::model::Model;
use crate::routing::{Host, HostPattern, Prefix};

/// What a route stands for.
pub type Place<'a> = (&'a HostPattern, &'a Prefix);

/// A model's routes, by host.
pub struct Places<'a>(HashMap<&'a HostPattern, Vec<&'a RouteEntry>>);

impl<'a> Places<'a> {
    pub fn of(model: &'a Model) -> Places<'a> {
        let mut by_host: HashMap<&HostPattern, Vec<&RouteEntry>> = HashMap::new();
        for route in model.routes() {
            by_host.entry(&route.host).or_default().push(route);
        }
        Places(by_host)
    }

    pub fn iter(&self) -> impl Iterator<Item = Place<'a>> {
        let routes = self.0.values().flatten();
        routes.map(|route| (&route.host, &route.path))
    }

    /// Hosts with their routes.
    pub fn hosts(&self) -> impl Iterator<Item = (&'a HostPattern, &[&'a RouteEntry])> {
        self.0.iter().map(|(host, routes)| (*host, &routes[..]))
    }

    pub fn has_host(&self, host: &HostPattern) -> bool {
        self.0.contains_key(host)
    }

    /// As requests are routed: the most specific host decides, then the longest path.
    pub fn route_for(&self, (host, path): Place<'_>) -> Option<&'a RouteEntry> {
        let deciding = self.0.get(host).or_else(|| self.beyond(host))?;
        longest(deciding, path)
    }

    /// The route that would have it if nothing were there for exactly this host.
    pub fn otherwise(&self, (host, path): Place<'_>) -> Option<&'a RouteEntry> {
        longest(self.beyond(host)?, path)
    }

    /// The routes of the most specific host among those that have this one and are not this one.
    fn beyond(&self, host: &HostPattern) -> Option<&Vec<&'a RouteEntry>> {
        let name = match host {
            HostPattern::Exact(name) | HostPattern::Wildcard(name) => name.as_str(),
            HostPattern::Any => return None,
        };
        let dots = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
        let suffixes = dots.filter_map(|suffix| Host::parse(suffix).ok());
        let wider = suffixes.map(HostPattern::Wildcard);
        wider
            .chain([HostPattern::Any])
            .find_map(|pattern| self.0.get(&pattern))
    }
}

fn longest<'a>(routes: &[&'a RouteEntry], path: &Prefix) -> Option<&'a RouteEntry> {
    let path = path.to_string();
    let having = routes.iter().filter(|route| route.path.has(&path));
    having.max_by_key(|route| route.path.depth()).copied()
}
