//! An explanation as people read it: the answer first, then the evidence.

use std::fmt::Write;

use super::request::may_be_id;
use super::{Answer, Explained, NotedView, RequestView, RouteAnswer, ServerOf};
use crate::admin::views::{GroupView, ServerView, ServiceView, TransitionView, span};
use crate::routing::Host;

/// What is wrong with Consul goes before all that it may explain.
pub fn told(explained: &Explained) -> String {
    let mut out = String::new();
    let lines = explained.consul.iter().flat_map(|consul| consul.lines());
    lines.for_each(|text| line(&mut out, 0, &text));
    out.push_str(&for_people(&explained.answer));
    if let Some(canary) = &explained.canary {
        line(&mut out, 0, &format!("canary: {}", canary.words()));
    }
    out
}

/// Several lines, each ended. Nothing in them moves a terminal's cursor: evidence comes from servers.
pub fn for_people(answer: &Answer) -> String {
    let mut out = String::new();
    match answer {
        Answer::Service(service) => about_service(&mut out, service),
        Answer::Servers { servers } => {
            for ServerOf { service, server } in servers {
                line(&mut out, 0, &format!("service {service}"));
                about_server(&mut out, server);
            }
        }
        Answer::Route(route) => about_route(&mut out, route),
        Answer::Requests { requests } => {
            requests.iter().for_each(|it| about_request(&mut out, it));
        }
        Answer::Unknown {
            question,
            near,
            noted,
        } => {
            line(&mut out, 0, &format!("nothing here is called {question:?}"));
            about_near(&mut out, near);
            if Host::parse(question).is_ok() {
                let text = format!("if it is a host, ask for {question}/");
                line(&mut out, 0, &text);
            }
            if let Some(noted) = noted.as_ref().filter(|_| may_be_id(question)) {
                about_noted(&mut out, noted);
            }
        }
    }
    out
}

fn line(out: &mut String, indent: usize, text: &str) {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    out.extend(std::iter::repeat_n(' ', indent * 2));
    out.extend(plain);
    out.push('\n');
}

fn about_near(out: &mut String, near: &[String]) {
    if !near.is_empty() {
        line(out, 0, &format!("did you mean {}?", near.join(", ")));
    }
}

fn about_service(out: &mut String, service: &ServiceView) {
    let summary = &service.summary;
    let mut head = format!(
        "service {}: {} of {} servers on the rota",
        summary.name, summary.up, summary.total
    );
    if summary.panic {
        head.push_str("; nobody is fit, so those serve whose only fault is a check's word");
    } else if summary.up == 0 {
        head.push_str("; requests are answered with 503");
    }
    line(out, 0, &head);
    for group in &summary.groups {
        line(out, 1, &about_group(group));
    }
    for server in &service.servers {
        about_server(out, server);
    }
}

/// `group blue: 90 % of the requests (weight 90), 3 of 3 servers on the rota`.
pub fn about_group(group: &GroupView) -> String {
    format!(
        "group {}: {} of the requests (weight {}), {} of {} servers on the rota",
        group.name,
        percent(group.share),
        group.weight,
        group.up,
        group.total
    )
}

/// As few digits as tell it: `90 %`, `0.5 %`.
pub fn percent(share: f64) -> String {
    let hundredths = (share * 10_000.0).round() / 100.0;
    format!("{hundredths} %")
}

fn about_server(out: &mut String, server: &ServerView) {
    let state = if server.on_the_rota { "on" } else { "off" };
    let mut head = format!("{} is {state} the rota: {}", server.server, server.because);
    let _ = write!(head, " (weight {}, from {}", server.weight, server.source);
    if let Some(group) = &server.group {
        let _ = write!(head, ", group {group}");
    }
    if server.doubted {
        head.push_str(", doubted");
    }
    if server.remembered.is_some() {
        head.push_str(", remembered");
    }
    let _ = write!(head, ", {} in flight)", server.in_flight);
    line(out, 1, &head);
    if let Some(doubt) = &server.doubt {
        let (reason, since) = (&doubt.reason, span(doubt.since_s));
        let text = format!("doubted  {reason} for {since}: {}", doubt.evidence);
        line(out, 2, &text);
    }
    for signal in &server.signals {
        let mut text = format!(
            "{:<9}{:<8} {} for {}",
            signal.signal,
            signal.verdict,
            signal.reason,
            span(signal.since_s)
        );
        if !signal.evidence.is_empty() {
            let _ = write!(text, ": {}", signal.evidence);
        }
        line(out, 2, &text);
    }
    for step in &server.history {
        let mut text = format!(
            "{} ago: {} {} -> {}",
            span(step.ago_s),
            step.signal,
            step.from,
            step.to
        );
        if !step.evidence.is_empty() {
            let _ = write!(text, " ({})", step.evidence);
        }
        line(out, 3, &text);
    }
}

