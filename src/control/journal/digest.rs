//! What stands for a table: the same for the same routes, servers and reasons, wherever and whenever they were decided.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::control::model::Model;
use crate::control::service_state::ServiceState;
use crate::routing::ServiceName;
use crate::seal::Digest;

/// Digits of a digest that is shown: enough to tell tables apart, no more.
const DIGITS: usize = 16;

/// What did not change is not looked at again: each with the revision that its digest is of.
#[derive(Debug, Default)]
pub struct Digests {
    services: BTreeMap<ServiceName, (u64, Digest)>,
    routes: Option<(u64, Digest)>,
}

impl Digests {
    /// Hex digits.
    pub fn of(&mut self, model: &Model) -> String {
        self.services
            .retain(|name, _| model.services().contains_key(name));
        let mut whole = Vec::new();
        for (name, state) in model.services() {
            let known = self
                .services
                .get(name)
                .filter(|(of, _)| *of == state.revision());
            let digest = match known {
                Some((_, digest)) => *digest,
                None => {
                    let digest = Digest::of(lines_of(state).as_bytes());
                    self.services
                        .insert(name.clone(), (state.revision(), digest));
                    digest
                }
            };
            whole.extend_from_slice(name.as_str().as_bytes());
            whole.push(b'\n');
            whole.extend_from_slice(digest.bytes());
        }
        let revision = model.routes_revision();
        let known = self.routes.filter(|(of, _)| *of == revision);
        let (_, routes) = *self
            .routes
            .insert(known.unwrap_or_else(|| (revision, of_routes(model))));
        whole.extend_from_slice(routes.bytes());
        let mut digits = Digest::of(&whole).to_hex();
        digits.truncate(DIGITS);
        digits
    }
}

fn of_routes(model: &Model) -> Digest {
    let mut lines = String::new();
    for route in model.routes() {
        let _ = writeln!(lines, "{}{} {}", route.host, route.path, route.service);
    }
    Digest::of(lines.as_bytes())
}

/// A line a server: who it is, its weight, what each signal says.
fn lines_of(state: &ServiceState) -> String {
    let entry = state.entry();
    let mut lines = format!(
        "{} {:?} {:?}\n",
        state.origin(),
        entry.protocol,
        entry.groups
    );
    for member in state.members().values() {
        let _ = write!(
            lines,
            "{} {} {}",
            member.facts.label,
            state.weight_of(member),
            member.is_doubted()
        );
        for (name, signal) in member.standing.signals() {
            let _ = write!(lines, " {name} {}", signal.reason);
        }
        lines.push('\n');
    }
    lines
}
