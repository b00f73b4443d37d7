//! Staged documents held to the very readers that read those in KV: all mistakes at once. Pure.

use crate::config::document;
use crate::config::{ConsulService, Mistake, ServerSource, ServiceEntry, Tuning};
use crate::routing::staged::{Kind, Staged, StagedMistake};

/// A longer document is not staged: with its place in a revision it would not fit a transaction.
pub const MAX_STAGED_DOCUMENT_BYTES: usize = 256 * 1024;
/// So many mistakes are told; the rest is only counted.
pub const MAX_STAGED_MISTAKES: usize = 1000;

/// What Consul has to be asked about, and what is wrong.
pub fn check(staged: &Staged, base: &Tuning) -> (Vec<ConsulService>, Vec<StagedMistake>) {
    let mut mistakes = Vec::new();
    let mut services = Vec::new();
    for (path, text) in &staged.documents {
        match read(path, text, staged, base) {
            Ok(Some(entry)) => services.extend(in_consul(entry)),
            Ok(None) => {}
            Err(wrong) => mistakes.extend(wrong),
        }
    }
    let more = mistakes.len().saturating_sub(MAX_STAGED_MISTAKES);
    mistakes.truncate(MAX_STAGED_MISTAKES);
    if more > 0 {
        let problem = format!("and {more} more mistakes");
        mistakes.push(whole("", problem));
    }
    (services, mistakes)
}

fn read(
    path: &str,
    text: &str,
    staged: &Staged,
    base: &Tuning,
) -> Result<Option<ServiceEntry>, Vec<StagedMistake>> {
    let Some((kind, name)) = Kind::parted(path).filter(|(kind, _)| staged.kinds.contains(kind))
    else {
        let problem = "no document of the kinds that are staged";
        return Err(vec![whole(path, problem)]);
    };
    if text.len() > MAX_STAGED_DOCUMENT_BYTES {
        let problem = format!(
            "{} bytes: expected at most {MAX_STAGED_DOCUMENT_BYTES}",
            text.len()
        );
        return Err(vec![whole(path, problem)]);
    }
    let bytes = text.as_bytes();
    let found = match kind {
        Kind::Services => document::service(name, bytes).map(Some),
        Kind::Routes => document::route(name, bytes).map(|_| None),
        Kind::Domains => document::domain(name, bytes).map(|_| None),
        Kind::Tuning => document::tuning(bytes, base).map(|_| None),
    };
    found.map_err(|wrong| {
        wrong
            .0
            .iter()
            .map(|one| staged_mistake(path, one))
            .collect()
    })
}

fn in_consul(entry: ServiceEntry) -> Option<ConsulService> {
    match entry.source {
        ServerSource::Consul(watch) => Some(watch),
        ServerSource::Servers(_) => None,
    }
}

fn whole(path: &str, problem: impl Into<String>) -> StagedMistake {
    StagedMistake {
        document: path.to_owned(),
        line: None,
        problem: problem.into(),
    }
}

fn staged_mistake(path: &str, mistake: &Mistake) -> StagedMistake {
    StagedMistake {
        document: path.to_owned(),
        line: mistake.line,
        problem: mistake.said(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(documents: &[(&str, String)]) -> Staged {
        let documents = documents.iter();
        Staged {
            kinds: [Kind::Services, Kind::Routes].into(),
            documents: documents
                .map(|(path, text)| ((*path).to_owned(), text.clone()))
                .collect(),
        }
    }

    fn told(documents: &[(&str, String)]) -> Vec<(String, Option<u32>, String)> {
        let mistakes = check(&staged(documents), &Tuning::default()).1;
        let parts = mistakes.into_iter();
        parts.map(|m| (m.document, m.line, m.problem)).collect()
    }

    #[test]
    fn all_mistakes_of_all_documents_are_told_at_once() {
        let told = told(&[
            ("routes/a", "\nhost = 7\nservice = \"s\"".to_owned()),
            ("services/s", "{}".to_owned()),
            ("domains/a.test", String::new()),
            ("services/long", " ".repeat(MAX_STAGED_DOCUMENT_BYTES + 1)),
        ]);
        let first = told.iter().find(|one| one.0 == "routes/a").unwrap();
        assert_eq!(first.1, Some(2));
        assert!(first.2.starts_with("host = 7: expected"), "{first:?}");
        let of = |path: &str| told.iter().any(|one| one.0 == path);
        assert!(of("services/s") && of("domains/a.test") && of("services/long"));
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn mistakes_without_end_are_counted() {
        let names: Vec<String> = (0..=MAX_STAGED_MISTAKES)
            .map(|n| format!("routes/{n}"))
            .collect();
        let documents: Vec<(&str, String)> = names
            .iter()
            .map(|name| (&**name, "host = 7\nservice = \"s\"".to_owned()))
            .collect();
        let told = told(&documents);
        assert_eq!(told.len(), MAX_STAGED_MISTAKES + 1);
        assert_eq!(told.last().unwrap().2, "and 1 more mistakes");
    }

    #[test]
    fn what_consul_has_to_be_asked_about_is_named() {
        let documents = [("services/s", "consul = { service = \"app\" }".to_owned())];
        let (asked, mistakes) = check(&staged(&documents), &Tuning::default());
        assert!(mistakes.is_empty());
        assert_eq!(asked[0].service, "app");
    }
}
