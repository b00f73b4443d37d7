//! KV documents: which are in force, which are wrong, and which subtree is doubted. Pure.
//!
//! A wrong document leaves its last good version in force. A subtree that becomes empty where documents were, or any subtree
//! while the pod's id is missing where it was, is doubted as a whole: its documents stay in force until it is there again, or an
//! operator accepts that they are gone. Another id is none: who begins with nothing in a Consul that lost its state writes one.

use std::sync::Arc;

use self::tree::Tree;
use super::consul::{Document, Subtree};
use super::drains::Drains;
use super::fleet::status::Fingerprint;
use super::mistake::{IGNORED, LAST_GOOD, Mistake};
use crate::config::document;
use crate::config::{DomainName, RouteEntry, ServiceEntry, Tuning};
use crate::routing::operator::Reach;

mod laid;
mod tree;

const STRAY: &str =
    "nobody reads this: known are services/NAME, routes/NAME, domains/NAME and tuning";

/// A name that may have a certificate, and the route of its host if it has a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    pub name: DomainName,
    pub route: Option<Arc<RouteEntry>>,
}

/// All subtrees.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    prefix: String,
    base: Tuning,
    pub services: Tree<ServiceEntry>,
    pub routes: Tree<Arc<RouteEntry>>,
    pub domains: Tree<Domain>,
    pub tuning: Tree<Tuning>,
    strays: Vec<String>,
    drains_answered: bool,
    held_drains: Option<Arc<[Document]>>,
    /// Those in force, as they were written.
    drains: Arc<[Document]>,
    pod: Pod,
    /// The one that was known first, or that an operator accepted.
    pod_id: Option<Document>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Pod {
    #[default]
    Unasked,
    /// It was known before the start, and nobody has said anything since.
    Remembered,
    /// There was none when it was first asked for.
    Absent,
    Known,
    /// Where it was there is none now, or this other one.
    Missing(Option<Document>),
}

/// What an answer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    Nothing,
    WritePodId,
}

impl Documents {
    pub fn new(prefix: &str) -> Documents {
        Documents {
            prefix: prefix.to_owned(),
            ..Documents::default()
        }
    }

    /// The tuning that the file gives, which `config/tuning` is laid over.
    pub fn rebase(&mut self, base: &Tuning) {
        if self.base != *base {
            self.base = base.clone();
            self.tuning.read_again(|document| tuning_of(document, base));
        }
    }

    /// The highest ModifyIndex among services, routes, domains and tuning, as they were last heard; 0: there are none.
    pub fn index(&self) -> u64 {
        let newest = [
            self.services.index(),
            self.routes.index(),
            self.domains.index(),
            self.tuning.index(),
        ];
        newest.into_iter().max().unwrap_or(0)
    }

    /// What services, routes, domains and tuning say, as they were last heard: the same wherever the same was heard, whenever it was.
    pub fn content(&self) -> Fingerprint {
        let trees = [
            ("services", self.services.content()),
            ("routes", self.routes.content()),
            ("domains", self.domains.content()),
            ("tuning", self.tuning.content()),
        ];
        let of_tree = |(kind, content)| Fingerprint::of(format!("{kind} {content}").as_bytes());
        trees
            .map(of_tree)
            .into_iter()
            .fold(Fingerprint::default(), Fingerprint::with)
    }

    pub fn tuning_in_force(&self) -> Tuning {
        let first = self.tuning.in_force().next();
        first.map_or_else(|| self.base.clone(), |(_, tuning)| tuning.clone())
    }

    /// Takes a subtree's answer whole; drains go to `drains`.
    pub fn observe(
        &mut self,
        subtree: Subtree,
        documents: &Arc<[Document]>,
        drains: &mut Drains,
    ) -> Follow {
        let is_held = self.is_pod_missing();
        match subtree {
            Subtree::Pod => return self.observe_pod(documents.first(), drains),
            // An operator's way out of a doubt: read elsewhere, and never held back.
            Subtree::OperatorAccept => {}
            Subtree::Services if is_held => self.services.held = Some(documents.clone()),
            Subtree::Routes if is_held => self.routes.held = Some(documents.clone()),
            Subtree::Domains if is_held => self.domains.held = Some(documents.clone()),
            Subtree::Tuning if is_held => self.tuning.held = Some(documents.clone()),
            Subtree::OperatorDrain if is_held || self.is_doubted() && documents.is_empty() => {
                self.held_drains = Some(documents.clone());
            }
            Subtree::Services => self.services.observe(documents, service_of),
            Subtree::Routes => self.routes.observe(documents, route_of),
            Subtree::Domains => self.domains.observe(documents, domain_of),
            Subtree::Tuning => {
                let base = self.base.clone();
                self.tuning
                    .observe(documents, |document| tuning_of(document, &base));
            }
            Subtree::OperatorDrain => {
                self.drains_answered = true;
                self.held_drains = None;
                drains.observe(documents);
                self.drains = documents.clone();
            }
            // The model waits for the end of the one, and lays the other over what is here.
            Subtree::Apply | Subtree::Canary => {}
        }
        self.release_drains(drains);
        Follow::Nothing
    }

