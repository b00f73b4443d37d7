//! Who left the rota and who came back: what two tables differ in, as lines of the log, each change once.
//! Pure but for [`Line::tell`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::member::Member;
use super::service_state::ServiceState;
use crate::routing::{ServiceName, Unfit};

/// Lines about servers in one second, and as many about whole services; changes beyond are counted in one line.
pub const LINES_PER_SECOND: u64 = 20;
/// The most of a signal's evidence that a line shows, in characters.
const EVIDENCE_CHARS: usize = 200;
const SECOND: Duration = Duration::from_secs(1);

/// The signal that joining and vanishing stand under, as in a server's history.
const TABLE: &str = "table";

/// One change, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Left(Change),
    Joined(Change),
    /// A whole service has nobody; `requests` says what becomes of them.
    Nobody {
        service: ServiceName,
        of: usize,
        requests: &'static str,
    },
    Somebody {
        service: ServiceName,
        on: usize,
        of: usize,
    },
    /// So many changes had no line of their own.
    Unsaid(u64),
}

/// One server's change, and how many of its service's servers are on the rota since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub service: ServiceName,
    pub server: Arc<str>,
    pub signal: &'static str,
    pub reason: &'static str,
    /// One line.
    pub evidence: String,
    pub on: usize,
    pub of: usize,
}

/// What the log has said so far.
#[derive(Debug, Default)]
pub struct Rota {
    services: BTreeMap<ServiceName, Seen>,
    servers_said: Allowance,
    services_said: Allowance,
}

/// A service as it was when it was last looked at. It is known from its first server on.
#[derive(Debug)]
struct Seen {
    revision: u64,
    servers: BTreeMap<SocketAddr, Server>,
    has_somebody: bool,
}

#[derive(Debug)]
struct Server {
    label: Arc<str>,
    source: &'static str,
    /// The signal that keeps it off; None: it is on the rota.
    off: Option<&'static str>,
}

impl Rota {
    /// What changed since the last call. Of a service that is new, those who are off are told and those who are on are not.
    pub fn compare(
        &mut self,
        services: &BTreeMap<ServiceName, ServiceState>,
        now: SystemTime,
    ) -> Vec<Line> {
        let mut lines = self.overdue(now);
        self.services.retain(|name, _| services.contains_key(name));
        for (name, state) in services {
            let before = self.services.get(name);
            let is_current = before.is_some_and(|seen| seen.revision == state.revision());
            if is_current || before.is_none() && state.members().is_empty() {
                continue;
            }
            let (after, of_servers, of_service) = look(name, before, state);
            self.services.insert(name.clone(), after);
            let of_servers = of_servers.into_iter();
            lines.extend(of_servers.filter(|_| self.servers_said.takes_one(now)));
            let of_service = of_service.into_iter();
            lines.extend(of_service.filter(|_| self.services_said.takes_one(now)));
        }
        lines
    }

    /// How many changes had no line of their own in a second that is over: to be asked for each second.
    pub fn overdue(&mut self, now: SystemTime) -> Vec<Line> {
        let unsaid = self.servers_said.renew(now) + self.services_said.renew(now);
        (unsaid > 0)
            .then_some(Line::Unsaid(unsaid))
            .into_iter()
            .collect()
    }
}

/// A service as it is now, and the lines about its servers and about itself.
fn look(
    name: &ServiceName,
    before: Option<&Seen>,
    state: &ServiceState,
) -> (Seen, Vec<Line>, Option<Line>) {
    let members = state.members();
    let on = members.values().filter(|member| is_on(member)).count();
    let count = Count {
        service: name,
        on,
        of: members.len(),
    };
    let was = |address: &SocketAddr| match before.map(|seen| seen.servers.get(address)) {
        None => Was::On,
        Some(None) => Was::Absent,
        Some(Some(known)) => known.off.map_or(Was::On, Was::Off),
    };
    let mut lines: Vec<Line> = members
        .iter()
        .filter_map(|(address, member)| count.change_of(was(address), member))
        .collect();
    let known = before.into_iter().flat_map(|seen| &seen.servers);
    let gone = known.filter(|(address, _)| !members.contains_key(*address));
    lines.extend(gone.filter_map(|(_, server)| count.loss_of(server)));
    let seen = Seen {
        revision: state.revision(),
        servers: members
            .iter()
            .map(|(at, member)| (*at, server(member)))
            .collect(),
        has_somebody: on > 0,
    };
    (seen, lines, count.turn_of(before, state))
}

/// What a server was when it was last looked at. Of a service that is new each was on, so that only those who are off are told.
#[derive(Clone, Copy)]
enum Was {
    Absent,
    On,
    Off(&'static str),
}

/// How many of a service's servers are on the rota.
struct Count<'a> {
    service: &'a ServiceName,
    on: usize,
    of: usize,
}

