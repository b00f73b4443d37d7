//! Why things are as they are: of a service, a server, a host, a URL or a request, as data and in words.

mod request;
mod words;

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::canary::CanaryStatus;
use super::near::nearest;
use super::trouble::ConsulView;
use super::views::{self, RouteView, ServerView, ServiceView};
use crate::routing::path::{canonical, without_query};
use crate::routing::{Host, HostPattern, Member, NoRoute, Prefix, Route, Service, Snapshot};
use crate::telemetry::Vitals;

pub use request::{AROUND, AttemptView, MAX_SERVERS, NotedView, RequestView, ServerNow};
pub use words::{for_people, percent, told};

/// Longer questions are not looked at.
pub const MAX_QUESTION_LEN: usize = 2048;
/// Routes listed beside the one that was chosen.
pub const MAX_OTHER_ROUTES: usize = 50;

/// `GET /v1/why`: what was asked about, and how it stands with Consul.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    #[serde(flatten)]
    pub answer: Answer,
    /// Null: nothing is wrong with Consul, and nothing was of late.
    #[serde(default)]
    pub consul: Option<ConsulView>,
    /// What is tried in this pod: elsewhere in it there may be another answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
}

/// What was asked about, found by its shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    Service(ServiceView),
    /// Servers with an address or a label: one in each service that has it.
    Servers {
        servers: Vec<ServerOf>,
    },
    Route(Box<RouteAnswer>),
    /// Requests with that id that failed or were sent again, newest first.
    Requests {
        requests: Vec<RequestView>,
    },
    Unknown {
        question: String,
        /// What may have been meant.
        near: Vec<String>,
        /// How far what is held of requests reaches, should it be an id; null: nobody is running who would hold any.
        #[serde(default)]
        noted: Option<NotedView>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerOf {
    pub service: String,
    #[serde(flatten)]
    pub server: ServerView,
}

/// Where a request for a host and path goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteAnswer {
    pub host: String,
    pub path: String,
    /// Null: there is none, `because` says why.
    pub route: Option<RouteView>,
    pub because: String,
    /// Routes that have the host or the path too and did not get it; at most [`MAX_OTHER_ROUTES`].
    pub others: Vec<OtherRoute>,
    pub service: Option<ServiceView>,
    /// Hosts that may have been meant, where no route has this one.
    pub near: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OtherRoute {
    #[serde(flatten)]
    pub route: RouteView,
    pub why_not: String,
}

/// Takes `SERVICE`, `SERVICE/SERVER`, `address:port`, an address, a host, `host/path` or a URL; a service's name goes before a host's.
pub fn explain(snapshot: &Snapshot, question: &str, now: SystemTime) -> Answer {
    let question = question.trim();
    if question.is_empty() || question.len() > MAX_QUESTION_LEN {
        return unknown(snapshot, question);
    }
    if let Some((_, rest)) = question.split_once("://") {
        return about_url(snapshot, question, rest, now);
    }
    if let Some(service) = snapshot.services.get(question) {
        return Answer::Service(views::service(service, now));
    }
    if let Some((name, server)) = question.split_once('/')
        && let Some(service) = snapshot.services.get(name)
    {
        return about_server(service, question, server, now);
    }
    let servers = servers_named(snapshot, question, now);
    if !servers.is_empty() {
        return Answer::Servers { servers };
    }
    if looks_like_host(snapshot, question) {
        return about_url(snapshot, question, question, now);
    }
    unknown(snapshot, question)
}

/// As [`explain`], of a running rota: requests besides, by their ids.
pub fn explain_live(
    snapshot: &Snapshot,
    vitals: &Vitals,
    question: &str,
    now: SystemTime,
) -> Explained {
    Explained {
        answer: with_requests(snapshot, vitals, question, now),
        consul: ConsulView::of(&snapshot.discovery, Some(vitals), now),
        canary: None,
    }
}

/// `request:ID`, or the id alone where the table has nothing of that name.
fn with_requests(snapshot: &Snapshot, vitals: &Vitals, question: &str, now: SystemTime) -> Answer {
    let question = question.trim();
    let answer = match request::named(question) {
        Some(_) => unknown(snapshot, question),
        None => explain(snapshot, question, now),
    };
    let is_found = match &answer {
        Answer::Service(_) | Answer::Servers { .. } | Answer::Requests { .. } => true,
        Answer::Route(found) => found.route.is_some(),
        Answer::Unknown { .. } => false,
    };
    if is_found {
        return answer;
    }
    let id = request::named(question).unwrap_or(question);
    let requests = request::about(snapshot, vitals, id, now);
    match answer {
        _ if !requests.is_empty() => Answer::Requests { requests },
        Answer::Unknown { question, near, .. } => Answer::Unknown {
            question,
            near,
            noted: Some(request::reach(vitals)),
        },
        other => other,
    }
}

fn unknown(snapshot: &Snapshot, question: &str) -> Answer {
    let services = snapshot.services.keys().map(|name| name.as_str());
    let mut near = nearest(question, services);
    near.extend(near_hosts(snapshot, question));
    Answer::Unknown {
        question: question.chars().take(256).collect(),
        near,
        noted: None,
    }
}

fn near_hosts(snapshot: &Snapshot, host: &str) -> Vec<String> {
    let mut hosts: Vec<String> = snapshot
        .routes
        .routes()
        .filter(|route| route.host != HostPattern::Any)
        .map(|route| route.host.to_string())
        .collect();
    hosts.sort();
    hosts.dedup();
    nearest(host, hosts.iter().map(String::as_str))
}

fn about_server(service: &Service, question: &str, server: &str, now: SystemTime) -> Answer {
    let found: Vec<ServerOf> = service
        .members
        .iter()
        .filter(|member| is_named(member, server))
        .map(|member| server_of(service, member, now))
        .collect();
    if !found.is_empty() {
        return Answer::Servers { servers: found };
    }
    let labels = service.members.iter().map(|m| &**m.upstream.label());
    let near = nearest(server, labels)
        .into_iter()
        .map(|label| format!("{}/{label}", service.name))
        .collect();
    Answer::Unknown {
        question: question.to_owned(),
        near,
        noted: None,
    }
}

fn servers_named(snapshot: &Snapshot, question: &str, now: SystemTime) -> Vec<ServerOf> {
    snapshot
        .services
        .values()
        .flat_map(|service| service.members.iter().map(move |member| (service, member)))
        .filter(|(_, member)| is_named(member, question))
        .map(|(service, member)| server_of(service, member, now))
        .collect()
}

/// By label, by `address:port`, or by address alone.
fn is_named(member: &Member, asked: &str) -> bool {
    let upstream = &member.upstream;
    let literal = asked.trim_matches(['[', ']']);
    &**upstream.label() == asked
        || asked.parse::<SocketAddr>() == Ok(upstream.address())
        || literal.parse::<IpAddr>() == Ok(upstream.address().ip())
}

fn server_of(service: &Service, member: &Member, now: SystemTime) -> ServerOf {
    ServerOf {
        service: service.name.to_string(),
        server: views::server(service, member, now),
    }
}

/// A host has a dot, a colon, a bracket or a path, or is a route's, or `localhost`: any other word is a service mistyped, and who means a
/// host writes a slash behind it. A route for `*` makes no host of each word.
fn looks_like_host(snapshot: &Snapshot, question: &str) -> bool {
    Host::parse(split_authority(question).0).is_ok_and(|host| {
        let is_routed = || {
            let mut routes = snapshot.routes.routes();
            routes.any(|route| matches!(&route.host, HostPattern::Exact(known) if *known == host))
        };
        question.contains(['.', ':', '[', '/']) || host.as_str() == "localhost" || is_routed()
    })
}

fn split_authority(rest: &str) -> (&str, &str) {
    match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

fn about_url(snapshot: &Snapshot, question: &str, rest: &str, now: SystemTime) -> Answer {
    let (authority, target) = split_authority(rest);
    let target = target.split('#').next().unwrap_or_default();
    let path = match without_query(target) {
        "" => "/",
        path => path,
    };
    let Ok(host) = Host::parse(authority) else {
        return unknown(snapshot, question);
    };
    Answer::Route(Box::new(about_route(snapshot, host, path, now)))
}

fn about_route(snapshot: &Snapshot, host: Host, path: &str, now: SystemTime) -> RouteAnswer {
    let (found, because) = match decide(snapshot, &host, path) {
        Ok(route) => (Some(route), chosen_because(&route.host, &route.path)),
        Err(refused) => (None, refused),
    };
    let near = match snapshot.routes.find(host.as_str(), path) {
        Err(NoRoute::Host) => near_hosts(snapshot, host.as_str()),
        _ => Vec::new(),
    };
    RouteAnswer {
        others: others(snapshot, &host, path, found),
        host: host.to_string(),
        path: path.to_owned(),
        route: found.map(views::route),
        because,
        service: found.map(|route| views::service(&route.service, now)),
        near,
    }
}

/// As requests are routed: the path as it stands and its canonical form have to lead to the same route.
fn decide<'a>(snapshot: &'a Snapshot, host: &Host, path: &str) -> Result<&'a Route, String> {
    let plain = canonical(path).map_err(|error| format!("it is refused with 400: {error}"))?;
    let of = |path: &str| snapshot.routes.find(host.as_str(), path);
    match (of(path), of(&plain)) {
        (Ok(as_sent), Ok(meant)) if as_sent.number == meant.number => Ok(as_sent),
        (Err(NoRoute::Host), _) => Err("it is refused with 404: no route has this host".into()),
        (Err(NoRoute::Path), Err(_)) => {
            let deciding = deciding_host(snapshot, host).map(ToString::to_string);
            let deciding = deciding.unwrap_or_default();
            Err(format!(
                "it is refused with 404: the most specific host decides, {deciding}, and no route of it has this path"
            ))
        }
        _ => Err(format!(
            "it is refused with 400: as it stands and as servers may read it ({plain}) the path leads to different routes"
        )),
    }
}

