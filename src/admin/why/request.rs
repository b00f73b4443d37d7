//! Why a request failed or was sent again: its route, its attempts, its servers then and now.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::chosen_because;
use crate::admin::views::{self, RouteView, TransitionView};
use crate::routing::{Member, Service, Snapshot};
use crate::telemetry::noted::MAX_ALIKE;
use crate::telemetry::rfc3339::{self, Writer};
use crate::telemetry::{Attempt, NotedRequest, Vitals};

/// What happened to a server so long before and after a request is told with it.
pub const AROUND: Duration = Duration::from_secs(60);
/// Servers that are told of a request that came to none of them.
pub const MAX_SERVERS: usize = 20;
/// Asks for a request's id, whatever else is called so.
const PREFIX: &str = "request:";

/// One request that failed or was sent again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestView {
    /// As in `X-Request-Id` and the access log.
    pub id: String,
    /// When it ended, to the millisecond, as in the access log.
    pub at: String,
    pub ago_s: u64,
    pub client: String,
    pub listener: String,
    pub version: String,
    pub method: String,
    pub host: String,
    /// Without its query, cut at 512 bytes.
    pub path: String,
    pub route: RouteView,
    /// Why that route.
    pub because: String,
    /// 0: no answer was sent.
    pub status: u16,
    /// As in the access log.
    pub reason: String,
    pub meaning: String,
    pub duration_ms: f64,
    /// As in the access log.
    pub attempts: u32,
    /// In their order.
    pub tried: Vec<AttemptView>,
    /// Those that were tried; those of its service where none was.
    pub servers: Vec<ServerNow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptView {
    pub upstream: String,
    /// As in `rota_upstream_requests_total`.
    pub outcome: String,
    /// Empty: it answered.
    pub error: String,
    /// Null: there was no answer.
    pub status: Option<u16>,
    pub ms: f64,
}

/// A server that had to do with a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerNow {
    /// The name for `rota why`.
    pub server: String,
    /// How it stands at this moment.
    pub now: String,
    /// Its transitions within [`AROUND`] of the request's end.
    pub around: Vec<TransitionView>,
}

/// How far what is held of requests reaches.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotedView {
    pub held: usize,
    /// Requests that failed or were sent again and ended before are not held.
    pub since: String,
}

/// The id that is asked for beyond doubt; None: it may be anything.
pub(super) fn named(question: &str) -> Option<&str> {
    question.strip_prefix(PREFIX).map(str::trim)
}

/// Whether a word may be an id: rota's own are 32 digits, others have digits, too.
pub(super) fn may_be_id(word: &str) -> bool {
    let is_usual = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b);
    let has_digit = word.bytes().any(|b| b.is_ascii_digit());
    (16..=128).contains(&word.len()) && has_digit && word.bytes().all(is_usual)
        || named(word).is_some()
}

/// All requests with this id that are held, newest first.
pub(super) fn about(
    snapshot: &Snapshot,
    vitals: &Vitals,
    id: &str,
    now: SystemTime,
) -> Vec<RequestView> {
    let workers = vitals.workers.iter();
    let mut found: Vec<NotedRequest> = workers.flat_map(|w| w.noted.named(id)).collect();
    found.sort_by_key(|request| std::cmp::Reverse(request.at));
    found.truncate(MAX_ALIKE);
    found
        .iter()
        .map(|request| view(snapshot, request, now))
        .collect()
}

/// How many requests are held, and since when.
pub(super) fn reach(vitals: &Vitals) -> NotedView {
    let workers = || vitals.workers.iter().map(|worker| &worker.noted);
    let since = workers().filter_map(|noted| noted.reaches_back_to()).max();
    NotedView {
        held: workers().map(|noted| noted.held()).sum(),
        since: rfc3339::text(since.unwrap_or(vitals.started_at)),
    }
}

fn view(snapshot: &Snapshot, request: &NotedRequest, now: SystemTime) -> RequestView {
    let route = &request.route;
    RequestView {
        id: request.id.to_string(),
        at: Writer::default().write(request.at).to_owned(),
        ago_s: views::seconds(request.at, now),
        client: request.client.to_string(),
        listener: request.listener.to_string(),
        version: request.version.to_owned(),
        method: request.method.to_string(),
        host: request.host.to_string(),
        path: request.path.to_string(),
        because: chosen_because(&route.host, &route.path),
        route: RouteView {
            name: route.name.to_string(),
            host: route.host.to_string(),
            path: route.path.to_string(),
            service: route.service.to_string(),
        },
        status: request.status,
        reason: request.reason.label().to_owned(),
        meaning: request.reason.meaning().to_owned(),
        duration_ms: milliseconds(request.duration),
        attempts: request.attempts,
        tried: request.tried.iter().map(attempt).collect(),
        servers: servers(snapshot, request, now),
    }
}

fn attempt(attempt: &Attempt) -> AttemptView {
    AttemptView {
        upstream: attempt.upstream.to_string(),
        outcome: attempt.outcome.label().to_owned(),
        error: attempt.error.to_owned(),
        status: attempt.status,
        ms: milliseconds(attempt.lasted),
    }
}

/// To the microsecond, as in the access log.
fn milliseconds(span: Duration) -> f64 {
    span.as_micros() as f64 / 1e3
}

/// In the order in which they were tried.
fn servers(snapshot: &Snapshot, request: &NotedRequest, now: SystemTime) -> Vec<ServerNow> {
    let name = &request.route.service;
    let gone = |server: String, now: &str| ServerNow {
        server,
        now: now.to_owned(),
        around: Vec::new(),
    };
    let Some(service) = snapshot.services.get(name) else {
        return vec![gone(name.to_string(), "gone: there is no such service")];
    };
    let members = || service.members.iter();
    if request.tried.is_empty() {
        let asked = members().take(MAX_SERVERS);
        return asked.map(|it| server(service, it, request, now)).collect();
    }
    let mut seen = BTreeSet::new();
    let labels = request.tried.iter().map(|attempt| &*attempt.upstream);
    let labels = labels.filter(|label| seen.insert(*label));
    let found =
        labels.map(
            |label| match members().find(|member| &**member.upstream.label() == label) {
                Some(member) => server(service, member, request, now),
                None => gone(format!("{name}/{label}"), "gone: no server of the service"),
            },
        );
    found.collect()
}

fn server(
    service: &Service,
    member: &Member,
    request: &NotedRequest,
    now: SystemTime,
) -> ServerNow {
    let view = views::server(service, member, now);
    let history = &member.standing.history;
    let is_near = |at: SystemTime| {
        at.duration_since(request.at)
            .unwrap_or_else(|before| before.duration())
            <= AROUND
    };
    let steps = view.history.into_iter().zip(history.iter());
    let near = steps.filter(|(_, step)| is_near(step.at));
    let state = if view.on_the_rota { "on" } else { "off" };
    ServerNow {
        server: format!("{}/{}", service.name, view.server),
        now: format!("{state} the rota: {}", view.because),
        around: near.map(|(view, _)| view).collect(),
    }
}
