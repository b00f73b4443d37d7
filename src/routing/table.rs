//! From a request's host and path to its route, at a cost that doesn't grow with the number of routes. Hot path.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::host::HostPattern;
use super::path::Prefix;
use super::service::Service;

/// One route with the service it leads to.
#[derive(Debug)]
pub struct Route {
    /// What people and logs call it: the document's name, or `host` + `path`.
    pub name: Arc<str>,
    pub host: HostPattern,
    pub path: Prefix,
    pub service: Arc<Service>,
    /// Distinguishes routes in passive health ("one route's failures alone"): stable for a name.
    pub number: u32,
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    Host,
    Path,
}

/// Routes by host, then by the longest prefix of whole segments. The most specific host decides: exact, then the longest
/// wildcard, then `*`; a host whose prefixes don't have the path is not looked for elsewhere.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, HostRoutes>,
    wildcard: HashMap<Box<str>, HostRoutes>,
    any: Option<HostRoutes>,
}

#[derive(Debug, Default)]
struct HostRoutes {
    /// The route of `/`, which most hosts have alone.
    root: Option<Arc<Route>>,
    /// The other ones.
    by_prefix: HashMap<Box<str>, Arc<Route>>,
    deepest: usize,
}

impl RouteTable {
    /// Later routes for a host and path that an earlier one has are returned as losers, in order.
    pub fn build(routes: impl IntoIterator<Item = Arc<Route>>) -> (RouteTable, Vec<Arc<Route>>) {
        let mut table = RouteTable::default();
        let mut losers = Vec::new();
        for route in routes {
            let host = match &route.host {
                HostPattern::Exact(name) => table.exact.entry(name.as_str().into()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    table.wildcard.entry(suffix.as_str().into()).or_default()
                }
                HostPattern::Any => table.any.get_or_insert_default(),
            };
            if let Err(loser) = host.add(route) {
                losers.push(loser);
            }
        }
        (table, losers)
    }

    /// `host` as [`super::host::HostBuffer::fill`] gives it; `path` without query, beginning with `/`.
    pub fn find(&self, host: &str, path: &str) -> Result<&Arc<Route>, NoRoute> {
        self.host(host)
            .ok_or(NoRoute::Host)?
            .longest(path)
            .ok_or(NoRoute::Path)
    }

    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.exact
            .values()
            .chain(self.wildcard.values())
            .chain(&self.any)
            .flat_map(|host| host.root.iter().chain(host.by_prefix.values()))
    }

    fn host(&self, host: &str) -> Option<&HostRoutes> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            let mut rest = host;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(found) = self.wildcard.get(parent) {
                    return Some(found);
                }
                rest = parent;
            }
        }
        self.any.as_ref()
    }
}

impl HostRoutes {
    /// Gives the route back where another one has its path.
    fn add(&mut self, route: Arc<Route>) -> Result<(), Arc<Route>> {
        if route.path.depth() == 0 {
            return match &self.root {
                Some(_) => Err(route),
                None => {
                    self.root = Some(route);
                    Ok(())
                }
            };
        }
        match self.by_prefix.entry(route.path.as_key().into()) {
            Entry::Occupied(_) => Err(route),
            Entry::Vacant(place) => {
                self.deepest = self.deepest.max(route.path.depth());
                place.insert(route);
                Ok(())
            }
        }
    }

    /// Tries the path's own prefixes from the longest that any route has down to the root: at most `deepest` + 1 look-ups.
    fn longest(&self, path: &str) -> Option<&Arc<Route>> {
        if self.deepest == 0 {
            return self.root.as_ref();
        }
        let mut ends = [0usize; 16];
        if self.deepest >= ends.len() {
            return self.longest_of_many(path);
        }
        let mut count = 0;
        for at in memchr::memchr_iter(b'/', path.as_bytes())
            .skip(1)
            .take(self.deepest)
        {
            ends[count] = at;
            count += 1;
        }
        if count < self.deepest && count < ends.len() {
            ends[count] = path.len();
            count += 1;
        }
        ends[..count]
            .iter()
            .rev()
            .find_map(|&end| self.by_prefix.get(&path[..end]))
            .or(self.root.as_ref())
    }

    fn longest_of_many(&self, path: &str) -> Option<&Arc<Route>> {
        let mut end = path.len();
        loop {
            if let Some(route) = self.by_prefix.get(&path[..end]) {
                return Some(route);
            }
            match path[..end].rfind('/') {
                Some(slash) => end = slash,
                None => return self.root.as_ref(),
            }
        }
    }
}
