//! Routes from one table to the next: those that did not change are the same `Arc` as before, found by their place in the order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::RouteEntry;
use crate::routing::{Route, Service, ServiceName};

/// Numbers of routes that are gone are remembered up to so many, beside as many as there are routes.
const SPARE_NUMBERS: usize = 1_000;

/// What the last table's routes were made of.
#[derive(Default)]
pub(super) struct Routes {
    /// In the model's order.
    last: Vec<(Arc<RouteEntry>, Arc<Route>)>,
    numbers: HashMap<Arc<str>, u32>,
    made: u32,
}

impl Routes {
    /// Routes for these entries. `changed` are the services that are not what they were in the last table, or are new, or gone.
    pub(super) fn follow(
        &mut self,
        entries: &[Arc<RouteEntry>],
        changed: &HashSet<ServiceName>,
        mut service_for: impl FnMut(&ServiceName) -> Arc<Service>,
    ) -> Vec<Arc<Route>> {
        let before = std::mem::take(&mut self.last);
        let mut known = Known::of(&before);
        let mut after = Vec::with_capacity(entries.len());
        for entry in entries {
            let route = match known.next(entry) {
                Some((last, route))
                    if Arc::ptr_eq(last, entry) && !changed.contains(&entry.service) =>
                {
                    route.clone()
                }
                found => {
                    let service = service_for(&entry.service);
                    match found {
                        Some((_, route)) if is_the_same(route, entry, &service) => route.clone(),
                        Some(_) | None => self.made(entry, service),
                    }
                }
            };
            after.push((entry.clone(), route));
        }
        self.last = after;
        self.forget_numbers();
        self.last.iter().map(|(_, route)| route.clone()).collect()
    }

    fn made(&mut self, entry: &RouteEntry, service: Arc<Service>) -> Arc<Route> {
        let number = match self.numbers.get(entry.name.as_str()) {
            Some(&number) => number,
            None => {
                self.made = self.made.wrapping_add(1);
                self.numbers.insert(entry.name.as_str().into(), self.made);
                self.made
            }
        };
        Arc::new(Route {
            name: entry.name.as_str().into(),
            host: entry.host.clone(),
            path: entry.path.clone(),
            service,
            number,
        })
    }

    fn forget_numbers(&mut self) {
        if self.numbers.len() > 2 * self.last.len() + SPARE_NUMBERS {
            let names: HashSet<&str> = self.last.iter().map(|(_, route)| &*route.name).collect();
            self.numbers.retain(|name, _| names.contains(&**name));
        }
    }
}

/// The last table's routes as they are asked for in nearly the same order.
struct Known<'a> {
    last: &'a [(Arc<RouteEntry>, Arc<Route>)],
    /// Where the next one is expected.
    place: usize,
    /// By name; None: nobody was elsewhere yet.
    places: Option<HashMap<&'a str, usize>>,
}

impl<'a> Known<'a> {
    fn of(last: &'a [(Arc<RouteEntry>, Arc<Route>)]) -> Known<'a> {
        Known {
            last,
            place: 0,
            places: None,
        }
    }

    fn next(&mut self, entry: &Arc<RouteEntry>) -> Option<&'a (Arc<RouteEntry>, Arc<Route>)> {
        let last = self.last;
        let is_it = |(known, _): &&(Arc<RouteEntry>, Arc<Route>)| {
            Arc::ptr_eq(known, entry) || known.name == entry.name
        };
        let found = last.get(self.place).filter(is_it).map(|_| self.place);
        let found = found.or_else(|| {
            let places = self.places.get_or_insert_with(|| {
                let named = last.iter().enumerate();
                named
                    .map(|(place, (known, _))| (known.name.as_str(), place))
                    .collect()
            });
            places.get(entry.name.as_str()).copied()
        })?;
        self.place = found + 1;
        last.get(found)
    }
}

fn is_the_same(route: &Route, entry: &RouteEntry, service: &Arc<Service>) -> bool {
    Arc::ptr_eq(&route.service, service) && route.host == entry.host && route.path == entry.path
}