impl Count<'_> {
    fn change_of(&self, was: Was, member: &Member) -> Option<Line> {
        let (server, standing) = (&member.facts.label, &member.standing);
        match (was, standing.against()) {
            (Was::Absent | Was::On, Some((name, signal))) => {
                let change = self.change(server, name, signal.reason, &signal.evidence);
                Some(Line::Left(change))
            }
            (Was::Off(was), None) => {
                let signals = standing.signals();
                let (name, signal) = signals.into_iter().find(|(name, _)| *name == was)?;
                let change = self.change(server, name, signal.reason, &signal.evidence);
                Some(Line::Joined(change))
            }
            (Was::Absent, None) => {
                let evidence = format!("{} names it", standing.source);
                Some(Line::Joined(
                    self.change(server, TABLE, "present", &evidence),
                ))
            }
            (Was::On, None) | (Was::Off(_), Some(_)) => None,
        }
    }

    /// Of a server that nobody names any more; one that was off anyway changed nothing.
    fn loss_of(&self, server: &Server) -> Option<Line> {
        if server.off.is_some() {
            return None;
        }
        let evidence = format!("{} does not name it any more", server.source);
        Some(Line::Left(self.change(
            &server.label,
            TABLE,
            "absent",
            &evidence,
        )))
    }

    fn turn_of(&self, before: Option<&Seen>, state: &ServiceState) -> Option<Line> {
        let (service, on, of) = (self.service.clone(), self.on, self.of);
        match (before.is_none_or(|seen| seen.has_somebody), on > 0) {
            (true, false) => Some(Line::Nobody {
                service,
                of,
                requests: what_becomes_of_requests(state),
            }),
            (false, true) => Some(Line::Somebody { service, on, of }),
            (true, true) | (false, false) => None,
        }
    }

    fn change(
        &self,
        server: &Arc<str>,
        signal: &'static str,
        reason: &'static str,
        evidence: &str,
    ) -> Change {
        Change {
            service: self.service.clone(),
            server: server.clone(),
            signal,
            reason,
            evidence: one_line(evidence),
            on: self.on,
            of: self.of,
        }
    }
}

fn server(member: &Member) -> Server {
    Server {
        label: member.facts.label.clone(),
        source: member.standing.source,
        off: member.standing.against().map(|(signal, _)| signal),
    }
}

fn is_on(member: &Member) -> bool {
    member.standing.against().is_none()
}

/// With nobody on the rota those serve whose only fault is a check's word.
fn what_becomes_of_requests(state: &ServiceState) -> &'static str {
    let serves_in_panic = |member: &Member| {
        !member.is_ejected() && !member.reasons().contains(&(Unfit::Operator, true))
    };
    if state.members().values().any(serves_in_panic) {
        "go to servers whose checks fail"
    } else {
        "are answered with 503"
    }
}

/// Whatever a check printed, as one line that is not too long.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    let line = words.join(" ");
    match line.char_indices().nth(EVIDENCE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// [`LINES_PER_SECOND`], and what was asked for beyond.
#[derive(Debug, Default)]
struct Allowance {
    since: Option<SystemTime>,
    asked: u64,
}

impl Allowance {
    fn takes_one(&mut self, now: SystemTime) -> bool {
        self.since.get_or_insert(now);
        self.asked += 1;
        self.asked <= LINES_PER_SECOND
    }

    /// Begins anew once the second is over; how many it had refused.
    fn renew(&mut self, now: SystemTime) -> u64 {
        if self.since.is_none_or(|since| since + SECOND > now) {
            return 0;
        }
        let refused = self.asked.saturating_sub(LINES_PER_SECOND);
        *self = Allowance::default();
        refused
    }
}

impl Line {
    /// Writes it to rota's own log.
    pub fn tell(&self) {
        match self {
            Line::Left(change) => {
                let Change {
                    service,
                    server,
                    signal,
                    reason,
                    evidence,
                    on,
                    of,
                } = change;
                tracing::warn!(%service, %server, signal, reason, evidence, on, of, "off the rota");
            }
            Line::Joined(change) => {
                let Change {
                    service,
                    server,
                    signal,
                    reason,
                    evidence,
                    on,
                    of,
                } = change;
                tracing::info!(%service, %server, signal, reason, evidence, on, of, "on the rota");
            }
            Line::Nobody {
                service,
                of,
                requests,
            } => {
                tracing::error!(%service, on = 0, of, "nobody is on the rota: requests {requests}");
            }
            Line::Somebody { service, on, of } => {
                tracing::info!(%service, on, of, "somebody is on the rota again");
            }
            Line::Unsaid(changes) => tracing::warn!(
                changes,
                "more changes of the rota than {LINES_PER_SECOND} a second: these had no line"
            ),
        }
    }
}
