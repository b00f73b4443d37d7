//! How many TLS handshakes a worker has under way, in all and of each client. Asked once a connection, by its ClientHello.
//!
//! A handshake is what a client can have us do that costs most: as many as are under way at once is how late the worker's loop comes
//! to everything else, at about a third of a millisecond each. Connections that say nothing are not among them: they cost nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::routing::Client;

/// One worker's.
#[derive(Debug, Default)]
pub struct Handshakes(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: Cell<usize>,
    /// Who has none is not in it.
    by_client: RefCell<HashMap<Client, usize>>,
}

/// `limits.handshakes` and `limits.handshakes_per_client`; 0: no limit.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub in_all: usize,
    pub per_client: usize,
}

impl Handshakes {
    /// Counts one more until what it gives is dropped. `client`: None: it stands for many. None: too many are under way.
    pub fn begin(&self, client: Option<IpAddr>, most: Most) -> Option<UnderWay> {
        let Handshakes(counts) = self;
        if most.in_all > 0 && counts.all.get() >= most.in_all {
            return None;
        }
        let client = client.filter(|_| most.per_client > 0).map(Client::at);
        if let Some(client) = client {
            let mut by_client = counts.by_client.borrow_mut();
            let count = by_client.entry(client).or_default();
            if *count >= most.per_client {
                return None;
            }
            *count += 1;
        }
        counts.all.set(counts.all.get() + 1);
        Some(UnderWay {
            counts: counts.clone(),
            client,
        })
    }
}

/// One handshake, until dropped.
#[must_use]
#[derive(Debug)]
pub struct UnderWay {
    counts: Rc<Counts>,
    client: Option<Client>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let counts = &self.counts;
        counts.all.set(counts.all.get() - 1);
        let Some(client) = self.client else { return };
        let mut by_client = counts.by_client.borrow_mut();
        if let Some(count) = by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most {
        in_all: 3,
        per_client: 2,
    };

    fn address(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    #[test]
    fn one_client_leaves_room_for_others_and_all_of_them_have_a_limit() {
        let handshakes = Handshakes::default();
        let mut held: Vec<_> = (0..2)
            .map(|_| handshakes.begin(address(1), MOST).unwrap())
            .collect();
        assert!(handshakes.begin(address(1), MOST).is_none());
        held.push(handshakes.begin(address(2), MOST).unwrap());
        assert!(handshakes.begin(address(3), MOST).is_none());
        held.clear();
        assert!(handshakes.0.by_client.borrow().is_empty());
        assert_eq!(handshakes.0.all.get(), 0);
    }

    #[test]
    fn who_stands_for_many_has_no_limit_of_its_own_and_0_is_none_for_anybody() {
        let handshakes = Handshakes::default();
        let held: Vec<_> = (0..3).map(|_| handshakes.begin(None, MOST)).collect();
        assert!(held.iter().all(Option::is_some));
        let none = Most {
            in_all: 0,
            per_client: 0,
        };
        let more: Vec<_> = (0..9).map(|_| handshakes.begin(address(1), none)).collect();
        assert!(more.iter().all(Option::is_some));
    }
}
