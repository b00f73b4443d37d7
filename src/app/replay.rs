//! `rota replay`: the table that a journal tells of, with its reasons, on whatever machine.

use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::cli::Form;
use crate::admin::trouble::ConsulView;
use crate::admin::views::{self, MistakeView, RouteView, ServiceView};
use crate::admin::why;
use crate::control::journal::replay::{Replayed, replay};
use crate::telemetry::rfc3339;

#[derive(Serialize)]
struct View {
    node: String,
    at: String,
    generation: u64,
    /// Events of the journal up to that moment, and tables that came out as they were published.
    events: u64,
    tables: u64,
    notes: Vec<String>,
    services: Vec<ServiceView>,
    routes: Vec<RouteView>,
    mistakes: Vec<MistakeView>,
}

/// What is to be printed. The error is a message.
pub fn replayed(
    journal: &Path,
    at: Option<SystemTime>,
    what: Option<&str>,
    form: &Form,
) -> Result<String, String> {
    let replayed = replay(journal, at)?;
    let Some(what) = what else {
        let view = view_of(replayed);
        return Ok(match form.json {
            true => json(&view),
            false => for_people(&view),
        });
    };
    let explained = why::Explained {
        answer: why::explain(&replayed.snapshot, what, replayed.at),
        consul: ConsulView::of(&replayed.snapshot.discovery, None, replayed.at),
        canary: None,
    };
    Ok(match form.json {
        true => json(&explained),
        false => why::told(&explained),
    })
}

fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("views have text keys alone");
    text.push('\n');
    text
}

fn view_of(replayed: Replayed) -> View {
    let (snapshot, at) = (&replayed.snapshot, replayed.at);
    View {
        at: rfc3339::text(at),
        generation: snapshot.generation,
        events: replayed.events,
        tables: replayed.tables,
        services: snapshot
            .services
            .values()
            .map(|service| views::service(service, at))
            .collect(),
        routes: views::routes(snapshot),
        mistakes: views::mistakes(snapshot, at),
        node: replayed.node,
        notes: replayed.notes,
    }
}

fn for_people(view: &View) -> String {
    let mut text = format!(
        "{} at {}: table {}, {} services, {} routes ({} events, {} tables as they were published)\n",
        view.node,
        view.at,
        view.generation,
        view.services.len(),
        view.routes.len(),
        view.events,
        view.tables
    );
    for note in &view.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    for mistake in &view.mistakes {
        text.push_str(&format!(
            "{}: {} ({})\n",
            mistake.entry, mistake.message, mistake.in_force
        ));
    }
    for service in &view.services {
        text.push_str(&why::for_people(&why::Answer::Service(service.clone())));
    }
    // A journal may come from somebody else: nothing in it moves the cursor.
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}