fn chosen_because(host: &HostPattern, path: &Prefix) -> String {
    let of_host = match host {
        HostPattern::Exact(_) => "its host is exactly this one".to_owned(),
        HostPattern::Wildcard(_) => {
            format!("its host {host} is the longest wildcard that has this one")
        }
        HostPattern::Any => "no other route has this host, and its host is *".to_owned(),
    };
    let of_path = match path.depth() {
        0 => "no longer path of that host has this one".to_owned(),
        _ => format!("{path} is the longest path of that host that has this one"),
    };
    format!("{of_host}; {of_path}")
}

fn covers(pattern: &HostPattern, host: &Host) -> bool {
    match pattern {
        HostPattern::Exact(known) => known == host,
        HostPattern::Wildcard(suffix) => host
            .as_str()
            .strip_suffix(suffix.as_str())
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        HostPattern::Any => true,
    }
}

/// The host that decides before any path is looked at: the exact one, else the longest wildcard, else `*`.
fn deciding_host<'a>(snapshot: &'a Snapshot, host: &Host) -> Option<&'a HostPattern> {
    let covering = snapshot.routes.routes().map(|route| &route.host);
    let weight = |pattern: &&HostPattern| match pattern {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Wildcard(suffix) => suffix.as_str().len(),
        HostPattern::Any => 0,
    };
    covering
        .filter(|pattern| covers(pattern, host))
        .max_by_key(weight)
}

