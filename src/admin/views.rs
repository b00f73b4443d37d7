//! What the admin API shows, as JSON: the stable shapes of `/v1`. The command line reads them back.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::canary::CanaryStatus;
use super::state::{State, missing, phase_label};
use super::trouble::{self, TroubleView};
use crate::routing::standing::{Doubt, Transition};
use crate::routing::upstream::Unfit;
use crate::routing::{
    GroupShare, HostPattern, Member, Protocol, Route, Service, Signal, Snapshot, Verdict,
};
use crate::telemetry::metrics::{discovery_age_seconds, verdict_label};
use crate::telemetry::rfc3339;

/// A certificate that is served; `domain` is one of its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    pub domain: String,
    pub listener: String,
    /// The file that it was read from; `acme`; `kv:` and what an imported one lies under.
    pub source: String,
    #[serde(default)]
    pub issuer: String,
    /// Unix seconds; 0: there is none yet.
    pub not_after: i64,
    /// When it is ordered anew, by ACME; Unix seconds.
    #[serde(default)]
    pub renewal: Option<i64>,
    /// Why the last order came to nothing, or what was imported last cannot be served.
    #[serde(default)]
    pub error: Option<String>,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    pub node: String,
    pub version: String,
    pub started: String,
    pub uptime_s: u64,
    pub ready: bool,
    /// Why not, in words.
    pub missing: Vec<String>,
    /// `serving`, `announced`, `draining` or `stopped`.
    pub phase: String,
    pub node_drained: bool,
    pub generation: u64,
    pub workers: usize,
    pub routes: usize,
    pub listeners: Vec<ListenerView>,
    /// Null without Consul.
    pub discovery: Option<DiscoveryView>,
    pub services: Vec<ServiceSummary>,
    pub mistakes: Vec<MistakeView>,
    /// A change that is tried on some load balancers; null: there is none.
    #[serde(default)]
    pub canary: Option<CanaryStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerView {
    pub name: String,
    pub address: String,
    pub protocol: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiscoveryView {
    /// Since the last good answer; null: there was none yet.
    pub age_s: Option<f64>,
    /// Watches that fail now.
    pub failing: i64,
    /// The moment that the table is of, as it was kept before the start: Consul was not reached since; null: it was.
    #[serde(default)]
    pub remembered: Option<String>,
    #[serde(default)]
    pub trouble: Option<TroubleView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceSummary {
    pub name: String,
    /// Servers on the rota, of `total`.
    pub up: usize,
    pub total: usize,
    /// Servers kept although they vanished from Consul's answers.
    pub doubted: usize,
    /// Nobody is fit: those serve whose only fault is a check's word.
    pub panic: bool,
    /// What it is divided into, by name; empty: it is not.
    #[serde(default)]
    pub groups: Vec<GroupView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    pub name: String,
    pub weight: u32,
    /// What its weight comes to among the groups that have somebody on the rota, 0 to 1.
    pub share: f64,
    pub up: usize,
    pub total: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MistakeView {
    pub entry: String,
    pub message: String,
    /// `last good version` or `ignored`.
    pub in_force: String,
    pub since: String,
    pub since_s: u64,
}

/// A service with all that is known of its servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceView {
    #[serde(flatten)]
    pub summary: ServiceSummary,
    /// `http`, `https`, `h2c` or `h2`.
    pub protocol: String,
    pub retry_attempts: u32,
    pub servers: Vec<ServerView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerView {
    /// `address:port`, with its host name if it was given as one: the name for `why` and `drain`.
    pub server: String,
    pub address: String,
    /// Takes its turns.
    pub on_the_rota: bool,
    /// One sentence: the first reason for being off, or why it is on.
    pub because: String,
    pub weight: u32,
    #[serde(default)]
    pub group: Option<String>,
    pub doubted: bool,
    /// Why and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<DoubtView>,
    /// Known from what was kept at this moment, before the start; Consul was not heard of it since.
    #[serde(default)]
    pub remembered: Option<String>,
    /// `file`, `kv` or `consul`.
    pub source: String,
    pub in_flight: u64,
    /// Failures in a row.
    pub failures: u32,
    pub signals: Vec<SignalView>,
    /// Oldest first.
    pub history: Vec<TransitionView>,
}

/// Why a server that Consul does not name is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoubtView {
    /// A stable code: `many_lost`, `all_lost`, `many_lost_pod_wide`, `consul_state_lost`, `hidden_by_acl`.
    pub reason: String,
    pub evidence: String,
    pub since: String,
    pub since_s: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignalView {
    /// `consul`, `probe`, `passive` or `operator`.
    pub signal: String,
    /// `fit`, `warning`, `unknown` or `unfit`.
    pub verdict: String,
    pub reason: String,
    pub evidence: String,
    pub since: String,
    pub since_s: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransitionView {
    pub at: String,
    pub ago_s: u64,
    pub signal: String,
    pub from: String,
    pub to: String,
    pub evidence: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    pub name: String,
    pub host: String,
    pub path: String,
    pub service: String,
}

/// `/v1/status` at a moment.
pub fn status(state: &State, snapshot: &Snapshot, now: SystemTime) -> StatusView {
    let missing = missing(snapshot, state.gate.phase());
    let vitals = &state.vitals;
    let discovery = vitals
        .discovery_configured
        .load(Relaxed)
        .then(|| DiscoveryView {
            age_s: discovery_age_seconds(vitals, now),
            failing: vitals.discovery_failing.load(Relaxed).max(0),
            remembered: vitals.discovery_remembered_ms().map(moment),
            trouble: trouble::trouble(&snapshot.discovery, now),
        });
    StatusView {
        node: state.node.clone(),
        version: state.version.to_owned(),
        started: rfc3339::text(vitals.started_at),
        uptime_s: vitals.started.elapsed().as_secs(),
        ready: missing.is_empty(),
        missing,
        phase: phase_label(state.gate.phase()).to_owned(),
        node_drained: snapshot.node_drained,
        generation: snapshot.generation,
        workers: vitals.workers.len(),
        routes: snapshot.routes.routes().count(),
        listeners: snapshot.listeners.iter().map(|l| listener(l)).collect(),
        discovery,
        services: snapshot.services.values().map(|s| summary(s)).collect(),
        mistakes: mistakes(snapshot, now),
        canary: CanaryStatus::of(snapshot, now),
    }
}

fn moment(unix_ms: i64) -> String {
    let since = std::time::Duration::from_millis(unix_ms.unsigned_abs());
    rfc3339::text(SystemTime::UNIX_EPOCH + since)
}

fn listener(policy: &crate::routing::ListenerPolicy) -> ListenerView {
    ListenerView {
        name: policy.name.to_string(),
        address: policy.address.to_string(),
        protocol: policy.scheme.as_str().to_owned(),
    }
}

pub fn mistakes(snapshot: &Snapshot, now: SystemTime) -> Vec<MistakeView> {
    let mistake = |mistake: &crate::routing::snapshot::EntryMistake| MistakeView {
        entry: mistake.entry.clone(),
        message: mistake.message.clone(),
        in_force: mistake.in_force.to_owned(),
        since: rfc3339::text(mistake.since),
        since_s: seconds(mistake.since, now),
    };
    snapshot.mistakes.iter().map(mistake).collect()
}

pub fn summary(service: &Service) -> ServiceSummary {
    let members = &service.members;
    let up = members.iter().filter(|m| takes_turns(m)).count();
    ServiceSummary {
        name: service.name.to_string(),
        up,
        total: members.len(),
        doubted: members
            .iter()
            .filter(|m| m.standing.doubt.is_some())
            .count(),
        panic: up == 0
            && members
                .iter()
                .any(|m| m.weight > 0 && m.upstream.is_fit_in_panic()),
        groups: groups(service),
    }
}

fn groups(service: &Service) -> Vec<GroupView> {
    let view = |share: GroupShare| GroupView {
        name: share.name.to_string(),
        weight: share.weight,
        share: share.share,
        up: share.up,
        total: share.total,
    };
    service.group_shares().into_iter().map(view).collect()
}

fn takes_turns(member: &Member) -> bool {
    member.upstream.is_fit() && member.weight > 0
}

pub fn service(service: &Service, now: SystemTime) -> ServiceView {
    ServiceView {
        summary: summary(service),
        protocol: match service.protocol {
            Protocol::Http => "http",
            Protocol::Https(_) => "https",
            Protocol::H2c => "h2c",
            Protocol::H2(_) => "h2",
        }
        .to_owned(),
        retry_attempts: service.retry.attempts,
        servers: service
            .members
            .iter()
            .map(|m| server(service, m, now))
            .collect(),
    }
}

pub fn server(service: &Service, member: &Member, now: SystemTime) -> ServerView {
    let upstream = &member.upstream;
    let cells = upstream.cells().iter();
    ServerView {
        server: upstream.label().to_string(),
        address: upstream.address().to_string(),
        on_the_rota: takes_turns(member),
        because: because(service, member, now),
        weight: member.weight,
        group: member.standing.group.as_ref().map(ToString::to_string),
        doubted: member.standing.doubt.is_some(),
        doubt: member.standing.doubt.as_ref().map(|it| doubt(it, now)),
        remembered: member.standing.remembered.map(rfc3339::text),
        source: member.standing.source.to_owned(),
        in_flight: cells.map(|cell| u64::from(cell.in_flight())).sum(),
        failures: upstream.failures(),
        signals: signals(member, now),
        history: transitions(&member.standing.history, now),
    }
}

fn doubt(doubt: &Doubt, now: SystemTime) -> DoubtView {
    DoubtView {
        reason: doubt.reason.to_owned(),
        evidence: doubt.evidence.to_owned(),
        since: rfc3339::text(doubt.since),
        since_s: seconds(doubt.since, now),
    }
}

fn signals(member: &Member, now: SystemTime) -> Vec<SignalView> {
    let view = |(name, signal): (&str, &Signal)| SignalView {
        signal: name.to_owned(),
        verdict: verdict_label(signal.verdict).to_owned(),
        reason: signal.reason.to_owned(),
        evidence: evidence(name, signal, member),
        since: rfc3339::text(signal.since),
        since_s: seconds(signal.since, now),
    };
    member.standing.signals().into_iter().map(view).collect()
}

/// What Consul said before the start is told as such.
fn evidence(name: &str, signal: &Signal, member: &Member) -> String {
    match member.standing.remembered.filter(|_| name == "consul") {
        None => signal.evidence.to_string(),
        Some(of) => {
            let remembered = format!("remembered from {}", rfc3339::text(of));
            let said = [remembered.as_str(), &signal.evidence];
            said.join(": ").trim_end_matches(": ").to_owned()
        }
    }
}

fn transitions(history: &[Transition], now: SystemTime) -> Vec<TransitionView> {
    let view = |step: &Transition| TransitionView {
        at: rfc3339::text(step.at),
        ago_s: seconds(step.at, now),
        signal: step.signal.to_owned(),
        from: step.from.to_owned(),
        to: step.to.to_owned(),
        evidence: step.evidence.to_string(),
    };
    history.iter().map(view).collect()
}

/// The upstream's own bits come first: the data plane sets them at once, the standing follows with the next table.
fn because(service: &Service, member: &Member, now: SystemTime) -> String {
    let upstream = &member.upstream;
    let standing = &member.standing;
    if let Some((name, signal)) = standing.against() {
        let since = span(seconds(signal.since, now));
        return format!("{name} says {} for {since}", signal.reason);
    }
    let just_now = [
        (Unfit::Refused, "connections were refused just now"),
        (Unfit::Failing, "it failed requests in a row just now"),
        (Unfit::Check, "consul's checks turned critical just now"),
        (Unfit::Probe, "the probe failed just now"),
        (Unfit::Operator, "an operator took it out just now"),
        (Unfit::Gone, "it left the table just now"),
    ];
    if let Some((_, words)) = just_now.into_iter().find(|(bit, _)| upstream.has(*bit)) {
        return words.to_owned();
    }
    if member.weight == 0 {
        return without_a_turn(service, member);
    }
    if let Some(doubt) = &standing.doubt {
        let found = match standing.probe.verdict {
            Verdict::Fit => "but our own probe finds it well",
            Verdict::Warning | Verdict::Unknown | Verdict::Unfit => "and our own probe is to tell",
        };
        let why = doubt.evidence;
        return format!("it vanished from consul's answers, {found} ({why})");
    }
    if let Some(of) = standing.remembered {
        let of = rfc3339::text(of);
        return format!("remembered from {of}: consul was not heard of it since the start");
    }
    let warning = standing
        .signals()
        .into_iter()
        .find(|(_, signal)| signal.verdict == Verdict::Warning);
    match warning {
        Some((name, _)) => format!("{name} warns: it is in at its warning weight"),
        None => "nothing speaks against it".to_owned(),
    }
}

fn without_a_turn(service: &Service, member: &Member) -> String {
    let group = member.standing.group.as_ref();
    match (&service.groups, group) {
        (Some(_), None) => {
            "it is of no group, and the service is divided into groups: it takes no turn".to_owned()
        }
        (Some(groups), Some(group)) if groups.weight_of(Some(group)) == 0 => {
            match groups.iter().any(|(name, _)| name == group) {
                true => format!("its group {group} has the weight 0: it takes no turn"),
                false => {
                    format!("its group {group} is none of the service's groups: it takes no turn")
                }
            }
        }
        (Some(_) | None, _) => "its weight is 0: it takes no turn".to_owned(),
    }
}

pub fn route(route: &Route) -> RouteView {
    RouteView {
        name: route.name.to_string(),
        host: route.host.to_string(),
        path: route.path.to_string(),
        service: route.service.name.to_string(),
    }
}

/// By host (exact ones, then wildcards, then `*`), then by path.
pub fn routes(snapshot: &Snapshot) -> Vec<RouteView> {
    let rank = |host: &HostPattern| match host {
        HostPattern::Exact(_) => 0,
        HostPattern::Wildcard(_) => 1,
        HostPattern::Any => 2,
    };
    let sorted: BTreeMap<_, _> = snapshot
        .routes
        .routes()
        .map(|it| {
            (
                (rank(&it.host), it.host.to_string(), it.path.clone()),
                route(it),
            )
        })
        .collect();
    sorted.into_values().collect()
}

/// Whole seconds from a moment to `now`; 0 if it lies ahead.
pub fn seconds(from: SystemTime, now: SystemTime) -> u64 {
    now.duration_since(from).map_or(0, |span| span.as_secs())
}

/// A span for people: its two largest units.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_shows_its_two_largest_units() {
        for (seconds, text) in [
            (5, "5s"),
            (65, "1m05s"),
            (7_260, "2h01m"),
            (180_000, "2d02h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
