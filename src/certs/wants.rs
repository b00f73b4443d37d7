//! Names that clients ask for before their certificate is there: told to whoever orders, while a bounded number of handshakes waits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::routing::Client;

/// Names that were told and that nobody has taken yet. At it, a name is told by the next client who asks for it.
pub const TOLD: usize = 256;
/// One name has at most this part of the places, and at least one: a crowd at a name whose order fails keeps no other's clients out.
const SHARE_OF_A_NAME: usize = 8;
/// The same of one client's address: nobody keeps all others waiting by asking for many names.
const SHARE_OF_A_CLIENT: usize = 16;

/// What all workers share; locked only by handshakes that have to wait.
#[derive(Clone, Debug)]
pub struct Wants(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    told: mpsc::Sender<Arc<str>>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    handshakes: usize,
    names: HashMap<Arc<str>, Wanted>,
    /// Handshakes of each client that waits.
    clients: HashMap<Client, usize>,
}

#[derive(Debug, Default)]
struct Wanted {
    handshakes: usize,
    is_told: bool,
}

/// The handle, and where its names come out: once for as long as anybody waits, as [`super::challenge::Challenges::new`] was given
/// them. Whoever orders may have a name twice, when clients came back after their wait.
pub fn channel() -> (Wants, mpsc::Receiver<Arc<str>>) {
    let (told, taken) = mpsc::channel(TOLD);
    let shared = Shared {
        told,
        waiting: Mutex::default(),
    };
    (Wants(Arc::new(shared)), taken)
}

impl Wants {
    /// A place among `limit` waiting handshakes; None: all are taken, or all that one name or one client may have. The name is told
    /// unless it was for somebody who still waits. `client` is None where many clients come from one address.
    pub(super) fn wait_for(
        &self,
        name: &Arc<str>,
        client: Option<Client>,
        limit: usize,
    ) -> Option<Place> {
        let mut waiting = self.0.lock();
        if waiting.handshakes >= limit {
            return None;
        }
        let of_this_name = waiting.names.get(name).map_or(0, |one| one.handshakes);
        if of_this_name >= (limit / SHARE_OF_A_NAME).max(1) {
            return None;
        }
        if let Some(client) = client {
            let of_this_client = waiting.clients.get(&client).copied().unwrap_or_default();
            if of_this_client >= (limit / SHARE_OF_A_CLIENT).max(1) {
                return None;
            }
            waiting.clients.insert(client, of_this_client + 1);
        }
        waiting.handshakes += 1;
        let wanted = waiting.names.entry(name.clone()).or_default();
        wanted.handshakes += 1;
        if !wanted.is_told {
            // Full or nobody there: the certificate may come all the same.
            wanted.is_told = self.0.told.try_send(name.clone()).is_ok();
        }
        drop(waiting);
        Some(Place {
            shared: self.0.clone(),
            name: name.clone(),
            client,
        })
    }

    /// Handshakes that wait now.
    pub fn waiting(&self) -> usize {
        self.0.lock().handshakes
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One handshake that waits, until dropped.
#[must_use]
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    name: Arc<str>,
    client: Option<Client>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.handshakes -= 1;
        if let Entry::Occupied(mut wanted) = waiting.names.entry(self.name.clone()) {
            wanted.get_mut().handshakes -= 1;
            if wanted.get().handshakes == 0 {
                wanted.remove();
            }
        }
        if let Some(client) = self.client
            && let Entry::Occupied(mut of_it) = waiting.clients.entry(client)
        {
            *of_it.get_mut() -= 1;
            if *of_it.get() == 0 {
                of_it.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_once_while_anybody_waits_for_it() {
        let (wants, mut taken) = channel();
        let (one, other): (Arc<str>, Arc<str>) = ("one.test".into(), "other.test".into());
        let first = wants.wait_for(&one, None, 16).unwrap();
        let second = wants.wait_for(&one, None, 16).unwrap();
        let third = wants.wait_for(&other, None, 16).unwrap();
        assert_eq!(wants.waiting(), 3);
        assert_eq!(taken.try_recv().unwrap(), one);
        assert_eq!(taken.try_recv().unwrap(), other);
        drop((first, third));
        let fourth = wants.wait_for(&one, None, 16).unwrap();
        assert!(taken.try_recv().is_err(), "the second still waits");
        drop((second, fourth));
        assert_eq!(wants.waiting(), 0);
        let _again = wants.wait_for(&one, None, 16).unwrap();
        assert_eq!(taken.try_recv().unwrap(), one);
    }

    #[test]
    fn beyond_the_limit_nobody_waits_and_a_place_is_given_back() {
        let (wants, _taken) = channel();
        let names = ["one.test", "two.test"].map(Arc::<str>::from);
        let name: Arc<str> = "three.test".into();
        let held = names.map(|name| wants.wait_for(&name, None, 2).unwrap());
        assert!(wants.wait_for(&name, None, 2).is_none());
        drop(held);
        assert!(wants.wait_for(&name, None, 2).is_some());
        assert!(wants.wait_for(&name, None, 0).is_none());
    }

    #[test]
    fn a_crowd_at_one_name_leaves_seven_eighths_of_the_places_to_the_others() {
        let (wants, _taken) = channel();
        let (crowded, other): (Arc<str>, Arc<str>) = ("blocked.test".into(), "fresh.test".into());
        let crowd = (0..300).filter_map(|_| wants.wait_for(&crowded, None, 256));
        let mut crowd: Vec<_> = crowd.collect();
        assert_eq!(crowd.len(), 32);
        assert!(wants.wait_for(&other, None, 256).is_some());
        crowd.pop();
        assert!(wants.wait_for(&crowded, None, 256).is_some());
    }

    #[test]
    fn a_client_that_asks_for_many_names_leaves_fifteen_sixteenths_of_the_places_to_the_others() {
        let (wants, _taken) = channel();
        let at = |text: &str| Some(Client::at(text.parse().unwrap()));
        let names: Vec<Arc<str>> = (0..40).map(|n| format!("{n}.test").into()).collect();
        // Of an IPv6 client its whole network.
        let greedy = |n: usize| at(&format!("2001:db8::{n}"));
        let places = names.iter().enumerate();
        let places = places.filter_map(|(n, name)| wants.wait_for(name, greedy(n), 256));
        let mut places: Vec<_> = places.collect();
        assert_eq!(places.len(), 16);
        assert!(
            wants
                .wait_for(&names[39], at("2001:db8:0:1::1"), 256)
                .is_some()
        );
        places.pop();
        assert!(wants.wait_for(&names[39], greedy(1), 256).is_some());
        drop(places);
        assert!(wants.0.lock().clients.is_empty());
    }

    #[test]
    fn what_could_not_be_told_is_told_by_the_next_who_asks() {
        let (wants, mut taken) = channel();
        let names: Vec<Arc<str>> = (0..=TOLD).map(|n| format!("{n}.test").into()).collect();
        let held: Vec<_> = names
            .iter()
            .map(|name| wants.wait_for(name, None, 1000))
            .collect();
        let last = names.last().unwrap();
        taken.try_recv().unwrap();
        let _next = wants.wait_for(last, None, 1000);
        let mut told = Vec::new();
        while let Ok(name) = taken.try_recv() {
            told.push(name);
        }
        assert_eq!(told.last().unwrap(), last);
        drop(held);
    }
}
