//! A service: its members, whose turn it is, and how its requests are sent and sent again. Hot path.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::group::Groups;
use super::measured::{ServiceMeasured, WorkerId};
use super::policy::{InFlightLimit, RetryPolicy};
use super::standing::Standing;
use super::turn::Turn;
use super::upstream::{Unfit, Upstream};

/// A service's name: 1 to 128 characters of `a-z A-Z 0-9 . _ -`.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

impl TryFrom<String> for ServiceName {
    type Error = String;
    fn try_from(text: String) -> Result<ServiceName, String> {
        ServiceName::parse(&text).ok_or_else(|| format!("{text:?} names no service"))
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> String {
        name.0.to_string()
    }
}

impl ServiceName {
    /// None if the text is no name.
    pub fn parse(text: &str) -> Option<ServiceName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        ((1..=128).contains(&text.len()) && text.bytes().all(allowed))
            .then(|| ServiceName(text.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
impl From<&str> for ServiceName {
    fn from(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }
}

impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A verified TLS connection to a service's servers. The TLS settings are rustls's own value: data here, used by `dial`.
#[derive(Clone, Debug)]
pub struct TlsToServer {
    pub config: Arc<rustls::ClientConfig>,
    /// What the certificate has to be valid for; None: the host name the server was given as, or its address.
    pub server_name: Option<rustls::pki_types::ServerName<'static>>,
}

/// What is spoken to a service's servers.
#[derive(Clone, Debug)]
pub enum Protocol {
    Http,
    Https(TlsToServer),
    /// HTTP/2 with prior knowledge, in clear text (gRPC).
    H2c,
    H2(TlsToServer),
}

/// One server in its service.
#[derive(Clone, Debug)]
pub struct Member {
    pub upstream: Arc<Upstream>,
    /// The host name it was given as, for TLS verification.
    pub host_name: Option<Arc<str>>,
    /// Its effective weight: the passing or the warning one; 0 takes no turn, as do all whose group has no share.
    pub weight: u32,
    pub standing: Arc<Standing>,
}

#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    pub members: Box<[Member]>,
    /// Whose turn it is among those who were fit when the snapshot was made.
    pub turn: Turn,
    /// Those whose only fault is a check's word: they serve when nobody is fit.
    pub reserve: Turn,
    pub protocol: Protocol,
    pub retry: RetryPolicy,
    /// Idle connections to one server, over all workers.
    pub pool: usize,
    /// None: as many requests at once as come.
    pub in_flight: Option<InFlightLimit>,
    pub measured: Arc<ServiceMeasured>,
    /// Where this LB begins in the turn order, so that LBs don't move in step.
    pub phase: u64,
    /// What its turn order is divided by; None: by the servers' weights alone. Read when a table is made, never by a request.
    pub groups: Option<Groups>,
}

impl Service {
    /// Members' turn orders follow from their fitness at this moment.
    pub fn turns(members: &[Member], groups: Option<&Groups>) -> (Turn, Turn) {
        let pick = |is_in: fn(&Upstream) -> bool| {
            let taking_part = (0u32..)
                .zip(members)
                .filter(|(_, m)| is_in(&m.upstream))
                .map(|(index, m)| (index, m.weight, m.standing.group.as_ref()));
            match groups {
                Some(groups) => Turn::build(&groups.divide(taking_part)),
                None => {
                    let weights: Vec<(u32, u32)> = taking_part
                        .map(|(index, weight, _)| (index, weight))
                        .collect();
                    Turn::build(&weights)
                }
            }
        };
        (
            pick(Upstream::is_fit),
            pick(|upstream| !upstream.is_fit() && upstream.is_fit_in_panic()),
        )
    }

    /// The index of the member whose turn it is for a worker, none of `tried` ([`Upstream::number`]s). None: nobody is left. In
    /// panic (nobody who takes turns is fit) those serve whose only fault is a check's word.
    pub fn pick(&self, worker: WorkerId, workers: usize, tried: &[u64]) -> Option<usize> {
        let position = self.measured.of(worker).next_turn();
        let walk = |turn, tried: &[u64], may_serve| {
            self.walk(turn, worker, workers, position, tried, may_serve)
        };
        if let Some(found) = walk(&self.turn, tried, Upstream::is_fit) {
            return Some(found);
        }
        // Members that fell or came back since this snapshot was made are in either order. In panic nobody did: an order may be
        // far longer than there are members, so they are asked first.
        let is_fit = |member: &Member| member.weight > 0 && member.upstream.is_fit();
        if self.members.iter().any(is_fit) {
            let fit = |tried: &[u64]| {
                let mut orders = [&self.reserve, &self.turn].into_iter();
                orders.find_map(|turn| walk(turn, tried, Upstream::is_fit))
            };
            // Who is in no order yet keeps nobody else from serving in panic.
            let found = fit(tried);
            if found.is_some() || !tried.is_empty() && fit(&[]).is_some() {
                return found;
            }
        }
        let mut orders = [&self.reserve, &self.turn].into_iter();
        let in_panic = orders.find_map(|turn| walk(turn, tried, Upstream::is_fit_in_panic));
        // A table with other servers may have come between a request's look at this one and its turn: it goes by this one.
        let is_gone = |member: &Member| member.upstream.is_fit_but_gone();
        match in_panic {
            None if self.members.iter().any(is_gone) => {
                walk(&self.turn, tried, Upstream::is_fit_but_gone)
            }
            found => found,
        }
    }

    /// From this worker's place in a turn order, the first one that may serve.
    fn walk(
        &self,
        turn: &Turn,
        worker: WorkerId,
        workers: usize,
        position: u64,
        tried: &[u64],
        may_serve: fn(&Upstream) -> bool,
    ) -> Option<usize> {
        if turn.is_empty() {
            return None;
        }
        let spread = (turn.len() as u64 * worker.0 as u64) / workers.max(1) as u64;
        let first = self.phase.wrapping_add(spread).wrapping_add(position);
        (0..turn.len() as u64)
            .map(|step| turn.at(first.wrapping_add(step)) as usize)
            .find(|&index| {
                let upstream = &self.members[index].upstream;
                may_serve(upstream) && !tried.contains(&upstream.number())
            })
    }

    /// Whether one more may be ejected for bad answers: at most half of those who take turns.
    pub fn may_eject_failing(&self) -> bool {
        let taking_turns = || self.members.iter().filter(|member| member.weight > 0);
        let failing = taking_turns()
            .filter(|member| member.upstream.has(Unfit::Failing))
            .count();
        (failing + 1) * 2 <= taking_turns().count()
    }
}
