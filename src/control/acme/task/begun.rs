//! What the task has done at the CA, and what it makes of how that ends.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use super::super::failure::{Failure, Turn};
use super::super::halt::Halt;
use super::super::model::{self, Effect, Event, Replaces, Validity, Window};
use super::super::order::{self, Asker, Job, Outcome, Tools};
use super::super::records::{self, Attempts};
use super::super::sweep;
use super::super::sync::Held;
use super::undertakings::Purpose;
use super::{Task, validity_of};
use crate::config::DomainName;

/// A store that was away is asked again after so long.
const STOPPED_REST: Duration = Duration::from_secs(5);

/// What came of something that was begun.
pub(super) enum Ended {
    Opened(Result<(), Failure>),
    Told(DomainName, Validity, Option<Window>),
    Ordered(DomainName, Outcome),
    /// Whoever asked was told.
    Answered,
}

impl Task {
    pub(super) fn carry_out(&mut self) {
        for effect in self.model.take_effects() {
            match effect {
                Effect::Open => self.open(),
                Effect::Ask(name, validity) => self.ask(name, validity),
                Effect::Order(name, replaces) => {
                    self.order(name, replaces, Asker(None));
                }
            }
        }
    }

    /// The account of the CA whose turn it is.
    fn open(&mut self) {
        let Some(tools) = self.link.as_ref().map(|link| link.tools.clone()) else {
            return;
        };
        let turn = Turn::after(self.of_authorities);
        self.begun.begin(Purpose::Open, async move {
            let directory = order::directory_at(&tools.settings, turn);
            let opened = match tools.accounts.at(directory).await {
                Ok(_) => Ok(()),
                Err(Halt::Failed(failure)) => Err(failure),
                // The store's trouble is not the CA's, but passes as quickly.
                Err(Halt::Stopped(why) | Halt::Rests(_, why) | Halt::Full(_, why)) => {
                    Err(Failure::Account(why))
                }
                Err(Halt::Taken(_)) => Ok(()),
            };
            Ended::Opened(opened)
        });
    }

    fn ask(&mut self, name: DomainName, validity: Validity) {
        let tools = self.link.as_ref().map(|link| link.tools.clone());
        let present = self.shelf.held.get(&name).cloned();
        let purpose = Purpose::Ask(name.clone(), validity);
        self.begun.begin(purpose, async move {
            let window = match (tools, present) {
                (Some(tools), Some(present)) => window(&tools, &present).await,
                (None, _) | (_, None) => None,
            };
            Ended::Told(name, validity, window)
        });
    }

    pub(super) fn order(&mut self, name: DomainName, replaces: Replaces, asker: Asker) {
        let Some(tools) = self.link.as_ref().map(|link| link.tools.clone()) else {
            return;
        };
        let job = Job {
            held: self.shelf.held.get(&name).cloned(),
            name,
            replaces,
            asker,
        };
        let purpose = Purpose::Order(job.name.clone());
        self.begun.begin(purpose, async move {
            let name = job.name.clone();
            Ended::Ordered(name, order::run(&tools, job).await)
        });
    }

    /// What the store has lost, from what is held here.
    pub(super) fn give_back(&mut self, lost: &[DomainName]) {
        let Some(tools) = self.link.as_ref().map(|link| link.tools.clone()) else {
            return;
        };
        let held = |name: &DomainName| Some((name.clone(), self.shelf.held.get(name)?.clone()));
        let held = lost.iter().filter_map(held).collect();
        let (giving_back, node) = (self.giving_back.clone(), self.config.node.name.clone());
        self.begun.begin(Purpose::Answer, async move {
            giving_back.give(&tools, &node, held).await;
            Ended::Answered
        });
    }

    /// Of the store, if they are still what they were.
    pub(super) fn take_out(&mut self, names: Vec<DomainName>) {
        if let Some(tools) = self.link.as_ref().map(|link| link.tools.clone()) {
            self.begun.begin(Purpose::Answer, async move {
                sweep::sweep(&tools, names).await;
                Ended::Answered
            });
        }
    }

    pub(super) fn end(&mut self, ended: Ended) {
        match ended {
            Ended::Answered => {}
            Ended::Opened(Ok(())) => {
                self.of_authorities = 0;
                self.apply(Event::Opened(Ok(())));
            }
            Ended::Opened(Err(failure)) => {
                tracing::warn!("acme: the account could not be opened: {}", failure.text());
                self.of_authorities = failure.of_authorities(self.of_authorities);
                self.apply(Event::Opened(Err(failure)));
            }
            Ended::Told(name, of, window) => self.apply(Event::Told(name, of, window)),
            Ended::Ordered(name, outcome) => self.end_order(name, outcome),
        }
    }

    fn end_order(&mut self, name: DomainName, outcome: Outcome) {
        let ended = match outcome {
            Outcome::Issued(held) => {
                self.vitals.acme_issued.fetch_add(1, Relaxed);
                let issuer = held.certificate.issuer();
                tracing::info!(%name, issuer, "acme: a certificate was issued");
                self.held(&name, held)
            }
            Outcome::Taken(held) => self.held(&name, held),
            Outcome::Elsewhere => {
                self.apply(Event::Ended(name, model::Ended::Elsewhere));
                // Whoever was at it may have left nothing but the question, which was heard while he still held the lock.
                return self.ask_again();
            }
            Outcome::Rests(until, why) => model::Ended::Rests(until, why),
            Outcome::Full(until, why) => model::Ended::Full(until, why),
            Outcome::Stopped(why) => {
                tracing::warn!(%name, "acme: an order goes no further here: {why}");
                let rest = STOPPED_REST.mul_f64(0.8 + 0.4 * fastrand::f64());
                model::Ended::Rests(SystemTime::now() + rest, why)
            }
            Outcome::Failed(attempts) => {
                self.count_failure(&name, &attempts);
                model::Ended::Failed(records::moment(attempts.not_before), attempts.error)
            }
            Outcome::NoAccount(attempts) => {
                self.count_failure(&name, &attempts);
                model::Ended::NoAccount(records::moment(attempts.not_before), attempts.error)
            }
        };
        self.apply(Event::Ended(name, ended));
    }

    fn held(&mut self, name: &DomainName, held: Held) -> model::Ended {
        let validity = validity_of(&held.certificate);
        self.shelf.refused.remove(name);
        let matters = self.matters(name);
        self.shelf.held.insert(name.clone(), held);
        self.restock();
        if matters {
            self.want();
        }
        model::Ended::Held(validity)
    }

    fn count_failure(&self, name: &DomainName, attempts: &Attempts) {
        self.vitals.acme_failed.fetch_add(1, Relaxed);
        tracing::warn!(%name, "acme: no certificate was issued: {}", attempts.error);
    }
}

/// When its CA wants it renewed; None: it does not say.
async fn window(tools: &Tools, present: &Held) -> Option<Window> {
    let mut directories = tools.settings.directories();
    let directory = directories.find(|one| one.url == *present.directory)?;
    let authority = tools.accounts.at(directory).await.ok()?;
    match authority.window(&present.certificate).await {
        Ok(window) => Some(window),
        Err(failure) => {
            tracing::debug!("acme: no renewal window: {}", failure.text());
            None
        }
    }
}
