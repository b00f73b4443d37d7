//! An explanation as people read it: the answer first, then the evidence.

use std::fmt::Write;

use super::{Answer, RouteAnswer, ServerOf};
use crate::admin::views::{GroupView, ServerView, ServiceView, span};
use crate::routing::Host;

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
        Answer::Unknown { question, near } => {
            line(&mut out, 0, &format!("nothing here is called {question:?}"));
            about_near(&mut out, near);
            if Host::parse(question).is_ok() {
                let text = format!("if it is a host, ask for {question}/");
                line(&mut out, 0, &text);
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
