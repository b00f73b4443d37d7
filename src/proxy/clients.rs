//! How many connections each client's address has open, over all workers. Asked once a connection, never on a request's way.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::routing::Client;

/// Parts of the table, each with a lock of its own: workers that accept at the same moment rarely meet.
const SHARDS: usize = 32;

/// Open connections by client. Who has none is not in it: it never holds more clients than there are connections.
#[derive(Debug, Default)]
pub struct Clients {
    /// Keyed by a secret of this process, so that nobody can choose addresses that meet in one place.
    hasher: RandomState,
    shards: [Mutex<HashMap<Client, usize>>; SHARDS],
}

impl Clients {
    /// Counts one more connection of a client until what it gives is dropped; None: it has `limit` already. 0: no limit, and nothing
    /// is counted.
    pub fn take(self: &Arc<Clients>, address: IpAddr, limit: usize) -> Option<Seat> {
        if limit == 0 {
            return Some(Seat::uncounted());
        }
        let client = Client::at(address);
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_default();
        if *open >= limit {
            return None;
        }
        *open += 1;
        Some(Seat(Some((self.clone(), client))))
    }

    fn shard(&self, client: Client) -> MutexGuard<'_, HashMap<Client, usize>> {
        let place = self.hasher.hash_one(client) as usize % SHARDS;
        // A count is whole at every moment.
        self.shards[place]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection among its client's, until dropped.
#[must_use]
#[derive(Debug)]
pub struct Seat(Option<(Arc<Clients>, Client)>);

impl Seat {
    pub fn uncounted() -> Seat {
        Seat(None)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((clients, client)) = &self.0 else {
            return;
        };
        let mut shard = clients.shard(*client);
        if let Some(open) = shard.get_mut(client) {
            *open -= 1;
            if *open == 0 {
                shard.remove(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network_of_64_bits() {
        let clients = Arc::new(Clients::default());
        let mut held = Vec::new();
        for (one, two, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
        ] {
            held.push(clients.take(address(one), 1).expect(one));
            assert!(clients.take(address(two), 1).is_none(), "{two}");
            held.push(clients.take(address(other), 1).expect(other));
        }
    }

    #[test]
    fn a_connection_that_ends_makes_room_and_leaves_nothing_behind() {
        let clients = Arc::new(Clients::default());
        let ip = address("192.0.2.1");
        for _ in 0..3 {
            let held: Vec<Seat> = (0..2).map(|_| clients.take(ip, 2).unwrap()).collect();
            assert!(clients.take(ip, 2).is_none());
            drop(held);
        }
        let left: usize = clients.shards.iter().map(|s| s.lock().unwrap().len()).sum();
        assert_eq!(left, 0);
    }

    #[test]
    fn without_a_limit_nobody_is_counted() {
        let clients = Arc::new(Clients::default());
        let held: Vec<Seat> = (0..9)
            .map(|_| clients.take(address("192.0.2.1"), 0).unwrap())
            .collect();
        assert!(clients.shards.iter().all(|s| s.lock().unwrap().is_empty()));
        drop(held);
    }
}