fn about_route(out: &mut String, answer: &RouteAnswer) {
    let asked = format!("{}{}", answer.host, answer.path);
    match &answer.route {
        Some(route) => {
            let way = format!(
                "{asked} goes by route {} ({} {}) to service {}",
                route.name, route.host, route.path, route.service
            );
            line(out, 0, &way);
            line(out, 1, &format!("since {}", answer.because));
        }
        None => line(out, 0, &format!("{asked}: {}", answer.because)),
    }
    for other in &answer.others {
        let route = &other.route;
        let text = format!(
            "not by {} ({} {}): {}",
            route.name, route.host, route.path, other.why_not
        );
        line(out, 1, &text);
    }
    about_near(out, &answer.near);
    if let Some(service) = &answer.service {
        about_service(out, service);
    }
}

fn about_request(out: &mut String, request: &RequestView) {
    let RequestView { id, at, ago_s, .. } = request;
    let ago = span(*ago_s);
    line(out, 0, &format!("request {id}, ended {at} ({ago} ago)"));
    let asked = format!(
        "{} {}{} from {} over {} at listener {}",
        request.method,
        request.host,
        request.path,
        request.client,
        request.version,
        request.listener
    );
    line(out, 1, &asked);
    let sent = match request.status {
        0 => "nothing was answered".to_owned(),
        status => format!("answered with {status}"),
    };
    let ended = format!(
        "{sent} after {} ms: {} ({})",
        request.duration_ms, request.reason, request.meaning
    );
    line(out, 1, &ended);
    let route = &request.route;
    let way = format!(
        "by route {} ({} {}) to service {}, since {}",
        route.name, route.host, route.path, route.service, request.because
    );
    line(out, 1, &way);
    about_attempts(out, request);
    for server in &request.servers {
        line(out, 1, &format!("{} is now {}", server.server, server.now));
        for step in &server.around {
            let TransitionView {
                at,
                signal,
                from,
                to,
                evidence,
                ..
            } = step;
            let text = format!("{at}: {signal} {from} -> {to} ({evidence})");
            line(out, 2, text.trim_end_matches(" ()"));
        }
    }
    if let Some(server) = request.servers.first() {
        line(out, 1, &format!("more of it: rota why {}", server.server));
    }
}

fn about_attempts(out: &mut String, request: &RequestView) {
    for (number, attempt) in request.tried.iter().enumerate() {
        let mut text = format!("attempt {}: {}", number + 1, attempt.upstream);
        match attempt.status {
            Some(status) => text.push_str(&format!(" answered {status}")),
            None => text.push_str(&format!(" {}", attempt.outcome)),
        }
        text.push_str(&format!(" after {} ms", attempt.ms));
        if !attempt.error.is_empty() {
            text.push_str(&format!(": {}", attempt.error));
        }
        line(out, 1, &text);
    }
    if request.tried.is_empty() {
        line(out, 1, "no server was asked");
    }
}

/// To whoever asks for an id that is not held.
fn about_noted(out: &mut String, noted: &NotedView) {
    let NotedView { held, since } = noted;
    for text in [
        format!(
            "if it is a request's id: none with it failed or was sent again on this load balancer since {since} ({held} such requests are held, limits.noted_requests)"
        ),
        "what goes well, or is refused for its client's fault, is not held: the access log has it by its request_id; other load balancers hold their own".to_owned(),
    ] {
        line(out, 0, &text);
    }
}
