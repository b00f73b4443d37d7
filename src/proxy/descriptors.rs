//! How the process's descriptors are shared out, so that clients can't take those that servers, Consul and admin need.

use rustix::process::{Resource, getrlimit};

/// The most that is kept for rota itself: listeners, Consul, probes, the admin listener, files.
const MOST_OWN: usize = 512;

/// The process's limit, divided: a quarter, but at most `MOST_OWN`, is rota's own; of the rest two thirds are for clients, and one for the
/// servers that they ask: at any moment most clients wait for their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    limit: usize,
}

impl Descriptors {
    /// As the limit stands now.
    pub fn of_process() -> Descriptors {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        Descriptors { limit }
    }

    fn own(self) -> usize {
        (self.limit / 4).min(MOST_OWN)
    }

    /// Client connections that there is room for.
    pub fn for_clients(self) -> usize {
        (self.limit - self.own()) / 3 * 2
    }

    /// Idle connections to servers that there is room for beside others; where it gets narrow they give way.
    pub fn for_idle(self) -> usize {
        self.limit / 8
    }

    /// The first descriptor that a connection to a server may not have. The lowest free one is always taken, so its number says how
    /// many are in use. HTTP/2 clients can ask for many servers at once over one connection: half of what is rota's own stays
    /// its own whatever they do.
    pub fn ceiling(self) -> i32 {
        i32::try_from(self.limit - self.own() / 2).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_their_servers_never_take_all() {
        for limit in [64, 256, 1024, 65_536, 1 << 20] {
            let shares = Descriptors { limit };
            let taken = shares.for_clients() + shares.for_idle();
            assert!(taken + shares.own() < limit, "{limit}");
            assert!(shares.for_clients() >= limit / 2, "{limit}");
            assert!((shares.ceiling() as usize) < limit, "{limit}");
        }
        let unlimited = Descriptors { limit: usize::MAX };
        assert_eq!(unlimited.ceiling(), i32::MAX);
    }
}