fn others(snapshot: &Snapshot, host: &Host, path: &str, chosen: Option<&Route>) -> Vec<OtherRoute> {
    let deciding = deciding_host(snapshot, host);
    let mut others: Vec<OtherRoute> = snapshot
        .routes
        .routes()
        .filter(|other| covers(&other.host, host))
        .filter(|other| chosen.is_none_or(|chosen| !std::ptr::eq(&***other, chosen)))
        .map(|other| OtherRoute {
            route: views::route(other),
            why_not: match deciding {
                Some(deciding) if *deciding != other.host => {
                    format!("the more specific host {deciding} decides, before any path")
                }
                _ => why_not(other, path, chosen).to_owned(),
            },
        })
        .collect();
    others.sort_by(|a, b| (&a.route.host, &a.route.path).cmp(&(&b.route.host, &b.route.path)));
    others.truncate(MAX_OTHER_ROUTES);
    others
}

/// Of a route whose host is the one that decides.
fn why_not(other: &Route, path: &str, chosen: Option<&Route>) -> &'static str {
    match (other.path.has(path), chosen) {
        (false, _) => "its path does not have this one",
        (true, Some(_)) => "another route's path is longer",
        (true, None) => "the request is refused before",
    }
}

#[cfg(test)]
pub(super) mod tests;
