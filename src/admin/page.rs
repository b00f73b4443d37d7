//! The status page: one HTML document that needs nothing from elsewhere, runs no script and refreshes itself.

use std::fmt::Write;

use super::views::{MistakeView, ServiceView, StatusView, span};

/// Allows the page its own style and nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:76em;padding:0 1em;color:#1b1f24;background:#fff}\
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;padding:.25em .8em .25em 0;border-bottom:1px solid #d8dee4;vertical-align:top}\
.good{color:#116329}.bad{color:#a40e26;font-weight:600}.dim{color:#656d76}\
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}td,th{border-color:#30363d}.good{color:#3fb950}.bad{color:#ff7b72}.dim{color:#8b949e}}";

/// The whole document.
pub fn render(status: &StatusView, services: &[ServiceView]) -> String {
    let mut out = String::with_capacity(4096);
    let node = escaped(&status.node);
    let _ = write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>\
         <meta name=viewport content=\"width=device-width\"><title>rota {node}</title><style>{STYLE}</style><h1>rota on {node}</h1>"
    );
    overview(&mut out, status);
    mistakes(&mut out, &status.mistakes);
    for service in services {
        one_service(&mut out, service);
    }
    out.push_str(
        "<p class=dim><a href=/metrics>/metrics</a> <a href=/v1/status>/v1/status</a> <a href=/v1/services>/v1/services</a> \
         <a href=/v1/routes>/v1/routes</a> <a href=/v1/certificates>/v1/certificates</a></p></html>\n",
    );
    out
}

fn overview(out: &mut String, status: &StatusView) {
    if status.ready {
        out.push_str("<p class=good>ready</p>");
    } else {
        let missing = escaped(&status.missing.join("; "));
        let _ = write!(out, "<p class=bad>not ready: {missing}</p>");
    }
    if let Some(canary) = &status.canary {
        let canary = escaped(&canary.words());
        let _ = write!(out, "<p class=bad>canary: {canary}</p>");
    }
    let discovery = match &status.discovery {
        None => "not configured".to_owned(),
        Some(view) => match view.age_s {
            None => "no answer yet".to_owned(),
            Some(age) => {
                let remembered = match &view.remembered {
                    Some(of) => format!(", from the state of {of}, Consul not reached yet"),
                    None => String::new(),
                };
                format!(
                    "{} old{remembered}, {} failing",
                    span(age as u64),
                    view.failing
                )
            }
        },
    };
    let _ = write!(
        out,
        "<p class=dim>version {} · up {} · table {} · {} routes · {} workers · discovery {}</p>",
        escaped(&status.version),
        span(status.uptime_s),
        status.generation,
        status.routes,
        status.workers,
        escaped(&discovery)
    );
}

fn mistakes(out: &mut String, mistakes: &[MistakeView]) {
    if mistakes.is_empty() {
        return;
    }
    out.push_str(
        "<h2 class=bad>Mistakes</h2><table><tr><th>entry<th>what is wrong<th>in force<th>since",
    );
    for mistake in mistakes {
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{} ago",
            escaped(&mistake.entry),
            escaped(&mistake.message.replace('\n', "; ")),
            escaped(&mistake.in_force),
            span(mistake.since_s)
        );
    }
    out.push_str("</table>");
}

fn one_service(out: &mut String, service: &ServiceView) {
    let summary = &service.summary;
    let class = if summary.up == summary.total && summary.total > 0 {
        "good"
    } else {
        "bad"
    };
    let _ = write!(
        out,
        "<h2>{} <span class={class}>{} of {}</span></h2><table><tr><th>server<th>on the rota<th>because<th>weight<th>in flight<th>signals",
        escaped(&summary.name),
        summary.up,
        summary.total
    );
    for server in &service.servers {
        let (class, word) = match server.on_the_rota {
            true => ("good", "on"),
            false => ("bad", "off"),
        };
        let _ = write!(
            out,
            "<tr><td>{}<td class={class}>{word}<td>{}<td>{}<td>{}<td class=dim>",
            escaped(&server.server),
            escaped(&server.because),
            server.weight,
            server.in_flight
        );
        for signal in &server.signals {
            let _ = write!(
                out,
                "{}: {} ({}) ",
                escaped(&signal.signal),
                escaped(&signal.verdict),
                escaped(&signal.reason)
            );
        }
    }
    out.push_str("</table>");
}

/// Safe as text and within quoted attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_text_on_the_page() {
        assert_eq!(
            escaped("<script>\"&'\0"),
            "&lt;script&gt;&quot;&amp;&#39;\u{fffd}"
        );
    }
}