    /// Takes a subtree as it was kept. It is in force until Consul says what it has, which is then taken as if it had said this before.
    pub fn remember(&mut self, subtree: Subtree, documents: Vec<Document>, drains: &mut Drains) {
        match subtree {
            Subtree::Pod => {
                if let Some(id) = documents.into_iter().next() {
                    (self.pod, self.pod_id) = (Pod::Remembered, Some(id));
                }
            }
            Subtree::Services => self.services.remember(documents, service_of),
            Subtree::Routes => self.routes.remember(documents, route_of),
            Subtree::Domains => self.domains.remember(documents, domain_of),
            Subtree::Tuning => {
                let base = self.base.clone();
                self.tuning
                    .remember(documents, |document| tuning_of(document, &base));
            }
            Subtree::OperatorDrain => {
                drains.observe(&documents);
                self.drains = documents.into();
            }
            // Never kept: it ends within the hour, and the more is doubted without it.
            Subtree::OperatorAccept => {}
            // Nor these: whoever kept the documents had waited for a change's end, and a canary is of the moment.
            Subtree::Apply | Subtree::Canary => {}
        }
    }

    /// Whether drains wait for a doubt to end.
    pub fn holds_drains(&self) -> bool {
        self.held_drains.is_some()
    }

    /// What is in force, by subtree, and the pod's id as it was last known.
    pub fn kept(&self) -> Vec<(Subtree, Vec<Document>)> {
        let pod = self.pod_id.iter().cloned().collect();
        vec![
            (Subtree::Services, self.services.kept()),
            (Subtree::Routes, self.routes.kept()),
            (Subtree::Domains, self.domains.kept()),
            (Subtree::Tuning, self.tuning.kept()),
            (Subtree::OperatorDrain, self.drains.to_vec()),
            (Subtree::Pod, pod),
        ]
    }

    /// Answers that lead to what there is of each kind of document, in their order.
    pub fn retold(&self) -> Vec<(Subtree, Vec<Document>)> {
        let all = [
            (Subtree::Services, self.services.retold()),
            (Subtree::Routes, self.routes.retold()),
            (Subtree::Domains, self.domains.retold()),
            (Subtree::Tuning, self.tuning.retold()),
        ];
        let answers = all.into_iter().flat_map(|(subtree, answers)| {
            let of_it = move |documents| (subtree, documents);
            answers.into_iter().map(of_it)
        });
        answers
            .filter(|(_, documents)| !documents.is_empty())
            .collect()
    }

    /// What lies beside the subtrees and is read by nobody, all of it.
    pub fn observe_strays(&mut self, strays: Vec<String>) {
        self.strays = strays;
    }

    fn observe_pod(&mut self, heard: Option<&Document>, drains: &mut Drains) -> Follow {
        self.pod_id = self.pod_id.take().or(heard.cloned());
        let known = self.pod_id.as_ref().map(|id| &id.value);
        let pod = match (&self.pod, heard) {
            (_, Some(id)) if known == Some(&id.value) => Pod::Known,
            (Pod::Unasked | Pod::Absent, None) => Pod::Absent,
            (_, heard) => Pod::Missing(heard.cloned()),
        };
        let was = std::mem::replace(&mut self.pod, pod);
        if matches!(was, Pod::Missing(_)) && self.pod == Pod::Known {
            self.release(drains);
        }
        match was == Pod::Unasked && self.pod == Pod::Absent {
            true => Follow::WritePodId,
            false => Follow::Nothing,
        }
    }

    fn release(&mut self, drains: &mut Drains) {
        if let Some(held) = self.services.held.take() {
            self.observe(Subtree::Services, &held, drains);
        }
        if let Some(held) = self.routes.held.take() {
            self.observe(Subtree::Routes, &held, drains);
        }
        if let Some(held) = self.domains.held.take() {
            self.observe(Subtree::Domains, &held, drains);
        }
        if let Some(held) = self.tuning.held.take() {
            self.observe(Subtree::Tuning, &held, drains);
        }
        self.release_drains(drains);
    }

    fn release_drains(&mut self, drains: &mut Drains) {
        if self.are_doubted() {
            return;
        }
        if let Some(held) = self.held_drains.take() {
            self.observe(Subtree::OperatorDrain, &held, drains);
        }
    }

    pub fn is_pod_missing(&self) -> bool {
        matches!(self.pod, Pod::Missing(_))
    }

    /// Why Consul is believed to have lost its state.
    pub fn pod_trouble(&self) -> Option<&'static str> {
        match &self.pod {
            Pod::Missing(None) => Some("the pod's id is missing where it was"),
            Pod::Missing(Some(_)) => Some("the pod's id is another one than it was"),
            Pod::Unasked | Pod::Remembered | Pod::Absent | Pod::Known => None,
        }
    }

    /// The pod's id as it was first known, or as an operator accepted it.
    pub fn pod_id(&self) -> Option<&Document> {
        self.pod_id.as_ref()
    }

    /// Whether anything is in force that Consul does not have any more.
    pub fn are_doubted(&self) -> bool {
        self.is_pod_missing() || self.is_doubted()
    }

    /// How many subtrees are doubted.
    pub fn doubted(&self) -> usize {
        let all = [
            self.services.is_doubted,
            self.routes.is_doubted,
            self.domains.is_doubted,
            self.tuning.is_doubted,
        ];
        match self.pod {
            Pod::Missing(_) => all.len(),
            Pod::Unasked | Pod::Remembered | Pod::Absent | Pod::Known => {
                all.into_iter().filter(|is_doubted| *is_doubted).count()
            }
        }
    }

    /// An operator says that what is there is all there is: what is doubted goes, and another id of the pod is its id from now on.
    /// Where there is none the whole pod gets one; one load balancer alone has no word in that.
    pub fn accept(&mut self, reach: Reach, drains: &mut Drains) -> Follow {
        let mut follow = Follow::Nothing;
        if let Pod::Missing(heard) = &mut self.pod {
            self.pod_id = heard.take();
            self.pod = match (&self.pod_id, reach) {
                (Some(_), _) => Pod::Known,
                (None, Reach::Here) => Pod::Absent,
                (None, Reach::Pod) => {
                    follow = Follow::WritePodId;
                    Pod::Absent
                }
            };
            self.release(drains);
        }
        self.services.accept();
        self.routes.accept();
        self.domains.accept();
        self.tuning.accept();
        self.release_drains(drains);
        follow
    }

    fn is_doubted(&self) -> bool {
        self.services.is_doubted
            || self.routes.is_doubted
            || self.domains.is_doubted
            || self.tuning.is_doubted
    }

    /// Subtrees that were not read even once, in words.
    pub fn missing(&self) -> Vec<String> {
        let prefix = &self.prefix;
        [
            (self.services.is_answered, "config/services"),
            (self.routes.is_answered, "config/routes"),
            (self.domains.is_answered, "config/domains"),
            (self.tuning.is_answered, "config/tuning"),
            (self.drains_answered, "operator/drain"),
            (!matches!(self.pod, Pod::Unasked | Pod::Remembered), "pod"),
        ]
        .into_iter()
        .filter(|(is_answered, _)| !is_answered)
        .map(|(_, path)| format!("kv:{prefix}/{path}: not read yet"))
        .collect()
    }

    pub fn mistakes(&self, into: &mut Vec<Mistake>) {
        let lost = self.pod_trouble();
        let prefix = &self.prefix;
        if let Some(message) = lost {
            into.push(Mistake::new(format!("kv:{prefix}/pod"), message, LAST_GOOD));
        }
        self.services
            .mistakes(&format!("{prefix}/config/services"), lost, into);
        self.routes
            .mistakes(&format!("{prefix}/config/routes"), lost, into);
        self.domains
            .mistakes(&format!("{prefix}/config/domains"), lost, into);
        self.tuning
            .mistakes(&format!("{prefix}/config/tuning"), lost, into);
        for stray in &self.strays {
            let key = format!("kv:{prefix}/config/{}", stray.trim_end_matches('/'));
            into.push(Mistake::new(key, STRAY, IGNORED));
        }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

fn service_of(document: &Document) -> Result<ServiceEntry, String> {
    document::service(&document.name, &document.value).map_err(|mistakes| mistakes.to_string())
}

fn route_of(document: &Document) -> Result<Arc<RouteEntry>, String> {
    let entry = document::route(&document.name, &document.value);
    entry.map(Arc::new).map_err(|mistakes| mistakes.to_string())
}

fn domain_of(document: &Document) -> Result<Domain, String> {
    let entry = document::domain(&document.name, &document.value);
    let entry = entry.map_err(|mistakes| mistakes.to_string())?;
    Ok(Domain {
        route: RouteEntry::of_domain(&entry).map(Arc::new),
        name: entry.name,
    })
}

fn tuning_of(document: &Document, base: &Tuning) -> Result<Tuning, String> {
    document::tuning(&document.value, base).map_err(|mistakes| mistakes.to_string())
}
